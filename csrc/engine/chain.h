/* What the two passes of a chain share: bands, buffers, and the links as convolutions of a band. */
#ifndef FC_ENGINE_CHAIN_H
#define FC_ENGINE_CHAIN_H

#include "engine/conv.h"

typedef struct fc_span {
    int64_t first, last; /* [first, last) */
} fc_span;

static inline int64_t fc_length(fc_span s)
{
    return s.last - s.first;
}

static inline int64_t fc_chain_clamp(int64_t i, int64_t low, int64_t high)
{
    return i < low ? low : i > high ? high : i;
}

/* A worker's copy of what lies between two links: `middle` channels of a band, rows without gaps; merged, images side by side. */
typedef struct fc_chain_buffer {
    int64_t channel, image, bytes; /* elements from a channel, an image to the next */
} fc_chain_buffer;

/* FAR_X, FAR_Y: x or its gradient, y or its gradient, where their images are not side by side in memory. */
enum {
    FC_CHAIN_U, FC_CHAIN_V, FC_CHAIN_T, FC_CHAIN_DT, FC_CHAIN_DV, FC_CHAIN_DU, FC_CHAIN_FAR_X, FC_CHAIN_FAR_Y,
    FC_CHAIN_BUFFERS
};

typedef struct fc_chain_layout {
    const fc_chain_plan *plan;
    const fc_kernels *kernels;
    int stages;
    fc_window stage[2]; /* of the whole image */
    int64_t groups, tiles, bands;
    int far; /* what bands are read from and written to is in no cache */
    fc_chain_buffer buffer[FC_CHAIN_BUFFERS];
    int64_t first_bytes, last_bytes;        /* the mixes transposed, shared; 0 where no link takes them so */
    int64_t sum_count[4], sum_bytes[4];     /* gradients of first, filters, last: one part's sums */
    int64_t sum_parts[4];                   /* parts that scratch holds */
    int64_t part_bytes;                     /* a filter's of one band, before it is added; a worker's */
    int64_t panel_bytes, tile_bytes;        /* a worker's, of the mixes' sums */
    int64_t shared_bytes, worker_bytes;     /* the latter without what is lent */
} fc_chain_layout;

fc_chain_layout fc_chain_lay_out(const fc_chain_plan *plan);

/* A column of bands: some images, and the part of their width that one band covers. */
typedef struct fc_chain_region {
    int64_t n, images;
    fc_span out, in;    /* columns of y, and of x that they read */
    fc_span own, reach; /* columns of x whose gradient is complete here; those of y that have a part in it */
} fc_chain_region;

fc_chain_region fc_chain_region_at(const fc_chain_layout *l, int64_t index);
fc_span fc_chain_rows(const fc_chain_layout *l, int64_t band);

/* Positions of x that outputs read, inside x. */
fc_span fc_chain_reads(const fc_window *w, int axis, fc_span out);

/* Positions of x whose gradient outputs `out`, and those before them, complete. */
fc_span fc_chain_completes(const fc_window *w, int axis, fc_span out);

/* The first output that has a part in positions from `in` on, or `most` if that is before it. */
int64_t fc_chain_touches(const fc_window *w, int axis, int64_t in, int64_t most);

/* A worker on its way through the bands. */
typedef struct fc_chain_walk {
    const fc_chain_layout *l;
    const fc_chain_arrays *arrays, *gradients;
    const void *first, *last; /* transposed: (middle, channels), (middle, out_channels) */
    char *buffer[FC_CHAIN_BUFFERS], *part, *panel, *tile, *sum[4];
    int begun[4];
    fc_span u, e; /* rows of u, and of the gradient behind the first filter, that are at hand */
    fc_conv_plan link[FC_CHAIN_LINKS]; /* the last that the chain's plan does not hold */
    fc_chain_plan *dry;                /* a rehearsal: it plans the links of this and runs none */
    fc_status status;
    int64_t lent, multiplications;
    double cost;
} fc_chain_walk;

/* The links, by the plans they keep. */
enum {
    FC_LINK_MIX, FC_LINK_FILTER, FC_LINK_ROW_FILTER, FC_LINK_JOIN, FC_LINK_D_T, FC_LINK_D_FILTER, FC_LINK_D_ROW_FILTER,
    FC_LINK_D_V, FC_LINK_D_U, FC_LINK_D_X
};

void fc_chain_link(fc_chain_walk *walk, int link, const fc_conv *problem, fc_direction direction, const void *x,
                   const void *w, const void *bias, const void *y);

/* A part of an array: its first element, and how it lies. */
typedef struct fc_chain_view {
    char *at;
    fc_array_strides stride;
} fc_chain_view;

/* The element (row, column) of an image array, and of a buffer whose rows have `width` elements. */
fc_chain_view fc_chain_image(const fc_chain_walk *walk, const void *array, const fc_array_strides *stride, int64_t n,
                             int64_t row, int64_t column);
fc_chain_view fc_chain_part(const fc_chain_walk *walk, int buffer, int64_t width, int64_t row, int64_t column);

/* Where a mix reads (load) or writes an image array's band of rows x columns: there, or merged in one of the far buffers, from
 * where it is stored. */
fc_chain_view fc_chain_far(fc_chain_walk *walk, const fc_chain_region *r, int buffer, const fc_chain_view *image, int64_t channels,
                           int64_t rows, int64_t columns, int load);
void fc_chain_store(const fc_chain_walk *walk, const fc_chain_region *r, const fc_chain_view *image, const fc_chain_view *far,
                    int64_t channels, int64_t rows, int64_t columns);

/* A 1x1 convolution of a band, and a filter link; weights (out, in) without gaps. */
fc_conv fc_chain_pointwise(const fc_chain_walk *walk, const fc_chain_region *r, int64_t channels, int64_t out_channels,
                           int64_t rows, int64_t columns, const fc_chain_view *x, const fc_chain_view *y);
fc_conv fc_chain_filter(const fc_chain_walk *walk, const fc_chain_region *r, int stage, fc_span in_rows, fc_span out_rows,
                        fc_span in_columns, fc_span out_columns, const fc_chain_view *x, const fc_chain_view *y);

/* Moves rows [from, to) of a buffer, whose rows began at `begin`, to its front. */
void fc_chain_carry(const fc_chain_walk *walk, int buffer, int64_t images, int64_t width, int64_t begin, int64_t from,
                    int64_t to);

/* u for input rows `in`, which `band` reads and of which those at hand are kept; then t (or only v) for output rows `out`, of these columns. */
void fc_chain_mix(fc_chain_walk *walk, const fc_chain_region *r, fc_span in, int64_t band);
void fc_chain_filters(fc_chain_walk *walk, const fc_chain_region *r, fc_span in, fc_span out, fc_span columns, int stages);

/* Adds to sum i, of first or last: far (channels) by near (middle), over the pixels of a band's rows. */
void fc_chain_add_sum(fc_chain_walk *walk, int i, const fc_chain_region *r, int64_t channels, const fc_chain_view *far,
                      const fc_chain_view *near, int64_t rows, int64_t width);
int64_t fc_chain_sum_row(const fc_kernels *kernels, int64_t middle); /* elements of a row of such a sum */
int64_t fc_chain_sum_tile(const fc_kernels *kernels);                /* bytes that a thread gathers into */

/* The gradients of a column of bands, those of bands first ... last. */
void fc_chain_backward(fc_chain_walk *walk, const fc_chain_region *r, int64_t first, int64_t last);

/* One part's sum i: where scratch holds it, or the gradient itself. */
char *fc_chain_sum(const fc_chain_layout *l, char *sums, const fc_chain_arrays *gradients, int i, int64_t part);

/* The parts' sums, added in order, as gradients. */
void fc_chain_store_sums(const fc_chain_layout *l, char *sums, const fc_chain_arrays *gradients);

#endif
