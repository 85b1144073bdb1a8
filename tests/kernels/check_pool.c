/* The pooling kernels. */
#include <math.h>

#include "check_kernels.h"

enum { TAPS_MAX = 300, ROWS_MAX = 3 };

void put_awkward(array *a)
{
    static const double values[] = {1, -1, 2, 0.0, -0.0, INFINITY, -INFINITY, -INFINITY, NAN, 0.5};
    int count = random_integer(0, 1) ? 10 : 8; /* with and without NaN */
    for (int64_t i = 0; i < a->count; i++)
        array_put(a, i, values[random_integer(0, count - 1)]);
}

/* What a case reads.  Kernels work in whole vectors: of rows shorter than one the rest is read and written too. */
typedef struct window {
    int64_t taps, rows, width, whole, x_row, y_row, offset[TAPS_MAX];
    array *x;
    int64_t origin; /* of x */
} window;

static window window_take(subject *s, int64_t taps, int64_t width, int at_end)
{
    int64_t lanes = s->kernels->lanes;
    window w = {.taps = taps, .rows = random_integer(0, ROWS_MAX), .width = width, .whole = width < lanes ? lanes : width};
    int64_t low = INT64_MAX, high = INT64_MIN;
    w.x_row = random_integer(0, 2 * width);
    w.y_row = w.whole + random_integer(0, 4);
    for (int64_t t = 0; t < taps; t++) {
        w.offset[t] = random_integer(-40, 40);
        low = w.offset[t] < low ? w.offset[t] : low;
        high = w.offset[t] > high ? w.offset[t] : high;
    }
    int some = taps && w.rows;
    w.origin = some ? -low : 0;
    w.x = array_random(s->type, some ? high - low + (w.rows - 1) * w.x_row + w.whole : 0, at_end);
    describe("taps=%lld rows=%lld width=%lld x_row=%lld y_row=%lld at the %s of a page", (long long)taps,
             (long long)w.rows, (long long)width, (long long)w.x_row, (long long)w.y_row,
             at_end ? "end" : "beginning");
    return w;
}

static array *window_output(const window *w, element type, int at_end)
{
    array *a = array_take(type, w->rows ? (w->rows - 1) * w->y_row + w->whole : 0, at_end);
    array_watch(a);
    for (int64_t r = 0; r < w->rows; r++)
        for (int64_t q = w->width; q < w->whole; q++)
            array_expect(a, r * w->y_row + q, 0, INFINITY);
    return a;
}

static double tap(const window *w, int64_t r, int64_t q, int64_t t)
{
    return array_get(w->x, w->origin + r * w->x_row + q + w->offset[t]);
}

static const char *pointer(const window *w)
{
    return w->x->data + w->origin * element_size(w->x->type);
}

static void check_max(subject *s, int indexed)
{
    static const int64_t taps[] = {0, 1, 2, 4, 9, 25};
    int64_t lanes = s->kernels->lanes;
    for (int i = 0; i < 6; i++)
        for (int64_t width = 1; width <= 6 * lanes + 1; width++)
            for (int at_end = 0; at_end < 2; at_end++, s->cases++) {
                window w = window_take(s, taps[i], width, at_end);
                if (random_integer(0, 3))
                    put_awkward(w.x);
                array *y = window_output(&w, s->type, at_end), *index = window_output(&w, s->index_type, at_end);
                array *position = array_take(s->index_type, w.taps, at_end);
                for (int64_t t = 0; t < w.taps; t++)
                    array_put(position, t, (double)random_integer(0, 1 << 20));
                array_lock(w.x);
                array_lock(position);
                for (int64_t r = 0; r < w.rows; r++)
                    for (int64_t q = 0; q < width; q++) {
                        double best = -INFINITY, place = -7;
                        for (int64_t t = 0; t < w.taps; t++)
                            if (tap(&w, r, q, t) > best || isnan(tap(&w, r, q, t))) {
                                best = tap(&w, r, q, t);
                                place = array_get(position, t);
                            }
                        array_expect(y, r * w.y_row + q, best, 0);
                        array_expect(index, r * w.y_row + q, place, 0);
                    }
                if (indexed) {
                    s->kernels->pool.max_index(w.taps, w.offset, position->data, -7, pointer(&w), w.x_row, y->data,
                                               w.y_row, index->data, w.y_row, w.rows, width);
                    array_check(index, "index");
                } else {
                    s->kernels->pool.max(w.taps, w.offset, pointer(&w), w.x_row, y->data, w.y_row, w.rows, width);
                }
                array_check(y, "y");
                arrays_reset();
            }
}

void check_pool_max(subject *s)
{
    check_max(s, 0);
}

void check_pool_max_index(subject *s)
{
    check_max(s, 1);
}

void check_pool_mean(subject *s)
{
    static const int64_t taps[] = {0, 1, 2, 9, 255, 257};
    int64_t lanes = s->kernels->lanes;
    for (int i = 0; i < 6; i++)
        for (int64_t width = 1; width <= 6 * lanes + 1; width += taps[i] > 100 ? random_integer(1, lanes) : 1)
            for (int k = 0; k < 2; k++, s->cases++) {
                window w = window_take(s, taps[i], width, k);
                array *y = window_output(&w, s->type, k);
                array *rows = array_take(FLOAT64, w.rows, k);
                int ones = s->cases % 5 == 0;
                for (int64_t r = 0; r < w.rows; r++)
                    array_put(rows, r, ones ? 1 : (double)random_integer(1, 9));
                array_lock(w.x);
                array_lock(rows);
                for (int64_t r = 0; r < w.rows; r++)
                    for (int64_t q = 0; q < width; q++) {
                        double sum = 0, magnitude = 0, divisor = array_get(rows, r);
                        for (int64_t t = 0; t < w.taps; t++) {
                            sum += tap(&w, r, q, t);
                            magnitude += fabs(tap(&w, r, q, t));
                        }
                        array_expect(y, r * w.y_row + q, sum / divisor,
                                     2 * value_epsilon(s->type) * (double)(w.taps + 2) * magnitude / divisor);
                    }
                const double *divisor = ones ? NULL : (const double *)(const void *)rows->data;
                s->kernels->pool.mean(w.taps, w.offset, divisor, pointer(&w), w.x_row, y->data, w.y_row, w.rows, width);
                array_check(y, "y");
                arrays_reset();
            }
}

void check_pool_index(subject *s)
{
    static const int64_t counts[] = {0, 1, 2, 7, 16, 33}, strides[] = {1, 2, 5, -1, -3};
    for (int c = 0; c < 6; c++)
        for (int t = 0; t < 5; t++)
            for (int k = 0; k < 6; k++, s->cases++) {
                int64_t count = counts[c], stride = strides[t], base = random_integer(-3, 1 << 30), step = random_integer(0, 3);
                int64_t gap = stride < 0 ? -stride : stride, first = stride < 0 && count ? (count - 1) * gap : 0;
                int negative = 0;
                describe("count=%lld dst_stride=%lld step=%lld", (long long)count, (long long)stride, (long long)step);
                array *lanes = array_take(s->index_type, count, k % 2);
                array *dst = array_take(INT64, count ? (count - 1) * gap + 1 : 0, k % 2);
                for (int64_t j = 0; j < count; j++)
                    array_put(lanes, j, (double)random_integer(0, 1 << 20));
                if (count && k >= 4) {
                    array_put(lanes, random_integer(0, count - 1), -1);
                    negative = 1;
                }
                array_lock(lanes);
                array_watch(dst);
                for (int64_t j = 0; j < count; j++)
                    array_expect(dst, first + j * stride, (double)(base + j * step) + array_get(lanes, j), 0);
                int said = s->kernels->pool.index((int64_t *)(void *)dst->data + first, stride, lanes->data, base, step, count);
                array_check(dst, "dst");
                if (!said != !negative)
                    fail("returned %d where the lanes are %snegative", said, negative ? "" : "not ");
                arrays_reset();
            }
}

/* A box of three axes; strides of any sign, the last often 1. */
typedef struct box {
    int64_t n[3], stride[3], origin;
    array *x, *y, *tap;
    int64_t count;
} box;

static box box_take(subject *s, element result, int awkward, int least)
{
    box b = {.origin = 0};
    int64_t low = 0, high = 0, lanes = s->kernels->lanes;
    int at_end = s->cases % 2;
    for (int i = 0; i < 3; i++) {
        b.n[i] = random_integer(random_integer(0, 9) ? 1 : least, i == 2 && random_integer(0, 1) ? 4 * lanes : 4);
        b.stride[i] = i == 2 && random_integer(0, 1) ? 1 : random_integer(-9, 9);
        int64_t reach = b.n[i] ? (b.n[i] - 1) * b.stride[i] : 0;
        low += reach < 0 ? reach : 0;
        high += reach > 0 ? reach : 0;
    }
    describe("%lldx%lldx%lld strides %lld %lld %lld", (long long)b.n[0], (long long)b.n[1], (long long)b.n[2],
             (long long)b.stride[0], (long long)b.stride[1], (long long)b.stride[2]);
    b.count = b.n[0] * b.n[1] * b.n[2];
    b.origin = b.count ? -low : 0;
    b.x = array_random(s->type, b.count ? high - low + 1 : 0, at_end);
    if (awkward && random_integer(0, 3))
        put_awkward(b.x);
    array_lock(b.x);
    b.y = array_take(result, 1, at_end);
    b.tap = array_take(INT64, 1, at_end);
    array_watch(b.y);
    array_watch(b.tap);
    return b;
}

static double box_get(const box *b, int64_t i)
{
    return array_get(b->x, b->origin + i / b->n[2] / b->n[1] * b->stride[0] + i / b->n[2] % b->n[1] * b->stride[1] +
                               i % b->n[2] * b->stride[2]);
}

static const char *box_pointer(const box *b)
{
    return b->x->data + b->origin * element_size(b->x->type);
}

static void check_box_max(subject *s, int indexed)
{
    for (; s->cases < 2000; s->cases++) {
        box b = box_take(s, s->type, 1, indexed);
        double best = b.count ? box_get(&b, 0) : -INFINITY;
        int64_t place = 0;
        for (int64_t i = 1; i < b.count; i++)
            if (box_get(&b, i) > best || isnan(box_get(&b, i))) {
                best = box_get(&b, i);
                place = i;
            }
        /* Of zeros of both signs either is the maximum, unless its place is asked for. */
        array_expect(b.y, 0, best, indexed ? 0 : 0x1p-1070);
        array_expect(b.tap, 0, (double)place, 0);
        if (indexed) {
            s->kernels->pool.box_max_index(b.n, b.stride, box_pointer(&b), b.y->data, (int64_t *)(void *)b.tap->data);
            array_check(b.tap, "tap");
        } else {
            s->kernels->pool.box_max(b.n, b.stride, box_pointer(&b), b.y->data);
        }
        array_check(b.y, "y");
        arrays_reset();
    }
}

void check_pool_box_max(subject *s)
{
    check_box_max(s, 0);
}

void check_pool_box_max_index(subject *s)
{
    check_box_max(s, 1);
}

void check_pool_box_sum(subject *s)
{
    for (; s->cases < 2000; s->cases++) {
        box b = box_take(s, FLOAT64, 0, 0);
        double sum = 0, magnitude = 0;
        for (int64_t i = 0; i < b.count; i++) {
            sum += box_get(&b, i);
            magnitude += fabs(box_get(&b, i));
        }
        array_expect(b.y, 0, sum, 2 * value_epsilon(FLOAT64) * (double)b.count * magnitude);
        s->kernels->pool.box_sum(b.n, b.stride, box_pointer(&b), (double *)(void *)b.y->data);
        array_check(b.y, "sum");
        arrays_reset();
    }
}

void check_pool_plane_means(subject *s)
{
    int64_t lanes = s->kernels->lanes;
    for (int64_t count = lanes; count <= 10 * lanes + 1; count++)
        for (int k = 0; k < 2; k++, s->cases++) {
            int64_t apart = count + random_integer(0, 3);
            array *y = array_take(s->type, lanes, k), *x = array_random(s->type, (lanes - 1) * apart + count, k);
            const void *plane[FC_LANES_MAX];
            double divisor = random_integer(0, 1) ? (double)count : -3;
            describe("count=%lld at the %s of a page", (long long)count, k ? "end" : "beginning");
            array_lock(x);
            array_watch(y);
            for (int64_t l = 0; l < lanes; l++) {
                double sum = 0, magnitude = 0;
                for (int64_t i = 0; i < count; i++) {
                    sum += array_get(x, l * apart + i);
                    magnitude += fabs(array_get(x, l * apart + i));
                }
                plane[l] = x->data + l * apart * element_size(s->type);
                array_expect(y, l, sum / divisor, 2 * value_epsilon(s->type) * (double)count * magnitude / fabs(divisor));
            }
            s->kernels->pool.plane_means(y->data, plane, count, divisor);
            array_check(y, "y");
            arrays_reset();
        }
}

void check_pool_plane_fill(subject *s)
{
    for (int64_t count = 1; count <= 5 * s->kernels->lanes + 1; count++)
        for (int k = 0; k < 4; k++, s->cases++) {
            int64_t planes = random_integer(0, 4), apart = count + CHOOSE(0, 0, 3), step = CHOOSE(0, 1, 2);
            array *y = array_random(s->type, 3 * step + 1, k % 2), *x = array_take(s->type, 3 * apart + count, k / 2);
            double divisor = random_integer(0, 1) ? (double)count : -3;
            describe("count=%lld, %lld planes %lld apart", (long long)count, (long long)planes, (long long)apart);
            array_lock(y);
            array_watch(x);
            for (int64_t i = 0; i < planes; i++)
                for (int64_t j = 0; j < count; j++)
                    array_expect(x, i * apart + j, value_round(s->type, array_get(y, i * step) / divisor), 0);
            s->kernels->pool.plane_fill(x->data, apart, count, y->data, step, divisor, planes);
            array_check(x, "x");
            arrays_reset();
        }
}

/* Runs may overlap and touch the end of dst; each addition rounds on its own, in the order of q. */
void check_pool_spread(subject *s)
{
    enum { RUNS_MAX = 12 };
    for (; s->cases < 1000; s->cases++) {
        int64_t count = random_integer(0, RUNS_MAX), size = random_integer(1, 6 * s->kernels->lanes);
        int64_t first[RUNS_MAX + 1], length[RUNS_MAX + 1];
        array *src = array_random(s->type, count, s->cases % 2), *dst = array_random(s->type, size, s->cases % 2);
        describe("%lld runs in %lld elements", (long long)count, (long long)size);
        array_lock(src);
        array_watch(dst);
        for (int64_t q = 0; q < count; q++) {
            first[q] = random_integer(0, size);
            length[q] = random_integer(0, 1) ? size - first[q] : random_integer(0, size - first[q]);
            for (int64_t i = first[q]; i < first[q] + length[q]; i++) {
                double old = dst->bound[i] == KEPT ? array_get(dst, i) : dst->want[i];
                array_expect(dst, i, value_round(s->type, old + array_get(src, q)), 0);
            }
        }
        s->kernels->pool.spread(dst->data, first, length, src->data, count);
        array_check(dst, "dst");
        arrays_reset();
    }
}

/* Elements of src and their places, each at a stride of its own; now and then a place that does not exist. */
void check_pool_route(subject *s)
{
    for (; s->cases < 1500; s->cases++) {
        int at_end = s->cases % 2, add = s->cases / 2 % 2;
        int64_t count = random_integer(0, 40), size = random_integer(1, 60), dst_stride = CHOOSE(1, 1, 2, 3);
        int64_t src_stride = CHOOSE(1, 1, 2, 0), index_stride = CHOOSE(1, 1, 3);
        int64_t wrong = random_integer(0, 3) ? count : random_integer(0, count);
        describe("%s %lld of %lld, strides %lld %lld %lld, wrong at %lld", add ? "add" : "put", (long long)count, (long long)size,
                 (long long)dst_stride, (long long)src_stride, (long long)index_stride, (long long)wrong);
        array *src = array_random(s->type, count ? (count - 1) * src_stride + 1 : 0, at_end);
        array *index = array_take(INT64, count ? (count - 1) * index_stride + 1 : 0, at_end);
        array *dst = (add ? array_random : array_take)(s->type, (size - 1) * dst_stride + 1, at_end);
        for (int64_t j = 0; j < count; j++)
            array_put(index, j * index_stride, (double)random_integer(0, size - 1));
        if (wrong < count)
            array_put(index, wrong * index_stride, (double)CHOOSE(-1, size, size + 7, INT32_MIN));
        array_lock(src);
        array_lock(index);
        array_watch(dst);
        for (int64_t j = 0; j < wrong; j++) {
            int64_t i = (int64_t)array_get(index, j * index_stride) * dst_stride;
            double old = dst->bound[i] == KEPT ? array_get(dst, i) : dst->want[i], value = array_get(src, j * src_stride);
            array_expect(dst, i, value_round(s->type, add ? old + value : value), 0);
        }
        int64_t done = s->kernels->pool.route(dst->data, dst_stride, size, src->data, src_stride,
                                              (const int64_t *)(const void *)index->data, index_stride, count, add);
        array_check(dst, "dst");
        if (done != wrong)
            fail("returned %lld", (long long)done);
        arrays_reset();
    }
}

/* Windows two columns wide, side by side; now and then an index of none of them. */
void check_pool_pairs(subject *s)
{
    for (; s->cases < 1500; s->cases++) {
        int lines = (int)random_integer(1, 2), add = s->cases % 2;
        int64_t lanes = s->kernels->lanes, width = random_integer(lanes, 3 * lanes), rows = random_integer(1, 4);
        int64_t row = 2 * width + CHOOSE(0, 0, 1, 5), place = CHOOSE(0, 7, 1 << 20), met = 0;
        int wrong = (int)random_integer(0, 1), far = s->kernels->size == 4 && random_integer(0, 3) == 0;
        describe("%d lines, %lld rows of %lld, %lld apart, from %lld on%s%s", lines, (long long)rows, (long long)width,
                 (long long)row, (long long)place, wrong ? ", some wrong" : "", far ? ", one beyond 32 bits" : "");
        array *src = array_random(s->type, rows * width, s->cases / 2 % 2), *index = array_take(INT64, rows * width, s->cases / 4 % 2);
        array *dst = array_take(s->type, (rows * lines - 1) * row + 2 * width, s->cases / 8 % 2);
        put_awkward(src);
        array_watch(dst);
        for (int64_t r = 0; r < rows; r++)
            for (int64_t j = 0; j < width; j++) {
                int64_t i = random_integer(0, lines - 1), k = random_integer(0, 1), at = r * width + j;
                int miss = wrong && random_integer(0, 3) == 0;
                for (int64_t e = 0; e < 2 * lines; e++)
                    array_expect(dst, (r * lines + e / 2) * row + 2 * j + e % 2, 0, 0);
                double value = array_get(src, at);
                if (!miss)
                    array_expect(dst, (r * lines + i) * row + 2 * j + k, add ? value + 0.0 : value, 0);
                met += !miss;
                array_put(index, at, (double)(place + (r * lines + i) * row + 2 * j + k + (miss ? 2 : 0)));
                if (miss && random_integer(0, 1))
                    array_put(index, at, INT32_MAX);
            }
        if (far) { /* though its low word be a place */
            ((int64_t *)(void *)index->data)[random_integer(0, rows * width - 1)] += CHOOSE((int64_t)1 << 40, INT64_MIN);
            met = 0;
        }
        array_lock(src);
        array_lock(index);
        int64_t done = s->kernels->pool.pairs(lines, width, dst->data, row, src->data, (const int64_t *)(const void *)index->data,
                                              place, rows, add);
        array_check(dst, "dst");
        if (done != met)
            fail("returned %lld, not %lld", (long long)done, (long long)met);
        arrays_reset();
    }
}
