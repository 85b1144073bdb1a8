/* trail: every [taps][lines] of a table. */
#include <math.h>

#include "check_kernels.h"

static void one(subject *s, int taps, int lines, int add, int at_end)
{
    int64_t lanes = s->kernels->lanes, size = s->kernels->size, sum_row = lanes + random_integer(0, 5), first[FC_TRAIL_LINES];
    fc_trail_pixels p = {.rows = random_integer(0, 3), .width = random_integer(taps, taps + 12), .y_pixel = lanes + random_integer(0, 5)};
    p.x_row = p.width + taps - 1 + random_integer(0, 5);
    p.y_row = p.width * p.y_pixel + random_integer(0, 5);
    describe("%dx%d rows=%lld width=%lld%s at the %s of a page", taps, lines, (long long)p.rows, (long long)p.width, add ? " add" : "",
             at_end ? "end" : "beginning");
    int64_t x_count = p.rows ? (p.rows - 1) * p.x_row + p.width + taps - 1 : 0, most = 0;
    const void *x_lines[FC_TRAIL_LINES];
    for (int l = 0; l < lines; l++) {
        first[l] = random_integer(0, 40);
        most = first[l] > most ? first[l] : most;
    }
    array *x = array_random(s->type, most + x_count, at_end);
    array *y = array_random(s->type, p.rows ? (p.rows - 1) * p.y_row + (p.width - 1) * p.y_pixel + lanes : 0, at_end);
    array *sum = array_random(s->type, (lines * taps - 1) * sum_row + lanes, at_end);
    if (p.rows && !add) /* an infinity at a row's end meets only the last tap: no other is spoilt */
        array_put(x, first[0] + p.width + taps - 2, INFINITY);
    array_lock(x);
    array_lock(y);
    array_watch(sum);
    for (int row = 0; row < lines * taps; row++)
        for (int64_t j = 0; j < lanes; j++) {
            double total = add ? array_get(sum, row * sum_row + j) : 0, magnitude = fabs(total);
            for (int64_t i = 0; i < p.rows * p.width; i++) {
                int64_t r = i / p.width, q = i % p.width;
                double product = array_get(x, first[row / taps] + r * p.x_row + q + row % taps) *
                                 array_get(y, r * p.y_row + q * p.y_pixel + j);
                total += product;
                magnitude += isfinite(product) ? fabs(product) : 0;
            }
            array_expect(sum, row * sum_row + j, total, 2 * value_epsilon(s->type) * (double)(p.rows * p.width + 2) * magnitude);
        }
    for (int l = 0; l < lines; l++)
        x_lines[l] = x->data + first[l] * size;
    s->kernels->trail[taps][lines](&p, x_lines, y->data, sum->data, sum_row, add);
    array_check(sum, "sum");
    arrays_reset();
    s->cases++;
}

void check_trail(subject *s)
{
    for (int taps = 0; taps <= FC_TRAIL_TAPS; taps++)
        for (int lines = 0; lines <= FC_TRAIL_LINES; lines++)
            for (int i = 0; i < 20 && s->kernels->trail[taps][lines]; i++)
                one(s, taps, lines, i & 1, i / 2 & 1);
    s->cases++;
    int there = s->kernels->trail[3][1] != NULL, whole = s->kernels->lanes * s->kernels->size == 64;
    if (there != whole)
        fail("there should be a trail of three taps for whole cache lines, and only for these");
}
