/* Pooling: sizes, and the choice among five drivers by estimated cost.  The first of the list always applies: the
 * boxes, whose plan is short, as the smallest problems need. */
#include "engine/pool.h"

#include <math.h>

static const fc_pool_driver *const drivers[] = {&fc_pool_driver_box, &fc_pool_driver_channels, &fc_pool_driver_narrow,
                                                &fc_pool_driver_rows, &fc_pool_driver_planes};
enum { DRIVERS = sizeof drivers / sizeof drivers[0] };

/* Nanoseconds: below SERIAL one thread does it all (waking another costs 5-50 us), a task takes about TASK. */
enum { SERIAL = 30000, TASK = 15000 };

/* No size or position reaches it, so that sums of a few do not overflow. */
#define SIZE_BOUND (INT64_MAX / 8)

int64_t fc_pool_size(int64_t in, int64_t kernel, int64_t stride, int64_t padding, int64_t dilation, int ceil_mode)
{
    int64_t reach = fc_add(fc_mul(kernel - 1, dilation), 1);
    if (in > SIZE_BOUND || padding > SIZE_BOUND || reach > SIZE_BOUND)
        return 0;
    int64_t room = fc_add(in + 2 * padding - reach, ceil_mode ? stride - 1 : 0);
    if (room < 0)
        return 0;
    int64_t out = room / stride + 1;
    /* The last window must begin inside the input or the padding before it. */
    return ceil_mode && fc_mul(out - 1, stride) >= in + padding ? out - 1 : out;
}

int fc_pool_threads(double cost)
{
    return cost < SERIAL ? 1 : fc_threads_get();
}

int64_t fc_pool_units_per_task(double cost, int64_t units, int threads)
{
    double each = cost / (double)fc_max(units, 1);
    int64_t share = fc_ceil_div(units, threads);
    return each * (double)share <= TASK ? fc_max(share, 1) : fc_max(1, (int64_t)(TASK / each));
}

fc_status fc_pool_simplify(fc_window *w)
{
    for (int i = 0; i < FC_AXES; i++) {
        w->stride[i] = w->out[i] == 1 ? 1 : w->stride[i];
        w->dilation[i] = w->kernel[i] == 1 ? 1 : w->dilation[i];
        int64_t span = fc_add(fc_mul(w->out[i], w->stride[i]), fc_mul(w->kernel[i], w->dilation[i]));
        if (w->in[i] < 0 || w->out[i] < 0 || w->kernel[i] < 1 || w->stride[i] < 1 || w->dilation[i] < 1 || w->offset[i] < 0 ||
            span > SIZE_BOUND || w->offset[i] > SIZE_BOUND)
            return FC_INVALID;
    }
    return FC_OK;
}

/* Makes the windows of an adaptive problem regular where sizes leave a rest of at most 1: then they overlap by that, 13 to 6 are
 * windows of 3 at stride 2. */
static fc_status regularize(fc_pool *p)
{
    fc_window *w = &p->window;
    int equal = 1;
    for (int i = 0; i < FC_AXES; i++) {
        if (w->in[i] < 1 || w->out[i] < 0 || fc_mul(w->in[i], fc_add(w->out[i], 1)) > SIZE_BOUND)
            return FC_INVALID;
        equal &= w->out[i] > 0 && w->in[i] >= w->out[i] && w->in[i] % w->out[i] <= 1;
    }
    for (int i = 0; equal && i < FC_AXES; i++) {
        w->stride[i] = w->in[i] / w->out[i];
        w->kernel[i] = fc_ceil_div(w->in[i], w->out[i]);
        w->dilation[i] = 1;
        w->offset[i] = 0;
    }
    p->adaptive = !equal;
    return FC_OK;
}

fc_status fc_pool_normalize(fc_pool *p)
{
    if (p->adaptive && regularize(p))
        return FC_INVALID;
    if (!p->adaptive && fc_pool_simplify(&p->window))
        return FC_INVALID;
    return fc_mul(fc_mul(p->batch, p->channels), fc_outputs(&p->window)) > SIZE_BOUND ? FC_INVALID : FC_OK;
}

fc_status fc_pool_plan_make(fc_pool_plan *plan, const fc_pool *problem, int indexed)
{
    *plan = (fc_pool_plan){.problem = *problem, .driver = -1, .indexed = indexed};
    fc_pool *p = &plan->problem;
    if (fc_pool_normalize(p))
        return FC_INVALID;
    if (!fc_pool_planes(p) || !fc_outputs(&p->window))
        return FC_OK;
    double least = INFINITY;
    fc_pool_plan candidate = *plan;
    for (int i = 0; i < DRIVERS && !(least < FC_ENOUGH); i++) {
        double cost;
        if (drivers[i]->plan(&candidate, &cost) || !(cost < least))
            continue;
        least = cost;
        *plan = candidate;
        plan->driver = i;
    }
    plan->threads = fc_pool_threads(least);
    plan->units_per_task = plan->threads == 1 ? plan->units : fc_pool_units_per_task(least, plan->units, plan->threads);
    plan->scratch = fc_add(plan->shared, fc_mul(plan->threads, plan->worker));
    return FC_OK;
}

static void run_task(void *context, int64_t task, int worker)
{
    const fc_pool_job *j = context;
    const fc_pool_plan *plan = j->plan;
    int64_t begin = task * plan->units_per_task, end = fc_min(plan->units, begin + plan->units_per_task);
    drivers[plan->driver]->run(j, begin, end, j->shared + plan->shared + worker * plan->worker);
}

fc_status fc_pool_execute(const fc_pool_plan *plan, const void *x, void *y, int64_t *index)
{
    if (plan->driver < 0)
        return FC_OK;
    const fc_pool_driver *driver = drivers[plan->driver];
    fc_pool_job j = {plan, fc_dispatch(plan->problem.real), x, y, index, fc_arena_take(plan->scratch)};
    if (!j.shared)
        return FC_NO_MEMORY;
    if (driver->prepare)
        driver->prepare(&j);
    fc_parallel(plan->threads, fc_ceil_div(plan->units, plan->units_per_task), run_task, &j);
    fc_arena_give();
    return FC_OK;
}
