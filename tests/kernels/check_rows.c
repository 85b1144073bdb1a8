/* gather_row, gather_rows, gather_pairs, gather_block, scatter_row, space_rows, copy_vectors, interleave, transpose, transpose_past,
 * transpose_taps, transpose_rows, sum_row and dot: what moves or adds along rows of any stride. */
#include <math.h>

#include "check_kernels.h"

/* Room for `count` elements `stride` apart, and where the first of them stands. */
static int64_t extent(int64_t count, int64_t stride)
{
    return count ? (count - 1) * (stride < 0 ? -stride : stride) + 1 : 0;
}

static int64_t origin(int64_t count, int64_t stride)
{
    return count && stride < 0 ? (count - 1) * -stride : 0;
}

static char *at(const array *a, int64_t i)
{
    return a->data + i * element_size(a->type);
}

static void gather_row_case(subject *s, int64_t count, int64_t x_stride, int64_t first, int64_t step, int64_t size, int null)
{
    describe("count=%lld x_stride=%lld first=%lld step=%lld size=%lld%s", (long long)count, (long long)x_stride,
             (long long)first, (long long)step, (long long)size, null ? " NULL" : "");
    int at_end = s->cases % 2;
    array *x = array_random(s->type, extent(size, x_stride), at_end), *fill = array_random(s->type, 1, at_end);
    array *dst = array_take(s->type, count, at_end);
    int64_t x0 = origin(size, x_stride);
    if (s->cases % 16 == 0)
        array_put(fill, 0, -INFINITY);
    array_lock(x);
    array_lock(fill);
    array_watch(dst);
    for (int64_t j = 0; j < count; j++) {
        int64_t i = first + j * step;
        int inside = !null && i >= 0 && i < size;
        array_expect(dst, j, inside ? array_get(x, x0 + i * x_stride) : array_get(fill, 0), 0);
    }
    s->kernels->gather_row(dst->data, count, null ? NULL : at(x, x0), x_stride, first, step, size, fill->data);
    array_check(dst, "dst");
    arrays_reset();
    s->cases++;
}

void check_gather_row(subject *s)
{
    int64_t lanes = s->kernels->lanes;
    int64_t counts[] = {0, 1, 2, 3, lanes - 1, lanes, lanes + 1, 2 * lanes, 2 * lanes + 3, 5 * lanes + 1};
    static const int64_t strides[] = {1, 2, 3, 0, -1, -2}, steps[] = {1, 2, 3}, sizes[] = {0, 1, 2, 5, 33};
    for (int c = 0; c < 10; c++)
        for (int x = 0; x < 6; x++)
            for (int t = 0; t < 3; t++)
                for (int z = 0; z < 5; z++) {
                    int64_t size = sizes[z], reach = (counts[c] + 1) * steps[t];
                    int64_t firsts[] = {0, 1, -1, -steps[t], -reach, -reach / 2, size - 1, size, size + reach, size / 2};
                    for (int f = 0; f < 10; f++)
                        gather_row_case(s, counts[c], strides[x], firsts[f], steps[t], size, 0);
                    gather_row_case(s, counts[c], strides[x], -1, steps[t], size, 1);
                }
}

typedef struct plane {
    int64_t stride[2], first[2], step[2], size[2];
} plane;

static void gather_rows_case(subject *s, int64_t rows, int64_t count, int64_t dst_gap, const plane *p, int null)
{
    describe("rows=%lld count=%lld dst_gap=%lld stride=%lld,%lld first=%lld,%lld step=%lld,%lld size=%lld,%lld%s", (long long)rows,
             (long long)count, (long long)dst_gap, (long long)p->stride[0], (long long)p->stride[1], (long long)p->first[0],
             (long long)p->first[1], (long long)p->step[0], (long long)p->step[1], (long long)p->size[0], (long long)p->size[1],
             null ? " NULL" : "");
    int at_end = s->cases++ % 2, empty = !p->size[0] || !p->size[1];
    int64_t x0 = empty ? 0 : origin(p->size[0], p->stride[0]) + origin(p->size[1], p->stride[1]);
    int64_t reach = extent(p->size[0], p->stride[0]) + extent(p->size[1], p->stride[1]) - 1, dst_row = count + dst_gap;
    array *x = array_random(s->type, empty ? 0 : reach, at_end), *fill = array_random(s->type, 1, at_end);
    array *dst = array_take(s->type, rows && count ? rows * dst_row - dst_gap : 0, at_end);
    array_lock(x);
    array_lock(fill);
    array_watch(dst);
    for (int64_t r = 0; r < rows; r++)
        for (int64_t j = 0; j < count; j++) {
            int64_t i = p->first[0] + r * p->step[0], k = p->first[1] + j * p->step[1];
            int inside = !null && i >= 0 && i < p->size[0] && k >= 0 && k < p->size[1];
            array_expect(dst, r * dst_row + j, array_get(inside ? x : fill, inside ? x0 + i * p->stride[0] + k * p->stride[1] : 0), 0);
        }
    s->kernels->gather_rows(dst->data, dst_row, rows, count, null ? NULL : at(x, x0), p->stride, p->first, p->step, p->size,
                            fill->data);
    array_check(dst, "dst");
    arrays_reset();
}

/* Every padding of every width around a vector's; rows side by side, apart, overlapping, and in the opposite order. */
void check_gather_rows(subject *s)
{
    int64_t lanes = s->kernels->lanes;
    int64_t widths[] = {0, 1, 3, lanes - 1, lanes, lanes + 1, 2 * lanes - 1, 2 * lanes, 5 * lanes + 1};
    static const int64_t strides[] = {1, 2, 3, 4, 5, 6, 0, -2}, heights[] = {0, 1, 2, 5};
    for (int c = 0; c < 9; c++)
        for (int t = 0; t < 8; t++)
            for (int h = 0; h < 4; h++)
                for (int i = 0; i < 36; i++) {
                    int64_t width = widths[c], step = 1 + i % 2, left = i % 3 * (i % 4 ? 1 : lanes), right = i / 3 % 3;
                    int64_t row = extent(width * step, strides[t]) + (i % 5 ? i % 5 - 1 : -1 - 3 * width);
                    plane p = {{row, strides[t]}, {i / 6 % 3 - 1, -left}, {1 + i / 18, step}, {heights[h], width * step}};
                    gather_rows_case(s, i % 7, left / step + width + right, i % 11 ? 0 : 3, &p, i == 35);
                }
}

static void gather_pairs_case(subject *s, int64_t rows, int64_t count, int64_t x_row, const int64_t *first, int64_t step,
                              const int64_t *size, int null)
{
    describe("pairs rows=%lld count=%lld x_row=%lld first=%lld,%lld step=%lld size=%lld,%lld%s", (long long)rows, (long long)count,
             (long long)x_row, (long long)first[0], (long long)first[1], (long long)step, (long long)size[0], (long long)size[1],
             null ? " NULL" : "");
    int at_end = s->cases++ % 2, empty = !size[0] || !size[1];
    int64_t x0 = empty ? 0 : origin(size[0], x_row);
    array *x = array_random(s->type, empty ? 0 : extent(size[0], x_row) + size[1] - 1, at_end), *fill = array_random(s->type, 1, at_end);
    array *out[2] = {array_take(s->type, rows * count, at_end), array_take(s->type, rows * count, at_end)};
    array_lock(x);
    array_lock(fill);
    for (int q = 0; q < 2; q++) {
        array_watch(out[q]);
        for (int64_t j = 0; j < rows * count; j++) {
            int64_t i = first[0] + j / count * step, k = first[1] + 2 * (j % count) + q;
            int inside = !null && i >= 0 && i < size[0] && k >= 0 && k < size[1];
            array_expect(out[q], j, array_get(inside ? x : fill, inside ? x0 + i * x_row + k : 0), 0);
        }
    }
    s->kernels->gather_pairs(out[0]->data, out[1]->data, rows, count, null ? NULL : at(x, x0), x_row, first, step, size, fill->data);
    array_check(out[0], "even");
    array_check(out[1], "odd");
    arrays_reset();
}

/* Pairs and half pairs at both ends, rows above and below. */
void check_gather_pairs(subject *s)
{
    int64_t lanes = s->kernels->lanes;
    int64_t sizes[] = {0, 1, 2, 3, lanes, 2 * lanes - 1, 2 * lanes, 2 * lanes + 1, 4 * lanes - 1, 4 * lanes + 3, 9 * lanes};
    for (int z = 0; z < 11; z++)
        for (int left = -3; left < 4; left++)
            for (int right = -4; right < 4; right++)
                for (int i = 0; i < 4; i++) {
                    int64_t count = (sizes[z] + left + right + 8) / 2 - 4, first[] = {i % 3 - 1, -left}, size[] = {i + 1, sizes[z]};
                    int64_t row = (sizes[z] + i - 1) * (i % 2 ? 1 : -1);
                    gather_pairs_case(s, i + 2, count < 0 ? 0 : count, row, first, 1 + i / 2, size, i == 3 && right == 3);
                }
    gather_pairs_case(s, 2, 5, 9, (int64_t[]){0, -40}, 1, (int64_t[]){2, 9}, 0);
    gather_pairs_case(s, 2, 5, 9, (int64_t[]){0, 40}, 1, (int64_t[]){2, 9}, 0);
}

/* A read-only array of `axes` axes; strides of any sign, and what is only read may overlap itself. */
typedef struct block {
    array *data;
    int64_t stride[5], origin;
} block;

static block block_random(subject *s, int axes, const int64_t *n, int at_end)
{
    block b = {.origin = 0};
    int64_t low = 0, high = 0, empty = 0;
    for (int i = 0; i < axes; i++) {
        b.stride[i] = random_integer(0, 3) ? random_integer(-9, 9) : 1;
        empty |= n[i] == 0;
        int64_t reach = n[i] ? (n[i] - 1) * b.stride[i] : 0;
        low += reach < 0 ? reach : 0;
        high += reach > 0 ? reach : 0;
    }
    b.origin = empty ? 0 : -low;
    b.data = array_random(s->type, empty ? 0 : high - low + 1, at_end);
    array_lock(b.data);
    return b;
}

/* Element k of it in row-major order. */
static double block_get(const block *b, int axes, const int64_t *n, int64_t k)
{
    int64_t at = b->origin;
    for (int i = axes - 1; i >= 0; i--) {
        at += k % n[i] * b->stride[i];
        k /= n[i];
    }
    return array_get(b->data, at);
}

static void random_sizes(int64_t n[4], int64_t lanes)
{
    for (int i = 0; i < 4; i++)
        n[i] = random_integer(0, 19) ? random_integer(1, 4) : 0;
    if (random_integer(0, 1))
        n[3] = random_integer(0, 2 * lanes + 1);
}

void check_gather_block(subject *s)
{
    for (; s->cases < 1500; s->cases++) {
        int64_t n[5];
        random_sizes(n + 1, s->kernels->lanes);
        n[0] = random_integer(0, 9) ? random_integer(1, 2 * s->kernels->lanes + 1) : 0;
        int64_t row = n[1] * n[2] * n[3] * n[4], dst_row = row + random_integer(0, 3), some = n[0] && row;
        block x = block_random(s, 5, n, s->cases % 2);
        array *dst = array_take(s->type, some ? (n[0] - 1) * dst_row + row : 0, s->cases % 2);
        describe("%lld rows of %lldx%lldx%lldx%lld, strides %lld, %lld %lld %lld %lld", (long long)n[0], (long long)n[1],
                 (long long)n[2], (long long)n[3], (long long)n[4], (long long)x.stride[0], (long long)x.stride[1],
                 (long long)x.stride[2], (long long)x.stride[3], (long long)x.stride[4]);
        array_watch(dst);
        for (int64_t k = 0; some && k < n[0] * row; k++)
            array_expect(dst, k / row * dst_row + k % row, block_get(&x, 5, n, k), 0);
        s->kernels->gather_block(dst->data, dst_row, n[0], n + 1, at(x.data, x.origin), x.stride[0], x.stride + 1);
        array_check(dst, "dst");
        arrays_reset();
    }
}

void check_dot(subject *s)
{
    for (; s->cases < 1500; s->cases++) {
        int64_t n[4];
        random_sizes(n, s->kernels->lanes);
        int at_end = s->cases % 2, with_init = random_integer(0, 1) != 0;
        int64_t terms = n[0] * n[1] * n[2] * n[3];
        block x = block_random(s, 4, n, at_end), w = block_random(s, 4, n, at_end);
        array *init = array_random(s->type, 1, at_end), *y = array_take(s->type, 1, at_end);
        describe("%lldx%lldx%lldx%lld%s", (long long)n[0], (long long)n[1], (long long)n[2], (long long)n[3],
                 with_init ? " init" : "");
        array_lock(init);
        array_watch(y);
        double sum = with_init ? array_get(init, 0) : 0, magnitude = fabs(sum);
        for (int64_t k = 0; k < terms; k++) {
            double term = block_get(&x, 4, n, k) * block_get(&w, 4, n, k);
            sum += term;
            magnitude += fabs(term);
        }
        double bound = 2 * value_epsilon(FLOAT64) * (double)(terms + 1) * magnitude + value_epsilon(s->type) * fabs(sum);
        array_expect(y, 0, sum, terms ? bound : 0);
        s->kernels->dot(y->data, with_init ? init->data : NULL, n, at(x.data, x.origin), x.stride, at(w.data, w.origin),
                        w.stride);
        array_check(y, "y");
        arrays_reset();
    }
}

void check_scatter_row(subject *s)
{
    int64_t lanes = s->kernels->lanes, counts[] = {0, 1, 2, lanes - 1, lanes, lanes + 1, 2 * lanes, 3 * lanes + 2, 100};
    static const int64_t strides[] = {1, 2, 3, 17, -1, -2, -4};
    for (int c = 0; c < 9; c++)
        for (int t = 0; t < 7; t++)
            for (int add = 0; add < 2; add++)
                for (int at_end = 0; at_end < 2; at_end++, s->cases++) {
                    int64_t count = counts[c], stride = strides[t], first = origin(count, stride);
                    describe("count=%lld stride=%lld add=%d", (long long)count, (long long)stride, add);
                    array *src = array_random(s->type, count, at_end);
                    array *dst = (add ? array_random : array_take)(s->type, extent(count, stride), at_end);
                    array_lock(src);
                    array_watch(dst);
                    for (int64_t j = 0; j < count; j++) {
                        double old = add ? array_get(dst, first + j * stride) : 0, value = array_get(src, j);
                        array_expect(dst, first + j * stride, value_round(s->type, add ? old + value : value), 0);
                    }
                    s->kernels->scatter_row(at(dst, first), stride, src->data, count, add);
                    array_check(dst, "dst");
                    arrays_reset();
                }
}

void check_space_rows(subject *s)
{
    for (int i = 0; i < 120; i++, s->cases++) {
        int64_t lanes = s->kernels->lanes, planes = random_integer(1, 3), rows = random_integer(1, 3), count[2];
        for (int k = 0; k < 2; k++)
            count[k] = random_integer(1, i % 3 ? 6 * lanes : 7);
        int64_t row = (count[0] > count[1] ? count[0] : count[1]) + random_integer(0, 5);
        int64_t apart = 2 * rows * row + random_integer(0, 5);
        int64_t half[2] = {(count[0] + 1) / 2, (count[1] + 1) / 2}, from = half[0] + half[1] + random_integer(0, 3);
        int with_fill = i % 2;
        describe("count=%lld, %lld rows=%lld planes=%lld%s", (long long)count[0], (long long)count[1], (long long)rows, (long long)planes,
                 with_fill ? " filled" : "");
        fc_spaced spans[2] = {{0, 0, count[0], rows}, {half[0], rows * row, count[1], rows}};
        array *src = array_random(s->type, planes * from + lanes, i % 4 < 2), *fill = array_random(s->type, planes, i % 4 < 2);
        array *dst = array_take(s->type, (planes - 1) * apart + (2 * rows - 1) * row + count[1], i % 4 < 2);
        array_lock(src);
        array_lock(fill);
        array_watch(dst);
        for (int64_t c = 0; c < planes; c++)
            for (int k = 0; k < 2; k++)
                for (int64_t r = 0; r < rows; r++)
                    for (int64_t j = 0; j < count[k]; j++)
                        array_expect(dst, c * apart + spans[k].dst + r * row + j,
                                     !r && j % 2 == 0 ? array_get(src, c * from + spans[k].src + j / 2)
                                     : with_fill      ? array_get(fill, c)
                                                      : 0,
                                     0);
        s->kernels->space_rows(dst->data, apart, row, spans, 2, src->data, from, planes, with_fill ? fill->data : NULL);
        array_check(dst, "dst");
        arrays_reset();
    }
}

void check_copy_vectors(subject *s)
{
    for (int i = 0; i < 60; i++, s->cases++) {
        int64_t lanes = s->kernels->lanes, count = random_integer(0, 5), wide = random_integer(1, 4);
        int64_t width = wide * lanes, from = width + random_integer(0, 7), to = width + random_integer(0, 7);
        int null = i % 3 == 0;
        describe("%lld times %lld vectors, from %lld to %lld elements apart%s", (long long)count, (long long)wide, (long long)from,
                 (long long)to, null ? ", zeros" : "");
        array *src = array_random(s->type, count ? (count - 1) * from + width : 0, i % 2);
        array *dst = array_take(s->type, count ? (count - 1) * to + width : 0, i % 2);
        array_lock(src);
        array_watch(dst);
        for (int64_t j = 0; j < count; j++)
            for (int64_t l = 0; l < width; l++)
                array_expect(dst, j * to + l, null ? 0 : array_get(src, j * from + l), 0);
        s->kernels->copy_vectors(dst->data, to, null ? NULL : src->data, from, (int)wide, count);
        array_check(dst, "dst");
        arrays_reset();
    }
}

void check_interleave(subject *s)
{
    for (int64_t lanes = s->kernels->lanes, count = 0; count <= 6 * lanes + 1; count++)
        for (int at_end = 0; at_end < 2; at_end++, s->cases++) {
            int64_t half = (count + 1) / 2;
            describe("count=%lld", (long long)count);
            array *even = array_random(s->type, half + lanes / 2, at_end), *odd = array_random(s->type, half + lanes / 2, at_end);
            array *dst = array_take(s->type, count, at_end);
            array_lock(even);
            array_lock(odd);
            array_watch(dst);
            for (int64_t j = 0; j < count; j++)
                array_expect(dst, j, array_get(j % 2 ? odd : even, j / 2), 0);
            s->kernels->interleave(dst->data, even->data, odd->data, count);
            array_check(dst, "dst");
            arrays_reset();
        }
}

static void check_transposes(subject *s, fc_transpose_kernel transpose)
{
    int64_t lanes = s->kernels->lanes, sizes[] = {0, 1, 2, 9, lanes - 1, lanes, lanes + 1, 2 * lanes + 3, 41, 150};
    for (int r = 0; r < 10; r++)
        for (int c = 0; c < 9; c++)
            for (int i = 0; i < 10; i++, s->cases++) { /* without gaps, with some, in whole vectors, to pages, from pages */
                int64_t rows = sizes[r], columns = sizes[c], gap = i / 2 * random_integer(1, 5), page = 4096 / s->kernels->size;
                int64_t src_row = columns + gap, dst_row = rows + gap;
                if (i >= 4) {
                    src_row = i < 8 ? (columns + lanes - 1) / lanes * lanes : page;
                    dst_row = i < 6 || i >= 8 ? (rows + lanes - 1) / lanes * lanes : page;
                }
                describe("%lldx%lld rows %lld and %lld apart", (long long)rows, (long long)columns, (long long)src_row,
                         (long long)dst_row);
                int some = rows && columns;
                array *src = array_random(s->type, some ? (rows - 1) * src_row + columns : 0, i % 2);
                array *dst = array_take(s->type, some ? (columns - 1) * dst_row + rows : 0, i % 2);
                array_lock(src);
                array_watch(dst);
                for (int64_t m = 0; m < rows; m++)
                    for (int64_t j = 0; j < columns; j++)
                        array_expect(dst, j * dst_row + m, array_get(src, m * src_row + j), 0);
                transpose(dst->data, dst_row, src->data, src_row, rows, columns);
                array_check(dst, "dst");
                arrays_reset();
            }
}

void check_transpose(subject *s)
{
    check_transposes(s, s->kernels->transpose);
}

void check_transpose_past(subject *s)
{
    check_transposes(s, s->kernels->transpose_past);
}

void check_transpose_taps(subject *s)
{
    int64_t lanes = s->kernels->lanes, sizes[] = {1, 2, 3, 8, 9, lanes - 1, lanes, lanes + 1, 25, 49}, place[8], offset[49];
    for (int i = 0; i < 400; i++, s->cases++) {
        int64_t taps = sizes[i / 2 % 10], count = random_integer(0, 7), apart = 60;
        describe("%lld pixels of %lld taps", (long long)count, (long long)taps);
        array *src = array_random(s->type, 2 * apart + lanes, i % 2), *dst = array_take(s->type, (count * taps + 1) * lanes, i % 2);
        for (int64_t t = 0; t < taps; t++)
            offset[t] = random_integer(0, apart);
        array_lock(src);
        array_watch(dst);
        for (int64_t k = 0; k < count; k++) {
            place[k] = random_integer(0, apart);
            for (int64_t j = 0; j < taps * lanes; j++)
                array_expect(dst, k * taps * lanes + j, array_get(src, place[k] + offset[j % taps] + j / taps), 0);
        }
        for (int64_t j = 0; j < lanes; j++) /* anything may be written there */
            array_expect(dst, count * taps * lanes + j, 0, INFINITY);
        s->kernels->transpose_taps(dst->data, src->data, place, count, offset, taps);
        array_check(dst, "dst");
        arrays_reset();
    }
}

void check_transpose_rows(subject *s)
{
    int64_t lanes = s->kernels->lanes, sizes[] = {1, 2, 9, lanes - 1, lanes, lanes + 1, 2 * lanes + 3}, place[64];
    for (int r = 0; r < 7; r++)
        for (int c = 0; c < 7; c++)
            for (int i = 0; i < 8; i++, s->cases++) {
                int64_t rows = sizes[r], columns = sizes[c], gap = i / 4 * random_integer(1, 5), src_row = columns + gap;
                int64_t dst_row = (rows + lanes - 1) / lanes * lanes, missing = i / 2 % 2 ? random_integer(0, columns - 1) : -1;
                int backwards = random_integer(0, 1);
                describe("%lldx%lld rows %lld apart, row %lld left out", (long long)rows, (long long)columns, (long long)src_row,
                         (long long)missing);
                array *src = array_random(s->type, (rows - 1) * src_row + columns, i % 2);
                array *dst = array_take(s->type, columns * dst_row, i % 2);
                array_lock(src);
                array_watch(dst);
                for (int64_t j = 0; j < columns; j++) {
                    place[j] = j == missing ? -1 : (columns - 1 - j) * dst_row;
                    for (int64_t m = 0; j != missing && m < dst_row; m++)
                        array_expect(dst, place[j] + m,
                                     m < rows ? array_get(src, (backwards ? rows - 1 - m : m) * src_row + j) : 0, 0);
                }
                s->kernels->transpose_rows(dst->data, place, at(src, backwards ? (rows - 1) * src_row : 0),
                                           backwards ? -src_row : src_row, rows, columns);
                array_check(dst, "dst");
                arrays_reset();
            }
}

void check_sum_row(subject *s)
{
    static const int64_t counts[] = {0, 1, 3, 7, 8, 9, 16, 33, 1000}, strides[] = {1, 2, 0, -1, -3};
    for (int c = 0; c < 9; c++)
        for (int t = 0; t < 5; t++)
            for (int at_end = 0; at_end < 2; at_end++, s->cases++) {
                int64_t count = counts[c], stride = strides[t], first = origin(count, stride);
                describe("count=%lld stride=%lld", (long long)count, (long long)stride);
                array *x = array_random(s->type, extent(count, stride), at_end);
                array *sum = array_random(FLOAT64, 1, at_end);
                double want = array_get(sum, 0), magnitude = fabs(want);
                array_lock(x);
                array_watch(sum);
                for (int64_t j = 0; j < count; j++) {
                    want += array_get(x, first + j * stride);
                    magnitude += fabs(array_get(x, first + j * stride));
                }
                array_expect(sum, 0, want, 2 * value_epsilon(FLOAT64) * (double)(count + 1) * magnitude);
                s->kernels->sum_row((double *)(void *)sum->data, at(x, first), stride, count);
                array_check(sum, "sum");
                arrays_reset();
            }
}
