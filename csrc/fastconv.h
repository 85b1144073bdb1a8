/* fastconv: convolution and pooling over strided arrays, the public C interface.
 *
 * Everything that convolves is one geometry, `fc_conv`:
 *
 *     y[n, g, o, p] = b[g, o] + sum_{c, k} w[g, o, c, k] * x[n, g, c, p * stride + k * dilation - offset]
 *
 * with p and k running over three spatial axes (1-D and 2-D problems have leading axes of size 1) and x zero outside its
 * bounds.  It is used forwards (y from x), as its adjoint (x from y: the input gradient, and the transposed convolution)
 * and for the gradient of w.
 *
 * Use: fill a problem, fc_conv_plan() it (decides everything, touches no data), fc_conv_execute() it as often as you like.
 * Plans are plain values without pointers to data: copy them, share them between threads, drop them.
 */
#ifndef FASTCONV_H
#define FASTCONV_H

#include <stddef.h>
#include <stdint.h>

enum { FC_AXES = 3, FC_ALGORITHMS_MAX = 16 };

typedef enum fc_status {
    FC_OK,
    FC_INVALID,   /* a size, stride or option that no problem can have */
    FC_NO_MEMORY, /* scratch could not be allocated, or its size does not fit */
    FC_REFUSED    /* the algorithm asked for cannot serve this problem */
} fc_status;

typedef enum fc_real { FC_FLOAT32, FC_FLOAT64 } fc_real;
typedef enum fc_direction { FC_FORWARD, FC_ADJOINT, FC_WEIGHT } fc_direction;
typedef enum fc_precision { FC_PRECISION_HIGH, FC_PRECISION_HIGHEST } fc_precision;

/* Strides are in elements and may be zero or negative. */
typedef struct fc_array_strides {
    int64_t n, c, s[FC_AXES];
} fc_array_strides;

typedef struct fc_weight_strides {
    int64_t g, o, c, k[FC_AXES];
} fc_weight_strides;

/* A window of `kernel` taps that slides over `in` positions and stops at `out` of them, axis by axis: tap k of stop p reads
 * position p * stride + k * dilation - offset.  `offset` is the padding before the axis; it may be negative (a crop). */
typedef struct fc_window {
    int64_t in[FC_AXES], kernel[FC_AXES], out[FC_AXES];
    int64_t stride[FC_AXES], dilation[FC_AXES], offset[FC_AXES];
} fc_window;

/* What follows a forward problem where `on`: y becomes the nearest of low ... high.  NaN stays. */
typedef struct fc_bounds {
    int32_t on;
    double low, high;
} fc_bounds;

typedef struct fc_conv {
    fc_real real;
    int64_t batch, groups;
    int64_t channels, out_channels; /* of one group */
    fc_window window;
    fc_array_strides x, y;
    fc_weight_strides w;
    fc_bounds bounds; /* for a forward problem only */
} fc_conv;

typedef struct fc_conv_plan {
    fc_conv problem;
    fc_direction direction;
    fc_precision precision;
    int32_t algorithm; /* index into the direction's list, -1 where nothing is to do */
    int32_t chosen;    /* by the caller, not by cost */
    int32_t threads;
    int32_t x_far, y_far;    /* may be set before it runs: x, y are part of an array that no cache holds */
    int64_t multiplications; /* useful ones */
    int64_t scratch;         /* bytes for the whole call, all threads together */
    double cost;             /* estimated nanoseconds at one thread */
    int64_t tile[4];         /* the driver's own choice, see its file */
} fc_conv_plan;

/* Algorithm "auto" is a NULL name. */
fc_status fc_conv_plan_make(fc_conv_plan *plan, const fc_conv *problem, fc_direction direction, fc_precision precision,
                            const char *algorithm);

/* Forward: x, w, bias (or NULL) are read, y is written.  Adjoint: y, w, bias (over x's channels, or NULL) are read, x is
 * written.  Weight: x, y are read, w is written, bias is not used. */
fc_status fc_conv_execute(const fc_conv_plan *plan, void *x, void *w, void *bias, void *y);

/* The bias gradient: sums[c] = the sum of channel c of x, an array of sizes N, C, D, H, W. */
void fc_channel_sums(fc_real real, const int64_t size[2 + FC_AXES], const fc_array_strides *strides, const void *x, void *sums);

/* What the chooser thought: one row per algorithm of the direction, in order.  `reason` is NULL where it applies. */
typedef struct fc_conv_option {
    const char *name, *reason;
    double cost; /* estimated nanoseconds at one thread; infinity where refused */
    int64_t scratch;
} fc_conv_option;

int fc_conv_options(const fc_conv *problem, fc_direction direction, fc_precision precision, fc_conv_option *options);
const char *fc_conv_algorithm_name(fc_direction direction, int algorithm);

/* Chains: convolutions whose kernel is a product, executed band by band so that what lies between the links stays in cache.
 *
 *     u[n, r] = sum_i first[i, r] x[n, i]                            where `mixed`; otherwise u[n, r] = x[n, r / M]
 *     t[n, r, p] = sum_k filter[r, k] u[n, r, p * stride + k * dilation - offset]
 *     y[n, o, p] = bias[o] + sum_r last[o, r] t[n, r, p]
 *
 * with r < middle and M = middle / channels.  Low rank (CP) is mixed, separable is not.  `split`, for mixed ones: the filter
 * is a product too, of a column filter (middle, KH) and a row filter (middle, KW), applied in this order.  The first axis of
 * the window is of size 1. */
typedef struct fc_chain {
    fc_real real;
    int32_t mixed, split;
    int64_t batch, channels, middle, out_channels;
    fc_window window;
    fc_array_strides x, y, dx; /* dx: of the input's gradient */
    fc_bounds bounds;          /* of t; for chains that are not mixed */
} fc_chain;

/* Gradients to compute, together. */
enum { FC_CHAIN_INPUT = 1, FC_CHAIN_FIRST = 2, FC_CHAIN_FILTER = 4, FC_CHAIN_LAST = 8 };

/* Links of a chain at most, and shapes of each whose plans are kept: of its first band, those between, the last, and rows that two
 * bands read. */
enum { FC_CHAIN_LINKS = 10, FC_CHAIN_SHAPES = 4 };

typedef struct fc_chain_plan {
    fc_chain problem;
    fc_precision precision;
    int32_t gradients; /* 0: the forward pass */
    int32_t threads, outer; /* outer: tasks run side by side, each serially; otherwise links run one by one on all threads */
    int32_t merged;         /* the pixels of a band's images are side by side in a mix: images are small */
    int64_t images, rows, columns; /* of a band: images where they fit in one, output rows, output columns */
    int64_t parts;                 /* runs of bands a column of them is cut into; backward: parts of the gradients' sums */
    int64_t multiplications, scratch, lent; /* lent: what the links take of it, each worker */
    double cost;                            /* estimated nanoseconds at one thread */
    fc_conv_plan link[FC_CHAIN_LINKS][FC_CHAIN_SHAPES];
    int32_t shapes[FC_CHAIN_LINKS];
} fc_chain_plan;

/* first (channels, middle), filter (middle, KH, KW) or (middle, KH) and (middle, KW), last (out_channels, middle) without
 * gaps; x and y anywhere in memory. */
typedef struct fc_chain_arrays {
    void *x, *first, *filter[2], *last, *bias, *y;
} fc_chain_arrays;

fc_status fc_chain_plan_make(fc_chain_plan *plan, const fc_chain *problem, int gradients, fc_precision precision);

/* Forward: writes arrays->y.  Backward: reads it, the gradient, and writes those of `gradients` that were planned. */
fc_status fc_chain_execute(const fc_chain_plan *plan, const fc_chain_arrays *arrays, const fc_chain_arrays *gradients);

/* Inverted residuals, for inference: two mixes of channels and a filter between them in one call.
 *
 *     u[n, m] = limit(first_bias[m] + sum_c first[c, m] x[n, c])
 *     t[n, m, p] = limit(filter_bias[m] + sum_k filter[m, k] u[n, m, p * stride + k * dilation - offset])
 *     y[n, o, p] = last_bias[o] + sum_m last[m, o] t[n, m, p]
 *
 * with u zero outside its bounds, which are x's, and limits on both sides of zero.  The first axis of the window is of size 1.
 * FC_REFUSED: where `middle` is no multiple of a vector, rows of x have gaps between their elements or those of y anywhere, or a
 * row of `middle` channels is too much for scratch. */
typedef struct fc_bottleneck {
    fc_real real;
    int64_t batch, channels, middle, out_channels;
    fc_window window;
    fc_array_strides x, y;
    fc_bounds bounds;
} fc_bottleneck;

/* first (channels, middle), filter (middle, KH, KW), last (middle, out_channels) without gaps; biases may be NULL. */
typedef struct fc_bottleneck_arrays {
    const void *x, *first, *first_bias, *filter, *filter_bias, *last, *last_bias;
    void *y;
} fc_bottleneck_arrays;

fc_status fc_bottleneck_run(const fc_bottleneck *problem, const fc_bottleneck_arrays *arrays);

/* Pooling:  y[n, c, p] = the maximum or the mean of x[n, c, p * stride + k * dilation - offset] over the taps k inside x.
 *
 * Adaptive: stop p of an axis covers floor(p in / out) up to ceil((p + 1) in / out) instead, and the window's kernel, stride,
 * dilation and offset do not matter.  `index` is where a maximum came from, flat over the spatial axes of x. */
typedef enum fc_pool_kind { FC_POOL_MAX, FC_POOL_MEAN } fc_pool_kind;

typedef struct fc_pool {
    fc_real real;
    fc_pool_kind kind;
    int32_t adaptive;
    int32_t count_padding; /* mean: taps in the padding, which is as wide after an axis as before it, count too */
    double divisor;        /* mean: what to divide by instead of the count; 0 for the count */
    int64_t batch, channels;
    fc_window window;
    fc_array_strides x, y, index;
} fc_pool;

typedef struct fc_pool_plan {
    fc_pool problem;
    int32_t driver; /* index into the list, -1 where nothing is to do */
    int32_t indexed, threads;
    int64_t units, units_per_task;
    int64_t shared, worker, scratch; /* bytes for all, for each thread, for the whole call */
    int64_t tile[4];                 /* the driver's own choice, see its file */
} fc_pool_plan;

/* PyTorch's output size of one axis, or 0 where no window fits. */
int64_t fc_pool_size(int64_t in, int64_t kernel, int64_t stride, int64_t padding, int64_t dilation, int ceil_mode);

/* `indexed`: the places of the maxima are wanted too. */
fc_status fc_pool_plan_make(fc_pool_plan *plan, const fc_pool *problem, int indexed);
fc_status fc_pool_execute(const fc_pool_plan *plan, const void *x, void *y, int64_t *index);

/* The mean's gradient: x becomes the sum over all windows of y / divisor. */
fc_status fc_pool_mean_adjoint(const fc_pool *problem, void *x, const void *y);

/* Maximum's gradient (add) and unpooling: x is zero but for x[n, c, index[n, c, p]] (+)= y[n, c, p].  Spatial axes of x are
 * one flat axis of stride x.s[2].  FC_INVALID, and *wrong an index, where one is outside of it; x is then unspecified. */
fc_status fc_pool_route(const fc_pool *problem, void *x, const void *y, const int64_t *index, int add, int64_t *wrong);

/* Patches, an array (N, C, taps, stops).  unfold: columns[n, c, k, p] = x[n, c, p * stride + k * dilation - offset], written
 * with stops next to each other; fold, its adjoint: x, written without gaps in its planes, = the sum over them. */
typedef struct fc_patches {
    fc_real real;
    int64_t batch, channels;
    fc_window window;
    fc_array_strides x;
    int64_t n, c, tap, stop; /* strides of the columns */
} fc_patches;

fc_status fc_unfold(const fc_patches *problem, const void *x, void *columns);
fc_status fc_fold(const fc_patches *problem, const void *columns, void *x);

/* Threads: the number used by the following calls of every thread of this process. */
/* Elementwise, over contiguous arrays (equations in engine/elementwise.c). */
typedef struct fc_momentum {
    double keep, fraction, momentum, lr;
    int nesterov;
} fc_momentum;

/* x, y and their gradients are (batch, channels, pixels); what is per channel is double. */
typedef struct fc_batch_norm {
    fc_real real;
    int64_t batch, channels, pixels;
    int from_batch; /* mean and variance are those of the batch: written forwards, differentiated backwards */
    double eps;
    double *mean, *variance;
    const double *weight, *bias;
} fc_batch_norm;

/* dst = gradient where low < y < high, else 0; comparisons with NaN close nothing. */
void fc_gate(fc_real real, int64_t count, double low, double high, const void *y, const void *gradient, void *dst);
/* y = the nearest of low ... high to y + x. */
void fc_residual_add(fc_real real, int64_t count, double low, double high, const void *x, void *y);
void fc_momentum_step(fc_real real, int64_t count, const fc_momentum *rule, const void *gradient, void *velocity, void *parameter);
void fc_batch_norm_forward(const fc_batch_norm *problem, const void *x, void *y);
/* dx may be NULL. */
void fc_batch_norm_gradient(const fc_batch_norm *problem, const void *x, const void *gradient, double *grad_weight,
                            double *grad_bias, void *dx);

int fc_threads_get(void);
void fc_threads_set(int threads);
int fc_threads_default(void); /* affinity mask and cgroup quota */

/* The instruction set: "baseline", "avx2", "avx512" or "neon"; a cap of NULL means the best this CPU has. */
fc_status fc_isa_cap(const char *cap);
const char *fc_isa_name(void);
int fc_isa_available(const char **names, int capacity);

#endif
