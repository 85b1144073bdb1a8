/* The few-pixels driver: so few output pixels that the weights outweigh all else; they are read once, where they stand.
 *
 *     Y[o][p] = b[o] + sum_k W[o][k] P[p][k],     P[p] = the patch under output pixel p, of all images
 *
 *     copy the patches, a row each, zeros up to whole vectors                                           once a call
 *     for each group g, block of output channels                                                        a task
 *         rows of W contiguous:      for each block of k:  dots kernel (lanes over k), added to the block of outputs
 *         columns of W contiguous:   for each block of k:  gemm kernel (lanes over o), added to the block of outputs
 *         store the block, a pixel at a time
 *
 * For dense layers of a few rows, the 1x1 convolutions over images of one pixel (squeeze and excitation), and kernels as large as
 * the image; columns for the input gradients of the first two.  Every other driver puts lanes over pixels, of which there are too
 * few, or over output channels, and then copies all weights for a product with less work than the copy.
 * Emerald Rapids, one core, medians in us, rows times 1280-1000: this, channels, NumPy's BLAS
 *     1:  219  473  241          2:  224  482  995          4:  271  553  1254          8:  513  632  1291
 * Columns: the input gradient of one row 690 -> 220, of 960-240 with eight rows 118 -> 45.  Blocks of k are short there, as every
 * row of W lies in a page of its own.
 */
#include "engine/few_pixels.h"
#include "engine/gemm.h"
#include "engine/output.h"
#include "engine/weights.h"

#include <string.h>

/* TILE: rows, whole tiles of the dots kernel at any width of vectors; COLUMNS: outputs of a task at most; TERMS: of a block of k,
 * fewer where the rows of W would share lines of the first-level cache (Zen 5, input gradients of one row, 8 and 32 terms: 4096-1000
 * 244 and 428 us, 1280-1000 84 and 62). */
enum { TILE = 6, BLOCK_BYTES = 64 << 10, COLUMNS = 1024, TERMS = 32, TERMS_SHARED = 8, SAME_LINE = 4096 };

/* A patch up to whole vectors. */
static int64_t patch_of(const fc_conv *p, const fc_kernels *kernels)
{
    return fc_mul(fc_ceil_div(fc_reduction(p), kernels->lanes), kernels->lanes);
}

/* Whether the weights' rows are contiguous. */
static int has_rows(const fc_conv *p, const fc_kernels *kernels)
{
    return fc_weights_plan(p, kernels->size).in_place;
}

/* Output channels of a task. */
static int64_t outputs_of(const fc_conv *p, const fc_kernels *kernels, int threads)
{
    if (has_rows(p, kernels))
        return fc_max(TILE, fc_min(BLOCK_BYTES / kernels->size / patch_of(p, kernels) / TILE * TILE, 32 * TILE));
    int64_t blocks = fc_max(fc_ceil_div(p->out_channels, COLUMNS), threads);
    return fc_ceil_div(fc_ceil_div(p->out_channels, blocks), kernels->lanes) * kernels->lanes;
}

static int64_t column_terms(const fc_conv *p, const fc_kernels *kernels)
{
    return p->w.c * kernels->size % SAME_LINE ? TERMS : TERMS_SHARED;
}

static int64_t offsets_bytes(const fc_conv *p, const fc_kernels *kernels)
{
    return has_rows(p, kernels) ? 0 : fc_bytes(fc_reduction(p), sizeof(int64_t));
}

static const char *plan_few_pixels(fc_conv_plan *plan, double *cost)
{
    const fc_conv *p = &plan->problem;
    int64_t pixels = fc_pixels(p), k = fc_reduction(p);
    if (pixels > FC_FEW_PIXELS)
        return "there are more than a few output pixels";
    if (!k)
        return "there is nothing to sum";
    const fc_kernels *kernels = fc_dispatch(p->real);
    int rows = has_rows(p, kernels);
    if (!rows && (p->w.o != 1 || p->out_channels % kernels->lanes))
        return "the weights are neither rows of an output channel each, nor columns of whole vectors";
    int64_t patches = fc_mul(fc_mul(p->groups, pixels), patch_of(p, kernels));
    int64_t block = 2 * fc_bytes(outputs_of(p, kernels, plan->threads) * pixels, kernels->size);
    plan->scratch = fc_add(fc_add(fc_bytes(patches, kernels->size), offsets_bytes(p, kernels)), plan->threads * block);
    if (plan->scratch > fc_scratch_max(plan->threads))
        return "the patches exceed the scratch bound";
    double weights = (double)p->groups * (double)p->out_channels * (double)patch_of(p, kernels);
    double copy = fc_taps(&p->window) == 1 ? 0.3 : 8.0 / (double)p->window.kernel[2];
    double copies = (double)p->groups * (double)pixels * (double)k * copy;
    /* In the unit of the other drivers' prices, which are of weights in the cache.  This and pointwise.c, us, Zen 5.  Columns:
     * 1280-1000 of one row 62, 104, of eight 107, 158; 960-240 of eight 20, 27; 512-1000 of 16 86, 96.  Rows: the dots kernel takes
     * four pixels at a time, two where vectors are shorter, and loads the weights for each; 960-240 of four 13, 22, of eight 26, 29,
     * of 16 50, 44, AVX2 30, 38, 57, 54, 114, 84; 1280-1000 of one 54, 127, of eight 142, 194, of 16 268, 279. */
    double vectors = weights / (double)kernels->lanes, n = (double)pixels;
    double passes = (double)fc_ceil_div(pixels, fc_has_short_vectors(kernels) ? 2 : 4);
    *cost = 150 + copies + (rows ? vectors * (0.27 * passes + 0.13 * n)
                                 : weights * (double)kernels->size * 0.006 + 2.0 * (double)k + vectors * 0.125 * n);
    return NULL;
}

/* The patch whose first tap reads position `first` of an image. */
static void copy_patch(const fc_conv *p, const fc_kernels *kernels, char *dst, int64_t patch, const char *x,
                       const int64_t first[FC_AXES])
{
    static const double zero = 0;
    const fc_window *w = &p->window;
    const fc_array_strides *s = &p->x;
    int64_t size = kernels->size, k = fc_reduction(p);
    memset(fc_at(dst, k, size), 0, (size_t)((patch - k) * size));
    if (fc_taps(w) == 1) {
        int inside = 1;
        for (int i = 0; i < FC_AXES; i++)
            inside &= first[i] >= 0 && first[i] < w->in[i];
        const char *pixel = inside ? fc_at(x, first[0] * s->s[0] + first[1] * s->s[1] + first[2] * s->s[2], size) : NULL;
        kernels->gather_row(dst, k, pixel, s->c, 0, 1, k, &zero);
        return;
    }
    for (int64_t c = 0; c < p->channels; c++)
        for (int64_t kd = 0; kd < w->kernel[0]; kd++)
            for (int64_t kh = 0; kh < w->kernel[1]; kh++, dst += w->kernel[2] * size) {
                int64_t id = first[0] + kd * w->dilation[0], ih = first[1] + kh * w->dilation[1];
                int inside = id >= 0 && id < w->in[0] && ih >= 0 && ih < w->in[1];
                kernels->gather_row(dst, w->kernel[2], inside ? fc_at(x, c * s->c + id * s->s[0] + ih * s->s[1], size) : NULL,
                                       s->s[2], first[2], w->dilation[2], w->in[2], &zero);
            }
}

void fc_few_pixels_patches(const fc_conv *p, const fc_kernels *kernels, const void *x, void *patches, int64_t patch)
{
    const fc_window *w = &p->window;
    int64_t size = kernels->size, pixels = fc_pixels(p), first[FC_AXES];
    for (int64_t g = 0; g < p->groups; g++)
        for (int64_t pixel = 0; pixel < pixels; pixel++) {
            int64_t image = pixel;
            for (int i = FC_AXES - 1; i >= 0; i--) {
                first[i] = image % w->out[i] * w->stride[i] - w->offset[i];
                image /= w->out[i];
            }
            copy_patch(p, kernels, fc_at(patches, (g * pixels + pixel) * patch, size), patch,
                       fc_at(x, image * p->x.n + g * p->channels * p->x.c, size), first);
        }
}

typedef struct job {
    const fc_conv *p;
    const fc_kernels *kernels;
    fc_weights weights;
    fc_gemm gemm;    /* for columns */
    int64_t *offset; /* of their rows, or NULL */
    const char *w, *bias;
    char *y, *patches, *blocks;
    int64_t patch, outputs, block_bytes, terms;
} job;

/* The sums of `outputs` channels, a row of `block` for each pixel; through the other block, where a kernel gives columns. */
static void sum_rows(const job *j, int64_t outputs, const char *w, const char *patches, const void *bias, char *block)
{
    int64_t size = j->kernels->size, pixels = fc_pixels(j->p), k = fc_reduction(j->p);
    char *sums = pixels == 1 ? block : block + j->block_bytes;
    for (int64_t k0 = 0; k0 < k; k0 += j->terms)
        j->kernels->dots(fc_min(j->terms, k - k0), fc_at(w, k0, size), j->weights.o, fc_at(patches, k0, size), j->patch, sums,
                         pixels, bias, k0 > 0, outputs, pixels);
    if (pixels > 1)
        j->kernels->transpose(block, outputs, sums, pixels, outputs, pixels);
}

static void sum_columns(const job *j, int64_t outputs, const char *w, const char *patches, const void *bias, char *block)
{
    int64_t size = j->kernels->size, pixels = fc_pixels(j->p), k = fc_reduction(j->p);
    int64_t terms = column_terms(j->p, j->kernels);
    fc_gemm gemm = j->gemm;
    gemm.columns = outputs;
    for (int64_t pixel = 0; bias && pixel < pixels; pixel++)
        memcpy(fc_at(block, pixel * outputs, size), bias, (size_t)(outputs * size));
    for (int64_t k0 = 0; k0 < k; k0 += terms) {
        gemm.k = fc_min(terms, k - k0);
        gemm.b_offset = j->offset + k0;
        for (int64_t pixel = 0, rows; pixel < pixels; pixel += rows) {
            rows = fc_min(gemm.rows, pixels - pixel);
            const void *a[FC_MR_MAX];
            for (int64_t m = 0; m < rows; m++)
                a[m] = fc_at(patches, (pixel + m) * j->patch + k0, size);
            fc_gemm_run(&gemm, (int)rows, a, w, fc_at(block, pixel * outputs, size), outputs, NULL, bias || k0 > 0);
        }
    }
}

static void run_task(void *context, int64_t task, int worker)
{
    const job *j = context;
    const fc_conv *p = j->p;
    int64_t size = j->kernels->size, pixels = fc_pixels(p), blocks = fc_ceil_div(p->out_channels, j->outputs);
    int64_t g = task / blocks, o = task % blocks * j->outputs, outputs = fc_min(j->outputs, p->out_channels - o);
    char *block = j->blocks + worker * 2 * j->block_bytes;
    const char *patches = fc_at(j->patches, g * pixels * j->patch, size);
    const void *bias = j->bias ? fc_at(j->bias, g * p->out_channels + o, size) : NULL;
    if (j->offset)
        sum_columns(j, outputs, fc_at(j->w, g * p->w.g + o, size), patches, bias, block);
    else
        sum_rows(j, outputs, fc_at(j->w, g * j->weights.g + o * j->weights.o, size), patches, bias, block);
    fc_output_clamp(p, j->kernels, block, outputs * pixels);
    for (int64_t pixel = 0; pixel < pixels; pixel++) {
        int64_t y = fc_pixel_at(&p->window, pixel, &p->y) + (g * p->out_channels + o) * p->y.c;
        j->kernels->scatter_row(fc_at(j->y, y, size), p->y.c, fc_at(block, pixel * outputs, size), outputs, 0);
    }
}

/* Where the rows of columns begin: those of the terms, in the order of a patch. */
static void list_offsets(const fc_conv *p, int64_t *offset)
{
    const int64_t *kernel = p->window.kernel;
    for (int64_t c = 0; c < p->channels; c++)
        for (int64_t kd = 0; kd < kernel[0]; kd++)
            for (int64_t kh = 0; kh < kernel[1]; kh++)
                for (int64_t kw = 0; kw < kernel[2]; kw++)
                    *offset++ = c * p->w.c + kd * p->w.k[0] + kh * p->w.k[1] + kw * p->w.k[2];
}

static fc_status run_few_pixels(const fc_conv_plan *plan, void *x, void *w, void *bias, void *y)
{
    const fc_conv *p = &plan->problem;
    const fc_kernels *kernels = fc_dispatch(p->real);
    job j = {.p = p, .kernels = kernels, .weights = fc_weights_plan(p, kernels->size), .w = w, .bias = bias, .y = y};
    char *scratch = fc_arena_take(plan->scratch);
    if (!scratch)
        return FC_NO_MEMORY;
    j.terms = fc_gemm_block(plan) * kernels->lanes;
    j.patch = patch_of(p, kernels);
    j.outputs = outputs_of(p, kernels, plan->threads);
    j.block_bytes = fc_bytes(j.outputs * fc_pixels(p), kernels->size);
    if (!j.weights.in_place) {
        j.offset = (int64_t *)(void *)scratch;
        list_offsets(p, j.offset);
        fc_gemm_plan(&j.gemm, kernels, fc_pixels(p), j.outputs);
        j.gemm.terms = TERMS;
    }
    j.patches = scratch + offsets_bytes(p, kernels);
    j.blocks = j.patches + fc_bytes(p->groups * fc_pixels(p) * j.patch, kernels->size);
    fc_few_pixels_patches(p, kernels, x, j.patches, j.patch);
    fc_parallel(plan->threads, p->groups * fc_ceil_div(p->out_channels, j.outputs), run_task, &j);
    fc_arena_give();
    return FC_OK;
}

const fc_driver fc_driver_few_pixels = {"few_pixels", plan_few_pixels, run_few_pixels, .bounded = 1};
