/* What pooling's chooser and drivers share.
 *
 * A driver cuts a problem into units, numbered from 0, that write different outputs.  The chooser groups units into tasks,
 * so a driver knows neither threads nor allocation.  To add one: its own file and a row in the list of pool.c.
 */
#ifndef FC_ENGINE_POOL_H
#define FC_ENGINE_POOL_H

#include "base/size.h"
#include "engine/conv.h"

typedef struct fc_pool_job {
    const fc_pool_plan *plan;
    const fc_kernels *kernels;
    const char *x;
    char *y;
    int64_t *index; /* NULL where not wanted */
    char *shared;   /* scratch of plan->shared bytes */
} fc_pool_job;

typedef struct fc_pool_driver {
    const char *name;
    /* Fills plan->tile, units, shared and worker, and *cost (estimated nanoseconds on one thread), or says why not. */
    const char *(*plan)(fc_pool_plan *plan, double *cost);
    void (*prepare)(const fc_pool_job *job); /* fills the shared scratch; may be NULL */
    void (*run)(const fc_pool_job *job, int64_t begin, int64_t end, char *scratch);
} fc_pool_driver;

extern const fc_pool_driver fc_pool_driver_rows, fc_pool_driver_channels, fc_pool_driver_planes, fc_pool_driver_box,
    fc_pool_driver_narrow;

/* What stop `o` of an axis covers: positions first, first + step, ..., `taps` of them, all inside x. */
typedef struct fc_pool_range {
    int64_t first, taps, step;
    int64_t count; /* what a mean divides by: taps, and those in the padding where they count */
} fc_pool_range;

static inline fc_pool_range fc_pool_stop(const fc_pool *p, int axis, int64_t o)
{
    const fc_window *w = &p->window;
    int64_t in = w->in[axis], kernel = w->kernel[axis], step = w->dilation[axis], offset = w->offset[axis];
    if (p->adaptive) {
        int64_t first = o * in / w->out[axis], taps = fc_ceil_div((o + 1) * in, w->out[axis]) - first;
        return (fc_pool_range){first, taps, 1, taps};
    }
    int64_t start = o * w->stride[axis] - offset, skipped = start < 0 ? -start : 0, first = fc_max(0, start), inside = in - first;
    if (step > 1) { /* divisions cost more than a short row of outputs */
        skipped = fc_ceil_div(skipped, step);
        first = start + skipped * step;
        inside = fc_ceil_div(in - first, step);
    }
    int64_t taps = fc_max(0, fc_min(kernel - skipped, inside));
    return (fc_pool_range){first, taps, step, p->count_padding ? fc_min(start + kernel, in + offset) - start : taps};
}

/* Flat index of the first tap inside x of one output's window; of x's last element where the window sees padding alone,
 * which takes a dilation larger than x. */
static inline int64_t fc_pool_first(const fc_pool *p, int64_t od, int64_t oh, int64_t ow)
{
    const int64_t stop[FC_AXES] = {od, oh, ow}, *in = p->window.in;
    int64_t flat = 0;
    for (int i = 0; i < FC_AXES; i++)
        flat = flat * in[i] + fc_min(fc_pool_stop(p, i, stop[i]).first, in[i] - 1);
    return flat;
}

/* Forgets strides and dilations that mean nothing, so that no position overflows.  FC_INVALID where one could, or where a
 * size is none. */
fc_status fc_pool_simplify(fc_window *window);

/* Also turns an adaptive problem with equal windows into a regular one. */
fc_status fc_pool_normalize(fc_pool *problem);

/* What stop (d, h, w) of a mean is divided by, given the ranges' product. */
static inline double fc_pool_divisor(const fc_pool *p, double count)
{
    return p->divisor != 0 ? p->divisor : count;
}

/* Whether every stop along w divides by the same count. */
static inline int fc_pool_divides_evenly(const fc_pool *p)
{
    const fc_window *w = &p->window;
    int64_t end = (w->out[2] - 1) * w->stride[2] - w->offset[2] + w->kernel[2];
    if (p->kind == FC_POOL_MAX || p->divisor != 0)
        return 1;
    return p->count_padding ? end <= w->in[2] + w->offset[2] : w->offset[2] == 0 && end <= w->in[2];
}

/* What windows of a problem whose channels are last take of a worker: books plan->tile[0], tile[1] and worker, or says why it
 * is too much.  Then output rows [begin, end), numbered through images and planes. */
const char *fc_pool_channels_book(fc_pool_plan *plan);
void fc_pool_channels_run(const fc_pool_job *job, int64_t begin, int64_t end, char *scratch);

static inline int64_t fc_pool_planes(const fc_pool *p)
{
    return p->batch * p->channels;
}

/* Whether planes of this size follow each other without gaps, in them or between. */
static inline int fc_pool_is_dense(const fc_pool *p, const fc_array_strides *s, const int64_t size[FC_AXES])
{
    int64_t rows = fc_mul(size[1], size[2]), plane = fc_mul(size[0], rows);
    return s->s[2] == 1 && (size[1] == 1 || s->s[1] == size[2]) && (size[0] == 1 || s->s[0] == rows) &&
           (p->channels == 1 || s->c == plane) && (p->batch == 1 || s->n == fc_mul(p->channels, plane));
}

/* The stops of an axis that meet positions [begin, end) of x: the first, and how many.  Of a mean. */
static inline void fc_pool_meet(const fc_pool *p, int axis, int64_t begin, int64_t end, int64_t *first, int64_t *count)
{
    const fc_window *w = &p->window;
    int64_t in = w->in[axis], out = w->out[axis], stride = w->stride[axis], last;
    if (p->adaptive) {
        *first = begin * out / in;
        last = fc_ceil_div(end * out, in);
    } else {
        int64_t before = begin + w->offset[axis] - w->kernel[axis];
        *first = before < 0 ? 0 : before / stride + 1;
        last = (end - 1 + w->offset[axis]) / stride + 1;
    }
    *count = fc_max(0, fc_min(last, out) - *first);
}

/* What all windows of a mean over such planes are divided by, after their sum; 0 where they differ, or of other planes. */
double fc_pool_narrow_divisor(const fc_pool *problem);

/* The gradient of a normalised mean, planes no wider than a vector: whether they and their divisor are such, and what it is. */
int fc_pool_narrow_serves(const fc_pool *problem);
fc_status fc_pool_narrow_adjoint(const fc_pool *problem, void *x, const void *y);

/* The gradient of a normalised mean, lanes over planes: whether its copies fit, and what it is. */
int fc_pool_planes_serve(const fc_pool *problem);
fc_status fc_pool_planes_adjoint(const fc_pool *problem, void *x, const void *y);

/* The gradient of a normalised mean whose windows are regular and overlap little: whether it is one, and what it is. */
int fc_pool_spreads(const fc_pool *problem);
fc_status fc_pool_spread(const fc_pool *problem, void *x, const void *y);

/* Units per task: enough to be worth claiming, few enough to share out. */
int64_t fc_pool_units_per_task(double cost, int64_t units, int threads);

/* How many threads a call of this cost (nanoseconds on one) should use. */
int fc_pool_threads(double cost);

#endif
