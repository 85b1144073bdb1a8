/* Winograd's transforms with lanes over channels, and the weight gradient's, element by element as products with matrices made
 * from the points: kernels/winograd_channels.inc. */
#include <math.h>

#include "check_kernels.h"

enum { POINTS_MAX = 8, EDGE_MIN = 2 };

typedef double matrix[POINTS_MAX][POINTS_MAX]; /* rows by columns, of which some are used */

/* Transforms of one axis or both: how many points, those but infinity, and the scales of G. */
typedef struct transforms {
    int axes, points;
    double point[POINTS_MAX - 1];
} transforms;

#define A 0.70710678118654752440
#define B 1.41421356237309504880
static const transforms all[] = {{1, 6, {0, A, -A, B, -B}},
                                 {2, 6, {0, A, -A, B, -B}},
                                 {1, 8, {0, 0.5, -0.5, 1, -1, 2, -2}}};
enum { SETS = 3 };

/* The largest m. */
static int edge_max(const transforms *t)
{
    return t->points == 6 ? FC_WINOGRAD_TILE_MAX : FC_WINOGRAD_LINE_MAX;
}

/* The m that case i has. */
static int edge_of(const transforms *t, int i)
{
    return EDGE_MIN + i % (edge_max(t) - EDGE_MIN + 1);
}

/* Powers of the points, and of infinity: row j holds p^0 ... p^(n - 1). */
static void powers_of(matrix m, const transforms *t, int n)
{
    for (int j = 0; j < t->points; j++)
        for (int k = 0; k < n; k++)
            m[j][k] = j < t->points - 1 ? pow(t->point[j], k) : k == n - 1;
}

/* G scales the product of a point's distances from the others to one, and that of 0 to its sign. */
static void weights_of(matrix m, const transforms *t, int taps)
{
    powers_of(m, t, taps);
    for (int j = 1; j < t->points - 1; j++)
        for (int i = 0; i < t->points - 1; i++)
            for (int k = 0; k < taps && i != j; k++)
                m[j][k] /= t->point[j] - t->point[i];
}

/* Row j of B^T is the polynomial with the other points for roots, that of 0 with a constant of 1; infinity's has all of them. */
static void input_of(matrix m, const transforms *t)
{
    for (int j = 0; j < t->points; j++) {
        double product[POINTS_MAX] = {1};
        int degree = 0;
        for (int k = 0; k < t->points - 1; k++) {
            if (k == j)
                continue;
            degree++;
            for (int i = degree; i >= 0; i--)
                product[i] = (i > 0 ? product[i - 1] : 0) - t->point[k] * (i < degree ? product[i] : 0);
        }
        for (int i = 0; i < t->points; i++)
            m[j][i] = i <= degree ? product[i] * (j ? 1 : product[0]) : 0;
    }
}

static void transpose(matrix to, matrix from)
{
    for (int i = 0; i < POINTS_MAX; i++)
        for (int j = 0; j < POINTS_MAX; j++)
            to[j][i] = from[i][j];
}

/* Element (i, j) of M d M^T, or of d M^T for one axis, d of n columns; and a bound on what rounding can do to it. */
static double transformed(matrix m, int axes, int n, int i, int j, const double *d, double *bound)
{
    double sum = 0, magnitude = 0;
    for (int r = 0; r < (axes == 1 ? 1 : n); r++)
        for (int c = 0; c < n; c++) {
            double term = (axes == 1 ? 1 : m[i][r]) * d[r * n + c] * m[j][c];
            sum += term;
            magnitude += fabs(term);
        }
    *bound = 2 * value_epsilon(FLOAT32) * (2 * n + 2) * magnitude;
    return sum;
}

/* float64 has none of these kernels; whether this real type has. */
static int has_channels(subject *s)
{
    for (int i = 0; i < SETS; i++) {
        const fc_winograd_channels_kernels *w = &s->kernels->winograd_channels[i];
        int there = w->input != NULL, gradients = there && all[i].points == 6;
        for (int m = EDGE_MIN; m <= edge_max(&all[i]); m++)
            if (!w->weights[m] != !there || !w->outputs[m] != !there ||
                (m <= FC_WINOGRAD_TILE_MAX && (!w->gradient[m] != !gradients || !w->taps[m] != !gradients)))
                fail("tiles of %d: some kernels are missing", m);
        if (there != (s->type == FLOAT32))
            fail("the kernels are %s", there ? "there for float64" : "missing");
    }
    s->cases += s->type == FLOAT64;
    return s->type == FLOAT32;
}

/* Patches of `edge` pixels a side (of a row, for one axis), anywhere in memory; M of points x edge. */
static void patch_case(subject *s, fc_winograd_patches_kernel run, matrix m, const transforms *set, int edge, int at_end)
{
    int axes = set->axes, points = set->points;
    int64_t lanes = s->kernels->lanes, tiles = random_integer(1, 5), pixel = lanes * random_integer(1, 2) + random_integer(0, 1);
    int64_t row = (edge + 2) * pixel + random_integer(0, 3), tile = pixel * random_integer(1, 5);
    int64_t next = lanes + random_integer(0, 3), step = tiles * next + random_integer(0, 3);
    int high = axes == 1 ? 1 : edge, frequencies = axes == 1 ? points : points * points;
    if (random_integer(0, 1)) { /* along a column */
        row = pixel;
        pixel = 3 * lanes + random_integer(0, 2);
    }
    int64_t kept[4] = {0, 1, 0, points};
    for (int i = 0; i < 4; i += 2) /* of the rows only where there are some */
        if (i || axes == 2) {
            kept[i] = random_integer(0, 1);
            kept[i + 1] = random_integer(points - 1, points);
        }
    describe("%lld patches of %d x %d pixels, %lld elements apart, points %lld-%lld, %lld-%lld", (long long)tiles, high, edge,
             (long long)tile, (long long)kept[0], (long long)kept[1], (long long)kept[2], (long long)kept[3]);
    array *x = array_random(FLOAT32, (high - 1) * row + (tiles - 1) * tile + (edge - 1) * pixel + lanes, at_end);
    array *dst = array_take(FLOAT32, (frequencies - 1) * step + (tiles - 1) * next + lanes, at_end);
    array_lock(x);
    array_watch(dst);
    for (int64_t t = 0; t < tiles; t++)
        for (int64_t l = 0; l < lanes; l++) {
            double patch[POINTS_MAX * POINTS_MAX], bound;
            for (int i = 0; i < high * edge; i++)
                patch[i] = array_get(x, i / edge * row + t * tile + i % edge * pixel + l);
            for (int f = 0; f < frequencies; f++) {
                int i = f / points, j = f % points;
                double want = transformed(m, axes, edge, i, j, patch, &bound);
                if (i >= kept[0] && i < kept[1] && j >= kept[2] && j < kept[3])
                    array_expect(dst, f * step + t * next + l, want, bound);
            }
        }
    run(dst->data, step, next, x->data, axes == 1 ? 0 : row, pixel, tile, tiles, kept);
    array_check(dst, "dst");
    arrays_reset();
    s->cases++;
}

void check_winograd_channels_input(subject *s)
{
    matrix m;
    for (int i = 0; has_channels(s) && i < 300; i++) {
        const transforms *set = &all[i / 2 % SETS];
        input_of(m, set);
        patch_case(s, s->kernels->winograd_channels[i / 2 % SETS].input, m, set, set->points, i % 2);
    }
}

/* A box of a piece's r x r taps, in rows forwards or backwards. */
static void weights_case(subject *s, int which, int edge, int at_end)
{
    const transforms *set = &all[which];
    int64_t lanes = s->kernels->lanes, vectors = random_integer(1, 3), pixel = vectors * lanes + random_integer(0, 2);
    int axes = set->axes, points = set->points, taps = points + 1 - edge, frequencies = axes == 1 ? points : points * points;
    int64_t columns = random_integer(1, taps), rows = axes == 1 ? 1 : random_integer(1, taps), row = columns * pixel;
    int64_t top = axes == 1 ? 0 : random_integer(0, taps - rows), left = random_integer(0, taps - columns);
    const int64_t box[4] = {top, top + rows, left, left + columns};
    int64_t step = vectors * lanes + random_integer(0, 3), sign = random_integer(0, 1) ? 1 : -1;
    matrix m;
    weights_of(m, set, taps);
    describe("%lld x %lld at %lld, %lld of %d taps, %lld vectors%s", (long long)rows, (long long)columns, (long long)top,
             (long long)left, taps, (long long)vectors, sign < 0 ? ", backwards" : "");
    int64_t last = (rows - 1) * row + (columns - 1) * pixel, first = sign < 0 ? last : 0;
    array *g = array_random(FLOAT32, last + vectors * lanes, at_end);
    array *dst = array_take(FLOAT32, (frequencies - 1) * step + vectors * lanes, at_end);
    array_lock(g);
    array_watch(dst);
    for (int64_t l = 0; l < vectors * lanes; l++) {
        double kernel[POINTS_MAX * POINTS_MAX] = {0}, bound;
        for (int64_t i = 0; i < rows; i++)
            for (int64_t j = 0; j < columns; j++)
                kernel[(top + i) * taps + left + j] = array_get(g, first + sign * (i * row + j * pixel) + l);
        for (int f = 0; f < frequencies; f++) {
            int i = f / points, j = f % points, end = points - 1;
            double want = transformed(m, axes, taps, i, j, kernel, &bound);
            if ((axes == 2 && ((i == 0 && box[0] > 0) || (i == end && box[1] < taps))) || (j == 0 && box[2] > 0) ||
                (j == end && box[3] < taps))
                continue; /* zero, and left alone */
            array_expect(dst, f * step + l, want, bound > 0 ? bound : 0x1p-1070);
        }
    }
    int64_t origin = first - sign * (top * row + left * pixel); /* where tap (0, 0) would be */
    s->kernels->winograd_channels[which].weights[edge](dst->data, step, g->data + origin * element_size(FLOAT32), sign * row,
                                                       sign * pixel, box, vectors);
    array_check(dst, "dst");
    arrays_reset();
    s->cases++;
}

void check_winograd_channels_weights(subject *s)
{
    for (int i = 0; has_channels(s) && i < 600; i++)
        weights_case(s, i / 2 % SETS, edge_of(&all[i / 2 % SETS], i / 6), i % 2);
}

/* Now and then one frequency of one tile is not finite: the kernel must say so. */
static void outputs_case(subject *s, int which, int edge, int at_end)
{
    const transforms *set = &all[which];
    int axes = set->axes, points = set->points;
    int64_t lanes = s->kernels->lanes, tiles = random_integer(1, 3), pixel = lanes + random_integer(0, 3);
    int high = axes == 1 ? 1 : edge, frequencies = axes == 1 ? points : points * points;
    int64_t tile = edge * pixel, row = tiles * tile + random_integer(0, 3), next = lanes + random_integer(0, 3);
    int64_t step = tiles * next + random_integer(0, 3);
    int spoilt = random_integer(0, 3) == 0, bounded = random_integer(0, 1) != 0;
    const double bounds[] = {bounded ? -0.5 : -INFINITY, bounded ? 1.5 : INFINITY};
    if (axes == 1 && random_integer(0, 1)) { /* along a column */
        tile = pixel;
        pixel *= tiles;
    }
    matrix a, m;
    powers_of(a, set, edge);
    transpose(m, a);
    describe("outputs of %lld tiles of %d x %d, %lld elements apart%s%s", (long long)tiles, high, edge, (long long)pixel,
             spoilt ? ", not finite" : "", bounded ? ", bounded" : "");
    array *src = array_random(FLOAT32, (frequencies - 1) * step + (tiles - 1) * next + lanes, at_end);
    array *init = array_random(FLOAT32, lanes, at_end);
    array *y = array_take(FLOAT32, (high - 1) * row + (tiles - 1) * tile + (edge - 1) * pixel + lanes, at_end);
    if (spoilt)
        array_put(src,
                  random_integer(0, frequencies - 1) * step + random_integer(0, tiles - 1) * next + random_integer(0, lanes - 1),
                  CHOOSE(0, 1) ? NAN : INFINITY);
    array_lock(src);
    array_lock(init);
    array_watch(y);
    for (int64_t t = 0; t < tiles; t++)
        for (int64_t l = 0; l < lanes; l++) {
            double from[POINTS_MAX * POINTS_MAX], bound, bias = array_get(init, l);
            for (int f = 0; f < frequencies; f++)
                from[f] = array_get(src, f * step + t * next + l);
            for (int i = 0; i < high * edge; i++) {
                double want = transformed(m, axes, points, i / edge, i % edge, from, &bound) + bias;
                array_expect(y, i / edge * row + t * tile + i % edge * pixel + l, fmin(fmax(want, bounds[0]), bounds[1]),
                             spoilt ? INFINITY : bound + 2 * value_epsilon(FLOAT32) * (fabs(bias) + fabs(want)));
            }
        }
    int finite = s->kernels->winograd_channels[which].outputs[edge](y->data, row, pixel, tile, src->data, step, next, init->data,
                                                                    bounds, tiles);
    array_check(y, "output");
    if ((finite == 0) != spoilt)
        fail("returned %d", finite);
    arrays_reset();
    s->cases++;
}

void check_winograd_channels_outputs(subject *s)
{
    for (int i = 0; has_channels(s) && i < 600; i++)
        outputs_case(s, i / 2 % SETS, edge_of(&all[i / 2 % SETS], i / 6), i % 2);
}

/* The weight gradient's transforms of the output and of the weights, adjoints of those above. */
void check_winograd_channels_gradient(subject *s)
{
    for (int i = 0; has_channels(s) && i < 400; i++) {
        const transforms *set = &all[i / 2 % 2];
        int edge = edge_of(set, i / 4);
        matrix m;
        powers_of(m, set, edge);
        patch_case(s, s->kernels->winograd_channels[i / 2 % 2].gradient[edge], m, set, edge, i % 2);
    }
}

/* Now and then one frequency of one channel is not finite: the kernel must say so, unless it does not matter. */
static void taps_case(subject *s, int axes, int edge, int at_end)
{
    int points = all[axes - 1].points, frequencies = axes == 1 ? points : points * points;
    int taps = points + 1 - edge, end = points - 1;
    int64_t lanes = s->kernels->lanes, vectors = random_integer(1, 3), width = vectors * lanes;
    const int64_t count[2] = {axes == 1 ? 1 : random_integer(1, taps), random_integer(1, taps)};
    int64_t pixel = width + random_integer(0, 3), row = count[1] * pixel + random_integer(0, 3);
    int64_t step = width + random_integer(0, 3);
    int bad = random_integer(0, 3) ? -1 : (int)random_integer(0, frequencies - 1);
    int idle = (axes == 2 && count[0] < taps && bad / points == end) || (count[1] < taps && bad % points == end);
    matrix g, adjoint;
    weights_of(g, &all[axes - 1], taps);
    transpose(adjoint, g);
    describe("%lld x %lld of %d taps, %lld vectors%s", (long long)count[0], (long long)count[1], taps, (long long)vectors,
             bad < 0 ? "" : idle ? ", not finite where that does not matter" : ", not finite");
    array *src = array_random(FLOAT32, (frequencies - 1) * step + width, at_end);
    array *dst = array_take(FLOAT32, (count[0] - 1) * row + (count[1] - 1) * pixel + width, at_end);
    array_watch(dst);
    for (int64_t c = 0; c < width; c++)
        for (int64_t t = 0; t < count[0] * count[1]; t++) {
            double u[POINTS_MAX * POINTS_MAX], bound, want;
            for (int f = 0; f < frequencies; f++)
                u[f] = array_get(src, f * step + c);
            want = transformed(adjoint, axes, points, (int)(t / count[1]), (int)(t % count[1]), u, &bound);
            array_expect(dst, t / count[1] * row + t % count[1] * pixel + c, want, bad < 0 || idle ? bound : INFINITY);
        }
    if (bad >= 0)
        array_put(src, bad * step + random_integer(0, width - 1), CHOOSE(0, 1) ? NAN : INFINITY);
    array_lock(src);
    int finite = s->kernels->winograd_channels[axes - 1].taps[edge](dst->data, row, pixel, src->data, step, count, vectors);
    array_check(dst, "dst");
    if ((finite == 0) != (bad >= 0 && !idle))
        fail("returned %d", finite);
    arrays_reset();
    s->cases++;
}

void check_winograd_channels_taps(subject *s)
{
    for (int i = 0; has_channels(s) && i < 600; i++)
        taps_case(s, 1 + i / 2 % 2, edge_of(&all[i / 2 % 2], i / 4), i % 2);
}
