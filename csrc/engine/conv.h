/* What the chooser and the drivers share.
 *
 * A driver serves problems of one direction.  To add one: its own file, a row in the list of conv.c, a name in the tests.
 */
#ifndef FC_ENGINE_CONV_H
#define FC_ENGINE_CONV_H

#include "base/arena.h"
#include "base/size.h"
#include "base/threads.h"
#include "engine/dispatch.h"
#include "fastconv.h"

/* All scratch of one call: 24 MiB, and 8 MiB more for every thread above two.  A driver that would need more refuses. */
static inline int64_t fc_scratch_max(int threads)
{
    return (8 + 8 * fc_max(2, threads)) << 20;
}

/* Per worker, what a block of B should take so that it stays in a second-level cache of 1 MiB beside the rest. */
enum { FC_BLOCK_BYTES = 384 << 10, FC_FAR_BYTES = 3 << 20 };

/* An output of more bytes is better written past the caches: sweep.c; 3x3 64-64@224 by channels.c 15.6 to 15.2 ms, by Winograd 5.7
 * to 5.4, k3 64-128 over 4096 b8, whose rows share sets of the caches besides, 4.6 to 4.2 (Zen 5). */
enum { FC_PAST_BYTES = 8 << 20 };

/* Nanoseconds below which no more drivers are asked: their plans, 100 ns each, would cost more than the best of them could save.
 * 3x3 over 7x7 takes 1.0 us a call instead of 2.0, its input gradient, whose plan is kept besides, 1.8 instead of 3.7. */
enum { FC_ENOUGH = 450 };

typedef struct fc_driver {
    const char *name;
    /* Fills plan->tile, plan->scratch and *cost (estimated nanoseconds on one thread), or says why it cannot serve. */
    const char *(*plan)(fc_conv_plan *plan, double *cost);
    fc_status (*run)(const fc_conv_plan *plan, void *x, void *w, void *bias, void *y);
    int bounded; /* applies the outputs' bounds itself, while an output is in the cache; else they are a pass over memory */
} fc_driver;

extern const fc_driver fc_driver_fill, fc_driver_few_pixels, fc_driver_depthwise, fc_driver_planes, fc_driver_stencil,
    fc_driver_winograd, fc_driver_winograd_channels, fc_driver_winograd_strided, fc_driver_pixels, fc_driver_pointwise,
    fc_driver_turned, fc_driver_channels, fc_driver_im2col, fc_driver_reference;
extern const fc_driver fc_driver_weight_depthwise, fc_driver_weight_planes, fc_driver_weight_gemm, fc_driver_weight_channels,
    fc_driver_weight_stencil, fc_driver_weight_winograd, fc_driver_weight_rows, fc_driver_weight_few_pixels,
    fc_driver_weight_patches, fc_driver_weight_reference;
extern const fc_driver fc_driver_depthwise_adjoint, fc_driver_planes_adjoint, fc_driver_winograd_strided_adjoint,
    fc_driver_channels_adjoint, fc_driver_im2col_adjoint, fc_driver_pixels_adjoint, fc_driver_pointwise_adjoint;

/* Element `index` of an array whose elements have `size` bytes. */
static inline void *fc_at(const void *p, int64_t index, int64_t size)
{
    return (char *)(uintptr_t)p + index * size;
}

/* Bytes of a part of scratch, in whole cache lines; too many where they overflow. */
static inline int64_t fc_bytes(int64_t count, int64_t size)
{
    return fc_arena_round(fc_min(INT64_MAX / 8, fc_mul(count, size)));
}

static inline int64_t fc_taps(const fc_window *w)
{
    return fc_mul(fc_mul(w->kernel[0], w->kernel[1]), w->kernel[2]);
}

/* The length of the sum behind one output element. */
static inline int64_t fc_reduction(const fc_conv *p)
{
    return fc_mul(p->channels, fc_taps(&p->window));
}

static inline int64_t fc_outputs(const fc_window *w)
{
    return fc_mul(fc_mul(w->out[0], w->out[1]), w->out[2]);
}

/* Output pixels of the whole batch. */
static inline int64_t fc_pixels(const fc_conv *p)
{
    return fc_mul(p->batch, fc_outputs(&p->window));
}

/* Whether the output is one of more than FC_PAST_BYTES. */
static inline int fc_writes_past(const fc_conv *p, int64_t size)
{
    return fc_mul(fc_mul(p->groups * p->out_channels, fc_pixels(p)), size) > FC_PAST_BYTES;
}

/* Where output pixel `pixel` of the batch is in an array of these strides: y, or x with the window's strides. */
static inline int64_t fc_pixel_at(const fc_window *w, int64_t pixel, const fc_array_strides *a)
{
    int64_t row = pixel / w->out[2], plane = row / w->out[1];
    return plane / w->out[0] * a->n + plane % w->out[0] * a->s[0] + row % w->out[1] * a->s[1] + pixel % w->out[2] * a->s[2];
}

/* Whether every tap of every output lies inside the image. */
static inline int fc_lies_inside(const fc_window *w)
{
    for (int i = 0; i < FC_AXES; i++)
        if (w->offset[i] > 0 || (w->out[i] - 1) * w->stride[i] + (w->kernel[i] - 1) * w->dilation[i] - w->offset[i] >= w->in[i])
            return 0;
    return 1;
}

/* Whether x and y are more than a second-level cache holds. */
static inline int fc_is_far(const fc_conv *p, int64_t size)
{
    const fc_window *w = &p->window;
    int64_t x = fc_mul(p->channels, fc_mul(fc_mul(w->in[0], w->in[1]), w->in[2])), y = fc_mul(p->out_channels, fc_outputs(w));
    return fc_mul(fc_mul(fc_mul(p->batch, p->groups), fc_add(x, y)), size) > FC_FAR_BYTES;
}

/* fc_conv_plan_make for `most` threads at most. */
fc_status fc_conv_plan_for(fc_conv_plan *plan, const fc_conv *problem, fc_direction direction, fc_precision precision,
                           const char *algorithm, int most);

/* By definition: columns begin ... end of one row of output channel o (of all groups), plane n * OD + od. */
void fc_reference_row(const fc_conv *problem, const void *x, const void *w, const void *bias, void *y, int64_t o, int64_t plane,
                      int64_t oh, int64_t begin, int64_t end);

/* An adjoint from the side of what it reads and writes: arrays, channels and sizes exchanged, the rest as it was. */
fc_conv fc_adjoint_whole(const fc_conv *problem);
/* The adjoint of a problem is a sum of forward problems over y, one per phase of the strides; see adjoint.c. */
int64_t fc_adjoint_phases(const fc_conv *problem);
/* A single window as large as the image, whose stride is never used, gets its own size for it: then it tiles the image (col2im.c). */
void fc_adjoint_tile(fc_conv *problem);
/* Phase `phase` as a forward problem; `w_begin` and `x_begin` are the elements of w and x where its arrays begin. */
fc_conv fc_adjoint_problem(const fc_conv *problem, int64_t phase, int64_t *w_begin, int64_t *x_begin);
/* The phase with the most taps: the one that stands for the others where a choice is shown. */
int64_t fc_adjoint_largest(const fc_conv *problem);
/* What all phases cost, done one by one, by what the largest costs. */
double fc_adjoint_cost(const fc_conv *problem, double largest);
/* The driver of this name that does all phases at once, or NULL. */
const fc_driver *fc_adjoint_driver(const char *name);
fc_status fc_adjoint_plan(fc_conv_plan *plan, const char *algorithm, int threads);
/* What the hungriest phase of a plan by cost takes: the plan itself knows only of the largest. */
int64_t fc_adjoint_scratch(const fc_conv_plan *plan);
/* Whether the phases of this plan are done at once: only then has it a tile of its own. */
static inline int fc_adjoint_together(const fc_conv_plan *plan)
{
    return plan->tile[0] != 0;
}
fc_status fc_adjoint_execute(const fc_conv_plan *plan, void *x, void *w, void *bias, void *y);

#endif
