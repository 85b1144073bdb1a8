/* Planes as one long row: 3 x 3 taps at stride 1, columns padded by one, rows without gaps; the kernels depthwise_flat and its
 * weight gradient.  A piece of a plane is read in place where it lies inside with the rows around it, else from a copy between
 * rows of zeros. */
#ifndef FC_ENGINE_FLAT_H
#define FC_ENGINE_FLAT_H

#include "engine/conv.h"

typedef struct fc_flat {
    int64_t width, height, offset; /* width 0: this is none; offset: rows of padding above */
    int64_t least, most;           /* rows of a piece: what fills a vector; what a copy holds */
    int64_t table_bytes, copy_bytes, least_bytes; /* masks, shared; a worker's copy; `least` rows */
    const void *inside;            /* the masks; see kernels.h */
} fc_flat;

/* Some output rows and their input; count: elements to compute, more than rows hold where those fill no vector. */
typedef struct fc_flat_piece {
    const void *x;
    int64_t rows, count;
} fc_flat_piece;

/* Whether the array's rows follow each other without gaps, `width` elements each, in an image of `height`. */
static inline int fc_flat_rows(const fc_array_strides *s, int64_t height, int64_t width)
{
    return (s->s[2] == 1 || width == 1) && (s->s[1] == width || height == 1);
}

/* most: elements that are rather copied than cut into pieces. */
fc_flat fc_flat_plan(const fc_conv *problem, const fc_kernels *kernels, int64_t most);
void fc_flat_share(fc_flat *flat, const fc_kernels *kernels, void *scratch);

/* The next piece for output rows row ... end of the plane at x. */
fc_flat_piece fc_flat_take(const fc_flat *flat, const fc_kernels *kernels, const void *x, int64_t row, int64_t end, void *copy);

#endif
