/* cross and lane_sums: sums whose terms are spread over lanes. */
#include <math.h>

#include "check_kernels.h"

enum { VECTORS_MAX = 12, APART_MAX = 60 };

/* Where each of some rows begins, anywhere in an array of them. */
static void begin_rows(int rows, int64_t *first)
{
    for (int m = 0; m < rows; m++)
        first[m] = random_integer(0, APART_MAX);
}

static void place_vectors(fc_cross_pixels *p, int64_t (*at)[2], int64_t lanes)
{
    p->at = (const int64_t(*)[2])at;
    p->whole = random_integer(0, VECTORS_MAX / 2);
    p->partial = random_integer(0, VECTORS_MAX / 2);
    p->rest = random_integer(1, lanes - 1);
    for (int64_t i = 0; i < p->whole + p->partial; i++)
        for (int k = 0; k < 2; k++)
            at[i][k] = random_integer(0, APART_MAX);
}

/* The longest array that its vectors reach into. */
static int64_t reach(const fc_cross_pixels *p, int side, int rows, const int64_t *first, int64_t lanes)
{
    int64_t most = 0;
    for (int64_t i = 0; i < p->whole + p->partial; i++)
        for (int m = 0; m < rows; m++)
            most = first[m] + p->at[i][side] + lanes > most ? first[m] + p->at[i][side] + lanes : most;
    return most;
}

/* Lanes that do not count are NaN where they do not count anywhere. */
static void spoil(array *a, const fc_cross_pixels *p, int side, int rows, const int64_t *first, int64_t lanes)
{
    char counts[2 * APART_MAX + FC_LANES_MAX] = {0};
    for (int64_t i = 0; i < p->whole + p->partial; i++)
        for (int m = 0; m < rows; m++)
            for (int64_t l = i < p->whole ? 0 : lanes - p->rest; l < lanes; l++)
                counts[first[m] + p->at[i][side] + l] = 1;
    for (int64_t i = 0; i < a->count; i++)
        if (!counts[i])
            array_put(a, i, NAN);
}

static void one(subject *s, int mr, int nr, int add, int at_end)
{
    int64_t lanes = s->kernels->lanes, size = s->kernels->size, at[VECTORS_MAX][2], x_first[FC_CROSS_MAX], y_first[FC_CROSS_MAX];
    int64_t row = (mr + random_integer(0, 3)) * lanes;
    fc_cross_pixels p;
    const void *x_rows[FC_CROSS_MAX], *y_rows[FC_CROSS_MAX];
    place_vectors(&p, at, lanes);
    begin_rows(mr, x_first);
    begin_rows(nr, y_first);
    describe("%dx%d whole=%lld partial=%lld rest=%lld%s at the %s of a page", mr, nr, (long long)p.whole, (long long)p.partial,
             (long long)p.rest, add ? " add" : "", at_end ? "end" : "beginning");
    array *x = array_random(s->type, reach(&p, 0, mr, x_first, lanes), at_end);
    array *y = array_random(s->type, reach(&p, 1, nr, y_first, lanes), at_end);
    array *sum = array_random(s->type, (nr - 1) * row + mr * lanes, at_end);
    spoil(x, &p, 0, mr, x_first, lanes);
    spoil(y, &p, 1, nr, y_first, lanes);
    array_lock(x);
    array_lock(y);
    array_watch(sum);
    for (int n = 0; n < nr; n++)
        for (int64_t k = 0; k < mr * lanes; k++) {
            int64_t m = k / lanes, l = k % lanes;
            double total = add ? array_get(sum, n * row + k) : 0, magnitude = fabs(total);
            for (int64_t i = 0; i < p.whole + p.partial; i++) {
                if (i >= p.whole && l < lanes - p.rest)
                    continue;
                double product = array_get(x, x_first[m] + at[i][0] + l) * array_get(y, y_first[n] + at[i][1] + l);
                total += product;
                magnitude += fabs(product);
            }
            array_expect(sum, n * row + k, total, 2 * value_epsilon(s->type) * (double)(p.whole + p.partial + 2) * magnitude);
        }
    for (int m = 0; m < mr; m++)
        x_rows[m] = x->data + x_first[m] * size;
    for (int n = 0; n < nr; n++)
        y_rows[n] = y->data + y_first[n] * size;
    s->kernels->cross[nr][mr](&p, x_rows, y_rows, sum->data, row, add);
    array_check(sum, "sum");
    arrays_reset();
    s->cases++;
}

void check_cross(subject *s)
{
    for (int nr = 1; nr <= s->kernels->cross_columns; nr++)
        for (int mr = 1; mr <= s->kernels->cross_rows; mr++)
            for (int i = 0; i < 40; i++)
                one(s, mr, nr, i & 1, i / 2 & 1);
    for (int nr = 0; nr <= FC_CROSS_MAX; nr++)
        for (int mr = 0; mr <= FC_CROSS_MAX; mr++) {
            int there = nr && mr && nr <= s->kernels->cross_columns && mr <= s->kernels->cross_rows;
            if ((s->kernels->cross[nr][mr] != NULL) != there)
                fail("%dx%d is %s", mr, nr, there ? "missing" : "beyond the table");
        }
}

void check_lane_sums(subject *s)
{
    int64_t lanes = s->kernels->lanes;
    for (int64_t count = 0; count <= 4 * lanes + 1; count++)
        for (int at_end = 0; at_end < 2; at_end++, s->cases++) {
            describe("count=%lld at the %s of a page", (long long)count, at_end ? "end" : "beginning");
            array *src = array_random(s->type, count * lanes, at_end), *dst = array_take(s->type, count, at_end);
            array_lock(src);
            array_watch(dst);
            for (int64_t j = 0; j < count; j++) {
                double total = 0, magnitude = 0;
                for (int64_t l = 0; l < lanes; l++) {
                    total += array_get(src, j * lanes + l);
                    magnitude += fabs(array_get(src, j * lanes + l));
                }
                array_expect(dst, j, total, 2 * value_epsilon(s->type) * (double)lanes * magnitude);
            }
            s->kernels->lane_sums(dst->data, src->data, count);
            array_check(dst, "dst");
            arrays_reset();
        }
}
