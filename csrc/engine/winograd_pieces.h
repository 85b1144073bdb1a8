/* A kernel of any size for tiles of m x m outputs and six points along an axis: pieces of m taps, the last of up to 7 - m.  Of one
 * axis alone also eight points, and up to 9 - m taps. */
#ifndef FC_ENGINE_WINOGRAD_PIECES_H
#define FC_ENGINE_WINOGRAD_PIECES_H

#include "engine/winograd.h"

/* One axis of the image.  Where the kernel has one tap there is nothing to transform: tiles and patches are single pixels. */
typedef struct fc_winograd_axis {
    int64_t m, points;    /* pixels of a tile; of its patch */
    int64_t pieces, last; /* of the kernel; taps of the last one */
    int64_t d;            /* dilation: pixels of a tile, and of a patch, are so far apart, and there are d phases of them */
    int64_t tiles;        /* of a phase of the output; none where m does not serve the kernel */
    int64_t terms;        /* points of all pieces that have terms */
} fc_winograd_axis;

/* A piece with less taps than a transform takes has no term at infinity. */
static inline int fc_winograd_has_terms(const fc_winograd_axis *a, int64_t piece, int64_t point)
{
    int64_t taps = piece + 1 < a->pieces ? a->m : a->last;
    return point < a->points - 1 || taps > a->points - a->m;
}

/* Stripes, of so many rows of tiles each, that `rows` neighbouring ones can belong to. */
static inline int64_t fc_winograd_stripes(int64_t rows, int64_t row_tiles)
{
    return fc_ceil_div(rows - 1, row_tiles) + 1;
}

/* Points at which some piece has a term. */
static inline int64_t fc_winograd_used(const fc_winograd_axis *a)
{
    int64_t last = a->points - 1;
    return last + (fc_winograd_has_terms(a, 0, last) || fc_winograd_has_terms(a, a->pieces - 1, last));
}

/* Why no tiles serve the problem, or NULL. */
const char *fc_winograd_pieces_refusal(const fc_conv_plan *plan, const fc_window *window);

fc_winograd_axis fc_winograd_cut(const fc_window *window, int axis, int64_t m, int64_t points);

/* The m that takes the fewest products, the smaller of equals, with six points. */
int64_t fc_winograd_edge(const fc_window *window);

/* The same with as many points as serve best. */
typedef struct fc_winograd_tile {
    int64_t m, points;
} fc_winograd_tile;

fc_winograd_tile fc_winograd_tile_of(const fc_window *window);

/* Its transforms. */
const fc_winograd_channels_kernels *fc_winograd_kernels_of(const fc_kernels *kernels, const fc_winograd_axis *h,
                                                           const fc_winograd_axis *w);

/* U of one kernel plane for some channels and output channels.  Rows of U are channels, `width` elements wide; frequencies are
 * `step` elements apart, pieces `next` rows. */
typedef struct fc_winograd_pieces {
    const fc_conv *problem;
    fc_winograd_axis h, w;
    int64_t edge, step;
} fc_winograd_pieces;

/* Scratch of fc_winograd_transform. */
int64_t fc_winograd_taps_bytes(const fc_window *window, int64_t width, int64_t size);

/* The taps of some channels: one after the other, each a row of `width` output channels.  `w` is the first tap of the first channel
 * and output channel. */
void fc_winograd_gather(const fc_conv *problem, const void *w, int64_t channels, int64_t outputs, int64_t width, void *taps);

void fc_winograd_transform(const fc_winograd_pieces *pieces, const void *w, int64_t channels, int64_t outputs, int64_t width,
                           int64_t next, void *u, void *taps);

#endif
