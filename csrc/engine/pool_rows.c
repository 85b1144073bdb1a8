/* The rows driver of pooling: lanes over neighbouring outputs of a row, regular windows of any stride and dilation.
 *
 *     for each image n, channel c, plane od, block of rows, block of columns      a unit
 *         table of the rows that the block sees: in place, copied at the image's ends, one row for the padding;
 *         of deep windows, rows of a copy in which their planes are one already
 *         rows kernel over all output rows that can be written in place, then over the rest into a tile
 *
 * Vectors are whole, so that a narrow row is read and written beyond its end.  What lies there is of no account: in x the
 * kernel masks it, in y the next row overwrites it; only the last rows of a block need the tile, and of planes that follow each
 * other those of a task's last.  Tried before and slower: a padded copy of what a block sees (3x3 with padding 1 spent a third of
 * its time in it), split by phase for stride 2 (three times slower, as copying short rows costs more than all the rest), and
 * deciding row by row what is in place (half the time of 2x2 over 28x28).  3x3x3s2 over 64 of 16x28x28: 250 us where every output
 * sums nine rows, 118 with planes summed first.
 */
#include "engine/pool.h"
#include "engine/rows.h"

enum { ROWS, COLUMNS };                             /* plan->tile */
enum { BLOCK_BYTES = 24 << 10, ROWS_MAX = 64 };     /* a window's rows, in a first-level cache of 32 KiB; output rows */
enum { TAPS_MAX = 4096, DEPTH_MAX = 16 };           /* of a window; of one whose planes are reduced first */

/* Columns [ow, ow + columns) of the outputs: where x is read, `window.in` columns from `begin` on. */
typedef struct part {
    fc_rows rows;
    int64_t begin, base; /* base: the first tap of column ow, from `begin` on */
} part;

typedef struct layout {
    const fc_kernels *kernels;
    int64_t taps, lines, row_blocks, column_blocks, table_rows; /* table_rows: of one input plane */
    int64_t line_bytes, position_bytes, fill_bytes, fill_left;  /* shared, in this order */
    int64_t table_bytes, copy_bytes, shift_bytes, tile_bytes, lane_bytes, row_bytes; /* of a worker; then column divisors */
    int even;   /* columns of a mean have one divisor */
    int merged; /* planes of a window are reduced first */
    int x_dense, y_dense; /* planes follow each other without gaps; of y: units do */
} layout;

/* Positions of one axis that this many stops see. */
static int64_t span(const fc_window *w, int axis, int64_t stops)
{
    return (stops - 1) * w->stride[axis] + (w->kernel[axis] - 1) * w->dilation[axis] + 1;
}

static int64_t bytes_of(int64_t count, int64_t size)
{
    return fc_arena_round(fc_min(INT64_MAX / 16, fc_mul(count, size)));
}

static part find_part(const fc_pool *p, const fc_kernels *kernels, int64_t ow, int64_t columns, int64_t table_rows)
{
    const fc_window *w = &p->window;
    int64_t iw = ow * w->stride[2] - w->offset[2], begin = fc_max(0, fc_min(iw, w->in[2])), base = iw - begin;
    int64_t width = fc_max(0, fc_min(base + span(w, 2, columns), w->in[2] - begin));
    int64_t right = base + fc_max(columns, kernels->lanes) * w->stride[2] + (w->kernel[2] - 1) * w->dilation[2];
    return (part){fc_rows_plan_columns(kernels->size, w->in[1], w->in[2], begin, width, p->x.s[1], p->x.s[2],
                                       fc_max(0, -base), fc_max(0, right), table_rows),
                  begin, base};
}

/* Whether the planes of a window become one before its rows and columns do: its rows are whole, and follow each other. */
static int merges_planes(const fc_pool_plan *plan, const fc_kernels *kernels)
{
    const fc_pool *p = &plan->problem;
    const fc_window *w = &p->window;
    return w->kernel[0] > 1 && w->kernel[0] <= DEPTH_MAX && !plan->indexed && plan->tile[COLUMNS] == w->out[2] && p->x.s[2] == 1 &&
           (p->x.s[1] == w->in[2] || w->in[1] == 1) && w->in[2] >= kernels->lanes;
}

static layout lay_out(const fc_pool_plan *plan)
{
    const fc_pool *p = &plan->problem;
    const fc_window *w = &p->window;
    layout l = {.kernels = fc_dispatch(p->real), .taps = fc_taps(w), .even = fc_pool_divides_evenly(p)};
    int64_t rows = plan->tile[ROWS], columns = plan->tile[COLUMNS], size = l.kernels->size, lanes = l.kernels->lanes;
    l.merged = merges_planes(plan, l.kernels);
    int64_t planes = l.merged ? 1 : w->kernel[0];
    l.lines = planes * w->kernel[1];
    l.row_blocks = fc_ceil_div(w->out[1], rows);
    l.column_blocks = fc_ceil_div(w->out[2], columns);
    l.table_rows = span(w, 1, rows);
    l.line_bytes = bytes_of(l.lines, sizeof(int64_t));
    l.position_bytes = plan->indexed ? bytes_of(l.taps, size) : 0;
    const int64_t blocks[] = {0, fc_max(0, l.column_blocks - 2), l.column_blocks - 1}; /* those within are no worse */
    for (int i = 0; i < 3; i++) {
        int64_t ow = blocks[i] * columns;
        part a = find_part(p, l.kernels, ow, fc_min(columns, w->out[2] - ow), l.table_rows);
        int64_t last = fc_max(a.rows.pitch, fc_add(a.rows.left, w->in[2])); /* a whole row, though its end be of no window */
        int64_t merged = fc_add(fc_mul(l.table_rows - 1, w->in[2]), last);
        l.copy_bytes = fc_max(l.copy_bytes, l.merged ? bytes_of(merged, size) : fc_mul(planes, a.rows.bytes));
        l.fill_left = fc_max(l.fill_left, a.rows.left);
        l.fill_bytes = fc_max(l.fill_bytes, bytes_of(fc_add(l.fill_left, a.rows.pitch), size));
    }
    l.table_bytes = bytes_of(fc_mul(planes, l.table_rows), sizeof(void *));
    l.shift_bytes = bytes_of(w->kernel[2], sizeof(int64_t));
    l.tile_bytes = bytes_of(fc_mul(rows, fc_max(columns, lanes)), size);
    l.lane_bytes = plan->indexed ? l.tile_bytes : 0;
    l.row_bytes = p->kind == FC_POOL_MEAN ? bytes_of(rows, sizeof(double)) : 0;
    l.x_dense = fc_pool_is_dense(p, &p->x, w->in);
    l.y_dense = l.row_blocks * l.column_blocks == 1 && fc_pool_is_dense(p, &p->y, w->out);
    return l;
}

static int64_t spread_evenly(int64_t total, int64_t most)
{
    return fc_ceil_div(total, fc_ceil_div(total, fc_max(1, fc_min(most, total))));
}

/* Blocks as wide as the image where the rows of a window fit BLOCK_BYTES, and low where rows are copied. */
static void choose_tile(fc_pool_plan *plan, const fc_kernels *kernels)
{
    const fc_pool *p = &plan->problem;
    const fc_window *w = &p->window;
    int64_t most = BLOCK_BYTES / kernels->size, columns = (most / w->kernel[0] / w->kernel[1] - span(w, 2, 1)) / w->stride[2];
    plan->tile[COLUMNS] = spread_evenly(w->out[2], fc_max(8 * kernels->lanes, columns));
    int64_t merged = merges_planes(plan, kernels), line = merged ? w->in[2] : fc_mul(w->kernel[0], span(w, 2, plan->tile[COLUMNS]));
    int64_t rows = p->x.s[2] == 1 && !merged ? ROWS_MAX : fc_min(ROWS_MAX, (most / line - span(w, 1, 1)) / w->stride[1] + 1);
    plan->tile[ROWS] = w->stride[1] > 2 * span(w, 1, 1) ? 1 : spread_evenly(w->out[1], rows);
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
    plan->shared = fc_add(l.line_bytes + l.position_bytes, l.fill_bytes);
    plan->worker = fc_add(fc_add(l.table_bytes, l.copy_bytes), l.shift_bytes + l.tile_bytes + l.lane_bytes + l.row_bytes);
    plan->worker = fc_add(plan->worker, l.even ? 0 : bytes_of(fc_max(plan->tile[COLUMNS], kernels->lanes), kernels->size));
    if (fc_add(plan->shared, fc_mul(plan->worker, fc_threads_get())) > fc_scratch_max(fc_threads_get()))
        return "the rows of a block exceed the scratch bound";
    int rolls = w->stride[1] == 1 && w->stride[2] == 1 && w->dilation[1] == 1 && l.lines == w->kernel[1] && l.lines <= FC_POOL_ROLL_MAX;
    double rows = (double)plan->tile[ROWS], copied = l.x_dense && !l.merged ? 0 : (double)(l.copy_bytes / kernels->size);
    double vectors = rows * (double)fc_ceil_div(plan->tile[COLUMNS], kernels->lanes), planes = (double)(l.lines / w->kernel[1]);
    double loads = w->stride[2] == 1 ? 1 : w->stride[2] == 2 ? 1.5 : 0.6 * (double)kernels->lanes;
    double taps = (double)(l.lines * w->kernel[2]);
    /* As much too dear as the planes driver's: 3 x 3 over 512 planes of 14x14 take 30 us (there 35), over 10x10 26 (19). */
    double each = rolls ? 0.55 * (double)(l.lines + w->kernel[2]) : 4.4 + 0.66 * loads * taps;
    if (fc_has_short_vectors(kernels)) /* AVX2, 3 x 3 of stride 2 over 96 planes of 55x55: 35 us (there 65) */
        each *= 0.75;
    double element = l.merged ? 0.03 * (double)w->kernel[0] : p->x.s[2] == 1 ? 0.03 : 0.5;
    *cost = 250 + (double)plan->units * (60 + (planes - 1) * (double)l.table_rows + 0.5 * rows + copied * element +
                                         vectors * each * (plan->indexed ? 1.7 : 1));
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
    static const double zero = 0, infinity64 = -__builtin_inf();
    static const float infinity32 = -__builtin_inff();
    layout l = lay_out(j->plan);
    const fc_pool *p = &j->plan->problem;
    const fc_window *w = &p->window;
    int64_t *line = (int64_t *)(void *)j->shared, size = l.kernels->size, t = 0;
    void *position = j->shared + l.line_bytes;
    for (int64_t kd = 0; kd < l.lines / w->kernel[1]; kd++)
        for (int64_t kh = 0; kh < w->kernel[1]; kh++) {
            line[kd * w->kernel[1] + kh] = kd * l.table_rows + kh * w->dilation[1];
            for (int64_t kw = 0; kw < w->kernel[2] && j->plan->indexed; kw++, t++)
                put_integer(l.kernels, position, t,
                            (kd * w->dilation[0] * w->in[1] + kh * w->dilation[1]) * w->in[2] + kw * w->dilation[2]);
        }
    const void *value = p->kind == FC_POOL_MEAN ? &zero : size == 4 ? (const void *)&infinity32 : &infinity64;
    l.kernels->gather_row(j->shared + l.line_bytes + l.position_bytes, l.fill_bytes / size, NULL, 1, 0, 1, 0, value);
}

/* One block of one channel: output rows oh ... of plane od, columns ow ...; where its first tap stands in x. */
typedef struct block {
    int64_t n, c, od, oh, ow, rows, columns;
    int64_t id, ih, iw;
} block;

/* The last of *number's digits, of `base` values; divisions cost as much as two rows of outputs. */
static int64_t take_digit(int64_t *number, int64_t base)
{
    if (base == 1)
        return 0;
    int64_t rest = *number / base, digit = *number - rest * base;
    *number = rest;
    return digit;
}

static block find_block(const fc_pool_job *j, const layout *l, int64_t unit)
{
    const fc_pool *p = &j->plan->problem;
    const fc_window *w = &p->window;
    const int64_t *tile = j->plan->tile;
    block b = {.ow = take_digit(&unit, l->column_blocks) * tile[COLUMNS]};
    b.oh = take_digit(&unit, l->row_blocks) * tile[ROWS];
    b.od = take_digit(&unit, w->out[0]);
    b.c = take_digit(&unit, p->channels);
    b.n = unit;
    b.rows = fc_min(tile[ROWS], w->out[1] - b.oh);
    b.columns = fc_min(tile[COLUMNS], w->out[2] - b.ow);
    b.id = b.od * w->stride[0] - w->offset[0];
    b.ih = b.oh * w->stride[1] - w->offset[1];
    b.iw = b.ow * w->stride[2] - w->offset[2];
    return b;
}

/* Which rows are read in place: all, where planes of x before and after this one hold what vectors reach beyond it. */
static fc_rows rows_around(const fc_pool *p, const layout *l, const block *b, const part *a)
{
    fc_rows rows = a->rows;
    int64_t plane = p->window.in[1] * p->window.in[2], index = b->n * p->channels + b->c;
    if (!l->x_dense)
        return rows;
    if (index > 0 && rows.left <= plane)
        rows.first = 0;
    if (index + 1 < fc_pool_planes(p) && rows.right <= plane)
        rows.last = rows.height - 1;
    return rows;
}

/* The rows that the block sees, as a table. */
static void take_rows(const fc_pool_job *j, const layout *l, const block *b, const part *a, const void **table, char *copies)
{
    const fc_pool *p = &j->plan->problem;
    const fc_window *w = &p->window;
    int64_t size = l->kernels->size, from = b->n * p->x.n + b->c * p->x.c + a->begin * p->x.s[2];
    const void *fill = fc_at(j->shared + l->line_bytes + l->position_bytes, l->fill_left, size);
    fc_rows rows = rows_around(p, l, b, a);
    for (int64_t kd = 0; kd < w->kernel[0]; kd++) {
        int64_t id = b->id + kd * w->dilation[0];
        const void *plane = id >= 0 && id < w->in[0] ? fc_at(j->x, from + id * p->x.s[0], size) : NULL;
        copies = fc_rows_take(&rows, l->kernels, table + kd * l->table_rows, copies, fill, plane, b->ih,
                              span(w, 1, b->rows));
    }
}

/* The same of planes that are reduced to one first. */
static void merge_planes(const fc_pool_job *j, const layout *l, const block *b, const part *a, const void **table, char *copies)
{
    const fc_pool *p = &j->plan->problem;
    const fc_window *w = &p->window;
    fc_pool_range depth = fc_pool_stop(p, 0, b->od);
    int64_t size = l->kernels->size, rows = span(w, 1, b->rows), width = w->in[2], offset[DEPTH_MAX];
    int64_t top = fc_min(rows, fc_max(0, -b->ih)), bottom = fc_max(top, fc_min(rows, w->in[1] - b->ih));
    const void *fill = fc_at(j->shared + l->line_bytes + l->position_bytes, l->fill_left, size);
    char *merged = fc_at(copies, a->rows.left, size);
    for (int64_t i = 0; i < rows; i++)
        table[i] = i < top || i >= bottom ? fill : fc_at(merged, (i - top) * width, size);
    for (int64_t kd = 0; kd < depth.taps; kd++)
        offset[kd] = kd * depth.step * p->x.s[0];
    if (top == bottom)
        return;
    const void *x = fc_at(j->x, b->n * p->x.n + b->c * p->x.c + depth.first * p->x.s[0] + (b->ih + top) * width, size);
    if (p->kind == FC_POOL_MEAN)
        l->kernels->pool.mean(depth.taps, offset, NULL, x, 0, merged, 0, 1, (bottom - top) * width);
    else
        l->kernels->pool.max(depth.taps, offset, x, 0, merged, 0, 1, (bottom - top) * width);
}

/* How many rows can be written beyond their ends, as the rows after them are written later; `units` follow in this task. */
static int64_t rows_in_place(const fc_pool *p, const layout *l, const block *b, int64_t units)
{
    if (p->y.s[2] != 1)
        return 0;
    if (b->columns >= l->kernels->lanes || (l->y_dense && units * b->rows * b->columns >= l->kernels->lanes))
        return b->rows;
    return p->y.s[1] == b->columns ? fc_max(0, b->rows + 1 - fc_ceil_div(l->kernels->lanes, b->columns)) : 0;
}

/* Lanes of indices into indices.  Where nothing beat -infinity the first tap inside x is the winner. */
static void store_indices(const fc_pool_job *j, const block *b, int64_t begin, int64_t end, const char *lanes, int64_t lane_row)
{
    const fc_pool *p = &j->plan->problem;
    const fc_window *w = &p->window;
    for (int64_t r = begin; r < end; r++, lanes += lane_row * j->kernels->size) {
        int64_t base = (b->id * w->in[1] + b->ih + r * w->stride[1]) * w->in[2] + b->iw;
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

/* Divisors of the block's rows, and after them of its columns where they differ. */
static void list_divisors(const fc_pool *p, const layout *l, const block *b, char *scratch)
{
    double *row = (double *)(void *)scratch;
    double depth = (double)fc_pool_stop(p, 0, b->od).count, across = l->even ? (double)fc_pool_stop(p, 2, 0).count : 1;
    for (int64_t r = 0; r < b->rows; r++)
        row[r] = fc_pool_divisor(p, depth * across * (double)fc_pool_stop(p, 1, b->oh + r).count);
    char *column = scratch + l->row_bytes;
    for (int64_t q = 0; !l->even && q < fc_max(b->columns, l->kernels->lanes); q++) {
        double count = (double)fc_pool_stop(p, 2, fc_min(b->ow + q, p->window.out[2] - 1)).count;
        if (l->kernels->size == 4)
            ((float *)(void *)column)[q] = (float)count;
        else
            ((double *)(void *)column)[q] = count;
    }
}

/* Rows [begin, end) of a block whose input is in the table. */
static void run_segment(const fc_pool_job *j, const layout *l, const block *b, const fc_pool_window *f, int64_t begin,
                        int64_t end, int in_place, const void *const *table, char *scratch)
{
    const fc_pool *p = &j->plan->problem;
    const fc_pool_kernels *pool = &l->kernels->pool;
    int64_t size = l->kernels->size, rows = end - begin, lane_row = fc_max(b->columns, l->kernels->lanes);
    int64_t to = b->n * p->y.n + b->c * p->y.c + b->od * p->y.s[0] + (b->oh + begin) * p->y.s[1] + b->ow * p->y.s[2];
    char *y = fc_at(j->y, to, size), *tile = in_place ? y : scratch, *lanes = scratch + l->tile_bytes;
    int64_t y_row = in_place ? p->y.s[1] : lane_row;
    table += begin * f->step;
    if (p->kind == FC_POOL_MEAN) {
        const char *divisor = lanes + l->lane_bytes;
        pool->rows_mean(f, (const double *)(const void *)divisor + begin, l->even ? NULL : divisor + l->row_bytes, table, tile,
                        y_row, rows);
    } else if (j->index) {
        pool->rows_max_index(f, j->shared + l->line_bytes, -1, table, tile, y_row, lanes, lane_row, rows);
        store_indices(j, b, begin, end, lanes, lane_row);
    } else {
        pool->rows_max(f, table, tile, y_row, rows);
    }
    for (int64_t r = 0; !in_place && r < rows; r++)
        l->kernels->scatter_row(fc_at(y, r * p->y.s[1], size), p->y.s[2], fc_at(tile, r * y_row, size), b->columns, 0);
}

static void run_rows(const fc_pool_job *j, int64_t begin, int64_t end, char *scratch)
{
    const fc_pool *p = &j->plan->problem;
    const fc_window *w = &p->window;
    layout l = lay_out(j->plan);
    const void **table = (const void **)(void *)scratch;
    char *copies = scratch + l.table_bytes, *rest = copies + l.copy_bytes + l.shift_bytes;
    int64_t *shift = (int64_t *)(void *)(copies + l.copy_bytes), blocks = l.column_blocks * l.row_blocks, listed = -1, depth = -1;
    fc_pool_window f = {.lines = l.lines, .step = w->stride[1], .line = (const int64_t *)(const void *)j->shared,
                        .taps = w->kernel[2], .stride = w->stride[2], .shift = shift};
    part a = {.base = 0};
    for (int64_t unit = begin; unit < end; unit++) {
        block b = find_block(j, &l, unit);
        int64_t count = fc_pool_stop(p, 0, b.od).count;
        if (unit % blocks != listed || count != depth) { /* what channels and planes share */
            listed = unit % blocks;
            depth = count;
            a = find_part(p, l.kernels, b.ow, b.columns, l.table_rows);
            f.in = a.rows.width;
            f.out = b.columns;
            for (int64_t kw = 0; kw < w->kernel[2]; kw++)
                shift[kw] = a.base + kw * w->dilation[2];
            if (p->kind == FC_POOL_MEAN)
                list_divisors(p, &l, &b, rest + l.tile_bytes + l.lane_bytes);
        }
        if (l.merged)
            merge_planes(j, &l, &b, &a, table, copies);
        else
            take_rows(j, &l, &b, &a, table, copies);
        int64_t in_place = rows_in_place(p, &l, &b, end - 1 - unit);
        if (in_place)
            run_segment(j, &l, &b, &f, 0, in_place, 1, table, rest);
        if (in_place < b.rows)
            run_segment(j, &l, &b, &f, in_place, b.rows, 0, table, rest);
    }
}

const fc_pool_driver fc_pool_driver_rows = {"rows", plan_rows, prepare_rows, run_rows};
