/* Writing a block of outputs: straight into y where its rows are laid out as the block's, else through a worker's rows. */
#ifndef FC_ENGINE_OUTPUT_H
#define FC_ENGINE_OUTPUT_H

#include <math.h>

#include "engine/conv.h"

/* Whether a block of `rows` output rows, `pitch` apart, can be written in place. */
static inline int fc_output_in_place(const fc_conv *p, int64_t rows, int64_t pitch)
{
    int64_t width = p->window.out[2];
    return (p->y.s[2] == 1 || width == 1) && (rows == 1 || (pitch == width && p->y.s[1] == width));
}

/* The problem's bounds, infinite where it has none. */
static inline void fc_output_bounds(const fc_conv *p, double bounds[2])
{
    bounds[0] = p->bounds.on ? p->bounds.low : -INFINITY;
    bounds[1] = p->bounds.on ? p->bounds.high : INFINITY;
}

/* The problem's bounds applied to elements that have just been written. */
static inline void fc_output_clamp(const fc_conv *p, const fc_kernels *kernels, void *y, int64_t count)
{
    if (p->bounds.on)
        kernels->elementwise.clamp(y, p->bounds.low, p->bounds.high, count);
}

/* Copies `rows` rows of `pitch` to y, the element (od, oh, 0) of one channel. */
static inline void fc_output_store(const fc_conv *p, const fc_kernels *kernels, void *y, const void *block, int64_t rows,
                                   int64_t pitch)
{
    for (int64_t r = 0; r < rows; r++)
        kernels->scatter_row(fc_at(y, r * p->y.s[1], kernels->size), p->y.s[2], fc_at(block, r * pitch, kernels->size),
                             p->window.out[2], 0);
}

#endif
