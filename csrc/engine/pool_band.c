/* The band driver of pooling: lanes over neighbouring outputs of one channel, regular windows of any stride and dilation.
 *
 *     for each image n, channel c, plane od, block of rows, block of columns      a unit
 *         copy what its windows see, padded with what cannot win or add, split by stride phase (band.h)
 *         reduce the whole block, into y where its rows are laid out alike, else into a tile that is then stored row by row
 *
 * Where the divisor is one and the same, rows of a block are one long row with `pitch - width` idle columns between them, so
 * that narrow images (7, 14 wide) fill their vectors.
 */
#include "engine/band.h"
#include "engine/pool.h"

enum { ROWS, COLUMNS };         /* plan->tile */
enum { BAND_BYTES = 24 << 10 }; /* copy and tile in a first-level cache of 32 KiB */
enum { TAPS_MAX = 4096, COLUMNS_MIN = 256 };

typedef struct layout {
    const fc_kernels *kernels;
    fc_window window; /* of a full block, at the first column */
    fc_band band;
    int64_t taps, row_blocks, column_blocks;
    int64_t offset_bytes;                                          /* shared: offsets, then positions */
    int64_t band_bytes, tile_bytes, lane_bytes, row_bytes;         /* of a worker, in this order; then column divisors */
    int uniform[FC_AXES], even;                                    /* divisors: along an axis; everywhere */
} layout;

/* Whether every stop of the axis divides by the same count. */
static int divides_evenly(const fc_pool *p, int axis)
{
    const fc_window *w = &p->window;
    int64_t end = (w->out[axis] - 1) * w->stride[axis] - w->offset[axis] + w->kernel[axis];
    if (p->kind == FC_POOL_MAX || p->divisor != 0)
        return 1;
    return p->count_padding ? end <= w->in[axis] + w->offset[axis] : w->offset[axis] == 0 && end <= w->in[axis];
}

static int64_t bytes_of(int64_t count, int64_t size)
{
    return fc_arena_round(fc_min(INT64_MAX / 16, fc_mul(count, size)));
}

static layout lay_out(const fc_pool_plan *plan)
{
    const fc_pool *p = &plan->problem;
    layout l = {.kernels = fc_dispatch(p->real), .window = p->window, .taps = fc_taps(&p->window), .even = 1};
    int64_t rows = plan->tile[ROWS], columns = plan->tile[COLUMNS], size = l.kernels->size;
    l.row_blocks = fc_ceil_div(p->window.out[1], rows);
    l.column_blocks = fc_ceil_div(p->window.out[2], columns);
    l.window.out[2] = columns;
    l.band = fc_band_plan(&l.window, rows);
    l.offset_bytes = bytes_of(l.taps, sizeof(int64_t));
    int64_t tile = fc_mul(rows, fc_add(l.band.pitch, l.kernels->lanes));
    l.band_bytes = bytes_of(fc_add(l.band.channel, FC_LANES_MAX), size);
    l.tile_bytes = bytes_of(tile, size);
    l.lane_bytes = plan->indexed ? l.tile_bytes : 0;
    l.row_bytes = p->kind == FC_POOL_MEAN ? bytes_of(rows, sizeof(double)) : 0;
    for (int i = 0; i < FC_AXES; i++)
        l.even &= l.uniform[i] = divides_evenly(p, i);
    return l;
}

static int64_t spread_evenly(int64_t total, int64_t most)
{
    return fc_ceil_div(total, fc_ceil_div(total, fc_max(1, fc_min(most, total))));
}

/* Blocks whose copy takes about BAND_BYTES: as wide as the image where a row of it fits, then as high as fits. */
static void choose_tile(fc_pool_plan *plan, int64_t size)
{
    fc_window w = plan->problem.window;
    fc_band one = fc_band_plan(&w, 1);
    int64_t column = fc_mul(one.channel / one.pitch, size), shift = one.pitch - w.out[2];
    plan->tile[COLUMNS] = spread_evenly(w.out[2], fc_max(COLUMNS_MIN, BAND_BYTES / fc_max(column, 1) - shift));
    w.out[2] = plan->tile[COLUMNS];
    one = fc_band_plan(&w, 1);
    int64_t row = fc_mul(one.channel / one.copied_rows, size);
    plan->tile[ROWS] = spread_evenly(w.out[1], BAND_BYTES / fc_max(row, 1) - (one.copied_rows - 1));
}

static const char *plan_band(fc_pool_plan *plan, double *cost)
{
    const fc_pool *p = &plan->problem;
    const fc_window *w = &p->window;
    const fc_kernels *kernels = fc_dispatch(p->real);
    if (p->adaptive)
        return "windows are of unequal sizes";
    if (fc_taps(w) > TAPS_MAX)
        return "the window has too many taps";
    int64_t farthest = 0;
    for (int i = 0; i < FC_AXES; i++)
        farthest = fc_add(fc_mul(farthest, w->in[i]), (w->kernel[i] - 1) * w->dilation[i]);
    if (plan->indexed && farthest > (kernels->size == 4 ? INT32_MAX : INT64_MAX / 2))
        return "the window spans more than the lanes of an index hold";
    choose_tile(plan, kernels->size);
    layout l = lay_out(plan);
    plan->units = fc_mul(fc_mul(fc_pool_planes(p), w->out[0]), fc_mul(l.row_blocks, l.column_blocks));
    plan->shared = l.offset_bytes + (plan->indexed ? bytes_of(l.taps, kernels->size) : 0);
    plan->worker = l.band_bytes + l.tile_bytes + l.lane_bytes + l.row_bytes;
    plan->worker += l.uniform[2] ? 0 : bytes_of(plan->tile[COLUMNS] + FC_LANES_MAX, kernels->size);
    if (fc_mul(plan->worker, fc_threads_get()) > FC_SCRATCH_MAX)
        return "a padded band of the input exceeds the scratch bound";
    double rows = (double)plan->tile[ROWS], copied = (double)l.band.channel, lanes = (double)kernels->lanes;
    double vectors = l.even ? rows * (double)l.band.pitch / lanes : rows * (double)fc_ceil_div(l.band.pitch, kernels->lanes);
    double slow = fc_mul(p->x.s[2], w->stride[2]) <= 2 && p->x.s[2] >= 0 ? 0.03 : 0.6;
    *cost = 300 + (double)plan->units * (60 + 4 * copied / (double)l.band.pitch + slow * copied + 3 * rows +
                                         vectors * (1 + (double)l.taps * (plan->indexed ? 0.6 : 0.35)));
    return NULL;
}

/* A real at place `i`, whatever the type. */
static void put(const fc_kernels *kernels, void *p, int64_t i, double value)
{
    if (kernels->size == 4)
        ((float *)p)[i] = (float)value;
    else
        ((double *)p)[i] = value;
}

static void put_integer(const fc_kernels *kernels, void *p, int64_t i, int64_t value)
{
    if (kernels->size == 4)
        ((int32_t *)p)[i] = (int32_t)value;
    else
        ((int64_t *)p)[i] = value;
}

static void prepare_band(const fc_pool_job *j)
{
    layout l = lay_out(j->plan);
    const fc_window *w = &l.window;
    int64_t *offset = (int64_t *)(void *)j->shared, t = 0;
    void *position = j->shared + l.offset_bytes;
    for (int64_t kd = 0; kd < w->kernel[0]; kd++)
        for (int64_t kh = 0; kh < w->kernel[1]; kh++)
            for (int64_t kw = 0; kw < w->kernel[2]; kw++, t++) {
                int64_t row = kd * w->dilation[0] * w->in[1] + kh * w->dilation[1];
                offset[t] = fc_band_tap(&l.band, w, kd, kh, kw);
                if (j->plan->indexed)
                    put_integer(j->kernels, position, t, row * w->in[2] + kw * w->dilation[2]);
            }
}

/* One block of one channel: output rows oh ... of plane od, columns ow .... */
typedef struct block {
    int64_t n, c, od, oh, ow, rows, columns;
    int64_t tile_row;  /* from row to row of the tile */
    int flat, in_place; /* rows are one long row; y is the tile */
} block;

static block find_block(const fc_pool_job *j, const layout *l, int64_t unit)
{
    const fc_pool *p = &j->plan->problem;
    const int64_t *out = p->window.out, *tile = j->plan->tile;
    block b = {.ow = unit % l->column_blocks * tile[COLUMNS]};
    unit /= l->column_blocks;
    b.oh = unit % l->row_blocks * tile[ROWS];
    unit /= l->row_blocks;
    b.od = unit % out[0];
    unit /= out[0];
    b.c = unit % p->channels;
    b.n = unit / p->channels;
    b.rows = fc_min(tile[ROWS], out[1] - b.oh);
    b.columns = fc_min(tile[COLUMNS], out[2] - b.ow);
    int64_t pitch = l->band.pitch, lanes = l->kernels->lanes;
    int contiguous = l->even && p->y.s[2] == 1 && b.columns == pitch && (p->y.s[1] == pitch || b.rows == 1);
    b.in_place = p->y.s[2] == 1 && (b.columns >= lanes || (contiguous && b.rows * b.columns >= lanes));
    b.flat = l->even && (b.in_place ? contiguous : 1);
    b.tile_row = b.flat ? pitch : b.in_place ? p->y.s[1] : fc_max(b.columns, lanes);
    return b;
}

/* Lanes of indices into indices.  Where nothing beat -infinity the first tap inside x is the winner. */
static void store_indices(const fc_pool_job *j, const block *b, const char *lanes, int64_t lane_row)
{
    const fc_pool *p = &j->plan->problem;
    const fc_window *w = &p->window;
    int64_t id = b->od * w->stride[0] - w->offset[0], iw = b->ow * w->stride[2] - w->offset[2];
    for (int64_t r = 0; r < b->rows; r++) {
        int64_t ih = (b->oh + r) * w->stride[1] - w->offset[1], base = (id * w->in[1] + ih) * w->in[2] + iw;
        int64_t *dst = j->index + b->n * p->index.n + b->c * p->index.c + b->od * p->index.s[0] +
                       (b->oh + r) * p->index.s[1] + b->ow * p->index.s[2];
        const char *row = fc_at(lanes, r * lane_row, j->kernels->size);
        if (!j->kernels->pool.index(dst, p->index.s[2], row, base, w->stride[2], b->columns))
            continue;
        for (int64_t q = 0; q < b->columns; q++) {
            const void *lane = fc_at(row, q, j->kernels->size);
            if (j->kernels->size == 4 ? *(const int32_t *)lane < 0 : *(const int64_t *)lane < 0)
                dst[q * p->index.s[2]] = fc_pool_first(p, b->od, b->oh + r, b->ow + q);
        }
    }
}

static void take_mean(const fc_pool_job *j, const layout *l, const block *b, char *scratch, char *y, int64_t rows,
                      int64_t width)
{
    const fc_pool *p = &j->plan->problem;
    double *row = (double *)(void *)(scratch + l->band_bytes + l->tile_bytes + l->lane_bytes);
    char *column = l->uniform[2] ? NULL : (char *)row + l->row_bytes;
    double depth = (double)fc_pool_stop(p, 0, b->od).count, across = (double)p->window.kernel[2];
    for (int64_t r = 0; r < rows; r++)
        row[r] = fc_pool_divisor(p, depth * (double)fc_pool_stop(p, 1, b->oh + r).count * (column ? 1 : across));
    for (int64_t q = 0; column && q < width; q++)
        put(j->kernels, column, q, (double)fc_pool_stop(p, 2, fc_min(b->ow + q, p->window.out[2] - 1)).count);
    j->kernels->pool.mean(l->taps, (const int64_t *)(const void *)j->shared, row, column, scratch, l->band.pitch, y,
                          b->tile_row, rows, width);
}

static void run_block(const fc_pool_job *j, const layout *l, const block *b, char *scratch)
{
    static const double zero = 0;
    static const double infinity64 = -__builtin_inf();
    static const float infinity32 = -__builtin_inff();
    const fc_pool *p = &j->plan->problem;
    int64_t size = j->kernels->size, lanes = j->kernels->lanes;
    const void *nothing = p->kind == FC_POOL_MEAN ? &zero : size == 4 ? (const void *)&infinity32 : &infinity64;
    fc_window w = l->window;
    w.offset[2] -= b->ow * w.stride[2];
    fc_band_copy(&l->band, &w, j->kernels, scratch, fc_at(j->x, b->n * p->x.n + b->c * p->x.c, size), p->x.s, b->od, b->oh,
                 nothing);

    int64_t to = b->n * p->y.n + b->c * p->y.c + b->od * p->y.s[0] + b->oh * p->y.s[1] + b->ow * p->y.s[2];
    char *y = fc_at(j->y, to, size), *tile = b->in_place ? y : scratch + l->band_bytes;
    char *index = scratch + l->band_bytes + l->tile_bytes;
    int64_t rows = b->flat ? 1 : b->rows;
    int64_t width = fc_max(lanes, b->flat ? (b->rows - 1) * b->tile_row + b->columns : b->columns);
    const int64_t *offset = (const int64_t *)(const void *)j->shared;
    int64_t index_row = b->flat ? b->tile_row : width;
    if (p->kind == FC_POOL_MEAN)
        take_mean(j, l, b, scratch, tile, rows, width);
    else if (j->index)
        j->kernels->pool.max_index(l->taps, offset, j->shared + l->offset_bytes, -1, scratch, l->band.pitch, tile, b->tile_row,
                                   index, index_row, rows, width);
    else
        j->kernels->pool.max(l->taps, offset, scratch, l->band.pitch, tile, b->tile_row, rows, width);
    if (j->index)
        store_indices(j, b, index, index_row);
    for (int64_t r = 0; !b->in_place && r < b->rows; r++)
        j->kernels->scatter_row(fc_at(y, r * p->y.s[1], size), p->y.s[2], fc_at(tile, r * b->tile_row, size), b->columns, 0);
}

static void run_band(const fc_pool_job *j, int64_t begin, int64_t end, char *scratch)
{
    layout l = lay_out(j->plan);
    for (int64_t unit = begin; unit < end; unit++) {
        block b = find_block(j, &l, unit);
        run_block(j, &l, &b, scratch);
    }
}

const fc_pool_driver fc_pool_driver_band = {"band", plan_band, prepare_band, run_band};
