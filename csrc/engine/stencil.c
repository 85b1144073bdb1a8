/* The stencil driver: one input channel a group (depthwise layers, single-channel images), lanes over output pixels.
 *
 *     y[m][r][q] = b[m] + sum_t w[m][t] x[r, q, tap t]
 *
 *     for each image n, channel g, plane od, band of rows       a task
 *         copy the band's input, or point into the image
 *         for each of the channel's outputs m: stencil kernel over the whole band
 *
 * Scratch: offsets and weights as rows; per worker a band that fits the first-level cache beside its output.
 */
#include "engine/gemm.h"
#include "engine/output.h"
#include "engine/source.h"
#include "engine/weights.h"

enum { ROWS };                       /* plan->tile */
enum { BAND_BYTES = 64 << 10 };      /* 16 KiB to 256 KiB measure alike */

typedef struct layout {
    const fc_kernels *kernels;
    fc_source source;
    fc_weights weights;
    int64_t bands, width, tile_bytes, offset_bytes;
    int in_place;
} layout;

static layout lay_out(const fc_conv_plan *plan)
{
    const fc_conv *p = &plan->problem;
    const fc_kernels *kernels = fc_dispatch(p->real);
    int64_t rows = plan->tile[ROWS], width = p->window.out[2];
    layout l = {.kernels = kernels, .bands = fc_ceil_div(p->window.out[1], rows), .width = fc_max(width, kernels->lanes)};
    l.source = fc_source_plan(p, kernels->size, 1, rows, width >= kernels->lanes);
    l.weights = fc_weights_plan(p, kernels->size);
    l.in_place = width >= kernels->lanes && p->y.s[2] == 1;
    if (!l.in_place)
        l.tile_bytes = fc_arena_round(fc_min(INT64_MAX / 4, fc_mul(fc_mul(rows, l.width), kernels->size)));
    l.offset_bytes = fc_arena_round(fc_min(INT64_MAX / 4, fc_mul(fc_taps(&p->window), sizeof(int64_t))));
    return l;
}

static const char *plan_stencil(fc_conv_plan *plan, double *cost)
{
    const fc_conv *p = &plan->problem;
    if (p->channels != 1)
        return "a group has more than one input channel";
    if (!fc_reduction(p))
        return "there is nothing to sum";
    if (p->real == FC_FLOAT32 && plan->precision == FC_PRECISION_HIGHEST && fc_taps(&p->window) > FC_KC)
        return "the precision 'highest' sums in blocks";
    const fc_kernels *kernels = fc_dispatch(p->real);
    plan->tile[ROWS] = fc_source_rows(p, kernels->size, 1, BAND_BYTES);
    if (plan->threads > 1 && p->batch * p->groups * p->window.out[0] < 4 * plan->threads)
        plan->tile[ROWS] = fc_min(plan->tile[ROWS], fc_ceil_div(p->window.out[1], 4 * plan->threads));
    layout l = lay_out(plan);
    plan->scratch = fc_add(fc_add(l.offset_bytes, l.weights.bytes),
                           fc_mul(plan->threads, fc_add(l.source.bytes, l.tile_bytes)));
    if (plan->scratch > fc_scratch_max(plan->threads))
        return "a padded band of the input exceeds the scratch bound";
    double tasks = (double)p->batch * (double)p->groups * (double)p->window.out[0] * (double)l.bands;
    double taps = (double)fc_taps(&p->window), rows = (double)plan->tile[ROWS], outputs = (double)p->out_channels;
    double vectors = rows * (double)fc_ceil_div(l.width, kernels->lanes), bytes = (double)kernels->size;
    double copied = l.source.in_place ? 0 : (double)l.source.channel;
    double stored = l.in_place ? 0 : rows * (double)l.width;
    /* Calibrated on Zen 5, one thread: 1-D k4 768@1024 144 us, k31 4x512@2000 3.4 ms, 16x1-64 k7s4 @4000 190 us. */
    *cost = 300 + taps + tasks * (40 + outputs * (vectors * (1 + 0.35 * taps) + 5 * rows) +
                                  0.0125 * bytes * (copied + outputs * stored) + 4.0 * copied / (double)l.source.pitch);
    return NULL;
}

typedef struct job {
    const fc_conv_plan *plan;
    layout l;
    const int64_t *offset;
    const char *x, *w, *bias;
    char *y, *scratch;
    int64_t worker_bytes;
} job;

static void run_task(void *context, int64_t task, int worker)
{
    const job *j = context;
    const layout *l = &j->l;
    const fc_conv *p = &j->plan->problem;
    int64_t size = l->kernels->size, band = task % l->bands, od = task / l->bands % p->window.out[0];
    int64_t g = task / l->bands / p->window.out[0] % p->groups, n = task / l->bands / p->window.out[0] / p->groups;
    int64_t oh = band * j->plan->tile[ROWS], rows = fc_min(j->plan->tile[ROWS], p->window.out[1] - oh);
    char *scratch = j->scratch + worker * j->worker_bytes, *tile = scratch + l->source.bytes;
    const void *x = fc_at(j->x, n * p->x.n + g * p->x.c, size);
    const void *in = fc_source_take(&l->source, p, l->kernels, scratch, x, 1, od, oh);
    for (int64_t m = 0; m < p->out_channels; m++) {
        int64_t o = g * p->out_channels + m;
        const void *w = fc_at(j->w, g * l->weights.g + m * l->weights.o, size);
        const void *init = j->bias ? fc_at(j->bias, o, size) : NULL;
        char *y = fc_at(j->y, n * p->y.n + o * p->y.c + od * p->y.s[0] + oh * p->y.s[1], size);
        l->kernels->stencil(fc_taps(&p->window), j->offset, w, init, in, l->source.pitch, l->in_place ? y : tile,
                            l->in_place ? p->y.s[1] : l->width, rows, l->width);
        if (!l->in_place)
            fc_output_store(p, l->kernels, y, tile, rows, l->width);
    }
}

static fc_status run_stencil(const fc_conv_plan *plan, void *x, void *w, void *bias, void *y)
{
    const fc_conv *p = &plan->problem;
    job j = {.plan = plan, .l = lay_out(plan), .x = x, .bias = bias, .y = y};
    char *scratch = fc_arena_take(plan->scratch);
    if (!scratch)
        return FC_NO_MEMORY;
    fc_source_offsets(&j.l.source, p, 1, (int64_t *)(void *)scratch);
    j.offset = (const int64_t *)(const void *)scratch;
    scratch += j.l.offset_bytes;
    j.w = fc_weights_take(&j.l.weights, p, j.l.kernels, plan->threads, scratch, w);
    j.scratch = scratch + j.l.weights.bytes;
    j.worker_bytes = j.l.source.bytes + j.l.tile_bytes;
    fc_parallel(plan->threads, p->batch * p->groups * p->window.out[0] * j.l.bands, run_task, &j);
    fc_arena_give();
    return FC_OK;
}

const fc_driver fc_driver_stencil = {"stencil", plan_stencil, run_stencil, .bounded = 0};
