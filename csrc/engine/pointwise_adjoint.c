/* The adjoint of a 1x1 whose stride along a row is two, lanes over pixels: planes most of whose pixels are zero, or the bias.
 *
 *     T[c][p] = b[c] + sum_o W[o][c] Y[o][p]          x[c][s p] = T[c][p],  x[c] = b[c] elsewhere
 *
 *     the weights as rows c
 *     for each image, group, plane, strip of pixels, part of the channels          a task
 *         for each block of o:  for each tile of channels:
 *             gemm kernel, added to T but for the first block; the first tile copies the strip
 *             after the last block:  write the tile to x, its pixels and what lies between them and the next
 *
 * A phase by itself fills x first and then goes through it again for every second pixel; here each line is written once, while other
 * tiles are summed.  Scratch: the rows of the weights; per worker the offsets of B's rows, a block of the strip, T.
 *
 * Zen 5, one thread, us, by channels.c, by pixels.c and so: 512-256@28 935, 944, 855; 128-64@28 b4 309, 355, 273; 64-32@16 b8 77, 99, 55;
 * 32-16@56 46, 43, 29; AVX2 1843, 1779, 1694; 564, 552, 489; 145, 141, 102; 65, 58, 56.  Of the first 755 is the product (as of 1x1 512-256
 * of stride 1), 17 the weights' transpose, 40 writing x, half of which where each channel's rows are a call of their own (80 then).
 * Rejected for it: blocks of whole rows of x, whose B is narrower and copied by itself (865-890); lines of x, the next block of y or the
 * next weights fetched before each product (15 to 40 slower) or by it, a line a term (the same); writing a tile in parts between the next
 * one's products (the same); whole aligned lines of x (the same); halves of the channels, so that their weights stay near (15 slower).
 */
#include "engine/gemm.h"
#include "engine/weights.h"

enum { CHANNELS }; /* plan->tile: of a part */

typedef struct layout {
    const fc_kernels *kernels;
    fc_conv product; /* of a plane */
    fc_weights weights;
    int64_t k, terms, pixels, strips, parts; /* terms: of a block; pixels: of a plane */
    int64_t width;                           /* of the widest strip: vectors */
    int64_t offset_bytes, panel_bytes, sums_bytes;
} layout;

/* Of a plane of less than two vectors one, twice. */
static int next_strip(const layout *l, int64_t vectors)
{
    return (int)fc_min(l->width, fc_gemm_next_strip((int)l->width, vectors));
}

static layout lay_out(const fc_conv_plan *plan, const fc_conv *p)
{
    const fc_kernels *kernels = fc_dispatch(p->real);
    layout l = {.kernels = kernels, .k = p->out_channels, .pixels = p->window.out[1] * p->window.out[2]};
    l.parts = fc_ceil_div(p->channels, plan->tile[CHANNELS]);
    l.product = (fc_conv){.real = p->real, .groups = p->groups, .channels = l.k, .out_channels = p->channels,
                          .w = {.g = p->w.g, .o = p->w.c, .c = p->w.o}};
    for (int i = 0; i < FC_AXES; i++)
        l.product.window.kernel[i] = 1;
    l.weights = fc_weights_plan(&l.product, kernels->size);
    l.terms = fc_gemm_terms(kernels, l.k, plan->precision == FC_PRECISION_HIGH ? 2 * FC_KC : fc_gemm_block(plan));
    int64_t vectors = fc_ceil_div(l.pixels, kernels->lanes);
    l.width = fc_min(l.pixels / kernels->lanes, fc_gemm_packed_strip(kernels));
    for (int64_t done = 0; done < vectors; l.strips++)
        done += next_strip(&l, vectors - done);
    l.offset_bytes = fc_bytes(l.terms, sizeof(int64_t));
    l.panel_bytes = fc_bytes(l.terms * l.width * kernels->lanes, kernels->size);
    l.sums_bytes = fc_bytes((plan->tile[CHANNELS] * l.width + 1) * kernels->lanes, kernels->size);
    return l;
}

static int64_t worker_bytes(const layout *l)
{
    return fc_add(l->offset_bytes, fc_add(l->panel_bytes, l->sums_bytes));
}

static const char *plan_adjoint(fc_conv_plan *plan, double *cost)
{
    const fc_conv *p = &plan->problem;
    const fc_window *w = &p->window;
    const fc_kernels *kernels = fc_dispatch(p->real);
    if (fc_taps(w) != 1 || w->stride[2] != 2 || !fc_lies_inside(w) || w->offset[0] || w->offset[1] || w->offset[2])
        return "the kernel has more than one tap, or padding, or its stride along a row is not two";
    if (w->in[0] != w->out[0] || w->in[1] > w->out[1] * w->stride[1] || w->in[2] > w->out[2] * 2)
        return "pixels of the image lie beyond the last window's step";
    if (p->x.s[2] != 1 || p->y.s[2] != 1 || (p->y.s[1] != w->out[2] && w->out[1] > 1))
        return "the pixels of a row, or of a plane that is read, are no neighbours";
    if (!p->batch || fc_mul(w->out[1], w->out[2]) < kernels->lanes)
        return "a plane is less than a vector";
    plan->tile[CHANNELS] = p->channels;
    layout l = lay_out(plan, p);
    int64_t tasks = fc_mul(fc_mul(p->batch, p->groups), fc_mul(w->out[0], l.strips));
    if (plan->threads > 1 && tasks < 4 * plan->threads)
        plan->tile[CHANNELS] = fc_ceil_div(p->channels, fc_ceil_div(4 * plan->threads, tasks));
    l = lay_out(plan, p);
    plan->scratch = fc_add(l.weights.bytes, fc_mul(plan->threads, worker_bytes(&l)));
    if (plan->scratch > fc_scratch_max(plan->threads))
        return "the weights or a strip of sums exceed the scratch bound";
    double planes = (double)p->batch * (double)p->groups * (double)w->out[0];
    *cost = 600 + 0.06 * (double)l.weights.bytes +
            planes * (fc_gemm_cost(kernels, p->channels, fc_ceil_div(l.pixels, kernels->lanes) * kernels->lanes, l.k) +
                      0.05 * (double)p->channels * (double)w->in[1] * (double)w->in[2]);
    return NULL;
}

typedef struct job {
    const fc_conv_plan *plan;
    layout l;
    const char *y, *w, *bias;
    char *x, *workers;
} job;

/* A task: some pixels of a plane. */
typedef struct strip {
    int64_t g, column;
    int nv;
    int64_t *offset;    /* of B's rows */
    const char *y;      /* of the first channel */
    char *x, *b, *sums; /* x: the plane of the first channel; sums: T of the part's */
    fc_spaced *spans;
    int64_t span_count;
} strip;

/* Where a strip's pixels go, row by row. */
static int64_t cut_rows(const job *j, const strip *t, fc_spaced *spans)
{
    const fc_conv *p = &j->plan->problem;
    const fc_window *w = &p->window;
    int64_t count = 0, width = t->nv * j->l.kernels->lanes, oh = t->column / w->out[2], ow = t->column % w->out[2];
    for (int64_t done = 0, n; done < width; done += n, oh++, ow = 0) {
        n = fc_min(width - done, w->out[2] - ow);
        spans[count++] = (fc_spaced){.src = done, .dst = oh * w->stride[1] * p->x.s[1] + 2 * ow, .count = fc_min(2 * n, w->in[2] - 2 * ow),
                                .rows = fc_min(w->stride[1], w->in[1] - oh * w->stride[1])};
    }
    return count;
}

/* Terms k ... of all tiles of channels [c, end). */
static void run_block(const job *j, const strip *t, int64_t c, int64_t end, int64_t k)
{
    const layout *l = &j->l;
    const fc_conv *p = &j->plan->problem;
    const fc_kernels *kernels = l->kernels;
    int64_t size = kernels->size, width = t->nv * kernels->lanes, terms = fc_min(l->terms, l->k - k), c_offset[FC_MR_MAX];
    int64_t tiles = fc_ceil_div(end - c, kernels->mr[t->nv]), first = c, b_row = p->y.c;
    const char *b = fc_at(t->y, k * b_row + t->column, size);
    int packs = kernels->gemm_pack[t->nv][1] != NULL;
    for (int64_t i = 0; i < terms; i++)
        t->offset[i] = i * width;
    for (int64_t m = 0; m < FC_MR_MAX; m++)
        c_offset[m] = m * width;
    if (!packs)
        kernels->copy_vectors(t->b, width, b, b_row, t->nv, terms);
    for (int64_t i = 0, mr; i < tiles; i++, c += mr) {
        mr = first + (end - first) * (i + 1) / tiles - c;
        const void *a[FC_MR_MAX];
        const char *init = j->bias ? fc_at(j->bias, t->g * p->channels + c, size) : NULL;
        for (int64_t m = 0; m < mr; m++)
            a[m] = fc_at(j->w, t->g * l->weights.g + (c + m) * l->weights.o + k, size);
        char *sums = fc_at(t->sums, (c - first) * width, size);
        if (packs && c == first)
            kernels->gemm_pack[t->nv][mr](terms, a, b, b_row, t->b, sums, c_offset, init, k > 0, 0);
        else
            kernels->gemm[t->nv][mr](terms, a, NULL, t->b, t->offset, sums, c_offset, init, k > 0);
        if (k + terms == l->k)
            kernels->space_rows(fc_at(t->x, c * p->x.c, size), p->x.c, p->x.s[1], t->spans, t->span_count, sums, width, mr, init);
    }
}

static void run_task(void *context, int64_t task, int worker)
{
    const job *j = context;
    const fc_conv *p = &j->plan->problem;
    const layout *l = &j->l;
    int64_t size = l->kernels->size, lanes = l->kernels->lanes, vectors = fc_ceil_div(l->pixels, lanes), done = 0;
    int64_t part = task % l->parts, at = task / l->parts % l->strips, rest = task / l->parts / l->strips;
    int64_t od = rest % p->window.out[0], n = rest / p->window.out[0] / p->groups;
    strip t = {.g = rest / p->window.out[0] % p->groups, .b = j->workers + worker * worker_bytes(l) + l->offset_bytes};
    t.offset = (int64_t *)(void *)(t.b - l->offset_bytes);
    fc_spaced spans[FC_NV_MAX * FC_LANES_MAX];
    for (int64_t i = 0; i <= at; done += t.nv, i++)
        t.nv = next_strip(l, vectors - done);
    t.column = fc_min((done - t.nv) * lanes, l->pixels - t.nv * lanes); /* the last overlaps */
    int64_t c = part * j->plan->tile[CHANNELS], end = fc_min(p->channels, c + j->plan->tile[CHANNELS]);
    t.y = fc_at(j->y, n * p->y.n + t.g * l->k * p->y.c + od * p->y.s[0], size);
    t.x = fc_at(j->x, n * p->x.n + t.g * p->channels * p->x.c + od * p->x.s[0], size);
    t.sums = t.b + l->panel_bytes;
    t.span_count = cut_rows(j, &t, spans);
    t.spans = spans;
    for (int64_t k = 0; k < l->k; k += l->terms)
        run_block(j, &t, c, end, k);
}

static fc_status run_adjoint(const fc_conv_plan *plan, void *x, void *w, void *bias, void *y)
{
    const fc_conv *p = &plan->problem;
    job j = {.plan = plan, .l = lay_out(plan, p), .y = y, .x = x, .bias = bias};
    const layout *l = &j.l;
    char *scratch = fc_arena_take(plan->scratch);
    if (!scratch)
        return FC_NO_MEMORY;
    j.w = fc_weights_take(&l->weights, &l->product, l->kernels, plan->threads, scratch, w);
    j.workers = scratch + l->weights.bytes;
    fc_parallel(plan->threads, p->batch * p->groups * p->window.out[0] * l->strips * l->parts, run_task, &j);
    fc_arena_give();
    return FC_OK;
}

const fc_driver fc_driver_pointwise_adjoint = {"pointwise", plan_adjoint, run_adjoint, .bounded = 0};
