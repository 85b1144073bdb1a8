/* gate, momentum and the rows of batch normalisation: one pass over contiguous memory, every count around a vector. */
#include <math.h>

#include "check_kernels.h"

static const int64_t COUNTS[] = {0, 1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 32, 33, 100, 1000};
enum { COUNT_CASES = sizeof COUNTS / sizeof COUNTS[0] };

/* Random arrays for one case; those that are only read are locked. */
typedef struct operands {
    array *x, *g;
} operands;

static operands random_operands(subject *s, int64_t count, int at_end)
{
    operands o = {array_random(s->type, count, at_end), array_random(s->type, count, at_end)};
    describe("count=%lld at_end=%d", (long long)count, at_end);
    return o;
}

void check_elementwise_gate(subject *s)
{
    static const double lows[] = {0, -0.5, NAN}, highs[] = {NAN, 0.5, 0};
    for (int c = 0; c < COUNT_CASES; c++)
        for (int b = 0; b < 3; b++)
            for (int at_end = 0; at_end < 2; at_end++, s->cases++) {
                operands o = random_operands(s, COUNTS[c], at_end);
                array *dst = array_take(s->type, COUNTS[c], at_end);
                for (int64_t j = 0; j < COUNTS[c]; j += 3) /* the bounds themselves are closed, NaN is open */
                    array_put(o.x, j, j % 2 ? lows[b] : highs[b]);
                for (int64_t j = 1; j < COUNTS[c]; j += 5)
                    array_put(o.g, j, INFINITY);
                array_lock(o.x);
                array_lock(o.g);
                array_watch(dst);
                for (int64_t j = 0; j < COUNTS[c]; j++) {
                    double y = array_get(o.x, j);
                    array_expect(dst, j, y <= lows[b] || y >= highs[b] ? 0 : array_get(o.g, j), 0);
                }
                s->kernels->elementwise.gate(dst->data, o.g->data, o.x->data, lows[b], highs[b], COUNTS[c]);
                array_check(dst, "dst");
                arrays_reset();
            }
}

/* Both limit y, the latter after x has been added to it. */
static void limit_cases(subject *s, int adding)
{
    static const double lows[] = {0, -0.5, -INFINITY}, highs[] = {INFINITY, 0.5, 0.25};
    for (int c = 0; c < COUNT_CASES; c++)
        for (int b = 0; b < 3; b++)
            for (int at_end = 0; at_end < 2; at_end++, s->cases++) {
                operands o = random_operands(s, COUNTS[c], at_end);
                for (int64_t j = 0; j < COUNTS[c]; j += 5)
                    array_put(o.x, j, j % 2 ? NAN : j % 3 ? INFINITY : -INFINITY);
                array_lock(o.g);
                array_watch(o.x);
                for (int64_t j = 0; j < COUNTS[c]; j++) {
                    double y = value_round(s->type, array_get(o.x, j) + (adding ? array_get(o.g, j) : 0));
                    array_expect(o.x, j, y < lows[b] ? lows[b] : y > highs[b] ? highs[b] : y, 0);
                }
                if (adding)
                    s->kernels->elementwise.add(o.x->data, o.g->data, lows[b], highs[b], COUNTS[c]);
                else
                    s->kernels->elementwise.clamp(o.x->data, lows[b], highs[b], COUNTS[c]);
                array_check(o.x, "y");
                arrays_reset();
            }
}

void check_elementwise_clamp(subject *s)
{
    limit_cases(s, 0);
}

void check_elementwise_add(subject *s)
{
    limit_cases(s, 1);
}

void check_elementwise_momentum(subject *s)
{
    for (int c = 0; c < COUNT_CASES; c++)
        for (int nesterov = 0; nesterov < 2; nesterov++)
            for (int at_end = 0; at_end < 2; at_end++, s->cases++) {
                operands o = random_operands(s, COUNTS[c], at_end);
                array *u = array_random(s->type, COUNTS[c], at_end), *w = o.x;
                array_lock(o.g);
                array_watch(u);
                array_watch(w);
                double keep = value_round(s->type, 0.9), fraction = value_round(s->type, 0.7), momentum = keep, lr = 0.25;
                for (int64_t j = 0; j < COUNTS[c]; j++) {
                    double g = array_get(o.g, j), velocity = keep * array_get(u, j) + fraction * g;
                    array_expect(w, j, array_get(w, j) - lr * (nesterov ? g + momentum * velocity : velocity),
                                 8 * value_epsilon(s->type));
                    array_expect(u, j, velocity, 8 * value_epsilon(s->type));
                }
                s->kernels->elementwise.momentum(w->data, u->data, o.g->data, 0.9, 0.7, 0.9, lr, nesterov, COUNTS[c]);
                array_check(u, "u");
                array_check(w, "w");
                arrays_reset();
            }
}

void check_elementwise_square_row(subject *s)
{
    for (int c = 0; c < COUNT_CASES; c++)
        for (int at_end = 0; at_end < 2; at_end++, s->cases++) {
            operands o = random_operands(s, COUNTS[c], at_end);
            array *sum = array_random(FLOAT64, 1, at_end);
            array_lock(o.x);
            array_watch(sum);
            double want = array_get(sum, 0);
            for (int64_t j = 0; j < COUNTS[c]; j++)
                want += pow(array_get(o.x, j) - 0.3, 2);
            array_expect(sum, 0, want, 4 * value_epsilon(FLOAT64) * (double)(COUNTS[c] + 1) * (fabs(want) + 2));
            s->kernels->elementwise.square_row((double *)(void *)sum->data, o.x->data, 0.3, COUNTS[c]);
            array_check(sum, "sum");
            arrays_reset();
        }
}

void check_elementwise_product_row(subject *s)
{
    for (int c = 0; c < COUNT_CASES; c++)
        for (int at_end = 0; at_end < 2; at_end++, s->cases++) {
            operands o = random_operands(s, COUNTS[c], at_end);
            array *sum = array_random(FLOAT64, 1, at_end), *product = array_random(FLOAT64, 1, at_end);
            array_lock(o.x);
            array_lock(o.g);
            array_watch(sum);
            array_watch(product);
            double sums = array_get(sum, 0), products = array_get(product, 0);
            for (int64_t j = 0; j < COUNTS[c]; j++) {
                sums += array_get(o.g, j);
                products += array_get(o.g, j) * (array_get(o.x, j) - 0.3);
            }
            double bound = 4 * value_epsilon(FLOAT64) * (double)(COUNTS[c] + 1) * (double)(COUNTS[c] + 1) * 2;
            array_expect(sum, 0, sums, bound);
            array_expect(product, 0, products, bound);
            s->kernels->elementwise.product_row((double *)(void *)sum->data, (double *)(void *)product->data, o.g->data,
                                                o.x->data, 0.3, COUNTS[c]);
            array_check(sum, "sum");
            array_check(product, "product");
            arrays_reset();
        }
}

void check_elementwise_affine_row(subject *s)
{
    for (int c = 0; c < COUNT_CASES; c++)
        for (int at_end = 0; at_end < 2; at_end++, s->cases++) {
            operands o = random_operands(s, COUNTS[c], at_end);
            array *y = array_take(s->type, COUNTS[c], at_end);
            array_lock(o.x);
            array_watch(y);
            for (int64_t j = 0; j < COUNTS[c]; j++)
                array_expect(y, j, (array_get(o.x, j) - 0.3) * 1.7 + 0.2, 16 * value_epsilon(s->type));
            s->kernels->elementwise.affine_row(y->data, o.x->data, 0.3, 1.7, 0.2, COUNTS[c]);
            array_check(y, "y");
            arrays_reset();
        }
}

void check_elementwise_combine_row(subject *s)
{
    for (int c = 0; c < COUNT_CASES; c++)
        for (int at_end = 0; at_end < 2; at_end++, s->cases++) {
            operands o = random_operands(s, COUNTS[c], at_end);
            array *dst = array_take(s->type, COUNTS[c], at_end);
            array_lock(o.x);
            array_lock(o.g);
            array_watch(dst);
            for (int64_t j = 0; j < COUNTS[c]; j++)
                array_expect(dst, j, (array_get(o.g, j) - 0.1 - (array_get(o.x, j) - 0.3) * 0.6) * 1.7,
                             16 * value_epsilon(s->type));
            s->kernels->elementwise.combine_row(dst->data, o.g->data, o.x->data, 0.3, 0.1, 0.6, 1.7, COUNTS[c]);
            array_check(dst, "dst");
            arrays_reset();
        }
}
