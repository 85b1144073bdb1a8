/* stencil and correlate: one channel under one filter. */
#include <math.h>

#include "check_kernels.h"

enum { TAPS_MAX = 40 };

/* What a case reads: rows of x through taps at offsets of any sign. */
typedef struct window {
    int64_t taps, rows, width, x_row, offset[TAPS_MAX];
    int64_t origin, count; /* of x: where its pointer stands, how many elements it needs */
} window;

/* `read` columns of every row can be read. */
static window window_random(int64_t taps, int64_t rows, int64_t width, int64_t read)
{
    window w = {.taps = taps, .rows = rows, .width = width, .x_row = random_integer(0, 2 * width)};
    int64_t low = INT64_MAX, high = INT64_MIN;
    for (int64_t t = 0; t < taps; t++) {
        w.offset[t] = random_integer(-50, 50);
        low = w.offset[t] < low ? w.offset[t] : low;
        high = w.offset[t] > high ? w.offset[t] : high;
    }
    if (taps && rows) {
        w.origin = -low;
        w.count = high - low + (rows - 1) * w.x_row + read;
    }
    return w;
}

/* One case of stencil (run 0) or stencil_runs. */
static void stencil_case(subject *s, int64_t taps, int64_t run, int64_t width, int at_end, int with_init)
{
    int64_t size = s->kernels->size, lines = run ? taps / run : taps, rows = random_integer(0, 3);
    window w = window_random(lines, rows, width, width + (run ? run - 1 : 0));
    int64_t y_row = width + random_integer(0, 5), y_count = w.rows ? (w.rows - 1) * y_row + width : 0;
    describe("taps=%lld in %lld lines, rows=%lld width=%lld x_row=%lld y_row=%lld%s", (long long)taps, (long long)lines,
             (long long)w.rows, (long long)width, (long long)w.x_row, (long long)y_row, with_init ? " init" : "");
    array *x = array_random(s->type, w.count, at_end), *f = array_random(s->type, taps, at_end);
    array *init = array_random(s->type, 1, at_end), *y = array_take(s->type, y_count, at_end);
    array_lock(x);
    array_lock(f);
    array_lock(init);
    array_watch(y);
    for (int64_t r = 0; r < w.rows; r++)
        for (int64_t q = 0; q < width; q++) {
            double sum = with_init ? array_get(init, 0) : 0, magnitude = fabs(sum);
            for (int64_t t = 0; t < taps; t++) {
                int64_t at = run ? w.offset[t / run] + t % run : w.offset[t];
                double term = array_get(f, t) * array_get(x, w.origin + r * w.x_row + q + at);
                sum += term;
                magnitude += fabs(term);
            }
            array_expect(y, r * y_row + q, sum, taps ? 2 * value_epsilon(s->type) * (double)(taps + 1) * magnitude : 0);
        }
    const void *start = with_init ? init->data : NULL;
    if (run)
        s->kernels->stencil_runs(lines, w.offset, run, f->data, start, x->data + w.origin * size, w.x_row, y->data, y_row, w.rows,
                                 width);
    else
        s->kernels->stencil(taps, w.offset, f->data, start, x->data + w.origin * size, w.x_row, y->data, y_row, w.rows, width);
    array_check(y, "y");
    arrays_reset();
    s->cases++;
}

void check_stencil(subject *s)
{
    static const int64_t taps[] = {0, 1, 3, 4, 9, 31};
    int64_t lanes = s->kernels->lanes;
    for (int i = 0; i < 6; i++)
        for (int64_t width = lanes; width <= 9 * lanes + 1; width += width < 3 * lanes ? 1 : random_integer(1, lanes))
            for (int k = 0; k < 8; k++)
                stencil_case(s, taps[i], 0, width, k % 2, k / 2 % 2);
}

void check_stencil_runs(subject *s)
{
    int64_t lanes = s->kernels->lanes;
    for (int64_t run = 1; run <= 4 * lanes + 2; run += run < 2 * lanes ? random_integer(1, lanes / 2) : 1)
        for (int64_t width = lanes; width <= 17 * lanes + 1; width += random_integer(1, 2 * lanes))
            for (int k = 0; k < 4; k++)
                stencil_case(s, run * random_integer(1, 3), run, width, k % 2, k / 2 % 2);
}

/* Beyond the width stands NaN: it is read in whole vectors, and does not count. */
static void spoil(array *y, const window *w, int64_t y_row)
{
    for (int64_t i = 0; i < y->count; i++)
        if (i % y_row >= w->width)
            array_put(y, i, NAN);
}

void check_correlate(subject *s)
{
    static const int64_t taps[] = {0, 1, 2, 3, 4, 5, 9, 31};
    int64_t lanes = s->kernels->lanes, size = s->kernels->size;
    for (int i = 0; i < 8; i++)
        for (int64_t width = 1; width <= 4 * lanes + 1; width++)
            for (int k = 0; k < 4; k++, s->cases++) {
                int64_t whole = (width + lanes - 1) / lanes * lanes, y_row = whole + random_integer(0, 3);
                window w = window_random(taps[i], random_integer(0, 3), width, whole);
                describe("taps=%lld rows=%lld width=%lld x_row=%lld y_row=%lld", (long long)w.taps, (long long)w.rows,
                         (long long)width, (long long)w.x_row, (long long)y_row);
                array *x = array_random(s->type, w.count, k % 2), *sum = array_random(FLOAT64, w.taps, k % 2);
                array *y = array_random(s->type, w.rows ? (w.rows - 1) * y_row + whole : 0, k % 2);
                spoil(y, &w, y_row);
                if (w.rows == 1 && w.taps == 1)
                    for (int64_t j = w.origin + w.offset[0] + width; j < w.count; j++)
                        array_put(x, j, INFINITY);
                array_lock(x);
                array_lock(y);
                array_watch(sum);
                for (int64_t t = 0; t < w.taps; t++) {
                    double total = array_get(sum, t), magnitude = fabs(total), terms = 0;
                    for (int64_t r = 0; r < w.rows; r++)
                        for (int64_t q = 0; q < width; q++, terms++) {
                            double term = array_get(x, w.origin + r * w.x_row + q + w.offset[t]) * array_get(y, r * y_row + q);
                            total += term;
                            magnitude += fabs(term);
                        }
                    array_expect(sum, t, total, 2 * value_epsilon(s->type) * (terms + 2) * magnitude);
                }
                s->kernels->correlate((double *)(void *)sum->data, w.taps, w.offset, x->data + w.origin * size, w.x_row,
                                      y->data, y_row, w.rows, width);
                array_check(sum, "sum");
                arrays_reset();
            }
}
