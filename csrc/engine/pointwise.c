/* The pointwise driver: a kernel of one tap as a plain product, lanes over output channels, whatever the stride.
 *
 *     Y[p][o] = b[o] + sum_c X[p][c] W[c][o]
 *
 * Row p of A is a pixel with its channels next to each other: the image itself where it is channels-last, else a transposed
 * block of it.  B is a strip of output channels, packed (turned, or copied where the weights are stored so: input gradients) a
 * block of terms at a time right before all pixels of a block are multiplied with it: it is read once and stays in the
 * first-level cache.
 *
 *     for each group g, block of output channels, block of pixels (counted through rows, planes and images)      a task
 *         transpose the pixels, unless their channels are neighbours
 *         for each strip of output channels:
 *             for each block of k:  pack the strip's weights;  for each tile of pixels:  gemm kernel, added but for the first
 *             transpose the strip into y, unless its channels are neighbours: then it was written there at once
 *
 * Scratch per worker: where a block's pixels stand, its transposed pixels, a block of a strip's weights, a strip of outputs.
 *
 * A stride of two over planes transposes the pixels between outputs too.
 *
 * Emerald Rapids, one core beside a busy hyperthread, part of what the kernel alone reaches there (`channels.c`, this).
 * Channels last: 512-512@14 0.72, 0.87, its gradient 0.69, 0.85; 64-256@56 0.78, 0.88; with strides of two 256-512@56 0.79, 0.85,
 * gradients of that 0.80, 0.82, of 512-1024@28 0.62, 0.77, 1024-2048@14 0.38, 0.60.  Gradients of planes, whose weights `pixels.c`
 * transposes (that, this): 512-512@14 0.71, 0.83, 1024-256@14 0.70, 0.84, 320-1280@7 0.55, 0.70, 512-2048@7 0.54, 0.71.  Planes
 * with strides (that, this): 256-512@56 0.66, 0.72, 512-1024@28 0.57, 0.77, 1024-2048@14 0.44, 0.61; gradients (`channels.c`,
 * this) 0.61, 0.63; 0.54, 0.62; 0.37, 0.55.  Not planes forwards without strides, where weights are rows already: 512-512@14
 * 0.83, 0.82, 320-1280@7 0.76, 0.67.  The next block of weights whose rows are outputs is fetched by the kernel: gradients of
 * 320-1280@7 0.73 to 0.78, of 512-2048@7 0.66 to 0.70, channels last 0.70 to 0.76, of others as fast; of those to transpose it
 * gains nothing.  Tried: the copy by the first tile's kernel (gemm_pack), and the weights' lines fetched in runs (Granite Rapids, the
 * same); the weights read in place, their rows an odd number of lines apart or not (there 1.07 to 1.33 of the time);
 * blocks of 64 terms and of 192 (2 and 4 % slower); 256 or 1024 KiB of pixels (as fast); a plane's pixels
 * read where they stand instead of transposed (512-512@14 0.74).  Tried on Zen 3: blocks of four strips packed at once, their rows in
 * turn (as fast); 224 KiB of pixels (0 to 14 % slower), transposed pixels apart by no power of two (as fast), panels of 12 KiB (4 %
 * slower), of 36 KiB and 576 terms (-5 to 4 %).
 */
#include "engine/gemm.h"
#include "engine/output.h"

#include <string.h>

enum { PIXELS, OUTPUTS }; /* plan->tile: of a block */
enum { PIXELS_MIN = 256, PIXELS_MAX = 2048, BLOCK_BYTES = 512 << 10 };

/* Of a block of a strip's weights, which stays in a first-level cache of 32 KiB beside the pixels'. */
enum { PANEL_BYTES = 24 << 10 };

typedef struct layout {
    const fc_kernels *kernels;
    fc_array_strides x;                       /* from one output to the next */
    int64_t k, pixels, blocks, output_blocks; /* pixels of all images */
    int64_t terms, width;                     /* of a block of a strip; of the widest strip */
    int x_in_place, y_in_place;               /* channels are neighbours (in y: in whole vectors) */
    int x_flat;                               /* else the pixels of a row are transposed at once, also those between outputs */
    int y_flat;                               /* else a strip is transposed in scratch, and its rows scattered */
    int64_t list_bytes, image_bytes, panel_bytes, strip_bytes, turned_bytes;
} layout;

/* Whether the channels of a plane's pixels can be transposed at once. */
static int flat(const fc_window *w, const fc_array_strides *a)
{
    return a->s[2] == 1 && (a->s[1] == w->out[2] || w->out[1] == 1);
}

static layout lay_out(const fc_conv_plan *plan)
{
    const fc_conv *p = &plan->problem;
    const fc_kernels *kernels = fc_dispatch(p->real);
    int64_t size = kernels->size, pixels = plan->tile[PIXELS];
    layout l = {.kernels = kernels, .x = p->x, .k = p->channels, .pixels = fc_pixels(p)};
    for (int i = 0; i < FC_AXES; i++)
        l.x.s[i] *= p->window.stride[i];
    l.blocks = fc_ceil_div(l.pixels, pixels);
    l.output_blocks = fc_ceil_div(p->out_channels, plan->tile[OUTPUTS]);
    l.width = fc_gemm_packed_strip(kernels) * kernels->lanes;
    l.terms = fc_gemm_terms(kernels, l.k, fc_min(PANEL_BYTES / size / l.width, fc_gemm_block(plan)));
    l.x_in_place = p->x.c == 1;
    l.y_in_place = p->y.c == 1 && p->out_channels % kernels->lanes == 0;
    l.list_bytes = fc_bytes(2 * pixels + l.terms, sizeof(int64_t));
    l.x_flat = flat(&p->window, &p->x) && p->window.stride[1] == 1 && p->window.stride[2] == 1;
    l.image_bytes = l.x_in_place ? 0 : fc_bytes(fc_mul(fc_mul(pixels, p->window.stride[2]), l.k), size);
    l.panel_bytes = fc_bytes(l.terms * l.width, size);
    l.y_flat = flat(&p->window, &p->y);
    l.strip_bytes = l.y_in_place ? 0 : fc_bytes(pixels * l.width, size);
    l.turned_bytes = l.y_flat || p->y.c == 1 ? 0 : l.strip_bytes;
    return l;
}

static int64_t worker_bytes(const layout *l)
{
    return fc_add(fc_add(l->list_bytes, l->image_bytes), l->panel_bytes + l->strip_bytes + l->turned_bytes);
}

/* Blocks of pixels for the cache; enough tasks for the threads: what is read again for each of them is the smaller array.  Strips that do
 * not share out evenly are cut: gradient of 320-1280@7 at two threads 165 to 129 us (Granite Rapids). */
static void choose_tile(fc_conv_plan *plan, const fc_kernels *kernels)
{
    const fc_conv *p = &plan->problem;
    int64_t all = fc_pixels(p), strip = fc_gemm_packed_strip(kernels) * kernels->lanes;
    int64_t wide = fc_max(p->channels, p->out_channels);
    int64_t pixels = fc_max(PIXELS_MIN, fc_min(PIXELS_MAX, BLOCK_BYTES / kernels->size / wide));
    int64_t blocks = fc_ceil_div(all, pixels), parts = 1, strips = fc_ceil_div(p->out_channels, strip);
    int64_t wanted = plan->threads > 1 ? 4 * plan->threads : 1, tasks = p->groups * blocks;
    if (tasks < wanted && p->out_channels > all / blocks)
        parts = fc_min(strips, fc_ceil_div(p->x.c == 1 ? wanted : plan->threads, tasks)); /* each transposes the pixels */
    else if (tasks < wanted)
        blocks = fc_min(fc_ceil_div(all, 2 * kernels->mr[kernels->nv]), blocks * fc_ceil_div(wanted, tasks));
    plan->tile[PIXELS] = fc_ceil_div(all, blocks);
    int64_t unit = strips % parts ? kernels->lanes : strip;
    plan->tile[OUTPUTS] = fc_min(p->out_channels, fc_ceil_div(fc_ceil_div(p->out_channels, unit), parts) * unit);
}

static const char *refusal(const fc_conv *p, const fc_kernels *kernels)
{
    const fc_window *w = &p->window;
    if (!p->channels || !p->batch || !fc_outputs(w))
        return "there is nothing to sum";
    if (fc_taps(w) != 1)
        return "the kernel has more than one tap";
    if (!fc_lies_inside(w))
        return "the image is padded";
    if (p->out_channels < kernels->lanes)
        return "too few channels: less than a vector of output";
    if (p->x.c != 1 && p->x.s[2] != 1)
        return "the image's channels are not neighbours, nor are its pixels";
    if (p->x.c != 1 && w->stride[2] > 2)
        return "the image's channels are not neighbours, and its stride is more than two";
    return NULL;
}

static const char *plan_pointwise(fc_conv_plan *plan, double *cost)
{
    const fc_conv *p = &plan->problem;
    const fc_kernels *kernels = fc_dispatch(p->real);
    const char *refused = refusal(p, kernels);
    if (refused)
        return refused;
    choose_tile(plan, kernels);
    layout l = lay_out(plan);
    plan->scratch = fc_mul(plan->threads, worker_bytes(&l));
    if (plan->scratch > fc_scratch_max(plan->threads))
        return "a block of pixels exceeds the scratch bound";
    double vectors = (double)fc_ceil_div(p->out_channels, kernels->lanes), lanes = (double)kernels->lanes, k = (double)l.k;
    double pixels = (double)l.pixels, groups = (double)p->groups, products = groups * pixels * vectors * k;
    double calls = products / (9.0 * 3.0 * (double)l.terms), bytes = (double)kernels->size;
    double packed = groups * (double)l.blocks * vectors * lanes * k;
    double turned = l.x_in_place ? 0 : groups * (double)(l.output_blocks * p->window.stride[2]) * pixels * k;
    double stored = l.y_in_place ? 0 : groups * pixels * vectors * lanes;
    *cost = 400 + products * 0.125 * (vectors == 1 ? 1.8 : 1.0) + 14 * calls +
            bytes * ((p->w.o == 1 ? 0.01 : 0.015) * packed + 0.02 * turned + (p->y.c == 1 ? 0.075 : 0.025) * stored) +
            groups * pixels;
    return NULL;
}

typedef struct job {
    const fc_conv_plan *plan;
    layout l;
    const char *x, *w, *bias;
    char *y, *workers;
} job;

/* Some pixels and output channels, and where they stand: x_at[i], y_at[i] of pixel i. */
typedef struct block {
    int64_t g, first, pixels, o, outputs;
    const char *x;
    char *y, *panel, *strip;
    int64_t *x_at, *y_at, *b_offset;
} block;

/* Pixels from `pixel` on that are neighbours in a plane or, if that is not flat, in a row, at most `left`. */
static int64_t run_of(const fc_window *w, int64_t pixel, int64_t left, int whole)
{
    int64_t run = whole ? w->out[1] * w->out[2] : w->out[2];
    return fc_min(left, run - pixel % run);
}

static void list_pixels(const job *j, const block *b, int64_t *at, const fc_array_strides *a)
{
    const fc_window *w = &j->plan->problem.window;
    for (int64_t i = 0, n; i < b->pixels; i += n) {
        n = run_of(w, b->first + i, b->pixels - i, 0);
        int64_t from = fc_pixel_at(w, b->first + i, a);
        for (int64_t q = 0; q < n; q++)
            at[i + q] = from + q * a->s[2];
    }
}

/* The block's pixels of the image, where they stand, or transposed. */
static void take_pixels(const job *j, block *b, char *image)
{
    const fc_conv *p = &j->plan->problem;
    const fc_window *w = &p->window;
    int64_t size = j->l.kernels->size, before = 0, pixel = j->l.k * w->stride[2];
    for (int i = 0; i < FC_AXES; i++)
        before += w->offset[i] * p->x.s[i];
    b->x = fc_at(j->x, b->g * p->channels * p->x.c - before, size);
    if (j->l.x_in_place) {
        list_pixels(j, b, b->x_at, &j->l.x);
        return;
    }
    for (int64_t i = 0, n; i < b->pixels; i += n) {
        n = run_of(w, b->first + i, b->pixels - i, j->l.x_flat);
        j->l.kernels->transpose(fc_at(image, i * pixel, size), j->l.k,
                                fc_at(b->x, fc_pixel_at(w, b->first + i, &j->l.x), size), p->x.c, p->channels,
                                (n - 1) * w->stride[2] + 1);
    }
    for (int64_t i = 0; i < b->pixels; i++)
        b->x_at[i] = i * pixel;
    b->x = image;
}

/* Rows of `terms` channels from c on: `width` outputs from o on, what is beyond the last of them is any number. */
static void pack(const job *j, const block *b, int64_t o, int64_t width, int64_t c, int64_t terms)
{
    static const double zero = 0;
    const fc_conv *p = &j->plan->problem;
    const fc_kernels *kernels = j->l.kernels;
    int64_t size = kernels->size, outputs = fc_min(width, p->out_channels - o);
    const char *w = fc_at(j->w, b->g * p->w.g + o * p->w.o + c * p->w.c, size);
    if (p->w.c == 1)
        kernels->transpose(b->panel, width, w, p->w.o, outputs, terms);
    else if (p->w.o == 1 && outputs == width)
        kernels->copy_vectors(b->panel, width, w, p->w.c, (int)(width / kernels->lanes), terms);
    else
        for (int64_t i = 0; i < terms; i++)
            kernels->gather_row(fc_at(b->panel, i * width, size), width, fc_at(w, i * p->w.c, size), p->w.o, 0, 1, outputs, &zero);
}

/* Sets a strip's outputs to the bias. */
static void begin_strip(const job *j, const block *b, char *y, int64_t o, int64_t width)
{
    const fc_conv *p = &j->plan->problem;
    int64_t size = j->l.kernels->size, outputs = fc_min(width, p->out_channels - o);
    for (int64_t i = 0; i < b->pixels; i++)
        memcpy(fc_at(y, b->y_at[i], size), fc_at(j->bias, b->g * p->out_channels + o, size), (size_t)(outputs * size));
}

/* From the strip, `width` outputs from o on, into y. */
static void store_strip(const job *j, const block *b, int64_t o, int64_t width)
{
    const fc_conv *p = &j->plan->problem;
    const fc_window *w = &p->window;
    int64_t size = j->l.kernels->size, outputs = fc_min(width, p->out_channels - o);
    char *y = fc_at(b->y, o * p->y.c, size), *turned = b->strip + j->l.strip_bytes;
    if (j->l.turned_bytes)
        j->l.kernels->transpose(turned, b->pixels, b->strip, width, b->pixels, outputs);
    for (int64_t i = 0, n; i < b->pixels; i += n) {
        n = p->y.c == 1 ? 1 : run_of(w, b->first + i, b->pixels - i, j->l.y_flat);
        char *out = fc_at(y, fc_pixel_at(w, b->first + i, &p->y), size);
        if (p->y.c == 1)
            j->l.kernels->scatter_row(out, 1, fc_at(b->strip, i * width, size), outputs, 0);
        else if (j->l.turned_bytes)
            for (int64_t k = 0; k < outputs; k++)
                j->l.kernels->scatter_row(fc_at(out, k * p->y.c, size), p->y.s[2], fc_at(turned, k * b->pixels + i, size), n, 0);
        else
            j->l.kernels->transpose(out, p->y.c, fc_at(b->strip, i * width, size), width, n, outputs);
    }
}

/* All terms of `nv` vectors of outputs from o on, of all pixels of the block.  Where rows of weights are outputs, those of the next
 * block are fetched meanwhile, a line a term. */
static void run_strip(const job *j, const block *b, int64_t o, int nv)
{
    const fc_conv *p = &j->plan->problem;
    const fc_kernels *kernels = j->l.kernels;
    int64_t size = kernels->size, width = nv * kernels->lanes, tiles = fc_ceil_div(b->pixels, kernels->mr[nv]);
    const char *w = fc_at(j->w, b->g * p->w.g, size);
    char *y = j->l.y_in_place ? fc_at(b->y, o, size) : b->strip;
    for (int64_t i = 0; i < j->l.terms; i++)
        b->b_offset[i] = i * width;
    for (int64_t i = 0; i < b->pixels && !j->l.y_in_place; i++)
        b->y_at[i] = i * width;
    if (j->bias)
        begin_strip(j, b, y, o, width);
    int64_t lines = p->w.o == 1 && kernels->gemm_far[nv][1] ? 1 + width * size / FC_ALIGN : 0;
    for (int64_t c = 0; c < j->l.k; c += j->l.terms) {
        int64_t terms = fc_min(j->l.terms, j->l.k - c), next = c + terms < j->l.k ? o + (c + terms) * p->w.c : o + width;
        pack(j, b, o, width, c, terms);
        for (int64_t t = 0; t < tiles; t++) {
            int64_t from = b->pixels * t / tiles, rows = b->pixels * (t + 1) / tiles - from;
            const void *a[FC_MR_MAX];
            for (int64_t m = 0; m < rows; m++)
                a[m] = fc_at(b->x, b->x_at[from + m] + c, size);
            const fc_lines ahead = {w + next * size + t * FC_ALIGN, p->w.c, 0};
            if (t < lines)
                kernels->gemm_far[nv][rows](terms, a, b->panel, b->b_offset, y, b->y_at + from, NULL, c || j->bias, &ahead, 0);
            else
                kernels->gemm[nv][rows](terms, a, NULL, b->panel, b->b_offset, y, b->y_at + from, NULL, c || j->bias);
        }
    }
    if (p->bounds.on)
        for (int64_t i = 0; i < b->pixels; i++)
            fc_output_clamp(p, kernels, fc_at(y, b->y_at[i], size), width);
    if (!j->l.y_in_place)
        store_strip(j, b, o, width);
}

static void run_task(void *context, int64_t task, int worker)
{
    const job *j = context;
    const fc_conv *p = &j->plan->problem;
    const layout *l = &j->l;
    const int64_t *tile = j->plan->tile;
    int64_t part = task % l->output_blocks, rest = task / l->output_blocks;
    block b = {.first = rest % l->blocks * tile[PIXELS], .g = rest / l->blocks, .o = part * tile[OUTPUTS]};
    b.pixels = fc_min(tile[PIXELS], l->pixels - b.first);
    b.outputs = fc_min(tile[OUTPUTS], p->out_channels - b.o);
    char *scratch = j->workers + worker * worker_bytes(l);
    b.x_at = (int64_t *)(void *)scratch;
    b.y_at = b.x_at + tile[PIXELS];
    b.b_offset = b.y_at + tile[PIXELS];
    b.panel = scratch + l->list_bytes;
    b.strip = b.panel + l->panel_bytes;
    b.y = fc_at(j->y, b.g * p->out_channels * p->y.c, l->kernels->size);
    take_pixels(j, &b, b.strip + l->strip_bytes + l->turned_bytes);
    if (l->y_in_place)
        list_pixels(j, &b, b.y_at, &p->y);
    for (int64_t o = b.o, nv; o < b.o + b.outputs; o += nv * l->kernels->lanes) {
        nv = fc_gemm_next_strip(fc_gemm_packed_strip(l->kernels), fc_ceil_div(b.o + b.outputs - o, l->kernels->lanes));
        run_strip(j, &b, o, (int)nv);
    }
}

static fc_status run_pointwise(const fc_conv_plan *plan, void *x, void *w, void *bias, void *y)
{
    job j = {.plan = plan, .l = lay_out(plan), .x = x, .w = w, .bias = bias, .y = y};
    j.workers = fc_arena_take(plan->scratch);
    if (!j.workers)
        return FC_NO_MEMORY;
    fc_parallel(plan->threads, plan->problem.groups * j.l.blocks * j.l.output_blocks, run_task, &j);
    fc_arena_give();
    return FC_OK;
}

const fc_driver fc_driver_pointwise = {"pointwise", plan_pointwise, run_pointwise, .bounded = 1};
