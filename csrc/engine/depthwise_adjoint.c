/* The adjoint of a depthwise convolution of stride 2, all four phases of a channel at once.
 *
 *     for each image n, channel g, band of row pairs      a unit; several a task
 *         table of the rows of y that the band meets: in place, copied at the image's ends, zeros in the padding
 *         weave kernel over the band: whole vectors of x
 *
 * adjoint.c would write each phase to every second place of x in a pass of its own.  What the next unit reads is fetched meanwhile.
 * On one core of Zen 5, us: 3x3 64@112 133 with the phases in tiles woven afterwards, 57 so; by the planes driver 132.
 *
 * Scratch: weights as rows, a row of zeros; per worker a table and rows copied.
 */
#include "engine/depthwise.h"

#include "engine/gemm.h"
#include "engine/weights.h"

enum { PAIRS, UNITS };                     /* plan->tile: pairs of rows of a band, units of a task */
enum { BAND_BYTES = 48 << 10, TASK_NS = 4000 }; /* of x in a band; a few microseconds are worth claiming */

typedef struct job {
    const fc_conv_plan *plan;
    const fc_kernels *kernels;
    fc_depthwise_weave_kernel kernel;
    fc_weave_window window;
    fc_weights weights;
    fc_rows rows;
    int64_t bands, units;
    int64_t above, most; /* rows of y before the one at a pair's place, and all that a band meets */
    int64_t table_bytes, worker_bytes, zero_bytes;
    const void *zero;
    const char *w, *bias, *y;
    char *x, *scratch;
} job;

static const char *refusal(const fc_conv *p)
{
    const fc_window *w = &p->window;
    if (p->channels != 1 || p->out_channels != 1)
        return "a group has more than one channel";
    if (p->x.s[2] != 1)
        return "elements of a row of the result are no neighbours in memory";
    for (int i = 1; i < FC_AXES; i++)
        if (w->stride[i] != 2 || w->dilation[i] != 1 || w->kernel[i] < FC_WEAVE_SIDE_MIN || w->kernel[i] > FC_WEAVE_SIDE_MAX)
            return "not stride 2 and a kernel of 3x3 to 5x5 without dilation";
    if (w->kernel[1] != w->kernel[2] || (w->offset[1] - w->offset[2]) % 2)
        return "rows and columns have different kernels, or even padding and odd";
    if (w->kernel[0] != 1 || w->in[0] != 1 || w->out[0] != 1 || w->offset[0] || !w->out[1] || !w->out[2])
        return "there is depth, or nothing to sum";
    return NULL;
}

static job lay_out(const fc_conv_plan *plan)
{
    const fc_conv *p = &plan->problem;
    const fc_window *w = &p->window;
    job j = {.plan = plan, .kernels = fc_dispatch(p->real), .weights = fc_weights_plan(p, fc_dispatch(p->real)->size)};
    int64_t size = j.kernels->size, pairs = plan->tile[PAIRS], padding = w->offset[1] & 1, half = (w->in[2] + 1) / 2;
    j.kernel = j.kernels->depthwise_weave[padding][w->kernel[1] - FC_WEAVE_SIDE_MIN];
    j.window = (fc_weave_window){(w->offset[2] - padding) / 2, w->out[2], w->in[2]};
    j.above = (w->kernel[1] - 1 - padding) / 2;
    j.most = pairs + j.above + padding;
    j.bands = fc_ceil_div((w->in[1] + 1) / 2, pairs);
    j.units = p->batch * p->groups * j.bands;
    j.rows = fc_rows_plan(size, w->out[1], w->out[2], p->y.s[1], p->y.s[2], fc_max(0, j.above - j.window.shift),
                          fc_max(0, fc_max(half, j.kernels->lanes) + j.window.shift + padding), j.most);
    j.zero_bytes = fc_rows_zero_bytes(&j.rows, size);
    j.table_bytes = fc_arena_round(j.most * (int64_t)sizeof(void *));
    j.worker_bytes = fc_add(j.table_bytes, j.rows.bytes);
    return j;
}

/* Nanoseconds of a unit, a pair of rows, a vector of each phase and a product of one, on Zen 5 (64@112, 144@56, 256@28, 512@14). */
#define UNIT 35
#define PAIR 0.5
#define VECTORS 2
#define PRODUCT 0.13

static const char *plan_adjoint(fc_conv_plan *plan, double *cost)
{
    const fc_conv *p = &plan->problem;
    const fc_window *w = &p->window;
    const char *reason = refusal(p);
    if (reason)
        return reason;
    int64_t size = fc_dispatch(p->real)->size, height = (w->in[1] + 1) / 2, planes = p->batch * p->groups;
    int64_t pairs = fc_min(height, fc_max(8, BAND_BYTES / fc_max(1, fc_mul(2 * w->in[2], size))));
    if (plan->threads > 1 && planes < 4 * plan->threads)
        pairs = fc_min(pairs, fc_max(4, fc_ceil_div(height, fc_ceil_div(4 * plan->threads, planes))));
    plan->tile[PAIRS] = fc_ceil_div(height, fc_ceil_div(height, pairs));
    job j = lay_out(plan);
    double vectors = (double)fc_ceil_div((w->in[2] + 1) / 2, j.kernels->lanes), taps = (double)fc_taps(w);
    double copied = (double)(j.rows.copies * j.rows.pitch * size) * (p->y.s[2] == 1 ? 0.03 : 0.3);
    double unit = UNIT + (double)plan->tile[PAIRS] * (PAIR + vectors * (VECTORS + PRODUCT * taps)) + copied;
    *cost = 300 + (double)j.units * unit;
    plan->tile[UNITS] = fc_max(1, fc_min(j.units / (4 * plan->threads), (int64_t)(TASK_NS / unit)));
    plan->scratch = fc_add(fc_add(j.weights.bytes, j.zero_bytes), fc_mul(plan->threads, j.worker_bytes));
    return plan->scratch <= fc_scratch_max(plan->threads) ? NULL : "the rows of a band exceed the scratch bound";
}

/* The channel of a unit, and its first pair of rows. */
static void find_unit(const job *j, int64_t unit, int64_t *n, int64_t *g, int64_t *pair)
{
    const fc_conv *p = &j->plan->problem;
    *pair = unit % j->bands * j->plan->tile[PAIRS];
    *g = unit / j->bands % p->groups;
    *n = unit / j->bands / p->groups;
}

/* What a unit is going to read of y, where that is in one piece. */
static void fetch_unit(const job *j, int64_t unit)
{
    const fc_conv *p = &j->plan->problem;
    const fc_window *w = &p->window;
    int64_t n, g, pair;
    if (unit >= j->units || !fc_depthwise_has_flat_rows(&p->y, w->out[1], w->out[2]))
        return;
    find_unit(j, unit, &n, &g, &pair);
    int64_t first = fc_max(0, fc_min(pair, w->out[1])), rows = fc_min(j->plan->tile[PAIRS], w->out[1] - first);
    fc_ahead ahead = {fc_at(j->y, n * p->y.n + g * p->y.c + first * w->out[2], j->kernels->size), 0, 1,
                      fc_ceil_div(rows * w->out[2] * j->kernels->size, FC_ALIGN), 0};
    fc_fetch(&ahead, ahead.lines);
}

static void run_unit(const job *j, int64_t unit, char *scratch)
{
    const fc_conv *p = &j->plan->problem;
    int64_t size = j->kernels->size, n, g, pair;
    const void **table = (const void **)(void *)scratch;
    find_unit(j, unit, &n, &g, &pair);
    int64_t pairs = j->plan->tile[PAIRS], rows = fc_min(2 * pairs, p->window.in[1] - 2 * pair);
    int64_t first = pair + (p->window.offset[1] - (p->window.offset[1] & 1)) / 2 - j->above;
    fc_rows_take(&j->rows, j->kernels, table, scratch + j->table_bytes, j->zero, fc_at(j->y, n * p->y.n + g * p->y.c, size),
                 first, (rows + 1) / 2 + j->most - pairs);
    j->kernel(&j->window, fc_at(j->w, g * j->weights.g, size), j->bias ? fc_at(j->bias, g, size) : NULL,
              (const void *const *)table, fc_at(j->x, n * p->x.n + g * p->x.c + 2 * pair * p->x.s[1], size), p->x.s[1], rows);
}

static void run_task(void *context, int64_t task, int worker)
{
    const job *j = context;
    int64_t units = j->plan->tile[UNITS];
    for (int64_t unit = task * units; unit < fc_min((task + 1) * units, j->units); unit++) {
        fetch_unit(j, unit + 1);
        run_unit(j, unit, j->scratch + worker * j->worker_bytes);
    }
}

static fc_status run_adjoint(const fc_conv_plan *plan, void *x, void *w, void *bias, void *y)
{
    job j = lay_out(plan);
    char *scratch = fc_arena_take(plan->scratch);
    if (!scratch)
        return FC_NO_MEMORY;
    j.zero = fc_rows_zero(&j.rows, j.kernels->size, scratch);
    j.w = fc_weights_take(&j.weights, &plan->problem, j.kernels, plan->threads, scratch + j.zero_bytes, w);
    j.scratch = scratch + j.zero_bytes + j.weights.bytes;
    j.x = x;
    j.bias = bias;
    j.y = y;
    fc_parallel(plan->threads, fc_ceil_div(j.units, plan->tile[UNITS]), run_task, &j);
    fc_arena_give();
    return FC_OK;
}

const fc_driver fc_driver_depthwise_adjoint = {"depthwise", plan_adjoint, run_adjoint, .bounded = 0};
