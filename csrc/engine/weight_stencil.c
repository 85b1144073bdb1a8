/* The weight gradient of groups with one input channel: for every tap, the scalar product of two images.
 *
 *     dW[g, m, t] = sum_{n, r, q} dY[n, g, m, r, q] X[n, g, r, q, tap t]
 *
 *     for each chunk of the sum, channel g        a task
 *         for each image n, plane od, band of rows of the chunk, in order
 *             copy the band's input, and dY's rows in whole vectors
 *             correlate kernel: all taps of the band, added in double
 *     add the chunks in order
 *
 * Chunks depend on the shape alone.  A row's last vector reads beyond the row, where the kernel drops the products, so the
 * input is always a band and never the image in place.
 */
#include "engine/output.h"
#include "engine/source.h"
#include "engine/weight_sums.h"

enum { ROWS, CHUNKS }; /* plan->tile */
enum { BAND_BYTES = 64 << 10, TASKS_WANTED = 8 };

typedef struct layout {
    const fc_kernels *kernels;
    fc_source source;
    int64_t bands, units, taps, width; /* width: a row of dY in whole vectors */
    int64_t offset_bytes, sum_bytes, gradient_bytes;
} layout;

static layout lay_out(const fc_conv_plan *plan)
{
    const fc_conv *p = &plan->problem;
    const fc_kernels *kernels = fc_dispatch(p->real);
    int64_t rows = plan->tile[ROWS];
    layout l = {.kernels = kernels, .bands = fc_ceil_div(p->window.out[1], rows), .taps = fc_taps(&p->window)};
    l.units = p->batch * p->window.out[0] * l.bands;
    l.source = fc_source_plan(p, kernels->size, 1, rows, 0);
    l.width = fc_ceil_div(p->window.out[2], kernels->lanes) * kernels->lanes;
    l.offset_bytes = fc_arena_round(fc_min(INT64_MAX / 8, fc_mul(l.taps, sizeof(int64_t))));
    l.sum_bytes = fc_min(INT64_MAX / 8, fc_mul(fc_mul(p->out_channels, l.taps), sizeof(double)));
    l.gradient_bytes = fc_arena_round(fc_min(INT64_MAX / 8, fc_mul(fc_mul(rows, l.width), kernels->size)));
    return l;
}

static int64_t tasks_of(const fc_conv_plan *plan)
{
    return fc_mul(plan->problem.groups, plan->tile[CHUNKS]);
}

static const char *plan_stencil(fc_conv_plan *plan, double *cost)
{
    const fc_conv *p = &plan->problem;
    if (p->channels != 1)
        return "a group has more than one input channel";
    if (!fc_taps(&p->window) || !p->out_channels || !p->batch || !fc_outputs(&p->window))
        return "there is nothing to sum";
    const fc_kernels *kernels = fc_dispatch(p->real);
    plan->tile[ROWS] = fc_source_rows(p, kernels->size, 1, BAND_BYTES);
    layout l = lay_out(plan);
    plan->tile[CHUNKS] = fc_max(1, fc_min(l.units, TASKS_WANTED / p->groups));
    plan->scratch = fc_add(fc_add(l.offset_bytes, fc_arena_round(fc_min(INT64_MAX / 4, fc_mul(tasks_of(plan), l.sum_bytes)))),
                           fc_mul(plan->threads, fc_add(l.source.bytes, l.gradient_bytes)));
    if (plan->scratch > fc_scratch_max(plan->threads))
        return "a padded band of the input exceeds the scratch bound";
    double vectors = (double)plan->tile[ROWS] * (double)l.width / (double)kernels->lanes, m = (double)p->out_channels;
    double bytes = (double)kernels->size, copied = (double)l.source.channel;
    *cost = 400 + (double)l.taps * (1 + m) +
            (double)p->groups * (double)l.units *
                (80 + m * (double)l.taps * (0.35 * vectors + 8) +
                 0.03 * bytes * (copied + m * vectors * (double)kernels->lanes) + 5 * (double)l.source.band.copied_rows);
    return NULL;
}

typedef struct job {
    const fc_conv_plan *plan;
    layout l;
    const int64_t *offset;
    const char *x, *y;
    char *scratch;
    double *sums;
} job;

static void add_unit(const job *j, int64_t g, int64_t unit, double *sum, char *scratch)
{
    static const double zero = 0;
    const fc_conv *p = &j->plan->problem;
    const layout *l = &j->l;
    int64_t size = l->kernels->size, band = unit % l->bands, od = unit / l->bands % p->window.out[0];
    int64_t n = unit / l->bands / p->window.out[0], oh = band * j->plan->tile[ROWS], width = p->window.out[2];
    int64_t rows = fc_min(j->plan->tile[ROWS], p->window.out[1] - oh);
    char *gradient = scratch + l->source.bytes;
    const void *x = fc_at(j->x, n * p->x.n + g * p->x.c, size);
    const void *in = fc_source_take(&l->source, p, l->kernels, scratch, x, 1, od, oh);
    for (int64_t m = 0; m < p->out_channels; m++) {
        int64_t at = n * p->y.n + (g * p->out_channels + m) * p->y.c + od * p->y.s[0] + oh * p->y.s[1];
        for (int64_t r = 0; r < rows; r++)
            l->kernels->gather_row(fc_at(gradient, r * l->width, size), l->width, fc_at(j->y, at + r * p->y.s[1], size),
                                   p->y.s[2], 0, 1, width, &zero);
        l->kernels->correlate(sum + m * l->taps, l->taps, j->offset, in, l->source.pitch, gradient, l->width, rows, width);
    }
}

static void run_task(void *context, int64_t task, int worker)
{
    const job *j = context;
    const layout *l = &j->l;
    int64_t chunks = j->plan->tile[CHUNKS], g = task / chunks, chunk = task % chunks;
    char *scratch = j->scratch + worker * (l->source.bytes + l->gradient_bytes);
    double *sum = j->sums + task * (l->sum_bytes / (int64_t)sizeof(double));
    for (int64_t i = 0; i < j->plan->problem.out_channels * l->taps; i++)
        sum[i] = 0;
    for (int64_t unit = l->units * chunk / chunks; unit < l->units * (chunk + 1) / chunks; unit++)
        add_unit(j, g, unit, sum, scratch);
}

static fc_status run_stencil(const fc_conv_plan *plan, void *x, void *w, void *bias, void *y)
{
    (void)bias;
    const fc_conv *p = &plan->problem;
    job j = {.plan = plan, .l = lay_out(plan), .x = x, .y = y};
    char *scratch = fc_arena_take(plan->scratch);
    if (!scratch)
        return FC_NO_MEMORY;
    fc_source_offsets(&j.l.source, p, 1, (int64_t *)(void *)scratch);
    j.offset = (const int64_t *)(const void *)scratch;
    j.sums = (double *)(void *)(scratch + j.l.offset_bytes);
    j.scratch = scratch + j.l.offset_bytes + fc_arena_round(tasks_of(plan) * j.l.sum_bytes);
    fc_parallel(plan->threads, tasks_of(plan), run_task, &j);
    fc_weight_sums_store(p, j.sums, plan->tile[CHUNKS], w);
    fc_arena_give();
    return FC_OK;
}

const fc_driver fc_driver_weight_stencil = {"stencil", plan_stencil, run_stencil, .bounded = 0};
