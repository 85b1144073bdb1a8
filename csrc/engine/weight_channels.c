/* The weight gradient with lanes over output channels: rows are taps and input channels, the sum runs over output pixels.
 *
 *     dW[c, t][o] = sum_{n, p} X[n][c][p + t] dY[n][p][o]
 *
 * A is the image, broadcast from where a pixel stands: in place, or in a padded copy of some of its rows.  B is dY, pixels by
 * channels: in place where channels are neighbours, else transposed.  No lane is lost to the taps (27 or 147 of an image of three
 * channels), and nothing is as large as a panel of patches.
 *
 *     for each chunk of the sum, group g, block of output channels          a task
 *         for each unit (a band of rows of a plane) of the chunk, in order
 *             copy the rows' input, padded, all channels, unless in place
 *             for each block of pixels of it:  transpose dY's, unless in place
 *                 for each strip of output channels, tile of rows (c, t): gemm kernel, added to the chunk's sums
 *     for each block: add its chunks in order, transpose into dW
 *
 * The sum is cut into chunks by the problem's shape and never by the number of threads, so that the bits do not depend on it.
 * Scratch: tables of offsets, the chunks' sums; per worker a band and a block of dY.
 *
 * Emerald Rapids, one core (`weight_gemm.c`, this): 7x7s2 3-64@224 1.82, 1.63 ms and channels last 2.14, 1.73; 3x3 3-32@32 b32
 * channels last 859, 440 us; 16x16s16 3-768@224 2.27, 1.64 ms; 11x11s4 3-96@227 1.53, 1.34 ms; 3x3s2 3-32@299 430, 358 us.  Not of
 * many channels: the sums leave the cache, and few of the terms that a line of the image holds are used before it does (3x3s2
 * 128-128@56 1.75, 2.4 ms).  A single vector of outputs reaches 60 % of the kernel's speed (7x7 3-16@128 b4 2.4, 3.3 ms).
 * Of a single vector of outputs, kernels of three, five and seven columns: by lines (trail.inc), which load once for all taps of a row,
 * Zen 5: 7x7 3-16@128 b4 1560 to 1210 us (by `weight_rows.c` 1370), 3x3x3 3-16@16x56x56 795 to 570 (700), of which 450 are the products, 50
 * dY's transpose, 30 copies of rows; 3-16@56 b8 150 to 113, 5x5 6-16@14 3.1 to 2.3.
 * Zen 4, tiles of seven rows instead of fourteen: 3x3s2 3-32@299 430, 422 us; rejected: fetching the next block's dY meanwhile (435), blocks
 * of 20 and 14 KiB (425, 430).  Granite Rapids, channels last 1x1 64-256@56 and 512-512@14: the next block's dY fetched before each
 * tile 0.99, 1.01 of the time, 3-32@32 b32 1.10; a line with each term, of dY and x, 0.98, 1.10; the first's strips copied 1.05 to
 * 1.09; its blocks of 14, 20 and 36 KiB 1.04 to 1.10; x and dY exchanged the same.
 */
#include "engine/weight_tiles.h"
#include "engine/weights.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { ROWS, OUTPUTS, CHUNKS }; /* plan->tile: output rows of a unit, output channels of a block, parts of the sum */
enum { TASKS_WANTED = 16, CHUNK_BYTES_MAX = 8 << 20, UNIT_PIXELS = 2048, UNIT_BYTES = 256 << 10 };
enum { COPY_TILES = 3, FAR_ROW = 2048 }; /* copies_strips */
enum { BLOCK_BYTES = 28 << 10 }; /* a strip's block of dY, which stays in a first-level cache of 32 KiB */

typedef struct layout {
    const fc_kernels *kernels;
    int64_t rows, width;               /* of a chunk's sums: all channels and taps; output channels, in whole vectors */
    int64_t output_blocks, strip;      /* vectors of a strip */
    int64_t bands, units, pixels;      /* of a plane, of the sum; of a unit */
    int64_t terms, panel;              /* pixels of a block of the sum, at most; channels of a strip of it */
    int64_t band_rows, pitch;          /* of the input behind a unit */
    int64_t channel, plane, row, pixel; /* strides of A */
    int64_t apart;                     /* of A's terms, where its rows are neighbours (gemm_short), or 0 */
    int64_t lines, parts;              /* of a tile of `trail`, at most, or 0: other kernels; blocks of a row of pixels, or 1 */
    int x_in_place, y_in_place, interleaved; /* interleaved: a copy's channels are neighbours, as the image's */
    int64_t tap_bytes, place_bytes, band_bytes, gradient_bytes, sum_bytes;
} layout;

/* A's strides, in the image or in a copy. */
static void lay_out_input(layout *l, const fc_conv *p, int64_t rows)
{
    const fc_window *w = &p->window;
    int64_t between = l->interleaved ? p->channels : 1;
    l->band_rows = fc_add(fc_mul(rows - 1, w->stride[1]), fc_mul(w->kernel[1] - 1, w->dilation[1]) + 1);
    l->pitch = fc_add(fc_mul(w->out[2] - 1, w->stride[2]), fc_mul(w->kernel[2] - 1, w->dilation[2]) + 1);
    l->pixel = between;
    l->row = fc_mul(l->pitch, between);
    l->plane = fc_mul(l->row, l->band_rows);
    l->channel = l->interleaved ? 1 : fc_mul(l->plane, w->kernel[0]);
    l->band_bytes = fc_bytes(fc_mul(fc_mul(p->channels, w->kernel[0]), fc_mul(l->band_rows, l->pitch)), l->kernels->size);
    if (l->x_in_place) {
        l->pixel = p->x.s[2];
        l->row = p->x.s[1];
        l->plane = p->x.s[0] * w->dilation[0];
        l->channel = p->x.c;
        l->band_bytes = 0;
    }
}

/* Lines of a tile of the kernel that takes all taps of a row at once, at most; 0 where there is none, or more than a vector of outputs:
 * tiles of two load as little (3-32@32 b32 331, 328 us so, channels last 231, 243; 7x7 3-64@128 1300, 1370). */
static int64_t trail_lines(const fc_conv *p, const fc_kernels *kernels, int64_t vectors)
{
    const fc_window *w = &p->window;
    int64_t taps = w->kernel[2], lines = 0;
    if (taps > FC_TRAIL_TAPS || w->stride[2] > 1 || w->dilation[2] > 1 || w->out[2] < 2 * taps || vectors > 1)
        return 0;
    while (lines < FC_TRAIL_LINES && kernels->trail[taps][lines + 1])
        lines++;
    return lines;
}

/* Blocks of the sum are whole rows of pixels there, or parts of one. */
static void lay_out_lines(layout *l, const fc_conv *p, int64_t rows)
{
    int64_t width = p->window.out[2], most = fc_min(FC_KC, BLOCK_BYTES / l->kernels->size / l->width);
    l->parts = fc_ceil_div(width, most);
    l->terms = l->parts > 1 ? fc_ceil_div(width, l->parts) : fc_min(rows, most / width) * width;
}

static layout lay_out(const fc_conv_plan *plan)
{
    const fc_conv *p = &plan->problem;
    const fc_window *w = &p->window;
    const fc_kernels *kernels = fc_dispatch(p->real);
    int64_t lanes = kernels->lanes, size = kernels->size, vectors = fc_ceil_div(plan->tile[OUTPUTS], lanes);
    layout l = {.kernels = kernels, .rows = fc_reduction(p), .width = vectors * lanes, .strip = kernels->nv};
    if (vectors % kernels->nv && vectors % 4 == 0 && kernels->mr[4] >= 6)
        l.strip = 4;
    l.output_blocks = fc_ceil_div(p->out_channels, plan->tile[OUTPUTS]);
    l.bands = fc_ceil_div(w->out[1], plan->tile[ROWS]);
    l.units = fc_mul(fc_mul(p->batch, w->out[0]), l.bands);
    l.pixels = fc_mul(plan->tile[ROWS], w->out[2]);
    l.terms = fc_min(FC_KC, BLOCK_BYTES / size / (fc_min(vectors, l.strip) * lanes));
    l.terms = fc_min(l.pixels, fc_gemm_terms(kernels, l.pixels, l.terms));
    l.lines = trail_lines(p, kernels, vectors);
    if (l.lines)
        lay_out_lines(&l, p, plan->tile[ROWS]);
    l.x_in_place = fc_lies_inside(w) && (!l.lines || p->x.s[2] == 1);
    l.y_in_place = p->y.c == 1 && p->out_channels % lanes == 0;
    l.interleaved = !l.lines && p->x.c == 1 && p->x.s[2] == p->channels;
    lay_out_input(&l, p, plan->tile[ROWS]);
    int even = w->out[1] == 1 || w->stride[1] * l.row == w->out[2] * w->stride[2] * l.pixel;
    l.apart = l.channel == 1 && fc_taps(w) == 1 && even && !l.lines ? w->stride[2] * l.pixel : 0;
    l.tap_bytes = fc_bytes(l.rows, sizeof(int64_t));
    l.place_bytes = fc_bytes(l.pixels, sizeof(int64_t));
    l.panel = fc_min(l.strip * lanes, l.width);
    l.gradient_bytes = fc_bytes(l.terms * (l.y_in_place ? l.panel : l.width), size);
    l.sum_bytes = fc_bytes(fc_mul(l.rows, l.width), size);
    return l;
}

static void choose_tile(fc_conv_plan *plan, const fc_kernels *kernels)
{
    const fc_conv *p = &plan->problem;
    const int64_t *out = p->window.out;
    int64_t *tile = plan->tile, strip = kernels->nv * kernels->lanes, row = fc_mul(fc_reduction(p), kernels->size);
    tile[OUTPUTS] = fc_max(1, FC_BLOCK_BYTES / row / strip) * strip;
    int64_t parts = fc_ceil_div(p->out_channels, tile[OUTPUTS]);
    /* As many tasks for each of two threads: channels last 512-512@14 289 to 228 us, with one as long. */
    if (!fc_has_short_vectors(kernels) && parts > 1 && p->groups == 1)
        parts = fc_ceil_div(parts, 2) * 2;
    tile[OUTPUTS] = fc_ceil_div(fc_ceil_div(p->out_channels, parts), kernels->lanes) * kernels->lanes;
    tile[OUTPUTS] = fc_min(tile[OUTPUTS], p->out_channels);
    tile[ROWS] = tile[CHUNKS] = 1;
    layout l = lay_out(plan);
    int64_t planes = fc_mul(p->batch, out[0]), pixels = fc_mul(planes, out[1] * out[2]);
    int64_t blocks = fc_mul(p->groups, l.output_blocks);
    int64_t wanted = fc_max(1, fc_min(fc_ceil_div(pixels, 2 * FC_KC), fc_ceil_div(TASKS_WANTED, blocks)));
    wanted = fc_min(wanted, CHUNK_BYTES_MAX / fc_max(1, fc_mul(blocks, l.sum_bytes)));
    int64_t rows = fc_min(UNIT_PIXELS / out[2], UNIT_BYTES / fc_max(1, fc_mul(l.band_bytes / l.band_rows, p->window.stride[1])));
    if (planes < wanted)
        rows = fc_min(rows, fc_ceil_div(fc_mul(out[1], planes), wanted));
    tile[ROWS] = fc_weight_part(out[1], rows);
    /* Each unit a chunk rather than some of one unit and some of two: 17-31@29 b3 at two threads 78 to 60 us. */
    int64_t units = planes * fc_ceil_div(out[1], tile[ROWS]);
    tile[CHUNKS] = fc_max(1, 2 * units <= 3 * wanted ? units : wanted);
}

static const char *plan_channels(fc_conv_plan *plan, double *cost)
{
    const fc_conv *p = &plan->problem;
    const fc_kernels *kernels = fc_dispatch(p->real);
    double size = (double)kernels->size, lanes = (double)kernels->lanes;
    if (!fc_reduction(p) || !p->out_channels || !p->batch || !fc_outputs(&p->window))
        return "there is nothing to sum";
    if (p->out_channels < kernels->lanes)
        return "too few channels: less than a vector of output";
    if (!fc_weights_plan(p, kernels->size).in_place)
        return "the weight gradient's rows are not contiguous";
    choose_tile(plan, kernels);
    layout l = lay_out(plan);
    double blocks = (double)p->groups * (double)l.output_blocks, units = (double)l.units, pixels = (double)l.pixels;
    int64_t tasks = fc_mul(p->groups * l.output_blocks, plan->tile[CHUNKS]);
    plan->scratch = fc_add(l.tap_bytes, fc_add(3 * l.place_bytes, fc_mul(tasks, l.sum_bytes)));
    plan->scratch = fc_add(plan->scratch, fc_mul(plan->threads, fc_add(l.band_bytes, l.gradient_bytes)));
    if (plan->scratch > fc_scratch_max(plan->threads))
        return "a band of the input, or the sums, exceed the scratch bound";
    double vectors = (double)l.width / lanes, strip = (double)fc_min(l.strip, l.width / kernels->lanes), k = (double)l.rows;
    double unit = strip == 1 ? 1.8 : strip == 2 ? 1.05 : 1.02, calls = k * vectors / strip / (double)kernels->mr[(int)strip];
    /* Sums that leave the first-level cache are read and written once per block of pixels, and pixels of many channels, of which a
     * tile needs a few, are read again for each tile. */
    double call = 14 + (l.sum_bytes > BLOCK_BYTES ? 2.0 * strip * (double)kernels->mr[(int)strip] : 0);
    call += llabs(l.pixel) * kernels->size * l.terms > 2 * BLOCK_BYTES ? 0.8 * (double)l.terms : 0;
    double gemm = blocks * units * (k * vectors * pixels * 0.125 * unit + calls * ceil(pixels / (double)l.terms) * call);
    if (l.lines)
        gemm = blocks * units * vectors * k * (pixels * 0.12 + ceil(pixels / (double)l.terms) * 0.75);
    double copied = blocks * units * (double)l.band_bytes, turned = l.y_in_place ? 0 : blocks * units * pixels * (double)l.width;
    double sums = blocks * k * (double)l.width, stored = 0.15;
    /* Of one tap, both in place, rows are neighbours: channels last (`weight_gemm.c`, this) 256-256@28 1030, 950 us, 64-256@56
     * 1230, 1040; 512-512@14 730, 770, Zen 5 462, 422; Zen 3 64-256@56, lines of B begun inside one, 1500, 1630, 512-512@14 1280, 1440. */
    if (l.x_in_place && l.y_in_place && p->x.c == 1 && fc_taps(&p->window) == 1) {
        call = 14 * ceil(pixels / (double)l.terms) + (fc_has_short_vectors(kernels) ? 0.35 : 0.15) * pixels;
        gemm = blocks * units * (k * vectors * pixels * 0.125 * unit + calls * call);
        stored = fc_has_short_vectors(kernels) ? 0.5 : 0.4;
    }
    *cost = 500 + k + 2 * pixels + gemm + 0.0125 * copied + 5 * copied / size / (double)l.pitch + 0.025 * size * turned +
            sums * (stored + 0.1 * (double)plan->tile[CHUNKS]) + 80 * blocks * units;
    return NULL;
}

typedef struct job {
    const fc_conv_plan *plan;
    layout l;
    int64_t *tap, *place, *line; /* where a tap of a channel stands in A; a unit's pixels in A, and in B */
    int64_t *copy;               /* where a block's pixels stand in a strip's copy */
    int copies;                  /* strips of dY that are in place but not aligned */
    const char *x, *y;
    char *w, *chunks, *workers;
} job;

/* A band of output rows of plane (n, od), output channels o ... o + outputs of group g. */
typedef struct unit {
    int64_t g, o, outputs, n, od, oh, rows;
} unit;

/* The input of a unit: rows of all channels between zeros. */
static void copy_band(const job *j, const unit *u, char *band)
{
    static const double zero = 0;
    const fc_conv *p = &j->plan->problem;
    const fc_window *w = &p->window;
    const layout *l = &j->l;
    int64_t size = l->kernels->size, first = u->oh * w->stride[1] - w->offset[1], between = l->interleaved ? p->channels : 1;
    int64_t rows = l->band_rows - (j->plan->tile[ROWS] - u->rows) * w->stride[1], planes = l->interleaved ? 1 : p->channels;
    for (int64_t c = 0; c < planes; c++)
        for (int64_t kd = 0; kd < w->kernel[0]; kd++) {
            int64_t id = u->od * w->stride[0] + kd * w->dilation[0] - w->offset[0];
            const char *plane = fc_at(j->x, u->n * p->x.n + (u->g * p->channels + c) * p->x.c + id * p->x.s[0], size);
            char *out = fc_at(band, c * l->channel + kd * l->plane, size);
            for (int64_t r = 0, ih = first; r < rows; r++, ih++) {
                int inside = id >= 0 && id < w->in[0] && ih >= 0 && ih < w->in[1];
                l->kernels->gather_row(fc_at(out, r * l->row, size), l->row, inside ? fc_at(plane, ih * p->x.s[1], size) : NULL,
                                       l->interleaved ? 1 : p->x.s[2], -w->offset[2] * between, 1, w->in[2] * between, &zero);
            }
        }
}

/* Pixels first ... first + count of a unit's dY: rows of the unit's output channels. */
static void turn_gradient(const job *j, const unit *u, int64_t first, int64_t count, char *gradient)
{
    static const double zero = 0;
    const fc_conv *p = &j->plan->problem;
    const fc_kernels *kernels = j->l.kernels;
    int64_t size = kernels->size, row = j->l.width, width = p->window.out[2], run = p->y.s[1] == width ? u->rows * width : width;
    const char *y = fc_at(j->y, u->n * p->y.n + (u->g * p->out_channels + u->o) * p->y.c + u->od * p->y.s[0], size);
    for (int64_t done = 0, n; done < count; done += n) {
        int64_t q = first + done;
        const char *src = fc_at(y, (u->oh + q / width) * p->y.s[1] + q % width * p->y.s[2], size);
        char *dst = fc_at(gradient, done * row, size);
        n = 1;
        if (p->y.s[2] == 1) {
            n = fc_min(run - q % run, count - done);
            kernels->transpose(dst, row, src, p->y.c, u->outputs, n);
        } else {
            kernels->gather_row(dst, row, src, p->y.c, 0, 1, u->outputs, &zero);
        }
    }
}

/* Of dY in place, `count` pixels from `pixel` of a unit on, which are fetched while the block before is summed: strip by strip its lines
 * are far apart, which hardware does not follow.  1x1 64-256@56 channels last 1500 to 1440 us, 7x7s2 3-64@224 4.4 to 3.6 ms (Zen 3); not
 * where it is transposed: 3x3s2 3-32@299 730 to 790, 3x3 3-32@32 b32 1200 to 1350. */
static fc_ahead gradient_ahead(const job *j, const unit *u, const char *y, int64_t pixel, int64_t count)
{
    const fc_conv *p = &j->plan->problem;
    int64_t size = j->l.kernels->size, width = p->window.out[2];
    if (!j->l.y_in_place || !fc_has_short_vectors(j->l.kernels))
        return (fc_ahead){0};
    return (fc_ahead){fc_at(y, pixel / width * p->y.s[1] + pixel % width * p->y.s[2], size), p->y.s[2] * size, count,
                      fc_ceil_div(u->outputs * size, FC_ALIGN), 0};
}

/* Rows of a tile of `nv` vectors, at most. */
static int64_t tile_rows(const layout *l, int64_t nv)
{
    return l->apart ? l->kernels->mr[nv] : fc_gather_rows(l->kernels, nv);
}

/* The product of rows from ... from + rows of A with a strip of B, added to the sums or written there first. */
static void add_tile(const job *j, const char *a, const char *strip, const int64_t *b_offset, int64_t first, int64_t count,
                     int64_t from, int64_t rows, int64_t nv, char *sum, int add)
{
    const layout *l = &j->l;
    const fc_kernels *kernels = l->kernels;
    if (l->apart) {
        kernels->gemm_short[nv][rows](1, count, fc_at(a, j->tap[from] + j->place[first], kernels->size), l->apart, strip, 0, b_offset,
                                      sum, 0, l->width, NULL, add);
        return;
    }
    const void *row[FC_MR_MAX];
    int64_t c_offset[FC_MR_MAX];
    for (int64_t m = 0; m < rows; m++) {
        row[m] = fc_at(a, j->tap[from + m], kernels->size);
        c_offset[m] = m * l->width;
    }
    kernels->gemm_gather[nv][rows](count, row, j->place + first, strip, b_offset, sum, c_offset, NULL, add);
}

/* Pixels first ... first + count of a unit, added to a chunk's sums; `b` is the first of them. */
static void add_pixels(const job *j, const unit *u, const char *a, const char *b, int64_t first, int64_t count, char *sum, int add,
                       char *panel, fc_ahead *ahead)
{
    const layout *l = &j->l;
    const fc_kernels *kernels = l->kernels;
    int64_t size = kernels->size, vectors = fc_ceil_div(u->outputs, kernels->lanes);
    const int64_t *line = j->line + (l->y_in_place ? first : 0);
    const int64_t *b_offset = j->copies ? j->copy : line;
    int64_t calls = fc_ceil_div(l->rows, tile_rows(l, l->strip)) * fc_ceil_div(vectors, l->strip);
    int64_t fetch = fc_ceil_div(ahead->rows * ahead->lines, calls);
    for (int64_t done = 0, nv; done < vectors; done += nv) {
        nv = fc_gemm_next_strip((int)l->strip, vectors - done);
        int64_t tiles = fc_ceil_div(l->rows, tile_rows(l, nv)), at = done * kernels->lanes;
        const char *strip = fc_at(b, at, size);
        if (j->copies) {
            kernels->copy_vectors(panel, l->panel, fc_at(strip, line[0], size), j->plan->problem.y.s[2], (int)nv, count);
            strip = panel;
        }
        for (int64_t t = 0; t < tiles; t++) {
            int64_t from = l->rows * t / tiles, rows = l->rows * (t + 1) / tiles - from;
            fc_fetch(ahead, fetch);
            add_tile(j, a, strip, b_offset, first, count, from, rows, nv, fc_at(sum, from * l->width + at, size), add);
        }
    }
}

/* The same by lines: all taps of a row of a channel at once. */
static void add_lines(const job *j, const char *a, const char *b, int64_t first, int64_t count, char *sum, int add)
{
    const layout *l = &j->l;
    const fc_conv *p = &j->plan->problem;
    int64_t size = l->kernels->size, width = p->window.out[2], taps = p->window.kernel[2], lines = l->rows / taps;
    int64_t tiles = fc_ceil_div(lines, l->lines), pixel = l->y_in_place ? p->y.s[2] : l->width;
    fc_trail_pixels pixels = {l->parts > 1 ? 1 : count / width, fc_min(count, width), l->row * p->window.stride[1],
                              l->y_in_place ? p->y.s[1] : width * pixel, pixel};
    b = fc_at(b, l->y_in_place ? j->line[first] : 0, size);
    for (int64_t t = 0; t < tiles; t++) {
        int64_t from = lines * t / tiles, n = lines * (t + 1) / tiles - from;
        const void *x[FC_TRAIL_LINES];
        for (int64_t m = 0; m < n; m++)
            x[m] = fc_at(a, j->tap[(from + m) * taps] + j->place[first], size);
        l->kernels->trail[taps][n](&pixels, x, b, fc_at(sum, from * taps * l->width, size), l->width, add);
    }
}

/* Blocks of a unit's pixels, and the first pixel of one. */
static int64_t unit_blocks(const layout *l, int64_t pixels, int64_t width)
{
    return l->lines && l->parts > 1 ? pixels / width * l->parts : fc_ceil_div(pixels, l->terms);
}

static int64_t block_begin(const layout *l, int64_t pixels, int64_t width, int64_t i)
{
    if (!l->lines)
        return pixels * i / fc_ceil_div(pixels, l->terms);
    return l->parts > 1 ? i / l->parts * width + width * (i % l->parts) / l->parts : fc_min(pixels, i * l->terms);
}

static void add_unit(const job *j, const unit *u, char *scratch, char *sum, int add)
{
    const fc_conv *p = &j->plan->problem;
    const fc_window *w = &p->window;
    const layout *l = &j->l;
    int64_t size = l->kernels->size, pixels = u->rows * w->out[2], blocks = unit_blocks(l, pixels, w->out[2]);
    const char *a = scratch;
    char *gradient = scratch + l->band_bytes;
    if (l->x_in_place) {
        int64_t at = u->n * p->x.n + u->g * p->channels * p->x.c - w->offset[2] * p->x.s[2];
        at += (u->od * w->stride[0] - w->offset[0]) * p->x.s[0] + (u->oh * w->stride[1] - w->offset[1]) * p->x.s[1];
        a = fc_at(j->x, at, size);
    } else {
        copy_band(j, u, scratch);
    }
    int64_t at = u->n * p->y.n + u->g * p->out_channels + u->o + u->od * p->y.s[0] + u->oh * p->y.s[1];
    const char *y = l->y_in_place ? fc_at(j->y, at, size) : gradient;
    for (int64_t i = 0; i < blocks; i++) {
        int64_t first = block_begin(l, pixels, w->out[2], i), count = block_begin(l, pixels, w->out[2], i + 1) - first;
        fc_ahead ahead = gradient_ahead(j, u, y, first + count, count);
        if (!l->y_in_place)
            turn_gradient(j, u, first, count, gradient);
        if (l->lines)
            add_lines(j, a, y, first, count, sum, add || i);
        else
            add_pixels(j, u, a, y, first, count, sum, add || i, gradient, &ahead);
    }
}

static void run_task(void *context, int64_t task, int worker)
{
    const job *j = context;
    const fc_conv *p = &j->plan->problem;
    const layout *l = &j->l;
    const int64_t *tile = j->plan->tile, *out = p->window.out;
    int64_t chunk = task % tile[CHUNKS], block = task / tile[CHUNKS], begin = l->units * chunk / tile[CHUNKS];
    char *scratch = j->workers + worker * (l->band_bytes + l->gradient_bytes);
    unit u = {.g = block / l->output_blocks, .o = block % l->output_blocks * tile[OUTPUTS]};
    u.outputs = fc_min(tile[OUTPUTS], p->out_channels - u.o);
    if (!l->y_in_place)
        memset(scratch + l->band_bytes, 0, (size_t)l->gradient_bytes); /* lanes beyond the last channel */
    for (int64_t i = begin; i < l->units * (chunk + 1) / tile[CHUNKS]; i++) {
        u.oh = i % l->bands * tile[ROWS];
        u.od = i / l->bands % out[0];
        u.n = i / l->bands / out[0];
        u.rows = fc_min(tile[ROWS], out[1] - u.oh);
        add_unit(j, &u, scratch, j->chunks + task * l->sum_bytes, i > begin);
    }
}

/* Some rows of a block: the chunks' sums in order, transposed into dW. */
static void join_chunks(void *context, int64_t task, int worker)
{
    (void)worker;
    const job *j = context;
    const fc_conv *p = &j->plan->problem;
    const layout *l = &j->l;
    int64_t size = l->kernels->size, parts = fc_ceil_div(l->rows, 64), block = task / parts, part = task % parts;
    int64_t from = l->rows * part / parts, rows = l->rows * (part + 1) / parts - from, o = block % l->output_blocks;
    char *sum = fc_at(j->chunks + block * j->plan->tile[CHUNKS] * l->sum_bytes, from * l->width, size);
    for (int64_t i = 1; i < j->plan->tile[CHUNKS]; i++)
        l->kernels->scatter_row(sum, 1, sum + i * l->sum_bytes, rows * l->width, 1);
    o *= j->plan->tile[OUTPUTS];
    l->kernels->transpose(fc_at(j->w, block / l->output_blocks * p->w.g + o * p->w.o + from, size), p->w.o, sum, l->width, rows,
                          fc_min(j->plan->tile[OUTPUTS], p->out_channels - o));
}

/* Whether each of several strips of dY, in place, is copied once instead of read by more than a few tiles: across cache lines, or
 * from rows so far apart that they take each other's place in the first-level cache.  Part of what the kernel alone reaches, in
 * place and copied: rows that begin inside a cache line 64-256@56 0.67, 0.75, 512-512@14 0.60, 0.72; at its beginning 0.76, 0.70;
 * 0.78, 0.82.  One strip of 64 channels 0.70, 0.68. */
static int copies_strips(const fc_conv *p, const layout *l, const void *y)
{
    const fc_kernels *kernels = l->kernels;
    int64_t pixel = p->y.s[2] * kernels->size;
    int follow = p->window.out[1] == 1 || p->y.s[1] == p->window.out[2] * p->y.s[2];
    int slow = ((uintptr_t)y | (uintptr_t)pixel) % FC_ALIGN || pixel >= FAR_ROW;
    return l->y_in_place && l->width > l->panel && follow && slow && fc_ceil_div(l->rows, kernels->mr[kernels->nv]) > COPY_TILES;
}

static void fill_tables(const job *j)
{
    const fc_conv *p = &j->plan->problem;
    const fc_window *w = &p->window;
    const layout *l = &j->l;
    int64_t *tap = j->tap;
    for (int64_t c = 0; c < p->channels; c++)
        for (int64_t kd = 0; kd < w->kernel[0]; kd++)
            for (int64_t kh = 0; kh < w->kernel[1]; kh++)
                for (int64_t kw = 0; kw < w->kernel[2]; kw++)
                    *tap++ = c * l->channel + kd * l->plane + kh * w->dilation[1] * l->row + kw * w->dilation[2] * l->pixel;
    for (int64_t i = 0; i < l->pixels; i++) {
        int64_t r = i / w->out[2], q = i % w->out[2];
        j->place[i] = r * w->stride[1] * l->row + q * w->stride[2] * l->pixel;
        j->line[i] = l->y_in_place ? r * p->y.s[1] + q * p->y.s[2] : i * l->width;
    }
    for (int64_t i = 0; i < l->terms; i++)
        j->copy[i] = i * l->panel;
}

static fc_status run_channels(const fc_conv_plan *plan, void *x, void *w, void *bias, void *y)
{
    (void)bias;
    job j = {.plan = plan, .l = lay_out(plan), .x = x, .y = y, .w = w};
    char *scratch = fc_arena_take(plan->scratch);
    if (!scratch)
        return FC_NO_MEMORY;
    j.tap = (int64_t *)(void *)scratch;
    j.place = (int64_t *)(void *)(scratch + j.l.tap_bytes);
    j.line = (int64_t *)(void *)(scratch + j.l.tap_bytes + j.l.place_bytes);
    j.copy = (int64_t *)(void *)(scratch + j.l.tap_bytes + 2 * j.l.place_bytes);
    j.chunks = scratch + j.l.tap_bytes + 3 * j.l.place_bytes;
    j.copies = copies_strips(&plan->problem, &j.l, y);
    int64_t blocks = plan->problem.groups * j.l.output_blocks, tasks = blocks * plan->tile[CHUNKS];
    j.workers = j.chunks + tasks * j.l.sum_bytes;
    fill_tables(&j);
    fc_parallel(plan->threads, tasks, run_task, &j);
    fc_parallel(plan->threads, blocks * fc_ceil_div(j.l.rows, 64), join_chunks, &j);
    fc_arena_give();
    return FC_OK;
}

const fc_driver fc_driver_weight_channels = {"channels", plan_channels, run_channels, .bounded = 0};
