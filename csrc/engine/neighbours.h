/* A copy of what a block of outputs reads of x, channels of a pixel next to each other (channels.c).
 *
 * A block is some columns of some rows of outputs, the rows counted through the images of a problem of two axes, or of all phases of an
 * adjoint.  Of each image the rows that it reads follow each other, without padding, image after image.
 */
#ifndef FC_ENGINE_NEIGHBOURS_H
#define FC_ENGINE_NEIGHBOURS_H

#include "engine/tap_groups.h"

/* Rows of an image, or columns. */
typedef struct fc_extent {
    int64_t begin, end;
} fc_extent;

/* What outputs begin ... end of an axis read of x. */
fc_extent fc_neighbours_read(const fc_phases *phases, int axis, int64_t begin, int64_t end);

/* Rows of a copy, at most, of blocks of `rows` rows that follow each other. */
int64_t fc_neighbours_most(const fc_phases *phases, int64_t rows);

/* Those of a copy of blocks of `columns` columns, but for its images.  Pixels are not half a page apart: neighbours would share a few
 * sets of the cache. */
fc_array_strides fc_neighbours_strides(const fc_phases *phases, int64_t columns, int64_t size);

/* Whether several taps read each pixel of x, whose planes are in order, and what so many columns of a row of outputs read is not too
 * much. */
int fc_neighbours_pay(const fc_phases *phases, int64_t columns, int64_t size);

/* What rows row ... row + rows of outputs read, of those columns of x.  `x`: the first image's first channel. */
void fc_neighbours_copy(const fc_phases *phases, const fc_kernels *kernels, const fc_array_strides *strides, const void *x, int64_t row,
                        int64_t rows, fc_extent columns, void *copy);

#endif
