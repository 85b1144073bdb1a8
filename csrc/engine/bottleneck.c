/* Inverted residuals in one call: a mix of channels, a filter per channel and another mix, all with biases, the first two limited.
 *
 *     u[n, m] = limit(a[m] + sum_c first[c, m] x[n, c])
 *     t[n, m, p] = limit(b[m] + sum_k filter[m, k] u[n, m, p s + k d - offset])
 *     y[n, o, p] = e[o] + sum_m last[m, o] t[n, m, p]
 *
 *     for each image, run of bands of output rows                           a task
 *         for each band
 *             transpose the rows of x that no band before had
 *             for each strip of middle channels:  gemm kernel for their rows of u, limited row by row; planes kernel into t
 *             for each strip of output channels:  gemm kernel, transposed into y
 *
 * Lanes over channels throughout: between the mixes nothing is shuffled, copied or masked, whatever the width of the image and the
 * stride, and u and t stay in the second-level cache.  Rows of u lie in a ring, as many as a band's filter reads; the biases are
 * the last row of a panel of weights, under pixels that end in a one.
 *
 * Where one band holds the image, u is one strip's; and where that gives too few tasks, strips are tasks of two phases.
 *
 * Scratch: per worker x and t of a band, u, panels of weights, a strip of y.
 *
 * Emerald Rapids, one core, us, MobileNetV2's blocks one by one and so, all in cache: 16-24s2@112 1190, 910; 24-24@56 820, 720;
 * 24-32s2@56 490, 400; 64-64@14 204, 203; 96-160s2@14 350, 280; 160-160@7 270, 230.  Within the network, where the intermediate
 * results of most are in no cache, the whole takes 0.8 of the time.
 * Tried: panels of 128 terms (within 1 %); fetching `last` meanwhile, a few lines after each row of the filter (as fast), or each strip's
 * weights while the one before is multiplied, where the third-level cache is far (Granite Rapids, MobileNetV2 6.75, 6.84 ms); the same
 * without the first mix, a pixel of x copied as a vector over channels (32-16@112 420 us, its two convolutions 281).
 */
#include "engine/gemm.h"
#include "engine/planes.h"

#include <string.h>

/* What u and t of a band may take, and t of an image in one band with a strip of u; terms summed while their panel is near; pixels
 * that share weights in place. */
enum { BAND_BYTES = 448 << 10, IMAGE_BYTES = 576 << 10, TERMS = 200, PIXELS_IN_PLACE = 100 };
enum { LINES_MAX = 64, TAPS_MAX = 128, SIZES_MAX = 1 << 30, SERIAL_MULTIPLICATIONS = 400000 };

typedef struct layout {
    const fc_bottleneck *p;
    const fc_kernels *kernels;
    int64_t rows, runs, threads;       /* of a band, at most; runs of bands of an image */
    int64_t width, strips, out_strips; /* channels of a strip, at most; strips of middle channels, of output channels */
    int64_t slots, left, columns;      /* rows of u's ring; columns of zeros before its rows; of its rows */
    int64_t x_row, t_row;              /* elements of a pixel of x, t */
    int64_t taps;
    int in_turn; /* one band: strips of u follow each other in the same memory */
    int64_t x_bytes, u_bytes, t_bytes, first_bytes, last_bytes, y_bytes, weight_bytes, list_bytes, worker_bytes;
} layout;

static int64_t rows_read(const fc_window *w, int64_t rows)
{
    return (rows - 1) * w->stride[1] + (w->kernel[1] - 1) * w->dilation[1] + 1;
}

/* Taps of a row that share no loads: as far apart as outputs are the others. */
static int64_t taps_apart(const fc_window *w)
{
    return w->stride[2] % w->dilation[2] ? w->kernel[2] : fc_min(w->kernel[2], w->stride[2] / w->dilation[2]);
}

/* A strip's vectors, its first channel among `channels`. */
static int64_t strip_at(const fc_kernels *kernels, int64_t channels, int64_t strip, int *nv)
{
    int64_t vectors = fc_ceil_div(channels, kernels->lanes), at = 0;
    *nv = fc_gemm_next_strip(kernels->nv, vectors);
    for (; strip > 0; strip--) {
        at += *nv;
        *nv = fc_gemm_next_strip(kernels->nv, vectors - at);
    }
    return at * kernels->lanes;
}

static int64_t count_strips(const fc_kernels *kernels, int64_t channels)
{
    int64_t count = 0;
    for (int64_t left = fc_ceil_div(channels, kernels->lanes); left > 0; count++)
        left -= fc_gemm_next_strip(kernels->nv, left);
    return count;
}

static int64_t band_bytes(const layout *l, int64_t rows)
{
    const fc_window *w = &l->p->window;
    int64_t u = fc_mul(rows_read(w, rows) + 1, fc_mul(l->columns, l->p->middle));
    return fc_mul(fc_add(u, fc_mul(rows, fc_mul(w->out[2], l->t_row))), l->kernels->size);
}

/* One band where t fits, else as many rows as fit with u. */
static void choose_band(layout *l)
{
    const fc_window *w = &l->p->window;
    l->rows = w->out[1];
    int64_t strip = fc_mul(fc_min(rows_read(w, l->rows), w->in[1]) + 1, fc_mul(l->columns, l->width));
    l->in_turn = fc_mul(fc_add(strip, fc_mul(w->out[1] * w->out[2], l->t_row)), l->kernels->size) <= IMAGE_BYTES;
    for (int64_t bands = 2; !l->in_turn && band_bytes(l, l->rows) > BAND_BYTES && l->rows > 1; bands++)
        l->rows = fc_ceil_div(w->out[1], bands);
    int64_t bands = fc_ceil_div(w->out[1], l->rows);
    l->runs = l->threads > 1 && l->p->batch < 4 * l->threads && bands >= 2 * l->threads ? l->threads : 1;
}

static layout lay_out(const fc_bottleneck *p, int threads)
{
    const fc_kernels *kernels = fc_dispatch(p->real);
    const fc_window *w = &p->window;
    int64_t size = kernels->size, lanes = kernels->lanes;
    layout l = {.p = p, .kernels = kernels, .threads = threads, .taps = fc_taps(w), .left = fc_max(0, w->offset[2])};
    int64_t reach = (w->out[2] - 1) * w->stride[2] + (w->kernel[2] - 1) * w->dilation[2] - w->offset[2] + 1;
    l.columns = l.left + fc_max(w->in[2], reach);
    l.width = kernels->nv * lanes;
    l.strips = count_strips(kernels, p->middle);
    l.out_strips = count_strips(kernels, p->out_channels);
    l.x_row = (p->channels / lanes + 1) * lanes;
    l.t_row = (p->middle / lanes + 1) * lanes;
    choose_band(&l);
    l.slots = fc_min(rows_read(w, l.rows), w->in[1]);
    int64_t shared = l.in_turn ? 1 : l.strips, pixels = l.rows * w->out[2];
    l.x_bytes = fc_bytes(fc_mul(l.slots * w->in[2], l.x_row), size);
    l.u_bytes = fc_bytes(fc_mul(fc_mul(l.slots + 1, l.columns), l.in_turn ? l.width : p->middle), size);
    l.t_bytes = fc_bytes(fc_mul(pixels, l.t_row), size);
    l.first_bytes = shared * fc_bytes((p->channels + 1) * l.width, size);
    l.last_bytes = (l.in_turn ? 1 : l.out_strips) * fc_bytes((p->middle + 1) * l.width, size);
    l.y_bytes = fc_bytes(pixels * l.width, size);
    l.weight_bytes = fc_bytes((l.taps + 1) * l.width, size);
    l.list_bytes = fc_bytes(fc_max(w->in[2], pixels) + fc_max(p->channels, p->middle) + 1, sizeof(int64_t));
    l.worker_bytes = fc_add(fc_add(fc_add(l.x_bytes, l.u_bytes), fc_add(l.t_bytes, l.first_bytes)),
                            fc_add(fc_add(l.last_bytes, l.y_bytes), l.weight_bytes + l.list_bytes));
    return l;
}

typedef struct job {
    layout l;
    const fc_bottleneck_arrays *arrays;
    char *scratch;
    fc_planes_weights weights;
    int64_t from_tap[TAPS_MAX], weight_place[TAPS_MAX];
    int64_t n, from, to; /* the image, and rows of it, where its strips are tasks */
    int64_t chunks; /* of its pixels, for each strip of outputs */
    int bordered[FC_THREADS_MAX]; /* vectors of the strip whose zeros a worker's u has */
} job;

/* A worker and its scratch; x and t may be another's, where strips are tasks. */
typedef struct walk {
    const job *j;
    int64_t n;
    char *x, *t, *u, *first, *last, *y, *weights;
    int64_t *place, *offset;
} walk;

static walk start(const job *j, int worker, int64_t n)
{
    const layout *l = &j->l;
    walk k = {.j = j, .n = n};
    k.x = j->scratch + worker * l->worker_bytes;
    k.t = k.x + l->x_bytes;
    k.u = k.t + l->t_bytes;
    k.first = k.u + l->u_bytes;
    k.last = k.first + l->first_bytes;
    k.y = k.last + l->last_bytes;
    k.weights = k.y + l->y_bytes;
    k.place = (int64_t *)(void *)(k.weights + l->weight_bytes);
    k.offset = k.place + fc_max(l->p->window.in[2], l->rows * l->p->window.out[2]);
    return k;
}

static void set_one(const fc_kernels *kernels, void *at)
{
    if (kernels->size == sizeof(float))
        *(float *)at = 1;
    else
        *(double *)at = 1;
}

/* B: `nv` vectors of columns of a matrix and, behind its rows, of a bias. */
typedef struct panel {
    int nv;
    int64_t k; /* rows, with the bias */
    const char *at;
} panel;

static void pack(const fc_kernels *kernels, char *copy, const void *matrix, const void *bias, int64_t rows, int64_t columns,
                 int64_t count, int nv)
{
    static const double zero = 0;
    int64_t size = kernels->size, width = nv * kernels->lanes;
    if (count == width)
        kernels->copy_vectors(copy, width, matrix, columns, nv, rows);
    else
        for (int64_t i = 0; i < rows; i++)
            kernels->gather_row(fc_at(copy, i * width, size), width, fc_at(matrix, i * columns, size), 1, 0, 1, count, &zero);
    kernels->gather_row(fc_at(copy, rows * width, size), width, bias, 1, 0, 1, count, &zero);
}

/* The strip of a matrix (rows x columns) from column `from` on.  In place where a few tiles share it, as copying takes as long as a
 * tile, unless its rows crowd a set of the cache or several bands share it; else in `copy`, where it is already if not `fresh`. */
static panel take_panel(const walk *s, const void *matrix, const void *bias, int64_t rows, int64_t columns, int64_t from, int nv,
                        int64_t pixels, char *copy, int fresh)
{
    const fc_kernels *kernels = s->j->l.kernels;
    int64_t size = kernels->size, width = nv * kernels->lanes, count = fc_min(width, columns - from), step = width;
    int64_t apart = (int64_t)((intptr_t)bias - (intptr_t)matrix), to_bias = rows * width;
    panel b = {nv, rows + 1, copy};
    int near = s->j->l.in_turn && pixels <= PIXELS_IN_PLACE && columns * size % 4096 >= 256;
    if (near && bias && count == width && apart % size == 0) {
        b.at = fc_at(matrix, from, size);
        step = columns;
        to_bias = apart / size;
    } else if (fresh) {
        pack(kernels, copy, fc_at(matrix, from, size), bias ? fc_at(bias, from, size) : NULL, rows, columns, count, nv);
    }
    for (int64_t i = 0; i < rows; i++)
        s->offset[i] = i * step;
    s->offset[rows] = to_bias;
    return b;
}

/* C[place[i]] = the product of `count` pixels, rows of A, with a panel, tile by tile. */
static void multiply(const walk *s, const panel *b, const char *a, int64_t a_row, int64_t count, char *c)
{
    const fc_kernels *kernels = s->j->l.kernels;
    int64_t size = kernels->size, tiles = fc_ceil_div(count, kernels->mr[b->nv]), terms = fc_gemm_terms(kernels, b->k, TERMS);
    for (int64_t from = 0; from < b->k; from += terms)
        for (int64_t t = 0; t < tiles; t++) {
            int64_t i = count * t / tiles, rows = count * (t + 1) / tiles - i;
            const void *row[FC_MR_MAX];
            for (int64_t m = 0; m < rows; m++)
                row[m] = fc_at(a, (i + m) * a_row + from, size);
            kernels->gemm[b->nv][rows](fc_min(terms, b->k - from), row, NULL, b->at, s->offset + from, c, s->place + i, NULL,
                                       from > 0);
        }
}

static char *strip_of_u(const walk *s, int64_t m)
{
    const layout *l = &s->j->l;
    return l->in_turn ? s->u : fc_at(s->u, m * (l->slots + 1) * l->columns, l->kernels->size);
}

/* Zeros beside the rows of a strip, and in the row that stands for those above and below the image. */
static void clear_borders(const walk *s, char *u, int nv)
{
    const layout *l = &s->j->l;
    int64_t pixel = nv * l->kernels->lanes * l->kernels->size, right = l->left + l->p->window.in[2];
    for (int64_t i = 0; i < l->slots; i++) {
        char *row = u + i * l->columns * pixel;
        memset(row, 0, (size_t)(l->left * pixel));
        memset(row + right * pixel, 0, (size_t)((l->columns - right) * pixel));
    }
    memset(u + l->slots * l->columns * pixel, 0, (size_t)(l->columns * pixel));
}

/* x of rows [first, last): a pixel is its channels and a one. */
static void take_x(const walk *s, int64_t first, int64_t last)
{
    const layout *l = &s->j->l;
    const fc_bottleneck *p = l->p;
    int64_t size = l->kernels->size, in = p->window.in[2], whole = p->x.s[1] == in;
    const char *x = fc_at(s->j->arrays->x, s->n * p->x.n + first * p->x.s[1], size);
    for (int64_t i = 0; i < (whole ? 1 : last - first); i++)
        l->kernels->transpose(fc_at(s->x, i * in * l->x_row, size), l->x_row, fc_at(x, i * p->x.s[1], size), p->x.c, p->channels,
                              whole ? (last - first) * in : in);
    for (int64_t i = 0; i < (last - first) * in; i++)
        set_one(l->kernels, fc_at(s->x, i * l->x_row + p->channels, size));
}

/* Rows [first, last) of a strip of u: mixed and limited. */
static void fill_u(const walk *s, char *u, const panel *b, int64_t first, int64_t last)
{
    const layout *l = &s->j->l;
    const fc_bottleneck *p = l->p;
    int64_t size = l->kernels->size, width = b->nv * l->kernels->lanes, in = p->window.in[2];
    for (int64_t i = 0; i < in; i++)
        s->place[i] = i * width;
    for (int64_t r = first; r < last; r++) {
        char *row = fc_at(u, (r % l->slots * l->columns + l->left) * width, size);
        multiply(s, b, fc_at(s->x, (r - first) * in * l->x_row, size), l->x_row, in, row);
        l->kernels->elementwise.clamp(row, p->bounds.low, p->bounds.high, in * width);
    }
}

/* The taps as the planes kernel takes them, those of a row of u that stand as far apart as outputs do; and their weights. */
typedef struct taps {
    int64_t count, offset[LINES_MAX], run[LINES_MAX];
} taps;

static taps list_taps(const walk *s, int64_t oh, int64_t width)
{
    const layout *l = &s->j->l;
    const fc_window *w = &l->p->window;
    int64_t apart = taps_apart(w);
    taps t = {.count = 0};
    for (int64_t kh = 0; kh < w->kernel[1]; kh++) {
        int64_t ih = oh * w->stride[1] + kh * w->dilation[1] - w->offset[1];
        int64_t slot = ih >= 0 && ih < w->in[1] ? ih % l->slots : l->slots;
        for (int64_t kw = 0; kw < apart; kw++) {
            t.offset[t.count] = (slot * l->columns + kw * w->dilation[2] - w->offset[2] + l->left) * width;
            t.run[t.count++] = fc_ceil_div(w->kernel[2] - kw, apart);
        }
    }
    return t;
}

/* The weights of a strip's vectors, in the order of the taps, and their biases. */
static void take_weights(const walk *s, int64_t m, int nv)
{
    const job *j = s->j;
    const layout *l = &j->l;
    const fc_bottleneck_arrays *arrays = j->arrays;
    int64_t size = l->kernels->size, lanes = l->kernels->lanes;
    char *to = s->weights;
    for (int64_t end = m + nv * lanes; m < end; m += lanes) {
        fc_planes_weights_take(&j->weights, l->kernels, j->from_tap, j->weight_place, fc_at(arrays->filter, m * l->taps, size),
                               l->taps, lanes, to);
        to = fc_at(to, l->taps * lanes, size);
        l->kernels->copy_vectors(to, 0, arrays->filter_bias ? fc_at(arrays->filter_bias, m, size) : NULL, 0, 1, 1);
        to = fc_at(to, lanes, size);
    }
}

/* Output rows [first, last) of a strip of t, a band that begins with row `first`. */
static void filter(const walk *s, const char *u, int64_t m, int nv, int64_t first, int64_t last)
{
    const layout *l = &s->j->l;
    const fc_window *w = &l->p->window;
    int64_t size = l->kernels->size, lanes = l->kernels->lanes, width = nv * lanes;
    const double bounds[2] = {l->p->bounds.low, l->p->bounds.high};
    take_weights(s, m, nv);
    for (int64_t oh = first; oh < last; oh++) {
        taps t = list_taps(s, oh, width);
        char *y = fc_at(s->t, (oh - first) * w->out[2] * l->t_row + m, size);
        for (int64_t g = 0; g < nv; g++) {
            const char *weights = fc_at(s->weights, g * (l->taps + 1) * lanes, size);
            l->kernels->planes_stencil(t.count, t.offset, t.run, weights, fc_at(weights, l->taps * lanes, size),
                                       fc_at(u, g * lanes, size), w->stride[2] * width, fc_at(y, g * lanes, size), l->t_row,
                                       w->out[2], bounds);
        }
    }
}

/* A strip of middle channels for output rows [first, last), and the rows [from, to) of u that it lacks. */
static void run_strip(const walk *s, int64_t strip, int64_t from, int64_t to, int64_t first, int64_t last, int fresh, int borders)
{
    const layout *l = &s->j->l;
    const fc_bottleneck *p = l->p;
    int nv;
    int64_t m = strip_at(l->kernels, p->middle, strip, &nv);
    char *u = strip_of_u(s, m), *copy = l->in_turn ? s->first : s->first + strip * (l->first_bytes / l->strips);
    if (borders)
        clear_borders(s, u, nv);
    panel b = take_panel(s, s->j->arrays->first, s->j->arrays->first_bias, p->channels, p->middle, m, nv,
                         (to - from) * p->window.in[2], copy, fresh);
    fill_u(s, u, &b, from, to);
    filter(s, u, m, nv, first, last);
}

/* Ends pixels [i, end) of t with a one. */
static void end_pixels(const walk *s, int64_t i, int64_t end)
{
    const layout *l = &s->j->l;
    int64_t size = l->kernels->size;
    for (; i < end; i++)
        set_one(l->kernels, fc_at(s->t, i * l->t_row + l->p->middle, size));
}

/* Pixels [i, end) of the band that begins with output row `first`, a strip of output channels. */
static void join(const walk *s, int64_t strip, int64_t first, int64_t i, int64_t end, int fresh)
{
    const layout *l = &s->j->l;
    const fc_bottleneck *p = l->p;
    const fc_kernels *kernels = l->kernels;
    int nv;
    int64_t size = kernels->size, o = strip_at(kernels, p->out_channels, strip, &nv), width = nv * kernels->lanes;
    char *copy = l->in_turn ? s->last : s->last + strip * (l->last_bytes / l->out_strips);
    panel b = take_panel(s, s->j->arrays->last, s->j->arrays->last_bias, p->middle, p->out_channels, o, nv, end - i, copy, fresh);
    for (int64_t q = 0; q < end - i; q++)
        s->place[q] = q * width;
    multiply(s, &b, fc_at(s->t, i * l->t_row, size), l->t_row, end - i, s->y);
    char *y = fc_at(s->j->arrays->y, s->n * p->y.n + o * p->y.c + first * p->y.s[1] + i, size);
    kernels->transpose(y, p->y.c, s->y, width, end - i, fc_min(width, p->out_channels - o));
}

/* Rows of u that output rows [first, last) read. */
static void find_rows(const layout *l, int64_t first, int64_t last, int64_t *from, int64_t *to)
{
    const fc_window *w = &l->p->window;
    int64_t top = first * w->stride[1] - w->offset[1];
    *from = fc_max(0, fc_min(w->in[1], top));
    *to = fc_max(*from, fc_min(w->in[1], top + rows_read(w, last - first)));
}

/* Output rows [first, end) of an image, a band after the other. */
static void run_rows(const walk *s, int64_t first, int64_t end)
{
    const layout *l = &s->j->l;
    int64_t from, to = 0, bands = fc_ceil_div(end - first, l->rows), begin = first;
    for (int64_t band = 0, last; band < bands; band++, first = last) {
        int64_t done = to, fresh = l->in_turn || band == 0;
        last = begin + (end - begin) * (band + 1) / bands;
        find_rows(l, first, last, &from, &to);
        from = fc_min(fc_max(from, done), to); /* what the band before left is in the ring */
        int64_t pixels = (last - first) * l->p->window.out[2];
        take_x(s, from, to);
        for (int64_t strip = 0; strip < l->strips; strip++)
            run_strip(s, strip, from, to, first, last, (int)fresh, (int)fresh);
        end_pixels(s, 0, pixels);
        for (int64_t strip = 0; strip < l->out_strips; strip++)
            join(s, strip, first, 0, pixels, (int)fresh);
    }
}

static void run_task(void *context, int64_t task, int worker)
{
    const job *j = context;
    int64_t runs = j->l.runs, run = task % runs, rows = j->l.p->window.out[1];
    walk s = start(j, worker, task / runs);
    run_rows(&s, rows * run / runs, rows * (run + 1) / runs);
}

/* ---- strips as tasks --------------------------------------------------------------------------- */

static void strip_task(void *context, int64_t task, int worker)
{
    job *j = context;
    walk s = start(j, worker, j->n), shared = start(j, 0, j->n);
    int nv;
    strip_at(j->l.kernels, j->l.p->middle, task, &nv);
    s.x = shared.x;
    s.t = shared.t;
    run_strip(&s, task, j->from, j->to, 0, j->l.p->window.out[1], 1, j->bordered[worker] != nv);
    j->bordered[worker] = nv;
}

static void join_task(void *context, int64_t task, int worker)
{
    job *j = context;
    walk s = start(j, worker, j->n);
    int64_t strip = task / j->chunks, chunk = task % j->chunks, pixels = j->l.p->window.out[1] * j->l.p->window.out[2];
    s.t = start(j, 0, j->n).t;
    join(&s, strip, 0, pixels * chunk / j->chunks, pixels * (chunk + 1) / j->chunks, 1);
}

static void run_image(job *j, int64_t n)
{
    const layout *l = &j->l;
    int64_t pixels = l->p->window.out[1] * l->p->window.out[2], tasks = 2 * l->threads;
    walk s = start(j, 0, n);
    j->n = n;
    j->chunks = fc_max(1, fc_min(fc_ceil_div(tasks, l->out_strips), pixels / (2 * FC_MR_MAX)));
    memset(j->bordered, 0, sizeof j->bordered);
    find_rows(l, 0, l->p->window.out[1], &j->from, &j->to);
    take_x(&s, j->from, j->to);
    fc_parallel((int)l->threads, l->strips, strip_task, j);
    end_pixels(&s, 0, pixels);
    fc_parallel((int)l->threads, l->out_strips * j->chunks, join_task, j);
}

/* ---- plan and execute ---------------------------------------------------------------------------- */

/* The taps in the order in which list_taps has them. */
static void order_taps(job *j)
{
    const fc_window *w = &j->l.p->window;
    int64_t apart = taps_apart(w), count = 0;
    for (int64_t kh = 0; kh < w->kernel[1]; kh++)
        for (int64_t kw = 0; kw < apart; kw++)
            for (int64_t k = kw; k < w->kernel[2]; k += apart)
                j->from_tap[count++] = kh * w->kernel[2] + k;
    j->weights = fc_planes_weights_plan(count, j->from_tap, j->l.kernels->lanes, j->weight_place);
}

/* No product of two sizes overflows. */
static int is_small(const fc_bottleneck *p)
{
    const fc_window *w = &p->window;
    int64_t most = fc_max(fc_max(p->batch, p->middle), fc_max(p->channels, p->out_channels));
    for (int i = 1; i < FC_AXES; i++)
        most = fc_max(fc_max(most, fc_max(w->in[i], w->offset[i])),
                      fc_max(fc_mul(w->out[i], w->stride[i]), fc_mul(w->kernel[i], w->dilation[i])));
    return most < SIZES_MAX;
}

static int serves(const fc_bottleneck *p)
{
    const fc_window *w = &p->window;
    int64_t lanes = fc_dispatch(p->real)->lanes;
    return is_small(p) && p->batch > 0 && p->channels > 0 && p->out_channels > 0 && p->middle > 0 && p->middle % lanes == 0 &&
           fc_taps(w) > 0 && fc_taps(w) <= TAPS_MAX && fc_mul(w->kernel[1], taps_apart(w)) <= LINES_MAX &&
           fc_mul(w->out[1], w->out[2]) > 0 &&
           p->x.s[2] == 1 && p->y.s[2] == 1 && p->y.s[1] == w->out[2] &&
           p->bounds.low <= 0 && p->bounds.high >= 0;
}

fc_status fc_bottleneck_run(const fc_bottleneck *p, const fc_bottleneck_arrays *arrays)
{
    if (!serves(p))
        return FC_REFUSED;
    int64_t in = fc_mul(p->window.in[1], p->window.in[2]), out = fc_outputs(&p->window);
    int64_t each = fc_add(fc_mul(p->channels, in), fc_mul(fc_add(p->out_channels, fc_taps(&p->window)), out));
    int threads = fc_mul(fc_mul(p->batch, p->middle), each) < SERIAL_MULTIPLICATIONS ? 1 : fc_threads_get();
    job j = {.l = lay_out(p, threads), .arrays = arrays};
    order_taps(&j);
    int64_t bytes = fc_mul(threads, j.l.worker_bytes);
    if (bytes > fc_scratch_max(threads))
        return FC_REFUSED;
    j.scratch = fc_arena_take(bytes);
    if (!j.scratch)
        return FC_NO_MEMORY;
    if (threads > 1 && j.l.in_turn && p->batch % threads)
        for (int64_t n = 0; n < p->batch; n++)
            run_image(&j, n);
    else
        fc_parallel(threads, p->batch * j.l.runs, run_task, &j);
    fc_arena_give();
    return FC_OK;
}
