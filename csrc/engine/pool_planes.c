/* The planes driver of pooling: lanes over planes (n, c), for windows and rows of any kind.
 *
 *     for each group of planes, output plane od, band of output rows               a unit
 *         transpose the rows of x that the band sees: pixels by planes
 *         the channels driver over the copy
 *         transpose the outputs (and indices) back
 *
 * and the gradient of a mean, which reads and writes channels-last arrays in place instead:
 *
 *     for each group of planes, plane id of x, band of its rows                    a unit
 *         transpose the rows of dy that meet the band, divide
 *         for each pixel of x: add the windows that it meets
 *         transpose the band back
 *
 * A transpose costs about a third of a cycle an element (0.1 ns); all the rest runs in whole vectors, whatever the windows and
 * however narrow the rows.  Measured against the box driver: means of 4 x 256 planes from 13x13 to 6x6 in 25 us, not 727, their
 * gradient in 34, not 444 (pool_backward.c); against the rows driver: 2x2 over 512 planes of 14x14 in 26 us, not 53, but over
 * rows of 28 and more its 80 are less than 120 here.
 *
 * Scratch, per worker: the band's pixels, outputs and indices, and what the channels driver takes.
 */
#include "engine/pool.h"

enum { LISTS, POSITIONS, PLANES, ROWS };                    /* plan->tile: the channels driver's two, a group, a band */
enum { VECTORS_MAX = 4, BAND_BYTES = 64 << 10, TILE_MAX = 512 << 10 }; /* of a group; of a band's pixels, wished and at most */

/* Planes that stand equally far apart are one image's. */
static void merge_images(fc_pool *p, int indexed)
{
    if (p->x.n != p->channels * p->x.c || p->y.n != p->channels * p->y.c)
        return;
    if (indexed && p->index.n != p->channels * p->index.c)
        return;
    p->channels *= p->batch;
    p->batch = 1;
}

/* Copies planes: `count` of them, `c` elements apart, each a box of x with strides s, to a row of `lanes` elements per pixel. */
static void take_planes(const fc_kernels *kernels, void *dst, int64_t lanes, const void *x, int64_t c, const int64_t s[FC_AXES],
                        int64_t count, int64_t depth, int64_t rows, int64_t width)
{
    int flat = s[2] == 1 && (rows == 1 || s[1] == width);
    int64_t size = kernels->size, columns = flat ? rows * width : width, n[4] = {1, 1, 1, count}, apart[4] = {0, 0, 0, c};
    for (int64_t i = 0; i < depth * (flat ? 1 : rows); i++) {
        int64_t from = flat ? i * s[0] : i / rows * s[0] + i % rows * s[1];
        if (s[2] == 1)
            kernels->transpose(fc_at(dst, i * columns * lanes, size), lanes, fc_at(x, from, size), c, count, columns);
        else
            kernels->gather_block(fc_at(dst, i * columns * lanes, size), lanes, columns, n, fc_at(x, from, size), s[2], apart);
    }
}

/* The reverse, of one plane of each. */
static void give_planes(const fc_kernels *kernels, void *y, int64_t c, int64_t row, int64_t count, int64_t rows, int64_t width,
                        const void *src, int64_t lanes)
{
    int flat = rows == 1 || row == width;
    int64_t size = kernels->size, columns = flat ? rows * width : width;
    for (int64_t i = 0; i < (flat ? 1 : rows); i++)
        kernels->transpose(fc_at(y, i * row, size), c, fc_at(src, i * columns * lanes, size), lanes, columns, count);
}

/* Positions of an axis from the first tap of `stops` neighbouring stops to their last, at most. */
static int64_t most_span(const fc_pool *p, int axis, int64_t stops)
{
    const fc_window *w = &p->window;
    if (p->adaptive)
        return fc_min(w->in[axis], stops * w->in[axis] / w->out[axis] + 2);
    return fc_min(w->in[axis], (stops - 1) * w->stride[axis] + (w->kernel[axis] - 1) * w->dilation[axis] + 1);
}

/* How many positions of an axis `stops` stops from o on lie across, and the first. */
static int64_t see(const fc_pool *p, int axis, int64_t o, int64_t stops, int64_t *first)
{
    const fc_window *w = &p->window;
    int64_t in = w->in[axis], begin = o * w->stride[axis] - w->offset[axis];
    int64_t end = begin + (stops - 1) * w->stride[axis] + (w->kernel[axis] - 1) * w->dilation[axis] + 1;
    if (p->adaptive) {
        begin = o * in / w->out[axis];
        end = fc_ceil_div((o + stops) * in, w->out[axis]);
    }
    *first = fc_min(fc_max(0, begin), in);
    return fc_max(0, fc_min(end, in) - *first);
}

/* Bytes of a worker's copies of x, y and indices. */
typedef struct tiles {
    int64_t x, y, index;
} tiles;

static tiles lay_out(const fc_pool_plan *plan)
{
    const fc_pool *p = &plan->problem;
    int64_t planes = plan->tile[PLANES], rows = plan->tile[ROWS], size = fc_dispatch(p->real)->size;
    int64_t pixels = fc_mul(fc_mul(most_span(p, 0, 1), most_span(p, 1, rows)), p->window.in[2]);
    int64_t outputs = fc_mul(rows, p->window.out[2]), bound = INT64_MAX / 16;
    return (tiles){fc_arena_round(fc_min(bound, fc_mul(pixels, planes * size))),
                   fc_arena_round(fc_min(bound, fc_mul(outputs, planes * size))),
                   plan->indexed ? fc_arena_round(fc_min(bound, fc_mul(outputs, planes * (int64_t)sizeof(int64_t)))) : 0};
}

/* Groups as large, then bands as high, as BAND_BYTES allows: what a window costs beside its sums is shared by its group. */
static void choose_tile(fc_pool_plan *plan, int64_t lanes)
{
    int64_t *tile = plan->tile, height = plan->problem.window.out[1];
    tile[ROWS] = 1;
    for (tile[PLANES] = VECTORS_MAX * lanes; tile[PLANES] > lanes;) {
        if (tile[PLANES] <= plan->problem.channels && lay_out(plan).x <= BAND_BYTES)
            break;
        tile[PLANES] /= 2;
    }
    for (tile[ROWS] = height; tile[ROWS] > 1 && lay_out(plan).x > BAND_BYTES;)
        tile[ROWS] = (tile[ROWS] + 1) / 2;
}

static const char *plan_planes(fc_pool_plan *plan, double *cost)
{
    fc_pool *p = &plan->problem;
    const fc_window *w = &p->window;
    const fc_kernels *kernels = fc_dispatch(p->real);
    merge_images(p, plan->indexed);
    if (p->x.s[2] != 1 || p->y.s[2] != 1 || (plan->indexed && p->index.s[2] != 1))
        return "elements of a row are no neighbours in memory";
    if (p->channels < kernels->lanes)
        return "there are fewer planes than lanes";
    choose_tile(plan, kernels->lanes);
    fc_pool_plan inner = *plan;
    inner.problem.channels = plan->tile[PLANES];
    const char *refusal = fc_pool_channels_book(&inner);
    if (refusal)
        return refusal;
    tiles t = lay_out(plan);
    if (fc_max(t.x, fc_max(t.y, t.index)) > TILE_MAX)
        return "a row of all planes in a vector exceeds the cache";
    plan->tile[LISTS] = inner.tile[LISTS];
    plan->tile[POSITIONS] = inner.tile[POSITIONS];
    plan->worker = fc_add(inner.worker, t.x + t.y + t.index);
    plan->shared = 0;
    int64_t groups = fc_ceil_div(p->channels, plan->tile[PLANES]), rows = plan->tile[ROWS];
    plan->units = fc_mul(fc_mul(p->batch, groups), fc_mul(w->out[0], fc_ceil_div(w->out[1], rows)));
    double vectors = (double)(plan->tile[PLANES] / kernels->lanes), outputs = (double)(rows * w->out[2]), taps = 1;
    for (int i = 0; i < FC_AXES; i++)
        taps *= p->adaptive ? (double)w->in[i] / (double)w->out[i] + 0.5 : (double)fc_min(w->kernel[i], w->in[i]);
    *cost = 250 + (double)plan->units *
                      (50 + 0.2 * (double)(t.x + t.y + 4 * t.index) / (double)kernels->size +
                       outputs * (10 + vectors * (1 + taps * (plan->indexed ? 0.6 : 0.35))));
    return NULL;
}

static void run_unit(const fc_pool_job *j, int64_t unit, char *scratch)
{
    const fc_pool *p = &j->plan->problem;
    const fc_window *w = &p->window;
    const int64_t *tile = j->plan->tile, bands = fc_ceil_div(w->out[1], tile[ROWS]);
    int64_t groups = fc_ceil_div(p->channels, tile[PLANES]), size = j->kernels->size, lanes = tile[PLANES];
    int64_t oh = unit % bands * tile[ROWS], od = unit / bands % w->out[0], group = unit / bands / w->out[0];
    int64_t c = group % groups * lanes, n = group / groups;
    int64_t rows = fc_min(tile[ROWS], w->out[1] - oh), count = fc_min(lanes, p->channels - c);
    int64_t id, ih, depth = see(p, 0, od, 1, &id), high = see(p, 1, oh, rows, &ih);
    tiles t = lay_out(j->plan);
    char *x = scratch, *y = x + t.x, *index = y + t.y;
    take_planes(j->kernels, x, lanes, fc_at(j->x, n * p->x.n + c * p->x.c + id * p->x.s[0] + ih * p->x.s[1], size),
                p->x.c, p->x.s, count, depth, high, w->in[2]);
    /* The band as an image with channels last, of which image 1 would begin where position 0 of all axes would stand. */
    fc_pool_plan inner = *j->plan;
    fc_pool *q = &inner.problem;
    int64_t x_row = w->in[2] * lanes, y_row = w->out[2] * lanes;
    q->channels = count;
    q->x = (fc_array_strides){-(id * high + ih) * x_row, 1, {high * x_row, x_row, lanes}};
    q->y = q->index = (fc_array_strides){-oh * y_row, 1, {0, y_row, lanes}};
    fc_pool_job band = {&inner, j->kernels, x, y, j->index ? (int64_t *)(void *)index : NULL, NULL};
    int64_t row = (w->out[0] + od) * w->out[1] + oh;
    fc_pool_channels_run(&band, row, row + rows, index + t.index);
    int64_t to = n * p->y.n + c * p->y.c + od * p->y.s[0] + oh * p->y.s[1];
    give_planes(j->kernels, fc_at(j->y, to, size), p->y.c, p->y.s[1], count, rows, w->out[2], y, lanes);
    to = n * p->index.n + c * p->index.c + od * p->index.s[0] + oh * p->index.s[1];
    if (j->index) /* an index is as wide as a double */
        give_planes(fc_dispatch(FC_FLOAT64), j->index + to, p->index.c, p->index.s[1], count, rows, w->out[2], index, lanes);
}

static void run_planes(const fc_pool_job *j, int64_t begin, int64_t end, char *scratch)
{
    for (int64_t unit = begin; unit < end; unit++)
        run_unit(j, unit, scratch);
}

const fc_pool_driver fc_pool_driver_planes = {"planes", plan_planes, NULL, run_planes};

/* ---- the gradient of a mean ------------------------------------------------------------------------------------------------ */

enum { TERMS_MAX = 64 }; /* windows over one pixel, which are summed one by one */

typedef struct job {
    fc_pool p;
    const fc_kernels *kernels;
    const char *y;
    char *x, *scratch;
    int64_t groups, lanes; /* of planes; elements of a pixel in the copies */
    int64_t rows, bands;   /* of x */
    int64_t list_bytes, quotient_bytes, tile_bytes, worker_bytes;
    int64_t units, units_per_task;
    int last; /* channels are last in both arrays: x is written in place */
    double only; /* as pool_narrow.c divides, which serves the same planes without gaps */
} job;

/* Windows over `count` neighbouring positions of an axis, at most. */
static int64_t most_terms(const fc_pool *p, int axis, int64_t count)
{
    const fc_window *w = &p->window;
    if (p->adaptive)
        return fc_min(w->out[axis], fc_mul(count, w->out[axis]) / w->in[axis] + 2);
    return fc_min(w->out[axis], (count - 1) / w->stride[axis] + fc_ceil_div(w->kernel[axis], w->stride[axis]) + 1);
}

static void book(job *j)
{
    const fc_window *w = &j->p.window;
    int64_t size = j->kernels->size, pixel = j->lanes * size, bound = INT64_MAX / 16;
    int64_t rows = fc_mul(most_terms(&j->p, 0, 1), most_terms(&j->p, 1, j->rows));
    int64_t lists = fc_add(fc_mul(fc_add(w->out[2], w->in[2]), sizeof(double)), fc_mul(w->in[2], 2 * sizeof(int64_t)));
    j->list_bytes = fc_arena_round(fc_min(bound, lists));
    j->quotient_bytes = fc_arena_round(fc_min(bound, fc_mul(fc_mul(rows, w->out[2]), pixel)));
    j->tile_bytes = j->last ? 0 : fc_arena_round(fc_min(bound, fc_mul(fc_mul(j->rows, w->in[2]), pixel)));
    j->worker_bytes = j->list_bytes + j->quotient_bytes + j->tile_bytes;
}

static job plan_adjoint(const fc_pool *problem)
{
    job j = {.p = *problem, .kernels = fc_dispatch(problem->real), .last = problem->x.c == 1 && problem->y.c == 1};
    fc_pool *p = &j.p;
    int64_t lanes = j.kernels->lanes, planes = VECTORS_MAX * lanes;
    if (!j.last)
        merge_images(p, 0);
    j.rows = 1;
    for (;; planes /= 2) {
        /* In place no group may be less than a vector: they are as even as possible. */
        j.groups = fc_max(1, j.last ? p->channels / planes : fc_ceil_div(p->channels, planes));
        j.lanes = j.last ? 2 * planes : planes;
        book(&j);
        if (planes == lanes || (planes <= p->channels && fc_max(j.quotient_bytes, j.tile_bytes) <= BAND_BYTES))
            break;
    }
    for (j.rows = p->window.in[1], book(&j); j.rows > 1 && fc_max(j.quotient_bytes, j.tile_bytes) > BAND_BYTES; book(&j))
        j.rows = (j.rows + 1) / 2;
    j.bands = fc_ceil_div(p->window.in[1], j.rows);
    j.units = fc_mul(fc_mul(p->batch, j.groups), fc_mul(p->window.in[0], j.bands));
    return j;
}

/* Whatever the layout of y: a sum's order, which is the driver's, should not depend on it. */
int fc_pool_planes_serve(const fc_pool *problem)
{
    job j = plan_adjoint(problem);
    const fc_pool *p = &j.p;
    int64_t terms = fc_mul(fc_mul(most_terms(p, 0, 1), most_terms(p, 1, 1)), most_terms(p, 2, 1));
    return problem->channels >= j.kernels->lanes && (j.last || p->x.s[2] == 1) && terms <= TERMS_MAX &&
           fc_max(j.list_bytes, fc_max(j.quotient_bytes, j.tile_bytes)) <= TILE_MAX;
}

/* Planes [c, c + count) and rows [ih, ih + rows) of plane id, and the outputs that meet them. */
typedef struct band {
    int64_t n, c, count, id, ih, rows;
    int64_t od, oh, planes, lines;
} band;

static band find_band(const job *j, int64_t unit)
{
    const fc_pool *p = &j->p;
    int64_t plane = unit / j->bands, group = plane / p->window.in[0];
    band b = {.n = group / j->groups, .id = plane % p->window.in[0], .ih = unit % j->bands * j->rows};
    group %= j->groups;
    b.c = j->last ? p->channels * group / j->groups : group * j->lanes;
    b.count = (j->last ? p->channels * (group + 1) / j->groups : fc_min(p->channels, b.c + j->lanes)) - b.c;
    b.rows = fc_min(j->rows, p->window.in[1] - b.ih);
    fc_pool_meet(p, 0, b.id, b.id + 1, &b.od, &b.planes);
    fc_pool_meet(p, 1, b.ih, b.ih + b.rows, &b.oh, &b.lines);
    return b;
}

/* The band's outputs, divided, pixels by planes. */
static void divide_band(const job *j, const band *b, double *divisor, char *quotient)
{
    const fc_pool *p = &j->p;
    int64_t size = j->kernels->size, width = p->window.out[2], zero = 0;
    const char *y = fc_at(j->y, b->n * p->y.n + b->c * p->y.c + b->od * p->y.s[0] + b->oh * p->y.s[1], size);
    if (!j->last)
        take_planes(j->kernels, quotient, j->lanes, y, p->y.c, p->y.s, b->count, b->planes, b->lines, width);
    for (int64_t i = 0; i < b->planes * b->lines; i++) {
        int64_t d = i / b->lines, h = i % b->lines;
        double across = (double)fc_pool_stop(p, 0, b->od + d).count * (double)fc_pool_stop(p, 1, b->oh + h).count;
        for (int64_t q = 0; q < width; q++)
            divisor[q] = j->only != 0 ? 1 : fc_pool_divisor(p, across * (double)fc_pool_stop(p, 2, q).count);
        char *row = fc_at(quotient, i * width * j->lanes, size);
        if (j->last)
            j->kernels->pool.mean(1, &zero, divisor, fc_at(y, d * p->y.s[0] + h * p->y.s[1], size), p->y.s[2], row, j->lanes,
                                  width, b->count);
        else if (j->only == 0)
            j->kernels->pool.mean(1, &zero, divisor, row, j->lanes, row, j->lanes, width, j->lanes);
    }
}

/* Pixels iw, iw + period, ... of a row of x that meet equally many windows, which stand equally far apart. */
static int64_t run_length(const job *j, const int64_t *first, const int64_t *count, int64_t iw, int64_t period, int64_t *apart)
{
    int64_t width = j->p.window.in[2], run = 1;
    *apart = iw + period < width ? first[iw + period] - first[iw] : 0;
    for (int64_t next = iw + period; next < width; next += period, run++)
        if (count[next] != count[iw] || first[next] != first[iw] + run * *apart)
            break;
    return run;
}

/* Row b->ih + r of x, written from `to` on, pixels `step` elements apart: runs of pixels, a stride from one to the next. */
static void sum_row(const job *j, const band *b, int64_t r, const int64_t *first, const int64_t *count, const double *only,
                    const char *quotient, char *to, int64_t step)
{
    const fc_pool *p = &j->p;
    int64_t size = j->kernels->size, width = p->window.out[2], oh, lines, offset[TERMS_MAX], run, apart;
    int64_t period = p->adaptive ? 1 : fc_min(p->window.stride[2], p->window.in[2]);
    fc_pool_meet(p, 1, b->ih + r, b->ih + r + 1, &oh, &lines);
    for (int64_t phase = 0; phase < period; phase++)
        for (int64_t iw = phase; iw < p->window.in[2]; iw += run * period) {
            int64_t terms = 0;
            for (int64_t i = 0; i < b->planes * lines; i++)
                for (int64_t q = 0; q < count[iw]; q++)
                    offset[terms++] = ((i / lines * b->lines + i % lines) * width + q) * j->lanes;
            run = run_length(j, first, count, iw, period, &apart);
            j->kernels->pool.mean(terms, offset, only, fc_at(quotient, ((oh - b->oh) * width + first[iw]) * j->lanes, size),
                                  apart * j->lanes, fc_at(to, iw * step, size), period * step, run, j->last ? b->count : j->lanes);
        }
}

static void run_adjoint(void *context, int64_t task, int worker)
{
    const job *j = context;
    const fc_pool *p = &j->p;
    int64_t size = j->kernels->size, width = p->window.in[2];
    char *scratch = j->scratch + worker * j->worker_bytes, *quotient = scratch + j->list_bytes;
    char *tile = quotient + j->quotient_bytes;
    double *divisor = (double *)(void *)scratch;
    double *after = divisor + p->window.out[2], *only = j->only != 0 ? after : NULL;
    int64_t *first = (int64_t *)(void *)(after + width), *count = first + width;
    for (int64_t iw = 0; iw < width; iw++) {
        fc_pool_meet(p, 2, iw, iw + 1, &first[iw], &count[iw]);
        after[iw] = j->only;
    }
    int64_t end = fc_min(j->units, (task + 1) * j->units_per_task);
    for (int64_t unit = task * j->units_per_task; unit < end; unit++) {
        band b = find_band(j, unit);
        char *x = fc_at(j->x, b.n * p->x.n + b.c * p->x.c + b.id * p->x.s[0] + b.ih * p->x.s[1], size);
        divide_band(j, &b, divisor, quotient);
        for (int64_t r = 0; r < b.rows; r++)
            if (j->last)
                sum_row(j, &b, r, first, count, only, quotient, fc_at(x, r * p->x.s[1], size), p->x.s[2]);
            else
                sum_row(j, &b, r, first, count, only, quotient, fc_at(tile, r * width * j->lanes, size), j->lanes);
        if (!j->last)
            give_planes(j->kernels, x, p->x.c, p->x.s[1], b.count, b.rows, width, tile, j->lanes);
    }
}

fc_status fc_pool_planes_adjoint(const fc_pool *problem, void *x, const void *y)
{
    job j = plan_adjoint(problem);
    const fc_window *w = &j.p.window;
    j.x = x;
    j.y = y;
    j.only = fc_pool_narrow_divisor(problem);
    double cost = 0.4 * (double)fc_pool_planes(&j.p) * (double)fc_mul(w->in[0], fc_mul(w->in[1], w->in[2]));
    int threads = fc_pool_threads(cost);
    j.units_per_task = fc_pool_units_per_task(cost, j.units, threads);
    j.scratch = fc_arena_take(threads * j.worker_bytes);
    if (!j.scratch)
        return FC_NO_MEMORY;
    fc_parallel(threads, fc_ceil_div(j.units, j.units_per_task), run_adjoint, &j);
    fc_arena_give();
    return FC_OK;
}
