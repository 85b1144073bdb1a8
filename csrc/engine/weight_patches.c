/* The weight gradient of no more output pixels than a panel holds: a product with the patches under them, written once, row after row.
 *
 *     dW[o][c, t] = sum_p dY[o][p] P[p][c, t],     P[p] = the patch under output pixel p, of all images
 *
 *     copy dY, output channels by pixels of all images, unless in place                                 once a call
 *     for each group g, bundle of channels (a vector), block of output channels                         a task
 *         transpose the bundle's images, between zeros, and from these its patches, taps of a channel next to each other;
 *         of fewer channels than lanes copy the patches, row of the kernel by row
 *         for each tile of rows o:  gemm kernel, into dW
 *
 * dW is larger than the patches then.  `weight_gemm.c` packs a ninth of them, but keeps dW by taps in blocks that are transposed as they
 * are stored, and multiplies in as many short products.  us, one thread (`weight_gemm.c`, this; Zen 5): 3x3 512-512@7 1080, 920 (by
 * Winograd 1280; 840 at the peak), 3x3s2 512-512@14 b4 3950, 3700 (3360), 256-512@14 750, 480, k3s2 256-512 L64 260, 126; but of more
 * pixels than output channels 3x3s2 128-128@56 945, 965, and 512-512@7 b8, by planes' rows without padding, 7000, 7400; and with AVX2
 * 512-512@7 1905, 1915, 3x3s2 128-128@56 1810, 1950.
 * Few channels, whose patches are runs of the image: 16x16s16 3-768@224, Zen 3, 5.7 ms by `weight_channels.c`, 5.4 by `weight_gemm.c`, 3.9,
 * of which dW's lines, fetched for writing before a tile, save 0.5 (of 3x3 512-512@7 6 %), and rows of patches that are no multiple of
 * 256 bytes 0.2.  By strips in blocks of rows; so 3x3 512-512@7 and 3x3s2 512-512@14 b4, whose patches are near, take 1.1 to 1.2 times as long.
 */
#include "engine/weight_panel.h"
#include "engine/weight_tiles.h"
#include "engine/weights.h"

enum { OUTPUTS }; /* plan->tile: of a task */
/* A bundle's images, and its patches, which stay in a second-level cache of 1 MiB; rows of dY so far apart share sets of the first. */
enum { IMAGE_BYTES = 512 << 10, PATCH_BYTES = 640 << 10, SAME_LINE = 1024 };
/* The rows of dY that all strips of the patches are multiplied with before the next are. */
enum { BLOCK_BYTES = 96 << 10 };

typedef struct layout {
    const fc_kernels *kernels;
    fc_panel panel;
    int64_t taps, pixels;         /* of a channel; of all images */
    int runs;                     /* patches are copied from the image, a row of the kernel at a time: of fewer channels than lanes */
    int64_t bundles, bundle;      /* of a group; channels of each, at most */
    int64_t row;                  /* of patches, in elements */
    int64_t depth, plane, image;  /* panels of an image; elements of one, and of an image's */
    int64_t blocks, pitch;        /* of output channels; pixels of a row of dY */
    int in_place;                 /* dY is */
    int64_t place_bytes, tap_bytes, image_bytes, temp_bytes, patch_bytes, gradient_bytes;
} layout;

static int64_t span(const fc_window *w, int axis)
{
    return fc_add(fc_mul(w->out[axis] - 1, w->stride[axis]), fc_mul(w->kernel[axis] - 1, w->dilation[axis]) + 1);
}

static layout lay_out(const fc_conv_plan *plan)
{
    const fc_conv *p = &plan->problem;
    const fc_window *w = &p->window;
    layout l = {.kernels = fc_dispatch(p->real), .taps = fc_taps(w), .pixels = fc_pixels(p), .depth = span(w, 0)};
    int64_t lanes = l.kernels->lanes, size = l.kernels->size;
    l.panel = (fc_panel){.width = lanes, .fold = 1, .rows = span(w, 1), .pitch = span(w, 2), .step = {1, 1}};
    l.plane = fc_panel_elements(&l.panel, l.panel.rows);
    l.image = fc_mul(l.depth, l.plane);
    l.runs = p->channels < lanes;
    int64_t most = l.runs ? fc_max(1, PATCH_BYTES / 2 / fc_mul(fc_mul(l.pixels, l.taps), size)) : lanes;
    l.bundles = fc_ceil_div(p->channels, most);
    l.bundle = fc_ceil_div(p->channels, l.bundles);
    l.row = fc_mul(l.taps, l.runs ? l.bundle : lanes);
    l.row += l.runs && l.row * size % 256 == 0 ? FC_ALIGN / size : 0;
    l.blocks = fc_ceil_div(p->out_channels, plan->tile[OUTPUTS]);
    int rows = w->out[1] == 1 || p->y.s[1] == w->out[2], planes = w->out[0] == 1 || p->y.s[0] == w->out[1] * w->out[2];
    l.in_place = p->batch == 1 && (w->out[2] == 1 || p->y.s[2] == 1) && rows && planes;
    l.pitch = l.pixels + (l.pixels * size % SAME_LINE ? 0 : lanes);
    l.place_bytes = fc_bytes(l.pixels, 2 * sizeof(int64_t));
    l.tap_bytes = fc_bytes(l.taps, sizeof(int64_t));
    l.image_bytes = l.runs ? 0 : fc_bytes(fc_mul(p->batch, l.image), size);
    l.temp_bytes = l.runs ? 0 : fc_panel_scratch(&l.panel, size);
    l.patch_bytes = fc_bytes(fc_add(fc_mul(l.pixels, l.row), lanes), size);
    l.gradient_bytes = l.in_place ? 0 : fc_bytes(fc_mul(fc_mul(p->groups, p->out_channels), l.pitch), size);
    return l;
}

static int64_t worker_bytes(const layout *l)
{
    return fc_add(fc_add(l->image_bytes, l->temp_bytes), l->patch_bytes);
}

static const char *plan_patches(fc_conv_plan *plan, double *cost)
{
    const fc_conv *p = &plan->problem;
    const fc_kernels *kernels = fc_dispatch(p->real);
    if (!fc_reduction(p) || !p->out_channels || !fc_pixels(p))
        return "there is nothing to sum";
    if (fc_taps(&p->window) == 1)
        return "its patches are the image's pixels";
    if (!fc_weights_plan(p, kernels->size).in_place)
        return "the weight gradient's rows are not contiguous";
    plan->tile[OUTPUTS] = p->out_channels;
    layout l = lay_out(plan);
    if (fc_mul(p->channels / l.bundles, l.taps) < kernels->lanes)
        return "too few channels and taps: less than a vector";
    if (l.image_bytes > IMAGE_BYTES || l.patch_bytes > PATCH_BYTES)
        return "the patches of a channel, or of a vector of them, exceed the second-level cache";
    int64_t tile = kernels->mr[kernels->nv], tasks = fc_mul(p->groups, l.bundles), split = fc_ceil_div(4 * plan->threads, tasks);
    if (plan->threads > 1)
        plan->tile[OUTPUTS] = fc_min(p->out_channels, fc_ceil_div(fc_ceil_div(p->out_channels, split), tile) * tile);
    plan->scratch = fc_add(fc_add(l.place_bytes, l.tap_bytes), fc_add(l.gradient_bytes, fc_mul(plan->threads, worker_bytes(&l))));
    if (plan->scratch > fc_scratch_max(plan->threads))
        return "the patches, or the output's gradient, exceed the scratch bound";
    /* Nine taps have a transpose of their own; others' are squares, however few: k3s2 384-384 L3000 5530 us by `weight_gemm.c`, 5740. */
    double bundles = (double)p->groups * (double)l.bundles, squares = (double)fc_ceil_div(l.taps, kernels->lanes);
    double turned = l.taps == 9 ? 13 : 0.75 * squares * (double)kernels->lanes;
    double read = !l.runs && kernels->size > 4 ? 1.1 : 1.0;
    double gemm = fc_gemm_cost(kernels, p->out_channels, l.bundle * l.taps, l.pixels);
    double lines = (double)(l.image_bytes / kernels->size / l.panel.pitch / kernels->lanes);
    double packed = l.runs ? 6 * (double)l.pixels * (double)l.bundle * (double)(l.taps / p->window.kernel[2]) /* a run 6 ns */
                           : turned * (double)l.pixels + 0.025 * (double)l.image_bytes + 5 * lines;
    *cost = 500 + 2 * (double)l.pixels + bundles * (read * gemm + packed) + 0.025 * (double)l.gradient_bytes +
            0.15 * (double)p->groups * (double)p->out_channels * (double)fc_reduction(p);
    return NULL;
}

typedef struct job {
    const fc_conv_plan *plan;
    layout l;
    fc_gemm gemm;
    int64_t *tap, *place; /* in a bundle's images: taps, and output pixels; the latter again in its patches */
    const char *x, *y;
    char *w, *gradient, *workers;
} job;

/* Rows of pixels of some output channels of all images. */
static void copy_gradient(void *context, int64_t task, int worker)
{
    (void)worker;
    static const double zero = 0;
    const job *j = context;
    const fc_conv *p = &j->plan->problem;
    const int64_t *out = p->window.out;
    const fc_kernels *kernels = j->l.kernels;
    int64_t size = kernels->size, plane = out[1] * out[2], tasks = fc_ceil_div(p->out_channels, kernels->lanes);
    int64_t o = task % tasks * kernels->lanes, n = fc_min(kernels->lanes, p->out_channels - o);
    int64_t channel = task / tasks * p->out_channels + o;
    int64_t run = out[1] == 1 || p->y.s[1] == out[2] * p->y.s[2] ? plane : out[2];
    for (int64_t pixel = 0; pixel < j->l.pixels; pixel += run) {
        const char *y = fc_at(j->y, channel * p->y.c + fc_pixel_at(&p->window, pixel, &p->y), size);
        char *dst = fc_at(j->gradient, channel * j->l.pitch + pixel, size);
        if (p->y.c == 1 && p->y.s[2] != 1) {
            kernels->transpose(dst, j->l.pitch, y, p->y.s[2], run, n);
            continue;
        }
        for (int64_t i = 0; i < n; i++)
            kernels->gather_row(fc_at(dst, i * j->l.pitch, size), run, fc_at(y, i * p->y.c, size), p->y.s[2], 0, 1, run, &zero);
    }
}

/* The images of some channels, and from these their patches. */
static void pack_patches(const job *j, int64_t channel, int64_t channels, char *images, char *temp, char *patches)
{
    const fc_conv *p = &j->plan->problem;
    const fc_window *w = &p->window;
    const layout *l = &j->l;
    int64_t size = l->kernels->size;
    fc_panel_image image = {.channels = channels, .c = p->x.c, .size = {w->in[1], w->in[2]}, .stride = {p->x.s[1], p->x.s[2]}};
    for (int64_t k = 0; k < p->batch * l->depth; k++) {
        int64_t id = k % l->depth - w->offset[0], at = k / l->depth * p->x.n + channel * p->x.c + id * p->x.s[0];
        image.x = id >= 0 && id < w->in[0] ? fc_at(j->x, at, size) : NULL;
        fc_panel_pack(&l->panel, l->kernels, fc_at(images, k * l->plane, size), temp, &image, l->panel.rows, -w->offset[1],
                      -w->offset[2]);
    }
    l->kernels->transpose_taps(patches, images, j->place, l->pixels, j->tap, l->taps);
}

/* The patches of some channels, from the image. */
static void copy_patches(const job *j, int64_t channel, int64_t channels, char *patches)
{
    static const double zero = 0;
    const fc_conv *p = &j->plan->problem;
    const fc_window *w = &p->window;
    const fc_kernels *kernels = j->l.kernels;
    const int64_t size = kernels->size, *out = w->out, *kernel = w->kernel, step = w->stride[2] * p->x.s[2];
    int whole = kernel[2] % kernels->lanes == 0 && p->x.s[2] == 1 && w->dilation[2] == 1 && fc_lies_inside(w);
    for (int64_t k = 0; k < channels * kernel[0] * kernel[1]; k++)
        for (int64_t row = 0; row < j->l.pixels / out[2]; row++) {
            int64_t kh = k % kernel[1], kd = k / kernel[1] % kernel[0], c = channel + k / kernel[1] / kernel[0];
            int64_t ih = row % out[1] * w->stride[1] + kh * w->dilation[1] - w->offset[1], n = row / out[1] / out[0];
            int64_t id = row / out[1] % out[0] * w->stride[0] + kd * w->dilation[0] - w->offset[0];
            int inside = id >= 0 && id < w->in[0] && ih >= 0 && ih < w->in[1];
            const char *x = inside ? fc_at(j->x, n * p->x.n + c * p->x.c + id * p->x.s[0] + ih * p->x.s[1], size) : NULL;
            char *dst = fc_at(patches, row * out[2] * j->l.row + k * kernel[2], size);
            if (whole)
                kernels->copy_vectors(dst, j->l.row, fc_at(x, -w->offset[2], size), step, (int)(kernel[2] / kernels->lanes), out[2]);
            for (int64_t ow = 0; ow < out[2] && !whole; ow++)
                kernels->gather_row(fc_at(dst, ow * j->l.row, size), kernel[2], x, p->x.s[2], ow * w->stride[2] - w->offset[2],
                                    w->dilation[2], w->in[2], &zero);
        }
}

/* A tile of rows with some columns of the patches.  What it writes is fetched first: rows of dW lie pages apart. */
static void multiply_tile(const fc_gemm *gemm, int64_t rows, const char *y, int64_t y_row, const char *patches, char *w, int64_t w_row)
{
    int64_t size = gemm->kernels->size;
    const void *a[FC_MR_MAX];
    for (int64_t m = 0; m < rows; m++) {
        a[m] = fc_at(y, m * y_row, size);
        for (int64_t at = 0; at < gemm->columns * size; at += FC_ALIGN)
            __builtin_prefetch((char *)fc_at(w, m * w_row, size) + at, 1);
    }
    fc_gemm_run(gemm, (int)rows, a, patches, w, w_row, NULL, 0);
}

/* Tiles of rows with the patches: those that no first-level cache keeps by strips, each with a block of rows. */
static void multiply(const job *j, const char *y, int64_t y_row, int64_t outputs, const char *patches, char *w, int64_t columns)
{
    int64_t size = j->l.kernels->size, w_row = j->plan->problem.w.o;
    int64_t width = j->l.runs ? j->gemm.strip * j->l.kernels->lanes : columns;
    int64_t block = fc_max(1, BLOCK_BYTES / (j->l.pixels * size) / j->gemm.rows) * j->gemm.rows;
    fc_gemm gemm = j->gemm;
    for (int64_t first = 0, rows; first < outputs; first += rows) {
        rows = fc_min(block, outputs - first);
        int64_t tiles = fc_ceil_div(rows, gemm.rows);
        for (int64_t column = 0; column < columns; column += gemm.columns) {
            gemm.columns = columns - column < 2 * width ? columns - column : width;
            for (int64_t tile = 0; tile < tiles; tile++) {
                int64_t o = first + rows * tile / tiles, end = first + rows * (tile + 1) / tiles;
                multiply_tile(&gemm, end - o, fc_at(y, o * y_row, size), y_row, fc_at(patches, column, size),
                              fc_at(w, o * w_row + column, size), w_row);
            }
        }
    }
}

static void run_task(void *context, int64_t task, int worker)
{
    const job *j = context;
    const fc_conv *p = &j->plan->problem;
    const layout *l = &j->l;
    int64_t size = l->kernels->size, c = task / l->blocks % l->bundles, g = task / l->blocks / l->bundles;
    int64_t first = p->channels * c / l->bundles, channels = p->channels * (c + 1) / l->bundles - first;
    int64_t o = task % l->blocks * j->plan->tile[OUTPUTS], outputs = fc_min(j->plan->tile[OUTPUTS], p->out_channels - o);
    char *images = j->workers + worker * worker_bytes(l), *temp = images + l->image_bytes, *patches = temp + l->temp_bytes;
    if (l->runs)
        copy_patches(j, g * p->channels + first, channels, patches);
    else
        pack_patches(j, g * p->channels + first, channels, images, temp, patches);
    int64_t row = l->in_place ? p->y.c : l->pitch;
    const char *y = fc_at(l->in_place ? j->y : j->gradient, (g * p->out_channels + o) * row, size);
    char *w = fc_at(j->w, g * p->w.g + o * p->w.o + first * l->taps, size);
    multiply(j, y, row, outputs, patches, w, channels * l->taps);
}

static void fill_tables(const job *j)
{
    const fc_window *w = &j->plan->problem.window;
    const layout *l = &j->l;
    int64_t *tap = j->tap, lanes = l->kernels->lanes, pitch = l->panel.pitch * lanes;
    const fc_array_strides s = {l->image, 1, {w->stride[0] * l->plane, w->stride[1] * pitch, w->stride[2] * lanes}};
    for (int64_t i = 0; i < l->pixels; i++) {
        j->place[i] = fc_pixel_at(w, i, &s);
        j->place[l->pixels + i] = i * l->row;
    }
    for (int64_t kd = 0; kd < w->kernel[0]; kd++)
        for (int64_t kh = 0; kh < w->kernel[1]; kh++)
            for (int64_t kw = 0; kw < w->kernel[2]; kw++)
                *tap++ = kd * w->dilation[0] * l->plane + kh * w->dilation[1] * pitch + kw * w->dilation[2] * lanes;
}

static fc_status run_patches(const fc_conv_plan *plan, void *x, void *w, void *bias, void *y)
{
    (void)bias;
    const fc_conv *p = &plan->problem;
    job j = {.plan = plan, .l = lay_out(plan), .x = x, .y = y, .w = w};
    char *scratch = fc_arena_take(plan->scratch);
    if (!scratch)
        return FC_NO_MEMORY;
    j.place = (int64_t *)(void *)scratch;
    j.tap = (int64_t *)(void *)(scratch + j.l.place_bytes);
    j.gradient = scratch + j.l.place_bytes + j.l.tap_bytes;
    j.workers = j.gradient + j.l.gradient_bytes;
    fill_tables(&j);
    fc_weight_gemm_plan(&j.gemm, j.l.kernels, plan->tile[OUTPUTS], j.l.bundle * j.l.taps);
    j.gemm.k = j.l.pixels;
    j.gemm.b_offset = j.place + j.l.pixels;
    if (!j.l.in_place)
        fc_parallel(plan->threads, p->groups * fc_ceil_div(p->out_channels, j.l.kernels->lanes), copy_gradient, &j);
    fc_parallel(plan->threads, p->groups * j.l.bundles * j.l.blocks, run_task, &j);
    fc_arena_give();
    return FC_OK;
}

const fc_driver fc_driver_weight_patches = {"patches", plan_patches, run_patches, .bounded = 0};
