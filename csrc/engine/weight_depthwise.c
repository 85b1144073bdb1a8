/* The weight gradient of groups with few channels, both images read in place: every tap the product of two images.
 *
 *     dW[g, m, c, t] = sum_{n, r, q} dY[n, g, m, r, q] X[n, g, c, r, q, tap t]
 *
 *     for each chunk of the sum, group g        several a task
 *         for each image n, plane od, band of rows of the chunk, in order
 *             for each input channel c: a table of its rows;  for each output channel m: a table of dY's
 *                 depthwise weight kernel: all taps of the band, added in double
 *     add the chunks in order
 *
 * Chunks depend on the shape alone.  A band is as high as keeps a sum of float lanes short.  With several input channels a
 * product of matrices (weight_gemm.c) does less per tap, but wants whole vectors of output channels: 32 groups of 4 over 56x56
 * took 4.6 ms there.
 *
 * 3 x 3 taps at stride 1 in images without gaps need no tables.  In bands of 4096 outputs, which stay in the first-level cache:
 * 32@112 0.88 of the speed, with AVX2 0.94.  Zen 4, 32 groups of 4 over 56x56: 315 us, of 282 that the multiply-adds of whole vectors take,
 * four for a row's three and a half.
 */
#include "engine/depthwise.h"
#include "engine/weight_sums.h"

enum { ROWS, CHUNKS, GROUPS }; /* plan->tile; channels of a task */
enum { BAND_OUTPUTS = 16 << 10, CHUNKS_WANTED = 8, TASK_NS = 4000 };

typedef struct layout {
    const fc_kernels *kernels;
    fc_depthwise input;
    fc_rows gradient;
    int whole;            /* planes, instead of tables */
    int64_t units, count; /* bands of all images; sums of a group */
    int64_t sum_bytes, table_bytes, shared_bytes, worker_bytes;
} layout;

static layout lay_out(const fc_conv_plan *plan)
{
    const fc_conv *p = &plan->problem;
    const fc_window *w = &p->window;
    const fc_kernels *kernels = fc_dispatch(p->real);
    int64_t rows = plan->tile[ROWS];
    layout l = {.kernels = kernels, .input = fc_depthwise_plan(p, kernels, rows, 0)};
    l.gradient = fc_rows_plan(kernels->size, w->out[1], w->out[2], p->y.s[1], p->y.s[2], 0,
                              fc_max(w->out[2], kernels->lanes), rows);
    l.units = p->batch * w->out[0] * l.input.bands;
    l.count = fc_mul(fc_mul(p->out_channels, p->channels), fc_taps(w));
    l.sum_bytes = fc_mul(fc_mul(p->groups, plan->tile[CHUNKS]), fc_mul(l.count, sizeof(double)));
    l.sum_bytes = fc_arena_round(fc_min(INT64_MAX / 8, l.sum_bytes));
    l.table_bytes = fc_arena_round(rows * (int64_t)sizeof(void *));
    l.worker_bytes = fc_add(fc_add(l.input.table_bytes, l.input.copy_bytes), fc_add(l.table_bytes, l.gradient.bytes));
    l.shared_bytes = l.input.shared_bytes;
    l.whole = fc_depthwise_is_flat(p) && fc_depthwise_has_flat_rows(&p->y, w->out[1], w->out[2]);
    if (l.whole)
        l.worker_bytes = l.shared_bytes = 0;
    return l;
}

static const char *plan_depthwise(fc_conv_plan *plan, double *cost)
{
    const fc_conv *p = &plan->problem;
    const fc_window *w = &p->window;
    if (!p->out_channels || !p->batch || !fc_outputs(w))
        return "there is nothing to sum";
    const char *refusal = fc_depthwise_refusal(p);
    if (refusal)
        return refusal;
    int64_t most = fc_max(4, fc_min(w->out[1], BAND_OUTPUTS / w->out[2]));
    plan->tile[ROWS] = fc_ceil_div(w->out[1], fc_ceil_div(w->out[1], most));
    plan->tile[CHUNKS] = 1;
    layout l = lay_out(plan);
    plan->tile[CHUNKS] = fc_max(1, fc_min(l.units, CHUNKS_WANTED / p->groups));
    l = lay_out(plan);
    plan->scratch = fc_add(fc_add(l.shared_bytes, l.sum_bytes), fc_mul(plan->threads, l.worker_bytes));
    if (plan->scratch > fc_scratch_max(plan->threads))
        return "the rows exceed the scratch bound";
    double rows = (double)plan->tile[ROWS], m = (double)p->out_channels, taps = (double)fc_taps(w);
    double vectors = rows * (double)fc_ceil_div(w->out[2], l.kernels->lanes), bytes = (double)l.kernels->size;
    double pass = 0.05 + 0.9 / (double)w->kernel[1]; /* a load serves as many taps as the kernel has rows */
    double copied = (double)(w->kernel[0] * l.input.x.copies * l.input.x.pitch + l.gradient.copies * l.gradient.pitch);
    double unit = 40 + m * taps * (4 + pass * vectors * (double)w->stride[2]) +
                  (p->x.s[2] == 1 ? 0.015 : 0.3) * bytes * copied;
    if (w->stride[2] == 2 && w->kernel[1] == 3 && w->kernel[2] == 3 && w->dilation[2] == 1 && w->kernel[0] == 1)
        unit = 40 + m * (40 + 4 * vectors); /* 64@112 in bands of 14 rows 27 us, 128@56 41; planes 68, 49 */
    if (l.whole) /* 512@14 60 us, planes 78; 1-16@28 (Zen 3) 16, rows 9 */
        unit = 15 + m * (8 + (fc_has_short_vectors(l.kernels) ? 1.9 : 0.8) * vectors);
    /* Each reads dY anew: 3-32@32 b32 720 us, not 520; on Zen 5 310, not 185, and in 16 registers 1220, not 340. */
    unit *= (double)p->channels * (p->channels == 1 ? 1.0 : !l.whole ? 1.35 : l.kernels->mr[4] < 6 ? 4.0 : 1.6);
    *cost = 400 + (double)p->groups * ((double)l.units * unit + 2 * (double)l.count);
    double task = unit * (double)(l.units / plan->tile[CHUNKS]);
    plan->tile[GROUPS] = fc_max(1, fc_min(p->groups / (4 * plan->threads), (int64_t)(TASK_NS / task)));
    return NULL;
}

typedef struct job {
    const fc_conv_plan *plan;
    layout l;
    const void *zero;
    const char *x, *y;
    char *scratch;
    double *sums;
} job;

/* `rows` output rows from oh on of image n. */
static void add_plane(const job *j, int64_t n, int64_t g, int64_t oh, int64_t rows, double *sum)
{
    const fc_conv *p = &j->plan->problem;
    const fc_window *w = &p->window;
    const fc_kernels *kernels = j->l.kernels;
    for (int64_t i = 0; i < p->channels * p->out_channels; i++, sum += fc_taps(w)) {
        int64_t c = g * p->channels + i / p->out_channels, m = g * p->out_channels + i % p->out_channels;
        kernels->depthwise_flat_weight(sum, fc_at(j->x, n * p->x.n + c * p->x.c, kernels->size), w->in[1], w->in[2],
                                       oh - w->offset[1], fc_at(j->y, n * p->y.n + m * p->y.c + oh * p->y.s[1], kernels->size),
                                       rows);
    }
}

static void add_unit(const job *j, int64_t g, int64_t unit, double *sum, char *scratch)
{
    const fc_conv *p = &j->plan->problem;
    const layout *l = &j->l;
    const fc_depthwise_window *window = &l->input.window;
    int64_t size = l->kernels->size, band = unit % l->input.bands, od = unit / l->input.bands % p->window.out[0];
    int64_t n = unit / l->input.bands / p->window.out[0], oh = band * l->input.rows;
    int64_t rows = fc_min(l->input.rows, p->window.out[1] - oh);
    if (l->whole) {
        add_plane(j, n, g, oh, rows, sum);
        return;
    }
    const void **table = (const void **)(void *)scratch;
    char *copies = scratch + l->input.table_bytes;
    const void **gradient = (const void **)(void *)(copies + l->input.copy_bytes);
    for (int64_t i = 0; i < p->channels * p->out_channels; i++, sum += fc_taps(&p->window)) {
        int64_t c = i / p->out_channels, m = i % p->out_channels;
        if (m == 0)
            fc_depthwise_take(&l->input, p, l->kernels, table, copies, j->zero,
                              fc_at(j->x, n * p->x.n + (g * p->channels + c) * p->x.c, size), od, oh, rows);
        const void *y = fc_at(j->y, n * p->y.n + (g * p->out_channels + m) * p->y.c + od * p->y.s[0], size);
        fc_rows_take(&l->gradient, l->kernels, gradient, (char *)gradient + l->table_bytes, j->zero, y, oh, rows);
        for (int64_t f = 0; f < fc_min(window->step, rows); f++)
            l->kernels->depthwise_weight[l->input.variant][p->window.kernel[1]](
                window, sum, (const void *const *)table + f, (const void *const *)gradient + f,
                fc_ceil_div(rows - f, window->step));
    }
}

static void run_task(void *context, int64_t task, int worker)
{
    const job *j = context;
    const layout *l = &j->l;
    int64_t chunks = j->plan->tile[CHUNKS], groups = j->plan->tile[GROUPS], chunk = task % chunks;
    int64_t end = fc_min((task / chunks + 1) * groups, j->plan->problem.groups);
    for (int64_t g = task / chunks * groups; g < end; g++) {
        double *sum = j->sums + (g * chunks + chunk) * l->count;
        for (int64_t i = 0; i < l->count; i++)
            sum[i] = 0;
        for (int64_t unit = l->units * chunk / chunks; unit < l->units * (chunk + 1) / chunks; unit++)
            add_unit(j, g, unit, sum, j->scratch + worker * l->worker_bytes);
    }
}

static fc_status run_depthwise(const fc_conv_plan *plan, void *x, void *w, void *bias, void *y)
{
    (void)bias;
    const fc_conv *p = &plan->problem;
    job j = {.plan = plan, .l = lay_out(plan), .x = x, .y = y};
    char *scratch = fc_arena_take(plan->scratch);
    if (!scratch)
        return FC_NO_MEMORY;
    if (!j.l.whole)
        j.zero = fc_depthwise_share(&j.l.input, p, j.l.kernels->size, scratch);
    j.sums = (double *)(void *)(scratch + j.l.shared_bytes);
    j.scratch = scratch + j.l.shared_bytes + j.l.sum_bytes;
    fc_parallel(plan->threads, fc_ceil_div(p->groups, plan->tile[GROUPS]) * plan->tile[CHUNKS], run_task, &j);
    fc_weight_sums_store(p, j.sums, plan->tile[CHUNKS], w);
    fc_arena_give();
    return FC_OK;
}

const fc_driver fc_driver_weight_depthwise = {"depthwise", plan_depthwise, run_depthwise, .bounded = 0};
