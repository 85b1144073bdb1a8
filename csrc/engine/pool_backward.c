/* The gradients of pooling, and unpooling.
 *
 * Mean: at stride 1 with one divisor a mean of dy.  Where pool_spread.c and pool_planes.c do not serve either (much overlap, few
 * planes): every window gives each of its positions y / divisor.
 * A row of outputs is divided and spread along w once, then added to (or, where windows lie side by side, stored as) all rows
 * of x that its windows meet:
 *
 *     for each group of planes                                                     a task
 *         for each block of columns of x, for each chunk of outputs that reach it
 *             for each plane, output plane od, output row oh: divide, spread, add to the window's rows
 *
 * Maximum: the values go to their indices, in planes of zeros; but if every index lies in its window where windows two wide stand side
 * by side (2x2 of stride 2 and their like, which sizes let hope for), elements of x are comparisons, and are written once.  The first
 * index of no such window ends the hope, for its plane and the rest.  Zen 4, one thread, us: k2s2 1d 256x16000 2460, 1100; 2x2s2 64@32
 * b32 410, 350.  Rejected: a plane cleared 8 KiB at a time as indices reach it (Zen 3, 3x3s2p1 64@112: 275, 280; in a busy core 371, 400).
 *
 * Blocks and chunks bound the scratch, whatever the sizes.  Every element is summed in one order: results do not depend on
 * the number of threads.
 */
#include "engine/pool.h"

#include <stdatomic.h>
#include <string.h>

enum { BLOCK = 2048, CHUNK = 1024, PAIRS_BLOCK = 4096 };

static void clear(const fc_kernels *kernels, void *x, int64_t stride, int64_t count)
{
    static const double zeros[64];
    if (stride == 1)
        memset(x, 0, (size_t)(count * kernels->size));
    else
        for (int64_t i = 0; i < count; i += 64)
            kernels->scatter_row(fc_at(x, i * stride, kernels->size), stride, zeros, fc_min(64, count - i), 0);
}

/* Whether the planes of an array of outputs are one long row. */
static int without_gaps(const fc_window *w, const fc_array_strides *s)
{
    return (w->out[1] == 1 || s->s[1] == w->out[2] * s->s[2]) && (w->out[0] == 1 || s->s[0] == w->out[1] * w->out[2] * s->s[2]);
}

/* ---- mean ------------------------------------------------------------------------------------------------------------- */

typedef struct mean_job {
    fc_pool p;
    const fc_kernels *kernels;
    char *x, *scratch;
    const char *y;
    int64_t planes_per_task;
    int disjoint; /* no two output rows meet the same row of x */
    int covered;  /* every row of x meets an output row */
    int flat;     /* rows of y follow each other without gaps */
} mean_job;

/* A worker's scratch: outputs q, q + 1, ... that reach columns begin, begin + 1, ... of x.  Doubles stand for reals of
 * either size. */
typedef struct chunk {
    int64_t first[CHUNK], length[CHUNK]; /* windows, relative to begin, clipped to the block */
    double row[BLOCK];                   /* what one row of outputs gives to one row of x, from column `begin` on */
    double gradient[CHUNK], divisor[CHUNK], quotient[CHUNK];
    int64_t begin, columns, q, count;
    int stores; /* rows of x are overwritten, not added to */
} chunk;

static void list_windows(const mean_job *j, chunk *b)
{
    const fc_pool *p = &j->p;
    for (int64_t i = 0; i < b->count; i++) {
        fc_pool_range range = fc_pool_stop(p, 2, b->q + i);
        int64_t from = fc_max(range.first, b->begin), to = fc_min(range.first + range.taps, b->begin + b->columns);
        double divisor = p->divisor != 0 ? 1 : (double)range.count;
        b->first[i] = from - b->begin;
        b->length[i] = to - from;
        if (j->kernels->size == 4)
            ((float *)b->divisor)[i] = (float)divisor;
        else
            b->divisor[i] = divisor;
    }
}

/* The chunk's outputs of one row, divided and spread along w.  From y on `room` elements can be read. */
static void spread_row(const mean_job *j, chunk *b, const char *y, int64_t room, double divisor)
{
    static const double zero = 0;
    const fc_kernels *kernels = j->kernels;
    int64_t size = kernels->size, width = fc_max(b->count, kernels->lanes);
    if (j->p.y.s[2] != 1 || room < width) {
        kernels->gather_row(b->gradient, width, y, j->p.y.s[2], 0, 1, b->count, &zero);
        y = (const char *)b->gradient;
    }
    kernels->pool.rows_divide(b->quotient, width, &divisor, b->divisor, y, 0, 1, width);
    memset(b->row, 0, (size_t)(b->columns * size));
    kernels->pool.spread(b->row, b->first, b->length, b->quotient, b->count);
}

static void add_row(const mean_job *j, chunk *b, const char *y, char *x, int64_t od, int64_t oh)
{
    const fc_pool *p = &j->p;
    const int64_t *out = p->window.out;
    int64_t room = j->flat ? ((out[0] - od) * out[1] - oh) * out[2] - b->q : b->count;
    int64_t size = j->kernels->size;
    fc_pool_range d = fc_pool_stop(p, 0, od), h = fc_pool_stop(p, 1, oh);
    spread_row(j, b, fc_at(y, b->q * p->y.s[2], size), room, fc_pool_divisor(p, (double)d.count * (double)h.count));
    for (int64_t id = d.first; id < d.first + d.taps; id++)
        for (int64_t ih = h.first; ih < h.first + h.taps; ih++)
            j->kernels->scatter_row(fc_at(x, id * p->x.s[0] + ih * p->x.s[1] + b->begin * p->x.s[2], size), p->x.s[2],
                                    b->row, b->columns, !b->stores);
}

static void clear_block(const mean_job *j, const chunk *b, char *x)
{
    const fc_pool *p = &j->p;
    for (int64_t id = 0; id < p->window.in[0]; id++)
        for (int64_t ih = 0; ih < p->window.in[1]; ih++)
            clear(j->kernels, fc_at(x, id * p->x.s[0] + ih * p->x.s[1] + b->begin * p->x.s[2], j->kernels->size), p->x.s[2],
                  b->columns);
}

/* All planes [begin, end) of one block, from the stops [first, last) that reach it. */
static void run_block(const mean_job *j, chunk *b, int64_t begin, int64_t end, int64_t first, int64_t last)
{
    const fc_pool *p = &j->p;
    int64_t size = j->kernels->size, height = p->window.out[1], rows = p->window.out[0] * height;
    b->stores = j->disjoint && last - first <= CHUNK;
    int filled = b->stores && j->covered;
    for (int64_t plane = begin; plane < end && !filled; plane++)
        clear_block(j, b, fc_at(j->x, plane / p->channels * p->x.n + plane % p->channels * p->x.c, size));
    for (b->q = first; b->q < last; b->q += CHUNK) {
        b->count = fc_min(CHUNK, last - b->q);
        list_windows(j, b);
        for (int64_t plane = begin; plane < end; plane++) {
            int64_t n = plane / p->channels, c = plane % p->channels;
            char *x = fc_at(j->x, n * p->x.n + c * p->x.c, size);
            for (int64_t o = 0; o < rows; o++) {
                int64_t od = o / height, oh = o % height, row = od * p->y.s[0] + oh * p->y.s[1];
                add_row(j, b, fc_at(j->y, n * p->y.n + c * p->y.c + row, size), x, od, oh);
            }
        }
    }
}

/* One window over the whole plane: the plane is filled with what its output gives. */
static void run_global(void *context, int64_t task, int worker)
{
    (void)worker;
    const mean_job *j = context;
    const fc_pool *p = &j->p;
    int64_t begin = task * j->planes_per_task, end = fc_min(fc_pool_planes(p), begin + j->planes_per_task);
    int64_t columns = p->window.in[2], size = j->kernels->size;
    for (int64_t plane = begin, count; plane < end; plane += count) {
        int64_t n = plane / p->channels, c = plane % p->channels;
        count = fc_min(end - plane, p->channels - c);
        j->kernels->pool.plane_fill(fc_at(j->x, n * p->x.n + c * p->x.c, size), p->x.c, columns,
                                    fc_at(j->y, n * p->y.n + c * p->y.c, size), p->y.c, fc_pool_divisor(p, (double)columns),
                                    count);
    }
}

static void run_mean(void *context, int64_t task, int worker)
{
    const mean_job *j = context;
    int64_t begin = task * j->planes_per_task, end = fc_min(fc_pool_planes(&j->p), begin + j->planes_per_task), first, count;
    chunk *b = (chunk *)(void *)(j->scratch + worker * fc_arena_round(sizeof *b));
    for (b->begin = 0; b->begin < j->p.window.in[2]; b->begin += BLOCK) {
        b->columns = fc_min(BLOCK, j->p.window.in[2] - b->begin);
        fc_pool_meet(&j->p, 2, b->begin, b->begin + b->columns, &first, &count);
        run_block(j, b, begin, end, first, first + count);
    }
}

/* A window as high (and as deep) as x, over rows without gaps: one long row. */
static void merge_axes(fc_pool *p)
{
    fc_window *w = &p->window;
    for (int i = FC_AXES - 2; i >= 0 && !p->adaptive; i--) {
        if (w->out[i] != 1 || w->out[2] != 1 || w->offset[i] || w->offset[2] || w->kernel[i] != w->in[i] ||
            w->kernel[2] != w->in[2] || p->x.s[i] != w->in[2] * p->x.s[2])
            return;
        w->kernel[2] = w->in[2] *= w->in[i];
        w->kernel[i] = w->in[i] = 1;
    }
}

static int is_global(const fc_pool *p)
{
    const fc_window *w = &p->window;
    return !p->adaptive && w->in[0] * w->in[1] == 1 && fc_outputs(w) == 1 && w->kernel[2] == w->in[2] && !w->offset[2] &&
           w->kernel[0] * w->kernel[1] == 1 && p->x.s[2] == 1;
}

static void look_along_axes(mean_job *j)
{
    const fc_window *w = &j->p.window;
    j->disjoint = j->covered = !j->p.adaptive;
    j->flat = without_gaps(w, &j->p.y);
    for (int i = 0; i < 2; i++) {
        j->disjoint &= w->out[i] == 1 || w->kernel[i] <= w->stride[i];
        j->covered &= w->offset[i] == 0 && (w->out[i] - 1) * w->stride[i] + w->kernel[i] >= w->in[i];
        j->covered &= w->out[i] == 1 || w->kernel[i] >= w->stride[i];
    }
}

/* Stride 1 and one divisor: the adjoint is a mean itself, *box, over dy. */
static int is_box(const fc_pool *p, fc_pool *box)
{
    const fc_window *w = &p->window;
    double count = 1;
    *box = *p;
    for (int i = 0; i < FC_AXES; i++) {
        int64_t end = w->out[i] - 1 + w->kernel[i], room = p->count_padding ? w->in[i] + w->offset[i] : w->in[i];
        int even = p->divisor != 0 || (end - w->offset[i] <= room && (p->count_padding || !w->offset[i]));
        if (p->adaptive || w->stride[i] != 1 || w->dilation[i] != 1 || w->offset[i] >= w->kernel[i] || !even ||
            (w->kernel[i] > 1 && w->out[i] < w->kernel[i]))
            return 0;
        box->window.in[i] = w->out[i];
        box->window.out[i] = w->in[i];
        box->window.offset[i] = w->kernel[i] - 1 - w->offset[i];
        count *= (double)w->kernel[i];
    }
    box->divisor = fc_pool_divisor(p, count);
    box->x = p->y;
    box->y = p->x;
    return 1;
}

static fc_status box_mean(const fc_pool *box, void *x, const void *y)
{
    fc_pool_plan plan;
    fc_status status = fc_pool_plan_make(&plan, box, 0);
    return status ? status : fc_pool_execute(&plan, y, x, NULL);
}

fc_status fc_pool_mean_adjoint(const fc_pool *problem, void *x, const void *y)
{
    mean_job j = {.p = *problem, .kernels = fc_dispatch(problem->real), .x = x, .y = y};
    fc_pool box;
    if (fc_pool_normalize(&j.p))
        return FC_INVALID;
    if (is_box(&j.p, &box))
        return box_mean(&box, x, y);
    merge_axes(&j.p);
    int narrow = j.p.window.in[2] < j.kernels->lanes && j.p.window.in[1] > 1, planes_serve = fc_pool_planes_serve(&j.p);
    if (!is_global(&j.p) && planes_serve && fc_pool_narrow_serves(&j.p)) /* both sum in one order, whatever the layout */
        return fc_pool_narrow_adjoint(&j.p, x, y);
    if (j.p.x.s[2] == 1 && fc_pool_spreads(&j.p) && !(narrow && planes_serve))
        return fc_pool_spread(&j.p, x, y);
    if (!is_global(&j.p) && planes_serve)
        return fc_pool_planes_adjoint(&j.p, x, y);
    if (fc_pool_spreads(&j.p))
        return fc_pool_spread(&j.p, x, y);
    look_along_axes(&j);
    const fc_window *w = &j.p.window;
    int64_t planes = fc_pool_planes(&j.p);
    double elements = (double)w->in[0] * (double)w->in[1] * (double)w->in[2];
    double cost = (double)planes * (0.2 * elements + (double)fc_outputs(w) + 20 * (double)w->out[0] * (double)w->out[1]);
    int threads = fc_pool_threads(cost);
    j.planes_per_task = fc_pool_units_per_task(cost, planes, threads);
    j.scratch = fc_arena_take(threads * fc_arena_round(sizeof(chunk)));
    if (!j.scratch)
        return FC_NO_MEMORY;
    fc_parallel(threads, fc_ceil_div(planes, j.planes_per_task), is_global(&j.p) ? run_global : run_mean, &j);
    fc_arena_give();
    return FC_OK;
}

/* ---- maximum ------------------------------------------------------------------------------------------------------------ */

typedef struct route_job {
    const fc_pool *p;
    const fc_kernels *kernels;
    char *x;
    const char *y;
    const int64_t *index;
    int64_t rows, row; /* of y: one where its planes and the indices' have no gaps */
    int64_t planes_per_task;
    int add;
    int64_t elements, outputs; /* of a plane of x, of y */
    int lines, deep;           /* rows and planes of a window, if windows two columns wide stand side by side, else no lines */
    int64_t block;             /* rows of such windows whose indices are looked at, before the next are tried */
    int covered;               /* every element has a window */
    _Atomic int overlap;       /* an index was seen that such windows have not */
    _Atomic int invalid;
    _Atomic int64_t wrong;
} route_job;

/* How many positions of an axis a window has, if windows stand side by side; 0 where there is no such number up to 2. */
static int side_by_side(const fc_window *w, int axis)
{
    return w->in[axis] == w->out[axis] ? 1 : w->in[axis] / 2 == w->out[axis] ? 2 : 0;
}

static void look_for_pairs(route_job *j)
{
    const fc_window *w = &j->p->window;
    int64_t width = w->out[2];
    if (width < j->kernels->lanes || w->in[2] / 2 != width || j->elements > INT32_MAX || !side_by_side(w, 0) ||
        !fc_pool_is_dense(j->p, &j->p->x, w->in) || !fc_pool_is_dense(j->p, &j->p->y, w->out) ||
        !fc_pool_is_dense(j->p, &j->p->index, w->out))
        return;
    j->lines = side_by_side(w, 1);
    j->deep = side_by_side(w, 0);
    j->block = fc_max(1, PAIRS_BLOCK / width);
    j->covered = w->in[0] == w->out[0] * j->deep && w->in[1] == w->out[1] * j->lines && w->in[2] == 2 * width;
}

/* A plane as of windows two columns wide, side by side; 0 where an index is not of them. */
static int pair_plane(route_job *j, int64_t plane)
{
    const fc_window *w = &j->p->window;
    int64_t size = j->kernels->size;
    char *x = fc_at(j->x, plane * j->elements, size);
    if (!j->lines || atomic_load_explicit(&j->overlap, memory_order_relaxed))
        return 0;
    if (!j->covered)
        memset(x, 0, (size_t)(j->elements * size));
    for (int64_t od = 0; od < w->out[0]; od++)
        for (int64_t oh = 0; oh < w->out[1]; oh += j->block) {
            int64_t rows = fc_min(j->block, w->out[1] - oh), met = 0;
            int64_t at = plane * j->outputs + (od * w->out[1] + oh) * w->out[2];
            for (int64_t id = od * j->deep; id < (od + 1) * j->deep; id++) {
                int64_t place = (id * w->in[1] + oh * j->lines) * w->in[2];
                met += j->kernels->pool.pairs(j->lines, w->out[2], fc_at(x, place, size), w->in[2], fc_at(j->y, at, size),
                                              j->index + at, place, rows, j->add);
            }
            if (met < rows * w->out[2]) {
                atomic_store(&j->overlap, 1);
                return 0;
            }
        }
    return 1;
}

static void route_plane(route_job *j, int64_t n, int64_t c)
{
    const fc_pool *p = j->p;
    int64_t size = j->kernels->size;
    char *x = fc_at(j->x, n * p->x.n + c * p->x.c, size);
    clear(j->kernels, x, p->x.s[2], j->elements);
    for (int64_t r = 0; r < j->rows; r++) {
        int64_t od = r / p->window.out[1], oh = r % p->window.out[1];
        const void *y = fc_at(j->y, n * p->y.n + c * p->y.c + od * p->y.s[0] + oh * p->y.s[1], size);
        const int64_t *index = j->index + n * p->index.n + c * p->index.c + od * p->index.s[0] + oh * p->index.s[1];
        int64_t done = j->kernels->pool.route(x, p->x.s[2], j->elements, y, p->y.s[2], index, p->index.s[2], j->row, j->add);
        if (done < j->row) {
            atomic_store(&j->wrong, index[done * p->index.s[2]]);
            atomic_store(&j->invalid, 1);
            return;
        }
    }
}

static void run_route(void *context, int64_t task, int worker)
{
    (void)worker;
    route_job *j = context;
    int64_t begin = task * j->planes_per_task, end = fc_min(fc_pool_planes(j->p), begin + j->planes_per_task);
    for (int64_t plane = begin; plane < end && !atomic_load_explicit(&j->invalid, memory_order_relaxed); plane++)
        if (!pair_plane(j, plane))
            route_plane(j, plane / j->p->channels, plane % j->p->channels);
}

fc_status fc_pool_route(const fc_pool *p, void *x, const void *y, const int64_t *index, int add, int64_t *wrong)
{
    int64_t outputs = fc_outputs(&p->window), planes = fc_mul(p->batch, p->channels), bound = INT64_MAX / 8;
    int64_t plane = fc_mul(fc_mul(p->window.in[0], p->window.in[1]), p->window.in[2]);
    if (fc_mul(planes, outputs) > bound || fc_mul(planes, plane) > bound)
        return FC_INVALID;
    route_job j = {.p = p, .kernels = fc_dispatch(p->real), .x = x, .y = y, .index = index, .add = add,
                   .elements = plane, .outputs = outputs};
    int flat = without_gaps(&p->window, &p->y) && without_gaps(&p->window, &p->index);
    j.rows = !outputs ? 0 : flat ? 1 : p->window.out[0] * p->window.out[1];
    j.row = flat ? outputs : p->window.out[2];
    if (outputs)
        look_for_pairs(&j);
    double cost = (double)planes * (0.1 * (double)plane + 1.5 * (double)outputs);
    int threads = fc_pool_threads(cost);
    j.planes_per_task = fc_pool_units_per_task(3 * cost, planes, threads); /* nothing is listed: a task may be short */
    fc_parallel(threads, fc_ceil_div(planes, j.planes_per_task), run_route, &j);
    *wrong = j.wrong;
    return j.invalid ? FC_INVALID : FC_OK;
}
