/* The weight gradient with lanes over output pixels: every sum is a vector until the last of them is added.
 *
 *     dW[o][c, t] = sum_{n, p} dY[n][o][p] X[n][c][p + t]
 *
 * Both images are read along their rows: nothing is transposed.  dY stays in place; X too where nothing pads it, else a band of
 * its rows is copied.  A row whose length is no multiple of a vector's would waste lanes at its end, so that there, a copy for each
 * tap kw is cut to the output's width: all rows of outputs are one (flat).
 *
 *     for each chunk of the sum, group g, block of input channels, block of output channels      a task
 *         for each unit (a band of rows of a plane) of the chunk, in order
 *             copy the channels' input, unless in place
 *             for each SLICE vectors of its pixels, tile of output channels
 *                 copy dY's vectors where they cross cache lines and many tiles share them
 *                 for each tile of rows (c, t): cross kernel, added to the sums
 *         add each sum's lanes
 *     for each block: add its chunks in order, store
 *
 * The sums take a vector each, so blocks are small, and of many channels other drivers read less.  The sum is cut into chunks by
 * the problem's shape and never by the number of threads, so that the bits do not depend on it.
 *
 * Zen 5, one thread (the best of `weight_depthwise.c`, `weight_gemm.c` and `weight_channels.c`, this): 3-32@32 b32 305, 287 us, with
 * AVX2 680, 514; 7x7 3-16@128 b4 1500, 1420; 1x1 13-17@101 45, 31, with AVX2 77, 48; 3x3x3 3-16@16x56x56 850, 775; but 3x3s2
 * 3-32@299 206, 250 and 64-64@224 15.5, 19.7 ms.  Zen 4 (the best of the others, this): 3-32@32 b32 612, 556, 8 of 3-32@28 137, 118,
 * 7x7 3-16@128 816, 708; but 8 of 3-16@56 233, 245, 3x3s2 3-32@299 420, 447.  Rejected there: fetching the next tile's dY meanwhile (7x7
 * the same, with dY in the third-level cache too, 2 of 3-32@32 36.0, 38.2; 13-17@101 50, 54; Granite
 * Rapids, 3-32@32 b32 1.09 of the time, with two threads 1.31); slices of 48, 96 or 128 vectors (7x7 b4 +3 %,
 * the same, the same); more chunks (24 or 32: 7x7 b4 at two threads 1480 to 1580).  Slices of 128 vectors of narrow images, whose sums
 * come from the second-level cache half as often, would have to be cut from several planes.
 */
#include "engine/band.h"
#include "engine/conv.h"
#include "engine/weight_tiles.h"
#include "engine/weights.h"

enum { ROWS, CHANNELS, OUTPUTS, CHUNKS }; /* plan->tile: of a unit, at most; of a block, at most; parts of the sum */
/* Tiles that share dY's vectors from which on these are copied where they cross cache lines: of 30 7x7 3-16@128 b4 1600 to 1500 us, of
 * six 3-32@32 b32 323 to 348 (Zen 5).  On Zen 4, of 512 bits, none: with them 3000 to 2910, at two threads 1530 to 1500; 3x3x3
 * 3-16@16x56x56 1430 to 1380. */
enum { COPY_TILES = 10 };
/* Vectors of a tile's rows that stay in the first-level cache; a block's sums and a unit's band, which stay in the second. */
enum { SLICE = 64, SLICE_BYTES = 96 << 10, SUM_BYTES = 256 << 10, BAND_BYTES = 256 << 10 };
enum { TASKS_WANTED = 16, CHUNK_PIXELS = 2048 };

typedef struct layout {
    const fc_kernels *kernels;
    fc_band band;
    int in_place, flat;          /* X is; pixels of a unit are one row */
    int64_t bands, units, taps;  /* of a plane; of the sum; of a channel */
    int64_t channel_blocks, output_blocks;
    int64_t vectors;             /* of a unit's pixels, at most */
    int64_t channel, x_row;      /* strides of A */
    int64_t slice;               /* vectors of a slice, at most */
    int64_t tap_bytes, sum_bytes, pixel_bytes, gradient_bytes, band_bytes, chunk_bytes;
} layout;

/* Rows of dY follow each other without gaps. */
static int gradient_is_flat(const fc_conv *p)
{
    return p->window.out[1] == 1 || p->y.s[1] == p->window.out[2];
}

/* Whether copies for each kw pay: their vectors' lanes are all used, and a copied element costs as much as five products. */
static int copies_flat(const fc_conv *p, int64_t lanes)
{
    const fc_window *w = &p->window;
    int64_t lost = fc_ceil_div(w->out[2], lanes) * lanes - w->out[2];
    return gradient_is_flat(p) && (w->kernel[2] == 1 || w->out[2] < lanes ||
                                   fc_mul(lost, fc_mul(p->out_channels, w->kernel[1])) > 5 * w->out[2]);
}

static layout lay_out(const fc_conv_plan *plan)
{
    const fc_conv *p = &plan->problem;
    const fc_window *w = &p->window;
    const int64_t *tile = plan->tile;
    layout l = {.kernels = fc_dispatch(p->real), .taps = fc_taps(w)};
    int64_t size = l.kernels->size, lanes = l.kernels->lanes, sums = fc_mul(fc_mul(tile[CHANNELS], l.taps), tile[OUTPUTS]);
    int both_flat = gradient_is_flat(p) && (w->out[1] == 1 || p->x.s[1] * w->stride[1] == w->out[2]);
    l.in_place = fc_lies_inside(w) && w->stride[2] == 1 && p->x.s[2] == 1 && (w->out[2] >= lanes || both_flat);
    l.flat = l.in_place ? both_flat : copies_flat(p, lanes);
    l.bands = fc_ceil_div(w->out[1], tile[ROWS]);
    l.units = fc_mul(fc_mul(p->batch, w->out[0]), l.bands);
    l.channel_blocks = fc_ceil_div(p->channels, tile[CHANNELS]);
    l.output_blocks = fc_ceil_div(p->out_channels, tile[OUTPUTS]);
    l.band = l.flat ? fc_band_plan_flat(w, tile[ROWS]) : fc_band_plan(w, tile[ROWS]);
    l.channel = l.in_place ? p->x.c : l.band.channel;
    l.x_row = l.in_place ? p->x.s[1] * w->stride[1] : l.band.pitch;
    l.vectors = l.flat ? fc_ceil_div(fc_mul(tile[ROWS], w->out[2]), lanes) : fc_mul(tile[ROWS], fc_ceil_div(w->out[2], lanes));
    l.tap_bytes = fc_bytes(fc_mul(tile[CHANNELS], l.taps), sizeof(int64_t));
    l.sum_bytes = fc_bytes(fc_mul(sums, lanes), size);
    l.slice = fc_min(l.vectors, SLICE + tile[ROWS]);
    l.pixel_bytes = fc_bytes(l.vectors + l.slice, 2 * sizeof(int64_t));
    l.gradient_bytes = fc_bytes(l.kernels->cross_columns * l.slice * lanes, size);
    l.band_bytes = l.in_place ? 0 : fc_bytes(fc_mul(tile[CHANNELS], l.band.channel), size);
    l.chunk_bytes = fc_bytes(sums, size);
    return l;
}

static int64_t worker_bytes(const layout *l)
{
    return fc_add(fc_add(l->sum_bytes, l->pixel_bytes), fc_add(l->gradient_bytes, l->band_bytes));
}

static int64_t blocks_of(const fc_conv *p, const layout *l)
{
    return fc_mul(p->groups, fc_mul(l->channel_blocks, l->output_blocks));
}

/* Output rows of the smallest unit: bands are as even as can be. */
static int64_t least_rows(const fc_conv *p, const layout *l)
{
    return p->window.out[1] / l->bands;
}

static void choose_tile(fc_conv_plan *plan, const fc_kernels *kernels)
{
    const fc_conv *p = &plan->problem;
    const fc_window *w = &p->window;
    int64_t *tile = plan->tile, vector = kernels->lanes * kernels->size, n = kernels->cross_columns;
    int64_t sums = SUM_BYTES / vector / fc_min(SUM_BYTES / vector, fc_taps(w)); /* pairs of channels */
    tile[CHANNELS] = fc_weight_part(p->channels, sums / fc_min(sums, fc_min(p->out_channels, 6 * n)));
    tile[OUTPUTS] = fc_ceil_div(fc_weight_part(p->out_channels, sums / tile[CHANNELS]), n) * n;
    tile[OUTPUTS] = fc_min(tile[OUTPUTS], p->out_channels);
    tile[ROWS] = tile[CHUNKS] = 1;
    layout l = lay_out(plan);
    int64_t planes = fc_mul(p->batch, w->out[0]), pixels = fc_mul(planes, fc_mul(w->out[1], w->out[2]));
    int64_t halo = l.band.copied_rows - 1, row = fc_max(1, l.band_bytes / l.band.copied_rows);
    int64_t rows = l.in_place ? w->out[1] : fc_max(1, BAND_BYTES / row - halo);
    int64_t wanted = fc_max(1, fc_min(pixels / CHUNK_PIXELS, fc_ceil_div(TASKS_WANTED, blocks_of(p, &l))));
    if (planes < wanted)
        rows = fc_min(rows, fc_ceil_div(fc_mul(w->out[1], planes), wanted));
    tile[ROWS] = fc_weight_part(w->out[1], rows);
    tile[CHUNKS] = fc_min(wanted, planes * fc_ceil_div(w->out[1], tile[ROWS]));
}

static const char *plan_rows(fc_conv_plan *plan, double *cost)
{
    const fc_conv *p = &plan->problem;
    const fc_window *w = &p->window;
    const fc_kernels *kernels = fc_dispatch(p->real);
    if (!fc_reduction(p) || !p->out_channels || !p->batch || !fc_outputs(w))
        return "there is nothing to sum";
    if (!fc_weights_plan(p, kernels->size).in_place)
        return "the weight gradient's rows are not contiguous";
    if (p->y.s[2] != 1 && w->out[2] > 1)
        return "pixels of the output's gradient are not neighbours in memory";
    choose_tile(plan, kernels);
    layout l = lay_out(plan);
    if ((l.flat ? fc_mul(least_rows(p, &l), w->out[2]) : w->out[2]) < kernels->lanes)
        return "a row of output pixels is less than a vector";
    int64_t tasks = fc_mul(blocks_of(p, &l), plan->tile[CHUNKS]);
    plan->scratch = fc_add(fc_add(l.tap_bytes, fc_mul(tasks, l.chunk_bytes)), fc_mul(plan->threads, worker_bytes(&l)));
    if (plan->scratch > fc_scratch_max(plan->threads))
        return "a band of the input, or the sums, exceed the scratch bound";
    double blocks = (double)p->groups * (double)l.output_blocks, pairs = (double)p->out_channels * (double)fc_reduction(p);
    double tiles = (double)(fc_ceil_div(plan->tile[OUTPUTS], kernels->cross_columns) *
                            fc_ceil_div(plan->tile[CHANNELS] * l.taps, kernels->cross_rows) * l.channel_blocks);
    double call = 6 + 0.3 * (double)(kernels->cross_columns * kernels->cross_rows), vectors = (double)l.vectors;
    double copied = (double)l.band_bytes / (double)plan->tile[CHANNELS] * (double)p->channels;
    double rows = copied / (double)kernels->size / (double)l.band.pitch, taken = p->x.s[2] != 1 ? 8 : w->stride[2] > 1 ? 3 : 1;
    double unit = tiles * (double)fc_ceil_div(l.vectors, SLICE) * call + 0.0125 * taken * copied + 4 * rows + vectors + 40;
    if (kernels->cross_columns == 5 && plan->tile[CHANNELS] * l.taps > COPY_TILES * kernels->cross_rows) /* dY's vectors, from far */
        unit += (double)plan->tile[OUTPUTS] * (double)l.channel_blocks * vectors;
    /* 5x5 tiles wait for vectors across cache lines, 4x3 for loads: this, `weight_channels.c`, 3x3x3 3-16@16x56x56 2.04, 1.73 ms, 7x7
     * 3-16@128 b4 4.08, 3.80, 3x3 3-32@32 b32 0.75, 0.89 (Zen 3). */
    double product = kernels->cross_columns < 5 ? 0.137 : 0.13;
    /* X's slices of many channels come from the second-level cache: 1x1 64-64@56 140 us, b16 3400 (`weight_gemm.c` 115, 1850; Zen 5). */
    if (kernels->cross_columns == 5 && plan->tile[CHANNELS] * fc_min(l.vectors, SLICE) * kernels->lanes * kernels->size > SLICE_BYTES)
        product = 0.145;
    double sums = (double)p->groups * pairs * (product * vectors * (double)l.units + 1.0 + (double)plan->tile[CHUNKS]);
    *cost = 400 + sums + blocks * (double)l.units * unit;
    return NULL;
}

typedef struct job {
    const fc_conv_plan *plan;
    layout l;
    int64_t *tap; /* where row (c, t) of a block begins in its input */
    const char *x, *y;
    char *w, *chunks, *workers;
} job;

typedef struct block {
    int64_t g, c, o, channels, outputs;
} block;

/* Output rows oh ... oh + rows of plane (n, od). */
typedef struct unit {
    int64_t n, od, oh, rows;
} unit;

static block block_at(const job *j, int64_t index)
{
    const fc_conv *p = &j->plan->problem;
    const int64_t *tile = j->plan->tile;
    block b = {.o = index % j->l.output_blocks * tile[OUTPUTS]};
    index /= j->l.output_blocks;
    b.c = index % j->l.channel_blocks * tile[CHANNELS];
    b.g = index / j->l.channel_blocks;
    b.outputs = fc_min(tile[OUTPUTS], p->out_channels - b.o);
    b.channels = fc_min(tile[CHANNELS], p->channels - b.c);
    return b;
}

static unit unit_at(const job *j, int64_t index)
{
    const fc_window *w = &j->plan->problem.window;
    int64_t band = index % j->l.bands, plane = index / j->l.bands;
    unit u = {.n = plane / w->out[0], .od = plane % w->out[0], .oh = w->out[1] * band / j->l.bands};
    u.rows = w->out[1] * (band + 1) / j->l.bands - u.oh;
    return u;
}

/* The channels' input behind a unit: in place, or copied to `band`. */
static const char *take_input(const job *j, const block *b, const unit *u, char *band)
{
    static const double zero = 0;
    const fc_conv *p = &j->plan->problem;
    const fc_window *w = &p->window;
    const layout *l = &j->l;
    const char *x = fc_at(j->x, u->n * p->x.n + (b->g * p->channels + b->c) * p->x.c, l->kernels->size);
    if (l->in_place) {
        int64_t at = (u->od * w->stride[0] - w->offset[0]) * p->x.s[0] + (u->oh * w->stride[1] - w->offset[1]) * p->x.s[1];
        return fc_at(x, at - w->offset[2] * p->x.s[2], l->kernels->size);
    }
    fc_band part = l->band;
    for (int64_t c = 0; c < b->channels; c++)
        fc_band_copy(&part, w, l->kernels, fc_at(band, c * l->channel, l->kernels->size),
                     fc_at(x, c * p->x.c, l->kernels->size), p->x.s, u->od, u->oh, &zero);
    return band;
}

/* Where a unit's vectors of pixels begin in X and dY. */
static fc_cross_pixels pixels_of(const job *j, const unit *u, int64_t (*at)[2])
{
    const fc_conv *p = &j->plan->problem;
    int64_t lanes = j->l.kernels->lanes, runs = j->l.flat ? 1 : u->rows;
    int64_t length = j->l.flat ? u->rows * p->window.out[2] : p->window.out[2];
    fc_cross_pixels v = {.at = (const int64_t(*)[2])at, .rest = length % lanes};
    for (int64_t r = 0; r < runs; r++)
        for (int64_t q = 0; q + lanes <= length; q += lanes, v.whole++) {
            at[v.whole][0] = r * j->l.x_row + q;
            at[v.whole][1] = r * p->y.s[1] + q;
        }
    for (at += v.whole; v.rest && v.partial < runs; v.partial++) {
        at[v.partial][0] = v.partial * j->l.x_row + length - lanes;
        at[v.partial][1] = v.partial * p->y.s[1] + length - lanes;
    }
    return v;
}

/* dY's vectors of `count` output channels, next to each other at dst; *pixels then are where these are. */
static void copy_gradient(const job *j, fc_cross_pixels *pixels, const char *y, int64_t count, char *dst, int64_t (*at)[2])
{
    const fc_kernels *kernels = j->l.kernels;
    int64_t vectors = pixels->whole + pixels->partial, lanes = kernels->lanes, size = kernels->size;
    for (int64_t i = 0, n; i < vectors; i += n) {
        for (n = 1; i + n < vectors && pixels->at[i + n][1] == pixels->at[i][1] + n * lanes;)
            n++;
        for (int64_t o = 0; o < count; o++)
            kernels->copy_vectors(fc_at(dst, (o * vectors + i) * lanes, size), lanes,
                                  fc_at(y, o * j->plan->problem.y.c + pixels->at[i][1], size), lanes, 1, n);
    }
    for (int64_t i = 0; i < vectors; i++) {
        at[i][0] = pixels->at[i][0];
        at[i][1] = i * lanes;
    }
    pixels->at = (const int64_t(*)[2])at;
}

/* All tiles of a block, for some pixels. */
static void add_pixels(const job *j, const block *b, const fc_cross_pixels *pixels, const char *x, const char *y, char *sum, int add,
                       int copies, char *scratch)
{
    const fc_kernels *kernels = j->l.kernels;
    int64_t k = b->channels * j->l.taps, size = kernels->size, row = k * kernels->lanes, y_c = j->plan->problem.y.c;
    int64_t down = fc_ceil_div(b->outputs, kernels->cross_columns), across = fc_ceil_div(k, kernels->cross_rows);
    for (int64_t i = 0; i < down; i++) {
        int64_t o = b->outputs * i / down, nr = b->outputs * (i + 1) / down - o, next = y_c;
        const void *columns[FC_CROSS_MAX], *rows[FC_CROSS_MAX];
        const char *from = fc_at(y, o * y_c, size);
        fc_cross_pixels p = *pixels;
        if (copies && across >= COPY_TILES) {
            copy_gradient(j, &p, from, nr, scratch, (int64_t(*)[2])(void *)(scratch + j->l.gradient_bytes));
            from = scratch;
            next = (p.whole + p.partial) * kernels->lanes;
        }
        for (int64_t n = 0; n < nr; n++)
            columns[n] = fc_at(from, n * next, size);
        for (int64_t t = 0; t < across; t++) {
            int64_t first = k * t / across, mr = k * (t + 1) / across - first;
            for (int64_t m = 0; m < mr; m++)
                rows[m] = fc_at(x, j->tap[first + m], size);
            kernels->cross[nr][mr](&p, rows, columns, fc_at(sum, o * row + first * kernels->lanes, size), row, add);
        }
    }
}

static void add_unit(const job *j, const block *b, int64_t index, char *scratch, int add)
{
    const fc_conv *p = &j->plan->problem;
    const layout *l = &j->l;
    unit u = unit_at(j, index);
    int64_t size = l->kernels->size;
    char *gradient = scratch + l->sum_bytes, *pixels = gradient + l->gradient_bytes;
    fc_cross_pixels all = pixels_of(j, &u, (int64_t(*)[2])(void *)pixels + l->slice), slice = all;
    const char *x = take_input(j, b, &u, pixels + l->pixel_bytes);
    int64_t at = u.n * p->y.n + (b->g * p->out_channels + b->o) * p->y.c + u.od * p->y.s[0] + u.oh * p->y.s[1];
    const char *y = fc_at(j->y, at, size);
    int copies = !fc_has_half_multiplier(l->kernels) &&
                 ((uintptr_t)y | (uintptr_t)(p->y.c * size) | (uintptr_t)(l->flat ? 0 : p->y.s[1] * size)) % FC_ALIGN != 0;
    int64_t slices = fc_max(1, fc_ceil_div(all.whole, SLICE));
    for (int64_t i = 0; i < slices; i++) {
        int64_t first = all.whole * i / slices;
        slice.at = all.at + first;
        slice.whole = all.whole * (i + 1) / slices - first;
        slice.partial = i + 1 < slices ? 0 : all.partial;
        add_pixels(j, b, &slice, x, y, scratch, add || i, copies, gradient);
    }
}

static void run_task(void *context, int64_t task, int worker)
{
    const job *j = context;
    const layout *l = &j->l;
    int64_t chunks = j->plan->tile[CHUNKS], chunk = task % chunks, first = l->units * chunk / chunks;
    char *scratch = j->workers + worker * worker_bytes(l);
    block b = block_at(j, task / chunks);
    for (int64_t i = first; i < l->units * (chunk + 1) / chunks; i++)
        add_unit(j, &b, i, scratch, i > first);
    l->kernels->lane_sums(j->chunks + task * l->chunk_bytes, scratch, b.outputs * b.channels * l->taps);
}

/* A block's chunks in order, to dW. */
static void join_chunks(void *context, int64_t task, int worker)
{
    (void)worker;
    const job *j = context;
    const fc_conv *p = &j->plan->problem;
    const layout *l = &j->l;
    block b = block_at(j, task);
    int64_t chunks = j->plan->tile[CHUNKS], size = l->kernels->size, row = b.channels * l->taps;
    char *sum = j->chunks + task * chunks * l->chunk_bytes;
    for (int64_t i = 1; i < chunks; i++)
        l->kernels->scatter_row(sum, 1, sum + i * l->chunk_bytes, b.outputs * row, 1);
    for (int64_t o = 0; o < b.outputs; o++)
        l->kernels->scatter_row(fc_at(j->w, b.g * p->w.g + (b.o + o) * p->w.o + b.c * l->taps, size), 1,
                                fc_at(sum, o * row, size), row, 0);
}

static void fill_taps(const job *j)
{
    const fc_conv *p = &j->plan->problem;
    const fc_window *w = &p->window;
    const layout *l = &j->l;
    int64_t *tap = j->tap;
    for (int64_t c = 0; c < j->plan->tile[CHANNELS]; c++)
        for (int64_t kd = 0; kd < w->kernel[0]; kd++)
            for (int64_t kh = 0; kh < w->kernel[1]; kh++)
                for (int64_t kw = 0; kw < w->kernel[2]; kw++)
                    *tap++ = c * l->channel + (l->in_place ? kd * w->dilation[0] * p->x.s[0] + kh * w->dilation[1] * p->x.s[1] +
                                                                 kw * w->dilation[2]
                                                           : fc_band_tap(&l->band, w, kd, kh, kw));
}

static fc_status run_rows(const fc_conv_plan *plan, void *x, void *w, void *bias, void *y)
{
    (void)bias;
    job j = {.plan = plan, .l = lay_out(plan), .x = x, .y = y, .w = w};
    char *scratch = fc_arena_take(plan->scratch);
    if (!scratch)
        return FC_NO_MEMORY;
    int64_t blocks = blocks_of(&plan->problem, &j.l), tasks = blocks * plan->tile[CHUNKS];
    j.tap = (int64_t *)(void *)scratch;
    j.chunks = scratch + j.l.tap_bytes;
    j.workers = j.chunks + tasks * j.l.chunk_bytes;
    fill_taps(&j);
    fc_parallel(plan->threads, tasks, run_task, &j);
    fc_parallel(plan->threads, blocks, join_chunks, &j);
    fc_arena_give();
    return FC_OK;
}

const fc_driver fc_driver_weight_rows = {"rows", plan_rows, run_rows, .bounded = 0};
