/* The pooling kernels along rows: rows of input anywhere in memory, windows of all kinds. */
#include <math.h>

#include "check_kernels.h"

enum { LINES_MAX = 6, TAPS_MAX = 12, ROWS_MAX = 5, STEP_MAX = 3, TABLE_MAX = ROWS_MAX * STEP_MAX + 2 * LINES_MAX };
enum { CASES = 3000 };

typedef struct window {
    fc_pool_window f;
    int64_t rows, whole, line[LINES_MAX], shift[TAPS_MAX]; /* whole: outputs of a row in whole vectors */
    array *x;
    int64_t first[TABLE_MAX]; /* of each row: where its element 0 stands in x */
    const void *row[TABLE_MAX];
} window;

/* One in two has a shape that the kernels know, one in three has windows that go down row by row at stride 1; around the `in`
 * elements of a row there is room for whole vectors, full of NaN, which would show in any sum or maximum. */
static void window_take(window *w, subject *s, int awkward)
{
    int64_t lanes = s->kernels->lanes, known = random_integer(0, 1), at = random_integer(-4, 3), low, high;
    int64_t rolls = !random_integer(0, 2), top = random_integer(0, LINES_MAX);
    int at_end = s->cases % 2;
    *w = (window){.rows = random_integer(0, ROWS_MAX)};
    w->f = (fc_pool_window){.line = w->line, .shift = w->shift, .step = random_integer(1, STEP_MAX)};
    w->f.lines = known ? CHOOSE(2, 3, 5) : random_integer(1, LINES_MAX);
    w->f.taps = known ? w->f.lines : random_integer(1, TAPS_MAX);
    w->f.stride = known ? CHOOSE(1, 2) : CHOOSE(1, 2, 3, 5);
    w->f.step = rolls ? 1 : w->f.step;
    w->f.stride = rolls ? 1 : w->f.stride;
    w->f.out = random_integer(1, 6 * lanes);
    w->f.in = random_integer(0, 3) ? w->f.out * w->f.stride + random_integer(-3, 3) : random_integer(0, 3 * lanes);
    w->f.in = w->f.in < 0 ? 0 : w->f.in;
    int64_t gap = known || random_integer(0, 1) ? 1 : random_integer(1, 3), table = w->rows ? (w->rows - 1) * w->f.step : 0;
    for (int t = 0; t < w->f.taps; t++, at += gap)
        w->shift[t] = at;
    for (int t = 0; t < w->f.lines; t++)
        w->line[t] = rolls ? top + t : random_integer(0, 2 * LINES_MAX - 1);
    w->whole = w->f.out < lanes ? lanes : w->f.out;
    low = w->shift[0] < 0 ? w->shift[0] : 0;
    high = w->whole * w->f.stride + w->shift[w->f.taps - 1];
    high = high < 1 ? 1 : high;
    describe("lines=%lld step=%lld taps=%lld shift=%lld+%lld stride=%lld rows=%lld in=%lld out=%lld at the %s of a page",
             (long long)w->f.lines, (long long)w->f.step, (long long)w->f.taps, (long long)w->shift[0], (long long)gap,
             (long long)w->f.stride, (long long)w->rows, (long long)w->f.in, (long long)w->f.out, at_end ? "end" : "beginning");
    int64_t length = high - low, count = w->rows ? table + 2 * LINES_MAX : 0;
    w->x = array_random(s->type, count * length, at_end);
    if (awkward && random_integer(0, 3))
        put_awkward(w->x);
    for (int64_t k = 0; k < count; k++) {
        w->first[k] = (k * 7 + 3) % count * length - low;
        w->row[k] = w->x->data + w->first[k] * element_size(s->type);
        for (int64_t j = low; j < high; j++)
            if (j < 0 || j >= w->f.in)
                array_put(w->x, w->first[k] + j, NAN);
    }
    array_lock(w->x);
}

/* x(t, kw) of the contract; the padding is `outside`. */
static double element_at(const window *w, int64_t r, int64_t q, int64_t t, int64_t kw, double outside)
{
    int64_t j = q * w->f.stride + w->shift[kw];
    return j < 0 || j >= w->f.in ? outside : array_get(w->x, w->first[r * w->f.step + w->line[t]] + j);
}

static array *output_take(const window *w, element type, int64_t row, int at_end)
{
    array *a = array_take(type, w->rows ? (w->rows - 1) * row + w->whole : 0, at_end);
    array_watch(a);
    for (int64_t i = 0; w->f.out < w->whole && i < a->count; i++)
        array_expect(a, i, 0, INFINITY);
    return a;
}

static void check_rows_max(subject *s, int indexed)
{
    for (; s->cases < CASES; s->cases++) {
        window w;
        int at_end = s->cases % 2;
        window_take(&w, s, 1);
        int64_t y_row = w.f.out + random_integer(0, 3), index_row = w.f.out + random_integer(0, 3), taps = w.f.lines * w.f.taps;
        array *y = output_take(&w, s->type, y_row, at_end), *index = output_take(&w, s->index_type, index_row, at_end);
        array *position = array_take(s->index_type, taps, at_end);
        for (int64_t t = 0; t < taps; t++)
            array_put(position, t, (double)(1000 * (t / w.f.taps * 17 % 31) + t % w.f.taps * 7 % 13));
        array_lock(position);
        for (int64_t r = 0; r < w.rows; r++)
            for (int64_t q = 0; q < w.f.out; q++) {
                double best = -INFINITY, place = -7;
                for (int64_t t = 0; t < taps; t++) {
                    double x = element_at(&w, r, q, t / w.f.taps, t % w.f.taps, -INFINITY);
                    if (x > best || isnan(x)) {
                        best = x;
                        place = array_get(position, t);
                    }
                }
                array_expect(y, r * y_row + q, best, indexed ? 0 : 0x1p-1070);
                array_expect(index, r * index_row + q, place, 0);
            }
        if (indexed) {
            s->kernels->pool.rows_max_index(&w.f, position->data, -7, w.row, y->data, y_row, index->data, index_row, w.rows);
            array_check(index, "index");
        } else {
            s->kernels->pool.rows_max(&w.f, w.row, y->data, y_row, w.rows);
        }
        array_check(y, "y");
        arrays_reset();
    }
}

void check_pool_rows_max(subject *s)
{
    check_rows_max(s, 0);
}

void check_pool_rows_max_index(subject *s)
{
    check_rows_max(s, 1);
}

/* Small integers, as counts are. */
static array *divisors_take(element type, int64_t count, int at_end)
{
    array *a = array_take(type, count, at_end);
    for (int64_t i = 0; i < count; i++)
        array_put(a, i, (double)random_integer(1, 9));
    array_lock(a);
    return a;
}

void check_pool_rows_mean(subject *s)
{
    for (; s->cases < CASES; s->cases++) {
        window w;
        int at_end = s->cases % 2, with_columns = s->cases / 2 % 2;
        window_take(&w, s, 0);
        int64_t y_row = w.f.out + random_integer(0, 3), taps = w.f.lines * w.f.taps;
        array *y = output_take(&w, s->type, y_row, at_end), *rows = divisors_take(FLOAT64, w.rows, at_end);
        array *columns = divisors_take(s->type, w.whole, at_end);
        for (int64_t r = 0; r < w.rows; r++)
            for (int64_t q = 0; q < w.f.out; q++) {
                double sum = 0, magnitude = 0, divisor = array_get(rows, r) * (with_columns ? array_get(columns, q) : 1);
                for (int64_t t = 0; t < taps; t++) {
                    double x = element_at(&w, r, q, t / w.f.taps, t % w.f.taps, 0);
                    sum += x;
                    magnitude += fabs(x);
                }
                array_expect(y, r * y_row + q, sum / divisor,
                             2 * value_epsilon(s->type) * (double)(taps + 2) * magnitude / divisor + 0x1p-1070);
            }
        s->kernels->pool.rows_mean(&w.f, (const double *)(const void *)rows->data, with_columns ? columns->data : NULL, w.row,
                                   y->data, y_row, w.rows);
        array_check(y, "y");
        arrays_reset();
    }
}

void check_pool_rows_divide(subject *s)
{
    int64_t lanes = s->kernels->lanes;
    for (; s->cases < CASES; s->cases++) {
        int at_end = s->cases % 2, with_columns = s->cases / 2 % 2;
        int64_t width = random_integer(1, 4 * lanes), rows = random_integer(0, 4), whole = width < lanes ? lanes : width;
        int64_t dst_row = width + random_integer(0, 2 * lanes), y_row = random_integer(0, width + 3);
        describe("width=%lld rows=%lld dst_row=%lld y_row=%lld", (long long)width, (long long)rows, (long long)dst_row,
                 (long long)y_row);
        array *y = array_random(s->type, rows ? (rows - 1) * y_row + whole : 0, at_end);
        array *divisor = divisors_take(FLOAT64, rows, at_end), *columns = divisors_take(s->type, whole, at_end);
        array *dst = array_take(s->type, rows ? (rows - 1) * dst_row + (dst_row < whole ? whole : dst_row) + lanes : 0, at_end);
        array_lock(y);
        array_watch(dst);
        for (int64_t i = rows * dst_row; i < dst->count; i++)
            array_expect(dst, i, 0, INFINITY);
        for (int64_t r = 0; r < rows; r++)
            for (int64_t q = 0; q < dst_row; q++) {
                double d = array_get(divisor, r) * (with_columns && q < width ? array_get(columns, q) : 1);
                double want = q < width ? array_get(y, r * y_row + q) / d : 0;
                array_expect(dst, r * dst_row + q, want, 2 * value_epsilon(s->type) * fabs(want));
            }
        s->kernels->pool.rows_divide(dst->data, dst_row, (const double *)(const void *)divisor->data,
                                     with_columns ? columns->data : NULL, y->data, y_row, rows, width);
        array_check(dst, "dst");
        arrays_reset();
    }
}

/* Outputs stand between zeros, some rows of x meet no output. */
void check_pool_rows_spread(subject *s)
{
    enum { SPREAD_ROWS = 5 };
    int64_t lanes = s->kernels->lanes, size = s->kernels->size;
    for (; s->cases < CASES; s->cases++) {
        int at_end = s->cases % 2;
        int64_t stride = random_integer(1, random_integer(0, 1) && lanes > 2 ? 3 : lanes), kernel = random_integer(1, 3 * stride);
        int64_t width = random_integer(1, 4 * lanes), rows = random_integer(0, SPREAD_ROWS), height = random_integer(1, 6);
        int64_t before = kernel / stride, met = (width - 1 + stride - 1) / stride + 1, row = before + met + lanes;
        fc_spread_window f = {.row = row, .stride = stride, .kernel = kernel, .phase = random_integer(0, stride - 1)};
        int64_t x_row = width + random_integer(0, 3), first[SPREAD_ROWS], lines[SPREAD_ROWS];
        describe("stride=%lld kernel=%lld phase=%lld rows=%lld width=%lld", (long long)stride, (long long)kernel,
                 (long long)f.phase, (long long)rows, (long long)width);
        array *src = array_take(s->type, height * row, at_end);
        array *x = array_take(s->type, rows ? (rows - 1) * x_row + width + lanes : 0, at_end);
        for (int64_t i = 0; i < src->count; i++)
            array_put(src, i, i % row >= before && i % row < before + met ? random_uniform() : 0);
        array_lock(src);
        array_watch(x);
        for (int64_t i = 0; i < x->count; i++)
            array_expect(x, i, 0, INFINITY);
        for (int64_t r = 0; r < rows; r++) {
            first[r] = random_integer(0, height - 1);
            lines[r] = random_integer(0, height - first[r]);
            for (int64_t i = 0; i < width; i++) {
                double sum = 0, magnitude = 0;
                for (int64_t k = 0; k < lines[r]; k++)
                    for (int64_t q = -before; q < met; q++)
                        if (q * stride <= i + f.phase && i + f.phase < q * stride + kernel) {
                            double a = array_get(src, (first[r] + k) * row + before + q);
                            sum += a;
                            magnitude += fabs(a);
                        }
                array_expect(x, r * x_row + i, sum, 50 * value_epsilon(s->type) * magnitude + 0x1p-1070);
            }
        }
        s->kernels->pool.rows_spread(&f, first, lines, src->data + before * size, x->data, x_row, rows, width);
        array_check(x, "x");
        arrays_reset();
    }
}
