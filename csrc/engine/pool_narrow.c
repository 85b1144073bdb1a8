/* The narrow driver of pooling: planes without gaps whose rows are no wider than a vector, or (AVX2) two, windows of any kind, and
 * the gradient of a mean with one divisor.
 *
 *     list the rows and columns of all windows                                     once
 *     for some planes (n, c)                                                       a task
 *         narrow kernel; the last planes, beyond which vectors must not reach, from and to copies
 *
 * The gradient is the same with windows and positions exchanged: the outputs over an element of x are its window.
 * Zen 5, one thread, AVX-512, us by the planes driver, which transposes, and so: means of 1024 planes from 13x13 to 6x6 28 -> 16,
 * their gradient 35 -> 23; 2x2s2 over 512 of 14x14, maximum 16 -> 7; 3x3s1 over 4096 of 14x14, maximum 290 -> 109, mean
 * 310 -> 126.
 * Rows of two vectors, Zen 3, against the rows and planes drivers: 2x2s2 over 512 planes of 14x14, maximum 31 -> 16, mean 35 -> 19; means
 * of 13x13 to 6x6 31 -> 21, their gradient over 1024 110 -> 57.  At stride 1, two vectors to two, the rows driver is faster (14x14 69, here
 * 75-82): a permutation costs two instructions.
 * The gradient of a mean finds there the columns of a row of dy once, not for every window that meets it: the same gradient 54 -> 37, in
 * a busy core 85 -> 60.  Rows of two lengths of window in that, instead of lines of zeros: 46, 74.
 *
 * Scratch, shared: the lists; per worker: a copy of one plane of x and of y.
 */
#include "engine/pool.h"

#include <string.h>

enum { LINES_MAX = 4096 }; /* rows of all windows of a plane */
enum { PLANES_MIN = 16 };  /* the lists take as long: 2x2s2 over 2 of 6x6 1.4 us with them, 0.6 without */
enum { WINDOW_BYTES = 128 };
enum { LANES_MIN = 8 };    /* less is no width worth a driver, and SSE2 has no permutation */

typedef struct layout {
    const fc_kernels *kernels;
    const int64_t *in, *out; /* sizes of what is read and of what is written */
    int64_t x_plane, y_plane;
    int64_t lines_bytes, line_bytes, index_bytes, row_bytes, column_bytes; /* shared, in this order, after the window itself */
    int64_t x_bytes, y_bytes;                                              /* of a worker */
    int adjoint;
} layout;

/* What is read at position o of what is written: outputs that meet it, or a window's taps. */
static fc_pool_range reach(const fc_pool *p, const layout *l, int axis, int64_t o)
{
    fc_pool_range range = {.step = 1, .count = 1};
    if (!l->adjoint)
        return fc_pool_stop(p, axis, o);
    fc_pool_meet(p, axis, o, o + 1, &range.first, &range.taps);
    return range;
}

static int64_t most_taps(const fc_pool *p, const layout *l, int axis)
{
    int64_t most = 1;
    for (int64_t o = 0; o < l->out[axis]; o++)
        most = fc_max(most, reach(p, l, axis, o).taps);
    return most;
}

static layout lay_out(const fc_pool *p, int adjoint)
{
    const fc_window *w = &p->window;
    layout l = {.kernels = fc_dispatch(p->real), .in = adjoint ? w->out : w->in, .out = adjoint ? w->in : w->out,
                .adjoint = adjoint};
    int64_t size = l.kernels->size, lanes = l.kernels->lanes, rows = l.out[0] * l.out[1], wide = fc_max(lanes, l.out[2]);
    l.x_plane = l.in[0] * l.in[1] * l.in[2];
    l.y_plane = rows * l.out[2];
    l.lines_bytes = fc_arena_round(rows * (int64_t)sizeof(int64_t));
    l.line_bytes = fc_arena_round(rows * most_taps(p, &l, 0) * most_taps(p, &l, 1) * (int64_t)sizeof(int64_t));
    l.index_bytes = fc_arena_round(lanes * lanes * fc_ceil_div(wide, lanes) * size);
    l.row_bytes = fc_arena_round(rows * (int64_t)sizeof(double));
    l.column_bytes = fc_arena_round(wide * size);
    l.x_bytes = fc_arena_round((l.x_plane + lanes) * size);
    l.y_bytes = fc_arena_round((l.y_plane + lanes) * size);
    return l;
}

static int64_t shared_bytes(const layout *l)
{
    return WINDOW_BYTES + l->lines_bytes + l->line_bytes + l->index_bytes + l->row_bytes + l->column_bytes;
}

static const char *misfit(const fc_pool *p)
{
    const fc_window *w = &p->window;
    const fc_kernels *kernels = fc_dispatch(p->real);
    int64_t lanes = kernels->lanes, in = w->in[2], out = w->out[2];
    int64_t lines = fc_mul(fc_mul(w->in[0], w->in[1]), fc_mul(w->out[0], w->out[1]));
    if (lines > LINES_MAX || lines == 0 || in == 0 || out == 0)
        return "planes have too many rows, or none";
    if (lanes < LANES_MIN || fc_max(in, out) > kernels->pool.narrow_vectors * lanes)
        return "rows are wider than a vector";
    int64_t widest = p->adaptive ? fc_max(in / out, out / in) + 2 : w->kernel[2]; /* of windows, or of what meets an element */
    return fc_max(in, out) > lanes && widest > lanes ? "windows are wider than a vector" : NULL;
}

/* A sum's order, which is the driver's, should not depend on the layout of dy: that may have gaps. */
static int is_dense(const fc_pool *p, int adjoint)
{
    return fc_pool_is_dense(p, &p->x, p->window.in) && (adjoint || fc_pool_is_dense(p, &p->y, p->window.out));
}

static double cost_of(const fc_pool *p, const layout *l)
{
    double rows = (double)(l->out[0] * l->out[1]), lines = (double)(most_taps(p, l, 0) * most_taps(p, l, 1));
    double vectors = (double)fc_ceil_div(l->out[2], l->kernels->lanes);
    return 4 + rows * (0.7 * lines + vectors * (2.5 + 0.9 * (double)most_taps(p, l, 2)));
}

static const char *plan_narrow(fc_pool_plan *plan, double *cost)
{
    const fc_pool *p = &plan->problem;
    const char *why = misfit(p);
    if (why)
        return why;
    if (plan->indexed || fc_pool_planes(p) < PLANES_MIN || !is_dense(p, 0))
        return "places are wanted, planes are few or have gaps";
    layout l = lay_out(p, 0);
    plan->units = fc_pool_planes(p);
    plan->shared = shared_bytes(&l);
    plan->worker = l.x_bytes + l.y_bytes;
    *cost = 1000 + (double)plan->units * cost_of(p, &l);
    return NULL;
}

static void put_integer(const layout *l, void *p, int64_t i, int64_t value)
{
    if (l->kernels->size == 4)
        ((int32_t *)p)[i] = (int32_t)value;
    else
        ((int64_t *)p)[i] = value;
}

/* Element i of a row `width` wide among its vectors, the second of which ends where the row does. */
static int64_t among_vectors(int64_t i, int64_t lanes, int64_t width)
{
    return i < lanes ? i : i + 2 * lanes - width;
}

/* Columns of the windows as permutations of a row, its vectors' end for none; what columns divide by, NULL where all do by the
 * same. */
static void list_columns(const fc_pool *p, const layout *l, fc_narrow_window *f, void *index, void *divisor)
{
    int64_t lanes = l->kernels->lanes, even = 1, count = reach(p, l, 2, 0).count, in = l->in[2], out = l->out[2];
    int64_t vectors = fc_ceil_div(out, lanes), none = in > lanes ? 2 * lanes : lanes;
    f->taps = most_taps(p, l, 2);
    for (int64_t i = 0; i < vectors * lanes; i++) {
        int64_t q = i < lanes ? i : i + out - 2 * lanes;
        fc_pool_range w = reach(p, l, 2, fc_min(q, out - 1));
        for (int64_t k = 0; k < f->taps; k++)
            put_integer(l, index, k * vectors * lanes + i,
                        q < out && k < w.taps ? among_vectors(w.first + k * w.step, lanes, in) : none);
        even &= w.count == count;
        if (l->kernels->size == 4)
            ((float *)divisor)[q] = (float)w.count;
        else
            ((double *)divisor)[q] = (double)w.count;
    }
    f->index = index;
    f->column_divisor = even || p->divisor != 0 ? NULL : divisor;
}

/* Whether the columns of a row are found once, for all windows: AVX2, whose permutations are dear. */
static int fewer_are_read(const layout *l)
{
    int64_t rows = l->in[0] * l->in[1];
    return l->adjoint && l->kernels->pool.narrow_vectors > 1 && rows <= FC_NARROW_ROWS && rows < l->out[0] * l->out[1];
}

/* Fills the shared scratch; `divisor`: of the gradient. */
static void list_windows(const fc_pool *p, const layout *l, char *scratch, double divisor)
{
    _Static_assert(sizeof(fc_narrow_window) <= WINDOW_BYTES, "the window has its place");
    int64_t *lines = (int64_t *)(void *)(scratch + WINDOW_BYTES), *line = lines + l->lines_bytes / (int64_t)sizeof(int64_t), at = 0;
    char *index = (char *)line + l->line_bytes;
    double *rows = (double *)(void *)(index + l->index_bytes);
    fc_narrow_window f = {.rows = l->out[0] * l->out[1], .width = l->out[2], .in = l->in[2], .lines = lines, .line = line,
                          .row_divisor = rows};
    list_columns(p, l, &f, index, (char *)rows + l->row_bytes);
    double across = f.column_divisor ? 1 : (double)reach(p, l, 2, 0).count;
    int64_t apart = l->in[2], most = 0;
    if (fewer_are_read(l)) {
        f.columns_first = l->in[0] * l->in[1];
        apart = fc_ceil_div(f.width, l->kernels->lanes) * l->kernels->lanes;
        most = most_taps(p, l, 0) * most_taps(p, l, 1);
    }
    for (int64_t r = 0; r < f.rows; r++) {
        fc_pool_range d = reach(p, l, 0, r / l->out[1]), h = reach(p, l, 1, r % l->out[1]);
        for (int64_t i = 0; i < d.taps; i++)
            for (int64_t j = 0; j < h.taps; j++)
                line[at++] = ((d.first + i * d.step) * l->in[1] + h.first + j * h.step) * apart;
        lines[r] = fc_max(d.taps * h.taps, most);
        for (int64_t i = d.taps * h.taps; i < most; i++)
            line[at++] = f.columns_first * apart;
        rows[r] = l->adjoint ? divisor : fc_pool_divisor(p, (double)d.count * (double)h.count * across);
    }
    *(fc_narrow_window *)(void *)scratch = f;
}

static void copy_plane(const fc_pool *p, const layout *l, const fc_array_strides *from, int64_t plane, const char *x, char *to)
{
    static const double zero = 0;
    int64_t size = l->kernels->size, at = plane / p->channels * from->n + plane % p->channels * from->c;
    for (int64_t r = 0; r < l->in[0] * l->in[1]; r++)
        l->kernels->gather_row(fc_at(to, r * l->in[2], size), l->in[2],
                               fc_at(x, at + r / l->in[1] * from->s[0] + r % l->in[1] * from->s[1], size), from->s[2], 0, 1,
                               l->in[2], &zero);
}

/* Planes [begin, end): those whose vectors stay among them, then the last, one by one; all, where they have gaps. */
static void run_planes(const fc_pool *p, const layout *l, const fc_narrow_window *f, int64_t begin, int64_t end, const char *x,
                       char *y, char *scratch)
{
    int64_t size = l->kernels->size, lanes = l->kernels->lanes;
    const fc_array_strides *from = l->adjoint ? &p->y : &p->x;
    int64_t safe = fc_min(end - fc_ceil_div(fc_max(0, lanes - l->out[2]), l->y_plane),
                          fc_pool_planes(p) - fc_ceil_div(fc_max(0, lanes - l->in[2]), l->x_plane));
    void (*kernel)(const fc_narrow_window *, const void *, int64_t, void *, int64_t) =
        p->kind == FC_POOL_MAX ? l->kernels->pool.narrow_max : l->kernels->pool.narrow_mean;
    safe = fc_pool_is_dense(p, from, l->in) ? fc_max(begin, fc_min(safe, end)) : begin;
    kernel(f, fc_at(x, begin * l->x_plane, size), l->x_plane, fc_at(y, begin * l->y_plane, size), safe - begin);
    for (int64_t plane = safe; plane < end; plane++) {
        char *tile = scratch + l->x_bytes;
        copy_plane(p, l, from, plane, x, scratch);
        kernel(f, scratch, l->x_plane, tile, 1);
        memcpy(fc_at(y, plane * l->y_plane, size), tile, (size_t)(l->y_plane * size));
    }
}

static void prepare_narrow(const fc_pool_job *j)
{
    const fc_pool *p = &j->plan->problem;
    layout l = lay_out(p, 0);
    list_windows(p, &l, j->shared, 0);
}

static void run_narrow(const fc_pool_job *j, int64_t begin, int64_t end, char *scratch)
{
    const fc_pool *p = &j->plan->problem;
    layout l = lay_out(p, 0);
    run_planes(p, &l, (const fc_narrow_window *)(const void *)j->shared, begin, end, j->x, j->y, scratch);
}

const fc_pool_driver fc_pool_driver_narrow = {"narrow", plan_narrow, prepare_narrow, run_narrow};

/* ---- the gradient of a mean ------------------------------------------------------------------------------------------------ */

typedef struct job {
    const fc_pool *p;
    layout l;
    char *x, *scratch;
    const char *y;
    int64_t planes_per_task;
} job;

double fc_pool_narrow_divisor(const fc_pool *p)
{
    double count = 1;
    if (misfit(p))
        return 0;
    if (p->divisor != 0)
        return p->divisor;
    for (int i = 0; i < FC_AXES; i++) {
        int64_t first = fc_pool_stop(p, i, 0).count;
        for (int64_t o = 1; o < p->window.out[i]; o++)
            if (fc_pool_stop(p, i, o).count != first)
                return 0;
        count *= (double)first;
    }
    return count;
}

int fc_pool_narrow_serves(const fc_pool *p)
{
    return is_dense(p, 1) && fc_pool_narrow_divisor(p) != 0;
}

static void run_adjoint(void *context, int64_t task, int worker)
{
    const job *j = context;
    int64_t begin = task * j->planes_per_task, end = fc_min(fc_pool_planes(j->p), begin + j->planes_per_task);
    run_planes(j->p, &j->l, (const fc_narrow_window *)(const void *)j->scratch, begin, end, j->y, j->x,
               j->scratch + shared_bytes(&j->l) + worker * (j->l.x_bytes + j->l.y_bytes));
}

fc_status fc_pool_narrow_adjoint(const fc_pool *p, void *x, const void *y)
{
    job j = {.p = p, .l = lay_out(p, 1), .x = x, .y = y};
    int64_t planes = fc_pool_planes(p);
    double cost = 500 + (double)planes * cost_of(p, &j.l);
    int threads = fc_pool_threads(cost);
    j.planes_per_task = threads == 1 ? fc_max(1, planes) : fc_pool_units_per_task(cost, planes, threads);
    j.scratch = fc_arena_take(shared_bytes(&j.l) + threads * (j.l.x_bytes + j.l.y_bytes));
    if (!j.scratch)
        return FC_NO_MEMORY;
    list_windows(p, &j.l, j.scratch, fc_pool_narrow_divisor(p));
    fc_parallel(threads, fc_ceil_div(planes, j.planes_per_task), run_adjoint, &j);
    fc_arena_give();
    return FC_OK;
}
