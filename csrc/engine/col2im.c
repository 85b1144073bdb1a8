/* The adjoint of a convolution whose windows tile the image: patch embeddings, transposed convolutions with kernel = stride.
 *
 *     T[c, t][p] = b[c] + sum_o W[o][c, t] Y[o][p]          x[c][s p + t] = T[c, t][p]
 *
 * Every position has one tap, so all phases of the stride are one product: a 1x1 convolution with the columns (c, t) of the weights
 * for its outputs, by whichever driver that one takes.  Its rows, a tap's pixels, are then transposed into those of x; two are
 * interleaved.
 *
 * A window as large as the image tiles it too, whatever its stride: a dense layer behind the last plane.  Then T is x.
 *
 *     for all images, or each, or some rows of each, as many as leave T in the cache:
 *         the product
 *         for each image, channel, some rows of y:  for each (kd, kh):  KW rows of T, transposed      a task
 *
 * Scratch: the product's own, the bias of each column, T.
 *
 * Emerald Rapids, one core, against one phase after the other: 16x16s16 3-768@224, input gradient, 12.2 to 2.05 ms; transposed
 * 8x8s8 256-21@16 6.5 to 2.1, 4x4s4 64-3@56 0.59 to 0.24.  Zen 5, transposed 2x2s2, pairs transposed as 16 rows, T of 2 MiB and
 * now: 32-16@112 515 to 320 us, 16-8@56 b4 223 to 113; input gradient of 128-256@7 7x7 280 to 78.  Tried: kernels smaller than the stride, the bias interleaved (1x1s2
 * 256-512@56, 512-1024@28, input gradients, as fast as by `channels.c` or one by one).
 */
#include "engine/weights.h"

/* plan->tile: images of a product, all or one; rows of y. */
enum { IMAGES, HEIGHT };
enum { T_BYTES = 1 << 20, PIXELS_MIN = 512, ROWS = 8 };

/* Nanoseconds an element of x: two rows interleaved, or more transposed. */
#define INTERLEAVED 0.15
#define TRANSPOSED 0.4

typedef struct layout {
    fc_conv product;
    int64_t height;          /* rows of y */
    int64_t columns, pixels; /* (c, t) of a group; of these rows of an image */
    int64_t bias_bytes, t_bytes;
    int direct; /* T is x: a window each, and an image's elements in a row */
} layout;

/* The product of some images, of `rows` rows of each. */
static layout lay_out(const fc_conv *p, int64_t images, int64_t rows)
{
    const int64_t *out = p->window.out;
    int64_t size = fc_dispatch(p->real)->size;
    layout l = {.height = rows, .pixels = fc_mul(out[0], fc_mul(rows, out[2]))};
    l.columns = fc_mul(p->channels, fc_taps(&p->window));
    l.product = (fc_conv){.real = p->real, .batch = images, .groups = p->groups, .channels = p->out_channels,
                          .out_channels = l.columns, .x = p->y, .w = {.g = p->w.g, .o = 1, .c = p->w.o}};
    l.direct = fc_outputs(&p->window) == 1 && p->x.s[1] == p->window.in[2] && p->x.s[0] == p->window.in[1] * p->x.s[1] &&
               p->x.c == fc_taps(&p->window);
    l.product.y = (fc_array_strides){fc_mul(p->groups, fc_mul(l.columns, l.pixels)), l.pixels, {rows * out[2], out[2], 1}};
    if (l.direct)
        l.product.y = (fc_array_strides){p->x.n, 1, {1, 1, 1}};
    for (int i = 0; i < FC_AXES; i++) {
        l.product.window.in[i] = l.product.window.out[i] = i == 1 ? rows : out[i];
        l.product.window.kernel[i] = l.product.window.stride[i] = l.product.window.dilation[i] = 1;
    }
    l.bias_bytes = fc_bytes(fc_mul(p->groups, l.columns), size);
    l.t_bytes = fc_bytes(fc_add(fc_mul(images, l.product.y.n), FC_LANES_MAX), size); /* interleaving reads half a vector beyond */
    l.t_bytes = l.direct ? 0 : l.t_bytes;
    return l;
}

static int64_t scratch_of(const layout *l, const fc_conv_plan *product)
{
    return fc_add(fc_arena_round(product->scratch), fc_add(l->bias_bytes, l->t_bytes));
}

/* All images where T is small, else some rows of one: for the cache, but not so few that reading the weights anew counts.  Volumes
 * are not cut.  Whatever the threads, as the product's order of sums follows. */
static layout choose_tile(fc_conv_plan *plan, const fc_conv *p)
{
    int64_t height = p->window.out[1], width = p->window.out[2];
    layout l = lay_out(p, 1, height);
    plan->tile[IMAGES] = fc_mul(p->batch, l.t_bytes) <= T_BYTES ? p->batch : 1;
    plan->tile[HEIGHT] = height;
    if (l.t_bytes > T_BYTES && p->window.out[0] == 1) {
        int64_t rows = fc_max(T_BYTES / fc_ceil_div(l.t_bytes, height), fc_ceil_div(PIXELS_MIN, width));
        plan->tile[HEIGHT] = fc_ceil_div(height, fc_ceil_div(height, rows));
    }
    return lay_out(p, plan->tile[IMAGES], plan->tile[HEIGHT]);
}

static const char *plan_col2im(fc_conv_plan *plan, double *cost)
{
    const fc_conv *p = &plan->problem;
    const fc_window *w = &p->window;
    int64_t size = fc_dispatch(p->real)->size;
    for (int i = 0; i < FC_AXES; i++)
        if ((w->kernel[i] != w->stride[i] && w->out[i] != 1) || fc_mul(w->out[i], w->kernel[i]) != w->in[i] || w->offset[i] ||
            (w->kernel[i] > 1 && w->dilation[i] > 1))
            return "the windows do not tile the image";
    if (p->x.s[2] != 1 || !fc_weights_plan(p, size).in_place)
        return "the pixels of a row, or a channel's weights, are not neighbours";
    layout l = choose_tile(plan, p);
    fc_conv_plan product;
    if (fc_conv_plan_make(&product, &l.product, FC_FORWARD, plan->precision, NULL) || product.algorithm < 0)
        return "there is no product to transpose";
    plan->scratch = scratch_of(&l, &product);
    if (plan->scratch > fc_scratch_max(plan->threads))
        return "the product of an image exceeds the scratch bound";
    double products = (double)(p->batch / plan->tile[IMAGES]) * (double)w->out[1] / (double)plan->tile[HEIGHT];
    double elements = (double)(p->batch * p->groups * l.columns) * (double)fc_outputs(w);
    *cost = 600 + products * product.cost + (l.direct ? 0 : elements * (w->kernel[2] == 2 ? INTERLEAVED : TRANSPOSED));
    return NULL;
}

typedef struct job {
    const fc_conv *problem;
    const layout *l;
    const char *t;
    char *x; /* of the first row of y */
} job;

/* Some rows of y, in all taps of a channel. */
static void store_rows(void *context, int64_t task, int worker)
{
    (void)worker;
    const job *j = context;
    const fc_conv *p = j->problem;
    const int64_t *kernel = p->window.kernel, *out = p->window.out;
    const fc_kernels *kernels = fc_dispatch(p->real);
    int64_t rows = out[0] * j->l->height, parts = fc_ceil_div(rows, ROWS), row = task % parts * ROWS;
    int64_t end = fc_min(rows, row + ROWS);
    int64_t channels = p->groups * p->channels, c = task / parts % channels, n = task / parts / channels, size = kernels->size;
    const char *t = fc_at(j->t, n * j->l->product.y.n + c * fc_taps(&p->window) * j->l->pixels, size);
    char *x = fc_at(j->x, n * p->x.n + c * p->x.c, size);
    for (; row < end; row++)
        for (int64_t k = 0; k < kernel[0] * kernel[1]; k++) {
            int64_t id = row / j->l->height * kernel[0] + k / kernel[1], ih = row % j->l->height * kernel[1] + k % kernel[1];
            char *to = fc_at(x, id * p->x.s[0] + ih * p->x.s[1], size);
            const char *from = fc_at(t, k * kernel[2] * j->l->pixels + row * out[2], size);
            if (kernel[2] == 2)
                kernels->interleave(to, from, fc_at(from, j->l->pixels, size), 2 * out[2]);
            else
                kernels->transpose(to, kernel[2], from, j->l->pixels, kernel[2], out[2]);
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
    int64_t size = fc_dispatch(p->real)->size, images = plan->tile[IMAGES], height = plan->tile[HEIGHT];
    layout l = lay_out(p, images, height);
    fc_conv_plan product;
    fc_status status = fc_conv_plan_make(&product, &l.product, FC_FORWARD, plan->precision, NULL);
    char *scratch = status ? NULL : fc_arena_take(scratch_of(&l, &product));
    if (!scratch)
        return status ? status : FC_NO_MEMORY;
    char *columns = scratch + fc_arena_round(product.scratch), *t = columns + l.bias_bytes;
    if (bias)
        repeat_bias(p, columns, bias);
    int64_t tasks = images * p->groups * p->channels * fc_ceil_div(p->window.out[0] * height, ROWS);
    int64_t bands = fc_ceil_div(p->window.out[1], height), all = p->batch / images * bands;
    for (int64_t i = 0; i < all && !status; i++) {
        int64_t n = i / bands * images, oh = fc_min(i % bands * height, p->window.out[1] - height); /* the last overlaps */
        job j = {p, &l, t, fc_at(x, n * p->x.n + oh * p->window.stride[1] * p->x.s[1], size)};
        status = fc_conv_execute(&product, fc_at(y, n * p->y.n + oh * p->y.s[1], size), w, bias ? columns : NULL, l.direct ? x : t);
        if (!status && !l.direct) /* the product was in the scratch before T */
            fc_parallel(plan->threads, tasks, store_rows, &j);
    }
    fc_arena_give();
    return status;
}

const fc_driver fc_driver_im2col_adjoint = {"im2col", plan_col2im, run_col2im, .bounded = 0};
