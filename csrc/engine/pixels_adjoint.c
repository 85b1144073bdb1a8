/* The adjoint of windows of two that tile the image, lanes over pixels: transposed convolutions, 2x2 with stride 2 say.
 *
 *     T[c, f][p] = b[c] + sum_o W[o][c, f] Y[o][p]          x[c][s p + f] = T[c, f][p]
 *
 * The same product as col2im.c's, but nothing of T is ever in memory: the kernel interleaves two phases as it stores them, half a
 * vector of pixels at a time, which lie in one row where rows are whole halves of vectors.  B is y as it stands.
 *
 *     the weights as rows (c, f), the bias of each
 *     for each image, group, plane, some vectors of pixels          a task
 *         for each strip:  for each tile of rows:  gemm_pairs kernel
 *
 * Where vectors are shorter than a cache line, the task's strips are copied first and each tile of rows serves all of them: a strip
 * read in place for every tile is a line, or two, in as many pages as there are terms, as many as the first level of the TLB holds, and
 * the rows of the weights, which fill the first-level cache, are read once for 64 pixels instead of 16 (Zen 3, one thread,
 * 64-32@56 1075 to 820 us, two 519 to 429).
 *
 * Scratch: the rows of the weights, the bias of each, where y's channels begin; per worker the copied strips.
 *
 * Granite Rapids, us of one thread and two, by channels.c, col2im.c and so: 64-32@56 451, 468, 346 and 227, 254, 174; 16-8@56 b4
 * (not by channels.c) 242, 144 and 128, 62; 32-16@112 930, 700, 470; 256-128@56 6411, 6846, 6371 and 3241, 3828, 2849; 192-16@32
 * 350, 201, 174 and 184, 120, 98.  It stores while it sums: tiles of T woven from the first-level cache took 500 for the first.
 * Not for rows of other widths, which would be half empty vectors, nor beyond TERMS_MAX terms, whose part of B leaves that cache.
 */
#include "engine/gemm.h"
#include "engine/weights.h"

/* plan->tile: pixels of a task, in whole strips. */
enum { PIXELS };
enum { B_BYTES = 32 << 10, TERMS_MAX = 256, STRIPS = 4 };

/* Of more rows, the next tile's multiply-adds wait for the last's sums to be interleaved and stored: 64-32@56, Zen 4, at most eight
 * rows, six, four, 486, 474, 469 us; but four read as much of B and W as a core with two multiply-adds a cycle can. */
enum { TILE_ROWS = 6 };

/* Nanoseconds an element of x, beyond the sums. */
#define STORED 0.02

typedef struct layout {
    const fc_kernels *kernels;
    fc_conv product; /* of a plane */
    fc_weights weights;
    int64_t phases, columns, pixels, tasks; /* s*s; (c, f) of a group; of a plane, and its tasks */
    int64_t bias_bytes, offset_bytes, panel_bytes;
    int64_t rows;                           /* of a tile, at most */
    int64_t strips;                         /* copied, and then served by each tile; or 1, read in place */
} layout;

static layout lay_out(const fc_conv_plan *plan, const fc_conv *p)
{
    const fc_window *w = &p->window;
    const fc_kernels *kernels = fc_dispatch(p->real);
    layout l = {.kernels = kernels, .phases = fc_taps(w), .pixels = fc_mul(w->out[1], w->out[2])};
    l.columns = fc_mul(p->channels, l.phases);
    l.tasks = fc_max(1, l.pixels / plan->tile[PIXELS]); /* the last takes the rest too */
    l.product = (fc_conv){.real = p->real, .groups = p->groups, .channels = p->out_channels, .out_channels = l.columns,
                          .w = {.g = p->w.g, .o = 1, .c = p->w.o}};
    for (int i = 0; i < FC_AXES; i++)
        l.product.window.kernel[i] = 1;
    l.weights = fc_weights_plan(&l.product, kernels->size);
    l.bias_bytes = fc_bytes(fc_mul(p->groups, l.columns), kernels->size);
    l.offset_bytes = fc_bytes(p->out_channels, sizeof(int64_t));
    l.rows = 2 * fc_ceil_div(l.columns / 2, fc_ceil_div(l.columns, TILE_ROWS));
    l.strips = fc_has_short_vectors(kernels) ? plan->tile[PIXELS] / (kernels->nv * kernels->lanes) : 1;
    l.panel_bytes = l.strips > 1 ? fc_bytes(fc_mul(p->out_channels, plan->tile[PIXELS]), kernels->size) : 0;
    return l;
}

static const char *plan_adjoint(fc_conv_plan *plan, double *cost)
{
    const fc_conv *p = &plan->problem;
    const fc_window *w = &p->window;
    const fc_kernels *kernels = fc_dispatch(p->real);
    for (int i = 0; i < FC_AXES; i++)
        if (w->kernel[i] != w->stride[i] || fc_mul(w->out[i], w->kernel[i]) != w->in[i] || w->offset[i] ||
            (w->kernel[i] > 1 && w->dilation[i] > 1))
            return "the windows do not tile the image";
    if (w->stride[2] != 2 || p->x.s[2] != 1 || !fc_weights_plan(p, kernels->size).in_place)
        return "the pixels of a row, or a channel's weights, are not neighbours, or the windows are not two wide";
    if (p->y.s[2] != 1 || (p->y.s[1] != w->out[2] && w->out[1] > 1) || w->out[2] % (kernels->lanes / 2) ||
        fc_mul(w->out[1], w->out[2]) < kernels->lanes)
        return "a plane of what is read has gaps, or a row of it is not whole halves of vectors";
    if (p->out_channels > TERMS_MAX)
        return "sums are long: the product is better packed";
    int64_t strip = kernels->nv * kernels->lanes, fit = B_BYTES / kernels->size / fc_max(1, p->out_channels) / strip;
    plan->tile[PIXELS] = strip * fc_max(1, fc_min(STRIPS, fit));
    layout l = lay_out(plan, p);
    plan->scratch = fc_add(fc_add(l.weights.bytes, l.bias_bytes), l.offset_bytes + plan->threads * l.panel_bytes);
    if (plan->scratch > fc_scratch_max(plan->threads))
        return "the weights exceed the scratch bound";
    *cost = 600 + 0.06 * (double)l.weights.bytes +
            (double)(p->batch * p->groups * w->out[0]) *
                (60 * (double)l.tasks + fc_gemm_cost(kernels, l.columns, l.pixels, p->out_channels) +
                 STORED * (double)l.columns * (double)l.pixels);
    return NULL;
}

typedef struct job {
    const fc_conv_plan *plan;
    layout l;
    const int64_t *offset;    /* of y's channels */
    const char *y, *w, *bias; /* the weights as rows, the bias of each */
    char *x, *panels;
} job;

/* Some vectors of pixels: their B, and where the halves of them go. */
typedef struct strip {
    const char *b;
    int64_t place[2 * FC_NV_MAX];
    int vectors;
} strip;

static strip take_strip(const job *j, const char *y, int64_t pixel, int vectors, char *panel)
{
    const fc_conv *p = &j->plan->problem;
    const fc_kernels *kernels = j->l.kernels;
    int64_t half = kernels->lanes / 2;
    strip t = {.b = fc_at(y, pixel, kernels->size), .vectors = vectors};
    for (int h = 0; h < 2 * vectors; h++) {
        int64_t at = pixel + h * half, row = at / p->window.out[2];
        t.place[h] = row * p->window.stride[1] * p->x.s[1] + 2 * (at - row * p->window.out[2]);
    }
    if (!j->l.panel_bytes)
        return t;
    kernels->copy_vectors(panel, kernels->nv * kernels->lanes, t.b, p->y.c, vectors, p->out_channels);
    t.b = panel;
    return t;
}

/* All columns of `count` strips. */
static void run_strips(const job *j, int64_t g, const strip *strips, int64_t count, char *x)
{
    const fc_conv *p = &j->plan->problem;
    const layout *l = &j->l;
    const int64_t *s = p->window.stride;
    int64_t size = l->kernels->size, c_offset[FC_MR_MAX / 2];
    for (int64_t m = 0, rows; m < l->columns; m += rows) {
        rows = fc_min(l->rows, l->columns - m);
        const void *a[FC_MR_MAX], *init = j->bias ? fc_at(j->bias, g * l->columns + m, size) : NULL;
        for (int64_t i = 0; i < rows; i++)
            a[i] = fc_at(j->w, g * l->weights.g + (m + i) * l->weights.o, size);
        for (int64_t i = 0; i < rows / 2; i++) {
            int64_t line = m / 2 + i;
            c_offset[i] = line / s[1] / s[0] * p->x.c + line / s[1] % s[0] * p->x.s[0] + line % s[1] * p->x.s[1];
        }
        for (const strip *t = strips; t < strips + count; t++)
            l->kernels->gemm_pairs[t->vectors][rows](p->out_channels, a, t->b, j->offset, x, c_offset, t->place, init);
    }
}

static void run_task(void *context, int64_t task, int worker)
{
    const job *j = context;
    const fc_conv *p = &j->plan->problem;
    const layout *l = &j->l;
    int64_t size = l->kernels->size, lanes = l->kernels->lanes, first = task % l->tasks * j->plan->tile[PIXELS];
    int64_t plane = task / l->tasks, od = plane % p->window.out[0], g = plane / p->window.out[0] % p->groups;
    int64_t n = plane / p->window.out[0] / p->groups;
    int64_t end = task % l->tasks + 1 < l->tasks ? first + j->plan->tile[PIXELS] : l->pixels;
    const char *y = fc_at(j->y, n * p->y.n + g * p->out_channels * p->y.c + od * p->y.s[0], size);
    char *x = fc_at(j->x, n * p->x.n + g * p->channels * p->x.c + od * p->window.stride[0] * p->x.s[0], size);
    char *panel = j->panels + worker * l->panel_bytes;
    strip strips[STRIPS];
    for (int64_t at = first, nv, count = 0; at < end; at += nv * lanes) {
        nv = fc_gemm_next_strip(l->kernels->nv, fc_min(fc_ceil_div(end - at, lanes), l->pixels / lanes));
        int64_t pixel = fc_min(at, l->pixels - nv * lanes), done = count * p->out_channels * l->kernels->nv * lanes;
        strips[count++] = take_strip(j, y, pixel, (int)nv, fc_at(panel, done, size)); /* the last overlaps */
        if (count < l->strips && at + nv * lanes < end)
            continue;
        run_strips(j, g, strips, count, x);
        count = 0;
    }
}

static fc_status run_adjoint(const fc_conv_plan *plan, void *x, void *w, void *bias, void *y)
{
    const fc_conv *p = &plan->problem;
    job j = {.plan = plan, .l = lay_out(plan, p), .y = y, .x = x};
    const layout *l = &j.l;
    int64_t size = l->kernels->size, channels = p->groups * p->channels;
    char *scratch = fc_arena_take(plan->scratch), *columns;
    if (!scratch)
        return FC_NO_MEMORY;
    j.w = fc_weights_take(&l->weights, &l->product, l->kernels, plan->threads, scratch, w);
    columns = scratch + l->weights.bytes;
    for (int64_t c = 0; c < channels && bias; c++)
        l->kernels->gather_row(fc_at(columns, c * l->phases, size), l->phases, NULL, 1, 0, 1, 0, fc_at(bias, c, size));
    j.bias = bias ? columns : NULL;
    int64_t *offset = (int64_t *)(void *)(columns + l->bias_bytes);
    for (int64_t o = 0; o < p->out_channels; o++)
        offset[o] = o * (l->panel_bytes ? l->kernels->nv * l->kernels->lanes : p->y.c);
    j.offset = offset;
    j.panels = columns + l->bias_bytes + l->offset_bytes;
    fc_parallel(plan->threads, p->batch * p->groups * p->window.out[0] * l->tasks, run_task, &j);
    fc_arena_give();
    return FC_OK;
}

const fc_driver fc_driver_pixels_adjoint = {"pixels", plan_adjoint, run_adjoint, .bounded = 0};
