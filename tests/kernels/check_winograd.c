/* The transforms of Winograd F(4x4, 3x3), element by element as products with the matrices of kernels/winograd.inc. */
#include <math.h>
#include <string.h>

#include "check_kernels.h"

enum { SIZES = 2 }; /* of cells: whole vectors of pixels, and half ones */

#define A 0.70710678118654752440
#define B 1.41421356237309504880

static const double input_matrix[6][6] = {{1, 0, -2.5, 0, 1, 0}, {0, -B, -2, A, 1, 0},  {0, B, -2, -A, 1, 0},
                                          {0, -A, -.5, B, 1, 0}, {0, A, -.5, -B, 1, 0}, {0, 1, 0, -2.5, 0, 1}};
static const double weights_matrix[6][3] = {{1, 0, 0},
                                            {-2. / 3, -2 * A / 3, -1. / 3},
                                            {-2. / 3, 2 * A / 3, -1. / 3},
                                            {1. / 6, B / 6, 1. / 3},
                                            {1. / 6, -B / 6, 1. / 3},
                                            {0, 0, 1}};
static const double output_matrix[4][6] = {{1, 1, 1, 1, 1, 0}, {0, A, -A, B, -B, 0}, {0, .5, .5, 2, 2, 0},
                                           {0, A / 2, -A / 2, 2 * B, -2 * B, 1}};

/* Element (i, j) of M d M^T, M of `n` columns, and a bound on what rounding can do to it in any order. */
static double transformed(const double *m, int n, int i, int j, const double *d, double *bound)
{
    double sum = 0, magnitude = 0;
    for (int r = 0; r < n; r++)
        for (int c = 0; c < n; c++) {
            double term = m[i * n + r] * d[r * n + c] * m[j * n + c];
            sum += term;
            magnitude += fabs(term);
        }
    *bound = 2 * value_epsilon(FLOAT32) * (2 * n + 2) * magnitude;
    return sum;
}

/* float64 has no Winograd; whether this real type has one. */
static int has_winograd(subject *s)
{
    for (int i = 0; i < SIZES; i++) {
        const fc_winograd_kernels *w = &s->kernels->winograd[i];
        if (s->type == FLOAT64 ? w->input || w->weights || w->output : !w->input || !w->weights || !w->output)
            fail("the kernels are %s", s->type == FLOAT64 ? "there for float64" : "missing");
        if (s->type == FLOAT32 && (w->cell < 4 || w->cell % 4 || w->cells > FC_WINOGRAD_CELLS_MAX ||
                                   w->cell / 4 * w->cells != s->kernels->lanes))
            fail("%d cells of %d pixels do not make a vector of tiles", w->cells, w->cell);
    }
    s->cases += s->type == FLOAT64;
    return s->type == FLOAT32;
}

/* Cells lie anywhere, in any order; six rows of cell + 4 elements each. */
static void input_case(subject *s, const fc_winograd_kernels *w, int at_end)
{
    int64_t row = w->cell + 4 + random_integer(0, 3), size = 5 * row + w->cell + 4, lanes = s->kernels->lanes;
    int64_t step = lanes + random_integer(0, 3), begin[FC_WINOGRAD_CELLS_MAX];
    const void *cells[FC_WINOGRAD_CELLS_MAX];
    describe("input of %d cells of %d, rows %lld apart", w->cells, w->cell, (long long)row);
    array *x = array_random(FLOAT32, w->cells * size, at_end), *dst = array_take(FLOAT32, 35 * step + lanes, at_end);
    for (int k = 0; k < w->cells; k++) {
        begin[k] = (k * 3 + 1) % w->cells * size;
        cells[k] = x->data + begin[k] * element_size(FLOAT32);
    }
    array_lock(x);
    array_watch(dst);
    for (int64_t t = 0; t < lanes; t++) {
        int tiles = w->cell / 4;
        double patch[36], bound;
        for (int i = 0; i < 36; i++)
            patch[i] = array_get(x, begin[t / tiles] + i / 6 * row + t % tiles * 4 + i % 6);
        for (int f = 0; f < 36; f++) {
            double want = transformed(&input_matrix[0][0], 6, f / 6, f % 6, patch, &bound);
            array_expect(dst, f * step + t, want, bound);
        }
    }
    w->input(dst->data, step, cells, row);
    array_check(dst, "dst");
    arrays_reset();
    s->cases++;
}

static void weights_case(subject *s, const fc_winograd_kernels *w, int at_end)
{
    int64_t lanes = s->kernels->lanes, outputs = random_integer(1, 4), channels = random_integer(1, 3 * lanes);
    int64_t whole = (channels + lanes - 1) / lanes * lanes, row = whole + random_integer(0, 2) * lanes;
    int64_t step = outputs * row + random_integer(0, 3), size = outputs * channels * 9, first = 0;
    int64_t stride[4] = {channels * 9, 9, 3, 1};
    if (random_integer(0, 1)) { /* the taps backwards, as in a gradient */
        first = 8;
        stride[2] = -3;
        stride[3] = -1;
    }
    if (random_integer(0, 1)) { /* the channels exchanged */
        stride[0] = 9;
        stride[1] = outputs * 9;
    }
    if (random_integer(0, 3) == 0) {
        stride[2] = first ? -1 : 1;
        stride[3] = first ? -3 : 3;
    }
    describe("weights, %lld outputs of %lld channels, strides %lld %lld %lld %lld", (long long)outputs, (long long)channels,
             (long long)stride[0], (long long)stride[1], (long long)stride[2], (long long)stride[3]);
    array *g = array_random(FLOAT32, size, at_end), *dst = array_take(FLOAT32, 35 * step + (outputs - 1) * row + whole, at_end);
    array_lock(g);
    array_watch(dst);
    for (int64_t o = 0; o < outputs; o++)
        for (int64_t c = 0; c < whole; c++) {
            double taps[9] = {0}, bound;
            for (int t = 0; t < 9 && c < channels; t++)
                taps[t] = array_get(g, first + o * stride[0] + c * stride[1] + t / 3 * stride[2] + t % 3 * stride[3]);
            for (int f = 0; f < 36; f++) {
                double want = transformed(&weights_matrix[0][0], 3, f / 6, f % 6, taps, &bound);
                array_expect(dst, f * step + o * row + c, want, bound > 0 ? bound : 0x1p-1070);
            }
        }
    w->weights(dst->data, step, row, g->data + first * element_size(FLOAT32), stride, outputs, channels);
    array_check(dst, "dst");
    arrays_reset();
    s->cases++;
}

/* Now and then one frequency of one tile is not finite: the kernel must say so. */
static void output_case(subject *s, const fc_winograd_kernels *w, int at_end)
{
    int64_t lanes = s->kernels->lanes, step = lanes + random_integer(0, 3), begin[FC_WINOGRAD_CELLS_MAX];
    int64_t row[FC_WINOGRAD_CELLS_MAX], size = 3 * (w->cell + 3) + w->cell;
    int spoilt = random_integer(0, 3) == 0, with_init = random_integer(0, 1) != 0, tiles = w->cell / 4;
    void *cells[FC_WINOGRAD_CELLS_MAX];
    int bounded = random_integer(0, 1) != 0;
    const double bounds[] = {bounded ? -0.5 : -INFINITY, bounded ? 1.5 : INFINITY};
    describe("output of %d cells of %d%s%s%s", w->cells, w->cell, with_init ? " init" : "", spoilt ? " not finite" : "",
             bounded ? " bounded" : "");
    array *src = array_random(FLOAT32, 35 * step + lanes, at_end), *init = array_random(FLOAT32, 1, at_end);
    array *y = array_take(FLOAT32, w->cells * size, at_end);
    if (spoilt)
        array_put(src, random_integer(0, 35) * step + random_integer(0, lanes - 1), CHOOSE(0, 1) ? NAN : INFINITY);
    array_lock(src);
    array_lock(init);
    array_watch(y);
    for (int k = 0; k < w->cells; k++) {
        begin[k] = (k * 3 + 1) % w->cells * size;
        row[k] = w->cell + random_integer(0, 3);
        cells[k] = y->data + begin[k] * element_size(FLOAT32);
    }
    for (int64_t t = 0; t < lanes; t++) {
        double m[36], bound, bias = with_init ? array_get(init, 0) : 0;
        for (int f = 0; f < 36; f++)
            m[f] = array_get(src, f * step + t);
        for (int i = 0; i < 16; i++) {
            double want = transformed(&output_matrix[0][0], 6, i / 4, i % 4, m, &bound) + bias;
            array_expect(y, begin[t / tiles] + i / 4 * row[t / tiles] + t % tiles * 4 + i % 4,
                         fmin(fmax(want, bounds[0]), bounds[1]),
                         spoilt ? INFINITY : bound + 2 * value_epsilon(FLOAT32) * (fabs(bias) + fabs(want)));
        }
    }
    int finite = w->output(cells, row, src->data, step, with_init ? init->data : NULL, bounds);
    array_check(y, "output");
    if ((finite == 0) != spoilt)
        fail("returned %d", finite);
    arrays_reset();
    s->cases++;
}

static void repeat(subject *s, void (*one)(subject *, const fc_winograd_kernels *, int at_end))
{
    for (int i = 0; has_winograd(s) && i < 300; i++)
        one(s, &s->kernels->winograd[i / 2 % SIZES], i % 2);
}

void check_winograd_input(subject *s)
{
    repeat(s, input_case);
}

void check_winograd_weights(subject *s)
{
    repeat(s, weights_case);
}

void check_winograd_output(subject *s)
{
    repeat(s, output_case);
}
