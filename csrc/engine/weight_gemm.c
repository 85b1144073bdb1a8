/* The weight gradient as a product: rows are output channels, lanes are taps of a row and input channels, the sum runs over
 * output pixels.
 *
 *     dW[o][kd, kh][kw, c] = sum_{n, p} dY[n][o][p] X[p + (kd, kh)][kw, c]
 *
 * A is dY itself, in place where its pixels are neighbours in memory.  B is X, pixels by channels: a bundle of channels is
 * transposed into a panel once, and taps kw of a pixel, kw + 1 the next pixel's, are one row of it: no patch is packed.
 * Bundles are as wide as makes whole strips (KW = 3: one vector of channels, 9x3 tiles), so that a block of the sum's rows
 * of B stays in the first-level cache.  Of fewer channels than lanes, a pixel holds the KH rows below it too (folded).
 *
 *     for each chunk of the sum, group g, block of bundles, block of output channels      a task
 *         for each unit (a band of rows of a plane, a stripe of one very long row, some small planes) of the chunk, in order
 *             pack the bundles' panels
 *             for each block of pixels of it:  copy dY's, unless in place
 *                 for each bundle, tile of rows o, tap (kd, kh): gemm kernel, added to the block of dW
 *     for each block: add its chunks in order, store
 *
 * Rows of outputs whose tap kh meets only padding are left out of its products: 48-48@4x4000 2.81 to 2.35 ms, 512-512@7 1.45 to 1.35
 * (Zen 5).  Where dY is copied, blocks have as many output as input channels, so that neither is copied often: 512-512@7 b8 9.2 to
 * 7.7 ms.
 *
 * The sum is cut into chunks, where the blocks alone are too few tasks, by the problem's shape and never by the number of
 * threads, so that the bits do not depend on it.  Rejected: lanes over output channels, rows over taps (dY transposed anew
 * for every block of channels, the whole of dW transposed to be stored, tiles of two vectors at 7 and 14 pixels a row:
 * 512-512@14 8.9 ms, 1x1 512@14 1.28 ms); lanes over pixels with horizontal sums (x0.5); packing patches transposed (KH KW
 * times as much to transpose); bands with gaps of zeros in dY (0 times an infinity of the next row's would be NaN).
 */
#include <math.h>

#include "engine/weight_panel.h"
#include "engine/weight_tiles.h"
#include "engine/weights.h"

enum { BUNDLES, OUTPUTS, ROWS, CHUNKS }; /* plan->tile: of a block; output rows of a unit, through planes; parts of the sum */
enum { TASKS_WANTED = 16, JOINS = 16, CHUNK_BYTES_MAX = 8 << 20, PANEL_BYTES = 640 << 10, BUNDLE_BYTES = 256 << 10 };
enum { WIDTH_MAX = 4096, COLUMN_VECTORS = 12, WIDE_VECTORS = 16, GRADIENT_PAD = 16, KEPT_MAX = 64, STORED_AHEAD = 4 };

/* The output rows where a tap of a column meets the image. */
typedef struct line {
    int64_t begin, end;
} line;

typedef struct layout {
    const fc_kernels *kernels;
    fc_panel panel;
    int64_t wide, bundle, bundles;          /* taps that are lanes; channels of a bundle; bundles of a group */
    int64_t products, columns;              /* taps that are products; lanes of each, in whole vectors */
    int64_t planes, bands, stripes, width;  /* planes of a unit; bands, and stripes of so many columns, of a plane */
    int64_t units, pixels;                  /* of the sum; of a unit */
    int64_t plane, bundle_panel, sum_row;   /* elements: panel of a plane and kd, of a unit; dW of one output channel */
    int64_t channel_blocks, output_blocks;
    int64_t row_step, column_step;          /* panel rows from one output row to the next, and columns */
    int64_t terms;                          /* pixels of a block of the sum, at most */
    int in_place, skips;                    /* dY is; rows of products that meet only padding are left out */
    int fetches;                            /* the next unit's input, meanwhile */
    int64_t lines;                          /* taps of a column that are products */
    int64_t place_bytes, line_bytes, tap_bytes, panel_bytes, temp_bytes, sum_bytes, gradient_bytes;
} layout;

static line line_of(const fc_window *w, int64_t kh)
{
    int64_t before = w->offset[1] - kh * w->dilation[1], after = w->in[1] + before, stride = w->stride[1];
    int64_t begin = before > 0 ? fc_min(w->out[1], fc_ceil_div(before, stride)) : 0;
    return (line){begin, after > 0 ? fc_max(begin, fc_min(w->out[1], fc_ceil_div(after, stride))) : begin};
}

/* Part of the products' rows that are not left out. */
static double kept(const fc_window *w, const layout *l)
{
    double rows = 0;
    if (!l->skips || l->lines > KEPT_MAX)
        return 1;
    for (int64_t kh = 0; kh < l->lines; kh++) {
        line at = line_of(w, kh);
        rows += (double)(at.end - at.begin);
    }
    return rows / (double)(w->out[1] * l->lines);
}

/* Folded, or in how many bundles: what makes the cheapest strips, narrow bundles before wide ones.  Vectors of half a cache line: wide ones
 * before narrow, whose rows of A are read again for each, and whose rows of dW are shorter; the widest where one block is all of a plane's
 * sum.  Bundles of four vectors, of eight (or three by four) and of sixteen (Zen 3): 1x1 512-512@14 1245, 1200, 1146 us, 1024-256@14 1280,
 * 1253, 1227, 64-256@56 1266, 1225, 3x3 512-512@7 (of three by two) 5200, 4100.  Rejected there: dY or x, channels last, fetched while the
 * block before is multiplied, in bursts or with each term (64-256@56 1368, 1418 and 1365).  Granite Rapids, 1x1s, blocks
 * of 64, 100 and 144 pixels, strips of three vectors: 1.00 to 1.25 of the time. */
static void choose_bundle(layout *l, const fc_conv *p)
{
    const int64_t *kernel = p->window.kernel, *out = p->window.out;
    int64_t lanes = l->kernels->lanes, halves = fc_has_short_vectors(l->kernels);
    int64_t most = halves && fc_taps(&p->window) == 1 && out[1] * out[2] <= FC_KC ? WIDE_VECTORS : COLUMN_VECTORS;
    double least = INFINITY;
    for (int64_t vectors = fc_max(1, most / l->wide); vectors > 0; vectors--) {
        int64_t whole = fc_weight_part(fc_ceil_div(p->channels, lanes), vectors) * lanes;
        int64_t width = p->channels < lanes ? p->channels : whole, bundles = fc_ceil_div(p->channels, width);
        double cost = (double)bundles * fc_weight_columns_cost(l->kernels, fc_ceil_div(l->wide * width, lanes));
        if (cost > least || (halves && cost == least))
            continue;
        least = cost;
        l->bundle = l->panel.width = width;
        l->bundles = bundles;
    }
    l->panel.fold = 1;
    int64_t folded = fc_mul(kernel[1], p->channels);
    int dense = l->wide == kernel[2] && p->window.dilation[1] == 1;
    if (p->channels < lanes && kernel[1] > 1 && dense && folded * l->wide <= 16 * COLUMN_VECTORS * lanes &&
        fc_weight_columns_cost(l->kernels, fc_ceil_div(folded * l->wide, lanes)) < 0.9 * least * (double)kernel[1]) {
        l->panel.fold = kernel[1];
        l->panel.width = folded;
    }
    l->lines = l->panel.fold > 1 ? 1 : kernel[1];
    l->products = kernel[0] * l->lines * (kernel[2] / l->wide);
    l->skips = l->panel.fold == 1 && (p->window.offset[1] > 0 || !fc_lies_inside(&p->window));
    l->columns = fc_ceil_div(l->wide * l->panel.width, lanes) * lanes;
}

/* The panel's rows and columns: only those that are read where the kernel has one row, or column. */
static void lay_out_panel(layout *l, const fc_conv *p, int64_t rows)
{
    const fc_window *w = &p->window;
    int one_row = w->kernel[1] == 1 || l->panel.fold > 1, one_column = w->kernel[2] == 1;
    l->panel.step[0] = one_row ? w->stride[1] : 1;
    l->panel.step[1] = one_column ? w->stride[2] : 1;
    l->row_step = one_row ? 1 : w->stride[1];
    l->column_step = one_column ? 1 : w->stride[2];
    l->panel.rows = one_row ? rows : (rows - 1) * w->stride[1] + (w->kernel[1] - 1) * w->dilation[1] + 1;
    l->panel.pitch = one_column ? l->width : (l->width - 1) * w->stride[2] + (w->kernel[2] - 1) * w->dilation[2] + 1;
    l->plane = fc_panel_elements(&l->panel, l->panel.rows);
    l->bundle_panel = fc_mul(fc_mul(l->planes, w->kernel[0]), l->plane);
}

static layout lay_out(const fc_conv_plan *plan)
{
    const fc_conv *p = &plan->problem;
    const fc_window *w = &p->window;
    const fc_kernels *kernels = fc_dispatch(p->real);
    int64_t rows = fc_min(plan->tile[ROWS], w->out[1]), size = kernels->size;
    layout l = {.kernels = kernels, .wide = w->kernel[2] == 1 || w->dilation[2] == 1 ? w->kernel[2] : 1};
    l.planes = fc_max(1, plan->tile[ROWS] / w->out[1]);
    l.bands = fc_ceil_div(w->out[1], rows);
    l.width = fc_weight_part(w->out[2], WIDTH_MAX);
    l.stripes = fc_ceil_div(w->out[2], l.width);
    l.units = fc_mul(fc_ceil_div(p->batch * w->out[0], l.planes), fc_mul(l.bands, l.stripes));
    l.pixels = fc_mul(fc_mul(l.planes, rows), l.width);
    choose_bundle(&l, p);
    lay_out_panel(&l, p, rows);
    l.channel_blocks = fc_ceil_div(l.bundles, plan->tile[BUNDLES]);
    l.output_blocks = fc_ceil_div(p->out_channels, plan->tile[OUTPUTS]);
    l.sum_row = fc_mul(fc_mul(plan->tile[BUNDLES], l.products), l.columns);
    l.in_place = l.planes == 1 && p->y.s[2] == 1 && (p->y.s[1] == w->out[2] || rows == 1);
    /* One tap's rows of B are a cache line for each vector of channels, and are then summed by halves of a block; vectors of half a line
     * are not (1x1 512-512@14 1345 to 1260 us, 1024-256@14 1348 to 1281, Zen 3), nor is what fits one block, whose dW is then written
     * once (431 to 416, 440 to 427, Zen 5).
     * Where dY, in place, comes from far, a tile takes all pixels of a unit: six long rows of it, which hardware follows, while B comes
     * from the second-level cache.  By blocks of pixels each of 64 channels' rows was read in short pieces: 1x1 64-64@56 b16 5.9 to 3.7
     * ms, two threads 2.8 to 1.95, 1x1 64-256@56 845 to 820 us, read from memory 1078 to 975, 1x1s2 256-512@56 1750 to 1700 (Granite
     * Rapids). */
    int far = l.in_place && fc_is_far(p, size) && plan->precision == FC_PRECISION_HIGH;
    int halves = !fc_has_short_vectors(kernels) && p->channels % kernels->lanes == 0 && l.pixels > FC_KC;
    l.terms = fc_taps(w) > 1 ? FC_KC : far ? l.pixels : halves ? FC_KC / 2 : FC_KC;
    l.fetches = far && fc_taps(w) == 1 && w->stride[1] == 1 && p->x.s[2] == 1;
    l.place_bytes = fc_bytes(fc_mul(l.pixels, l.skips && l.planes > 1 ? 1 + 2 * l.lines : 1), sizeof(int64_t));
    l.line_bytes = fc_bytes(l.lines, sizeof(line));
    l.tap_bytes = fc_bytes(l.products, sizeof(int64_t));
    l.panel_bytes = fc_bytes(fc_add(fc_mul(plan->tile[BUNDLES], l.bundle_panel), 2 * l.columns), size);
    l.temp_bytes = fc_panel_scratch(&l.panel, size);
    l.sum_bytes = fc_bytes(fc_mul(plan->tile[OUTPUTS], l.sum_row), size);
    l.gradient_bytes = l.in_place ? 0 : fc_bytes(fc_mul(plan->tile[OUTPUTS], FC_KC + GRADIENT_PAD), size);
    return l;
}

static int64_t worker_bytes(const layout *l)
{
    return fc_add(fc_add(l->panel_bytes, l->temp_bytes), fc_add(l->sum_bytes, l->gradient_bytes));
}

static int64_t blocks_of(const fc_conv *p, const layout *l)
{
    return p->groups * l->channel_blocks * l->output_blocks;
}

/* Output rows of a unit: a panel within its bytes, all of a plane and then several, up to a block of the sum; enough units
 * for `wanted` chunks. */
static int64_t unit_rows(const fc_conv_plan *plan, int64_t wanted)
{
    const fc_conv *p = &plan->problem;
    const int64_t *out = p->window.out;
    fc_conv_plan one = *plan, two = *plan;
    one.tile[ROWS] = 1;
    two.tile[ROWS] = fc_min(2, out[1]);
    layout a = lay_out(&one), b = lay_out(&two);
    if (out[2] > WIDTH_MAX || b.bundle_panel > INT64_MAX / 8) /* or it is refused for its scratch */
        return 1;
    int64_t halo = fc_max(0, 2 * a.bundle_panel - b.bundle_panel), row = fc_max(1, a.bundle_panel - halo);
    int64_t room = PANEL_BYTES / a.kernels->size / plan->tile[BUNDLES];
    if (fc_has_short_vectors(a.kernels)) /* such a CPU's second-level cache may be of 512 KiB */
        room = fc_min(room, BUNDLE_BYTES / a.kernels->size);
    int64_t rows = fc_max(1, fc_min(out[1], (room - halo) / row)), planes = fc_mul(p->batch, out[0]);
    int64_t fewest = fc_max(1, FC_KC / 2 / fc_max(1, out[2]));
    if (planes < wanted)
        rows = fc_min(rows, fc_max(fewest, fc_ceil_div(fc_mul(out[1], planes), wanted)));
    if (rows < out[1])
        return fc_weight_part(out[1], rows);
    int64_t most = fc_min(FC_KC / fc_max(1, fc_mul(out[1], out[2])), room / fc_max(1, fc_add(fc_mul(row, out[1]), halo)));
    return out[1] * fc_max(1, fc_min(most, planes / wanted));
}

/* The most output channels of a block whose sums take `row` bytes each and bundle.  All that fit, so that the input is packed once;
 * as many as input channels where dY is copied too, once per block of bundles: planes so small that several are a unit. */
static int64_t block_outputs(const fc_conv *p, const layout *l, int64_t row)
{
    const int64_t *out = p->window.out;
    int64_t most = fc_max(l->kernels->mr[l->kernels->nv], FC_BLOCK_BYTES / row), plane = fc_mul(out[1], out[2]);
    if (fc_mul(p->batch, out[0]) == 1 || 2 * plane > FC_KC)
        return most;
    int64_t even = (int64_t)sqrt((double)(FC_BLOCK_BYTES / row * l->bundle));
    return fc_min(most, fc_max(even, 4 * l->kernels->mr[l->kernels->nv]));
}

/* More tasks for threads, as many for each, in the same order of the sum: 1x1 320-1280@7, two threads 266 to 209 us (Zen 4). */
static void share_out(fc_conv_plan *plan, const layout *l)
{
    int64_t *tile = plan->tile, threads = plan->threads, others = plan->problem.groups * l->output_blocks * tile[CHUNKS];
    int64_t split = fc_min(tile[BUNDLES], fc_ceil_div(4 * threads, l->channel_blocks * others));
    tile[BUNDLES] = fc_weight_part(tile[BUNDLES], tile[BUNDLES] / split);
    int64_t tasks = others * fc_ceil_div(l->bundles, tile[BUNDLES]), more = fc_ceil_div(2 * threads, tasks);
    while (more < threads && tasks * more < 8 * threads && tasks * more % threads)
        more++;
    tile[OUTPUTS] = fc_weight_part(plan->problem.out_channels, fc_max(fc_min(tile[OUTPUTS], 32), fc_ceil_div(tile[OUTPUTS], more)));
}

static void choose_tile(fc_conv_plan *plan, const fc_kernels *kernels)
{
    const fc_conv *p = &plan->problem;
    int64_t *tile = plan->tile;
    tile[BUNDLES] = tile[OUTPUTS] = tile[ROWS] = tile[CHUNKS] = 1;
    layout l = lay_out(plan);
    int64_t row = fc_mul(l.sum_row, kernels->size);
    tile[OUTPUTS] = fc_weight_part(p->out_channels, block_outputs(p, &l, row));
    tile[BUNDLES] = fc_weight_part(l.bundles, FC_BLOCK_BYTES / fc_min(FC_BLOCK_BYTES, fc_mul(row, tile[OUTPUTS])));
    l = lay_out(plan);
    int64_t blocks = blocks_of(p, &l), pixels = fc_mul(p->batch, fc_outputs(&p->window));
    int64_t wanted = fc_max(1, fc_min(fc_ceil_div(pixels, 2 * FC_KC), fc_ceil_div(TASKS_WANTED, blocks)));
    tile[ROWS] = unit_rows(plan, wanted);
    l = lay_out(plan);
    int64_t room = CHUNK_BYTES_MAX / fc_max(1, fc_mul(blocks, l.sum_bytes));
    tile[CHUNKS] = fc_max(1, fc_min(fc_min(l.units, room), wanted));
    if (plan->threads > 1)
        share_out(plan, &l);
}

static const char *plan_gemm(fc_conv_plan *plan, double *cost)
{
    const fc_conv *p = &plan->problem;
    const fc_kernels *kernels = fc_dispatch(p->real);
    if (!fc_reduction(p) || !p->out_channels || !p->batch || !fc_outputs(&p->window))
        return "there is nothing to sum";
    if (!fc_weights_plan(p, kernels->size).in_place)
        return "the weight gradient's rows are not contiguous";
    if (fc_mul(fc_taps(&p->window), 16 * kernels->lanes * kernels->size) > fc_scratch_max(plan->threads) / 4)
        return "a block of the weight gradient exceeds the scratch bound";
    choose_tile(plan, kernels);
    layout l = lay_out(plan);
    double blocks = (double)blocks_of(p, &l), chunks = (double)plan->tile[CHUNKS], bytes = (double)kernels->size;
    plan->scratch = fc_add(fc_add(l.place_bytes, fc_add(l.tap_bytes, l.line_bytes)), fc_mul(plan->threads, worker_bytes(&l)));
    plan->scratch = fc_add(plan->scratch, chunks > 1 ? fc_mul(plan->tile[CHUNKS], fc_mul(blocks_of(p, &l), l.sum_bytes)) : 0);
    if (plan->scratch > fc_scratch_max(plan->threads))
        return "a band of the input exceeds the scratch bound";
    double bundles = blocks * (double)plan->tile[BUNDLES], units = (double)l.units, outputs = (double)plan->tile[OUTPUTS];
    double packed = bundles * units * (double)l.bundle_panel, rows = packed / (double)(l.panel.pitch * l.panel.width);
    double sums = outputs * bundles * (double)l.products * (double)l.columns;
    double gemm = fc_gemm_cost(kernels, plan->tile[OUTPUTS], l.columns, l.pixels) * (double)l.products * bundles * units * kept(&p->window, &l);
    double copied = l.in_place ? 0 : outputs * blocks * units * (double)l.pixels;
    /* Few channels: their rows are gathered before they are turned, and vectors of a panel cross cache lines. */
    int few = p->channels < kernels->lanes && l.panel.width > 1;
    double read = few ? 1.2 : 1.0, turned = few ? 0.05 : 0.025, taken = p->y.c == 1 ? 0.06 : 0.025;
    *cost = 500 + 2 * (double)l.pixels + read * gemm + bytes * (turned * packed + taken * copied) + 5 * rows +
            sums * (0.15 + 0.1 * chunks) + 80 * blocks * units;
    return NULL;
}

typedef struct job {
    const fc_conv_plan *plan;
    layout l;
    fc_gemm gemm;
    int64_t *place, *tap; /* in a bundle's panel: pixels of a unit, taps that are products */
    line *lines;
    const char *x, *y;
    char *w, *scratch, *chunks;
} job;

typedef struct block {
    int64_t g, o, outputs, bundle, bundles;
} block;

/* Some neighbouring planes of the sum, rows of each and columns of those; `pixels` in all. */
typedef struct unit {
    int64_t plane, planes, oh, rows, ow, width, pixels;
} unit;

static block block_at(const job *j, int64_t index)
{
    const int64_t *tile = j->plan->tile;
    block b = {.o = index % j->l.output_blocks * tile[OUTPUTS]};
    b.bundle = index / j->l.output_blocks % j->l.channel_blocks * tile[BUNDLES];
    b.g = index / j->l.output_blocks / j->l.channel_blocks;
    b.outputs = fc_min(tile[OUTPUTS], j->plan->problem.out_channels - b.o);
    b.bundles = fc_min(tile[BUNDLES], j->l.bundles - b.bundle);
    return b;
}

static unit unit_at(const job *j, int64_t index)
{
    const fc_conv *p = &j->plan->problem;
    int64_t rows = fc_min(j->plan->tile[ROWS], p->window.out[1]);
    unit u = {.ow = index % j->l.stripes * j->l.width};
    index /= j->l.stripes;
    u.plane = index / j->l.bands * j->l.planes;
    u.oh = index % j->l.bands * rows;
    u.width = fc_min(j->l.width, p->window.out[2] - u.ow);
    u.planes = fc_min(j->l.planes, p->batch * p->window.out[0] - u.plane);
    u.rows = fc_min(rows, p->window.out[1] - u.oh);
    u.pixels = u.planes * u.rows * u.width;
    return u;
}

static void pack_panels(const job *j, const block *b, const unit *u, char *panel, char *temp)
{
    const fc_conv *p = &j->plan->problem;
    const fc_window *w = &p->window;
    const layout *l = &j->l;
    int64_t size = l->kernels->size, depth = w->kernel[0];
    int64_t rows = l->panel.rows - (fc_min(j->plan->tile[ROWS], w->out[1]) - u->rows) * l->row_step;
    fc_panel_image image = {.c = p->x.c, .size = {w->in[1], w->in[2]}, .stride = {p->x.s[1], p->x.s[2]}};
    for (int64_t i = 0; i < b->bundles; i++) {
        int64_t c = (b->bundle + i) * l->bundle;
        image.channels = fc_min(l->bundle, p->channels - c);
        for (int64_t k = 0; k < u->planes * depth; k++) {
            int64_t n = (u->plane + k / depth) / w->out[0], od = (u->plane + k / depth) % w->out[0];
            int64_t id = od * w->stride[0] + k % depth * w->dilation[0] - w->offset[0];
            int64_t at = n * p->x.n + (b->g * p->channels + c) * p->x.c + id * p->x.s[0];
            image.x = id >= 0 && id < w->in[0] ? fc_at(j->x, at, size) : NULL;
            fc_panel_pack(&l->panel, l->kernels, fc_at(panel, i * l->bundle_panel + k * l->plane, size), temp, &image, rows,
                          u->oh * w->stride[1] - w->offset[1], u->ow * w->stride[2] - w->offset[2]);
        }
    }
}

/* Pixels first ... first + count of a unit of the block's output channels, as rows: a plane at a time where its rows follow
 * each other in memory, else a row at a time. */
static void copy_gradient(const job *j, const block *b, const unit *u, int64_t first, int64_t count, char *gradient)
{
    static const double zero = 0;
    const fc_conv *p = &j->plan->problem;
    const fc_window *w = &p->window;
    const fc_kernels *kernels = j->l.kernels;
    int64_t size = kernels->size, width = u->width, pitch = FC_KC + GRADIENT_PAD;
    int64_t run = p->y.s[1] == width * p->y.s[2] ? u->rows * width : width;
    for (int64_t done = 0, n; done < count; done += n) {
        int64_t pixel = first + done, plane = u->plane + pixel / (u->rows * width), q = pixel % (u->rows * width);
        n = fc_min(run - q % run, count - done);
        int64_t at = plane / w->out[0] * p->y.n + plane % w->out[0] * p->y.s[0] + (b->g * p->out_channels + b->o) * p->y.c +
                     (u->oh + q / width) * p->y.s[1] + (u->ow + q % width) * p->y.s[2];
        if (p->y.c == 1 && p->y.s[2] != 1) {
            kernels->transpose(fc_at(gradient, done, size), pitch, fc_at(j->y, at, size), p->y.s[2], n, b->outputs);
            continue;
        }
        for (int64_t o = 0; o < b->outputs; o++)
            kernels->gather_row(fc_at(gradient, o * pitch + done, size), n, fc_at(j->y, at + o * p->y.c, size), p->y.s[2], 0, 1,
                                n, &zero);
    }
}

/* One bundle of one output channel, from the sum to dW: taps next to each other. */
static void store_bundle(const job *j, const block *b, int64_t o, int64_t bundle, const char *sum)
{
    const fc_conv *p = &j->plan->problem;
    const layout *l = &j->l;
    int64_t size = l->kernels->size, taps = fc_taps(&p->window), c = (b->bundle + bundle) * l->bundle, fold = l->panel.fold;
    int64_t channels = fc_min(l->bundle, p->channels - c), width = l->panel.width;
    char *w = fc_at(j->w, b->g * p->w.g + (b->o + o) * p->w.o + c * taps, size);
    if (taps == 1)
        l->kernels->scatter_row(w, 1, sum, channels, 0);
    else if (fold == 1 && (l->wide == 1 || l->columns == l->wide * width)) /* all taps one distance apart */
        l->kernels->transpose(w, taps, sum, l->wide == 1 ? l->columns : width, taps, channels);
    else
        for (int64_t k = 0; k < l->products * fold; k++)
            l->kernels->transpose(fc_at(w, k * l->wide, size), taps,
                                  fc_at(sum, k / fold * l->columns + k % fold * channels, size), width, l->wide, channels);
}

/* Asks for the cache lines of dW that a tile will write: a block's rows are far apart in memory. */
static void prefetch_rows(const char *w, int64_t row, int64_t rows, int64_t bytes)
{
    for (int64_t m = 0; m < rows; m++)
        for (int64_t at = 0; at < bytes; at += FC_ALIGN)
            __builtin_prefetch(w + m * row + at, 1);
}

static void store_block(const job *j, const block *b, const char *sum)
{
    const fc_conv *p = &j->plan->problem;
    int64_t size = j->l.kernels->size, bundle = j->l.products * j->l.columns, c = b->bundle * j->l.bundle, taps = fc_taps(&p->window);
    int64_t channels = fc_min(b->bundles * j->l.bundle, p->channels - c), row = p->w.o * size;
    const char *w = fc_at(j->w, b->g * p->w.g + b->o * p->w.o + c * taps, size);
    for (int64_t o = 0; o < b->outputs; o++) {
        prefetch_rows(w + (o + STORED_AHEAD) * row, row, o + STORED_AHEAD < b->outputs, channels * taps * size);
        for (int64_t i = 0; i < b->bundles; i++)
            store_bundle(j, b, o, i, fc_at(sum, o * j->l.sum_row + i * bundle, size));
    }
}

/* A part of the sum: `count` of a unit's pixels, from `first` on. */
typedef struct span {
    const unit *u;
    int64_t first, count;
} span;

/* One tile of product k, without the rows where its tap meets padding: of one plane, the rest is a run of pixels; of several, those
 * that a table names. */
static void run_product(const job *j, const span *s, fc_gemm gemm, int rows, const void *const *a, const char *panel, int64_t k,
                        char *c, int64_t c_row, int add)
{
    const layout *l = &j->l;
    const fc_window *w = &j->plan->problem.window;
    int64_t kh = l->skips ? k / (w->kernel[2] / l->wide) % l->lines : 0, width = s->u->width, size = l->kernels->size;
    const void *from[FC_MR_MAX];
    line at = j->lines[kh];
    gemm.k = s->count;
    gemm.b_offset = j->place + s->first;
    if (l->skips && l->planes > 1) {
        gemm.gather = 1;
        gemm.k = s->u->planes * (at.end - at.begin) * width;
        gemm.a_offset = j->place + (1 + 2 * kh) * l->pixels;
        gemm.b_offset = gemm.a_offset + l->pixels;
    } else if (l->skips) {
        int64_t begin = fc_max(0, (at.begin - s->u->oh) * width - s->first), end = (at.end - s->u->oh) * width - s->first;
        gemm.k = fc_max(0, fc_min(end, s->count) - begin);
        gemm.b_offset += begin;
        for (int m = 0; m < rows; m++)
            from[m] = fc_at(a[m], begin, size);
        a = from;
    }
    if (gemm.k || !add)
        fc_gemm_run(&gemm, rows, a, fc_at(panel, j->tap[k], size), c, c_row, NULL, add);
}

/* One bundle's part of some pixels, from dY's rows at `gradient`, `row` elements apart.  Where that is all of the sum (`once`) each
 * tile is stored while it is in the cache. */
static void add_pixels(const job *j, const block *b, const span *s, const fc_gemm *gemm, const char *gradient, int64_t row,
                       int64_t bundle, const char *panel, char *sum, int add, int once)
{
    const layout *l = &j->l;
    const fc_conv *p = &j->plan->problem;
    int64_t size = l->kernels->size, tiles = fc_ceil_div(b->outputs, gemm->rows), taps = fc_taps(&p->window);
    int64_t first = (b->bundle + bundle) * l->bundle, channels = fc_min(l->bundle, p->channels - first);
    char *w = fc_at(j->w, b->g * p->w.g + b->o * p->w.o + first * taps, size);
    int direct = once && taps == 1 && channels == gemm->columns;
    int64_t c_row = direct ? p->w.o : l->sum_row;
    int64_t few = b->outputs / tiles, larger = b->outputs - few * tiles; /* rows of a tile, or one more: of so many tiles */
    sum += once ? 0 : bundle * l->products * l->columns * size;
    for (int64_t tile = 0, o = 0, rows; tile < tiles; tile++, o += rows) {
        rows = few + (tile < larger);
        char *c = direct ? w + o * c_row * size : sum + (once ? 0 : o * c_row * size);
        if (once && !add)
            prefetch_rows(w + o * p->w.o * size, p->w.o * size, rows, channels * taps * size);
        const void *a[FC_MR_MAX];
        for (int64_t m = 0; m < rows; m++)
            a[m] = gradient + (o + m) * row * size;
        for (int64_t k = 0; k < l->products; k++)
            run_product(j, s, *gemm, (int)rows, a, panel, k, c + k * l->columns * size, c_row, add);
        for (int64_t m = 0; m < rows && once && !direct; m++)
            store_bundle(j, b, o + m, bundle, c + m * c_row * size);
    }
}

/* What a block takes of unit `index`: some lines of each channel.  Packed from memory, it is waited for: 1x1 64-64@56 b16 5.0 to 4.3 ms
 * where it has been fetched while the unit before was multiplied, two threads 2.25 to 2.09 (Zen 4; arithmetic 3.5, the transpose 0.35).
 * As fast: a line with each term (gemm_far) instead of 90 before a product, 10-45 before shorter ones, half units, dY's next rows too.
 * Zen 5: with each term, which waits for none of 90, 2030 to 1830 us (arithmetic 1490, the transpose 240, as long as its lines take to and
 * from the second-level cache whatever its order), 64-256@56 430 to 410; units of 14, 10 and 7 rows instead of 28 1940, 1980, 2030. */
static fc_ahead input_ahead(const job *j, const block *b, int64_t index)
{
    const fc_conv *p = &j->plan->problem;
    const fc_window *w = &p->window;
    if (!j->l.fetches || index >= j->l.units)
        return (fc_ahead){0};
    unit u = unit_at(j, index);
    int64_t size = j->l.kernels->size, c = b->bundle * j->l.bundle, id = u.plane % w->out[0] * w->stride[0] - w->offset[0];
    int64_t at = u.plane / w->out[0] * p->x.n + (b->g * p->channels + c) * p->x.c + id * p->x.s[0] +
                 (u.oh - w->offset[1]) * p->x.s[1] + u.ow - w->offset[2];
    return (fc_ahead){fc_at(j->x, at, size), p->x.c * size, fc_min(b->bundles * j->l.bundle, p->channels - c),
                      fc_ceil_div(u.rows * p->x.s[1] * size, FC_ALIGN), 0};
}

static void add_unit(const job *j, const block *b, int64_t index, char *scratch, char *sum, int add, int once)
{
    const fc_conv *p = &j->plan->problem;
    const layout *l = &j->l;
    int64_t size = l->kernels->size, row = l->in_place ? p->y.c : FC_KC + GRADIENT_PAD;
    char *temp = scratch + l->panel_bytes, *gradient = temp + l->temp_bytes + l->sum_bytes;
    unit u = unit_at(j, index);
    pack_panels(j, b, &u, scratch, temp);
    int64_t blocks = fc_ceil_div(u.pixels, l->terms);
    fc_ahead ahead = input_ahead(j, b, index + 1);
    fc_gemm gemm = j->gemm;
    int64_t tiles = fc_ceil_div(b->outputs, gemm.rows) * fc_ceil_div(l->columns / l->kernels->lanes, gemm.strip);
    int64_t products = b->bundles * tiles * fc_ceil_div(u.pixels, fc_min(l->terms, FC_KC));
    gemm.ahead = ahead.rows ? &ahead : NULL;
    gemm.along = !fc_has_short_vectors(l->kernels) && ahead.rows && products >= ahead.rows; /* a product fetches of one row */
    gemm.fetch = gemm.along ? fc_ceil_div(ahead.lines, products / ahead.rows) : fc_ceil_div(ahead.rows * ahead.lines, products);
    for (int64_t i = 0; i < blocks; i++) {
        span s = {&u, u.pixels * i / blocks, u.pixels * (i + 1) / blocks - u.pixels * i / blocks};
        const char *a = gradient;
        if (l->in_place) {
            int64_t n = u.plane / p->window.out[0], od = u.plane % p->window.out[0];
            int64_t at = n * p->y.n + (b->g * p->out_channels + b->o) * p->y.c + od * p->y.s[0] + u.oh * p->y.s[1] + u.ow;
            a = fc_at(j->y, at + s.first, size);
        } else {
            copy_gradient(j, b, &u, s.first, s.count, gradient);
        }
        for (int64_t k = 0; k < b->bundles; k++) {
            int64_t channels = fc_min(l->bundle, p->channels - (b->bundle + k) * l->bundle), lanes = l->kernels->lanes;
            if (l->wide == 1 && l->panel.fold == 1) /* the last bundle's vectors of channels may be fewer */
                gemm.columns = fc_ceil_div(channels, lanes) * lanes;
            add_pixels(j, b, &s, &gemm, a, row, k, fc_at(scratch, k * l->bundle_panel, size), sum, add || i, once);
        }
    }
}

static void run_task(void *context, int64_t task, int worker)
{
    const job *j = context;
    const layout *l = &j->l;
    int64_t chunks = j->plan->tile[CHUNKS], chunk = task % chunks, index = task / chunks;
    block b = block_at(j, index);
    char *scratch = j->scratch + worker * worker_bytes(l);
    char *sum = j->chunks ? j->chunks + task * l->sum_bytes : scratch + l->panel_bytes + l->temp_bytes;
    int64_t begin = l->units * chunk / chunks, end = l->units * (chunk + 1) / chunks;
    int once = !j->chunks && end - begin == 1 && l->pixels <= FC_KC;
    for (int64_t i = begin; i < end; i++)
        add_unit(j, &b, i, scratch, sum, i > begin, once);
    if (!j->chunks && !once)
        store_block(j, &b, sum);
}

/* Some rows of a block: the chunks' sums in order, to dW. */
static void join_chunks(void *context, int64_t task, int worker)
{
    (void)worker;
    const job *j = context;
    int64_t index = task / JOINS, part = task % JOINS, chunks = j->plan->tile[CHUNKS], row = j->l.sum_row * j->l.kernels->size;
    block b = block_at(j, index);
    int64_t first = b.outputs * part / JOINS;
    b.outputs = b.outputs * (part + 1) / JOINS - first;
    b.o += first;
    char *sum = j->chunks + index * chunks * j->l.sum_bytes + first * row;
    for (int64_t i = 1; i < chunks; i++)
        j->l.kernels->scatter_row(sum, 1, sum + i * j->l.sum_bytes, b.outputs * j->l.sum_row, 1);
    store_block(j, &b, sum);
}

static void fill_tables(job *j)
{
    const fc_window *w = &j->plan->problem.window;
    const layout *l = &j->l;
    int64_t rows = fc_min(j->plan->tile[ROWS], w->out[1]), width = l->panel.width, *tap = j->tap;
    for (int64_t i = 0; i < l->pixels; i++) {
        int64_t q = i % l->width, r = i / l->width % rows, plane = i / l->width / rows;
        j->place[i] = plane * w->kernel[0] * l->plane + (r * l->row_step * l->panel.pitch + q * l->column_step) * width;
    }
    for (int64_t kh = 0; kh < l->lines; kh++) {
        line at = j->lines[kh] = line_of(w, kh);
        int64_t *pixel = j->place + (1 + 2 * kh) * l->pixels, *place = pixel + l->pixels;
        for (int64_t i = 0; i < l->pixels && l->skips && l->planes > 1; i++) {
            int64_t r = i / l->width % rows;
            if (r < at.begin || r >= at.end)
                continue;
            *pixel++ = i;
            *place++ = j->place[i];
        }
    }
    for (int64_t kd = 0; kd < w->kernel[0]; kd++)
        for (int64_t kh = 0; kh < l->lines; kh++)
            for (int64_t kw = 0; kw < w->kernel[2] / l->wide; kw++)
                *tap++ = kd * l->plane + (kh * w->dilation[1] * l->panel.pitch + kw * w->dilation[2]) * width;
}

static fc_status run_gemm(const fc_conv_plan *plan, void *x, void *w, void *bias, void *y)
{
    (void)bias;
    const fc_conv *p = &plan->problem;
    job j = {.plan = plan, .l = lay_out(plan), .x = x, .y = y, .w = w};
    char *scratch = fc_arena_take(plan->scratch);
    if (!scratch)
        return FC_NO_MEMORY;
    j.place = (int64_t *)(void *)scratch;
    j.tap = (int64_t *)(void *)(scratch + j.l.place_bytes);
    j.lines = (line *)(void *)(scratch + j.l.place_bytes + j.l.tap_bytes);
    fill_tables(&j);
    scratch += j.l.place_bytes + j.l.tap_bytes + j.l.line_bytes;
    int64_t blocks = blocks_of(p, &j.l), tasks = blocks * plan->tile[CHUNKS];
    if (plan->tile[CHUNKS] > 1) {
        j.chunks = scratch;
        scratch += tasks * j.l.sum_bytes;
    }
    j.scratch = scratch;
    fc_weight_gemm_plan(&j.gemm, j.l.kernels, fc_min(plan->tile[OUTPUTS], p->out_channels), j.l.columns);
    fc_parallel(plan->threads, tasks, run_task, &j);
    if (j.chunks)
        fc_parallel(plan->threads, blocks * JOINS, join_chunks, &j);
    fc_arena_give();
    return FC_OK;
}

const fc_driver fc_driver_weight_gemm = {"gemm", plan_gemm, run_gemm, .bounded = 0};
