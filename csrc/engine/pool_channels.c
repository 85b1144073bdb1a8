/* The channels driver of pooling: lanes over the channels of one pixel, where channels are last in x and in y.
 *
 *     for each image n, plane od, output row oh                                    a unit
 *         for each run of neighbouring windows with equal taps as far apart as the first two
 *             reduce, reading x in place
 *
 * Nothing is copied or padded: clipped windows have shorter lists of taps.
 */
#include "engine/pool.h"

/* The most taps of one window, and windows of one run; what their lists take stays in cache. */
enum { TAPS_MAX = 1 << 16, RUN_MAX = 64 };

static double average_taps(const fc_pool *p)
{
    double taps = 1;
    for (int i = 0; i < FC_AXES; i++)
        taps *= (double)(p->adaptive ? p->window.in[i] / p->window.out[i] + 1 : fc_min(p->window.kernel[i], p->window.in[i]));
    return taps;
}

/* No window has more taps along the axis. */
static int64_t most_taps(const fc_pool *p, int axis)
{
    const fc_window *w = &p->window;
    return fc_min(w->in[axis], p->adaptive ? w->in[axis] / w->out[axis] + 2 : w->kernel[axis]);
}

const char *fc_pool_channels_book(fc_pool_plan *plan)
{
    const fc_pool *p = &plan->problem;
    const fc_window *w = &p->window;
    int64_t size = fc_dispatch(p->real)->size, taps = fc_mul(fc_mul(most_taps(p, 0), most_taps(p, 1)), most_taps(p, 2));
    if (taps > TAPS_MAX)
        return "the window has too many taps";
    if (plan->indexed && fc_mul(fc_mul(w->in[0], w->in[1]), w->in[2]) > INT32_MAX)
        return "the image has more pixels than the lanes of an index hold";
    plan->tile[0] = fc_arena_round(taps * (int64_t)sizeof(int64_t));
    plan->tile[1] = plan->indexed ? fc_arena_round(taps * size) : 0;
    int64_t lanes = plan->indexed ? fc_mul(fc_mul(fc_min(RUN_MAX, w->out[2]), p->channels), size) : 0;
    plan->worker = fc_add(plan->tile[0] + plan->tile[1], lanes);
    if (fc_mul(plan->worker, fc_threads_get()) > fc_scratch_max(fc_threads_get()))
        return "a row of indices exceeds the scratch bound";
    plan->worker = fc_arena_round(plan->worker);
    return NULL;
}

static const char *plan_channels(fc_pool_plan *plan, double *cost)
{
    const fc_pool *p = &plan->problem;
    const fc_window *w = &p->window;
    const fc_kernels *kernels = fc_dispatch(p->real);
    if (p->x.c != 1 || p->y.c != 1 || (plan->indexed && p->index.c != 1))
        return "channels are not last in memory";
    if (p->channels < kernels->lanes)
        return "there are fewer channels than lanes";
    const char *refusal = fc_pool_channels_book(plan);
    if (refusal)
        return refusal;
    plan->units = fc_mul(p->batch, fc_mul(w->out[0], w->out[1]));
    plan->shared = 0;
    double vectors = (double)fc_ceil_div(p->channels, kernels->lanes);
    *cost = 200 + (double)plan->units * (20 + (double)w->out[2] * (10 + vectors * (1 + average_taps(p) *
                                                                                           (plan->indexed ? 0.6 : 0.35))));
    return NULL;
}

/* The taps of a window, relative to its first inside x, in x and as lanes of an index. */
static int64_t list_taps(const fc_pool_job *j, const fc_pool_range range[FC_AXES], int64_t *offset, void *position)
{
    const fc_pool *p = &j->plan->problem;
    int64_t taps = 0;
    for (int64_t kd = 0; kd < range[0].taps; kd++)
        for (int64_t kh = 0; kh < range[1].taps; kh++)
            for (int64_t kw = 0; kw < range[2].taps; kw++, taps++) {
                int64_t d = kd * range[0].step, h = kh * range[1].step, w = kw * range[2].step;
                int64_t flat = (d * p->window.in[1] + h) * p->window.in[2] + w;
                offset[taps] = d * p->x.s[0] + h * p->x.s[1] + w * p->x.s[2];
                if (j->index && j->kernels->size == 4)
                    ((int32_t *)position)[taps] = (int32_t)flat;
                else if (j->index)
                    ((int64_t *)position)[taps] = flat;
            }
    return taps;
}

/* Windows from ow on, at most RUN_MAX, that differ from the first by their place only, `step` positions from one to the next. */
static int64_t run_length(const fc_pool *p, int64_t ow, const fc_pool_range *first, int64_t *step)
{
    int64_t most = fc_min(RUN_MAX, p->window.out[2] - ow), run = 1;
    *step = 0;
    for (; run < most; run++) {
        fc_pool_range next = fc_pool_stop(p, 2, ow + run);
        *step = run == 1 ? next.first - first->first : *step;
        if (next.taps != first->taps || next.first != first->first + run * *step)
            break;
    }
    return run;
}

static void run_windows(const fc_pool_job *j, int64_t n, const int64_t stop[FC_AXES], const fc_pool_range range[FC_AXES],
                        int64_t run, int64_t step, int64_t taps, char *scratch)
{
    const fc_pool *p = &j->plan->problem;
    int64_t size = j->kernels->size, from = n * p->x.n, to = n * p->y.n, index = n * p->index.n;
    for (int i = 0; i < FC_AXES; i++) {
        from += range[i].first * p->x.s[i];
        to += stop[i] * p->y.s[i];
        index += stop[i] * p->index.s[i];
    }
    int64_t *offset = (int64_t *)(void *)scratch;
    char *position = scratch + j->plan->tile[0], *lanes = position + j->plan->tile[1];
    const void *x = fc_at(j->x, taps ? from : 0, size);
    void *y = fc_at(j->y, to, size);
    int64_t x_row = step * p->x.s[2];
    if (p->kind == FC_POOL_MEAN) {
        double divisor[RUN_MAX], across = (double)range[0].count * (double)range[1].count;
        for (int64_t r = 0; r < run; r++)
            divisor[r] = fc_pool_divisor(p, across * (double)fc_pool_stop(p, 2, stop[2] + r).count);
        j->kernels->pool.mean(taps, offset, divisor, x, x_row, y, p->y.s[2], run, p->channels);
    } else if (j->index) {
        int64_t base = fc_pool_first(p, stop[0], stop[1], stop[2]);
        j->kernels->pool.max_index(taps, offset, position, 0, x, x_row, y, p->y.s[2], lanes, p->channels, run,
                                   p->channels);
        for (int64_t r = 0; r < run; r++)
            j->kernels->pool.index(j->index + index + r * p->index.s[2], 1, fc_at(lanes, r * p->channels, size),
                                   base + r * step, 0, p->channels);
    } else {
        j->kernels->pool.max(taps, offset, x, x_row, y, p->y.s[2], run, p->channels);
    }
}

void fc_pool_channels_run(const fc_pool_job *j, int64_t begin, int64_t end, char *scratch)
{
    const fc_pool *p = &j->plan->problem;
    const int64_t *out = p->window.out;
    fc_pool_range range[FC_AXES];
    for (int64_t unit = begin; unit < end; unit++) {
        int64_t n = unit / out[1] / out[0], stop[FC_AXES] = {unit / out[1] % out[0], unit % out[1], 0};
        int64_t listed = -1, taps = 0, run, step;
        range[0] = fc_pool_stop(p, 0, stop[0]);
        range[1] = fc_pool_stop(p, 1, stop[1]);
        for (; stop[2] < out[2]; stop[2] += run) {
            range[2] = fc_pool_stop(p, 2, stop[2]);
            run = run_length(p, stop[2], &range[2], &step);
            if (range[2].taps != listed)
                taps = list_taps(j, range, (int64_t *)(void *)scratch, scratch + j->plan->tile[0]);
            listed = range[2].taps;
            run_windows(j, n, stop, range, run, step, taps, scratch);
        }
    }
}

const fc_pool_driver fc_pool_driver_channels = {"channels", plan_channels, NULL, fc_pool_channels_run};
