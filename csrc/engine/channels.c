/* The channel driver: lanes hold output channels, rows of the product are output pixels.
 *
 *     Y[p][o] = b[o] + sum_k X[p + offset[k]] W[k][o],     k = (part of c, group of taps, c, tap)
 *
 * Row p of A is the image itself, read where it stands through the kernel's column offsets, whatever its strides; B is the
 * weights transposed, in panels a strip of vectors wide.  Where there is a kernel for it (of 32-byte vectors) and a pixel's channels are
 * neighbours, terms go by runs of them, all of a tap first (gemm_runs); of planes, the rows that a block reads are transposed for that,
 * if several taps read each pixel.  No lane is lost to the width of the image, so this driver serves narrow and strided images.
 * Nothing is padded: the taps are cut into groups that meet the same rectangle of outputs, and a tap is multiplied with those outputs
 * only whose input lies inside the image.
 *
 *     for each group g, block of output channels, block of output rows (counted through planes and images) and columns      a task
 *         for each strip of output channels:  for each part of the input channels:  for each group of taps (tap_groups.h):
 *             list the group's pixels in the block
 *             for each block of k:  for each tile of pixels:  gemm kernel, added to the block of outputs
 *         transpose the block into y, unless its channels lie next to each other: then it was written there at once
 *
 * A strided adjoint is the same with more groups: each phase's outputs are every s-th pixel of the block, which is written whole,
 * and one pass packs the weights of all phases.
 *
 * By runs a tile is summed over all terms before the next begins: its panel streams from the second-level cache (Zen 3, 96 and 576
 * terms of two vectors 86, 84 GFLOPS), and its outputs wait in the first.
 *
 * Scratch: the groups and the offsets of their terms; the panels, or per worker a single one where every panel is used by one task
 * only (a batch of one small image: its weights would be read, written and read again through memory); per worker the lists of
 * pixels, the block of outputs and the copy of its input.  The parts of the channels (a panel's part fills PART_BYTES at most) depend on
 * the kernel's taps and the instruction set alone, never on how the work is cut, so the order of each sum does not either.
 *
 * Also for photographs of three channels or one, whose channels-last pixels are terms as they stand (pixels, this): 7x7s2 3-64@224
 * 2053, 1464 us; 3x3 3-32@32 b32 864, 471; of planes, 11x11s4 3-96@227 1495, 1347.
 *
 * Emerald Rapids, one core, part of the 9x3 kernel's speed (172 GFLOPS): 3x3s2 128@56 0.84, its gradient 0.80, transposed 4x4s2
 * 128-64@14 b8 0.90, 5x5 64@56 0.88, 512-512@7 0.73.  k = (c, taps) reads a line of the image for all taps of a channel: 0.78
 * instead of 0.72 for the first.  Tried: fetching the next pixels, or y, or the weights' next rows ahead (as fast, and 3 % slower);
 * the next block's rows of x meanwhile, in runs (Granite Rapids, "highest", 32-64@32 b32's gradient 0.93, others' 0.99 to 1.03);
 * by runs there (neighbours.c, tiles of 6x4 and 9x3: 0.96 to 1.06, 48-48@4x4000 1.19); one pointer to pixels of a row that are
 * neighbours instead of one to each (Granite Rapids, 96 terms, part of the peak: 9x3 0.93 to 0.96, 6x4 0.93 to 0.95, 14x2 0.90 to
 * 0.95; but tiles that end with a row are lower, where 5x4 has 0.94: no whole call was tried); packing a channel's taps at a time where all
 * channels' follow each other (512@7: 3.9 instead of 1.75 ms, since it reads 36 bytes of a line); storing pixels in y between the
 * products that complete the last of them (Zen 5, 64-64@224 15.4 to 16.2 ms: a strip's 64 lines of y share a set of the cache; past the
 * caches as fast as a pass at the end); writing rows of an adjoint that meet no tap by themselves (1x1s2 256-512@56 0.57 instead of
 * 0.60).  Zen 5, 64-128@16 and 64-64@224: blocks of 48 to 288 terms, of 2 to 64 rows, all terms for 4 to 110 tiles at a time, planes of
 * x padded apart, strips of three vectors, fetching y or the next x, two or four terms a turn: nothing; the group of the most outputs
 * first, 32-64@32 b32 1.03, 64-128@16 b32 0.96; smaller outputs past the caches, 1.02, but the layer that follows would read them from
 * memory.  Zen 4, "highest", thirteen rows: a tile's terms all first 0.98 to 1.11 (in a loop of kernels alone 6x4 0.955 to 0.975 of the
 * peak), the next block's x fetched meanwhile 0.93 to 1.04, half of them slower.
 * The kernel alone runs at 0.97-0.99 of the peak, within the image at 0.95; borders take 1-3 % and storing to planes 3-7 (32-64@32),
 * which an output with channels last is spared.
 *
 * By runs and copies, Zen 3, one thread, ms by gemm_gather of planes and so, input gradients in "highest": 3x3 32-64@32 b32 17.1, 15.0,
 * 128-128@16 b32 30.8, 27.5, 256-256@8 b32 33.1, 30.1, 64-64@224 47.7, 46.6, 512-512@14 13.3, 12.3; forward 3x3s2 512-512@14 b4 14.7,
 * 13.7; beside a busy neighbour 0.72 to 0.88 of the time.
 * Tried by runs: parts of 128 KiB, the same, of 512, 256@8 0.93, 512@14 1.07, 384@13 1.11; blocks of half to a quarter of FC_BLOCK_BYTES,
 * the same; sums of 192 and 288 terms, mixed; copied pixels always an odd number of lines apart, 64@224 1.02.
 *
 * Short sums into pixels in place, vectors narrower than a line: a pass over y for each strip waits for lines of y that come from afar,
 * so pixels are written whole, one after the other, and fetched two tiles ahead.  Zen 3, 3x3 3-32@32 b32, us in quiet minutes and in
 * others: 940, 1510; strips fetched one tile ahead 870, 1270; whole pixels, of which one line is fetched one tile ahead 870, 1550; this
 * 810, 860.
 */
#include "base/cpu.h"
#include "engine/gemm.h"
#include "engine/neighbours.h"
#include "engine/output.h"
#include "engine/tap_panels.h"

#include <string.h>

enum { ROWS, OUTPUTS, INPUTS, SHARED }; /* plan->tile: rows and output channels of a block, channels of a part; shared panels */
enum { PIXELS_MIN = 48, PIXELS_MAX = 1024, OUTPUTS_MAX = 512, PART_BYTES = 256 << 10 };

/* Of a block, if its pixels then are enough for the weights that it reads: whole rows leave the second-level cache.  Zen 4, "highest",
 * at most 128, 256, 512, 1024 columns in the time of whole rows, 3x3 48-48@4x4000 0.87, 0.85, 0.90, 0.93, with AVX2 0.76, 0.74, 0.80, 0.91
 * (by two threads 0.81, 0.86, 0.92, 0.88); of sequences, 64-128 k3 over 4096, 256, 512, 1024 1.01, 0.98, 1.03, with AVX2 1.05, 0.99, 1.02,
 * where 128 take 1.14. */
enum { COLUMNS_MAX = 320 };

/* Of a pixel's row in a block of outputs, so that the block stays in a second-level cache of 1 MiB beside its input and a panel.
 * Zen 5, 2 KiB and this: 3x3 256-256@8 b32 8.70, 8.50 ms, 512-512@7 b8 6.78, 6.59, 512-512@7 1.33, 1.05, 3x3s2 512-512@14 b4 3.95,
 * 3.86, its gradient 4.32, 4.16, 1x1s2 256-512@56 as before. */
enum { ROW_BYTES = 512 };

/* Elements of the input for one of the panels, at most, where each thread packs its own.  Granite Rapids, two threads: 3x3s2 128@56, which
 * has 2.7, 700 to 610 us. */
enum { OWN_PANELS = 4 };

/* Terms of one call of the kernel: their rows of B stay in a first-level cache of 32 KiB, which 288 do not (3x3s2 128@56 0.77 to
 * 0.84 of the product's speed, its gradient 0.75 to 0.81, 512-512@7 0.67 to 0.73; 144 terms 0.78, 0.77, 0.67).  Zen 4, "highest",
 * 192 and 288 terms, which come from the second in time, take 0.98 and 0.96 of the time, but sums of 144 are off by up to 5.6e-7, of 288
 * by 6.8e-7 of the largest output, where 5e-7 is promised. */
enum { TERMS = 96 };

/* Channels from which on terms go by runs: two of them.  Not tuned: none of the benchmark's rows of eight is this driver's. */
enum { RUNS_MIN = 2 * FC_RUN };

/* Vectors of a strip by runs: 3x4 tiles, see gemm.inc. */
enum { RUNS_STRIP = 4 };

/* Of the panels that a tile's strips read one after the other, in a first-level cache of 32 KiB. */
enum { PANELS_BYTES = 16 << 10 };

typedef struct layout {
    const fc_kernels *kernels;
    int64_t taps, rows, output_blocks;          /* rows: of all planes and images */
    int64_t blocks, columns, column_blocks;     /* blocks: of rows; columns: of a block, of which a row has so many */
    int64_t strips, width;                      /* of a block of output channels; of a panel: of the widest strip */
    int64_t tile_row, pixels;                   /* of a block of outputs */
    int64_t shared_bytes, worker_bytes;
    int64_t panels_bytes, part_bytes;           /* all panels; one part of one of them */
    int64_t group_bytes, offset_bytes;          /* of A's columns, and as much of B's rows */
    int64_t place_bytes, list_bytes, block_bytes, copy_bytes;
    fc_array_strides from;                      /* of A: x's, or those of a worker's copy of it (but n) */
    int runs;                                   /* A's channels are neighbours, and its terms go by runs of them: (tap, c) */
    int copied;                                 /* they are those of the copy */
    int in_place;                               /* y's channels are neighbours, in whole vectors */
    int past;                                   /* y is so large that it is written past the caches */
} layout;

/* Vectors of the next strip when `vectors` are left: by runs four, else one more than usual where they divide into those. */
static int next_strip(const layout *l, int64_t vectors)
{
    int strip = l->runs ? RUNS_STRIP : l->kernels->nv;
    if (!l->runs && vectors > strip && vectors % strip && vectors % (strip + 1) == 0)
        strip++;
    return fc_gemm_next_strip(strip, vectors);
}

/* Room for a block of output channels of this many vectors. */
static void cut_strips(layout *l, int64_t vectors)
{
    int64_t strips = 0;
    for (int64_t nv; vectors; vectors -= nv, strips++) {
        nv = next_strip(l, vectors);
        l->width = fc_max(l->width, nv * l->kernels->lanes);
    }
    l->strips = fc_max(l->strips, strips);
}

static int64_t bytes_of(int64_t count, int64_t size)
{
    return fc_arena_round(fc_min(INT64_MAX / 16, fc_mul(count, size)));
}

/* Channels of a part whose rows of the panel, of a strip of `nv` vectors, fill PART_BYTES at most. */
static int64_t part_of(const fc_conv *p, const fc_kernels *kernels, int64_t nv)
{
    int64_t lanes = kernels->lanes, most = PART_BYTES / kernels->size / (nv * lanes) / fc_max(1, fc_taps(&p->window));
    return fc_min(p->channels, fc_max(lanes, most / lanes * lanes));
}

/* Of a block of outputs. */
typedef struct limits {
    int64_t pixels;  /* at most: all their channels and what they read of the input fit the cache; but no fewer than `enough` */
    int64_t enough;  /* the weights, which every block reads, are no more than twice either */
    int64_t columns; /* whole rows, or even parts of them in whole lines */
} limits;

static limits limits_of(const fc_phases *phases, const fc_kernels *kernels)
{
    const fc_conv *p = &phases->whole;
    const fc_window *w = &p->window;
    int64_t lanes = kernels->lanes, vectors = fc_ceil_div(p->out_channels, lanes), most = FC_BLOCK_BYTES / kernels->size;
    int64_t outputs = fc_ceil_div(vectors, fc_ceil_div(vectors, fc_min(vectors, OUTPUTS_MAX / lanes))) * lanes;
    int64_t input = fc_min(w->stride[1], w->kernel[1]) * fc_min(w->stride[2], w->kernel[2]) * p->channels;
    if (phases->count > 1)
        input = fc_ceil_div(p->channels, w->stride[1] * w->stride[2]);
    int64_t pixels = most / fc_max(outputs, fc_min(input, most / PIXELS_MIN)), line = FC_ALIGN / kernels->size;
    limits l = {.enough = fc_min(PIXELS_MAX, fc_reduction(p) * p->out_channels / 2 / (outputs + input)), .columns = fc_max(1, w->out[2])};
    l.pixels = fc_max(PIXELS_MIN, fc_max(l.enough, fc_min(pixels, PIXELS_MAX)));
    int64_t widest = fc_max(COLUMNS_MAX, l.enough);
    if (l.columns > widest)
        l.columns = fc_ceil_div(fc_ceil_div(l.columns, fc_ceil_div(l.columns, widest)), line) * line;
    return l;
}

/* Channels of a part where A's terms go by runs, of all parts the same and whole runs of them; 0 where they do not. */
static int64_t part_by_runs(const fc_phases *phases, int64_t columns, const fc_kernels *kernels)
{
    const fc_conv *p = &phases->whole;
    int64_t c = p->channels;
    if (!kernels->gemm_runs[1][1] || c < RUNS_MIN || (p->x.c != 1 && !fc_neighbours_pay(phases, columns, kernels->size)))
        return 0;
    for (int64_t least = fc_ceil_div(c, part_of(p, kernels, RUNS_STRIP)), parts = least; parts <= 2 * least; parts++)
        if (c % (parts * FC_RUN) == 0)
            return c / parts;
    return 0;
}

static layout lay_out(const fc_conv_plan *plan, const fc_phases *phases, const fc_tap_counts *counts)
{
    const fc_conv *p = &phases->whole;
    const fc_kernels *kernels = fc_dispatch(p->real);
    int64_t lanes = kernels->lanes, word = sizeof(int64_t), size = kernels->size, k = fc_reduction(p);
    layout l = {.kernels = kernels, .taps = fc_taps(&p->window)};
    l.rows = p->batch * p->window.out[0] * p->window.out[1];
    l.blocks = fc_ceil_div(l.rows, plan->tile[ROWS]);
    l.columns = limits_of(phases, kernels).columns;
    l.column_blocks = fc_ceil_div(p->window.out[2], l.columns);
    l.output_blocks = fc_ceil_div(p->out_channels, plan->tile[OUTPUTS]);
    int64_t vectors = fc_ceil_div(plan->tile[OUTPUTS], lanes);
    l.tile_row = (vectors | 1) * lanes; /* odd: rows a power of two apart would share a few sets of the cache */
    int64_t last = p->out_channels - (l.output_blocks - 1) * plan->tile[OUTPUTS];
    l.runs = part_by_runs(phases, l.columns, kernels) != 0;
    cut_strips(&l, vectors);
    cut_strips(&l, fc_ceil_div(last, lanes));
    l.pixels = plan->tile[ROWS] * l.columns;
    l.in_place = p->y.c == 1 && p->out_channels % lanes == 0;
    l.past = !fc_has_short_vectors(kernels) && fc_writes_past(p, size); /* by whole lines */
    l.copied = l.runs && p->x.c != 1;
    l.from = l.copied ? fc_neighbours_strides(phases, l.columns, size) : p->x;
    if (l.copied)
        l.copy_bytes = bytes_of(fc_mul(fc_neighbours_most(phases, plan->tile[ROWS]), l.from.s[1]), size);
    l.part_bytes = bytes_of(plan->tile[INPUTS] * l.taps, l.width * size);
    if (plan->tile[SHARED])
        l.panels_bytes = bytes_of(fc_mul(p->groups, k), fc_mul(l.output_blocks * l.strips, l.width * size));
    l.group_bytes = bytes_of(counts->groups, sizeof(fc_tap_group));
    l.offset_bytes = bytes_of(fc_mul(plan->tile[INPUTS], counts->taps), word);
    l.place_bytes = bytes_of(fc_mul(plan->tile[INPUTS], 4 * l.taps), word);
    l.list_bytes = bytes_of(2 * l.pixels, word);
    l.block_bytes = l.in_place ? 0 : bytes_of(fc_mul(l.pixels, l.tile_row), size);
    l.shared_bytes = fc_add(fc_add(l.panels_bytes, l.group_bytes), fc_mul(2, l.offset_bytes));
    l.worker_bytes = fc_add(l.place_bytes + (plan->tile[SHARED] ? 0 : l.part_bytes) + l.list_bytes, l.copy_bytes);
    l.worker_bytes = fc_add(l.worker_bytes, l.in_place || p->y.s[2] == 1 ? l.block_bytes : 2 * l.block_bytes);
    return l;
}

/* The units of a part where `units` are cut into `parts`, or into some others from `least` on, so that the tasks, `others` of each
 * part, share out evenly among the threads.  Two threads, Zen 5: 128-128@16 b32 in 11 blocks of 47 rows 5.36 ms, in 12 4.98; 13x13
 * 384-256 in 6 blocks of three vectors 725 us, in 4 of four 655. */
static int64_t even_part(int64_t units, int64_t parts, int64_t least, int64_t others, int threads)
{
    int64_t best = INT64_MAX, part = units, more = parts < threads ? 0 : fc_min(threads, 8) - 1;
    for (int64_t n = fc_max(fc_min(least, parts), parts - 8); n <= fc_min(units, parts + more); n++) {
        int64_t size = fc_ceil_div(units, n), time = fc_mul(size, fc_ceil_div(others * fc_ceil_div(units, size), threads));
        if (time < best || (time == best && n <= parts)) {
            best = time;
            part = size;
        }
    }
    return part;
}

static int64_t input_elements(const fc_conv *p)
{
    const int64_t *in = p->window.in;
    return fc_mul(fc_mul(fc_mul(p->batch, p->groups), p->channels), fc_mul(fc_mul(in[0], in[1]), in[2]));
}

/* Blocks of output channels, at most `most`, of which each thread packs and reads its own: a panel is slow to come from the core that
 * packed it, while all threads read the input. */
static int64_t own_blocks(const fc_conv *p, int threads, int64_t most)
{
    int64_t panels = fc_mul(fc_reduction(p), p->out_channels);
    return p->groups == 1 && input_elements(p) <= fc_mul(OWN_PANELS, panels) ? fc_max(1, fc_min(threads, most)) : 1;
}

/* Blocks of outputs and the input behind them for the cache, but not so small that the weights, which every block reads, are more
 * than twice either: 3x3s2 512-512@14 b4 from 11.8 to 6.9 ms, its gradient 9.9 to 7.5, 3x3 512-512@7 b8 21 to 12, 3x3s2 256-256@28
 * 2.2 to 1.6, its gradient as before.  Enough tasks for the threads: where a block holds all, by output channels.  Where one task
 * would pack all weights, a block for each thread, which packs its own: what another core has written is slow to come (16-32@14
 * at two threads, Granite Rapids: 27.5, now 19.2 us). */
static void choose_tile(fc_conv_plan *plan, const fc_phases *phases, const fc_kernels *kernels)
{
    const fc_conv *p = &phases->whole;
    const fc_window *w = &p->window;
    limits l = limits_of(phases, kernels);
    int64_t lanes = kernels->lanes, vectors = fc_ceil_div(p->out_channels, lanes), size = kernels->size;
    int64_t images = p->batch * w->out[0] * w->out[1], wanted = plan->threads > 1 ? 4 * plan->threads : 1, least;
    int64_t each = p->groups * fc_ceil_div(w->out[2], l.columns); /* tasks of a block of rows */
    int64_t rows = fc_max(1, fc_min(images, l.pixels / l.columns)), tasks = each * fc_ceil_div(images, rows);
    int64_t by_runs = part_by_runs(phases, l.columns, kernels), share = fc_ceil_div(images, plan->threads);
    plan->tile[INPUTS] = by_runs ? by_runs : part_of(p, kernels, kernels->nv);
    int own = each == 1 && p->channels == plan->tile[INPUTS] && vectors * lanes * size <= ROW_BYTES && share <= rows;
    least = fc_ceil_div(images, rows);
    if (tasks < wanted && images * l.columns > fc_max(l.enough, 2 * PIXELS_MIN))
        rows = own ? share : fc_max(fc_ceil_div(PIXELS_MIN, l.columns), images / fc_ceil_div(wanted, each));
    rows = even_part(images, fc_ceil_div(images, fc_max(1, fc_min(images, rows))), least, each, plan->threads);
    int64_t outputs = fc_ceil_div(vectors, fc_ceil_div(vectors, fc_min(vectors, ROW_BYTES / size / lanes)));
    outputs = fc_min(outputs, fc_ceil_div(vectors, own_blocks(p, plan->threads, vectors / kernels->nv)));
    tasks = each * fc_ceil_div(images, rows);
    least = fc_ceil_div(vectors, outputs);
    if (tasks * least < wanted)
        outputs = fc_min(outputs, fc_max(kernels->nv, vectors / fc_ceil_div(wanted, fc_max(1, tasks))));
    outputs = even_part(vectors, fc_ceil_div(vectors, outputs), least, tasks, plan->threads);
    plan->tile[ROWS] = rows;
    plan->tile[OUTPUTS] = fc_min(p->out_channels, outputs * lanes);
    plan->tile[SHARED] = each / p->groups * fc_ceil_div(images, rows) > (own ? plan->threads : 1);
}

/* A product, in the unit of fc_gemm_cost; a kernel of one vector does half as much (6-16@14 5x5: pixels 11.2 us, this 14.4), and several
 * taps share lines of the image.  Emerald Rapids, one thread: 3x3 64@56 1.48 ms (pixels 1.58), 3x3s2 128@56 1.50 ms, 1x1s2
 * 256-512@56 1.70 ms (pixels 1.60), 512-512@7 1.75 ms; where a pixel's channels lie pages apart, 1x1 512-128@28 b8 8.0 ms
 * (pixels 6.2).  Zen 5, 1x1s2: 64-64@100 102 us (pixels 130), 96-200@35 73 (76), 256-512@56 0.96 ms (pixels 0.90).
 * Zen 3: 256-512@56 3.7 ms (pixels 2.8, pointwise 2.9), its gradient 3.8 (3.9, 3.4), of 512-1024@28 4.3 (3.6, 3.1). */
static double product_unit(const fc_phases *phases, const layout *l)
{
    const fc_conv *p = &phases->whole;
    const fc_kernels *kernels = l->kernels;
    if (p->out_channels <= kernels->lanes)
        return 2.0;
    if (l->taps > 1)
        return l->runs ? 0.9 : 0.98;
    int pages = phases->count == 1 && p->x.s[2] == 1 && fc_is_far(p, kernels->size);
    /* A stride's pixels as they stand, where multiply-adds hide that each is another load.  Zen 4, one thread, pixels and this, us:
     * 256-512@56 2540, 2400, 512-1024@28 2960, 2465, 128-256@28 b8 1835, 1306, 64-64@100 286, 242, 1x1s3 256-256@57 557, 518, but
     * 256-512@56 b4, of 12 MiB, 10.7, 14.4 ms. */
    int apart = phases->count == 1 && p->window.stride[2] > 1 && fc_has_half_multiplier(kernels) &&
                fc_bytes(input_elements(p), kernels->size) <= 2 * FC_FAR_BYTES;
    /* With short vectors a strip is a line: its one tap's pages are read more often. */
    double strip = fc_has_short_vectors(kernels) ? 1.1 : fc_cpu_has_near_cache() ? 0.9 : 1.0;
    return (pages ? 1.25 : 1.12) * strip * (apart ? 0.8 : 1.0);
}

static const char *plan_channels(fc_conv_plan *plan, double *cost)
{
    fc_phases phases;
    if (!fc_phases_plan(&phases, &plan->problem, plan->direction))
        return "the strides have too many phases";
    const fc_conv *p = &phases.whole;
    const fc_kernels *kernels = fc_dispatch(p->real);
    int64_t k = fc_reduction(p);
    if (!k)
        return "there is nothing to sum";
    if (p->out_channels < kernels->lanes / 2)
        return "too few channels: less than half a vector of output";
    choose_tile(plan, &phases, kernels);
    fc_tap_counts counts = fc_tap_groups_count(&phases);
    layout l = lay_out(plan, &phases, &counts);
    plan->scratch = fc_add(l.shared_bytes, fc_mul(plan->threads, l.worker_bytes));
    if (plan->scratch > fc_scratch_max(plan->threads))
        return "the weights or a block of outputs exceed the scratch bound";
    double products = counts.products, vectors = (double)fc_ceil_div(p->out_channels, kernels->lanes);
    double n = (double)p->batch * (double)p->groups, c = (double)p->channels, lanes = (double)kernels->lanes;
    double terms = 1 + (double)plan->tile[INPUTS] * products / (counts.visits > 1 ? counts.visits : 1);
    double calls = n * products * c * vectors / (9.0 * 3.0 * (terms < TERMS ? terms : TERMS));
    double outputs = n * (double)fc_outputs(&p->window) * vectors * lanes;
    double weights = (double)p->groups * (double)k * vectors * lanes, packed = weights * (plan->tile[SHARED] ? 1.0 : 0.7);
    /* Weights that no second-level cache keeps are read from afar: packing one takes 0.09 ns of 128-128, 0.12 of 256-384 and 384-384,
     * 0.17 of 512-512 (3x3, Zen 5; 512-512@7 1.07 ms); Zen 3's cost twice as much (512-512@7 3.5 ms, by winograd_channels 2.6). */
    double far = fc_has_short_vectors(kernels) ? 0.16 : 0.08;
    double read = weights * (double)kernels->size > FC_FAR_BYTES ? weights * far : 0;
    /* An adjoint's stand apart by a tap of all channels: half of 512-512@7's gradient, 7.3 ms where the forward pass takes 3.8 (Zen 3). */
    if (p->w.o < p->w.c && fc_taps(&p->window) > 1 && fc_has_short_vectors(kernels))
        read += weights * 0.25;
    /* Zen 3, pixels and this, us: 7x7 3-16@128 b4 4230, 5260, 3x3 3-16@64 b32 2230, 3110, 5x5 3-32@64 b8 1950, 3020, of which what they
     * do not share is transposing, 0.4 ns an output of 32-byte vectors. */
    double transposed = fc_has_short_vectors(kernels) ? 0.3 : fc_cpu_has_near_cache() ? 0.1 : 0.15;
    double blocks = n * (double)(l.blocks * l.column_blocks * l.output_blocks) / (double)p->batch, copied = 0;
    if (l.copied)
        copied = blocks * (double)fc_neighbours_most(&phases, plan->tile[ROWS]) * (double)(l.from.s[1] / l.from.s[2]) * c;
    /* A group's pixels and terms are listed first: 16-32@14, of nine, 14.9 us, by winograd_channels 11.5 (Granite Rapids). */
    double listed = 200.0 * (double)counts.groups;
    double multiplied = n * products * c * vectors * 0.125 * product_unit(&phases, &l);
    *cost = 600 + listed + multiplied + calls * (l.runs ? 7 : 14) + copied * transposed +
            outputs * (l.in_place ? 0.02 : transposed) + packed * 0.12 + read + (double)k;
    return NULL;
}

typedef struct job {
    const fc_conv_plan *plan;
    fc_phases phases;
    layout l;
    fc_tap_panels weights;
    const char *x, *bias;
    char *y, *panels, *workers;
    const fc_tap_group *groups;
    int64_t group_count;
    const int64_t *column, *row; /* of A and B, for each group, channel of a part, tap */
    int begun;                   /* outputs are set before the first term is added: to a bias, or as no first group meets some */
} job;

/* Where a strip's panel begins among all panels. */
static char *panel_at(const job *j, int64_t g, int64_t output_block, int64_t strip)
{
    int64_t index = (g * j->l.output_blocks + output_block) * j->l.strips + strip;
    return fc_at(j->panels, index * fc_reduction(&j->phases.whole) * j->l.width, j->l.kernels->size);
}

/* All panels of a block of output channels. */
static void pack_task(void *context, int64_t task, int worker)
{
    const job *j = context;
    const fc_conv *p = &j->phases.whole;
    const fc_kernels *kernels = j->l.kernels;
    const int64_t *tile = j->plan->tile;
    int64_t parts = fc_ceil_div(p->channels, tile[INPUTS]), c = task % parts * tile[INPUTS], rest = task / parts;
    int64_t block = rest % j->l.output_blocks, o = block * tile[OUTPUTS], g = rest / j->l.output_blocks, strip = 0;
    int64_t end = fc_min(p->out_channels, o + tile[OUTPUTS]), inputs = fc_min(tile[INPUTS], p->channels - c);
    int64_t *place = (int64_t *)(void *)(j->workers + worker * j->l.worker_bytes);
    for (int64_t nv; o < end; o += nv * kernels->lanes) {
        nv = next_strip(&j->l, fc_ceil_div(end - o, kernels->lanes));
        char *part = fc_at(panel_at(j, g, block, strip++), c * j->l.taps * fc_tap_panel_row_elements(&j->weights, nv), kernels->size);
        fc_tap_panel_pack(&j->weights, part, place, g, o, nv, c, inputs);
    }
}

/* A block of outputs: rows of all planes and images, columns of each, channels. */
typedef struct block {
    int64_t g, row, rows, column, columns, o, outputs;
    int64_t read;   /* the first column of the copy */
    int64_t strips; /* done at once: its pixels are written whole; 0: one after the other */
    int64_t *place, *list;
    char *part, *tile, *turned, *copy;
} block;

/* Position (n, od, oh) of a row, times strides. */
static int64_t row_at(const fc_window *w, int64_t row, int64_t n, int64_t d, int64_t h)
{
    return row / w->out[1] / w->out[0] * n + row / w->out[1] % w->out[0] * d + row % w->out[1] * h;
}

/* The pixels of the block that a group of taps meets: where their inputs begin (list[i]), where their outputs stand, from the block's
 * first column on (list[l.pixels + i]). */
static int64_t list_pixels(const job *j, const block *b, const fc_tap_group *taps)
{
    const fc_conv *p = &j->phases.whole, *q = &taps->phase->problem;
    const fc_window *w = &q->window;
    const int64_t *origin = taps->phase->first, *step = taps->phase->step, *out = p->window.out;
    const fc_array_strides *from = &j->l.from;
    int64_t count = 0, *x = b->list, *y = b->list + j->l.pixels, first = 0, image = 0, copied = 0;
    int64_t begin = fc_max(taps->axis[2].begin, fc_ceil_div(fc_max(0, b->column - origin[2]), step[2]));
    int64_t end = fc_min(taps->axis[2].end, fc_ceil_div(fc_max(0, b->column + b->columns - origin[2]), step[2])), width = end - begin;
    int64_t pitch = j->l.in_place ? p->y.s[2] : j->l.tile_row, step_x = w->stride[2] * from->s[2], step_y = step[2] * pitch;
    int64_t h = b->row % out[1], d = b->row / out[1] % out[0], n = b->row / out[1] / out[0];
    if (width <= 0)
        return 0;
    for (int i = 0; i < FC_AXES; i++)
        first -= w->offset[i] * from->s[i];
    first -= b->read * from->s[2];
    for (int64_t r = 0; r < b->rows; r++) {
        if (!j->l.copied)
            image = n * p->x.n;
        else if (r == 0 || h == 0) {
            fc_extent read = fc_neighbours_read(&j->phases, 1, h, fc_min(out[1], h + b->rows - r));
            image = (copied - read.begin) * from->s[1];
            copied += read.end - read.begin;
        }
        int64_t oh = (h - origin[1]) / step[1], od = (d - origin[0]) / step[0];
        int met = oh >= taps->axis[1].begin && oh < taps->axis[1].end && od >= taps->axis[0].begin && od < taps->axis[0].end;
        if (met && oh * step[1] == h - origin[1] && od * step[0] == d - origin[0]) {
            int64_t at_x = first + image + od * w->stride[0] * from->s[0] + oh * w->stride[1] * from->s[1] + begin * step_x;
            int64_t at_y = j->l.in_place ? n * p->y.n + d * p->y.s[0] + h * p->y.s[1] : r * b->columns * pitch;
            at_y += (origin[2] - b->column) * pitch + begin * step_y;
            for (int64_t i = 0; i < width; i++, at_x += step_x, at_y += step_y) {
                x[count + i] = at_x;
                y[count + i] = at_y;
            }
            count += width;
        }
        if (++h == out[1]) {
            h = 0;
            n += ++d == out[0];
            d %= out[0];
        }
    }
    return count;
}

/* A tile's outputs, whole pixels, before they are written. */
static void fetch_pixels(const job *j, const block *b, const char *c, int64_t from, int64_t end)
{
    for (int64_t size = j->l.kernels->size, i = from; i < end; i++)
        for (int64_t line = 0; line < b->outputs * size; line += FC_ALIGN)
            __builtin_prefetch(fc_at(c, b->list[j->l.pixels + i], size) + line, 1);
}

/* The group's terms of a part of the channels, added to the strip's outputs (or written there first). */
static void add_group(const job *j, const block *b, const fc_tap_group *group, int64_t inputs, const char *x, const char *panel,
                      int nv, char *c, int add)
{
    const fc_kernels *kernels = j->l.kernels;
    int64_t count = list_pixels(j, b, group), tiles = fc_ceil_div(count, fc_gather_rows(kernels, nv));
    int64_t run = j->l.runs ? FC_RUN : 1, terms = fc_group_taps(group) * inputs / run;
    int64_t sums = fc_ceil_div(terms, TERMS / run), most = fc_ceil_div(terms, sums) * run, blocks = j->l.runs ? 1 : sums;
    int64_t place = group->place * j->plan->tile[INPUTS] / run;
    int64_t few = tiles ? count / tiles : 0, larger = count - few * tiles; /* rows of a tile, or one more: of so many tiles */
    int64_t next = fc_reduction(&j->phases.whole) * j->l.width; /* from a strip's panel to the next one's */
    panel = fc_at(panel, group->phase->place * inputs * fc_tap_panel_row_elements(&j->weights, nv), kernels->size);
    for (int64_t i = 0; i < blocks; i++) {
        int64_t k0 = terms * i / blocks, k = terms * (i + 1) / blocks - k0;
        for (int64_t t = 0, from = 0, rows; t < tiles; t++, from += rows) {
            const void *a[FC_MR_MAX];
            rows = few + (t < larger);
            for (int64_t m = 0; m < rows; m++)
                a[m] = fc_at(x, b->list[from + m], kernels->size);
            if (b->strips)
                fetch_pixels(j, b, c, fc_min(count, from + 2 * rows), fc_min(count, from + 3 * rows));
            const int64_t *a_offset = j->column + place + k0, *b_row = j->row + place + k0, *c_offset = b->list + j->l.pixels + from;
            for (int64_t strip = 0; strip < fc_max(1, b->strips); strip++) {
                const char *at = fc_at(panel, strip * next, kernels->size);
                char *out = fc_at(c, strip * j->l.width, kernels->size);
                if (j->l.runs)
                    kernels->gemm_runs[nv][rows](k * run, most, a, a_offset, at, b_row, out, c_offset, add || i);
                else
                    kernels->gemm_gather[nv][rows](k, a, a_offset, at, b_row, out, c_offset, NULL, add || i);
            }
        }
    }
}

/* Sets the outputs to the bias, or to zero. */
static void begin_block(const job *j, const block *b)
{
    const fc_conv *p = &j->phases.whole;
    int64_t size = j->l.kernels->size, row = j->l.in_place ? b->outputs : j->l.tile_row, width = b->columns;
    const char *bias = j->bias ? fc_at(j->bias, b->g * p->out_channels + b->o, size) : NULL;
    for (int64_t r = 0; r < b->rows; r++) {
        char *out = j->l.in_place ? fc_at(b->tile, row_at(&p->window, b->row + r, p->y.n, p->y.s[0], p->y.s[1]), size)
                                  : fc_at(b->tile, r * width * row, size);
        int64_t step = j->l.in_place ? p->y.s[2] : row, whole = step == row ? width : 1;
        for (int64_t i = 0; i < width; i += whole, out += step * size) {
            memset(out, 0, (size_t)(row * size));
            if (bias)
                memcpy(out, bias, (size_t)(b->outputs * size));
            for (int64_t done = 1; done < whole; done *= 2) /* pixels without gaps: as many again */
                memcpy(fc_at(out, done * row, size), out, (size_t)(fc_min(done, whole - done) * row * size));
        }
    }
}

/* The outputs' bounds, while the block is in the cache. */
static void clamp_block(const job *j, const block *b)
{
    const fc_conv *p = &j->plan->problem;
    int64_t width = b->columns, whole = p->y.s[2] == b->outputs ? width : 1; /* pixels without gaps */
    if (!j->l.in_place)
        fc_output_clamp(p, j->l.kernels, b->tile, b->rows * width * j->l.tile_row);
    for (int64_t r = 0; r < b->rows && j->l.in_place; r++) {
        char *out = fc_at(b->tile, row_at(&p->window, b->row + r, p->y.n, p->y.s[0], p->y.s[1]), j->l.kernels->size);
        for (int64_t i = 0; i < width; i += whole)
            fc_output_clamp(p, j->l.kernels, fc_at(out, i * p->y.s[2], j->l.kernels->size), whole * b->outputs);
    }
}

/* Copies the block's pixels into y, whose channels are neighbours. */
static void store_pixels(const job *j, const block *b)
{
    const fc_conv *p = &j->phases.whole;
    int64_t size = j->l.kernels->size, width = b->columns;
    char *y = fc_at(j->y, b->g * p->out_channels + b->o + b->column * p->y.s[2], size);
    for (int64_t r = 0; r < b->rows; r++) {
        char *out = fc_at(y, row_at(&p->window, b->row + r, p->y.n, p->y.s[0], p->y.s[1]), size);
        for (int64_t i = 0; i < width; i++)
            j->l.kernels->scatter_row(fc_at(out, i * p->y.s[2], size), 1, fc_at(b->tile, (r * width + i) * j->l.tile_row, size),
                                      b->outputs, 0);
    }
}

/* Transposes the block into y, as many pixels at a time as are neighbours there. */
static void store_block(const job *j, const block *b)
{
    const fc_conv *p = &j->phases.whole;
    const fc_window *w = &p->window;
    const fc_kernels *kernels = j->l.kernels;
    int64_t size = kernels->size, width = b->columns, pixels = b->rows * width;
    char *y = fc_at(j->y, (b->g * p->out_channels + b->o) * p->y.c + b->column * p->y.s[2], size);
    if (p->y.s[2] != 1)
        kernels->transpose(b->turned, pixels, b->tile, j->l.tile_row, pixels, b->outputs);
    for (int64_t r = 0, rows; r < b->rows; r += rows) {
        int64_t row = b->row + r, left = w->out[1] - row % w->out[1];
        rows = p->y.s[1] == width && p->y.s[2] == 1 ? fc_min(left, b->rows - r) : 1;
        char *out = fc_at(y, row_at(w, row, p->y.n, p->y.s[0], p->y.s[1]), size);
        if (p->y.s[2] == 1)
            (j->l.past ? kernels->transpose_past : kernels->transpose)(
                out, p->y.c, fc_at(b->tile, r * width * j->l.tile_row, size), j->l.tile_row, rows * width, b->outputs);
        else
            for (int64_t o = 0; o < b->outputs; o++)
                kernels->scatter_row(fc_at(out, o * p->y.c, size), p->y.s[2], fc_at(b->turned, o * pixels + r * width, size),
                                     width, 0);
    }
}

/* Strips, of one width, that the block's pixels are written whole by, or 0. */
static int64_t strips_at_once(const job *j, const block *b)
{
    const fc_kernels *kernels = j->l.kernels;
    int64_t width = j->l.width, terms = fc_reduction(&j->phases.whole), bytes = terms * b->outputs * kernels->size;
    int equal = width == kernels->nv * kernels->lanes && b->outputs % width == 0; /* else next_strip widens the first */
    int pays = fc_has_short_vectors(kernels) && terms <= TERMS && bytes <= PANELS_BYTES;
    return pays && equal && j->l.in_place && j->plan->tile[SHARED] ? b->outputs / width : 0;
}

/* One strip of the block, or as many as are done at once: all terms of `nv` vectors of output channels from o on. */
static void run_strip(const job *j, const block *b, int64_t strip, int64_t o, int nv)
{
    const fc_conv *p = &j->phases.whole;
    const int64_t *tile = j->plan->tile;
    int64_t size = j->l.kernels->size;
    char *outputs = fc_at(b->tile, o - b->o, size);
    for (int64_t c = 0; c < p->channels; c += tile[INPUTS]) {
        const char *x = j->l.copied ? fc_at(b->copy, c, size) : fc_at(j->x, (b->g * p->channels + c) * p->x.c, size);
        int64_t inputs = fc_min(tile[INPUTS], p->channels - c);
        char *part = b->part;
        if (tile[SHARED])
            part = fc_at(panel_at(j, b->g, b->o / tile[OUTPUTS], strip), c * j->l.taps * fc_tap_panel_row_elements(&j->weights, nv), size);
        else
            fc_tap_panel_pack(&j->weights, part, b->place, b->g, o, nv, c, inputs);
        for (const fc_tap_group *group = j->groups; group < j->groups + j->group_count; group++)
            add_group(j, b, group, inputs, x, part, nv, outputs, c || j->begun || !group->first);
    }
}

static void run_task(void *context, int64_t task, int worker)
{
    const job *j = context;
    const fc_conv *p = &j->phases.whole;
    const fc_kernels *kernels = j->l.kernels;
    const int64_t *tile = j->plan->tile;
    const layout *l = &j->l;
    int64_t columns = task % l->column_blocks, rows = task / l->column_blocks % l->blocks;
    int64_t outer = task / l->column_blocks / l->blocks; /* a worker keeps the panels of its outputs */
    block b = {.g = outer / l->output_blocks, .row = rows * tile[ROWS], .o = outer % l->output_blocks * tile[OUTPUTS]};
    b.rows = fc_min(tile[ROWS], l->rows - b.row);
    b.column = columns * l->columns;
    b.columns = fc_min(l->columns, p->window.out[2] - b.column);
    b.outputs = fc_min(tile[OUTPUTS], p->out_channels - b.o);
    char *scratch = j->workers + worker * l->worker_bytes;
    b.place = (int64_t *)(void *)scratch;
    b.list = (int64_t *)(void *)(scratch + l->place_bytes);
    b.copy = scratch + l->place_bytes + l->list_bytes;
    b.tile = b.copy + l->copy_bytes;
    b.turned = b.tile + l->block_bytes;
    b.part = scratch + l->worker_bytes - l->part_bytes;
    if (l->in_place)
        b.tile = fc_at(j->y, b.g * p->out_channels + b.o + b.column * p->y.s[2], kernels->size);
    if (l->copied) {
        fc_extent read = fc_neighbours_read(&j->phases, 2, b.column, b.column + b.columns);
        const char *x = fc_at(j->x, b.g * p->channels * p->x.c, kernels->size);
        fc_neighbours_copy(&j->phases, kernels, &l->from, x, b.row, b.rows, read, b.copy);
        b.read = read.begin;
    }
    if (j->begun)
        begin_block(j, &b);
    for (int64_t o = b.o, nv, strip = 0; o < b.o + b.outputs; o += nv * kernels->lanes) {
        nv = next_strip(l, fc_ceil_div(b.o + b.outputs - o, kernels->lanes));
        b.strips = o == b.o ? strips_at_once(j, &b) : 0;
        run_strip(j, &b, strip++, o, (int)nv);
        nv *= fc_max(1, b.strips);
    }
    if (j->plan->problem.bounds.on)
        clamp_block(j, &b);
    if (!l->in_place && p->y.c == 1 && p->y.s[2] != 1)
        store_pixels(j, &b);
    else if (!l->in_place)
        store_block(j, &b);
    if (l->past)
        __sync_synchronize();
}

/* For each group, its terms in order: where A's column stands, and B's row in the phase's part of the panel. */
static void write_offsets(const job *j, int64_t *column, int64_t *row)
{
    const fc_array_strides *from = &j->l.from;
    int64_t inputs = j->plan->tile[INPUTS], runs = j->l.runs, together = runs ? FC_RUN : 1, unit = runs ? 1 : j->l.width;
    for (const fc_tap_group *group = j->groups; group < j->groups + j->group_count; group++) {
        const fc_tap_box *d = &group->axis[0], *h = &group->axis[1], *v = &group->axis[2];
        const fc_window *w = &group->phase->problem.window;
        int64_t count = fc_group_taps(group), terms = runs ? inputs / FC_RUN : inputs, t = 0, begin = group->place * terms;
        int64_t apart = runs ? 1 : count, next = runs ? terms : 1; /* in the list: channels, or runs of them, and taps */
        for (int64_t kd = d->first; kd < d->first + d->taps; kd++)
            for (int64_t kh = h->first; kh < h->first + h->taps; kh++)
                for (int64_t kw = v->first; kw < v->first + v->taps; kw++, t++) {
                    int64_t tap = (kd * w->kernel[1] + kh) * w->kernel[2] + kw, at = begin + t * next;
                    int64_t x = kd * w->dilation[0] * from->s[0] + kh * w->dilation[1] * from->s[1] + kw * w->dilation[2] * from->s[2];
                    int64_t first = fc_tap_panel_row(&j->weights, group->phase, tap, 0, inputs) * unit;
                    int64_t step = fc_tap_panel_row(&j->weights, group->phase, tap, together, inputs) * unit - first;
                    for (int64_t i = 0; i < terms; i++, at += apart) {
                        column[at] = x + i * together * from->c;
                        row[at] = first + i * step;
                    }
                }
    }
}

static fc_status run_channels(const fc_conv_plan *plan, void *x, void *w, void *bias, void *y)
{
    int forward = plan->direction == FC_FORWARD;
    job j = {.plan = plan, .x = forward ? x : y, .bias = bias, .y = forward ? y : x};
    fc_phases_plan(&j.phases, &plan->problem, plan->direction);
    fc_tap_counts counts = fc_tap_groups_count(&j.phases);
    const fc_conv *p = &j.phases.whole;
    j.l = lay_out(plan, &j.phases, &counts);
    j.weights = (fc_tap_panels){.phases = &j.phases, .kernels = j.l.kernels, .w = w, .runs = j.l.runs, .width = j.l.width};
    char *scratch = fc_arena_take(plan->scratch);
    if (!scratch)
        return FC_NO_MEMORY;
    fc_tap_group *groups = (fc_tap_group *)(void *)scratch;
    int64_t *column = (int64_t *)(void *)(scratch + j.l.group_bytes), *row = column + j.l.offset_bytes / (int64_t)sizeof *row;
    j.begun = !fc_tap_groups_list(&j.phases, groups, &j.group_count) || bias;
    j.groups = groups;
    write_offsets(&j, column, row);
    j.column = column;
    j.row = row;
    j.panels = scratch + j.l.group_bytes + 2 * j.l.offset_bytes;
    j.workers = j.panels + j.l.panels_bytes;
    int64_t blocks = p->groups * j.l.output_blocks;
    if (plan->tile[SHARED])
        fc_parallel(plan->threads, blocks * fc_ceil_div(p->channels, plan->tile[INPUTS]), pack_task, &j);
    fc_parallel(plan->threads, blocks * j.l.blocks * j.l.column_blocks, run_task, &j);
    fc_arena_give();
    return FC_OK;
}

const fc_driver fc_driver_channels = {"channels", plan_channels, run_channels, .bounded = 1};
const fc_driver fc_driver_channels_adjoint = {"channels", plan_channels, run_channels, .bounded = 0};
