/* The rows driver of pooling: lanes over neighbouring outputs of a row, regular windows of any stride and dilation.
 *
 *     for each image n, channel c, plane od, block of rows, block of columns      a unit
 *         for each run of rows alike in two respects                               a segment
 *             where x is read: in place, or from a copy padded with what cannot win or add
 *             where y is written: in place, or to a tile that is then stored row by row
 *
 * Vectors are whole, so that a narrow row is read and written beyond its end.  What lies there is of no account: in x it is
 * the next row, in y the next row overwrites it.  Only rows at the edges of an image need the copy, and only the last of a
 * block the tile.  Stride 2 is a permutation of two vectors; splitting a copy by phase (band.h) was three times slower, as
 * copying short rows costs more than all the rest.
 */
#include "engine/pool.h"

enum { ROWS, COLUMNS };         /* plan->tile */
enum { COPY_BYTES = 24 << 10 }; /* what a block sees, in a first-level cache of 32 KiB */
enum { TAPS_MAX = 4096 };

typedef struct layout {
    const fc_kernels *kernels;
    int64_t taps, row_blocks, column_blocks;
    int64_t pitch, plane;                                  /* the copy: [KD][rows][pitch], plane = rows * pitch */
    int64_t offset_bytes;                                  /* shared: offsets in x, offsets in the copy, positions */
    int64_t copy_bytes, tile_bytes, lane_bytes, row_bytes; /* of a worker, in this order; then column divisors */
    int even;                                              /* columns of a mean have one divisor */
} layout;

/* Whether every stop along w divides by the same count. */
static int divides_evenly(const fc_pool *p)
{
    const fc_window *w = &p->window;
    int64_t end = (w->out[2] - 1) * w->stride[2] - w->offset[2] + w->kernel[2];
    if (p->kind == FC_POOL_MAX || p->divisor != 0)
        return 1;
    return p->count_padding ? end <= w->in[2] + w->offset[2] : w->offset[2] == 0 && end <= w->in[2];
}

/* Positions of one axis that this many stops see. */
static int64_t span(const fc_window *w, int axis, int64_t stops)
{
    return (stops - 1) * w->stride[axis] + (w->kernel[axis] - 1) * w->dilation[axis] + 1;
}

static int64_t bytes_of(int64_t count, int64_t size)
{
    return fc_arena_round(fc_min(INT64_MAX / 16, fc_mul(count, size)));
}

static layout lay_out(const fc_pool_plan *plan)
{
    const fc_pool *p = &plan->problem;
    const fc_window *w = &p->window;
    layout l = {.kernels = fc_dispatch(p->real), .taps = fc_taps(w), .even = divides_evenly(p)};
    int64_t rows = plan->tile[ROWS], columns = plan->tile[COLUMNS], size = l.kernels->size, lanes = l.kernels->lanes;
    l.row_blocks = fc_ceil_div(w->out[1], rows);
    l.column_blocks = fc_ceil_div(w->out[2], columns);
    l.pitch = span(w, 2, columns);
    l.plane = fc_mul(span(w, 1, rows), l.pitch);
    l.offset_bytes = bytes_of(l.taps, sizeof(int64_t));
    l.copy_bytes = bytes_of(fc_add(fc_mul(w->kernel[0], l.plane), fc_mul(lanes, w->stride[2])), size);
    l.tile_bytes = bytes_of(fc_mul(rows, fc_max(columns, lanes)), size);
    l.lane_bytes = plan->indexed ? l.tile_bytes : 0;
    l.row_bytes = p->kind == FC_POOL_MEAN ? bytes_of(rows, sizeof(double)) : 0;
    return l;
}

static int64_t spread_evenly(int64_t total, int64_t most)
{
    return fc_ceil_div(total, fc_ceil_div(total, fc_max(1, fc_min(most, total))));
}

/* Blocks that see about COPY_BYTES: as wide as the image where a row of it fits, then as high as fits. */
static void choose_tile(fc_pool_plan *plan, const fc_kernels *kernels)
{
    const fc_window *w = &plan->problem.window;
    int64_t most = COPY_BYTES / kernels->size, lines = fc_mul(w->kernel[0], span(w, 1, 1));
    int64_t columns = (most / lines - span(w, 2, 1)) / w->stride[2] + 1;
    plan->tile[COLUMNS] = spread_evenly(w->out[2], fc_max(4 * kernels->lanes, columns));
    int64_t line = fc_mul(w->kernel[0], span(w, 2, plan->tile[COLUMNS]));
    int64_t rows = (most / line - span(w, 1, 1)) / w->stride[1] + 1;
    plan->tile[ROWS] = w->stride[1] > span(w, 1, 1) ? 1 : spread_evenly(w->out[1], rows);
}

static const char *plan_rows(fc_pool_plan *plan, double *cost)
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
        farthest = fc_add(fc_mul(farthest, w->in[i]), span(w, i, 1));
    if (plan->indexed && farthest > (kernels->size == 4 ? INT32_MAX : INT64_MAX / 2))
        return "the window spans more than the lanes of an index hold";
    choose_tile(plan, kernels);
    layout l = lay_out(plan);
    plan->units = fc_mul(fc_mul(fc_pool_planes(p), w->out[0]), fc_mul(l.row_blocks, l.column_blocks));
    plan->shared = 2 * l.offset_bytes + (plan->indexed ? bytes_of(l.taps, kernels->size) : 0);
    plan->worker = l.copy_bytes + l.tile_bytes + l.lane_bytes + l.row_bytes;
    plan->worker += l.even ? 0 : bytes_of(fc_max(plan->tile[COLUMNS], kernels->lanes), kernels->size);
    if (fc_mul(plan->worker, fc_threads_get()) > fc_scratch_max(fc_threads_get()))
        return "a padded block of the input exceeds the scratch bound";
    int in_place = p->x.s[2] == 1 && !(w->offset[0] | w->offset[1] | w->offset[2]);
    double rows = (double)plan->tile[ROWS], copied = (double)(w->kernel[0] * l.plane);
    double vectors = rows * (double)fc_ceil_div(plan->tile[COLUMNS], kernels->lanes);
    double loads = w->stride[2] == 1 ? 1 : w->stride[2] == 2 ? 1.5 : 0.6 * (double)kernels->lanes;
    double copying = in_place ? 0 : copied * (p->x.s[2] == 1 ? 0.03 : 0.5) + 3 * copied / (double)l.pitch;
    *cost = 250 + (double)plan->units * (40 + copying + 4 * rows + vectors * (1 + 0.3 * loads * (double)l.taps) *
                                                                       (plan->indexed ? 1.7 : 1));
    return NULL;
}

static void put_integer(const fc_kernels *kernels, void *p, int64_t i, int64_t value)
{
    if (kernels->size == 4)
        ((int32_t *)p)[i] = (int32_t)value;
    else
        ((int64_t *)p)[i] = value;
}

static void prepare_rows(const fc_pool_job *j)
{
    layout l = lay_out(j->plan);
    const fc_pool *p = &j->plan->problem;
    const fc_window *w = &p->window;
    int64_t *in_x = (int64_t *)(void *)j->shared, *in_copy = (int64_t *)(void *)(j->shared + l.offset_bytes), t = 0;
    void *position = j->shared + 2 * l.offset_bytes;
    for (int64_t kd = 0; kd < w->kernel[0]; kd++)
        for (int64_t kh = 0; kh < w->kernel[1]; kh++)
            for (int64_t kw = 0; kw < w->kernel[2]; kw++, t++) {
                int64_t d = kd * w->dilation[0], h = kh * w->dilation[1], q = kw * w->dilation[2];
                in_x[t] = d * p->x.s[0] + h * p->x.s[1] + q;
                in_copy[t] = kd * l.plane + h * l.pitch + q;
                if (j->plan->indexed)
                    put_integer(j->kernels, position, t, (d * w->in[1] + h) * w->in[2] + q);
            }
}

/* One block of one channel: output rows oh ... of plane od, columns ow ...; where its first tap stands in x. */
typedef struct block {
    int64_t n, c, od, oh, ow, rows, columns;
    int64_t id, iw;
} block;

static block find_block(const fc_pool_job *j, const layout *l, int64_t unit)
{
    const fc_pool *p = &j->plan->problem;
    const fc_window *w = &p->window;
    const int64_t *tile = j->plan->tile;
    block b = {.ow = unit % l->column_blocks * tile[COLUMNS]};
    unit /= l->column_blocks;
    b.oh = unit % l->row_blocks * tile[ROWS];
    unit /= l->row_blocks;
    b.od = unit % w->out[0];
    unit /= w->out[0];
    b.c = unit % p->channels;
    b.n = unit / p->channels;
    b.rows = fc_min(tile[ROWS], w->out[1] - b.oh);
    b.columns = fc_min(tile[COLUMNS], w->out[2] - b.ow);
    b.id = b.od * w->stride[0] - w->offset[0];
    b.iw = b.ow * w->stride[2] - w->offset[2];
    return b;
}

static int64_t input_row(const fc_pool *p, const block *b, int64_t r)
{
    return (b->oh + r) * p->window.stride[1] - p->window.offset[1];
}

/* Whether all that row r's vectors read lies between the first and the last element of x's channel, taps inside x. */
static int reads_in_place(const fc_pool *p, const layout *l, const block *b, int64_t r)
{
    const fc_window *w = &p->window;
    int64_t ih = input_row(p, b, r), d = b->id + span(w, 0, 1) - 1, h = ih + span(w, 1, 1) - 1;
    if (p->x.s[2] != 1 || p->x.s[1] < 0 || p->x.s[0] < 0 || b->id < 0 || ih < 0 || b->iw < 0)
        return 0;
    if (d >= w->in[0] || h >= w->in[1] || b->iw + span(w, 2, b->columns) > w->in[2])
        return 0;
    int64_t width = fc_max(b->columns, l->kernels->lanes) * w->stride[2] + span(w, 2, 1) - 1;
    int64_t last = (w->in[0] - 1) * p->x.s[0] + (w->in[1] - 1) * p->x.s[1] + w->in[2];
    return d * p->x.s[0] + h * p->x.s[1] + b->iw + width <= last;
}

/* Whether what a vector writes beyond the row is overwritten by the rows after it. */
static int writes_in_place(const fc_pool *p, const layout *l, const block *b, int64_t r)
{
    int64_t lanes = l->kernels->lanes;
    return p->y.s[2] == 1 && (b->columns >= lanes || (p->y.s[1] == b->columns && (b->rows - r) * b->columns >= lanes));
}

/* Copies what rows [begin, end) of the block see. */
static void copy_padded(const fc_pool_job *j, const layout *l, const block *b, int64_t begin, int64_t end, char *copy)
{
    static const double zero = 0, infinity64 = -__builtin_inf();
    static const float infinity32 = -__builtin_inff();
    const fc_pool *p = &j->plan->problem;
    const fc_window *w = &p->window;
    int64_t size = j->kernels->size, rows = span(w, 1, end - begin), ih = input_row(p, b, begin), pitch = l->pitch;
    int64_t top = fc_min(rows, fc_max(0, -ih)), bottom = fc_max(top, fc_min(rows, w->in[1] - ih));
    int64_t left = fc_min(pitch, fc_max(0, -b->iw)), right = fc_max(left, fc_min(pitch, w->in[2] - b->iw));
    const void *value = p->kind == FC_POOL_MEAN ? &zero : size == 4 ? (const void *)&infinity32 : &infinity64;
    for (int64_t kd = 0; kd < w->kernel[0]; kd++) {
        int64_t id = b->id + kd * w->dilation[0], inside = id >= 0 && id < w->in[0] && right > left;
        int64_t first = inside ? top : rows, last = inside ? bottom : rows;
        char *to = fc_at(copy, kd * l->plane, size);
        j->kernels->pool.pad(to, pitch, pitch, NULL, 0, 1, 0, first, value);
        if (first < last) {
            int64_t from = b->n * p->x.n + b->c * p->x.c + id * p->x.s[0] + (ih + first) * p->x.s[1];
            from += (b->iw + left) * p->x.s[2];
            j->kernels->pool.pad(fc_at(to, first * pitch, size), pitch, left, fc_at(j->x, from, size), p->x.s[1], p->x.s[2],
                                 right - left, last - first, value);
        }
        j->kernels->pool.pad(fc_at(to, last * pitch, size), pitch, pitch, NULL, 0, 1, 0, rows - last, value);
    }
}

/* Lanes of indices into indices.  Where nothing beat -infinity the first tap inside x is the winner. */
static void store_indices(const fc_pool_job *j, const block *b, int64_t begin, int64_t end, const char *lanes, int64_t lane_row)
{
    const fc_pool *p = &j->plan->problem;
    const fc_window *w = &p->window;
    for (int64_t r = begin; r < end; r++, lanes += lane_row * j->kernels->size) {
        int64_t base = (b->id * w->in[1] + input_row(p, b, r)) * w->in[2] + b->iw;
        int64_t *dst = j->index + b->n * p->index.n + b->c * p->index.c + b->od * p->index.s[0] +
                       (b->oh + r) * p->index.s[1] + b->ow * p->index.s[2];
        if (!j->kernels->pool.index(dst, p->index.s[2], lanes, base, w->stride[2], b->columns))
            continue;
        for (int64_t q = 0; q < b->columns; q++) {
            const void *lane = fc_at(lanes, q, j->kernels->size);
            if (j->kernels->size == 4 ? *(const int32_t *)lane < 0 : *(const int64_t *)lane < 0)
                dst[q * p->index.s[2]] = fc_pool_first(p, b->od, b->oh + r, b->ow + q);
        }
    }
}

/* Divisors of rows [begin, end), and of columns where they differ. */
static const double *list_divisors(const fc_pool_job *j, const layout *l, const block *b, int64_t begin, int64_t end,
                                   char *scratch, const void **columns)
{
    const fc_pool *p = &j->plan->problem;
    double *row = (double *)(void *)(scratch + l->copy_bytes + l->tile_bytes + l->lane_bytes);
    double depth = (double)fc_pool_stop(p, 0, b->od).count, across = l->even ? (double)fc_pool_stop(p, 2, 0).count : 1;
    for (int64_t r = begin; r < end; r++)
        row[r - begin] = fc_pool_divisor(p, depth * across * (double)fc_pool_stop(p, 1, b->oh + r).count);
    char *column = (char *)row + l->row_bytes;
    for (int64_t q = 0; !l->even && q < fc_max(b->columns, l->kernels->lanes); q++) {
        double count = (double)fc_pool_stop(p, 2, fc_min(b->ow + q, p->window.out[2] - 1)).count;
        if (l->kernels->size == 4)
            ((float *)(void *)column)[q] = (float)count;
        else
            ((double *)(void *)column)[q] = count;
    }
    *columns = l->even ? NULL : column;
    return row;
}

/* Rows [begin, end) of a block, alike in where they are read and written. */
static void run_segment(const fc_pool_job *j, const layout *l, const block *b, int64_t begin, int64_t end, int reads,
                        int writes, char *scratch)
{
    const fc_pool *p = &j->plan->problem;
    const fc_pool_kernels *pool = &j->kernels->pool;
    int64_t size = j->kernels->size, rows = end - begin, columns = b->columns, stride = p->window.stride[2];
    int64_t from = b->n * p->x.n + b->c * p->x.c + b->id * p->x.s[0] + input_row(p, b, begin) * p->x.s[1] + b->iw;
    int64_t to = b->n * p->y.n + b->c * p->y.c + b->od * p->y.s[0] + (b->oh + begin) * p->y.s[1] + b->ow * p->y.s[2];
    int64_t x_row = p->window.stride[1] * (reads ? p->x.s[1] : l->pitch), lane_row = fc_max(columns, j->kernels->lanes);
    int64_t y_row = writes ? p->y.s[1] : lane_row;
    const int64_t *offset = (const int64_t *)(const void *)(reads ? j->shared : j->shared + l->offset_bytes);
    const char *x = reads ? (const char *)fc_at(j->x, from, size) : scratch;
    char *y = fc_at(j->y, to, size), *tile = writes ? y : scratch + l->copy_bytes;
    char *lanes = scratch + l->copy_bytes + l->tile_bytes;
    if (!reads)
        copy_padded(j, l, b, begin, end, scratch);
    if (p->kind == FC_POOL_MEAN) {
        const void *column;
        const double *row = list_divisors(j, l, b, begin, end, scratch, &column);
        pool->mean(l->taps, offset, row, column, x, x_row, stride, tile, y_row, rows, columns);
    } else if (j->index) {
        pool->max_index(l->taps, offset, j->shared + 2 * l->offset_bytes, -1, x, x_row, stride, tile, y_row, lanes, lane_row,
                        rows, columns);
        store_indices(j, b, begin, end, lanes, lane_row);
    } else {
        pool->max(l->taps, offset, x, x_row, stride, tile, y_row, rows, columns);
    }
    for (int64_t r = 0; !writes && r < rows; r++)
        j->kernels->scatter_row(fc_at(y, r * p->y.s[1], size), p->y.s[2], fc_at(tile, r * y_row, size), columns, 0);
}

static void run_rows(const fc_pool_job *j, int64_t begin, int64_t end, char *scratch)
{
    const fc_pool *p = &j->plan->problem;
    layout l = lay_out(j->plan);
    for (int64_t unit = begin; unit < end; unit++) {
        block b = find_block(j, &l, unit);
        for (int64_t r = 0, next; r < b.rows; r = next) {
            int reads = reads_in_place(p, &l, &b, r), writes = writes_in_place(p, &l, &b, r);
            for (next = r + 1; next < b.rows; next++)
                if (reads_in_place(p, &l, &b, next) != reads || writes_in_place(p, &l, &b, next) != writes)
                    break;
            run_segment(j, &l, &b, r, next, reads, writes, scratch);
        }
    }
}

const fc_pool_driver fc_pool_driver_rows = {"rows", plan_rows, prepare_rows, run_rows};
