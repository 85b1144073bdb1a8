/* The adjoint of a depthwise convolution of stride 2, all four phases of a channel at once.
 *
 * adjoint.c would write each phase to every second place of x in a pass of its own.  Here the two phases of a row go to two
 * tiles that stay in the first-level cache, and are woven into whole vectors of x:
 *
 *     for each image n, channel g, band of row pairs      a unit; several a task
 *         for each phase of the rows:  for each phase of the columns:  depthwise kernel into its tile
 *                                      weave the tiles' rows into rows of x
 *
 * Scratch: a row of zeros; per worker a table, rows copied and two tiles.
 */
#include "engine/depthwise.h"

enum { ROWS, UNITS };                                            /* plan->tile: rows of a phase in a band, units of a task */
enum { TILE_BYTES = 12 << 10, UNITS_BYTES = 64 << 10, TAPS_MAX = FC_DEPTHWISE_HEIGHT_MAX };

typedef struct phase {
    fc_conv problem;
    int64_t w_begin, x_begin; /* the latter is not used: rows are written whole */
    fc_depthwise_window window;
    int64_t shift[TAPS_MAX];
} phase;

typedef struct job {
    const fc_conv_plan *plan;
    const fc_kernels *kernels;
    phase phase[2][2]; /* of rows, of columns */
    fc_rows rows;
    int64_t bands, units, half; /* half: columns of phase 0, the tiles' row */
    int64_t table_bytes, tile_bytes, worker_bytes, zero_bytes;
    const void *zero;
    const char *w, *bias, *y;
    char *x, *scratch;
} job;

static int serves(const fc_conv *p)
{
    const fc_window *w = &p->window;
    if (p->channels != 1 || p->out_channels != 1 || p->x.s[2] != 1)
        return 0;
    for (int i = 1; i < FC_AXES; i++)
        if (w->stride[i] != 2 || w->dilation[i] != 1 || w->kernel[i] < 2 || w->kernel[i] > 2 * TAPS_MAX || w->in[i] < 2)
            return 0;
    return w->kernel[0] == 1 && w->in[0] == 1 && w->out[0] == 1 && w->offset[0] == 0 && w->out[1] && w->out[2];
}

static void lay_out_phases(job *j, const fc_conv *p)
{
    for (int i = 0; i < 4; i++) {
        phase *f = &j->phase[i / 2][i % 2];
        f->problem = fc_adjoint_problem(p, i, &f->w_begin, &f->x_begin);
        const fc_window *w = &f->problem.window;
        f->window = (fc_depthwise_window){.planes = 1, .step = 1, .taps = w->kernel[2], .in = w->in[2], .out = w->out[2]};
        for (int64_t kw = 0; kw < w->kernel[2]; kw++)
            f->shift[kw] = kw - w->offset[2];
    }
}

static job lay_out(const fc_conv_plan *plan)
{
    const fc_conv *p = &plan->problem;
    job j = {.plan = plan, .kernels = fc_dispatch(p->real)};
    lay_out_phases(&j, p);
    const fc_window *first = &j.phase[0][0].problem.window;
    int64_t size = j.kernels->size, rows = plan->tile[ROWS], left = 0, right = 0, high = 0;
    for (int i = 0; i < 4; i++) {
        const fc_window *w = &j.phase[i / 2][i % 2].problem.window;
        left = fc_max(left, w->offset[2]);
        right = fc_max(right, fc_max(w->out[2], j.kernels->lanes) + w->kernel[2] - w->offset[2]);
        high = fc_max(high, w->kernel[1]);
    }
    j.half = first->out[2];
    j.bands = fc_ceil_div(first->out[1], rows);
    j.units = p->batch * p->groups * j.bands;
    j.rows = fc_rows_plan(size, first->in[1], first->in[2], p->y.s[1], p->y.s[2], left, right, rows + high - 1);
    j.zero_bytes = fc_rows_zero_bytes(&j.rows, size);
    j.table_bytes = fc_arena_round((rows + high) * (int64_t)sizeof(void *));
    j.tile_bytes = fc_arena_round(fc_min(INT64_MAX / 8, fc_mul(fc_add(fc_mul(rows, j.half), 2 * j.kernels->lanes), size)));
    j.worker_bytes = fc_add(fc_add(j.table_bytes, j.rows.bytes), fc_mul(2, j.tile_bytes));
    return j;
}

/* What the estimate of one phase, written to every second place, is worth here for all four: 64@112 stride 2 takes 133 us, that one
 * alone is said to take 488. */
#define TOGETHER 0.27

static const char *plan_adjoint(fc_conv_plan *plan, double *cost)
{
    const fc_conv *p = &plan->problem;
    if (!serves(p))
        return "not one channel in and out of a group, stride 2 and a small kernel";
    int64_t w, x;
    fc_conv_plan one = {.problem = fc_adjoint_problem(p, fc_adjoint_largest(p), &w, &x), .threads = 1};
    const char *reason = fc_driver_depthwise.plan(&one, cost);
    if (reason)
        return reason;
    *cost *= TOGETHER;
    int64_t size = fc_dispatch(p->real)->size, height = (p->window.in[1] + 1) / 2, row = (p->window.in[2] + 1) / 2 * size;
    int64_t rows = fc_min(height, fc_max(8, TILE_BYTES / row)), planes = p->batch * p->groups;
    if (plan->threads > 1 && planes < 4 * plan->threads)
        rows = fc_min(rows, fc_max(4, fc_ceil_div(height, fc_ceil_div(4 * plan->threads, planes))));
    plan->tile[ROWS] = rows;
    job j = lay_out(plan);
    plan->tile[UNITS] = fc_max(1, fc_min(j.units / (4 * plan->threads), UNITS_BYTES / (4 * rows * row)));
    plan->scratch = fc_add(j.zero_bytes, fc_mul(plan->threads, j.worker_bytes));
    return plan->scratch <= fc_scratch_max(plan->threads) ? NULL : "the rows of a band exceed the scratch bound";
}

/* The rows of one phase from row oh: both columns' phases, woven into x. */
static void run_rows(const job *j, int64_t n, int64_t g, int fh, int64_t oh, int64_t rows, char *scratch)
{
    const fc_conv *p = &j->plan->problem;
    int64_t size = j->kernels->size;
    const fc_window *window = &j->phase[fh][0].problem.window;
    const void **table = (const void **)(void *)scratch;
    char *copies = scratch + j->table_bytes, *tile = copies + j->rows.bytes;
    fc_rows_take(&j->rows, j->kernels, table, copies, j->zero, fc_at(j->y, n * p->y.n + g * p->y.c, size),
                 oh - window->offset[1], rows + window->kernel[1] - 1);
    for (int fw = 0; fw < 2; fw++) {
        const phase *f = &j->phase[fh][fw];
        const fc_conv *q = &f->problem;
        double taps[TAPS_MAX * TAPS_MAX];
        const int64_t count[4] = {1, 1, q->window.kernel[1], q->window.kernel[2]};
        const int64_t strides[4] = {0, 0, q->w.k[1], q->w.k[2]};
        j->kernels->gather_block(taps, 0, 1, count, fc_at(j->w, g * q->w.g + f->w_begin, size), 0, strides);
        j->kernels->depthwise[0][count[2]](&f->window, taps, j->bias ? fc_at(j->bias, g, size) : NULL,
                                           (const void *const *)table, tile + fw * j->tile_bytes, j->half, rows);
    }
    for (int64_t r = 0; r < rows; r++) {
        char *even = fc_at(tile, r * j->half, size);
        void *x = fc_at(j->x, n * p->x.n + g * p->x.c + (2 * (oh + r) + fh) * p->x.s[1], size);
        j->kernels->interleave(x, even, even + j->tile_bytes, p->window.in[2]);
    }
}

static void run_task(void *context, int64_t task, int worker)
{
    const job *j = context;
    const fc_conv *p = &j->plan->problem;
    int64_t units = j->plan->tile[UNITS], most = j->plan->tile[ROWS];
    for (int64_t unit = task * units; unit < fc_min((task + 1) * units, j->units); unit++) {
        int64_t oh = unit % j->bands * most, g = unit / j->bands % p->groups, n = unit / j->bands / p->groups;
        for (int fh = 0; fh < 2; fh++) {
            int64_t rows = fc_min(most, j->phase[fh][0].problem.window.out[1] - oh);
            if (rows > 0)
                run_rows(j, n, g, fh, oh, rows, j->scratch + worker * j->worker_bytes);
        }
    }
}

static fc_status run_adjoint(const fc_conv_plan *plan, void *x, void *w, void *bias, void *y)
{
    job j = lay_out(plan);
    char *scratch = fc_arena_take(plan->scratch);
    if (!scratch)
        return FC_NO_MEMORY;
    for (int i = 0; i < 4; i++)
        j.phase[i / 2][i % 2].window.shift = j.phase[i / 2][i % 2].shift;
    j.zero = fc_rows_zero(&j.rows, j.kernels->size, scratch);
    j.scratch = scratch + j.zero_bytes;
    j.x = x;
    j.w = w;
    j.bias = bias;
    j.y = y;
    fc_parallel(plan->threads, fc_ceil_div(j.units, plan->tile[UNITS]), run_task, &j);
    fc_arena_give();
    return FC_OK;
}

const fc_driver fc_driver_depthwise_adjoint = {"depthwise", plan_adjoint, run_adjoint, .bounded = 0};
