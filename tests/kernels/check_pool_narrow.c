/* The pooling kernels of planes no wider than a vector, or two: windows of any rows and any permutations. */
#include <math.h>

#include "check_kernels.h"

enum { LINES_MAX = 4, ROWS_MAX = 5, TAPS_MAX = 6, CASES = 1500 };

typedef struct windows {
    fc_narrow_window f;
    int64_t planes, x_plane, lines[ROWS_MAX], line[ROWS_MAX * LINES_MAX];
    double row_divisor[ROWS_MAX];
    array *x, *index, *columns;
} windows;

/* The elements that line `line` begins with, from a plane's first on; -1: zeros. */
static int64_t line_place(const windows *w, int64_t lanes, int64_t line)
{
    int64_t row = line / ((w->f.width > lanes ? 2 : 1) * lanes);
    return !w->f.columns_first ? line : row < w->f.columns_first ? row * w->f.in : -1;
}

/* Windows whose columns are found first.  Returns where the last row begins. */
static int64_t find_columns_first(windows *w, int64_t lanes)
{
    int64_t vectors = w->f.width > lanes ? 2 : 1, lines = random_integer(1, LINES_MAX);
    w->f.columns_first = CHOOSE(1, 2, 5, FC_NARROW_ROWS);
    for (int64_t r = 0; r < w->f.rows; r++) {
        w->lines[r] = lines;
        w->row_divisor[r] = w->row_divisor[0];
    }
    for (int64_t t = 0; t < w->f.rows * lines; t++)
        w->line[t] = random_integer(0, w->f.columns_first) * vectors * lanes;
    return (w->f.columns_first - 1) * w->f.in;
}

static void windows_take(windows *w, subject *s, int awkward)
{
    int64_t lanes = s->kernels->lanes, widest = s->kernels->pool.narrow_vectors * lanes, last = 0, at = 0;
    int at_end = s->cases % 2;
    *w = (windows){.planes = random_integer(0, 3), .x_plane = random_integer(0, 40)};
    w->f = (fc_narrow_window){.rows = random_integer(1, ROWS_MAX), .width = random_integer(1, widest),
                              .in = random_integer(1, widest), .lines = w->lines, .line = w->line, .taps = random_integer(1, lanes < TAPS_MAX ? lanes : TAPS_MAX),
                              .row_divisor = w->row_divisor};
    describe("planes=%lld rows=%lld width=%lld of %lld taps=%lld at the %s of a page", (long long)w->planes, (long long)w->f.rows,
             (long long)w->f.width, (long long)w->f.in, (long long)w->f.taps, at_end ? "end" : "beginning");
    int64_t wide = w->f.width > lanes ? w->f.width : lanes, read = w->f.in > lanes ? w->f.in : lanes;
    for (int64_t r = 0; r < w->f.rows; r++) {
        w->lines[r] = random_integer(0, LINES_MAX);
        w->row_divisor[r] = (double)CHOOSE(1, 9, 9, -3);
        for (int64_t t = 0; t < w->lines[r]; t++, at++) {
            w->line[at] = random_integer(0, 30);
            last = w->line[at] > last ? w->line[at] : last;
        }
    }
    int first = !awkward && s->kernels->pool.narrow_vectors > 1 && random_integer(0, 1);
    if (first)
        last = find_columns_first(w, lanes);
    w->x = array_random(s->type, w->planes ? (w->planes - 1) * w->x_plane + last + read : 0, at_end);
    if (awkward && random_integer(0, 3))
        put_awkward(w->x);
    w->index = array_take(s->index_type, w->f.taps * (w->f.width > lanes ? 2 : 1) * lanes, at_end);
    for (int64_t i = 0; i < w->index->count; i++)
        array_put(w->index, i, (double)random_integer(0, w->f.in > lanes ? 2 * lanes : 2 * lanes - 1));
    w->columns = array_take(s->type, wide, at_end);
    for (int64_t q = 0; q < wide; q++)
        array_put(w->columns, q, (double)random_integer(1, 5));
    array_lock(w->x);
    array_lock(w->index);
    array_lock(w->columns);
    w->f.index = w->index->data;
    w->f.column_divisor = !first && random_integer(0, 1) ? w->columns->data : NULL;
}

/* Tap (line, k) of output q of plane p, of row vectors as the contract numbers them. */
static double tap_of(const windows *w, int64_t lanes, int64_t p, int64_t line, int64_t k, int64_t q, double outside)
{
    int64_t vectors = w->f.width > lanes ? 2 : 1, second = w->f.width - lanes;
    int64_t at = vectors == 2 && q >= second ? q - second + lanes : q; /* which overwrites the first */
    int64_t place = (int64_t)array_get(w->index, k * vectors * lanes + at);
    if (w->f.in > lanes && place >= lanes && place < 2 * lanes)
        place += w->f.in - 2 * lanes;
    else if (place >= lanes)
        return outside;
    line = line_place(w, lanes, line);
    return line < 0 ? 0 : array_get(w->x, p * w->x_plane + line + place);
}

static void check_narrow(subject *s, int mean)
{
    for (; s->cases < CASES; s->cases++) {
        windows w;
        windows_take(&w, s, !mean);
        int64_t lanes = s->kernels->lanes, width = w.f.width, plane = w.f.rows * width;
        array *y = array_take(s->type, w.planes ? w.planes * plane + (width < lanes ? lanes - width : 0) : 0, s->cases % 2);
        array_watch(y);
        for (int64_t i = w.planes * plane; i < y->count; i++)
            array_expect(y, i, 0, INFINITY);
        for (int64_t i = 0; i < w.planes * plane; i++) {
            int64_t p = i / plane, r = i % plane / width, q = i % width, first = 0;
            double sum = 0, magnitude = 0, best = -INFINITY;
            for (int64_t k = 0; k < r; k++)
                first += w.lines[k];
            for (int64_t k = 0; k < w.f.taps; k++)
                for (int64_t t = 0; t < w.lines[r]; t++) {
                    double x = tap_of(&w, lanes, p, w.line[first + t], k, q, mean ? 0 : -INFINITY);
                    best = x > best || isnan(x) ? x : best;
                    sum += x;
                    magnitude += fabs(x);
                }
            double divisor = w.row_divisor[r] * (w.f.column_divisor ? array_get(w.columns, q) : 1);
            double bound = 4 * value_epsilon(s->type) * (double)(w.f.taps + LINES_MAX) * magnitude / fabs(divisor);
            array_expect(y, i, mean ? sum / divisor : best, (mean ? bound : 0) + 0x1p-1070);
        }
        if (mean)
            s->kernels->pool.narrow_mean(&w.f, w.x->data, w.x_plane, y->data, w.planes);
        else
            s->kernels->pool.narrow_max(&w.f, w.x->data, w.x_plane, y->data, w.planes);
        array_check(y, "y");
        arrays_reset();
    }
}

void check_pool_narrow_max(subject *s)
{
    check_narrow(s, 0);
}

void check_pool_narrow_mean(subject *s)
{
    check_narrow(s, 1);
}
