/* The planes driver: one input channel a group, lanes over groups; forward, and the adjoint, all phases of its strides at once.
 *
 *     y[n, g, m, p] = b[g, m] + sum_t w[g, m, t] x[n, g, p s + t d - offset]
 *
 *     for each group of `lanes` channels, image n, output plane, band of output rows and columns        a unit
 *         transpose the pixels that the band sees: a vector over the channels each, zeros in the padding
 *         for each of a channel's outputs m:
 *             for each phase, row: planes kernel, into a tile
 *             transpose the tile back
 *
 * For narrow images, strides above 1 and adjoints of strides, where lanes over the pixels of a row are masked, gathered and woven;
 * for long kernels, whose unaligned loads bound the others; for channels-last memory.  On one core of Emerald Rapids, us, this and
 * the depthwise or stencil driver as they were then: 3x3 512@14 51, 97; 5x5s2 144@56 155, 242; k31 4x512@2000
 * 3900, 6000 (since then the former splits rows, the latter sums runs of taps: see there).  Wide images at
 * stride 1 lose: 3x3 32@112 296, 150.
 *
 * Scratch: tables; per worker the weights as vectors, a tile of input and one or two of outputs.
 */
#include "engine/output.h"
#include "engine/planes.h"
#include "engine/tap_groups.h"

enum { ROWS, COLUMNS, UNITS }; /* plan->tile: output rows and columns of a band, units of a task */
enum { BAND_BYTES = 128 << 10, TASK_NS = 4000 };

typedef struct layout {
    const fc_kernels *kernels;
    fc_phases phases;
    fc_planes planes;
    fc_box most; /* size: of a band's input */
    int64_t out[FC_AXES], groups, bands[FC_AXES], units;
    int64_t taps; /* of all phases */
    int64_t x_bytes, y_bytes, weight_bytes, worker_bytes, table_bytes;
} layout;

/* Outputs [begin, end) of an axis, as those of one phase: the first, and how many. */
static int64_t phase_outputs(const fc_phase *phase, int axis, int64_t begin, int64_t end, int64_t *first)
{
    int64_t step = phase->step[axis], at = phase->first[axis];
    *first = begin <= at ? 0 : fc_ceil_div(begin - at, step);
    return end <= at ? 0 : fc_max(0, fc_ceil_div(end - at, step) - *first);
}

/* What the phases see of an axis behind outputs [begin, end): the first position, and how many. */
static int64_t see(const fc_phases *phases, int axis, int64_t begin, int64_t end, int64_t *first)
{
    int64_t low = INT64_MAX, high = INT64_MIN;
    for (int i = 0; i < phases->count; i++) {
        const fc_window *w = &phases->phase[i].problem.window;
        int64_t o, count = phase_outputs(&phases->phase[i], axis, begin, end, &o);
        if (!count || !fc_taps(w))
            continue;
        low = fc_min(low, o * w->stride[axis] - w->offset[axis]);
        high = fc_max(high, (o + count - 1) * w->stride[axis] + (w->kernel[axis] - 1) * w->dilation[axis] - w->offset[axis] + 1);
    }
    *first = low < high ? low : 0;
    return low < high ? high - low : 0;
}

/* No band of so many outputs sees more, wherever it begins. */
static int64_t most_seen(const fc_phases *phases, int axis, int64_t outputs)
{
    int64_t most = 0, first, step = phases->phase[0].step[axis], total = phases->whole.window.out[axis];
    for (int64_t begin = 0; begin < step && begin + outputs <= total; begin++)
        most = fc_max(most, see(phases, axis, begin, begin + outputs, &first));
    return most;
}

static void size_band(layout *l, const int64_t size[FC_AXES])
{
    int64_t pixel = l->kernels->lanes * l->kernels->size;
    for (int i = 0; i < FC_AXES; i++) {
        l->most.size[i] = most_seen(&l->phases, i, size[i]);
        l->bands[i] = fc_ceil_div(l->out[i], size[i]);
    }
    const int64_t *n = l->most.size;
    l->x_bytes = fc_bytes(fc_mul(fc_mul(n[0], n[1]), n[2]), pixel);
    l->y_bytes = fc_bytes(fc_mul(size[1], size[2]), pixel);
}

/* Halves the longer side of what a band sees until it fits, or there are as many bands as are wanted. */
static void choose_band(fc_conv_plan *plan, layout *l)
{
    int64_t size[FC_AXES] = {1, l->out[1], l->out[2]}, whole = fc_mul(fc_mul(l->phases.whole.batch, l->groups), l->out[0]);
    for (size_band(l, size); fc_max(l->x_bytes, l->y_bytes) > BAND_BYTES ||
                             (plan->threads > 1 && whole * l->bands[1] * l->bands[2] < 4 * plan->threads);
         size_band(l, size)) {
        int axis = size[1] > 4 || size[1] > size[2] ? 1 : 2;
        if (size[axis] <= (axis == 2 ? 64 : 1))
            break;
        size[axis] = fc_ceil_div(l->out[axis], 2 * l->bands[axis]);
    }
    plan->tile[ROWS] = size[1];
    plan->tile[COLUMNS] = size[2];
}

static const char *lay_out(layout *l, fc_conv_plan *plan, int choose)
{
    const fc_conv *p = &plan->problem;
    l->kernels = fc_dispatch(p->real);
    if (!fc_phases_plan(&l->phases, p, plan->direction))
        return "the strides have too many phases";
    const fc_conv *whole = &l->phases.whole;
    int64_t lanes = l->kernels->lanes;
    l->taps = fc_taps(&p->window);
    l->groups = fc_ceil_div(p->groups, lanes);
    for (int i = 0; i < FC_AXES; i++)
        l->out[i] = whole->window.out[i];
    if (choose)
        choose_band(plan, l);
    size_band(l, (const int64_t[]){1, plan->tile[ROWS], plan->tile[COLUMNS]});
    l->units = fc_mul(fc_mul(whole->batch, l->groups), fc_mul(l->bands[0], l->bands[1] * l->bands[2]));
    l->planes = fc_planes_plan(whole->window.in, &whole->x, l->most.size[1], l->most.size[2]);
    l->weight_bytes = fc_bytes(l->taps + 1, lanes * l->kernels->size); /* and the bias */
    l->worker_bytes = fc_add(fc_add(l->weight_bytes, l->x_bytes), fc_mul(p->groups % lanes ? 2 : 1, l->y_bytes));
    l->table_bytes = fc_bytes(fc_add(fc_mul(4, l->taps), l->planes.place_count), sizeof(int64_t));
    return NULL;
}

/* Nanoseconds, in the measure of the depthwise driver's: a multiply-add of vectors, a row of a phase. */
#define PRODUCT 0.09
#define LINE 4

static const char *plan_planes(fc_conv_plan *plan, double *cost)
{
    const fc_conv *p = &plan->problem;
    if (p->channels != 1 || (plan->direction == FC_ADJOINT && p->out_channels != 1))
        return "a group has more than one input channel";
    if (!fc_reduction(p) || !fc_outputs(&p->window))
        return "there is nothing to sum";
    if (fc_taps(&p->window) > FC_PLANES_TAPS_MAX)
        return "the kernel has too many taps";
    if (p->groups < fc_dispatch(p->real)->lanes / 2)
        return "there are few channels";
    layout l;
    const char *refusal = lay_out(&l, plan, 1);
    if (refusal)
        return refusal;
    plan->scratch = fc_add(l.table_bytes, fc_mul(plan->threads, l.worker_bytes));
    if (fc_max(l.x_bytes, l.y_bytes) > 4 * BAND_BYTES || plan->scratch > fc_scratch_max(plan->threads))
        return "a row of all channels in a vector exceeds the cache";
    double rows = (double)plan->tile[ROWS] * (double)l.phases.phase[0].step[2], m = (double)l.phases.whole.out_channels;
    double pixels = (double)plan->tile[ROWS] * (double)plan->tile[COLUMNS];
    double taps = (double)l.taps / (double)l.phases.count;
    double unit = 20 + m * (LINE * rows + PRODUCT * taps * pixels) + fc_planes_cost(&l.planes, l.kernels, (double)l.x_bytes);
    fc_planes outputs = fc_planes_plan(l.out, &l.phases.whole.y, plan->tile[ROWS], plan->tile[COLUMNS]);
    unit += m * fc_planes_cost(&outputs, l.kernels, (double)l.y_bytes);
    *cost = 300 + (double)l.units * unit + (double)l.taps * (double)l.groups * m * 2;
    plan->tile[UNITS] = fc_max(1, fc_min(l.units / (4 * plan->threads), (int64_t)(TASK_NS / unit)));
    return NULL;
}

/* The taps of one phase as the kernel takes them: runs of taps that stand as far apart as outputs do. */
typedef struct lines {
    int64_t count;
    int64_t *offset, *run;
} lines;

typedef struct job {
    const fc_conv_plan *plan;
    layout l;
    lines lines[FC_PHASES_MAX];
    int64_t *from, *place, *weight_place;
    fc_planes_weights weights;
    const char *x, *w, *bias;
    char *y, *scratch;
} job;

/* Lists the phase's lines; returns the place after its weights. */
static int64_t list_lines(const job *j, const fc_phase *phase, lines *list, int64_t place)
{
    const fc_window *w = &phase->problem.window;
    const int64_t *k = w->kernel, lanes = j->l.kernels->lanes, row = j->l.planes.columns, plane = j->l.planes.rows * row;
    int64_t apart = w->stride[2] % w->dilation[2] ? fc_max(1, k[2]) : w->stride[2] / w->dilation[2];
    for (int64_t i = 0; i < k[0] * k[1]; i++)
        for (int64_t kw = 0; kw < fc_min(apart, k[2]); kw++) {
            list->offset[list->count] = (i / k[1] * w->dilation[0] * plane + i % k[1] * w->dilation[1] * row +
                                         kw * w->dilation[2]) * lanes;
            list->run[list->count++] = fc_ceil_div(k[2] - kw, apart);
            for (int64_t t = kw; t < k[2]; t += apart)
                j->from[place++] = fc_phase_tap(phase, i * k[2] + t);
        }
    return place;
}

static void list_tables(job *j, int64_t *table)
{
    int64_t taps = j->l.taps, place = 0;
    j->from = table;
    j->weight_place = table + taps;
    for (int i = 0; i < j->l.phases.count; i++) {
        j->lines[i] = (lines){0, table + 2 * taps + place, table + 3 * taps + place};
        place = list_lines(j, &j->l.phases.phase[i], &j->lines[i], place);
    }
    j->place = table + 4 * taps;
    /* Of the phases listed: one whose first output lies beyond the image has taps, but is none. */
    j->weights = fc_planes_weights_plan(place, j->from, j->l.kernels->lanes, j->weight_place);
    fc_planes_share(&j->l.planes, j->l.kernels->lanes, j->place);
}

/* Outputs first ... first + size of all axes, and the box of input behind them. */
typedef struct band {
    int64_t first[FC_AXES], end[FC_AXES];
    fc_box seen;
} band;

static band find_band(const job *j, int64_t unit)
{
    const layout *l = &j->l;
    const int64_t size[FC_AXES] = {1, j->plan->tile[ROWS], j->plan->tile[COLUMNS]};
    band b;
    for (int i = FC_AXES - 1; i >= 0; i--) {
        b.first[i] = unit % l->bands[i] * size[i];
        b.end[i] = fc_min(l->out[i], b.first[i] + size[i]);
        unit /= l->bands[i];
        b.seen.size[i] = see(&l->phases, i, b.first[i], b.end[i], &b.seen.first[i]);
    }
    return b;
}

/* The outputs of one phase in the band, from its weights on. */
static void run_phase(const job *j, const band *b, int i, const char *w, const void *init, const char *tile, char *y)
{
    const layout *l = &j->l;
    const fc_phase *phase = &l->phases.phase[i];
    const fc_window *win = &phase->problem.window;
    int64_t size = l->kernels->size, lanes = l->kernels->lanes, first[FC_AXES], count[FC_AXES], at[FC_AXES];
    for (int axis = 0; axis < FC_AXES; axis++) {
        count[axis] = phase_outputs(phase, axis, b->first[axis], b->end[axis], &first[axis]);
        at[axis] = first[axis] * win->stride[axis] - win->offset[axis] - b->seen.first[axis];
    }
    if (!count[0] || !count[1] || !count[2])
        return;
    int64_t row = l->planes.columns * lanes, columns = b->end[2] - b->first[2];
    double bounds[2];
    fc_output_bounds(&l->phases.whole, bounds);
    const void *x = fc_at(tile, at[0] * l->planes.rows * row + at[1] * row + at[2] * lanes, size);
    int64_t to = phase->first[2] + first[2] * phase->step[2] - b->first[2];
    for (int64_t r = 0; r < count[1]; r++) {
        int64_t oh = phase->first[1] + (first[1] + r) * phase->step[1] - b->first[1];
        l->kernels->planes_stencil(j->lines[i].count, j->lines[i].offset, j->lines[i].run, w, init,
                                   fc_at(x, r * win->stride[1] * row, size), win->stride[2] * lanes,
                                   fc_at(y, (oh * columns + to) * lanes, size), phase->step[2] * lanes, count[2], bounds);
    }
}

/* held: the group whose weights, if they are of one output, the worker has from the unit before. */
static void run_outputs(const job *j, const band *b, int64_t n, int64_t g, int64_t count, char *scratch, int64_t *held)
{
    static const double zero = 0;
    const layout *l = &j->l;
    const fc_conv *p = &l->phases.whole;
    int64_t size = l->kernels->size, lanes = l->kernels->lanes, outputs = p->out_channels;
    int64_t rows = b->end[1] - b->first[1], columns = b->end[2] - b->first[2];
    char *init = fc_at(scratch, l->taps * lanes, size), *tile = scratch + l->weight_bytes, *y = tile + l->x_bytes;
    for (int64_t m = 0; m < outputs; m++) {
        const char *w = scratch;
        if (outputs > 1 || g != *held)
            fc_planes_weights_take(&j->weights, l->kernels, j->from, j->weight_place, fc_at(j->w, g * p->w.g + m * p->w.o, size),
                                   p->w.g, count, scratch);
        if (j->bias && (outputs > 1 || g != *held))
            l->kernels->gather_row(init, lanes, fc_at(j->bias, g * outputs + m, size), outputs, 0, 1, count, &zero);
        *held = g;
        for (int i = 0; i < l->phases.count; w = fc_at(w, fc_taps(&l->phases.phase[i].problem.window) * lanes, size), i++)
            run_phase(j, b, i, w, j->bias ? init : NULL, tile, y);
        int64_t to = n * p->y.n + (g * outputs + m) * p->y.c;
        for (int i = 0; i < FC_AXES; i++)
            to += b->first[i] * p->y.s[i];
        fc_planes_give(l->kernels, fc_at(j->y, to, size), outputs * p->y.c, p->y.s, count, rows, columns, y, y + l->y_bytes);
    }
}

static void run_task(void *context, int64_t task, int worker)
{
    const job *j = context;
    const layout *l = &j->l;
    const fc_conv *p = &l->phases.whole;
    int64_t units = j->plan->tile[UNITS], size = l->kernels->size, lanes = l->kernels->lanes;
    int64_t of_image = l->bands[0] * l->bands[1] * l->bands[2], held = -1;
    char *scratch = j->scratch + worker * l->worker_bytes;
    for (int64_t unit = task * units; unit < fc_min((task + 1) * units, l->units); unit++) {
        int64_t image = unit / of_image, n = image % p->batch, g = image / p->batch, at = unit % of_image;
        if (p->x.c == 1) { /* channels last: all channels of a band, which share pages and pairs of lines, before the next */
            g = unit % l->groups;
            at = unit / l->groups % of_image;
            n = unit / l->groups / of_image;
        }
        g *= lanes;
        int64_t count = fc_min(lanes, p->groups - g);
        band b = find_band(j, at);
        fc_planes_take(&l->planes, l->kernels, j->place, &b.seen, fc_at(j->x, n * p->x.n + g * p->x.c, size), count,
                       scratch + l->weight_bytes);
        run_outputs(j, &b, n, g, count, scratch, &held);
    }
}

static fc_status run_planes(const fc_conv_plan *plan, void *x, void *w, void *bias, void *y)
{
    fc_conv_plan copy = *plan;
    int adjoint = plan->direction == FC_ADJOINT;
    job j = {.plan = plan, .x = adjoint ? y : x, .w = w, .bias = bias, .y = adjoint ? x : y};
    lay_out(&j.l, &copy, 0);
    char *scratch = fc_arena_take(plan->scratch);
    if (!scratch)
        return FC_NO_MEMORY;
    list_tables(&j, (int64_t *)(void *)scratch);
    j.scratch = scratch + j.l.table_bytes;
    fc_parallel(plan->threads, fc_ceil_div(j.l.units, plan->tile[UNITS]), run_task, &j);
    fc_arena_give();
    return FC_OK;
}

const fc_driver fc_driver_planes = {"planes", plan_planes, run_planes, .bounded = 1};
const fc_driver fc_driver_planes_adjoint = {"planes", plan_planes, run_planes, .bounded = 0};
