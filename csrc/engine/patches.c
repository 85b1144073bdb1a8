/* unfold and fold: rows of outputs, tap by tap; gather_row and scatter_row solve padding, strides and layouts. */
#include "engine/pool.h"

#include <string.h>

typedef struct job {
    fc_patches p;
    const fc_kernels *kernels;
    char *x, *columns, *scratch;
    int64_t units_per_task, worker_bytes;
} job;

enum { ROW = 1024 }; /* outputs whose columns are made contiguous at a time */

static fc_status prepare(job *j, const fc_patches *problem)
{
    j->p = *problem;
    j->kernels = fc_dispatch(problem->real);
    fc_window *w = &j->p.window;
    int64_t columns = fc_mul(fc_mul(problem->batch, problem->channels), fc_mul(fc_taps(w), fc_outputs(w)));
    return columns == INT64_MAX ? FC_INVALID : fc_pool_simplify(w);
}

static double cost_of(const fc_patches *p)
{
    const fc_window *w = &p->window;
    double rows = (double)w->out[0] * (double)w->out[1] * (double)fc_taps(w) * (double)p->batch * (double)p->channels;
    return rows * (5 + 0.3 * (double)w->out[2]);
}

/* Where tap (kd, kh, kw) of stop row (od, oh) reads: the first element of a row of x, or NULL in the padding. */
static char *tap_row(const job *j, char *x, int64_t kd, int64_t kh, int64_t od, int64_t oh)
{
    const fc_patches *p = &j->p;
    const fc_window *w = &p->window;
    int64_t id = od * w->stride[0] + kd * w->dilation[0] - w->offset[0];
    int64_t ih = oh * w->stride[1] + kh * w->dilation[1] - w->offset[1];
    if (id < 0 || id >= w->in[0] || ih < 0 || ih >= w->in[1])
        return NULL;
    return fc_at(x, id * p->x.s[0] + ih * p->x.s[1], j->kernels->size);
}

static void unfold_tap(const job *j, char *x, char *columns, int64_t tap)
{
    static const double zero = 0;
    const fc_patches *p = &j->p;
    const fc_window *w = &p->window;
    int64_t kw = tap % w->kernel[2], kh = tap / w->kernel[2] % w->kernel[1], kd = tap / w->kernel[2] / w->kernel[1];
    for (int64_t o = 0; o < w->out[0] * w->out[1]; o++) {
        const char *row = tap_row(j, x, kd, kh, o / w->out[1], o % w->out[1]);
        j->kernels->gather_row(fc_at(columns, o * w->out[2], j->kernels->size), w->out[2], row, p->x.s[2],
                               kw * w->dilation[2] - w->offset[2], w->stride[2], w->in[2], &zero);
    }
}

static void run_unfold(void *context, int64_t task, int worker)
{
    (void)worker;
    const job *j = context;
    const fc_patches *p = &j->p;
    int64_t taps = fc_taps(&p->window), units = p->batch * p->channels * taps, begin = task * j->units_per_task;
    for (int64_t unit = begin; unit < fc_min(units, begin + j->units_per_task); unit++) {
        int64_t tap = unit % taps, c = unit / taps % p->channels, n = unit / taps / p->channels;
        unfold_tap(j, fc_at(j->x, n * p->x.n + c * p->x.c, j->kernels->size),
                   fc_at(j->columns, n * p->n + c * p->c + tap * p->tap, j->kernels->size), tap);
    }
}

fc_status fc_unfold(const fc_patches *problem, const void *x, void *columns)
{
    job j = {.x = fc_at(x, 0, 1), .columns = columns};
    if (prepare(&j, problem))
        return FC_INVALID;
    const fc_patches *p = &j.p;
    int64_t units = p->batch * p->channels * fc_taps(&p->window);
    double cost = cost_of(p);
    int threads = fc_pool_threads(cost);
    j.units_per_task = fc_pool_units_per_task(cost, units, threads);
    fc_parallel(threads, fc_ceil_div(units, j.units_per_task), run_unfold, &j);
    return FC_OK;
}

/* Adds stops [begin, end) of one row of outputs, at src with the columns' stride, to a row of x. */
static void fold_row(const job *j, char *row, const char *src, int64_t begin, int64_t end, int64_t kw, char *scratch)
{
    static const double zero = 0;
    const fc_patches *p = &j->p;
    const fc_window *w = &p->window;
    int64_t size = j->kernels->size, step = w->stride[2] * p->x.s[2];
    row = fc_at(row, (begin * w->stride[2] + kw * w->dilation[2] - w->offset[2]) * p->x.s[2], size);
    if (p->stop == 1) {
        j->kernels->scatter_row(row, step, fc_at(src, begin, size), end - begin, 1);
        return;
    }
    for (int64_t at = begin; at < end; at += ROW, row += ROW * step * size) {
        int64_t count = fc_min(ROW, end - at);
        j->kernels->gather_row(scratch, count, fc_at(src, at * p->stop, size), p->stop, 0, 1, count, &zero);
        j->kernels->scatter_row(row, step, scratch, count, 1);
    }
}

static void fold_plane(const job *j, char *x, const char *columns, char *scratch)
{
    const fc_patches *p = &j->p;
    const fc_window *w = &p->window;
    for (int64_t tap = 0; tap < fc_taps(w); tap++) {
        int64_t kw = tap % w->kernel[2], kh = tap / w->kernel[2] % w->kernel[1], kd = tap / w->kernel[2] / w->kernel[1];
        int64_t before = w->offset[2] - kw * w->dilation[2], after = before + w->in[2] - 1;
        int64_t begin = before > 0 ? fc_ceil_div(before, w->stride[2]) : 0;
        int64_t end = after < 0 ? 0 : fc_min(w->out[2], after / w->stride[2] + 1);
        for (int64_t o = 0; begin < end && o < w->out[0] * w->out[1]; o++) {
            char *row = tap_row(j, x, kd, kh, o / w->out[1], o % w->out[1]);
            if (row)
                fold_row(j, row, fc_at(columns, tap * p->tap + o * w->out[2] * p->stop, j->kernels->size), begin, end, kw,
                         scratch);
        }
    }
}

static void run_fold(void *context, int64_t task, int worker)
{
    const job *j = context;
    const fc_patches *p = &j->p;
    int64_t planes = p->batch * p->channels, begin = task * j->units_per_task, size = j->kernels->size;
    int64_t plane = p->window.in[0] * p->window.in[1] * p->window.in[2];
    for (int64_t unit = begin; unit < fc_min(planes, begin + j->units_per_task); unit++) {
        int64_t n = unit / p->channels, c = unit % p->channels;
        char *x = fc_at(j->x, n * p->x.n + c * p->x.c, size);
        memset(x, 0, (size_t)(plane * size));
        fold_plane(j, x, fc_at(j->columns, n * p->n + c * p->c, size), j->scratch + worker * j->worker_bytes);
    }
}

fc_status fc_fold(const fc_patches *problem, const void *columns, void *x)
{
    job j = {.x = x, .columns = fc_at(columns, 0, 1)};
    if (prepare(&j, problem))
        return FC_INVALID;
    const fc_patches *p = &j.p;
    int64_t units = p->batch * p->channels;
    double cost = 2 * cost_of(p);
    int threads = fc_pool_threads(cost);
    j.units_per_task = fc_pool_units_per_task(cost, units, threads);
    j.worker_bytes = p->stop == 1 ? 0 : ROW * j.kernels->size;
    j.scratch = fc_arena_take(threads * j.worker_bytes);
    if (!j.scratch)
        return FC_NO_MEMORY;
    fc_parallel(threads, fc_ceil_div(units, j.units_per_task), run_fold, &j);
    fc_arena_give();
    return FC_OK;
}
