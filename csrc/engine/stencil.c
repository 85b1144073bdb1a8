/* The stencil driver: one input channel a group (depthwise layers, single-channel images), lanes over output pixels.
 *
 *     y[m][r][q] = b[m] + sum_t w[m][t] x[r, q, tap t]
 *
 *     for each image n, channel g, plane od, band of rows       a task
 *         copy the band's input, or point into the image
 *         for each of the channel's outputs m: stencil kernel over the whole band
 *
 * Rows of kernels longer than a vector are runs of neighbouring taps, whose loads two outputs share (kernels/stencil.inc).  Lone
 * rows, those of one axis, are read in place but for their ends.  One core of Zen 4: k31 over 4x512 rows of 2000 6.1 ms tap by tap,
 * 3.3 by runs, 4.1 by the planes driver; with a copy of each row k3 over 256 rows of 4096 220 us, in place 138, causal k4 over 768 of
 * 1024, input gradient 220, 168.  Fetching the next channel's row meanwhile: k3 174, k4 190, k31 the same.
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
    int64_t run; /* neighbouring taps, if they are more than a vector: all of a row, else 0 */
    int64_t first, end; /* of a lone row that is read in place but for its ends: the outputs whose windows lie inside; else both 0 */
    int in_place;
} layout;

/* Where the problem's rows are apart from each other, and long: the outputs whose windows lie inside, two vectors at least. */
static void find_inner(layout *l, const fc_conv *p)
{
    const fc_window *w = &p->window;
    for (int i = 0; i < 2; i++)
        if (w->in[i] != 1 || w->kernel[i] != 1 || w->out[i] != 1 || w->offset[i])
            return;
    int64_t reach = (w->kernel[2] - 1) * w->dilation[2], lanes = l->kernels->lanes;
    int64_t first = w->offset[2] > 0 ? fc_max(w->offset[2], lanes) : 0, end = fc_min(w->out[2], w->in[2] + w->offset[2] - reach);
    if (end < w->out[2])
        end = fc_min(end, w->out[2] - lanes);
    if (w->stride[2] == 1 && p->x.s[2] == 1 && end - first >= 2 * lanes) {
        l->first = first;
        l->end = end;
        l->source = (fc_source){.pitch = fc_max(first, w->out[2] - end) + reach};
        l->source.bytes = fc_bytes(l->source.pitch, l->kernels->size);
    }
}

static layout lay_out(const fc_conv_plan *plan)
{
    const fc_conv *p = &plan->problem;
    const fc_kernels *kernels = fc_dispatch(p->real);
    int64_t rows = plan->tile[ROWS], width = p->window.out[2];
    layout l = {.kernels = kernels, .bands = fc_ceil_div(p->window.out[1], rows), .width = fc_max(width, kernels->lanes)};
    l.source = fc_source_plan(p, kernels->size, 1, rows, width >= kernels->lanes);
    if (!l.source.in_place)
        find_inner(&l, p);
    l.weights = fc_weights_plan(p, kernels->size);
    l.run = p->window.stride[2] == 1 && p->window.dilation[2] == 1 && p->window.kernel[2] > kernels->lanes ? p->window.kernel[2] : 0;
    l.in_place = width >= kernels->lanes && p->y.s[2] == 1;
    if (!l.in_place)
        l.tile_bytes = fc_arena_round(fc_min(INT64_MAX / 4, fc_mul(fc_mul(rows, l.width), kernels->size)));
    l.offset_bytes = fc_arena_round(fc_min(INT64_MAX / 4, fc_mul(fc_taps(&p->window), sizeof(int64_t))));
    return l;
}

/* Nanoseconds of a vector's tap, and of two of a run that share a load, in the same measure. */
#define TAP 0.35
#define PAIR 0.16

static double tap_cost(const layout *l, double taps)
{
    int64_t rest = l->run % (2 * l->kernels->lanes), pairs = l->run / 2 - rest / 2 + fc_max(0, rest - l->kernels->lanes);
    return l->run ? taps * (TAP + (double)pairs / (double)l->run * (PAIR - 2 * TAP)) : taps * TAP;
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
    double copied = l.source.in_place ? 0 : l.end ? 2 * (double)l.source.pitch : (double)l.source.channel;
    double stored = l.in_place ? 0 : rows * (double)l.width;
    /* Calibrated on Zen 5, one thread: 1-D k4 768@1024 144 us, k31 4x512@2000 3.4 ms, 16x1-64 k7s4 @4000 190 us. */
    *cost = 300 + taps + tasks * (40 + outputs * (vectors * (1 + tap_cost(&l, taps)) + 5 * rows) +
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

/* `width` outputs of each row of a band whose input stands at `in`. */
static void run_band(const job *j, const void *w, const void *init, const void *in, void *y, int64_t rows, int64_t width)
{
    const layout *l = &j->l;
    const fc_conv *p = &j->plan->problem;
    int64_t taps = fc_taps(&p->window), pitch = l->source.pitch, y_row = l->in_place ? p->y.s[1] : l->width;
    if (l->run)
        l->kernels->stencil_runs(taps / l->run, j->offset, l->run, w, init, in, pitch, y, y_row, rows, width);
    else
        l->kernels->stencil(taps, j->offset, w, init, in, pitch, y, y_row, rows, width);
}

/* A lone row at x: inside in place, its ends from copies. */
static void run_row(const job *j, const void *w, const void *init, const char *x, char *y, void *copy)
{
    static const double zero = 0;
    const layout *l = &j->l;
    const fc_window *win = &j->plan->problem.window;
    int64_t size = l->kernels->size, reach = (win->kernel[2] - 1) * win->dilation[2];
    const int64_t begin[] = {0, l->end}, count[] = {l->first, win->out[2] - l->end};
    for (int i = 0; i < 2; i++) {
        if (!count[i])
            continue;
        l->kernels->gather_row(copy, count[i] + reach, x, 1, begin[i] - win->offset[2], 1, win->in[2], &zero);
        run_band(j, w, init, copy, fc_at(y, begin[i], size), 1, count[i]);
    }
    run_band(j, w, init, fc_at(x, l->first - win->offset[2], size), fc_at(y, l->first, size), 1, l->end - l->first);
}

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
    const void *in = l->end ? NULL : fc_source_take(&l->source, p, l->kernels, scratch, x, 1, od, oh);
    for (int64_t m = 0; m < p->out_channels; m++) {
        int64_t o = g * p->out_channels + m;
        const void *w = fc_at(j->w, g * l->weights.g + m * l->weights.o, size);
        const void *init = j->bias ? fc_at(j->bias, o, size) : NULL;
        char *y = fc_at(j->y, n * p->y.n + o * p->y.c + od * p->y.s[0] + oh * p->y.s[1], size), *out = l->in_place ? y : tile;
        if (l->end)
            run_row(j, w, init, x, out, scratch);
        else
            run_band(j, w, init, in, out, rows, l->width);
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
    int64_t *offset = (int64_t *)(void *)scratch;
    if (j.l.end)
        for (int64_t t = 0; t < p->window.kernel[2]; t++)
            offset[t] = t * p->window.dilation[2];
    else
        fc_source_offsets(&j.l.source, p, 1, offset);
    for (int64_t i = 0; j.l.run && i < fc_taps(&p->window) / j.l.run; i++)
        offset[i] = offset[i * j.l.run];
    j.offset = offset;
    scratch += j.l.offset_bytes;
    j.w = fc_weights_take(&j.l.weights, p, j.l.kernels, plan->threads, scratch, w);
    j.scratch = scratch + j.l.weights.bytes;
    j.worker_bytes = j.l.source.bytes + j.l.tile_bytes;
    fc_parallel(plan->threads, p->batch * p->groups * p->window.out[0] * j.l.bands, run_task, &j);
    fc_arena_give();
    return FC_OK;
}

const fc_driver fc_driver_stencil = {"stencil", plan_stencil, run_stencil, .bounded = 0};
