/* depthwise and depthwise_weight: every [stride][height] of a table, rows of input anywhere in memory; split_rows; both flat ones. */
#include <math.h>

#include "check_kernels.h"

enum { TAPS_MAX = 7, ROWS_MAX = 19, PLANES_MAX = 2, STEP_MAX = 2, CASES = 40 };
enum { TABLE_ROWS = 2 * ROWS_MAX + FC_DEPTHWISE_HEIGHT_MAX, TABLE_MAX = PLANES_MAX * TABLE_ROWS * STEP_MAX };

typedef struct window {
    fc_depthwise_window f;
    int stride, height, split; /* split: columns are a phase's */
    int64_t rows, whole, shift[TAPS_MAX]; /* whole: outputs of a row in whole vectors */
    array *x;
    int64_t first[TABLE_MAX]; /* of each row: where its element 0 stands in x */
    const void *row[TABLE_MAX];
} window;

static int64_t table_index(const window *w, int64_t kd, int64_t i)
{
    return kd * w->f.plane + i * w->f.step;
}

/* x(kd, i, j) of the contract. */
static double element_at(const window *w, int64_t kd, int64_t i, int64_t j)
{
    return (j >= 0 && j < w->f.in) || w->split ? array_get(w->x, w->first[table_index(w, kd, i)] + j) : 0;
}

/* Rows stand in any order, some twice; around their `in` elements there is room for whole vectors, full of NaN, and the table
 * has no pointer where no row is read.  Split rows are padded: all that an output meets counts, whatever `in`. */
static void window_take(window *w, subject *s, int stride, int height, int split, int at_end)
{
    int64_t lanes = s->kernels->lanes, table_rows, low, high, at = random_integer(-4, 3);
    int across = split ? 1 : stride;
    *w = (window){.stride = stride, .height = height, .split = split, .rows = random_integer(0, ROWS_MAX)};
    w->f.taps = random_integer(0, 2) ? 3 : random_integer(1, TAPS_MAX);
    w->f.planes = random_integer(0, 2) ? 1 : PLANES_MAX;
    w->f.step = random_integer(0, 2) ? 1 : STEP_MAX;
    w->f.out = random_integer(1, 5 * lanes);
    w->f.in = random_integer(0, 3) ? w->f.out * stride + random_integer(-3, 3) : random_integer(1, 3 * lanes);
    w->f.in = w->f.in < 1 ? 1 : w->f.in;
    int64_t gap = random_integer(0, 2) ? 1 : random_integer(1, 4);
    for (int t = 0; t < w->f.taps; t++, at += gap)
        w->shift[t] = at;
    w->f.shift = w->shift;
    table_rows = (w->rows ? w->rows - 1 : 0) * stride + height;
    w->f.plane = table_rows * w->f.step + random_integer(0, 2);
    w->whole = w->f.out < lanes ? lanes : w->f.out;
    low = w->shift[0] < 0 ? w->shift[0] : 0;
    high = w->whole * across + w->shift[w->f.taps - 1];
    high = high < 1 ? 1 : high;
    describe("height=%d stride=%d taps=%lld shift=%lld+%lld planes=%lld step=%lld rows=%lld in=%lld out=%lld at the %s of a page",
             height, stride, (long long)w->f.taps, (long long)w->shift[0], (long long)gap, (long long)w->f.planes,
             (long long)w->f.step, (long long)w->rows, (long long)w->f.in, (long long)w->f.out, at_end ? "end" : "beginning");
    int64_t length = high - low, count = w->rows ? w->f.planes * table_rows : 0;
    w->x = array_take(s->type, count * length, at_end);
    for (int64_t k = 0; k < count; k++) {
        int64_t place = (k * 7 + 3) % count, index = table_index(w, k / table_rows, k % table_rows);
        place = random_integer(0, 9) ? place : 0;
        w->first[index] = place * length - low;
        w->row[index] = w->x->data + w->first[index] * element_size(s->type);
        for (int64_t j = split ? low : 0; j < (split ? w->f.out + w->shift[w->f.taps - 1] : w->f.in) && j < high; j++)
            array_put(w->x, w->first[index] + j, random_uniform());
    }
    for (int t = 0; split && t < w->f.taps; t += 2) { /* in any order */
        int64_t other = w->shift[w->f.taps - 1 - t];
        w->shift[w->f.taps - 1 - t] = w->shift[t];
        w->shift[t] = other;
    }
    array_lock(w->x);
}

static void forward_case(subject *s, int stride, int height, int at_end)
{
    window w;
    int across = stride == 2 && height >= FC_DEPTHWISE_SPLIT ? 1 : stride;
    window_take(&w, s, stride, height, across < stride, at_end);
    int64_t out = w.f.out, y_row = out + random_integer(0, 4), lanes = s->kernels->lanes, with_init = random_integer(0, 1);
    array *weights = array_random(s->type, w.f.planes * height * w.f.taps, at_end), *init = array_random(s->type, 1, at_end);
    array *y = array_take(s->type, w.rows ? (w.rows - 1) * y_row + w.whole : 0, at_end);
    array_lock(weights);
    array_lock(init);
    array_watch(y);
    for (int64_t i = 0; out < lanes && i < y->count; i++)
        array_expect(y, i, 0, INFINITY);
    for (int64_t r = 0; r < w.rows; r++)
        for (int64_t q = 0; q < out; q++) {
            double sum = with_init ? array_get(init, 0) : 0, magnitude = fabs(sum);
            int64_t terms = w.f.planes * height * w.f.taps;
            for (int64_t t = 0; t < terms; t++) {
                int64_t kd = t / w.f.taps / height, kh = t / w.f.taps % height, kw = t % w.f.taps;
                double term = array_get(weights, t) * element_at(&w, kd, r * stride + kh, q * across + w.shift[kw]);
                sum += term;
                magnitude += fabs(term);
            }
            array_expect(y, r * y_row + q, sum, 2 * value_epsilon(s->type) * (double)(terms + 1) * magnitude + 0x1p-1070);
        }
    s->kernels->depthwise[stride - 1][height](&w.f, weights->data, with_init ? init->data : NULL, w.row, y->data, y_row, w.rows);
    array_check(y, "y");
    arrays_reset();
    s->cases++;
}

static void weight_case(subject *s, int stride, int height, int at_end)
{
    window w;
    window_take(&w, s, stride, height, 0, at_end);
    int64_t terms = w.f.planes * height * w.f.taps;
    const void *gradient[ROWS_MAX * STEP_MAX] = {NULL};
    array *g = array_take(s->type, w.rows * w.whole, at_end), *sum = array_random(FLOAT64, terms, at_end);
    for (int64_t r = 0; r < w.rows; r++) {
        gradient[r * w.f.step] = g->data + r * w.whole * element_size(s->type);
        for (int64_t q = 0; q < w.f.out; q++)
            array_put(g, r * w.whole + q, random_uniform());
    }
    array_lock(g);
    array_watch(sum);
    for (int64_t t = 0; t < terms; t++) {
        int64_t kd = t / w.f.taps / height, kh = t / w.f.taps % height, kw = t % w.f.taps;
        double total = array_get(sum, t), magnitude = fabs(total);
        for (int64_t r = 0; r < w.rows; r++)
            for (int64_t q = 0; q < w.f.out; q++) {
                double x = element_at(&w, kd, r * stride + kh, q * stride + w.shift[kw]);
                total += array_get(g, r * w.whole + q) * x;
                magnitude += fabs(array_get(g, r * w.whole + q) * x);
            }
        array_expect(sum, t, total, 2 * value_epsilon(s->type) * (double)(w.rows * w.f.out + 2) * magnitude);
    }
    s->kernels->depthwise_weight[stride - 1][height](&w.f, (double *)(void *)sum->data, w.row, gradient, w.rows);
    array_check(sum, "sum");
    arrays_reset();
    s->cases++;
}

static void repeat(subject *s, void (*one)(subject *, int stride, int height, int at_end))
{
    for (int stride = 1; stride <= 2; stride++)
        for (int height = 1; height <= FC_DEPTHWISE_HEIGHT_MAX; height++)
            for (int i = 0; i < CASES; i++)
                one(s, stride, height, i % 2);
}

void check_depthwise(subject *s)
{
    repeat(s, forward_case);
}

void check_depthwise_weight(subject *s)
{
    repeat(s, weight_case);
}

void check_split_rows(subject *s)
{
    int64_t lanes = s->kernels->lanes;
    for (int64_t in = 0; in <= 7 * lanes; in++)
        for (int k = 0; k < 4; k++, s->cases++) {
            int64_t stride = k < 2 ? 1 : random_integer(1, 3), rows = random_integer(0, 3);
            int64_t x_row = in * stride + random_integer(0, 3), least = (in + 1) / 2;
            int64_t pitch = (least + lanes - 1) / lanes * lanes + random_integer(0, 2) * lanes;
            describe("in=%lld stride=%lld rows=%lld x_row=%lld pitch=%lld", (long long)in, (long long)stride, (long long)rows,
                     (long long)x_row, (long long)pitch);
            array *x = array_random(s->type, rows && in ? (rows - 1) * x_row + (in - 1) * stride + 1 : 0, k % 2);
            array *dst = array_take(s->type, rows * 2 * pitch, k % 2);
            array_lock(x);
            array_watch(dst);
            for (int64_t i = 0; i < rows * 2 * pitch; i++) {
                int64_t r = i / (2 * pitch), j = i % pitch * 2 + i / pitch % 2;
                array_expect(dst, i, j < in ? array_get(x, r * x_row + j * stride) : 0, 0);
            }
            s->kernels->split_rows(dst->data, pitch, x->data, x_row, stride, in, rows);
            array_check(dst, "dst");
            arrays_reset();
        }
}

typedef struct plane {
    int64_t height, width, row, rows, count, spoilt; /* count: of outputs; spoilt: the element of x that is infinite, or -1 */
    array *x;
} plane;

static plane plane_take(subject *s, int at_end)
{
    int64_t lanes = s->kernels->lanes;
    plane p = {.height = random_integer(1, 9), .width = random_integer(1, (random_integer(0, 3) ? 10 : 2) * lanes), .spoilt = -1};
    p.rows = random_integer(1, 9);
    p.row = random_integer(-3, p.height);
    p.count = p.rows * p.width;
    p.x = array_random(s->type, p.height * p.width, at_end);
    if (random_integer(0, 1)) { /* what stands beside the plane is not multiplied by zero */
        p.spoilt = random_integer(0, p.height - 1) * p.width + random_integer(0, 1) * (p.width - 1);
        array_put(p.x, p.spoilt, INFINITY);
    }
    array_lock(p.x);
    describe("height=%lld width=%lld row=%lld rows=%lld at the %s of a page", (long long)p.height, (long long)p.width,
             (long long)p.row, (long long)p.rows, at_end ? "end" : "beginning");
    return p;
}

/* The element of x behind tap t of output j, or -1 where that lies beside the plane. */
static int64_t plane_element(const plane *p, int64_t j, int64_t t)
{
    int64_t row = p->row + j / p->width + t / 3, column = j % p->width + t % 3 - 1;
    return row < 0 || row >= p->height || column < 0 || column >= p->width ? -1 : row * p->width + column;
}

static void flat_case(subject *s, int at_end)
{
    plane p = plane_take(s, at_end);
    int64_t w_step = CHOOSE(1, -1, 2), w_first = w_step < 0 ? 8 : 0;
    array *w = array_random(s->type, 8 * (w_step < 0 ? 1 : w_step) + 1, at_end), *init = array_random(s->type, 1, at_end);
    array *y = array_take(s->type, p.count, at_end);
    int with_init = (int)random_integer(0, 1);
    array_lock(w);
    array_lock(init);
    array_watch(y);
    for (int64_t j = 0; j < p.count; j++) {
        double sum = with_init ? array_get(init, 0) : 0, magnitude = fabs(sum), touched = 0;
        for (int64_t t = 0; t < 9; t++) {
            int64_t at = plane_element(&p, j, t);
            touched += at >= 0 && at == p.spoilt;
            double term = at < 0 || at == p.spoilt ? 0 : array_get(w, w_first + t * w_step) * array_get(p.x, at);
            sum += term;
            magnitude += fabs(term);
        }
        array_expect(y, j, sum, touched ? INFINITY : 20 * value_epsilon(s->type) * magnitude);
    }
    s->kernels->depthwise_flat(w->data + w_first * element_size(s->type), w_step, with_init ? init->data : NULL, p.x->data,
                               p.height, p.width, p.row, y->data, p.rows);
    array_check(y, "y");
    arrays_reset();
    s->cases++;
}

static void flat_weight_case(subject *s, int at_end)
{
    plane p = plane_take(s, at_end);
    array *g = array_random(s->type, p.count, at_end), *sum = array_random(FLOAT64, 9, at_end);
    array_lock(g);
    array_watch(sum);
    for (int64_t t = 0; t < 9; t++) {
        double total = array_get(sum, t), magnitude = fabs(total), touched = 0;
        for (int64_t j = 0; j < p.count; j++) {
            int64_t at = plane_element(&p, j, t);
            touched += at >= 0 && at == p.spoilt;
            double term = at < 0 || at == p.spoilt ? 0 : array_get(g, j) * array_get(p.x, at);
            total += term;
            magnitude += fabs(term);
        }
        array_expect(sum, t, total,
                     touched ? INFINITY : 2 * value_epsilon(s->type) * (double)(p.count + 2) * magnitude);
    }
    s->kernels->depthwise_flat_weight((double *)(void *)sum->data, p.x->data, p.height, p.width, p.row, g->data, p.rows);
    array_check(sum, "sum");
    arrays_reset();
    s->cases++;
}

void check_depthwise_flat(subject *s)
{
    for (int i = 0; i < 20 * CASES; i++)
        flat_case(s, i % 2);
}

void check_depthwise_flat_weight(subject *s)
{
    for (int i = 0; i < 20 * CASES; i++)
        flat_weight_case(s, i % 2);
}

/* A table of rows as wide as the contract says; what stands beyond y's columns is not a number. */
static void weave_case(subject *s, int padding, int side, int at_end)
{
    enum { ROWS = 9 };
    int64_t lanes = s->kernels->lanes, above = (side - 1 - padding) / 2, out = random_integer(1, (random_integer(0, 2) ? 6 : 2) * lanes);
    int64_t rows = random_integer(1, 2 * ROWS), lines = (rows + 1) / 2 + above + padding, half = (out + 1) / 2;
    fc_weave_window f = {random_integer(-1, 1), random_integer(1, half + 2), out};
    int64_t left = f.shift < above ? above - f.shift : 0, reach = f.shift + padding + (half < lanes ? lanes : half);
    int64_t pitch = left + (reach > f.in ? reach : f.in), x_row = out + CHOOSE(0, 0, 3);
    array *w = array_random(s->type, side * side, at_end), *init = array_random(s->type, 1, at_end);
    array *y = array_take(s->type, lines * pitch, at_end), *x = array_take(s->type, (rows - 1) * x_row + out, at_end);
    const void *row[ROWS + 4];
    int with_init = (int)random_integer(0, 1);
    describe("side=%d padding=%d shift=%lld in=%lld out=%lld rows=%lld x_row=%lld at the %s of a page", side, padding,
             (long long)f.shift, (long long)f.in, (long long)out, (long long)rows, (long long)x_row, at_end ? "end" : "beginning");
    for (int64_t i = 0; i < lines; i++) {
        row[i] = y->data + (i * pitch + left) * element_size(s->type);
        for (int64_t j = 0; j < f.in; j++)
            array_put(y, i * pitch + left + j, random_uniform());
    }
    array_lock(w);
    array_lock(init);
    array_lock(y);
    array_watch(x);
    for (int64_t r = 0; r < rows; r++)
        for (int64_t q = 0; q < out; q++) {
            double sum = with_init ? array_get(init, 0) : 0, magnitude = fabs(sum);
            for (int64_t kh = (r + padding) % 2; kh < side; kh += 2)
                for (int64_t kw = (q + padding) % 2; kw < side; kw += 2) {
                    int64_t i = (r + padding - kh) / 2 + above, j = (q + padding - kw) / 2 + f.shift;
                    double term = j < 0 || j >= f.in ? 0 : array_get(w, kh * side + kw) * array_get(y, i * pitch + left + j);
                    sum += term;
                    magnitude += fabs(term);
                }
            array_expect(x, r * x_row + q, sum, 20 * value_epsilon(s->type) * magnitude);
        }
    s->kernels->depthwise_weave[padding][side - FC_WEAVE_SIDE_MIN](&f, w->data, with_init ? init->data : NULL, row, x->data,
                                                                   x_row, rows);
    array_check(x, "x");
    arrays_reset();
    s->cases++;
}

void check_depthwise_weave(subject *s)
{
    for (int side = FC_WEAVE_SIDE_MIN; side <= FC_WEAVE_SIDE_MAX; side++)
        for (int padding = 0; padding < 2; padding++)
            for (int i = 0; i < CASES; i++)
                weave_case(s, padding, side, i % 2);
}
