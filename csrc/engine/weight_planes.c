/* The weight gradient of groups with one input channel, lanes over groups.
 *
 *     dW[g, m, t] = sum_{n, p} dY[n, g, m, p] X[n, g, p, tap t]
 *
 *     for each group of `lanes` channels, chunk of the sum                             a task
 *         for each image n, output plane, band of output rows and columns of the chunk, in order
 *             transpose the pixels of X that the band sees;  for each output m: transpose dY's
 *             planes kernel: all taps of the band, added in double
 *     add the chunks in order
 *
 * Every lane holds a sum of its own, so nothing is added across lanes, and rows of any width are whole vectors.  Chunks and bands
 * depend on the shape alone.  On one core of Emerald Rapids, us, this and the depthwise driver, which adds its lanes up for every
 * tap of every band: 3x3 512@14 60, 142; 5x5s2 144@56 253, 343; 7x7 96@56 401, 479; k31 4x512@2000 5200, 12400.
 */
#include "engine/planes.h"

enum { ROWS, COLUMNS, CHUNKS }; /* plan->tile */
enum { BAND_BYTES = 128 << 10, BAND_OUTPUTS = 1024, CHUNKS_WANTED = 8 }; /* outputs: terms of a sum in the real type */

typedef struct layout {
    const fc_kernels *kernels;
    fc_planes x, y;
    int64_t taps, groups, rows, columns; /* outputs of a band */
    int64_t bands, units;                /* of one image plane; of the sum */
    int64_t x_bytes, y_bytes, sum_bytes, worker_bytes, table_bytes, total_bytes;
} layout;

static int64_t seen(const fc_window *w, int axis, int64_t outputs)
{
    return (outputs - 1) * w->stride[axis] + (w->kernel[axis] - 1) * w->dilation[axis] + 1;
}

static layout lay_out(const fc_conv_plan *plan)
{
    const fc_conv *p = &plan->problem;
    const fc_window *w = &p->window;
    layout l = {.kernels = fc_dispatch(p->real), .rows = plan->tile[ROWS], .columns = plan->tile[COLUMNS], .taps = fc_taps(w)};
    int64_t lanes = l.kernels->lanes, pixel = lanes * l.kernels->size;
    fc_array_strides y = p->y;
    y.c *= p->out_channels;
    l.x = fc_planes_plan(w->in, &p->x, seen(w, 1, l.rows), seen(w, 2, l.columns));
    l.y = fc_planes_plan(w->out, &y, l.rows, l.columns);
    l.groups = fc_ceil_div(p->groups, lanes);
    l.bands = fc_mul(fc_ceil_div(w->out[1], l.rows), fc_ceil_div(w->out[2], l.columns));
    l.units = fc_mul(fc_mul(p->batch, w->out[0]), l.bands);
    l.x_bytes = fc_bytes(fc_mul(seen(w, 0, 1), fc_mul(l.x.rows, l.x.columns)), pixel);
    l.y_bytes = fc_bytes(fc_mul(l.rows, l.columns), pixel);
    l.sum_bytes = fc_bytes(l.taps, pixel);
    l.worker_bytes = fc_add(fc_add(l.x_bytes, l.y_bytes), l.sum_bytes);
    l.table_bytes = fc_bytes(fc_add(l.taps, fc_add(l.x.place_count, l.y.place_count)), sizeof(int64_t));
    l.total_bytes = fc_bytes(fc_mul(fc_mul(l.taps, p->out_channels), lanes), sizeof(double)); /* of a group and chunk */
    return l;
}

/* Halves the longer side until a band fits. */
static layout choose_band(fc_conv_plan *plan)
{
    const fc_window *w = &plan->problem.window;
    int64_t *tile = plan->tile;
    tile[ROWS] = w->out[1];
    tile[COLUMNS] = w->out[2];
    for (;;) {
        layout l = lay_out(plan);
        int fits = fc_max(l.x_bytes, l.y_bytes) <= BAND_BYTES && fc_mul(l.rows, l.columns) <= BAND_OUTPUTS;
        int side = tile[ROWS] > 4 || tile[ROWS] > tile[COLUMNS] ? ROWS : COLUMNS;
        if (fits || tile[side] <= (side == COLUMNS ? 64 : 1))
            return l;
        int64_t out = w->out[side == ROWS ? 1 : 2];
        tile[side] = fc_ceil_div(out, 2 * fc_ceil_div(out, tile[side]));
    }
}

/* Nanoseconds, in the measure of the depthwise driver's: a multiply-add of vectors, a row. */
#define PRODUCT 0.11
#define LINE 8

static const char *plan_planes(fc_conv_plan *plan, double *cost)
{
    const fc_conv *p = &plan->problem;
    if (p->channels != 1)
        return "a group has more than one input channel";
    if (!p->out_channels || !p->batch || !fc_outputs(&p->window) || !fc_taps(&p->window))
        return "there is nothing to sum";
    if (fc_taps(&p->window) > FC_PLANES_TAPS_MAX)
        return "the kernel has too many taps";
    if (p->groups < fc_dispatch(p->real)->lanes / 2)
        return "there are few channels";
    layout l = choose_band(plan);
    plan->tile[CHUNKS] = fc_max(1, fc_min(l.units, CHUNKS_WANTED / l.groups));
    plan->scratch = fc_add(fc_add(l.table_bytes, fc_mul(fc_mul(l.groups, plan->tile[CHUNKS]), l.total_bytes)),
                           fc_mul(plan->threads, l.worker_bytes));
    if (fc_max(l.x_bytes, l.y_bytes) > 4 * BAND_BYTES || plan->scratch > fc_scratch_max(plan->threads))
        return "a row of all channels in a vector exceeds the cache";
    double m = (double)p->out_channels, taps = (double)l.taps, lanes = (double)l.kernels->lanes;
    double unit = 20 + m * (double)l.rows * (LINE * (double)fc_ceil_div(l.taps, 9) + PRODUCT * taps * (double)l.columns) +
                  fc_planes_cost(&l.x, l.kernels, (double)l.x_bytes) +
                  m * fc_planes_cost(&l.y, l.kernels, (double)l.y_bytes) + 0.2 * m * taps * lanes;
    *cost = 400 + (double)l.groups * ((double)l.units * unit + (double)plan->tile[CHUNKS] * m * taps * lanes);
    return NULL;
}

typedef struct job {
    const fc_conv_plan *plan;
    layout l;
    int64_t *offset, *x_place, *y_place;
    const char *x, *y;
    char *w, *totals, *scratch;
} job;

static void list_tables(job *j)
{
    const fc_window *w = &j->plan->problem.window;
    const int64_t *k = w->kernel, *d = w->dilation, lanes = j->l.kernels->lanes;
    for (int64_t t = 0; t < j->l.taps; t++) {
        int64_t row = t / k[2] / k[1] * d[0] * j->l.x.rows + t / k[2] % k[1] * d[1];
        j->offset[t] = (row * j->l.x.columns + t % k[2] * d[2]) * lanes;
    }
    fc_planes_share(&j->l.x, lanes, j->x_place);
    fc_planes_share(&j->l.y, lanes, j->y_place);
}

static void add_unit(const job *j, int64_t g, int64_t count, int64_t unit, double *total, char *scratch)
{
    const fc_conv *p = &j->plan->problem;
    const fc_window *w = &p->window;
    const layout *l = &j->l;
    int64_t size = l->kernels->size, lanes = l->kernels->lanes, across = fc_ceil_div(w->out[2], l->columns);
    int64_t band = unit % l->bands, od = unit / l->bands % w->out[0], n = unit / l->bands / w->out[0];
    fc_box out = {.first = {od, band / across * l->rows, band % across * l->columns}, .size = {1}}, in;
    out.size[1] = fc_min(l->rows, w->out[1] - out.first[1]);
    out.size[2] = fc_min(l->columns, w->out[2] - out.first[2]);
    for (int i = 0; i < FC_AXES; i++) {
        in.first[i] = out.first[i] * w->stride[i] - w->offset[i];
        in.size[i] = seen(w, i, out.size[i]);
    }
    char *sum = scratch, *x = sum + l->sum_bytes, *y = x + l->x_bytes;
    fc_planes_take(&l->x, l->kernels, j->x_place, &in, fc_at(j->x, n * p->x.n + g * p->x.c, size), count, x);
    for (int64_t m = 0; m < p->out_channels; m++, total += l->taps * lanes) {
        fc_planes_take(&l->y, l->kernels, j->y_place, &out, fc_at(j->y, n * p->y.n + (g * p->out_channels + m) * p->y.c, size),
                       count, y);
        l->kernels->copy_vectors(sum, lanes, NULL, 0, 1, l->taps);
        l->kernels->planes_correlate(sum, l->taps, j->offset, x, w->stride[2] * lanes, w->stride[1] * l->x.columns * lanes, y,
                                     lanes, l->columns * lanes, out.size[1], out.size[2]);
        for (int64_t i = 0; i < l->taps * lanes && size == 4; i++)
            total[i] += (double)((const float *)(void *)sum)[i];
        for (int64_t i = 0; i < l->taps * lanes && size == 8; i++)
            total[i] += ((const double *)(void *)sum)[i];
    }
}

static void *total_of(const job *j, int64_t group, int64_t chunk)
{
    return j->totals + (group * j->plan->tile[CHUNKS] + chunk) * j->l.total_bytes;
}

/* The chunks of one group of channels, added in order, to w; `tile` holds a sum. */
static void store_group(const job *j, int64_t group, void *tile)
{
    const fc_conv *p = &j->plan->problem;
    const int64_t *k = p->window.kernel, lanes = j->l.kernels->lanes, size = j->l.kernels->size, taps = j->l.taps;
    int64_t first = group * lanes, count = fc_min(lanes, p->groups - first), sums = p->out_channels * taps * lanes;
    double *sum = total_of(j, group, 0);
    for (int64_t chunk = 1; chunk < j->plan->tile[CHUNKS]; chunk++) {
        const double *more = total_of(j, group, chunk);
        for (int64_t i = 0; i < sums; i++)
            sum[i] += more[i];
    }
    for (int64_t m = 0; m < p->out_channels; m++, sum += taps * lanes) {
        for (int64_t i = 0; i < taps * lanes && size == 4; i++)
            ((float *)tile)[i] = (float)sum[i];
        for (int64_t t = 0; t < taps; t++) {
            int64_t at = first * p->w.g + m * p->w.o + t % k[2] * p->w.k[2] + t / k[2] % k[1] * p->w.k[1] +
                         t / k[2] / k[1] * p->w.k[0];
            j->l.kernels->scatter_row(fc_at(j->w, at, size), p->w.g, fc_at(size == 4 ? tile : sum, t * lanes, size), count, 0);
        }
    }
}

static void run_task(void *context, int64_t task, int worker)
{
    const job *j = context;
    const layout *l = &j->l;
    int64_t chunks = j->plan->tile[CHUNKS], group = task / chunks, chunk = task % chunks, g = group * l->kernels->lanes;
    int64_t count = fc_min(l->kernels->lanes, j->plan->problem.groups - g);
    double *total = total_of(j, group, chunk);
    for (int64_t i = 0; i < j->plan->problem.out_channels * l->taps * l->kernels->lanes; i++)
        total[i] = 0;
    for (int64_t unit = l->units * chunk / chunks; unit < l->units * (chunk + 1) / chunks; unit++)
        add_unit(j, g, count, unit, total, j->scratch + worker * l->worker_bytes);
    if (chunks == 1)
        store_group(j, group, j->scratch + worker * l->worker_bytes);
}

static fc_status run_planes(const fc_conv_plan *plan, void *x, void *w, void *bias, void *y)
{
    (void)bias;
    job j = {.plan = plan, .l = lay_out(plan), .x = x, .y = y, .w = w};
    char *scratch = fc_arena_take(plan->scratch);
    if (!scratch)
        return FC_NO_MEMORY;
    j.offset = (int64_t *)(void *)scratch;
    j.x_place = j.offset + j.l.taps;
    j.y_place = j.x_place + j.l.x.place_count;
    j.totals = scratch + j.l.table_bytes;
    j.scratch = j.totals + j.l.groups * plan->tile[CHUNKS] * j.l.total_bytes;
    list_tables(&j);
    fc_parallel(plan->threads, j.l.groups * plan->tile[CHUNKS], run_task, &j);
    for (int64_t group = 0; group < j.l.groups && plan->tile[CHUNKS] > 1; group++)
        store_group(&j, group, j.scratch);
    fc_arena_give();
    return FC_OK;
}

const fc_driver fc_driver_weight_planes = {"planes", plan_planes, run_planes, .bounded = 0};
