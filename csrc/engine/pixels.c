/* The pixel driver: lanes hold neighbouring output pixels, rows of the product are output channels.
 *
 *     Y[o][q] = b[o] + sum_k W[o][k] X[q + offset[k]],     k = (c, kd, kh, kw)
 *
 * The image, or a padded band of it split by stride phase, *is* matrix B: row k begins at the tap's offset, and neighbouring
 * outputs of any stride are neighbouring lanes, also across the ends of rows, where (pitch - OW) lanes a row are computed
 * and dropped.  No patch is ever stored.
 *
 *     for each image n, group g, plane od, block of output channels, band of output rows    a task
 *         copy the band's input (all channels), or point into the image
 *         for each tile of rows o:  for each block of k:  for each strip of q:  gemm kernel
 *
 * Where lanes are lost at rows' ends, few channels of stride 1 are copied once for each column of taps instead, without gaps, and a band is
 * one row of y.  Where an output row is whole vectors, or its pitch has room for them, rows are products of their own that write y in
 * place: 3-32@32 b32 727 -> 533 us, conv1 of ResNet 1691 -> 1507; not beyond 2 FC_KC terms, for a row's part of B leaves the first-level
 * cache then (5x5 64@28 1.18, 1.84 ms by rows).
 *
 * A 1x1 whose arrays are far (fc_is_far) fetches the next band, or strip, by software, a few lines before each product
 * (8x128-128@56 9.6, now 7.3 ms; 8x256-64@56 11.8, 10.7; 16x64-64@56 7.3, 5.8); a sweep in the kernel, see there.
 *
 * Where y's pixels are no neighbours, as those of a stride's phase, and x is read in place, a sweep's outputs are held in scratch
 * and stored a band at a time; Granite Rapids, one thread, gradient of 1x1s2 256-512@56 by tiles over all of B 2.43 ms, swept 1.83;
 * AVX2 4.08, 3.30, 128-256@56 b2 2.43, 1.89.  Filling x and then writing every second of its pixels takes 0.25 ms of what is left;
 * by masked stores instead of one by one 0.02 less.
 *
 * Far groups of a few channels, each a task that ends before the hardware has seen where the next begins, fetch the next so
 * (Granite Rapids, 32 groups of 4@56, in two states of the machine: 540 to 495, 438 to 427 us; input gradient 545 to 505, 461 to
 * 448).
 *
 * Scratch: the offsets of k, the weights where they are not rows in memory; per worker a band (about FC_BLOCK_BYTES) and a
 * tile's rows of output, unless y can be written in place, or a sweep's strip and the outputs it holds.
 * Rejected: blocking the channels of a band (the output would be read and written once per block of channels; the few rows copied twice
 * cost less); fetching the next band while this one's rows are summed (3x3s2 3-32@299, Zen 5, 197 to 202 us), bands of 40 to 200 KB (the
 * same); for strides of two, each strip's rows split into its own copy instead of a band's (Zen 5, us: 1x1s2 256-512@56 822, 830, each
 * line of the next strip fetched while this one is summed 830; 2x2s2 32-64@112 242, 250, by channels.c 213; the whole plane of the first
 * as one band 812); a copy of the whole padded image (64@224 would take 13 MB); Strassen's method for large 1x1s, seven products of half
 * the size (Zen 4, us: 1024-256@14 931, 847, 512-512@14 904, 844): its rounding errors are as large as the largest channels' and pixels',
 * in all of them: a channel whose weights are zero is no longer exactly its bias.
 */
#include "base/cpu.h"
#include "engine/gemm.h"
#include "engine/output.h"
#include "engine/source.h"
#include "engine/sweep.h"
#include "engine/weights.h"

/* plan->tile: output rows of a band, blocks of output channels; positions of a band where x and y are both read and written in
 * place, so that a plane is one row and bands need not end with its rows: else 0; output columns of a band, all of them unless a
 * single row is more than the cache holds (64-128 k3 L4096: 11.0, now 8.9 ms; k3s2 384-384 L3000: 27.7, now 9.1). */
enum { ROWS, BLOCKS, FLAT, COLUMNS };

/* Terms, times columns that a row computes for nothing, that take as long as a column's copy from a tile: 3x3s2 3-32@299 270 us by
 * tiles, 238 by rows, 3x3x3 3-16@16x56x56 612, 585. */
enum { BY_ROW = 10 };

/* Multiply-adds of a column for nothing, of all channels by a tap of each input channel and plane, that take as long as a column's copy.
 * Zen 5, us by rows and so: 3-16@28 b8 36.5, 26.7; 8-16@28 b8 92, 70; 3-16@56 b8 107, 98; 3-32@149 175, 169; of stride 2, 3-32@299 197,
 * 197, 3-32@224 100, 108. */
enum { SEAMLESS = 6 };

/* Of a band, so that it stays near while row after row of some channels is written, in order.  Granite Rapids, all channels of each
 * row (32 or 64 streams of a row each) and so: 3-64@224 1.81, 1.47 ms, 3-32@32 b32 553, 535 us, 7x7 3-16@128 b4 and 3x3s2 3-32@299
 * the same; in 24 KiB the same. */
enum { NEAR_BYTES = 96 << 10 };

/* Strips of a row that are cut once for all rows, at most. */
enum { STRIPS = 64 };

/* Channels of a tile of two vectors, at most, where rows are products of their own: the next tile's multiply-adds wait for more sums to
 * be stored.  Zen 5, 27 terms, GFLOPS of a row of two vectors by four, five, six, seven, eight, eleven, fourteen channels: 230, 248, 268,
 * 273, 271, 275, 273. */
enum { PAIR_ROWS = 8 };

/* Rows that one call computes where a row is one strip; of two strips two rows, for the lines they share would else be written at different
 * times.  3-32@32 b32 242 to 234 us, 1-16@28 b32 61 to 57. */
enum { STRIP_ROWS = 8 };

/* Products of few rows whose image is far are swept along its rows, so many terms at a time (see sweep.c). */
enum { ALONG_ROWS = 32, ALONG_TERMS = 32 };

/* Of a swept band's outputs at most, which stay in the second-level cache until they are stored. */
enum { HELD_BYTES = 512 << 10 };

typedef struct layout {
    const fc_kernels *kernels;
    fc_source source;
    fc_weights weights;
    fc_conv part;                  /* the problem for a band's columns */
    int64_t k, columns, bands, across; /* bands of a plane, and those among them that lie side by side */
    int64_t positions, last; /* of a flat plane; those among them that are summed over k (sweep.h) */
    int64_t tile_row, tile_bytes, offset_bytes;
    int64_t panel_bytes;  /* of the weights as rows' tiles read them (gemm_short); 0 where rows are not cut once */
    int seamless;         /* from a flat band: the rows of a band are one row of y */
    int in_place, by_row; /* y is written directly, a band or an output row at a time */
    int swept;            /* by `sweep`, whose scratch the tile's bytes begin with then */
    int64_t held;         /* bytes of a sweep's outputs that are held until they are stored; 0 where y is written directly */
    int far;              /* x and y are in no cache, and the rows of B in x */
    int groups_far;       /* nor are these, and a group is a task of rows */
    fc_sweep sweep;
} layout;

/* Whether a plane of x and of y is one row of positions. */
static int one_row(const fc_conv *p, const fc_source *source)
{
    return source->in_place && fc_output_in_place(p, p->window.out[1], source->pitch);
}

/* Those at the end of a flat plane that are summed over k: never elsewhere, or bits would depend on how planes are cut. */
static int64_t last_positions(const fc_conv *p, const fc_kernels *kernels, int64_t positions)
{
    return fc_sweep_pays(p, kernels) ? fc_sweep_last(kernels, positions) : 0;
}

/* Whether the band is copied for each column of taps, so that no vector ends with a row: `last` rows are in the last band.  Where the
 * lanes lost else take longer than the copies; not of a stride, whose copies do. */
static int is_seamless(const fc_conv_plan *plan, const layout *l, int64_t last)
{
    const fc_conv *p = &plan->problem;
    const fc_window *w = &p->window;
    int64_t width = w->out[2], lanes = l->kernels->lanes, beyond = fc_ceil_div(width, lanes) * lanes - width;
    int64_t lost = fc_mul(fc_mul(p->out_channels, fc_mul(w->kernel[1], w->kernel[2])), beyond);
    int pays = lost > fc_mul(fc_mul(SEAMLESS, w->kernel[2] - 1), width);
    return pays && width > lanes && w->stride[2] == 1 && !l->source.in_place && l->across == 1 && l->k <= fc_gemm_block(plan) &&
           !fc_has_short_vectors(l->kernels) && fc_output_in_place(p, plan->tile[ROWS], width) && last * width >= FC_NV_MAX * lanes;
}

static layout lay_out(const fc_conv_plan *plan)
{
    const fc_conv *p = &plan->problem;
    const fc_kernels *kernels = fc_dispatch(p->real);
    int64_t rows = plan->tile[ROWS], flat = plan->tile[FLAT];
    layout l = {.kernels = kernels, .part = *p, .k = fc_reduction(p), .bands = fc_ceil_div(p->window.out[1], rows)};
    int64_t last = p->window.out[1] - (l.bands - 1) * rows; /* rows of the last band */
    l.part.window.out[2] = plan->tile[COLUMNS];
    l.across = fc_ceil_div(p->window.out[2], plan->tile[COLUMNS]);
    l.bands *= l.across;
    int64_t width = p->window.out[2] - (l.across - 1) * plan->tile[COLUMNS]; /* columns of the last band */
    int fills = (last - 1) * p->window.in[2] + p->window.out[2] >= kernels->lanes;
    l.source = fc_source_plan(&l.part, kernels->size, p->channels, rows, fills && l.across == 1);
    l.seamless = is_seamless(plan, &l, last);
    if (l.seamless)
        l.source = fc_source_plan_flat(&l.part, kernels->size, p->channels, rows);
    l.weights = fc_weights_plan(p, kernels->size);
    l.columns = fc_source_columns(&l.source, rows, plan->tile[COLUMNS]);
    l.in_place = fc_output_in_place(&l.part, rows, l.source.pitch) &&
                 fc_source_columns(&l.source, last, width) >= kernels->lanes;
    if (flat) {
        l.positions = fc_source_columns(&l.source, p->window.out[1], p->window.out[2]);
        l.last = last_positions(p, kernels, l.positions);
        l.bands = fc_ceil_div(l.positions - l.last, flat);
        l.columns = fc_min(flat + l.last, l.positions);
        l.in_place = 1;
    }
    l.tile_row = fc_max(l.columns, kernels->lanes);
    int64_t beyond = fc_ceil_div(p->window.out[2], kernels->lanes) * kernels->lanes - l.source.pitch;
    l.by_row = !l.in_place && p->y.s[2] == 1 && width >= kernels->lanes && l.k <= 2 * FC_KC &&
               l.k * beyond <= BY_ROW * p->window.out[2];
    if (!l.in_place && !l.by_row && l.source.in_place && last * p->window.out[2] >= kernels->lanes && fc_sweep_pays(p, kernels))
        l.held = fc_bytes(fc_mul(fc_ceil_div(p->out_channels, plan->tile[BLOCKS]), l.tile_row), kernels->size);
    l.held = l.held <= HELD_BYTES ? l.held : 0;
    l.swept = l.held || (!l.by_row && !l.seamless && l.in_place && fc_sweep_pays(p, kernels));
    /* What is not flat is swept or not as bands are cut: in the same order as fc_gemm_run then. */
    int64_t terms = flat && plan->precision == FC_PRECISION_HIGH ? 2 * FC_KC : fc_gemm_block(plan);
    l.far = l.source.in_place && fc_taps(&p->window) == 1 && fc_is_far(p, kernels->size);
    l.groups_far = l.by_row && l.bands == 1 && plan->tile[BLOCKS] == 1 && p->window.out[0] == 1 && fc_is_far(p, kernels->size);
    l.sweep = (fc_sweep){.kernels = kernels, .k = l.k, .terms = terms, .b_far = l.far || plan->x_far};
    l.sweep.c_far = !l.held && (l.far || plan->y_far);
    l.sweep.along = flat && plan->x_far && p->out_channels <= ALONG_ROWS && !fc_cpu_has_near_cache();
    if (l.sweep.along)
        l.sweep.terms = fc_min(terms, ALONG_TERMS);
    l.sweep.c_past = l.far && !l.held && !p->bounds.on && fc_writes_past(p, kernels->size);
    if (l.swept)
        l.tile_bytes = fc_sweep_bytes(&l.sweep) + l.held;
    else if (!l.by_row && !l.in_place)
        l.tile_bytes = fc_arena_round(fc_min(INT64_MAX / 4, fc_mul((FC_MR_MAX + kernels->lanes) * kernels->size, l.tile_row)));
    l.offset_bytes = fc_arena_round(fc_min(INT64_MAX / 4, fc_mul(l.k, sizeof(int64_t))));
    if (l.seamless || (l.by_row && l.k <= fc_gemm_block(plan) && plan->tile[COLUMNS] <= STRIPS * kernels->lanes))
        l.panel_bytes = fc_arena_round(fc_min(INT64_MAX / 4, fc_mul(fc_mul(p->groups, p->out_channels), l.k * kernels->size)));
    return l;
}

/* Bands of a flat plane in whole vectors, at least one in the last, which takes the plane's last positions too.  A sweep needs none
 * for the cache, only for the threads: so many `tasks` of four vectors at least, and narrower than whole strips where these would not
 * share out evenly (1x1 64-256@56 at two threads, Zen 5: eight bands of 27 vectors, the last of seven, 248 us, of 25 231). */
static int64_t flat_columns(const fc_conv *p, const fc_kernels *kernels, const fc_source *source, int64_t bands, int64_t tasks,
                            int threads)
{
    int64_t positions = fc_source_columns(source, p->window.out[1], p->window.out[2]), lanes = kernels->lanes;
    positions -= last_positions(p, kernels, positions);
    int64_t vectors = fc_ceil_div(positions, lanes);
    int64_t most = fc_max(1, 2 * FC_BLOCK_BYTES / kernels->size / lanes / fc_max(1, p->channels));
    if (fc_sweep_pays(p, kernels)) {
        most = vectors;
        bands = fc_max(bands, fc_min(tasks, vectors / 4));
    }
    int64_t columns = fc_ceil_div(vectors, fc_max(bands, fc_ceil_div(vectors, most))), strip = kernels->nv;
    int64_t whole = columns > 2 * strip ? fc_min(vectors, fc_ceil_div(columns, strip) * strip) : columns, least = INT64_MAX;
    for (int64_t n = threads > 1 ? columns : whole; n <= whole; n++) {
        int64_t time = fc_mul(n, fc_ceil_div(fc_mul(p->batch * p->groups, fc_ceil_div(vectors, n)), threads));
        columns = time <= least ? n : columns;
        least = fc_min(time, least);
    }
    columns *= lanes;
    while (positions % columns && positions % columns < lanes && columns < positions)
        columns += lanes;
    return columns;
}

/* Columns of a band of one row: all, or in whole strips as many as the cache holds, with at least a vector in the last band. */
static int64_t columns_of(const fc_conv *p, const fc_kernels *kernels)
{
    fc_band row = fc_band_plan(&p->window, 1);
    int64_t width = p->window.out[2], strip = kernels->nv * kernels->lanes;
    int64_t bytes = fc_mul(fc_mul(p->channels, row.channel), kernels->size), bands = fc_ceil_div(bytes, FC_BLOCK_BYTES);
    int64_t columns = fc_max(4, fc_ceil_div(fc_ceil_div(width, bands), strip)) * strip;
    if (bands == 1 || columns >= width)
        return width;
    return width % columns && width % columns < kernels->lanes ? columns + strip : columns;
}

/* Fewer rows, down to half as many, if theirs are whole vectors; the last vector of a sweep is computed in part for nothing. */
static int64_t whole_rows(const fc_conv *p, const fc_kernels *kernels, int64_t rows)
{
    for (int64_t r = rows; 2 * r > rows; r--)
        if (r * p->window.out[2] % kernels->lanes == 0)
            return r;
    return rows;
}

/* Bands high enough for the cache; enough tasks for the threads, first by lower bands, then by blocks of channels. */
static void choose_tile(fc_conv_plan *plan, const fc_kernels *kernels)
{
    const fc_conv *p = &plan->problem;
    int64_t height = p->window.out[1], images = fc_mul(fc_mul(p->batch, p->groups), p->window.out[0]);
    int64_t rows = fc_source_rows(p, kernels->size, p->channels, FC_BLOCK_BYTES), blocks = 1, bands = 1;
    int64_t wanted = plan->threads > 1 ? 4 * plan->threads : 1;
    if (images * fc_ceil_div(height, rows) < wanted) {
        bands = fc_min(fc_ceil_div(wanted, images), fc_ceil_div(height, 4));
        rows = fc_min(rows, fc_ceil_div(height, fc_max(bands, 1)));
        int64_t tasks = images * fc_ceil_div(height, rows);
        blocks = fc_max(1, fc_min(fc_ceil_div(wanted, tasks), p->out_channels / kernels->mr[kernels->nv]));
    }
    plan->tile[ROWS] = fc_sweep_pays(p, kernels) ? whole_rows(p, kernels, rows) : rows;
    plan->tile[BLOCKS] = blocks;
    plan->tile[FLAT] = 0;
    plan->tile[COLUMNS] = rows == 1 ? columns_of(p, kernels) : p->window.out[2];
    fc_source whole = fc_source_plan(p, kernels->size, p->channels, height, 1);
    if (one_row(p, &whole) && fc_source_columns(&whole, height, p->window.out[2]) >= kernels->lanes) {
        plan->tile[ROWS] = height;
        plan->tile[COLUMNS] = p->window.out[2];
        plan->tile[FLAT] = flat_columns(p, kernels, &whole, bands, fc_ceil_div(wanted, fc_max(1, images)),
                                        plan->threads);
        int64_t tasks = images * fc_ceil_div(fc_source_columns(&whole, height, p->window.out[2]), plan->tile[FLAT]);
        if (tasks >= wanted)
            plan->tile[BLOCKS] = 1; /* each would read all of x again */
    }
}

/* Nanoseconds to copy an element to a band.  Zen 5, one thread: 1-16@28 b32 90 us, 3-32@32 b32 374 us, 64-64@224 17.5 ms.  Emerald
 * Rapids: 3x3s2 3-32@299 split 70 us, stored 115; channels last, one by one: 32-16@112 0.7 ms, by channels 0.26.  Zen 3: gradient of
 * 3-32@32 b32 channels last, one by one 3.0 ms, transposed 1.7. */
static double take_cost(const fc_conv *p, double bytes)
{
    if (p->x.s[2] != 1)
        return p->x.c == 1 ? 0.2 : 1.0;
    if (p->window.stride[2] > 1)
        return (fc_taps(&p->window) == 1 ? 0.05 : 0.0375) * bytes;
    return 0.0125 * bytes;
}

static const char *plan_pixels(fc_conv_plan *plan, double *cost)
{
    const fc_conv *p = &plan->problem;
    const fc_kernels *kernels = fc_dispatch(p->real);
    if (!fc_reduction(p))
        return "there is nothing to sum";
    choose_tile(plan, kernels);
    layout l = lay_out(plan);
    int64_t worker = fc_add(l.source.bytes, l.tile_bytes);
    plan->scratch = fc_add(fc_mul(plan->threads, worker), fc_add(l.offset_bytes, fc_add(l.weights.bytes, l.panel_bytes)));
    if (plan->scratch > fc_scratch_max(plan->threads))
        return "a padded band of the input, or the rows of the weights, exceed the scratch bound";
    double tasks = (double)p->batch * (double)p->groups * (double)p->window.out[0] * (double)l.bands;
    const int whole_lines = kernels->lanes * kernels->size >= FC_ALIGN; /* vectors; shorter ones cross half as many */
    double strips = (double)fc_ceil_div(p->out_channels, kernels->mr[kernels->nv]) * (double)l.part.window.out[2] /
                    (double)(kernels->lanes * kernels->nv); /* of a row, by tiles of rows: each 2 ns more than in a long strip */
    double gemm = l.by_row ? (double)plan->tile[ROWS] *
                                 (fc_gemm_cost(kernels, p->out_channels, p->window.out[2], l.k) + 2 * strips)
                  : l.swept ? fc_sweep_cost(&l.sweep, p->out_channels, l.columns, l.last)
                            : fc_gemm_cost(kernels, p->out_channels, l.columns, l.k);
    if (!plan->tile[FLAT]) /* the last band's rows may be fewer */
        tasks *= (double)(p->window.out[1] * l.across) / (double)(plan->tile[ROWS] * l.bands);
    if (fc_taps(&p->window) > 1 && whole_lines && (!l.panel_bytes || fc_has_half_multiplier(kernels)))
        gemm *= 1.12; /* most taps' vectors cross lines: of 26 rows of the benchmark 2.72 measured / estimated, by channels 2.42 */
    if (l.by_row && whole_lines && p->window.out[2] < 2 * kernels->lanes && p->window.out[2] % kernels->lanes)
        gemm *= 1.25; /* strips of one vector: 3-16@28 b8, 8-16@28 b8 37, 93 us, else estimated 30, 74 */
    double copied = l.source.in_place ? 0 : (double)(plan->tile[BLOCKS] * p->channels) * (double)l.source.channel;
    double stored = l.in_place || l.by_row ? 0 : (double)p->out_channels * (double)l.columns;
    double bytes = (double)kernels->size, rows = copied / (double)l.source.pitch + stored / (double)l.source.pitch;
    *cost = 300 + (double)l.k + tasks * (60 + gemm + take_cost(p, bytes) * copied + 0.0275 * bytes * stored + 2.0 * rows) +
            (fc_taps(&p->window) == 1 && p->w.o == 1 ? 0.06 : 0.3) * (double)l.weights.bytes; /* transposed in registers, or not */
    return NULL;
}

typedef struct job {
    const fc_conv_plan *plan;
    layout l;
    fc_gemm gemm;
    const char *x, *w, *bias;
    char *y, *panels, *scratch;
    int64_t worker_bytes;
    int held; /* outputs that a tile holds at least before it is stored */
} job;

/* The rows of `outputs` channels; of each row all channels at once where they are neighbours in y. */
static void store_tile(const job *j, const fc_conv *p, char *y, const char *tile, int outputs, int64_t rows)
{
    const fc_kernels *kernels = j->l.kernels;
    int64_t size = kernels->size, pitch = j->l.source.pitch;
    if (p->y.c == 1 && p->y.s[2] != 1)
        for (int64_t r = 0; r < rows; r++)
            kernels->transpose(fc_at(y, r * p->y.s[1], size), p->y.s[2], fc_at(tile, r * pitch, size), j->l.tile_row, outputs,
                               p->window.out[2]);
    else
        for (int m = 0; m < outputs; m++)
            fc_output_store(p, kernels, fc_at(y, m * p->y.c, size), fc_at(tile, m * j->l.tile_row, size), rows, pitch);
}

/* A task: some outputs of a band, for one image and group. */
typedef struct piece {
    fc_conv part; /* the problem for the band's columns */
    int64_t outputs, rows, columns, summed; /* of its columns, so many are summed over k */
    const char *w, *panels, *b, *bias;
    const char *next; /* the b of the next task, where it is far away; else NULL */
    char *y;
    fc_ahead x_ahead, y_ahead; /* of the next group, fetched while the rows of this one are summed */
} piece;

/* The planes of `channels` from `at` on, where they have no gaps; of two axes. */
static fc_ahead planes_ahead(const void *at, const fc_array_strides *a, int64_t channels, int64_t height, int64_t width,
                             int64_t size)
{
    int dense = a->s[2] == 1 && a->s[1] == width;
    return (fc_ahead){at, a->c * size, dense ? channels : 0, fc_ceil_div(height * width * size, FC_ALIGN), 0};
}

/* A strip of a row: its first column, its vectors. */
typedef struct strip {
    int64_t column;
    int vectors;
} strip;

/* The strips of a row as fc_gemm_run cuts it.  To cut it once for all rows saves a tenth of rows of two vectors: 3-32@32 b32 300, now
 * 268 us. */
static int64_t cut_row(const fc_gemm *g, strip *strips)
{
    int64_t lanes = g->kernels->lanes, vectors = fc_ceil_div(g->columns, lanes), last = 0, count = 0;
    if (g->columns % lanes) {
        last = fc_gemm_last_strip(g->strip, vectors);
        last = last * lanes > g->columns ? 1 : last;
    }
    int64_t column[2] = {0, g->columns - last * lanes}, part[2] = {vectors - last, last};
    for (int i = 0; i < 2; i++)
        for (int64_t done = 0; done < part[i]; done += strips[count++].vectors)
            strips[count] = (strip){column[i] + done * lanes, fc_gemm_next_strip(g->strip, part[i] - done)};
    return count;
}

/* Rows of the next tile of a row's channels when `outputs` are left: the tiles are balanced. */
static int64_t next_rows(const fc_gemm *g, int64_t outputs)
{
    return fc_ceil_div(outputs, fc_ceil_div(outputs, g->rows));
}

/* The weights of a group's block as panels, [k][rows of a tile] after each other. */
static void pack_panels(void *context, int64_t task, int worker)
{
    (void)worker;
    const job *j = context;
    const fc_conv *p = &j->plan->problem;
    int64_t size = j->l.kernels->size, blocks = j->plan->tile[BLOCKS], g = task / blocks, block = task % blocks;
    int64_t end = p->out_channels * (block + 1) / blocks;
    for (int64_t o = p->out_channels * block / blocks, mr; o < end; o += mr) {
        mr = next_rows(&j->gemm, end - o);
        j->l.kernels->transpose(fc_at(j->panels, (g * p->out_channels + o) * j->l.k, size), mr,
                                fc_at(j->w, g * j->l.weights.g + o * j->l.weights.o, size), j->l.weights.o, mr, j->l.k);
    }
}

/* Rows of the band one by one, written in place: a few channels of as many rows as leave their input near. */
static void row_piece(const job *j, const piece *t)
{
    const fc_kernels *kernels = j->l.kernels;
    const fc_source *source = &j->l.source;
    int64_t size = kernels->size, row = j->l.k / (t->part.window.kernel[1] * t->part.window.kernel[2]) * source->pitch * size;
    int64_t most = fc_max(1, NEAR_BYTES / (row * source->band.slots[0] * source->band.slots[1])), next = t->part.y.s[1];
    fc_gemm gemm = j->gemm;
    fc_ahead x_ahead = t->x_ahead, y_ahead = t->y_ahead;
    int64_t x_lines = fc_ceil_div(x_ahead.rows * x_ahead.lines, t->rows), y_lines = fc_ceil_div(y_ahead.rows * y_ahead.lines, t->rows);
    gemm.columns = t->columns;
    strip strips[STRIPS];
    int64_t count = j->l.panel_bytes ? cut_row(&gemm, strips) : 0, at_once = count == 1 ? STRIP_ROWS : count == 2 ? 2 : 1;
    for (int64_t first = 0, rows; first < t->rows; first += rows) {
        rows = fc_min(most, t->rows - first);
        for (int64_t o = 0, mr; o < t->outputs; o += mr) {
            mr = next_rows(&gemm, t->outputs - o);
            const void *a[FC_MR_MAX], *init = t->bias ? fc_at(t->bias, o, size) : NULL;
            for (int64_t m = 0; m < mr && !count; m++)
                a[m] = fc_at(t->w, (o + m) * j->l.weights.o, size);
            for (int64_t r = first, n; r < first + rows; r += n) {
                n = fc_min(at_once, first + rows - r);
                if (o == 0) {
                    fc_fetch(&x_ahead, n * x_lines);
                    fc_fetch(&y_ahead, n * y_lines);
                }
                char *y = fc_at(t->y, o * t->part.y.c + r * next, size);
                const char *b = fc_at(t->b, r * source->pitch, size);
                for (const strip *i = strips; i < strips + count; i++)
                    kernels->gemm_short[i->vectors][mr](n, gemm.k, fc_at(t->panels, o * gemm.k, size), mr, fc_at(b, i->column, size),
                                                        source->pitch, gemm.b_offset, fc_at(y, i->column, size), next, t->part.y.c, init,
                                                        0);
                if (!count)
                    fc_gemm_run(&gemm, (int)mr, a, b, y, t->part.y.c, init, 0);
                for (int64_t i = 0; i < n * mr && t->part.bounds.on; i++)
                    fc_output_clamp(&t->part, kernels, fc_at(y, i / n * t->part.y.c + i % n * next, size), t->columns);
            }
        }
    }
}

/* A band whose rows are one: strips that follow each other are one call, a part of the band at a time that stays near. */
static void seamless_piece(const job *j, const piece *t)
{
    const fc_kernels *kernels = j->l.kernels;
    const fc_gemm *gemm = &j->gemm;
    int64_t size = kernels->size, width = gemm->strip * kernels->lanes, most = fc_max(1, NEAR_BYTES / (gemm->k * size) / width) * width;
    for (int64_t at = 0, columns; at < t->columns; at += columns) {
        columns = t->columns - at < 2 * most ? t->columns - at : most;
        for (int64_t o = 0, mr; o < t->outputs; o += mr) {
            mr = next_rows(gemm, t->outputs - o);
            const void *init = t->bias ? fc_at(t->bias, o, size) : NULL, *panel = fc_at(t->panels, o * gemm->k, size);
            char *y = fc_at(t->y, o * t->part.y.c + at, size);
            const char *b = fc_at(t->b, at, size);
            int64_t times = columns / width, left = fc_ceil_div(columns % width, kernels->lanes), from = columns - left * kernels->lanes;
            kernels->gemm_short[gemm->strip][mr](times, gemm->k, panel, mr, b, width, gemm->b_offset, y, width, t->part.y.c, init, 0);
            if (left)
                kernels->gemm_short[left][mr](1, gemm->k, panel, mr, fc_at(b, from, size), 0, gemm->b_offset, fc_at(y, from, size), 0,
                                              t->part.y.c, init, 0);
            for (int64_t m = 0; m < mr; m++)
                fc_output_clamp(&t->part, kernels, fc_at(y, m * t->part.y.c, size), columns);
        }
    }
}

/* All outputs of the band at once, stored then if y cannot be written in place. */
static void sweep_piece(const job *j, const piece *t, char *scratch)
{
    const fc_kernels *kernels = j->l.kernels;
    int64_t size = kernels->size;
    char *tile = scratch + j->l.tile_bytes - j->l.held, *y = j->l.held ? tile : t->y;
    fc_sweep sweep = j->l.sweep;
    sweep.rows = t->outputs;
    sweep.a_row = j->l.weights.o;
    sweep.b_row = j->l.source.channel;
    sweep.c_row = j->l.held ? j->l.tile_row : t->part.y.c;
    fc_sweep_run(&sweep, t->columns, t->summed, t->w, t->b, t->next, y, t->bias, scratch);
    for (int64_t o = 0; o < t->outputs; o++)
        fc_output_clamp(&t->part, kernels, fc_at(y, o * sweep.c_row, size), t->columns);
    if (j->l.held)
        store_tile(j, &t->part, t->y, tile, (int)t->outputs, t->rows);
}

/* A few outputs after the others.  Where channels are neighbours in y, as many as make a vector are stored at once. */
static void tile_piece(const job *j, const piece *t, char *tile)
{
    const fc_kernels *kernels = j->l.kernels;
    int64_t size = kernels->size;
    fc_gemm gemm = j->gemm;
    gemm.columns = t->columns;
    fc_ahead next = {t->next, j->l.source.channel * size, t->next ? j->l.k : 0, fc_ceil_div(t->columns * size, FC_ALIGN), 0};
    int64_t tiles = fc_ceil_div(t->outputs, gemm.rows) * fc_ceil_div(t->columns, gemm.strip * kernels->lanes);
    gemm.ahead = t->next ? &next : NULL;
    gemm.fetch = fc_ceil_div(next.rows * next.lines, tiles);
    for (int64_t o = 0, held = 0; o < t->outputs;) {
        int mr = (int)fc_min(gemm.rows, t->outputs - o);
        const void *a[FC_MR_MAX], *init = t->bias ? fc_at(t->bias, o, size) : NULL;
        for (int m = 0; m < mr; m++)
            a[m] = fc_at(t->w, (o + m) * j->l.weights.o, size);
        char *y = j->l.in_place ? fc_at(t->y, o * t->part.y.c, size) : fc_at(tile, held * j->l.tile_row, size);
        int64_t row = j->l.in_place ? t->part.y.c : j->l.tile_row;
        fc_gemm_run(&gemm, mr, a, t->b, y, row, init, 0);
        for (int m = 0; m < mr; m++)
            fc_output_clamp(&t->part, kernels, fc_at(y, m * row, size), gemm.columns);
        o += mr;
        held += mr;
        if (!j->l.in_place && (held >= j->held || o == t->outputs)) {
            store_tile(j, &t->part, fc_at(t->y, (o - held) * t->part.y.c, size), tile, (int)held, t->rows);
            held = 0;
        }
    }
}

static void run_task(void *context, int64_t task, int worker)
{
    const job *j = context;
    const fc_conv *p = &j->plan->problem;
    const fc_kernels *kernels = j->l.kernels;
    int64_t size = kernels->size, blocks = j->plan->tile[BLOCKS], flat = j->plan->tile[FLAT];
    /* A block's bands follow each other: a worker, whose tasks do, keeps the block's weights in its cache. */
    int64_t band = task % j->l.bands, block = task / j->l.bands % blocks, rest = task / blocks / j->l.bands;
    int64_t od = rest % p->window.out[0], g = rest / p->window.out[0] % p->groups, n = rest / p->window.out[0] / p->groups;
    int64_t oh = flat ? 0 : band / j->l.across * j->plan->tile[ROWS];
    int64_t q = flat ? band * flat : band % j->l.across * j->plan->tile[COLUMNS];
    int64_t first = p->out_channels * block / blocks, o = g * p->out_channels + first;
    piece t = {.part = j->l.part, .outputs = p->out_channels * (block + 1) / blocks - first};
    t.rows = fc_min(j->plan->tile[ROWS], p->window.out[1] - oh);
    const char *x = fc_at(j->x, n * p->x.n + g * p->channels * p->x.c, size);
    int ends = band == j->l.bands - 1;
    if (flat) {
        t.part.window.out[2] = p->window.out[2];
        t.columns = ends ? j->l.positions - q : flat;
        t.summed = ends ? j->l.last : 0;
        x = fc_at(x, q, size);
    } else {
        t.part.window.out[2] = fc_min(t.part.window.out[2], p->window.out[2] - q);
        t.part.window.offset[2] -= q * p->window.stride[2];
        t.columns = j->l.by_row ? t.part.window.out[2] : fc_source_columns(&j->l.source, t.rows, t.part.window.out[2]);
    }
    char *scratch = j->scratch + worker * j->worker_bytes, *tile = scratch + j->l.source.bytes;
    t.b = fc_source_take(&j->l.source, &t.part, kernels, scratch, x, p->channels, od, oh);
    int64_t after = p->x.c > j->l.positions ? j->l.positions : p->channels * p->x.c; /* more of the plane, or the next image */
    t.next = flat && j->l.sweep.b_far ? fc_at(t.b, ends ? after - q : flat, size) : NULL;
    t.w = fc_at(j->w, g * j->l.weights.g + first * j->l.weights.o, size);
    t.panels = fc_at(j->panels, o * j->l.k, size);
    t.bias = j->bias ? fc_at(j->bias, o, size) : NULL;
    t.y = fc_at(j->y, n * p->y.n + o * p->y.c + od * p->y.s[0] + oh * p->y.s[1] + q * (flat ? 1 : p->y.s[2]), size);
    if (j->l.groups_far && g + 1 < p->groups) {
        t.x_ahead = planes_ahead(fc_at(x, p->channels * p->x.c, size), &p->x, p->channels, p->window.in[1], p->window.in[2], size);
        t.y_ahead = planes_ahead(fc_at(t.y, p->out_channels * p->y.c, size), &p->y, p->out_channels, p->window.out[1],
                                 p->window.out[2], size);
    }
    if (j->l.seamless)
        seamless_piece(j, &t);
    else if (j->l.by_row)
        row_piece(j, &t);
    else if (j->l.swept)
        sweep_piece(j, &t, tile);
    else
        tile_piece(j, &t, tile);
}

static fc_status run_pixels(const fc_conv_plan *plan, void *x, void *w, void *bias, void *y)
{
    const fc_conv *p = &plan->problem;
    job j = {.plan = plan, .l = lay_out(plan), .x = x, .bias = bias, .y = y};
    char *scratch = fc_arena_take(plan->scratch);
    if (!scratch)
        return FC_NO_MEMORY;
    int64_t *offset = (int64_t *)(void *)scratch;
    fc_source_offsets(&j.l.source, &j.l.part, p->channels, offset);
    scratch += j.l.offset_bytes;
    j.w = fc_weights_take(&j.l.weights, p, j.l.kernels, plan->threads, scratch, w);
    j.panels = scratch + j.l.weights.bytes;
    j.scratch = j.panels + j.l.panel_bytes;
    j.worker_bytes = j.l.source.bytes + j.l.tile_bytes;
    fc_gemm_plan(&j.gemm, j.l.kernels, p->out_channels / plan->tile[BLOCKS],
                 j.l.by_row ? j.l.part.window.out[2] : j.l.columns);
    if (j.l.by_row && j.gemm.strip == 2)
        j.gemm.rows = (int)fc_min(j.gemm.rows, PAIR_ROWS);
    j.gemm.k = j.l.k;
    j.gemm.terms = fc_gemm_block(plan);
    if (p->y.c == 1 && p->y.s[2] != 1 && !j.l.in_place) {
        j.held = (int)j.l.kernels->lanes;
        while (j.gemm.rows < p->out_channels && j.held % j.gemm.rows && j.gemm.rows > 1)
            j.gemm.rows--;
    }
    j.gemm.b_offset = offset;
    if (j.l.panel_bytes)
        fc_parallel(plan->threads, p->groups * plan->tile[BLOCKS], pack_panels, &j);
    fc_parallel(plan->threads, p->batch * p->groups * p->window.out[0] * j.l.bands * plan->tile[BLOCKS], run_task, &j);
    fc_arena_give();
    return FC_OK;
}

const fc_driver fc_driver_pixels = {"pixels", plan_pixels, run_pixels, .bounded = 1};
