/* The adjoint of a convolution whose windows tile the image: patch embeddings, transposed convolutions with kernel = stride.
 *
 *     T[c, t][p] = b[c] + sum_o W[o][c, t] Y[o][p]          x[c][s p + t] = T[c, t][p]
 *
 * Every position has one tap, so all phases of the stride are one product: a 1x1 convolution with the columns (c, t) of the weights
 * for its outputs, by whichever driver that one takes.  Its rows, a tap's pixels, are then transposed into those of x.
 *
 *     for each image, or all:
 *         the product
 *         for each image, channel, some rows of y:  for each (kd, kh):  KW rows of T, transposed      a task
 *
 * Scratch: the product's own, the bias of each column, T.
 *
 * Emerald Rapids, one core, against one phase after the other: 16x16s16 3-768@224, input gradient, 12.2 to 2.05 ms; transposed
 * 8x8s8 256-21@16 6.5 to 2.1, 4x4s4 64-3@56 0.59 to 0.24.
 */
#include "engine/weights.h"

enum { IMAGES }; /* plan->tile: of one product, all or one */
enum { T_BYTES = 2 << 20, ROWS = 8 };

typedef struct layout {
    fc_conv product;
    int64_t columns, pixels; /* (c, t) of a group; of an image of y */
    int64_t bias_bytes, t_bytes;
} layout;

static layout lay_out(const fc_conv *p, int64_t images)
{
    const int64_t *out = p->window.out;
    int64_t size = fc_dispatch(p->real)->size;
    layout l = {.columns = fc_mul(p->channels, fc_taps(&p->window)), .pixels = fc_outputs(&p->window)};
    l.product = (fc_conv){.real = p->real, .batch = images, .groups = p->groups, .channels = p->out_channels,
                          .out_channels = l.columns, .x = p->y, .w = {.g = p->w.g, .o = 1, .c = p->w.o}};
    l.product.y = (fc_array_strides){fc_mul(p->groups, fc_mul(l.columns, l.pixels)), l.pixels, {out[1] * out[2], out[2], 1}};
    for (int i = 0; i < FC_AXES; i++) {
        l.product.window.in[i] = l.product.window.out[i] = out[i];
        l.product.window.kernel[i] = l.product.window.stride[i] = l.product.window.dilation[i] = 1;
    }
    l.bias_bytes = fc_bytes(fc_mul(p->groups, l.columns), size);
    l.t_bytes = fc_bytes(fc_mul(images, l.product.y.n), size);
    return l;
}

static int64_t scratch_of(const layout *l, const fc_conv_plan *product)
{
    return fc_add(fc_arena_round(product->scratch), fc_add(l->bias_bytes, l->t_bytes));
}

static const char *plan_col2im(fc_conv_plan *plan, double *cost)
{
    const fc_conv *p = &plan->problem;
    const fc_window *w = &p->window;
    int64_t size = fc_dispatch(p->real)->size;
    for (int i = 0; i < FC_AXES; i++)
        if (w->kernel[i] != w->stride[i] || fc_mul(w->out[i], w->stride[i]) != w->in[i] || w->offset[i] ||
            (w->kernel[i] > 1 && w->dilation[i] > 1))
            return "the windows do not tile the image";
    if (p->x.s[2] != 1 || !fc_weights_plan(p, size).in_place)
        return "the pixels of a row, or a channel's weights, are not neighbours";
    plan->tile[IMAGES] = p->batch;
    layout l = lay_out(p, p->batch);
    if (l.t_bytes > T_BYTES) {
        plan->tile[IMAGES] = 1;
        l = lay_out(p, 1);
    }
    fc_conv_plan product;
    if (fc_conv_plan_make(&product, &l.product, FC_FORWARD, plan->precision, NULL) || product.algorithm < 0)
        return "there is no product to transpose";
    plan->scratch = scratch_of(&l, &product);
    if (plan->scratch > fc_scratch_max(plan->threads))
        return "the product of an image exceeds the scratch bound";
    *cost = 600 + (double)(p->batch / plan->tile[IMAGES]) * (product.cost + 0.1 * (double)l.t_bytes);
    return NULL;
}

typedef struct job {
    const fc_conv *problem;
    const layout *l;
    const char *t;
    char *x;
} job;

/* Some rows of y, in all taps of a channel. */
static void store_rows(void *context, int64_t task, int worker)
{
    (void)worker;
    const job *j = context;
    const fc_conv *p = j->problem;
    const int64_t *kernel = p->window.kernel, *out = p->window.out;
    const fc_kernels *kernels = fc_dispatch(p->real);
    int64_t rows = out[0] * out[1], parts = fc_ceil_div(rows, ROWS), row = task % parts * ROWS, end = fc_min(rows, row + ROWS);
    int64_t channels = p->groups * p->channels, c = task / parts % channels, n = task / parts / channels, size = kernels->size;
    const char *t = fc_at(j->t, n * j->l->product.y.n + c * fc_taps(&p->window) * j->l->pixels, size);
    char *x = fc_at(j->x, n * p->x.n + c * p->x.c, size);
    for (; row < end; row++)
        for (int64_t k = 0; k < kernel[0] * kernel[1]; k++) {
            int64_t id = row / out[1] * kernel[0] + k / kernel[1], ih = row % out[1] * kernel[1] + k % kernel[1];
            kernels->transpose(fc_at(x, id * p->x.s[0] + ih * p->x.s[1], size), kernel[2],
                               fc_at(t, k * kernel[2] * j->l->pixels + row * out[2], size), j->l->pixels, kernel[2], out[2]);
        }
}

/* The bias of every column. */
static void repeat_bias(const fc_conv *p, void *columns, const void *bias)
{
    const fc_kernels *kernels = fc_dispatch(p->real);
    int64_t taps = fc_taps(&p->window);
    for (int64_t c = 0; c < p->groups * p->channels; c++)
        kernels->gather_row(fc_at(columns, c * taps, kernels->size), taps, NULL, 1, 0, 1, 0, fc_at(bias, c, kernels->size));
}

static fc_status run_col2im(const fc_conv_plan *plan, void *x, void *w, void *bias, void *y)
{
    const fc_conv *p = &plan->problem;
    int64_t size = fc_dispatch(p->real)->size, images = plan->tile[IMAGES];
    layout l = lay_out(p, images);
    fc_conv_plan product;
    fc_status status = fc_conv_plan_make(&product, &l.product, FC_FORWARD, plan->precision, NULL);
    char *scratch = status ? NULL : fc_arena_take(scratch_of(&l, &product));
    if (!scratch)
        return status ? status : FC_NO_MEMORY;
    char *columns = scratch + fc_arena_round(product.scratch), *t = columns + l.bias_bytes;
    if (bias)
        repeat_bias(p, columns, bias);
    int64_t tasks = images * p->groups * p->channels * fc_ceil_div(p->window.out[0] * p->window.out[1], ROWS);
    for (int64_t n = 0; n < p->batch && !status; n += images) {
        job j = {p, &l, t, fc_at(x, n * p->x.n, size)};
        status = fc_conv_execute(&product, fc_at(y, n * p->y.n, size), w, bias ? columns : NULL, t); /* in the scratch before T */
        if (!status)
            fc_parallel(plan->threads, tasks, store_rows, &j);
    }
    fc_arena_give();
    return status;
}

const fc_driver fc_driver_im2col_adjoint = {"im2col", plan_col2im, run_col2im, .bounded = 0};
