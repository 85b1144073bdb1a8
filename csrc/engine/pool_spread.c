/* The gradient of a mean over regular windows that overlap little: each row of x is written once.
 *
 *     dx[i] = sum of dy[o] / divisor[o] over the windows o that meet i
 *
 *     for some planes (n, c)                                                       a task
 *         for each block of columns and band of rows of x:  list the rows of dy that each row meets
 *             for each position id in depth, each plane:
 *                 divide the rows of dy that the band meets, with zeros around them, and add their planes
 *                 for each row of x: add the rows that it meets, spread the sum along w, store
 *
 * Planes and rows are added before they are spread, as a spread costs a permutation a term.  Vectors are whole and reach beyond
 * narrow rows, which the next row overwrites; the last rows of a plane go through a tile.  Tried before and 2.5 times slower: each
 * row of dy added to the rows of x, which were read and written once per overlap, with three kernels called a row.
 *
 * Scratch, per worker: lists, divisors, a tile of one row, the quotients.
 */
#include "engine/pool.h"

#include <string.h>

/* Windows over one position, along w and along the other axes. */
enum { TERMS_MAX = 8, LINES_MAX = 16 };
enum { COLUMNS_MAX = 2048, ROWS_MAX = 64, COUNT_MAX = COLUMNS_MAX + TERMS_MAX + FC_LANES_MAX };
enum { QUOTIENT_BYTES = 32 << 10 };

/* A worker's scratch, before its quotients; doubles stand for reals of either size. */
typedef struct worker {
    double tile[COUNT_MAX], column_divisor[COUNT_MAX];
    double row_count[ROWS_MAX + LINES_MAX];              /* what means of the band's output rows count */
    double row_divisor[LINES_MAX][ROWS_MAX + LINES_MAX]; /* and of its output planes */
    int64_t first[ROWS_MAX], lines[ROWS_MAX];            /* of each row of x: the outputs' rows, from the band's first on */
} worker;

typedef struct job {
    fc_pool p;
    const fc_kernels *kernels;
    char *x, *scratch;
    const char *y;
    int64_t rows, columns; /* of x: a band, a block */
    int64_t pitch;         /* of the quotients */
    int64_t worker_bytes, planes_per_task;
    int even;
} job;

/* Rows [ih, ih + rows) and columns [iw, iw + columns) of plane id of x, and the outputs that meet them. */
typedef struct band {
    int64_t id, ih, iw, rows, columns;
    int64_t od, oh, ow, planes, lines, count;
    int64_t skip; /* the last output that may meet the first column, from ow on */
    int64_t over; /* how far a row's last vector reaches beyond it */
} band;

static int64_t terms(const fc_window *w, int axis)
{
    return fc_ceil_div(w->kernel[axis], w->stride[axis]);
}

int fc_pool_spreads(const fc_pool *p)
{
    const fc_window *w = &p->window;
    return !p->adaptive && w->stride[2] <= fc_dispatch(p->real)->lanes && terms(w, 2) <= TERMS_MAX &&
           fc_mul(terms(w, 0), terms(w, 1)) <= LINES_MAX;
}

static void list_columns(const job *j, const band *b, worker *s)
{
    for (int64_t i = 0; i < fc_max(b->count, j->kernels->lanes) && !j->even; i++) {
        double count = (double)fc_pool_stop(&j->p, 2, fc_min(b->ow + i, j->p.window.out[2] - 1)).count;
        if (j->kernels->size == 4)
            ((float *)s->column_divisor)[i] = (float)count;
        else
            s->column_divisor[i] = count;
    }
}

static void list_rows(const job *j, band *b, worker *s)
{
    const fc_pool *p = &j->p;
    fc_pool_meet(p, 1, b->ih, b->ih + b->rows, &b->oh, &b->lines);
    for (int64_t r = 0; r < b->rows; r++) {
        fc_pool_meet(p, 1, b->ih + r, b->ih + r + 1, &s->first[r], &s->lines[r]);
        s->first[r] -= b->oh;
    }
    for (int64_t r = 0; r < b->lines; r++)
        s->row_count[r] = (double)fc_pool_stop(p, 1, b->oh + r).count * (j->even ? (double)fc_pool_stop(p, 2, 0).count : 1);
}

static void list_planes(const job *j, band *b, worker *s)
{
    const fc_pool *p = &j->p;
    fc_pool_meet(p, 0, b->id, b->id + 1, &b->od, &b->planes);
    for (int64_t d = 0; d < b->planes; d++) {
        double depth = (double)fc_pool_stop(p, 0, b->od + d).count;
        for (int64_t r = 0; r < b->lines; r++)
            s->row_divisor[d][r] = fc_pool_divisor(p, depth * s->row_count[r]);
    }
}

/* The band's rows of output plane b->od + d of the channel at y. */
static void divide_rows(const job *j, const band *b, worker *s, const char *y, int64_t d, char *quotient)
{
    static const double zero = 0;
    const fc_pool *p = &j->p;
    const void *columns = j->even ? NULL : s->column_divisor;
    int64_t size = j->kernels->size, row = p->y.s[1], lanes = j->kernels->lanes, direct = p->y.s[2] == 1 ? b->lines : 0;
    y = fc_at(y, (b->od + d) * p->y.s[0] + b->oh * row + b->ow * p->y.s[2], size);
    if (b->count < lanes) /* whole vectors must not leave y */
        while (direct && (p->window.out[1] - b->oh - direct) * row + p->window.out[2] - b->ow < lanes)
            direct--;
    j->kernels->pool.rows_divide(quotient, j->pitch, s->row_divisor[d], columns, y, row, direct, b->count);
    for (int64_t r = direct; r < b->lines; r++) {
        char *dst = fc_at(quotient, r * j->pitch, size);
        j->kernels->gather_row(s->tile, b->count, fc_at(y, r * row, size), p->y.s[2], 0, 1, b->count, &zero);
        j->kernels->pool.rows_divide(dst, j->pitch, &s->row_divisor[d][r], columns, s->tile, 0, 1, b->count);
    }
}

/* The band of one channel. */
static void run_band(const job *j, const band *b, worker *s, const char *y, char *x)
{
    const fc_pool *p = &j->p;
    const fc_window *w = &p->window;
    int64_t size = j->kernels->size, row = w->in[1] == 1 ? w->in[2] : p->x.s[1];
    int64_t at = b->id * p->x.s[0] + b->ih * row + b->iw * p->x.s[2];
    char *quotient = fc_at(s + 1, TERMS_MAX + FC_LANES_MAX, size), *src = fc_at(quotient, b->skip, size);
    fc_spread_window f = {.row = j->pitch, .stride = w->stride[2], .kernel = w->kernel[2],
                        .phase = (b->iw + w->offset[2]) % w->stride[2]};
    int64_t elements = b->lines * j->pitch, offset[LINES_MAX];
    for (int64_t d = 0; d < b->planes; d++) {
        offset[d] = d * elements;
        divide_rows(j, b, s, y, d, fc_at(quotient, offset[d], size));
    }
    if (b->planes != 1)
        j->kernels->pool.mean(b->planes, offset, NULL, quotient, 0, quotient, 0, 1, elements);
    int64_t in_place = p->x.s[2] == 1 ? b->rows : 0;
    if (in_place && b->iw + b->columns + b->over > w->in[2]) /* the overlap must be written again later */
        in_place = b->columns < w->in[2] || row != w->in[2]
                       ? 0 : fc_max(0, fc_min(b->rows, w->in[1] - fc_ceil_div(b->over, row) - b->ih));
    j->kernels->pool.rows_spread(&f, s->first, s->lines, src, fc_at(x, at, size), row, in_place, b->columns);
    for (int64_t r = in_place; r < b->rows; r++) {
        j->kernels->pool.rows_spread(&f, s->first + r, s->lines + r, src, s->tile, 0, 1, b->columns);
        j->kernels->scatter_row(fc_at(x, at + r * row, size), p->x.s[2], s->tile, b->columns, 0);
    }
}

static void run_task(void *context, int64_t task, int number)
{
    const job *j = context;
    const fc_pool *p = &j->p;
    const int64_t *in = p->window.in;
    int64_t begin = task * j->planes_per_task, end = fc_min(fc_pool_planes(p), begin + j->planes_per_task);
    int64_t size = j->kernels->size, stride = p->window.stride[2], lanes = j->kernels->lanes, whole = lanes / stride * stride;
    worker *s = (worker *)(void *)(j->scratch + number * j->worker_bytes);
    memset(s + 1, 0, (size_t)((TERMS_MAX + FC_LANES_MAX) * size));
    band b;
    for (b.iw = 0; b.iw < in[2]; b.iw += j->columns) {
        b.columns = fc_min(j->columns, in[2] - b.iw);
        fc_pool_meet(p, 2, b.iw, b.iw + b.columns, &b.ow, &b.count);
        b.skip = (b.iw + p->window.offset[2]) / stride - b.ow;
        b.over = (fc_ceil_div(b.columns, whole) - 1) * whole + lanes - b.columns;
        list_columns(j, &b, s);
        for (b.ih = 0; b.ih < in[1]; b.ih += j->rows) {
            b.rows = fc_min(j->rows, in[1] - b.ih);
            list_rows(j, &b, s);
            for (b.id = 0; b.id < in[0]; b.id++) {
                list_planes(j, &b, s);
                for (int64_t plane = begin; plane < end; plane++) {
                    int64_t n = plane / p->channels, c = plane % p->channels;
                    run_band(j, &b, s, fc_at(j->y, n * p->y.n + c * p->y.c, size), fc_at(j->x, n * p->x.n + c * p->x.c, size));
                }
            }
        }
    }
}

fc_status fc_pool_spread(const fc_pool *problem, void *x, const void *y)
{
    job j = {.p = *problem, .kernels = fc_dispatch(problem->real), .x = x, .y = y, .even = fc_pool_divides_evenly(problem)};
    const fc_window *w = &j.p.window;
    int64_t size = j.kernels->size, lanes = j.kernels->lanes, whole = lanes / w->stride[2] * w->stride[2];
    int64_t planes = fc_pool_planes(&j.p), depth = terms(w, 0), overlap = fc_ceil_div(w->kernel[1], w->stride[1]) + 1;
    j.columns = fc_min(COLUMNS_MAX / whole * whole, w->in[2]);
    j.pitch = (j.columns - 1) / w->stride[2] + 2 * terms(w, 2) + lanes + 2;
    int64_t lines = fc_max(1, QUOTIENT_BYTES / (depth * j.pitch * size) - overlap);
    j.rows = fc_max(1, fc_min(fc_min(ROWS_MAX, w->in[1]), fc_mul(lines, w->stride[1])));
    int64_t most = fc_min(j.rows, (j.rows - 1) / w->stride[1] + 1) + overlap;
    j.worker_bytes = (int64_t)sizeof(worker) + fc_arena_round((TERMS_MAX + 2 * FC_LANES_MAX + depth * most * j.pitch) * size);
    j.worker_bytes = fc_arena_round(j.worker_bytes);
    double cost = (double)planes * (0.15 * (double)w->in[0] * (double)w->in[1] * (double)w->in[2] +
                                    10 * (double)w->in[0] * (double)w->in[1]);
    int threads = fc_pool_threads(cost);
    /* Planes share a block's lists; where there are several blocks, each should find its planes in cache. */
    int several = j.columns < w->in[2];
    j.planes_per_task = fc_pool_units_per_task(cost * (several ? 3 : 1), planes, threads);
    if (threads == 1 && !several)
        j.planes_per_task = fc_max(1, planes);
    j.scratch = fc_arena_take(threads * j.worker_bytes);
    if (!j.scratch)
        return FC_NO_MEMORY;
    fc_parallel(threads, fc_ceil_div(planes, j.planes_per_task), run_task, &j);
    fc_arena_give();
    return FC_OK;
}
