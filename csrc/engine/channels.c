/* The channel driver: lanes hold output channels, rows of the product are output pixels.
 *
 *     Y[p][o] = b[o] + sum_k X[p + offset[k]] W[k][o],     k = (part of c, kd, kh, kw, c)
 *
 * Row p of A is the image itself, read where it stands through the kernel's column offsets, whatever its strides; B is the
 * weights transposed, in panels a strip of vectors wide.  No lane is lost to the width of the image, so this driver serves
 * narrow and strided images.  Nothing is padded: the taps are cut into groups that meet the same rectangle of outputs, and
 * a tap is multiplied with those outputs only whose input lies inside the image.
 *
 *     for each group g, block of output rows (counted through planes and images), block of output channels     a task
 *         for each strip of output channels:  for each part of the input channels:  for each group of taps:
 *             list the group's pixels in the block
 *             for each block of k:  for each tile of pixels:  gemm kernel, added to the block of outputs
 *         transpose the block into y, unless its channels lie next to each other: then it was written there at once
 *
 * Scratch: the panels, or per worker a single one where every panel is used by one task only (a batch of one small image: its
 * weights would be read, written and read again through memory); per worker the lists of pixels and the block of outputs.
 * The parts of the channels (a panel's part fills PART_BYTES at most) depend on the kernel's taps and the instruction set alone,
 * never on how the work is cut, so the order of each sum does not either.
 *
 * Emerald Rapids, one core, peak 172 GFLOPS; this, the pixel driver: 3x3s2 128@56 148, 119; 512-512@7 130, 108; 1x1s2 256-512@56
 * 123, 132; 1x1 512@14 139, 144.  The product takes 80 %, at 154; writing y 10 %.  Tried: blocks of 96, 144, 192 terms instead of
 * 288 (as fast); fetching the next pixels, or y, ahead (as fast, and 3 % slower); packing a channel's taps at a time where all
 * channels' follow each other (512@7: 3.9 instead of 1.75 ms, since it reads 36 bytes of a line).
 */
#include "engine/gemm.h"

#include <string.h>

enum { ROWS, OUTPUTS, INPUTS, SHARED }; /* plan->tile: rows and output channels of a block, channels of a part; shared panels */
enum { PIXELS_MIN = 48, PIXELS_MAX = 1024, OUTPUTS_MAX = 512, PART_BYTES = 256 << 10 };

/* Consecutive taps of an axis that meet the same outputs: begin <= o < end. */
typedef struct run {
    int64_t first, taps, begin, end;
} run;

static void meet(const fc_window *w, int axis, int64_t tap, int64_t *begin, int64_t *end)
{
    int64_t s = w->stride[axis], at = tap * w->dilation[axis] - w->offset[axis], last = w->in[axis] - 1 - at;
    *begin = at >= 0 ? 0 : fc_ceil_div(-at, s);
    *end = fc_max(*begin, last < 0 ? 0 : fc_min(w->out[axis], last / s + 1));
}

static run run_at(const fc_window *w, int axis, int64_t first)
{
    run r = {.first = first};
    meet(w, axis, first, &r.begin, &r.end);
    int64_t begin = r.begin, end = r.end;
    while (begin == r.begin && end == r.end && first + ++r.taps < w->kernel[axis])
        meet(w, axis, first + r.taps, &begin, &end);
    return r;
}

/* The taps that meet one rectangle of outputs, `place` taps after the first. */
typedef struct group {
    run axis[FC_AXES];
    int64_t place;
} group;

static int64_t taps_of(const group *g)
{
    return g->axis[0].taps * g->axis[1].taps * g->axis[2].taps;
}

/* Where tap t of the group stands, given what each axis' taps are apart. */
static int64_t tap_at(const group *g, int64_t t, const int64_t stride[FC_AXES])
{
    int64_t at = 0;
    for (int i = FC_AXES - 1; i >= 0; i--) {
        at += (g->axis[i].first + t % g->axis[i].taps) * stride[i];
        t /= g->axis[i].taps;
    }
    return at;
}

static int64_t outputs_of(const group *g)
{
    int64_t outputs = 1;
    for (int i = 0; i < FC_AXES; i++)
        outputs *= g->axis[i].end - g->axis[i].begin;
    return outputs;
}

static int step_group(const fc_window *w, group *g)
{
    for (int i = FC_AXES - 1; i >= 0; i--) {
        int64_t next = g->axis[i].first + g->axis[i].taps;
        g->axis[i] = run_at(w, i, next < w->kernel[i] ? next : 0);
        if (next < w->kernel[i])
            return 1;
    }
    return 0;
}

/* The first group from this one on that meets any output. */
static int seek_group(const fc_window *w, group *g)
{
    while (!outputs_of(g))
        if (!step_group(w, g))
            return 0;
    return 1;
}

static int first_group(const fc_window *w, group *g)
{
    g->place = 0;
    for (int i = 0; i < FC_AXES; i++)
        g->axis[i] = run_at(w, i, 0);
    return seek_group(w, g);
}

static int next_group(const fc_window *w, group *g)
{
    g->place += taps_of(g);
    return step_group(w, g) && seek_group(w, g);
}

typedef struct layout {
    const fc_kernels *kernels;
    int64_t taps, rows, blocks, output_blocks;  /* rows: of all planes and images; blocks: of rows */
    int64_t lane_row, tile_row, pixels;         /* of a block of outputs: channels in whole vectors, their pitch, pixels */
    int64_t shared_bytes, worker_bytes;
    int64_t panels_bytes, part_bytes;           /* all panels; one part of one of them */
    int64_t offset_bytes, ramp_bytes;           /* of A's columns; of B's rows for each width */
    int64_t place_bytes, list_bytes, block_bytes;
    int in_place;                               /* y's channels are neighbours, in whole vectors */
} layout;

/* Vectors of the next strip when `vectors` are left: one more than usual where they divide into those. */
static int next_strip(const fc_kernels *kernels, int64_t vectors)
{
    int strip = kernels->nv;
    if (vectors > strip && vectors % strip && vectors % (strip + 1) == 0)
        strip++;
    return fc_gemm_next_strip(strip, vectors);
}

static int64_t bytes_of(int64_t count, int64_t size)
{
    return fc_arena_round(fc_min(INT64_MAX / 16, fc_mul(count, size)));
}

static layout lay_out(const fc_conv_plan *plan)
{
    const fc_conv *p = &plan->problem;
    const fc_kernels *kernels = fc_dispatch(p->real);
    int64_t lanes = kernels->lanes, word = sizeof(int64_t), size = kernels->size, k = fc_reduction(p);
    layout l = {.kernels = kernels, .taps = fc_taps(&p->window)};
    l.rows = p->batch * p->window.out[0] * p->window.out[1];
    l.blocks = fc_ceil_div(l.rows, plan->tile[ROWS]);
    l.output_blocks = fc_ceil_div(p->out_channels, plan->tile[OUTPUTS]);
    l.lane_row = fc_ceil_div(plan->tile[OUTPUTS], lanes) * lanes;
    l.tile_row = (l.lane_row / lanes | 1) * lanes; /* odd: rows a power of two apart would share a few sets of the cache */
    l.pixels = plan->tile[ROWS] * p->window.out[2];
    l.in_place = p->y.c == 1 && p->out_channels % lanes == 0;
    l.part_bytes = bytes_of(plan->tile[INPUTS] * l.taps, (kernels->nv + 1) * lanes * size);
    if (plan->tile[SHARED])
        l.panels_bytes = bytes_of(fc_mul(p->groups, k), fc_mul(l.output_blocks, l.lane_row * size));
    l.offset_bytes = bytes_of(k, word);
    l.ramp_bytes = bytes_of((FC_NV_MAX + 1) * FC_KC, word);
    l.place_bytes = bytes_of(fc_mul(plan->tile[INPUTS], 4 * l.taps), word);
    l.list_bytes = bytes_of(2 * l.pixels, word);
    l.block_bytes = l.in_place ? 0 : bytes_of(fc_mul(l.pixels, l.tile_row), size);
    l.shared_bytes = fc_add(l.panels_bytes, fc_add(l.offset_bytes, l.ramp_bytes));
    l.worker_bytes = l.place_bytes + (plan->tile[SHARED] ? 0 : l.part_bytes) + l.list_bytes;
    l.worker_bytes = fc_add(l.worker_bytes, l.in_place || p->y.s[2] == 1 ? l.block_bytes : 2 * l.block_bytes);
    return l;
}

/* Blocks of outputs and the input behind them for the cache; enough tasks for the threads. */
static void choose_tile(fc_conv_plan *plan, const fc_kernels *kernels)
{
    const fc_conv *p = &plan->problem;
    const fc_window *w = &p->window;
    int64_t lanes = kernels->lanes, vectors = fc_ceil_div(p->out_channels, lanes), size = kernels->size;
    int64_t images = p->batch * w->out[0] * w->out[1], wanted = plan->threads > 1 ? 4 * plan->threads : 1;
    int64_t outputs = fc_min(vectors, OUTPUTS_MAX / lanes);
    outputs = fc_ceil_div(vectors, fc_ceil_div(vectors, outputs));
    int64_t input = fc_min(w->stride[1], w->kernel[1]) * fc_min(w->stride[2], w->kernel[2]) * p->channels;
    int64_t pixels = FC_BLOCK_BYTES / size / fc_max(outputs * lanes, fc_min(input, FC_BLOCK_BYTES / size / PIXELS_MIN));
    pixels = fc_max(PIXELS_MIN, fc_min(pixels, PIXELS_MAX));
    int64_t rows = fc_max(1, fc_min(images, pixels / w->out[2])), tasks = p->groups * fc_ceil_div(images, rows);
    if (tasks < wanted && images * w->out[2] > 2 * PIXELS_MIN)
        rows = fc_max(fc_ceil_div(PIXELS_MIN, w->out[2]), images / fc_ceil_div(wanted, p->groups));
    rows = fc_ceil_div(images, fc_ceil_div(images, fc_max(1, fc_min(images, rows))));
    tasks = p->groups * fc_ceil_div(images, rows) * fc_ceil_div(vectors, outputs);
    if (tasks < wanted)
        outputs = fc_min(outputs, fc_max(kernels->nv, vectors / fc_ceil_div(wanted, fc_max(1, tasks))));
    plan->tile[ROWS] = rows;
    plan->tile[OUTPUTS] = fc_min(p->out_channels, outputs * lanes);
    plan->tile[SHARED] = fc_ceil_div(images, rows) > 1;
    int64_t part = PART_BYTES / size / (kernels->nv * lanes) / fc_max(1, fc_taps(w));
    plan->tile[INPUTS] = fc_min(p->channels, fc_max(lanes, part / lanes * lanes));
}

/* Multiplications of one image and one pair of channels, and kernel calls for one tile of each. */
static double count(const fc_conv *p, double *groups)
{
    double products = 1;
    *groups = 1;
    for (int i = 0; i < FC_AXES; i++) {
        int64_t sum = 0, runs = 0;
        for (int64_t tap = 0; tap < p->window.kernel[i]; runs++) {
            run r = run_at(&p->window, i, tap);
            sum += r.taps * (r.end - r.begin);
            tap += r.taps;
        }
        products *= (double)sum;
        *groups *= (double)runs;
    }
    return products;
}

static const char *plan_channels(fc_conv_plan *plan, double *cost)
{
    const fc_conv *p = &plan->problem;
    const fc_kernels *kernels = fc_dispatch(p->real);
    int64_t k = fc_reduction(p);
    if (!k)
        return "there is nothing to sum";
    if (p->channels < 4 || p->out_channels < kernels->lanes / 2)
        return "too few channels: less than 4 of input, or half a vector of output";
    choose_tile(plan, kernels);
    layout l = lay_out(plan);
    plan->scratch = fc_add(l.shared_bytes, fc_mul(plan->threads, l.worker_bytes));
    if (plan->scratch > fc_scratch_max(plan->threads))
        return "the weights or a block of outputs exceed the scratch bound";
    double groups, products = count(p, &groups), vectors = (double)fc_ceil_div(p->out_channels, kernels->lanes);
    double n = (double)p->batch * (double)p->groups, c = (double)p->channels, lanes = (double)kernels->lanes;
    double terms = fc_min(FC_KC, plan->tile[INPUTS]) * (groups > 1 ? (double)l.taps / groups : (double)l.taps);
    double calls = n * products * c * vectors / (9.0 * 3.0 * (terms < FC_KC ? terms : FC_KC));
    double outputs = n * (double)fc_outputs(&p->window) * vectors * lanes;
    double packed = (double)p->groups * (double)k * vectors * lanes * (plan->tile[SHARED] ? 1.0 : 0.7);
    /* In the unit of fc_gemm_cost; a kernel of one vector does half as much (6-16@14 5x5: pixels 11.2 us, this 14.4).  Emerald
     * Rapids, one thread: 3x3s2 128@56 1.58 ms, 1x1s2 256-512@56 1.67 ms, 512-512@7 1.75 ms, 1x1 512@14 0.74 ms. */
    *cost = 600 + n * products * c * vectors * 0.125 * (vectors > 1 ? 1.05 : 2.0) + calls * 14 +
            outputs * (l.in_place ? 0.02 : 0.15) + packed * 0.12 + (double)k;
    return NULL;
}

typedef struct job {
    const fc_conv_plan *plan;
    layout l;
    const char *x, *w, *bias;
    char *y, *panels, *workers;
    const int64_t *offset; /* of A's columns: for each part of the channels, tap of the groups in order, channel */
    const int64_t *ramp;   /* [nv][FC_KC]: rows of B */
    int begun;             /* outputs are set before the first term is added: to a bias, or because no group meets them all */
} job;

/* The part of the panel for `width` outputs from `o` on and channels c ... c + inputs: rows (tap, channel), zeros beyond the
 * last output. */
static void pack_part(const job *j, char *panel, int64_t *place, int64_t g, int64_t o, int64_t width, int64_t c, int64_t inputs)
{
    static const double zero = 0;
    const fc_conv *p = &j->plan->problem;
    const fc_kernels *kernels = j->l.kernels;
    int64_t size = kernels->size, outputs = fc_min(width, p->out_channels - o), row = inputs * width, low = 0, span = 1;
    for (int i = 0; i < FC_AXES; i++) {
        low += fc_min(0, (p->window.kernel[i] - 1) * p->w.k[i]);
        span += (p->window.kernel[i] - 1) * (p->w.k[i] < 0 ? -p->w.k[i] : p->w.k[i]);
    }
    const char *w = fc_at(j->w, g * p->w.g + o * p->w.o + c * p->w.c, size);
    int by_channel = p->w.c != 1 && p->w.o != 1 && span <= 4 * j->l.taps; /* a channel's taps lie close together */
    int at_once = by_channel && p->w.c == span; /* and so do the channels */
    for (int64_t i = 0; i < (by_channel ? span : inputs); i++)
        place[i] = by_channel ? -1 : i * width;
    group taps;
    for (int more = first_group(&p->window, &taps); more; more = next_group(&p->window, &taps))
        for (int64_t t = 0; t < taps_of(&taps); t++) {
            int64_t at = tap_at(&taps, t, p->w.k);
            char *dst = fc_at(panel, (taps.place + t) * row, size);
            if (by_channel && place[at - low] < 0) /* of taps that share an element, where a stride is zero, the first */
                place[at - low] = (taps.place + t) * row;
            else if (p->w.c == 1)
                kernels->transpose_rows(dst, place, fc_at(w, at, size), p->w.o, outputs, inputs);
            else
                for (int64_t i = 0; i < inputs; i++)
                    kernels->gather_row(fc_at(dst, i * width, size), width, fc_at(w, at + i * p->w.c, size), p->w.o, 0, 1,
                                        outputs, &zero);
        }
    for (int64_t i = span; at_once && i < inputs * span; i++)
        place[i] = place[i - span] < 0 ? -1 : place[i - span] + width;
    for (int64_t i = 0; by_channel && i < (at_once ? 1 : inputs); i++)
        kernels->transpose_rows(fc_at(panel, i * width, size), place, fc_at(w, i * p->w.c + low, size), p->w.o, outputs,
                                at_once ? inputs * span : span);
}

/* Where the panel of the strip from output `o` on begins among all panels. */
static char *panel_at(const job *j, int64_t g, int64_t o)
{
    const fc_conv *p = &j->plan->problem;
    int64_t block = o / j->plan->tile[OUTPUTS], column = block * j->l.lane_row + o % j->plan->tile[OUTPUTS];
    return fc_at(j->panels, (g * j->l.output_blocks * j->l.lane_row + column) * fc_reduction(p), j->l.kernels->size);
}

/* All panels of a block of output channels. */
static void pack_task(void *context, int64_t task, int worker)
{
    const job *j = context;
    const fc_conv *p = &j->plan->problem;
    const fc_kernels *kernels = j->l.kernels;
    const int64_t *tile = j->plan->tile;
    int64_t parts = fc_ceil_div(p->channels, tile[INPUTS]), c = task % parts * tile[INPUTS], rest = task / parts;
    int64_t o = rest % j->l.output_blocks * tile[OUTPUTS], g = rest / j->l.output_blocks;
    int64_t end = fc_min(p->out_channels, o + tile[OUTPUTS]), inputs = fc_min(tile[INPUTS], p->channels - c);
    int64_t *place = (int64_t *)(void *)(j->workers + worker * j->l.worker_bytes);
    for (int64_t nv; o < end; o += nv * kernels->lanes) {
        nv = next_strip(kernels, fc_ceil_div(end - o, kernels->lanes));
        int64_t width = nv * kernels->lanes;
        pack_part(j, fc_at(panel_at(j, g, o), c * j->l.taps * width, kernels->size), place, g, o, width, c, inputs);
    }
}

/* A block of outputs: rows of all planes and images, channels. */
typedef struct block {
    int64_t g, row, rows, o, outputs;
    int64_t *place, *list;
    char *part, *tile, *turned;
} block;

/* Position (n, od, oh) of a row, times strides. */
static int64_t row_at(const fc_window *w, int64_t row, int64_t n, int64_t d, int64_t h)
{
    return row / w->out[1] / w->out[0] * n + row / w->out[1] % w->out[0] * d + row % w->out[1] * h;
}

/* The pixels of the block that a group of taps meets: where their inputs begin (list[i]), where their outputs stand
 * (list[l.pixels + i]). */
static int64_t list_pixels(const job *j, const block *b, const group *taps)
{
    const fc_conv *p = &j->plan->problem;
    const fc_window *w = &p->window;
    int64_t count = 0, *x = b->list, *y = b->list + j->l.pixels, first = 0;
    for (int i = 0; i < FC_AXES; i++)
        first -= w->offset[i] * p->x.s[i];
    for (int64_t r = 0; r < b->rows; r++) {
        int64_t row = b->row + r, oh = row % w->out[1], od = row / w->out[1] % w->out[0];
        if (od < taps->axis[0].begin || od >= taps->axis[0].end || oh < taps->axis[1].begin || oh >= taps->axis[1].end)
            continue;
        int64_t at_x = first + row_at(w, row, p->x.n, w->stride[0] * p->x.s[0], w->stride[1] * p->x.s[1]);
        int64_t at_y = j->l.in_place ? row_at(w, row, p->y.n, p->y.s[0], p->y.s[1]) : r * w->out[2] * j->l.tile_row;
        int64_t step_x = w->stride[2] * p->x.s[2], step_y = j->l.in_place ? p->y.s[2] : j->l.tile_row;
        int64_t begin = taps->axis[2].begin, width = taps->axis[2].end - begin;
        for (int64_t i = 0; i < width; i++) {
            x[count + i] = at_x + (begin + i) * step_x;
            y[count + i] = at_y + (begin + i) * step_y;
        }
        count += width;
    }
    return count;
}

/* The group's terms of a part of the channels, added to the strip's outputs (or written there first). */
static void add_group(const job *j, const block *b, int64_t count, const char *x, const char *panel, const int64_t *offset,
                      int64_t terms, int nv, char *c, int add)
{
    const fc_kernels *kernels = j->l.kernels;
    int64_t size = kernels->size, width = nv * kernels->lanes, tiles = fc_ceil_div(count, kernels->mr[nv]);
    int64_t blocks = fc_ceil_div(terms, FC_KC);
    for (int64_t i = 0; i < blocks; i++) {
        int64_t k0 = terms * i / blocks, k = terms * (i + 1) / blocks - k0;
        for (int64_t t = 0; t < tiles; t++) {
            int64_t from = count * t / tiles, rows = count * (t + 1) / tiles - from;
            const void *a[FC_MR_MAX];
            for (int64_t m = 0; m < rows; m++)
                a[m] = fc_at(x, b->list[from + m], size);
            kernels->gemm_gather[nv][rows](k, a, offset + k0, fc_at(panel, k0 * width, size), j->ramp + nv * FC_KC, c,
                                           b->list + j->l.pixels + from, NULL, add || i);
        }
    }
}

/* Sets the outputs to the bias, or to zero. */
static void begin_block(const job *j, const block *b)
{
    const fc_conv *p = &j->plan->problem;
    int64_t size = j->l.kernels->size, row = j->l.in_place ? b->outputs : j->l.tile_row, width = p->window.out[2];
    const char *bias = j->bias ? fc_at(j->bias, b->g * p->out_channels + b->o, size) : NULL;
    for (int64_t r = 0; r < b->rows; r++) {
        char *out = j->l.in_place ? fc_at(b->tile, row_at(&p->window, b->row + r, p->y.n, p->y.s[0], p->y.s[1]), size)
                                  : fc_at(b->tile, r * width * row, size);
        int64_t step = j->l.in_place ? p->y.s[2] : row;
        for (int64_t i = 0; i < width; i++, out += step * size) {
            memset(out, 0, (size_t)(row * size));
            if (bias)
                memcpy(out, bias, (size_t)(b->outputs * size));
        }
    }
}

/* Transposes the block into y, as many pixels at a time as are neighbours there. */
static void store_block(const job *j, const block *b)
{
    const fc_conv *p = &j->plan->problem;
    const fc_window *w = &p->window;
    const fc_kernels *kernels = j->l.kernels;
    int64_t size = kernels->size, width = w->out[2], pixels = b->rows * width;
    char *y = fc_at(j->y, (b->g * p->out_channels + b->o) * p->y.c, size);
    if (p->y.s[2] != 1)
        kernels->transpose(b->turned, pixels, b->tile, j->l.tile_row, pixels, b->outputs);
    for (int64_t r = 0, rows; r < b->rows; r += rows) {
        int64_t row = b->row + r, left = w->out[1] - row % w->out[1];
        rows = p->y.s[1] == width && p->y.s[2] == 1 ? fc_min(left, b->rows - r) : 1;
        char *out = fc_at(y, row_at(w, row, p->y.n, p->y.s[0], p->y.s[1]), size);
        if (p->y.s[2] == 1)
            kernels->transpose(out, p->y.c, fc_at(b->tile, r * width * j->l.tile_row, size), j->l.tile_row, rows * width,
                               b->outputs);
        else
            for (int64_t o = 0; o < b->outputs; o++)
                kernels->scatter_row(fc_at(out, o * p->y.c, size), p->y.s[2], fc_at(b->turned, o * pixels + r * width, size),
                                     width, 0);
    }
}

/* One strip of the block: all terms of `nv` vectors of output channels from o on. */
static void run_strip(const job *j, const block *b, int64_t o, int nv)
{
    const fc_conv *p = &j->plan->problem;
    const int64_t *tile = j->plan->tile;
    int64_t size = j->l.kernels->size, width = nv * j->l.kernels->lanes;
    const char *x = fc_at(j->x, b->g * p->channels * p->x.c, size);
    char *outputs = fc_at(b->tile, o - b->o, size);
    for (int64_t c = 0; c < p->channels; c += tile[INPUTS]) {
        int64_t inputs = fc_min(tile[INPUTS], p->channels - c);
        char *part = tile[SHARED] ? fc_at(panel_at(j, b->g, o), c * j->l.taps * width, size) : b->part;
        if (!tile[SHARED])
            pack_part(j, part, b->place, b->g, o, width, c, inputs);
        group taps;
        for (int more = first_group(&p->window, &taps); more; more = next_group(&p->window, &taps)) {
            int first = c == 0 && taps.place == 0 && !j->begun;
            add_group(j, b, list_pixels(j, b, &taps), x, fc_at(part, taps.place * inputs * width, size),
                      j->offset + c * j->l.taps + taps.place * inputs, taps_of(&taps) * inputs, nv, outputs, !first);
        }
    }
}

static void run_task(void *context, int64_t task, int worker)
{
    const job *j = context;
    const fc_conv *p = &j->plan->problem;
    const int64_t *tile = j->plan->tile;
    const layout *l = &j->l;
    int64_t outer = task / l->output_blocks, rows = outer % l->blocks;
    block b = {.g = outer / l->blocks, .row = rows * tile[ROWS], .o = task % l->output_blocks * tile[OUTPUTS]};
    b.rows = fc_min(tile[ROWS], l->rows - b.row);
    b.outputs = fc_min(tile[OUTPUTS], p->out_channels - b.o);
    char *scratch = j->workers + worker * l->worker_bytes;
    b.place = (int64_t *)(void *)scratch;
    b.list = (int64_t *)(void *)(scratch + l->place_bytes);
    b.tile = scratch + l->place_bytes + l->list_bytes;
    b.turned = b.tile + l->block_bytes;
    b.part = scratch + l->worker_bytes - l->part_bytes;
    if (l->in_place)
        b.tile = fc_at(j->y, b.g * p->out_channels + b.o, l->kernels->size);
    if (j->begun)
        begin_block(j, &b);
    for (int64_t o = b.o, nv; o < b.o + b.outputs; o += nv * l->kernels->lanes) {
        nv = next_strip(l->kernels, fc_ceil_div(b.o + b.outputs - o, l->kernels->lanes));
        run_strip(j, &b, o, (int)nv);
    }
    if (!l->in_place)
        store_block(j, &b);
}

/* Offsets of A's columns, part by part, and of B's rows for every width of a strip. */
static void write_offsets(const fc_conv_plan *plan, const layout *l, int64_t *offset, int64_t *ramp)
{
    const fc_conv *p = &plan->problem;
    const fc_window *w = &p->window;
    int64_t stride[FC_AXES];
    for (int i = 0; i < FC_AXES; i++)
        stride[i] = w->dilation[i] * p->x.s[i];
    for (int64_t c = 0; c < p->channels; c += plan->tile[INPUTS]) {
        int64_t inputs = fc_min(plan->tile[INPUTS], p->channels - c);
        group taps;
        for (int more = first_group(w, &taps); more; more = next_group(w, &taps))
            for (int64_t t = 0; t < taps_of(&taps); t++) {
                int64_t at = tap_at(&taps, t, stride);
                for (int64_t i = 0; i < inputs; i++)
                    offset[c * l->taps + (taps.place + t) * inputs + i] = at + (c + i) * p->x.c;
            }
    }
    for (int64_t i = 0; i < (FC_NV_MAX + 1) * FC_KC; i++)
        ramp[i] = i / FC_KC * l->kernels->lanes * (i % FC_KC);
}

static fc_status run_channels(const fc_conv_plan *plan, void *x, void *w, void *bias, void *y)
{
    const fc_conv *p = &plan->problem;
    job j = {.plan = plan, .l = lay_out(plan), .x = x, .w = w, .bias = bias, .y = y};
    char *scratch = fc_arena_take(plan->scratch);
    if (!scratch)
        return FC_NO_MEMORY;
    int64_t *offset = (int64_t *)(void *)scratch, *ramp = (int64_t *)(void *)(scratch + j.l.offset_bytes);
    write_offsets(plan, &j.l, offset, ramp);
    j.offset = offset;
    j.ramp = ramp;
    j.panels = scratch + j.l.offset_bytes + j.l.ramp_bytes;
    j.workers = j.panels + j.l.panels_bytes;
    group taps;
    int some = first_group(&p->window, &taps);
    j.begun = bias || !some || outputs_of(&taps) != fc_outputs(&p->window);
    int64_t blocks = p->groups * j.l.output_blocks;
    if (plan->tile[SHARED])
        fc_parallel(plan->threads, blocks * fc_ceil_div(p->channels, plan->tile[INPUTS]), pack_task, &j);
    fc_parallel(plan->threads, blocks * j.l.blocks, run_task, &j);
    fc_arena_give();
    return FC_OK;
}

const fc_driver fc_driver_channels = {"channels", plan_channels, run_channels};
