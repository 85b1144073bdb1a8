/* The box driver of pooling: one window after the other, lanes along its rows.  For windows of unequal sizes (adaptive
 * pooling), and for few and large ones (global pooling).
 *
 *     for each group of planes that fit in cache                                   units are planes
 *         for each output: find its box, clipped to the image
 *             for each plane of the group: reduce the box
 *
 * So the finding is paid once per group.  A box that takes whole rows of a contiguous image is one long row.  The smallest problems
 * take it as well, since its plan is short: 2x2 over 2 planes of 6x6, a whole call, 0.90 us by rows, now 0.83 (and a mean 0.82).
 */
#include "engine/pool.h"

enum { GROUP_BYTES = 16 << 10 };
enum { TOTAL_MAX = 1 << 14 }; /* elements of a mean whose partial sums, a lane of four vectors each, are reals */

typedef struct box {
    fc_pool_range range[FC_AXES];
    int64_t n[FC_AXES], stride[FC_AXES]; /* in x */
    int64_t x, y, index;                 /* where it begins in a plane, and where its result goes */
    double divisor;
} box;

/* Rows that follow each other without gaps become one. */
static void merge_axes(box *b)
{
    for (int i = FC_AXES - 1; i > 0; i--) {
        if (b->n[i - 1] > 1 && b->stride[i - 1] != b->n[FC_AXES - 1] * b->stride[FC_AXES - 1])
            return;
        b->n[FC_AXES - 1] *= b->n[i - 1];
        b->n[i - 1] = 1;
    }
}

/* All but what the box covers of each axis, which it holds already. */
static void find_box(const fc_pool *p, const int64_t stop[FC_AXES], box *b)
{
    double count = 1;
    b->x = b->y = b->index = 0;
    for (int i = 0; i < FC_AXES; i++) {
        b->n[i] = b->range[i].taps;
        b->stride[i] = b->range[i].step * p->x.s[i];
        b->x += b->range[i].first * p->x.s[i];
        b->y += stop[i] * p->y.s[i];
        b->index += stop[i] * p->index.s[i];
        count *= (double)b->range[i].count;
    }
    b->divisor = fc_pool_divisor(p, count);
    merge_axes(b);
}

/* That of the first stop. */
static box first_box(const fc_pool *p)
{
    const int64_t stop[FC_AXES] = {0};
    box b = {.range = {fc_pool_stop(p, 0, 0), fc_pool_stop(p, 1, 0), fc_pool_stop(p, 2, 0)}};
    find_box(p, stop, &b);
    return b;
}

/* The flat index of the box's tap number `tap`. */
static int64_t flat_index(const fc_pool *p, const box *b, int64_t tap)
{
    const fc_pool_range *r = b->range;
    int64_t w = tap % r[2].taps, h = tap / r[2].taps % r[1].taps, d = tap / r[2].taps / r[1].taps;
    int64_t row = (r[0].first + d * r[0].step) * p->window.in[1] + r[1].first + h * r[1].step;
    return row * p->window.in[2] + r[2].first + w * r[2].step;
}

static void put(const fc_kernels *kernels, void *y, double value)
{
    if (kernels->size == 4)
        *(float *)y = (float)value;
    else
        *(double *)y = value;
}

static void reduce(const fc_pool_job *j, const box *b, const int64_t stop[FC_AXES], int64_t n, int64_t c)
{
    const fc_pool *p = &j->plan->problem;
    const fc_pool_kernels *pool = &j->kernels->pool;
    int64_t size = j->kernels->size, tap = 0, empty = !b->n[0] || !b->n[1] || !b->n[2];
    const void *x = fc_at(j->x, empty ? 0 : n * p->x.n + c * p->x.c + b->x, size);
    void *y = fc_at(j->y, n * p->y.n + c * p->y.c + b->y, size);
    int64_t *index = j->index ? j->index + n * p->index.n + c * p->index.c + b->index : NULL;
    if (p->kind == FC_POOL_MEAN) {
        double sum;
        pool->box_sum(b->n, b->stride, x, &sum);
        put(j->kernels, y, sum / b->divisor);
    } else if (!index) {
        pool->box_max(b->n, b->stride, x, y);
    } else {
        pool->box_max_index(b->n, b->stride, x, y, &tap);
        *index = empty ? fc_pool_first(p, stop[0], stop[1], stop[2]) : flat_index(p, b, tap);
    }
}

/* A plane each that is one row: a vector of means at a time. */
static void mean_planes(const fc_pool_job *j, const box *b, int64_t begin, int64_t end)
{
    const fc_pool *p = &j->plan->problem;
    int64_t size = j->kernels->size, lanes = j->kernels->lanes;
    for (int64_t i = begin, count; i < end; i += count) {
        int64_t n = i / p->channels, c = i % p->channels;
        const void *plane[FC_LANES_MAX];
        double mean[FC_LANES_MAX];
        count = fc_min(lanes, fc_min(end - i, p->channels - c));
        for (int64_t l = 0; l < lanes; l++)
            plane[l] = fc_at(j->x, n * p->x.n + (c + fc_min(l, count - 1)) * p->x.c + b->x, size);
        j->kernels->pool.plane_means(mean, plane, b->n[2], b->divisor);
        j->kernels->scatter_row(fc_at(j->y, n * p->y.n + c * p->y.c, size), p->y.c, mean, count, 0);
    }
}

static int is_row(const fc_pool *p, const box *b, int64_t lanes)
{
    return p->kind == FC_POOL_MEAN && fc_outputs(&p->window) == 1 && b->n[0] * b->n[1] == 1 && b->stride[2] == 1 &&
           b->n[2] >= lanes && b->n[2] <= TOTAL_MAX;
}

static int64_t most_taps(const fc_pool *p, int axis)
{
    const fc_window *w = &p->window;
    return p->adaptive ? fc_ceil_div(w->in[axis], w->out[axis]) : fc_min(w->kernel[axis], w->in[axis]);
}

static const char *plan_box(fc_pool_plan *plan, double *cost)
{
    const fc_pool *p = &plan->problem;
    plan->units = fc_pool_planes(p);
    plan->shared = plan->worker = 0;
    double rows = (double)most_taps(p, 0) * (double)most_taps(p, 1), row = (double)most_taps(p, 2);
    if (p->x.s[2] == 1 && row == (double)p->window.in[2]) {
        row *= rows;
        rows = 1;
    }
    double lanes = p->x.s[2] == 1 ? (double)fc_dispatch(p->real)->lanes : 1;
    double each = 9 + rows * (1 + (row < lanes ? 0.8 * row : row / lanes + 4)) * (plan->indexed ? 2 : 1);
    *cost = 150 + (double)plan->units * (double)fc_outputs(&p->window) * each;
    box whole = first_box(p);
    if (is_row(p, &whole, fc_dispatch(p->real)->lanes))
        *cost = 150 + (double)plan->units * (3 + 0.08 * row);
    return NULL;
}

/* All outputs of planes begin ... end. */
static void reduce_group(const fc_pool_job *j, int64_t begin, int64_t end)
{
    const fc_pool *p = &j->plan->problem;
    const int64_t *out = p->window.out;
    int64_t stop[FC_AXES], n0 = begin / p->channels, c0 = begin % p->channels;
    box b;
    for (stop[0] = 0; stop[0] < out[0]; stop[0]++) {
        b.range[0] = fc_pool_stop(p, 0, stop[0]);
        for (stop[1] = 0; stop[1] < out[1]; stop[1]++) {
            b.range[1] = fc_pool_stop(p, 1, stop[1]);
            for (stop[2] = 0; stop[2] < out[2]; stop[2]++) {
                b.range[2] = fc_pool_stop(p, 2, stop[2]);
                find_box(p, stop, &b);
                for (int64_t i = begin, n = n0, c = c0; i < end; i++) {
                    reduce(j, &b, stop, n, c);
                    if (++c == p->channels) {
                        c = 0;
                        n++;
                    }
                }
            }
        }
    }
}

static void run_box(const fc_pool_job *j, int64_t begin, int64_t end, char *scratch)
{
    (void)scratch;
    const fc_pool *p = &j->plan->problem;
    const int64_t *in = p->window.in;
    int64_t plane = fc_mul(fc_mul(in[0], in[1]), fc_mul(in[2], j->kernels->size));
    int64_t group = fc_max(1, GROUP_BYTES / fc_max(1, plane));
    box whole = first_box(p);
    if (is_row(p, &whole, j->kernels->lanes)) {
        mean_planes(j, &whole, begin, end);
        return;
    }
    for (int64_t first = begin; first < end; first += group)
        reduce_group(j, first, fc_min(end, first + group));
}

const fc_pool_driver fc_pool_driver_box = {"box", plan_box, NULL, run_box};
