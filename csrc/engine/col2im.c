/* The adjoint as one convolution of stride 1: the phases of the stride side by side as its channels.
 *
 *     T[c, f][r] = b[c] + sum_{o, u} W'[c, f][o][u] Y[o][r + low + u]          x[c][s r + f - first] = T[c, f][r]
 *
 * with f < s and W'[c, f][o][u] the tap of w that takes y[r + low + u] to this position, or zero where there is none.  So one
 * product has s*s times as many rows as a phase alone, reads y once, and its phases are then interleaved into rows of x; its driver
 * is whichever is cheapest, Winograd among them.  Where the windows tile the image (patch embeddings, transposed convolutions with
 * kernel = stride) it is 1x1, and nothing is multiplied by zero; else u counts U = k / s taps, rounded up, or one more.  `first`
 * is what makes U times the elements r the least: 0 or the padding.  A zero of W' times what is not finite would not be zero: rows
 * of x that are not finite are computed again by definition.
 *
 * A window as large as the image tiles it too, whatever its stride: a dense layer behind the last plane.  Then T is x.
 *
 *     W', unless it is w as it stands
 *     for all images, or each, or some rows r of each, as many as leave T in the cache:
 *         the convolution
 *         for each image, channel, some rows of x:  s rows of T, transposed; two are interleaved      a task
 *
 * Scratch: the convolution's own, W', the bias of each column, T.
 *
 * Granite Rapids, one core, phase after phase and so, input gradients: 11x11s4 3-96@227 3.9 to 1.1 ms, 7x7s2 3-64@224 3.2 to 1.9,
 * channels last 4.7 to 1.9, 3x3s2 3-32@299 1.3 to 0.8, 4x4s2 3-64@64 b8 1.2 to 0.65; by channels.c and so: 4x4s2 64-128@28 b8 2.57,
 * 2.50 (3.6 image by image).  Not where many products are with zeros or W' is large: 3x3s2 128-128@56 1.6, 2.4; 512-512@14 b4
 * 7, 17.  Emerald Rapids, one core, against one phase after the other: 16x16s16 3-768@224, input gradient, 12.2 to 2.05 ms;
 * transposed 8x8s8 256-21@16 6.5 to 2.1, 4x4s4 64-3@56 0.59 to 0.24.  Zen 5, transposed 2x2s2, pairs transposed as 16 rows, T of
 * 2 MiB and now: 32-16@112 515 to 320 us, 16-8@56 b4 223 to 113; input gradient of 128-256@7 7x7 280 to 78.  Tried: kernels
 * smaller than the stride, the bias interleaved (1x1s2 256-512@56, 512-1024@28, input gradients, as fast as by `channels.c` or one
 * by one; nor, Zen 5, as a sweep whose outputs are held, 112 columns at a time, and interleaved into rows just filled: of 960-1020 us
 * the product takes 800, copies of B 40, writing x 75, `channels.c` 980-1020).
 */
#include "engine/weights.h"

#include <math.h>
#include <string.h>

/* plan->tile: images of a product, all (where W' would be transformed anew for each, of more bytes) or one; rows r. */
enum { IMAGES, HEIGHT };
enum { T_BYTES = 1 << 20, IMAGES_BYTES = 4 << 20, PIXELS_MIN = 512, ROWS = 16 };

/* Multiplications below which the plans cost more than is won. */
enum { MULTIPLICATIONS_MIN = 20000 };

/* Nanoseconds an element of x: two rows interleaved, or more transposed. */
#define INTERLEAVED 0.15
#define TRANSPOSED 0.4
/* And one of W': 1 to copy it, the rest as a large W' is far from the core that transforms or reads it.  Granite Rapids, 4x4s2
 * 64-128@28 b8, one thread and two: by channels.c 2.57, 1.40 ms, so 2.50, 1.58. */
#define GATHERED 5.0

/* An axis: position i = s r + f - first is element r < size of phase f, and meets y[r + low] ... y[r + low + taps - 1]. */
typedef struct axis {
    int64_t stride, first, size, taps, low;
} axis;

typedef struct layout {
    axis axis[FC_AXES];
    fc_conv product;
    int64_t phases, columns, pixels; /* s*s; (c, f) of a group; r of a column */
    int64_t pixel;                   /* elements of x that stand together at a position: all channels, or 1 */
    int64_t weight_bytes, bias_bytes, t_bytes;
    int direct; /* T is x: a window each, and an image's elements in a row */
    int zeros;  /* in W' */
} layout;

/* The first tap of phase f; it takes y[r + *at], the next ones, each a stride further, y before that. */
static int64_t first_tap(const fc_window *w, int i, const axis *a, int64_t f, int64_t *at)
{
    int64_t q = f - a->first + w->offset[i], tap = (q % a->stride + a->stride) % a->stride;
    *at = (q - tap) / a->stride;
    return tap;
}

static axis cut_axis(const fc_window *w, int i)
{
    int64_t s = w->out[i] == 1 ? w->kernel[i] : w->stride[i], padding = (w->offset[i] % s + s) % s;
    axis best = {0};
    for (int64_t first = 0; first <= padding; first += fc_max(1, padding)) {
        axis a = {.stride = s, .first = first, .size = (w->in[i] - 1 + first) / s + 1};
        int64_t low = INT64_MAX, high = INT64_MIN;
        for (int64_t f = 0, at; f < s; f++) {
            int64_t tap = first_tap(w, i, &a, f, &at);
            high = fc_max(high, at);
            low = fc_min(low, at - (w->kernel[i] - 1 - tap) / s);
        }
        a.low = low;
        a.taps = high - low + 1;
        if (!best.taps || a.taps * a.size < best.taps * best.size)
            best = a;
    }
    return best;
}

/* The product of some images, `rows` rows of each. */
static layout lay_out(const fc_conv *p, int64_t images, int64_t rows)
{
    const fc_window *w = &p->window;
    int64_t size = fc_dispatch(p->real)->size, taps = 1;
    int last = p->x.c == 1 && p->x.s[2] == p->channels && p->channels > 1, tiled = !last && fc_weights_plan(p, size).in_place;
    layout l = {.phases = 1, .pixel = last ? p->channels : 1};
    l.product = (fc_conv){.real = p->real, .batch = images, .groups = p->groups, .channels = p->out_channels, .x = p->y};
    for (int i = 0; i < FC_AXES; i++) {
        l.axis[i] = cut_axis(w, i);
        const axis *a = &l.axis[i];
        fc_window *to = &l.product.window;
        to->in[i] = w->out[i];
        to->kernel[i] = a->taps;
        to->out[i] = i == 1 && rows ? rows : a->size;
        to->stride[i] = to->dilation[i] = 1;
        to->offset[i] = -a->low;
        taps *= a->taps;
        l.phases = fc_mul(l.phases, a->stride);
        tiled &= w->kernel[i] == a->stride && !a->low && a->first == w->offset[i];
        l.zeros |= w->kernel[i] != a->stride * a->taps;
    }
    const int64_t *out = l.product.window.out, *k = l.product.window.kernel;
    l.pixels = fc_outputs(&l.product.window);
    l.product.out_channels = l.columns = fc_mul(p->channels, l.phases);
    int64_t row = fc_mul(taps, p->out_channels);
    l.product.w = (fc_weight_strides){fc_mul(l.columns, row), row, taps, {k[1] * k[2], k[2], 1}};
    if (tiled)
        l.product.w = (fc_weight_strides){.g = p->w.g, .o = 1, .c = p->w.o};
    int dense = p->x.s[2] == 1 && p->x.s[1] == w->in[2] && p->x.s[0] == w->in[1] * p->x.s[1] && p->x.c == fc_taps(w);
    l.direct = tiled && dense && fc_outputs(w) == 1 && l.pixels == 1;
    l.product.y = (fc_array_strides){fc_mul(p->groups, fc_mul(l.columns, l.pixels)), l.pixels, {out[1] * out[2], out[2], 1}};
    if (l.direct)
        l.product.y = (fc_array_strides){p->x.n, 1, {1, 1, 1}};
    l.weight_bytes = tiled ? 0 : fc_bytes(fc_mul(p->groups, l.product.w.g), size);
    l.bias_bytes = fc_bytes(fc_mul(p->groups, l.columns), size);
    l.t_bytes = fc_bytes(fc_add(fc_mul(images, l.product.y.n), FC_LANES_MAX), size); /* interleaving reads half a vector beyond */
    l.t_bytes = l.direct ? 0 : l.t_bytes;
    return l;
}

/* All images where T is small, else some rows of one: for the cache, but not so few that reading the weights anew counts.  Volumes
 * are not cut.  Whatever the threads, as the product's order of sums follows. */
static layout choose_tile(fc_conv_plan *plan, const fc_conv *p)
{
    layout l = lay_out(p, 1, 0);
    int64_t height = l.axis[1].size;
    plan->tile[IMAGES] = fc_mul(p->batch, l.t_bytes) <= (l.weight_bytes ? IMAGES_BYTES : T_BYTES) ? p->batch : 1;
    plan->tile[HEIGHT] = height;
    if (l.t_bytes > T_BYTES && l.axis[0].size == 1) {
        int64_t rows = fc_max(T_BYTES / fc_ceil_div(l.t_bytes, height), fc_ceil_div(PIXELS_MIN, l.axis[2].size));
        plan->tile[HEIGHT] = fc_ceil_div(height, fc_ceil_div(height, rows));
    }
    return lay_out(p, plan->tile[IMAGES], plan->tile[HEIGHT]);
}

/* The first row of a band; the last one overlaps. */
static int64_t band_at(const layout *l, int64_t band)
{
    int64_t rows = l->product.window.out[1];
    return fc_min(band * rows, l->axis[1].size - rows);
}

/* For the plan's threads: whether its scratch is within the bound, on which the choice depends, is asked for one. */
static fc_status plan_band(const fc_conv_plan *plan, const layout *l, int64_t band, fc_conv_plan *product)
{
    fc_conv q = l->product;
    q.window.offset[1] -= band_at(l, band);
    return fc_conv_plan_for(product, &q, FC_FORWARD, plan->precision, NULL, plan->threads);
}

static const char *plan_col2im(fc_conv_plan *plan, double *cost)
{
    const fc_conv *p = &plan->problem;
    const fc_window *w = &p->window;
    int tiles = 1;
    for (int i = 0; i < FC_AXES; i++) {
        if ((w->kernel[i] < w->stride[i] && w->out[i] != 1) || (w->kernel[i] > 1 && w->dilation[i] > 1))
            return "the kernel is smaller than the stride, or dilated";
        tiles &= w->kernel[i] == w->stride[i] || w->out[i] == 1;
    }
    if (p->x.s[2] != 1 && (p->x.c != 1 || p->x.s[2] != p->channels))
        return "the pixels of a row are not neighbours";
    if (!tiles && fc_mul(fc_mul(fc_pixels(p), p->groups * p->out_channels), fc_reduction(p)) < MULTIPLICATIONS_MIN)
        return "the problem is too small to rearrange its weights";
    layout l = choose_tile(plan, p);
    double products = 0, elements = (double)(p->batch * p->groups * p->channels);
    int64_t most = 0;
    for (int64_t band = 0; band * l.product.window.out[1] < l.axis[1].size; band++) {
        fc_conv_plan product;
        if (plan_band(plan, &l, band, &product) || product.algorithm < 0)
            return "there is no product to interleave";
        products += product.cost;
        most = fc_max(most, product.scratch);
    }
    plan->scratch = fc_add(fc_arena_round(most), fc_add(l.weight_bytes, fc_add(l.bias_bytes, l.t_bytes)));
    if (plan->scratch > fc_scratch_max(plan->threads))
        return "the product of an image exceeds the scratch bound";
    for (int i = 0; i < FC_AXES; i++)
        elements *= (double)w->in[i];
    double weights = l.weight_bytes ? (double)(p->groups * l.columns) * (double)fc_reduction(&l.product) : 0;
    *cost = 600 + (tiles ? 1.0 : 1.1) * (double)(p->batch / plan->tile[IMAGES]) * products + GATHERED * weights +
            (l.direct ? 0 : elements * (l.axis[2].stride * l.pixel == 2 ? INTERLEAVED : TRANSPOSED));
    return NULL;
}

typedef struct job {
    const fc_conv *problem;
    const layout *l;
    const void *y, *w, *bias;
    char *x, *weights;
    const char *t;
    int64_t image, first, begin, end; /* the first image, and row r, in T; rows of x of the band */
} job;

/* W' of all phases of a channel. */
static void gather_weights(void *context, int64_t task, int worker)
{
    (void)worker;
    const job *j = context;
    const fc_conv *p = j->problem;
    const fc_window *w = &p->window;
    const layout *l = j->l;
    const axis *a = l->axis;
    const fc_kernels *kernels = fc_dispatch(p->real);
    int64_t size = kernels->size, g = task / p->channels, c = task % p->channels, at[FC_AXES], tap[FC_AXES], row = l->product.w.o;
    for (int64_t f = 0; f < l->phases; f++) {
        int64_t column = l->pixel > 1 ? f * p->channels + c : c * l->phases + f;
        char *dst = fc_at(j->weights, g * l->product.w.g + column * row, size);
        const char *src = fc_at(j->w, g * p->w.g + c * p->w.c, size);
        memset(dst, 0, (size_t)(row * size));
        for (int i = FC_AXES - 1, rest = (int)f; i >= 0; rest /= (int)a[i--].stride) {
            tap[i] = first_tap(w, i, &a[i], rest % a[i].stride, &at[i]);
            at[i] -= a[i].low;
        }
        int64_t count = (w->kernel[2] - 1 - tap[2]) / a[2].stride + 1, last = tap[2] + (count - 1) * a[2].stride;
        const int64_t n[4] = {1, 1, 1, count}, stride[4] = {0, 0, 0, -a[2].stride * p->w.k[2]};
        for (int64_t d = tap[0], i = at[0]; d < w->kernel[0]; d += a[0].stride, i--)
            for (int64_t h = tap[1], k = at[1]; h < w->kernel[1]; h += a[1].stride, k--) {
                char *to = fc_at(dst, (i * a[1].taps + k) * a[2].taps + at[2] - (count - 1), size);
                kernels->gather_block(to, l->product.w.c, p->out_channels, n,
                                      fc_at(src, d * p->w.k[0] + h * p->w.k[1] + last * p->w.k[2], size), p->w.o, stride);
            }
    }
}

/* `count` elements of a row of x: those of `rows` rows of T in turn, from number `first` on. */
static void weave(const layout *l, const fc_kernels *kernels, char *x, const char *t, int64_t rows, int64_t first, int64_t count)
{
    int64_t size = kernels->size, plane = l->pixels;
    if (rows == 2) {
        const char *even = fc_at(t, first * plane, size), *odd = first ? fc_at(t, 1, size) : fc_at(t, plane, size);
        kernels->interleave(x, even, odd, count);
        return;
    }
    int64_t head = first ? fc_min(rows - first, count) : 0, whole = (count - head) / rows, tail = (count - head) % rows;
    if (head) {
        kernels->transpose(x, rows, fc_at(t, first * plane, size), plane, head, 1);
        x = fc_at(x, head, size);
        t = fc_at(t, 1, size);
    }
    kernels->transpose(x, rows, t, plane, rows, whole);
    if (tail)
        kernels->transpose(fc_at(x, whole * rows, size), rows, fc_at(t, whole, size), plane, tail, 1);
}

/* Row (id, ih) of an image of x by definition, where it is not finite. */
static void repair(const job *j, const void *row, int64_t n, int64_t channel, int64_t id, int64_t ih)
{
    const fc_conv *p = j->problem;
    const fc_window *w = &p->window;
    const fc_kernels *kernels = fc_dispatch(p->real);
    int64_t size = kernels->size, width = fc_min(w->stride[2], w->in[2]), at_w, at_x;
    int64_t phase = (id % w->stride[0] * fc_min(w->stride[1], w->in[1]) + ih % w->stride[1]) * width;
    double sum = 0;
    kernels->sum_row(&sum, row, 1, w->in[2] * j->l->pixel);
    for (int64_t f = phase; !isfinite(sum) && f < phase + width; f++) {
        fc_conv q = fc_adjoint_problem(p, f, &at_w, &at_x);
        for (int64_t c = channel; c < channel + j->l->pixel; c++)
            fc_reference_row(&q, j->y, fc_at(j->w, at_w, size), j->bias, fc_at(j->x, at_x, size), c,
                             n * q.window.out[0] + id / w->stride[0], ih / w->stride[1], 0, q.window.out[2]);
    }
}

/* Some rows of x, of a channel or of all. */
static void store_rows(void *context, int64_t task, int worker)
{
    (void)worker;
    const job *j = context;
    const fc_conv *p = j->problem;
    const layout *l = j->l;
    const axis *a = l->axis;
    const fc_kernels *kernels = fc_dispatch(p->real);
    int64_t height = j->end - j->begin, rows = p->window.in[0] * height, parts = fc_ceil_div(rows, ROWS);
    int64_t row = task % parts * ROWS, end = fc_min(rows, row + ROWS), size = kernels->size;
    const int64_t *out = l->product.window.out;
    int64_t channels = p->groups * p->channels / l->pixel, c = task / parts % channels, n = task / parts / channels;
    const char *t = fc_at(j->t, n * l->product.y.n + c * l->pixel * l->phases * l->pixels, size);
    char *x = fc_at(j->x, (j->image + n) * p->x.n + c * (l->pixel > 1 ? l->pixel : p->x.c), size);
    for (; row < end; row++) {
        int64_t id = row / height, ih = j->begin + row % height, d = id + a[0].first, h = ih + a[1].first;
        int64_t phase = (d % a[0].stride * a[1].stride + h % a[1].stride) * a[2].stride * l->pixel;
        int64_t pixel = (d / a[0].stride * out[1] + h / a[1].stride - j->first) * out[2];
        char *to = fc_at(x, id * p->x.s[0] + ih * p->x.s[1], size);
        weave(l, kernels, to, fc_at(t, phase * l->pixels + pixel, size), a[2].stride * l->pixel, a[2].first * l->pixel,
              p->window.in[2] * l->pixel);
        if (l->zeros)
            repair(j, to, j->image + n, c * l->pixel, id, ih);
    }
}

/* The bias of every column. */
static void repeat_bias(const fc_conv *p, const layout *l, void *columns, const void *bias)
{
    const fc_kernels *kernels = fc_dispatch(p->real);
    int64_t size = kernels->size, channels = p->groups * p->channels;
    for (int64_t c = 0; c < channels && l->pixel == 1; c++)
        kernels->gather_row(fc_at(columns, c * l->phases, size), l->phases, NULL, 1, 0, 1, 0, fc_at(bias, c, size));
    for (int64_t f = 0; f < l->phases && l->pixel > 1; f++)
        memcpy(fc_at(columns, f * channels, size), bias, (size_t)(channels * size));
}

static fc_status run_col2im(const fc_conv_plan *plan, void *x, void *w, void *bias, void *y)
{
    const fc_conv *p = &plan->problem;
    int64_t size = fc_dispatch(p->real)->size, images = plan->tile[IMAGES];
    layout l = lay_out(p, images, plan->tile[HEIGHT]);
    int64_t rows = l.product.window.out[1], bands = fc_ceil_div(l.axis[1].size, rows), own = plan->scratch;
    char *scratch = fc_arena_take(own);
    if (!scratch)
        return FC_NO_MEMORY;
    char *t = scratch + own - l.t_bytes, *columns = t - l.bias_bytes, *weights = columns - l.weight_bytes;
    job j = {.problem = p, .l = &l, .y = y, .w = w, .bias = bias, .x = x, .weights = weights, .t = t};
    if (bias)
        repeat_bias(p, &l, columns, bias);
    if (l.weight_bytes)
        fc_parallel(plan->threads, p->groups * p->channels, gather_weights, &j);
    fc_status status = FC_OK;
    for (int64_t i = 0; i < p->batch / images * bands && !status; i++) {
        fc_conv_plan product;
        j.image = i / bands * images;
        j.first = band_at(&l, i % bands);
        j.begin = fc_max(0, j.first * l.axis[1].stride - l.axis[1].first);
        j.end = fc_min(p->window.in[1], (j.first + rows) * l.axis[1].stride - l.axis[1].first);
        status = plan_band(plan, &l, i % bands, &product);
        if (!status)
            status = fc_conv_execute(&product, fc_at(y, j.image * p->y.n, size), l.weight_bytes ? weights : w,
                                     bias ? columns : NULL, l.direct ? fc_at(x, j.image * p->x.n, size) : t);
        int64_t tasks = images * (p->groups * p->channels / l.pixel) * fc_ceil_div(p->window.in[0] * (j.end - j.begin), ROWS);
        if (!status && !l.direct) /* the product was in the scratch before T */
            fc_parallel(plan->threads, tasks, store_rows, &j);
    }
    fc_arena_give();
    return status;
}

const fc_driver fc_driver_im2col_adjoint = {"im2col", plan_col2im, run_col2im, .bounded = 0};
