/* Few channels, lanes over output channels: the whole sum of a tile of pixels stays in registers and is transposed as it is stored.
 *
 *     Y[o][q] = b[o] + sum_k W[k][o] X[offset[k] + q * step],     k = (c, kd, kh, kw)
 *
 * X is read where it stands, strided or not, unless padding or a stride beyond two asks for a band; no lane is lost at a row's end
 * and no vector crosses cache lines but those stored.  Tiles of mr pixels are stored as whole vectors, the rest of which the next tile
 * overwrites; the last of a row overlaps the one before it.
 *
 *     the weights as panels, one vector of output channels wide or two, headed by the bias
 *     for each image n, group g, plane od, band of output rows       a task
 *         copy the band's input, or point into the image
 *         for each panel:  turned kernel: for each row:  for each tile of pixels
 *
 * Scratch: panels, offsets, places of a band's tiles, the rows of the weights where these are not rows in memory; per worker a band.
 *
 * One thread, us.  Zen 4, by pixels.c, channels.c, tiles of two vectors transposed at once, and so: 3x3s2 3-32@299 450, 459, 411, 348;
 * 3x3 3-32@149 394, 446, 397, 345; 3-32@32 b32 546, 755, -, 524; 8 of 3x3 3-16@28 67, 81, 62, 55; 7x7 3-16@128 677, 914, -, 668; 3x3x3
 * 3-16@16x56x56 1350, -, -, 1215; AVX2 (at once) the first 480, 516, 411.  Zen 5, at once, the first 229, 217, 187; 3x3s2 3-32@224 116,
 * 125, 123.  Zen 5 now, by pixels.c, tiles of one vector and of two at once: the first 197, 222, 183, 3x3s2 3-32@224 103, 134, 100,
 * 3-32@149 175, 220, 186, 3-32@32 b32 235, 318, -.
 * Rejected for the first: pixels.c's strips over rows without gaps, a copy of the image for each column of taps (of 197 us 24 pack, 170
 * multiply, 35 by gather_row); a panel of patches for each strip (195).
 */
#include "engine/gemm.h"
#include "engine/output.h"
#include "engine/source.h"
#include "engine/weights.h"

#include <string.h>

enum { ROWS, PIXELS }; /* plan->tile: output rows of a band; pixels of a kernel's tile */

/* Of a band: in the second-level cache; a tile's rows of it are few.  3x3s2 3-32@299, Zen 4, by 8, 16, 32, 48, 96 KiB: 364, 364, 355, 353,
 * 348 us. */
enum { BAND_BYTES = 96 << 10 };

/* Rows of outputs a tile may store at once to one set of the first-level cache, of twelve lines: planes of 32x32 3-32, a page each,
 * 741 us, by pixels 284.  One by one between multiply-adds it may be all sixteen: Zen 4, eight lines, 532 us, by pixels 546. */
enum { SAME_SET = 8, PAGE = 4096 };

/* Nanoseconds that transposing a tile and storing it take beside its multiply-adds, for each lane of a vector and output channel; less
 * between the terms of the next, where a cycle has one multiply-add.  Multiply-adds of a vector of channels that take as long as a term's
 * loads that are no broadcasts; where a cycle has two, as many as it has loads, those wait for broadcasts too. */
#define TURN 0.05
#define TURN_BETWEEN 0.01
#define LOADS 1.25
#define LOADS_OF_TWO 2.8

typedef struct layout {
    const fc_kernels *kernels;
    fc_source source;
    fc_weights weights;
    int64_t k, bands, panels, width; /* width: elements of a panel's row */
    int64_t tiles;                   /* of a row */
    int64_t step, row;               /* between pixels, and rows of pixels, of what is read */
    int64_t offset_bytes, place_bytes, panel_bytes;
} layout;

/* Pixels of any row that the kernel can step along are read where they stand. */
static int reads_in_place(const fc_conv *p)
{
    return fc_lies_inside(&p->window) && p->x.s[2] == 1 && p->window.stride[2] <= 2;
}

static int64_t panel_width(const fc_kernels *kernels, const fc_conv *p, int64_t mr)
{
    return (p->out_channels > kernels->lanes && kernels->turned[1][0][mr] ? 2 : 1) * kernels->lanes;
}

/* Of sixteen lanes: whether a tile is one vector of channels, transposed between the terms of the next (turned.inc). */
static int is_between(const fc_kernels *kernels, int64_t width)
{
    return kernels->lanes == FC_LANES_MAX && width == kernels->lanes;
}

/* How many rows of a tile's outputs go to the same set. */
static int64_t in_one_set(const fc_kernels *kernels, int64_t width, int64_t plane)
{
    int64_t apart = plane * kernels->size & (PAGE - 1), step = apart ? apart & -apart : PAGE;
    return fc_ceil_div(width * fc_max(step, FC_ALIGN), PAGE);
}

static layout lay_out(const fc_conv_plan *plan)
{
    const fc_conv *p = &plan->problem;
    const fc_kernels *kernels = fc_dispatch(p->real);
    layout l = {.kernels = kernels, .k = fc_reduction(p), .bands = fc_ceil_div(p->window.out[1], plan->tile[ROWS])};
    l.width = panel_width(kernels, p, plan->tile[PIXELS]);
    l.panels = fc_ceil_div(p->out_channels, l.width);
    l.weights = fc_weights_plan(p, kernels->size);
    l.source = fc_source_plan(p, kernels->size, p->channels, plan->tile[ROWS], 0);
    l.step = 1;
    l.row = l.source.pitch;
    if (reads_in_place(p)) {
        l.source.in_place = 1;
        l.source.channel = p->x.c;
        l.source.bytes = 0;
        l.step = p->window.stride[2];
        l.row = p->x.s[1] * p->window.stride[1];
    }
    l.tiles = fc_ceil_div(p->window.out[2], plan->tile[PIXELS]);
    l.offset_bytes = fc_bytes(l.k, sizeof(int64_t));
    l.place_bytes = fc_bytes(fc_mul(plan->tile[ROWS], l.tiles), 2 * sizeof(int64_t));
    l.panel_bytes = fc_bytes(fc_mul(fc_mul(p->groups, l.panels), fc_mul(l.k + 1, l.width)), kernels->size);
    return l;
}

/* Nanoseconds of a row's tiles of mr pixels. */
static double row_cost(const fc_kernels *kernels, const fc_conv *p, int64_t mr)
{
    int64_t width = panel_width(kernels, p, mr);
    double sums = (double)(mr * width / kernels->lanes), turned = (double)(kernels->lanes * width);
    double tile = 0.125 * (sums < 8 ? 8 : sums) * (width > kernels->lanes ? 1.0 : 1.1) * (double)fc_reduction(p) + TURN * turned;
    int half = fc_has_half_multiplier(kernels);
    if (is_between(kernels, width))
        tile = 0.125 * (sums + (half ? LOADS : LOADS_OF_TWO)) * (double)fc_reduction(p) + (half ? TURN_BETWEEN : TURN) * turned;
    return (double)(fc_ceil_div(p->out_channels, width) * fc_ceil_div(p->window.out[2], mr)) * tile;
}

static void choose_tile(fc_conv_plan *plan, const fc_kernels *kernels)
{
    const fc_conv *p = &plan->problem;
    int64_t height = p->window.out[1], images = fc_mul(fc_mul(p->batch, p->groups), p->window.out[0]);
    int64_t rows = fc_source_rows(p, kernels->size, p->channels, BAND_BYTES), wanted = plan->threads > 1 ? 4 * plan->threads : 1;
    if (images * fc_ceil_div(height, rows) < wanted)
        rows = fc_min(rows, fc_ceil_div(height, fc_min(fc_ceil_div(wanted, images), fc_ceil_div(height, 4))));
    plan->tile[ROWS] = rows;
    double least = 0;
    int64_t best = 0;
    for (int64_t mr = 1; mr <= fc_min(kernels->lanes, p->window.out[2]); mr++) {
        int64_t width = panel_width(kernels, p, mr); /* of sixteen lanes other tiles have one vector */
        int shares = kernels->lanes == FC_LANES_MAX && width > kernels->lanes && in_one_set(kernels, width, p->y.c) > SAME_SET;
        double cost = kernels->turned[0][0][mr] && !shares ? row_cost(kernels, p, mr) : 0;
        if (cost > 0 && (!best || cost < least)) {
            least = cost;
            best = mr;
        }
    }
    plan->tile[PIXELS] = best;
}

static const char *plan_turned(fc_conv_plan *plan, double *cost)
{
    const fc_conv *p = &plan->problem;
    const fc_kernels *kernels = fc_dispatch(p->real);
    if (!fc_reduction(p))
        return "there is nothing to sum";
    if (2 * p->out_channels < kernels->lanes)
        return "too few channels: less than half a vector of output";
    if (fc_taps(&p->window) == 1)
        return "a 1x1 is a product of what stands in memory";
    if (fc_reduction(p) > fc_gemm_block(plan))
        return "sums are long: they are better cut";
    if (p->y.s[2] != 1)
        return "pixels of the output are not neighbours in memory";
    choose_tile(plan, kernels);
    if (!plan->tile[PIXELS])
        return "a row of output pixels is less than a tile";
    layout l = lay_out(plan);
    if (!is_between(kernels, l.width) && in_one_set(kernels, l.width, p->y.c) > SAME_SET)
        return "planes of the output share a set of the first-level cache";
    plan->scratch = fc_add(fc_add(l.offset_bytes, l.place_bytes), fc_add(l.weights.bytes, l.panel_bytes));
    plan->scratch = fc_add(plan->scratch, fc_mul(plan->threads, l.source.bytes));
    if (plan->scratch > fc_scratch_max(plan->threads))
        return "a padded band of the input, or the weights, exceed the scratch bound";
    double images = (double)p->batch * (double)p->groups * (double)p->window.out[0], bytes = (double)kernels->size;
    double copied = l.source.in_place ? 0 : (double)p->channels * (double)l.source.channel;
    double take = p->x.s[2] != 1 ? 1.0 : (p->window.stride[2] > 1 ? 0.0375 : 0.0125) * bytes;
    *cost = 300 + (double)l.k + 0.06 * (double)l.panel_bytes + 0.3 * (double)l.weights.bytes +
            images * ((double)p->window.out[1] * row_cost(kernels, p, plan->tile[PIXELS]) +
                      (double)l.bands * (60 + take * copied + 2.0 * copied / (double)l.source.pitch));
    return NULL;
}

typedef struct job {
    const fc_conv_plan *plan;
    layout l;
    int64_t *offset, (*place)[2]; /* of a band's tiles, row by row: where they begin in x and in y */
    const char *x, *w, *bias;
    char *y, *panels, *bands;
} job;

/* Panel `task` of all groups': a row of biases, then one for each term. */
static void pack_panel(void *context, int64_t task, int worker)
{
    (void)worker;
    const job *j = context;
    const fc_conv *p = &j->plan->problem;
    const layout *l = &j->l;
    int64_t size = l->kernels->size, g = task / l->panels, o = task % l->panels * l->width, row = l->width * size;
    int64_t count = fc_min(l->width, p->out_channels - o);
    char *panel = j->panels + task * (l->k + 1) * row;
    memset(panel, 0, (size_t)(count < l->width ? (l->k + 1) * row : row));
    if (j->bias)
        memcpy(panel, fc_at(j->bias, g * p->out_channels + o, size), (size_t)(count * size));
    l->kernels->transpose(panel + row, l->width, fc_at(j->w, g * l->weights.g + o * l->weights.o, size), l->weights.o, count, l->k);
}

/* Tiles at the end of a row whose vectors would be stored beyond it. */
static int64_t tiles_beyond(const layout *l, int64_t mr, int64_t width)
{
    int64_t inside = width < l->kernels->lanes ? 0 : (width - l->kernels->lanes) / mr + 1;
    return l->tiles - fc_min(inside, mr < l->kernels->lanes ? l->tiles - 1 : l->tiles);
}

/* Some rows of `outputs` channels.  What is stored beyond a row the next one overwrites, if it follows without a gap. */
static void run_rows(const job *j, const char *x, const char *panel, char *y, int64_t outputs, int64_t rows)
{
    const fc_conv *p = &j->plan->problem;
    const layout *l = &j->l;
    const fc_kernels *kernels = l->kernels;
    int64_t mr = j->plan->tile[PIXELS], width = p->window.out[2], at_once = p->y.s[1] == width ? rows : 1;
    int64_t beyond = tiles_beyond(l, mr, width);
    fc_turned_kernel kernel = kernels->turned[l->width / kernels->lanes - 1][l->step - 1][mr];
    for (int64_t r = 0; r < rows; r += at_once) {
        const int64_t(*place)[2] = (const int64_t(*)[2])j->place + r * l->tiles;
        int64_t single = fc_max(0, beyond - 1), tiles = at_once * l->tiles - single;
        kernel(tiles, place, l->k, x, j->offset, panel, y, p->y.c, outputs, 1);
        for (place += tiles; single > 0; single--, place++)
            kernel(1, place, l->k, x, j->offset, panel, y, p->y.c, outputs, 1);
        for (int64_t o = 0; o < outputs; o++)
            fc_output_clamp(p, kernels, fc_at(y, o * p->y.c + r * p->y.s[1], kernels->size), at_once * width);
    }
}

static void run_task(void *context, int64_t task, int worker)
{
    const job *j = context;
    const fc_conv *p = &j->plan->problem;
    const fc_window *w = &p->window;
    const layout *l = &j->l;
    int64_t size = l->kernels->size, oh = task % l->bands * j->plan->tile[ROWS], rest = task / l->bands;
    int64_t od = rest % w->out[0], g = rest / w->out[0] % p->groups, n = rest / w->out[0] / p->groups;
    int64_t rows = fc_min(j->plan->tile[ROWS], w->out[1] - oh);
    const char *x = fc_at(j->x, n * p->x.n + g * p->channels * p->x.c, size);
    x = fc_source_take(&l->source, p, l->kernels, j->bands + worker * l->source.bytes, x, p->channels, od, oh);
    char *y = fc_at(j->y, n * p->y.n + g * p->out_channels * p->y.c + od * p->y.s[0] + oh * p->y.s[1], size);
    for (int64_t i = 0; i < l->panels; i++)
        run_rows(j, x, fc_at(j->panels, (g * l->panels + i) * (l->k + 1) * l->width, size), fc_at(y, i * l->width * p->y.c, size),
                 fc_min(l->width, p->out_channels - i * l->width), rows);
}

static void fill_places(const job *j)
{
    const fc_conv *p = &j->plan->problem;
    int64_t(*place)[2] = j->place, mr = j->plan->tile[PIXELS];
    for (int64_t r = 0; r < j->plan->tile[ROWS]; r++)
        for (int64_t i = 0; i < j->l.tiles; i++, place++) {
            int64_t q = fc_min(i * mr, p->window.out[2] - mr);
            (*place)[0] = r * j->l.row + q * j->l.step;
            (*place)[1] = r * p->y.s[1] + q;
        }
}

static fc_status run_turned(const fc_conv_plan *plan, void *x, void *w, void *bias, void *y)
{
    const fc_conv *p = &plan->problem;
    job j = {.plan = plan, .l = lay_out(plan), .x = x, .bias = bias, .y = y};
    char *scratch = fc_arena_take(plan->scratch);
    if (!scratch)
        return FC_NO_MEMORY;
    j.offset = (int64_t *)(void *)scratch;
    fc_source_offsets(&j.l.source, p, p->channels, j.offset);
    scratch += j.l.offset_bytes;
    j.place = (int64_t(*)[2])(void *)scratch;
    fill_places(&j);
    scratch += j.l.place_bytes;
    j.w = fc_weights_take(&j.l.weights, p, j.l.kernels, plan->threads, scratch, w);
    j.panels = scratch + j.l.weights.bytes;
    j.bands = j.panels + j.l.panel_bytes;
    fc_parallel(plan->threads, p->groups * j.l.panels, pack_panel, &j);
    fc_parallel(plan->threads, p->batch * p->groups * p->window.out[0] * j.l.bands, run_task, &j);
    fc_arena_give();
    return FC_OK;
}

const fc_driver fc_driver_turned = {"turned", plan_turned, run_turned, .bounded = 1};
