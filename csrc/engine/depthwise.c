/* The depthwise driver: one input channel a group, or a few, read in place, lanes over output pixels.
 *
 *     for each image n, group g, plane od, band of rows       a unit; several a task
 *         table of the band's input rows: in place, copied at the image's ends, zeros in the padding
 *         for each of the group's outputs m: depthwise kernel over the whole band
 *
 * A group's few channels are so many planes of the kernel: its passes read a vector for several rows of outputs, which the rows of
 * the pixel driver's product do not.  3x3 in 32 groups of 4 over 56x56, Zen 4: 312 us, by the pixel driver 400
 * (312 in bands of 56 rows, 335 of 28, 356 of 14).
 *
 * At stride 2, kernels of four rows or more take rows whose even and odd columns are split, in padded copies that stay in the
 * first-level cache: every tap is then a whole vector, and no edge differs.  5x5 144@56 on Zen 4 108 us; two loads and a shuffle a
 * tap 195, the planes driver 132.  Fetching the next channel's plane meanwhile: 10 us more.  3 x 3 splits columns in registers
 * (kernels/depthwise_square.inc): 64@112 115 us, so 75, 128@56 61, 43; fetching 16 ... 128 lines of the next channel, 0 ... 5 us more,
 * in bands of a separable chain the same.
 *
 * Outputs narrower than a vector, or not neighbours in memory, go through a worker's tile.  Dilated rows are `dilation`
 * interleaved images.  Windows that the kernels do not know are the stencil driver's.
 *
 * The commonest window, 3 x 3 at stride 1 in an image without gaps, needs no table, and the next plane is fetched meanwhile:
 * hardware does not follow from one channel to the next (256@28 b8 72 to 46 us a band of 16 rows).  What it is going to write, or
 * both images of the weight gradient, fetched too: nothing.
 *
 * Scratch: weights as rows, a row of zeros; per worker a table, rows copied and a tile.
 */
#include "engine/depthwise.h"

#include <string.h>

#include "engine/gemm.h"
#include "engine/output.h"
#include "engine/weights.h"

enum { ROWS, UNITS };                                      /* plan->tile: rows of a band, units of a task */
enum { CHANNELS_MAX = 8, ROWS_MAX = 128, BAND_BYTES = 64 << 10, SPLIT_BYTES = 24 << 10 };
/* By short vectors a plane whose rows are a page or longer goes in bands that a first-level cache holds: a block of vectors goes down the
 * rows of one (kernels/depthwise_flat.inc), each on a page of its own, and most of a line's sets would be one.  3x3 1ch 1080p, bands of
 * 128 rows, of 128, 64, 48, 32 KiB, Zen 3: 4680, 3430, 920, 780, 820 us; rows of 2 KiB and less: the same in all.  Whole lines, Zen 5:
 * 241, 289, 310, 303, 357. */
enum { PAGE_BYTES = 4096, PAGED_BYTES = 32 << 10 };
enum { TASK_NS = 4000 }; /* a few microseconds are worth claiming */

const char *fc_depthwise_refusal(const fc_conv *p)
{
    const fc_window *w = &p->window;
    if (!fc_reduction(p))
        return "there is nothing to sum";
    if (w->kernel[1] > FC_DEPTHWISE_HEIGHT_MAX)
        return "the kernel is too high";
    if (w->stride[2] > 2 || (w->out[1] > 1 && w->stride[1] != w->stride[2]))
        return "the strides are not all 1 or all 2";
    if (w->stride[1] > 1 && w->dilation[1] > 1)
        return "both a stride and a dilation";
    return NULL;
}

int fc_depthwise_is_flat(const fc_conv *p)
{
    const fc_window *w = &p->window;
    for (int i = 0; i < FC_AXES; i++)
        if (w->stride[i] != 1 || w->kernel[i] != (i ? 3 : 1) || (i && w->dilation[i] != 1))
            return 0;
    return w->in[0] == 1 && w->out[0] == 1 && !w->offset[0] && w->in[2] == w->out[2] && w->offset[2] == 1 &&
           fc_depthwise_has_flat_rows(&p->x, w->in[1], w->in[2]);
}

/* The last column's tap of the first output, as an element of a phase: half of it, rounded down. */
static int64_t last_shift(const fc_window *w)
{
    return ((w->kernel[2] - 1) * w->dilation[2] - w->offset[2]) >> 1;
}

static int64_t round_up(int64_t n, int64_t unit)
{
    return fc_mul(fc_ceil_div(n, unit), unit);
}

/* Elements from a phase of a split row to the next; 0 where rows are not split. */
static int64_t split_pitch(const fc_conv *p, const fc_kernels *kernels)
{
    const fc_window *w = &p->window;
    if (w->stride[2] != 2 || w->kernel[1] < FC_DEPTHWISE_SPLIT)
        return 0;
    int64_t left = fc_max(0, (w->offset[2] + 1) / 2);
    return round_up(fc_max((w->in[2] + 1) / 2 + left, w->out[2] + fc_max(0, last_shift(w))), kernels->lanes);
}

fc_depthwise fc_depthwise_plan(const fc_conv *p, const fc_kernels *kernels, int64_t rows, int whole)
{
    const fc_window *w = &p->window;
    int64_t stride = w->stride[2], vectors = fc_max(w->out[2], kernels->lanes);
    int64_t left = fc_max(0, w->offset[2]), pitch = whole ? split_pitch(p, kernels) : 0;
    int64_t right = vectors * stride + (w->kernel[2] - 1) * w->dilation[2] - w->offset[2];
    fc_depthwise d = {.variant = stride == 2, .rows = rows, .bands = fc_ceil_div(w->out[1], rows), .pitch = pitch};
    d.channels = whole ? p->channels : 1;
    d.window = (fc_depthwise_window){.planes = fc_mul(d.channels, w->kernel[0]), .step = w->dilation[1], .taps = w->kernel[2],
                                     .in = w->in[2], .out = w->out[2]};
    d.window.plane = fc_add((rows - 1) * w->stride[1] + 1, fc_mul(w->kernel[1] - 1, w->dilation[1]));
    d.x = fc_rows_plan(kernels->size, w->in[1], w->in[2], p->x.s[1], p->x.s[2], left, right, d.window.plane);
    if (pitch) { /* every row that a band meets, two phases each; the last is read beyond its end where outputs are narrow */
        d.lead = round_up(left, kernels->lanes);
        int64_t beyond = round_up(fc_max(0, vectors + last_shift(w) - pitch), kernels->lanes);
        d.x.left = d.lead;
        d.x.pitch = fc_add(d.lead, fc_add(2 * pitch, beyond)); /* of the zeros */
        d.x.copies = fc_min(d.window.plane, w->in[1]);
        d.x.bytes = fc_bytes(fc_add(d.lead + beyond, fc_mul(d.x.copies, 2 * pitch)), kernels->size);
    }
    d.table_bytes = fc_arena_round(fc_min(INT64_MAX / 8, fc_mul(fc_mul(d.window.planes, d.window.plane), sizeof(void *))));
    d.copy_bytes = fc_min(INT64_MAX / 8, fc_mul(d.window.planes, d.x.bytes));
    int64_t shifts = fc_arena_round(fc_min(INT64_MAX / 8, fc_mul(w->kernel[2], sizeof(int64_t))));
    d.shared_bytes = fc_add(shifts, fc_rows_zero_bytes(&d.x, kernels->size));
    return d;
}

const void *fc_depthwise_share(fc_depthwise *d, const fc_conv *p, int64_t size, void *scratch)
{
    int64_t *shift = scratch;
    for (int64_t kw = 0; kw < d->window.taps; kw++) {
        int64_t at = kw * p->window.dilation[2] - p->window.offset[2];
        shift[kw] = d->pitch ? (at & 1) * d->pitch + (at >> 1) : at;
    }
    d->window.shift = shift;
    return fc_rows_zero(&d->x, size, (char *)scratch + d->shared_bytes - fc_rows_zero_bytes(&d->x, size));
}

/* `count` rows from `first` on of a plane (NULL: none) into a table, split. */
static void split_rows(const fc_depthwise *d, const fc_conv *p, const fc_kernels *kernels, const void **table, char *copies,
                       const void *zero, const void *plane, int64_t first, int64_t count)
{
    const fc_window *w = &p->window;
    int64_t size = kernels->size, begin = fc_max(0, -first), end = plane ? fc_min(count, w->in[1] - first) : 0;
    begin = fc_min(begin, fc_max(0, end));
    for (int64_t i = 0; i < count; i++)
        table[i] = i >= begin && i < end ? fc_at(copies, d->lead + (i - begin) * 2 * d->pitch, size) : zero;
    memset(copies, 0, (size_t)(d->lead * size));
    if (end > begin)
        kernels->split_rows(fc_at(copies, d->lead, size), d->pitch, fc_at(plane, (first + begin) * p->x.s[1], size), p->x.s[1],
                            p->x.s[2], w->in[2], end - begin);
}

void fc_depthwise_take(const fc_depthwise *d, const fc_conv *p, const fc_kernels *kernels, const void **table, void *copies,
                       const void *zero, const void *x, int64_t od, int64_t oh, int64_t rows)
{
    const fc_window *w = &p->window;
    int64_t count = (rows - 1) * w->stride[1] + (w->kernel[1] - 1) * w->dilation[1] + 1, first = oh * w->stride[1] - w->offset[1];
    for (int64_t i = 0; i < d->window.planes; i++, table += d->window.plane) {
        int64_t c = i / w->kernel[0], id = od * w->stride[0] + i % w->kernel[0] * w->dilation[0] - w->offset[0];
        const void *plane = id >= 0 && id < w->in[0] ? fc_at(x, c * p->x.c + id * p->x.s[0], kernels->size) : NULL;
        if (d->pitch)
            split_rows(d, p, kernels, table, fc_at(copies, i * d->x.bytes, 1), zero, plane, first, count);
        else
            copies = fc_rows_take(&d->x, kernels, table, copies, zero, plane, first, count);
    }
}

typedef struct layout {
    const fc_kernels *kernels;
    fc_depthwise input;
    fc_weights weights;
    int64_t units, tile_row, tile_bytes, shared_bytes, worker_bytes;
    int in_place, flat; /* y is written directly; a tile is one contiguous piece of it */
    int whole;          /* planes, instead of tables */
    int64_t w_step;     /* between the taps of theirs */
} layout;

static layout lay_out(const fc_conv_plan *plan)
{
    const fc_conv *p = &plan->problem;
    const fc_kernels *kernels = fc_dispatch(p->real);
    int64_t rows = plan->tile[ROWS], width = p->window.out[2];
    layout l = {.kernels = kernels, .weights = fc_weights_plan(p, kernels->size)};
    l.input = fc_depthwise_plan(p, kernels, rows, 1);
    l.units = p->batch * p->groups * p->window.out[0] * l.input.bands;
    l.in_place = width >= kernels->lanes && p->y.s[2] == 1;
    /* A narrow row's vector is overwritten by the next row, but not by the next of a dilated image. */
    l.tile_row = p->window.dilation[1] == 1 ? width : fc_max(width, kernels->lanes);
    l.flat = l.tile_row == width && p->y.s[2] == 1 && (p->y.s[1] == width || p->window.out[1] == 1);
    if (!l.in_place)
        l.tile_bytes = fc_arena_round(fc_min(INT64_MAX / 8, fc_mul(fc_add(fc_mul(rows, l.tile_row), kernels->lanes),
                                                                   kernels->size)));
    l.worker_bytes = fc_add(fc_add(l.input.table_bytes, l.input.copy_bytes), l.tile_bytes);
    l.shared_bytes = l.input.shared_bytes;
    l.whole = p->channels == 1 && fc_depthwise_is_flat(p);
    if (l.whole) {
        l.in_place = fc_depthwise_has_flat_rows(&p->y, p->window.out[1], width);
        l.worker_bytes = l.tile_bytes = l.in_place ? 0 : fc_bytes(fc_mul(rows, width), kernels->size);
        l.shared_bytes = 0;
        l.w_step = p->w.k[1] == 3 * p->w.k[2] ? p->w.k[2] : 1;
        if (l.w_step != 1) /* the adjoint's, turned */
            l.weights = (fc_weights){.in_place = 1, .o = p->w.o, .g = p->w.g};
    }
    return l;
}

/* Whole images where rows are read in place and nothing comes back for them, else bands that stay in the cache. */
static int64_t choose_rows(const fc_conv_plan *plan, const fc_kernels *kernels)
{
    const fc_conv *p = &plan->problem;
    const fc_window *w = &p->window;
    int64_t height = w->out[1], images = p->batch * p->groups * w->out[0], rows = ROWS_MAX;
    int64_t pitch = split_pitch(p, kernels), planes = fc_mul(p->channels, w->kernel[0]);
    if (pitch) /* two rows of input to one of outputs */
        rows = fc_max(8, SPLIT_BYTES / fc_mul(planes, fc_mul(4 * pitch, kernels->size)) / 8 * 8);
    else if (p->x.s[2] != 1 || p->out_channels > 1)
        rows = fc_max(4, BAND_BYTES / fc_max(1, fc_mul(fc_mul(planes, w->in[2]), kernels->size * w->stride[1])));
    else if (fc_has_short_vectors(kernels) && fc_depthwise_is_flat(p) && fc_mul(w->in[2], kernels->size) >= PAGE_BYTES)
        rows = fc_max(4, PAGED_BYTES / fc_mul(w->in[2], kernels->size));
    if (plan->threads > 1 && images < 4 * plan->threads)
        rows = fc_min(rows, fc_max(4, fc_ceil_div(height, fc_ceil_div(4 * plan->threads, images))));
    rows = fc_min(rows, height);
    return fc_ceil_div(height, fc_ceil_div(height, rows));
}

/* Nanoseconds to split a byte of a row. */
#define SPLIT 0.006

/* Whether passes make two vectors or one and a half (kernels/depthwise.inc); those of 64 bytes. */
static int has_pairs(const fc_conv *p)
{
    const fc_window *w = &p->window;
    return w->out[1] >= 4 && (w->kernel[1] > 3 || (w->kernel[1] == 3 && w->stride[1] == 1 && p->channels > 1));
}

/* Nanoseconds of a vector's tap. */
static double tap_cost(const fc_conv *p, const fc_kernels *kernels)
{
    const fc_window *w = &p->window;
    if (w->out[1] <= 3)
        return 0.4; /* a lone row shares no load */
    if (w->stride[2] == 2 && w->kernel[1] < FC_DEPTHWISE_SPLIT)
        return w->kernel[1] == 3 && w->kernel[2] == 3 && p->channels == 1 ? 0.15 : 0.36; /* beside planes: Zen 4 takes 1.5 times both */
    /* Zen 4, this and pixels, us: 32 groups of 4@56 312, 400; 3-32@32 b32 658, 590; 7x7 3-16@128 b4 2780, 2720.  In 16 registers, Zen 3: 32
     * groups of 4@56 490-1390, 510-810 (where the other thread of the core is busy, or x far away); 8 of 4@64 b8 2500-4600, 1400-2000;
     * 8 channels 5x5@32 50, 42; but 32 of 3@56 290, 370-450. */
    if (p->channels > 1)
        return p->channels > 3 && kernels->mr[4] < 6 ? 0.2 : 0.15;
    if (w->kernel[1] > 8 && fc_has_short_vectors(kernels))
        return 0.105; /* 9x9 64@40 290-380 us, planes 270-330, 7x7 96@56 705, 753 (Zen 3) */
    return w->kernel[1] > 4 ? 0.085 : 0.12;
}

static const char *plan_depthwise(fc_conv_plan *plan, double *cost)
{
    const fc_conv *p = &plan->problem;
    const char *refusal = fc_depthwise_refusal(p);
    if (refusal)
        return refusal;
    if (p->channels > 1 && (p->channels > CHANNELS_MAX || p->window.kernel[1] < 3))
        return "a group has many input channels, or more than one and a kernel of one or two rows";
    if (p->channels > 1 && fc_reduction(p) > fc_gemm_block(plan))
        return "long sums are made in blocks";
    plan->tile[ROWS] = choose_rows(plan, fc_dispatch(p->real));
    layout l = lay_out(plan);
    plan->scratch = fc_add(fc_add(l.shared_bytes, l.weights.bytes), fc_mul(plan->threads, l.worker_bytes));
    if (plan->scratch > fc_scratch_max(plan->threads))
        return "the rows exceed the scratch bound";
    double taps = (double)fc_reduction(p), rows = (double)plan->tile[ROWS], outputs = (double)p->out_channels;
    int64_t lanes = l.kernels->lanes / (has_pairs(p) && !fc_has_short_vectors(l.kernels) ? 2 : 1); /* halves */
    double vectors = rows * (double)fc_ceil_div(p->window.out[2], lanes) * (double)lanes / (double)l.kernels->lanes;
    double bytes = (double)l.kernels->size;
    double row = (double)(l.input.pitch ? 2 * l.input.pitch : l.input.x.pitch);
    double copied = row * (double)(l.input.x.copies * l.input.window.planes);
    double copy = p->x.s[2] != 1 ? 0.3 : l.input.pitch ? SPLIT : 0.03;
    double stored = l.in_place ? 0 : outputs * rows * (double)l.tile_row * (l.flat ? 1 : p->y.s[2] == 1 ? 2 : 20);
    double unit = 30 + outputs * (10 + vectors * (1 + tap_cost(p, l.kernels) * taps)) + copy * bytes * copied + 0.03 * bytes * stored;
    if (l.whole)
        unit = 10 + outputs * (5 + 0.9 * vectors) + 0.03 * bytes * stored;
    *cost = 300 + (double)l.units * unit + 0.3 * (double)l.weights.bytes;
    int64_t shared = fc_max(1, l.units / (4 * plan->threads));
    plan->tile[UNITS] = fc_max(1, fc_min(shared, (int64_t)(TASK_NS / unit)));
    return NULL;
}

typedef struct job {
    const fc_conv_plan *plan;
    layout l;
    const void *zero;
    const char *x, *w, *bias;
    char *y, *scratch;
} job;

/* One output channel of a band whose rows are in the table. */
static void run_channel(const job *j, const void *const *table, void *tile, int64_t o, const void *w, void *y, int64_t rows)
{
    const layout *l = &j->l;
    const fc_conv *p = &j->plan->problem;
    const fc_kernels *kernels = l->kernels;
    fc_depthwise_kernel kernel = kernels->depthwise[l->input.variant][p->window.kernel[1]];
    const void *init = j->bias ? fc_at(j->bias, o, kernels->size) : NULL;
    char *out = l->in_place ? y : tile;
    int64_t row = l->in_place ? p->y.s[1] : l->tile_row, step = l->input.window.step;
    for (int64_t f = 0; f < fc_min(step, rows); f++)
        kernel(&l->input.window, w, init, table + f, fc_at(out, f * row, kernels->size), step * row,
               fc_ceil_div(rows - f, step));
    int whole = row == l->tile_row; /* rows without gaps */
    for (int64_t r = 0; r < (whole ? 1 : rows); r++)
        fc_output_clamp(p, kernels, fc_at(out, r * row, kernels->size), whole ? rows * row : p->window.out[2]);
    if (!l->in_place && l->flat)
        kernels->scatter_row(y, 1, tile, rows * l->tile_row, 0);
    else if (!l->in_place)
        fc_output_store(p, kernels, y, tile, rows, l->tile_row);
}

/* `rows` output rows from oh on of group g of image n. */
static void run_plane(const job *j, int64_t n, int64_t g, int64_t oh, int64_t rows, void *tile)
{
    const layout *l = &j->l;
    const fc_conv *p = &j->plan->problem;
    const fc_window *w = &p->window;
    const fc_kernels *kernels = l->kernels;
    int64_t size = kernels->size;
    for (int64_t m = 0; m < p->out_channels; m++) {
        int64_t o = g * p->out_channels + m;
        char *y = fc_at(j->y, n * p->y.n + o * p->y.c + oh * p->y.s[1], size), *out = l->in_place ? y : tile;
        kernels->depthwise_flat(fc_at(j->w, g * l->weights.g + m * l->weights.o, size), l->w_step,
                                j->bias ? fc_at(j->bias, o, size) : NULL, fc_at(j->x, n * p->x.n + g * p->x.c, size), w->in[1],
                                w->in[2], oh - w->offset[1], out, rows);
        fc_output_clamp(p, kernels, out, rows * w->out[2]);
        if (!l->in_place)
            fc_output_store(p, kernels, y, tile, rows, w->out[2]);
    }
}

/* What a unit is going to read of its plane. */
static void fetch_plane(const job *j, int64_t unit)
{
    const fc_conv *p = &j->plan->problem;
    const fc_window *w = &p->window;
    int64_t bands = j->l.input.bands, rows = j->l.input.rows, g = unit / bands % p->groups, n = unit / bands / p->groups;
    int64_t top = unit % bands * rows - w->offset[1], first = fc_max(0, fc_min(top, w->in[1]));
    int64_t count = fc_max(0, fc_min(top + rows + 2, w->in[1]) - first) * w->in[2] * j->l.kernels->size;
    fc_ahead ahead = {fc_at(j->x, n * p->x.n + g * p->x.c + first * w->in[2], j->l.kernels->size), 0, 1,
                      fc_ceil_div(count, FC_ALIGN), 0};
    fc_fetch(&ahead, ahead.lines);
}

static void run_unit(const job *j, int64_t unit, char *scratch)
{
    const layout *l = &j->l;
    const fc_conv *p = &j->plan->problem;
    int64_t size = l->kernels->size, band = unit % l->input.bands, od = unit / l->input.bands % p->window.out[0];
    int64_t image = unit / l->input.bands / p->window.out[0], g = image % p->groups, n = image / p->groups;
    int64_t oh = band * l->input.rows, rows = fc_min(l->input.rows, p->window.out[1] - oh);
    if (l->whole) {
        if (unit + 1 < l->units)
            fetch_plane(j, unit + 1);
        run_plane(j, n, g, oh, rows, scratch);
        return;
    }
    const void **table = (const void **)(void *)scratch;
    char *copies = scratch + l->input.table_bytes, *tile = copies + l->input.copy_bytes;
    fc_depthwise_take(&l->input, p, l->kernels, table, copies, j->zero,
                      fc_at(j->x, n * p->x.n + g * p->channels * p->x.c, size), od, oh, rows);
    for (int64_t m = 0; m < p->out_channels; m++) {
        int64_t o = g * p->out_channels + m;
        run_channel(j, table, tile, o, fc_at(j->w, g * l->weights.g + m * l->weights.o, size),
                    fc_at(j->y, n * p->y.n + o * p->y.c + od * p->y.s[0] + oh * p->y.s[1], size), rows);
    }
}

static void run_task(void *context, int64_t task, int worker)
{
    const job *j = context;
    int64_t units = j->plan->tile[UNITS], end = fc_min((task + 1) * units, j->l.units);
    for (int64_t unit = task * units; unit < end; unit++)
        run_unit(j, unit, j->scratch + worker * j->l.worker_bytes);
}

static fc_status run_depthwise(const fc_conv_plan *plan, void *x, void *w, void *bias, void *y)
{
    const fc_conv *p = &plan->problem;
    job j = {.plan = plan, .l = lay_out(plan), .x = x, .bias = bias, .y = y};
    char *scratch = fc_arena_take(plan->scratch);
    if (!scratch)
        return FC_NO_MEMORY;
    if (!j.l.whole)
        j.zero = fc_depthwise_share(&j.l.input, p, j.l.kernels->size, scratch);
    scratch += j.l.shared_bytes;
    j.w = fc_weights_take(&j.l.weights, p, j.l.kernels, plan->threads, scratch, w);
    j.scratch = scratch + j.l.weights.bytes;
    fc_parallel(plan->threads, fc_ceil_div(j.l.units, plan->tile[UNITS]), run_task, &j);
    fc_arena_give();
    return FC_OK;
}

const fc_driver fc_driver_depthwise = {"depthwise", plan_depthwise, run_depthwise, .bounded = 1};
