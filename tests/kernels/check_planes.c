/* planes_stencil and planes_correlate: lanes over channels, every number of outputs and taps. */
#include <math.h>

#include "check_kernels.h"

enum { LINES_MAX = 4, RUN_MAX = 7, TAPS_MAX = 30, COUNT_MAX = 45, CASES = 300 };

static double term(const array *x, int64_t at, const array *w, int64_t t)
{
    return array_get(x, at) * array_get(w, t);
}

static void stencil_case(subject *s, int64_t count, int at_end)
{
    int64_t lanes = s->kernels->lanes, lines = random_integer(0, LINES_MAX), terms = 0, reach = 0;
    int64_t offset[LINES_MAX], run[LINES_MAX], x_step = random_integer(1, 3) * lanes, y_step = random_integer(1, 3) * lanes;
    int with_init = (int)random_integer(0, 1), limited = (int)random_integer(0, 1);
    double bounds[2] = {limited ? -0.5 : -INFINITY, limited ? 1 : INFINITY};
    for (int64_t l = 0; l < lines; l++) {
        offset[l] = random_integer(0, 40);
        run[l] = random_integer(1, RUN_MAX);
        terms += run[l];
        int64_t end = offset[l] + (count - 1 + run[l] - 1) * x_step + lanes;
        reach = count && end > reach ? end : reach;
    }
    describe("count=%lld lines=%lld terms=%lld steps=%lld, %lld init=%d limited=%d at the %s of a page", (long long)count, (long long)lines,
             (long long)terms, (long long)x_step, (long long)y_step, with_init, limited, at_end ? "end" : "beginning");
    array *x = array_random(s->type, reach, at_end), *w = array_random(s->type, terms * lanes, at_end);
    array *init = array_random(s->type, lanes, at_end), *y = array_take(s->type, count ? (count - 1) * y_step + lanes : 0, at_end);
    array_lock(x);
    array_lock(w);
    array_lock(init);
    array_watch(y);
    for (int64_t i = 0; i < count * lanes; i++) {
        int64_t q = i / lanes, lane = i % lanes, t = 0;
        double sum = with_init ? array_get(init, lane) : 0, magnitude = fabs(sum);
        for (int64_t l = 0; l < lines; l++)
            for (int64_t k = 0; k < run[l]; k++, t++) {
                double product = term(x, offset[l] + (q + k) * x_step + lane, w, t * lanes + lane);
                sum += product;
                magnitude += fabs(product);
            }
        sum = fmin(fmax(sum, bounds[0]), bounds[1]);
        array_expect(y, q * y_step + lane, sum, 2 * value_epsilon(s->type) * (double)(terms + 1) * magnitude);
    }
    s->kernels->planes_stencil(lines, offset, run, w->data, with_init ? init->data : NULL, x->data, x_step, y->data, y_step, count, bounds);
    array_check(y, "y");
    arrays_reset();
    s->cases++;
}

static void correlate_case(subject *s, int64_t taps, int at_end)
{
    int64_t lanes = s->kernels->lanes, rows = random_integer(0, 3), count = random_integer(0, COUNT_MAX), offset[TAPS_MAX];
    int64_t x_step = random_integer(1, 3) * lanes, y_step = random_integer(1, 2) * lanes, most = 0;
    int64_t x_row = random_integer(0, 60), y_row = count * y_step + random_integer(0, 5);
    for (int64_t t = 0; t < taps; t++) {
        offset[t] = random_integer(0, 90);
        most = offset[t] > most ? offset[t] : most;
    }
    describe("taps=%lld rows=%lld count=%lld steps=%lld, %lld at the %s of a page", (long long)taps, (long long)rows,
             (long long)count, (long long)x_step, (long long)y_step, at_end ? "end" : "beginning");
    int any = taps && rows && count;
    array *x = array_random(s->type, any ? (rows - 1) * x_row + (count - 1) * x_step + most + lanes : 0, at_end);
    array *y = array_random(s->type, rows && count ? (rows - 1) * y_row + (count - 1) * y_step + lanes : 0, at_end);
    array *sum = array_random(s->type, taps * lanes, at_end);
    array_lock(x);
    array_lock(y);
    array_watch(sum);
    for (int64_t i = 0; i < taps * lanes; i++) {
        double total = array_get(sum, i), magnitude = fabs(total);
        for (int64_t r = 0; r < rows; r++)
            for (int64_t q = 0; q < count; q++) {
                int64_t at = r * x_row + q * x_step + offset[i / lanes] + i % lanes;
                double product = term(x, at, y, r * y_row + q * y_step + i % lanes);
                total += product;
                magnitude += fabs(product);
            }
        array_expect(sum, i, total, 2 * value_epsilon(s->type) * (double)(rows * count + 2) * magnitude);
    }
    s->kernels->planes_correlate(sum->data, taps, offset, x->data, x_step, x_row, y->data, y_step, y_row, rows, count);
    array_check(sum, "sum");
    arrays_reset();
    s->cases++;
}

void check_planes_stencil(subject *s)
{
    for (int i = 0; i < CASES; i++)
        stencil_case(s, i % (COUNT_MAX + 1), i & 1);
}

void check_planes_correlate(subject *s)
{
    for (int i = 0; i < CASES; i++)
        correlate_case(s, i % (TAPS_MAX + 1), i / 2 & 1);
}
