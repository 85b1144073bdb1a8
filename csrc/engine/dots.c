/* The dots driver: few output pixels, so that the weights are read once, where they stand, and lanes run over the sum.
 *
 *     Y[o][p] = b[o] + sum_k W[o][k] P[p][k],     P[p] = the patch under output pixel p, of all images
 *
 *     copy the patches, a row each, zeros up to whole vectors                                           once a call
 *     for each group g, block of output channels                                                        a task
 *         for each block of k:  dots kernel, added to the block of outputs
 *         store the block, a pixel at a time
 *
 * For dense layers of a few rows, the 1x1 convolutions over images of one pixel (squeeze and excitation), and kernels as large as
 * the image.  Every other driver puts lanes over pixels, of which there are too few, or over output channels, and then transposes
 * all weights for a product with less work than the transpose.
 * Emerald Rapids, one core, medians in us, rows times 1280-1000: this, channels, NumPy's BLAS
 *     1:  219  473  241          2:  224  482  995          4:  271  553  1254          8:  513  632  1291
 */
#include "engine/gemm.h"
#include "engine/output.h"
#include "engine/weights.h"

#include <string.h>

enum { PIXELS_MAX = 16, TILE = 6, BLOCK_BYTES = 64 << 10 }; /* TILE: rows, whole tiles of the kernel at any width of vectors */

/* Output pixels of the whole batch. */
static int64_t pixels_of(const fc_conv *p)
{
    return fc_mul(p->batch, fc_outputs(&p->window));
}

/* A patch up to whole vectors. */
static int64_t patch_of(const fc_conv *p, const fc_kernels *kernels)
{
    return fc_mul(fc_ceil_div(fc_reduction(p), kernels->lanes), kernels->lanes);
}

/* Output channels of a task. */
static int64_t rows_of(const fc_conv *p, const fc_kernels *kernels)
{
    int64_t rows = BLOCK_BYTES / kernels->size / patch_of(p, kernels) / TILE * TILE;
    return fc_max(TILE, fc_min(rows, 32 * TILE));
}

static const char *plan_dots(fc_conv_plan *plan, double *cost)
{
    const fc_conv *p = &plan->problem;
    int64_t pixels = pixels_of(p), k = fc_reduction(p);
    if (pixels > PIXELS_MAX)
        return "there are more than a few output pixels";
    if (!k)
        return "there is nothing to sum";
    const fc_kernels *kernels = fc_dispatch(p->real);
    if (!fc_weights_plan(p, kernels->size).in_place)
        return "the weights of an output channel do not follow each other in memory";
    int64_t patches = fc_mul(fc_mul(p->groups, pixels), patch_of(p, kernels));
    int64_t block = 2 * fc_bytes(rows_of(p, kernels) * pixels, kernels->size);
    plan->scratch = fc_add(fc_bytes(patches, kernels->size), plan->threads * block);
    if (plan->scratch > fc_scratch_max(plan->threads))
        return "the patches exceed the scratch bound";
    double weights = (double)p->groups * (double)p->out_channels * (double)patch_of(p, kernels);
    double copies = (double)p->groups * (double)pixels * (double)k * (fc_taps(&p->window) == 1 ? 0.3 : 8.0 / (double)p->window.kernel[2]);
    /* In the unit of the other drivers' prices, which are of weights in the cache. */
    *cost = 150 + copies + weights * (double)kernels->size * (0.01 + 0.003 * (double)pixels);
    return NULL;
}

typedef struct job {
    const fc_conv *p;
    const fc_kernels *kernels;
    fc_weights weights;
    int64_t terms;
    const char *x, *w, *bias;
    char *y, *patches, *blocks;
    int64_t patch, rows, block_bytes;
} job;

/* Where output pixel `pixel` of the batch is: its image, and its coordinates. */
static int64_t locate(const fc_window *w, int64_t pixel, int64_t at[FC_AXES])
{
    for (int i = FC_AXES - 1; i >= 0; i--) {
        at[i] = pixel % w->out[i];
        pixel /= w->out[i];
    }
    return pixel;
}

static void copy_patch(const job *j, char *dst, const char *x, const int64_t at[FC_AXES])
{
    static const double zero = 0;
    const fc_window *w = &j->p->window;
    const fc_array_strides *s = &j->p->x;
    int64_t size = j->kernels->size, k = fc_reduction(j->p), first[FC_AXES];
    for (int i = 0; i < FC_AXES; i++)
        first[i] = at[i] * w->stride[i] - w->offset[i];
    memset(fc_at(dst, k, size), 0, (size_t)((j->patch - k) * size));
    if (fc_taps(w) == 1) {
        int inside = 1;
        for (int i = 0; i < FC_AXES; i++)
            inside &= first[i] >= 0 && first[i] < w->in[i];
        const char *pixel = inside ? fc_at(x, first[0] * s->s[0] + first[1] * s->s[1] + first[2] * s->s[2], size) : NULL;
        j->kernels->gather_row(dst, k, pixel, s->c, 0, 1, k, &zero);
        return;
    }
    for (int64_t c = 0; c < j->p->channels; c++)
        for (int64_t kd = 0; kd < w->kernel[0]; kd++)
            for (int64_t kh = 0; kh < w->kernel[1]; kh++, dst += w->kernel[2] * size) {
                int64_t id = first[0] + kd * w->dilation[0], ih = first[1] + kh * w->dilation[1];
                int inside = id >= 0 && id < w->in[0] && ih >= 0 && ih < w->in[1];
                j->kernels->gather_row(dst, w->kernel[2], inside ? fc_at(x, c * s->c + id * s->s[0] + ih * s->s[1], size) : NULL,
                                       s->s[2], first[2], w->dilation[2], w->in[2], &zero);
            }
}

static void copy_patches(const job *j)
{
    const fc_conv *p = j->p;
    int64_t size = j->kernels->size, pixels = pixels_of(p), at[FC_AXES];
    for (int64_t g = 0; g < p->groups; g++)
        for (int64_t pixel = 0; pixel < pixels; pixel++) {
            int64_t image = locate(&p->window, pixel, at);
            copy_patch(j, fc_at(j->patches, (g * pixels + pixel) * j->patch, size),
                       fc_at(j->x, image * p->x.n + g * p->channels * p->x.c, size), at);
        }
}

static void run_task(void *context, int64_t task, int worker)
{
    const job *j = context;
    const fc_conv *p = j->p;
    const fc_kernels *kernels = j->kernels;
    int64_t size = kernels->size, pixels = pixels_of(p), k = fc_reduction(p), blocks = fc_ceil_div(p->out_channels, j->rows);
    int64_t g = task / blocks, o = task % blocks * j->rows, rows = fc_min(j->rows, p->out_channels - o), at[FC_AXES];
    char *block = j->blocks + worker * 2 * j->block_bytes, *turned = pixels == 1 ? block : block + j->block_bytes;
    const char *w = fc_at(j->w, g * j->weights.g + o * j->weights.o, size);
    const char *patches = fc_at(j->patches, g * pixels * j->patch, size);
    const void *bias = j->bias ? fc_at(j->bias, g * p->out_channels + o, size) : NULL;
    for (int64_t k0 = 0; k0 < k; k0 += j->terms)
        kernels->dots(fc_min(j->terms, k - k0), fc_at(w, k0, size), j->weights.o, fc_at(patches, k0, size), j->patch, block, pixels,
                      bias, k0 > 0, rows, pixels);
    if (pixels > 1)
        kernels->transpose(turned, rows, block, pixels, rows, pixels);
    fc_output_clamp(p, kernels, turned, rows * pixels);
    for (int64_t pixel = 0; pixel < pixels; pixel++) {
        int64_t y = locate(&p->window, pixel, at) * p->y.n + (g * p->out_channels + o) * p->y.c;
        y += at[0] * p->y.s[0] + at[1] * p->y.s[1] + at[2] * p->y.s[2];
        kernels->scatter_row(fc_at(j->y, y, size), p->y.c, fc_at(turned, pixel * rows, size), rows, 0);
    }
}

static fc_status run_dots(const fc_conv_plan *plan, void *x, void *w, void *bias, void *y)
{
    const fc_conv *p = &plan->problem;
    const fc_kernels *kernels = fc_dispatch(p->real);
    job j = {.p = p, .kernels = kernels, .weights = fc_weights_plan(p, kernels->size), .x = x, .w = w, .bias = bias, .y = y};
    char *scratch = fc_arena_take(plan->scratch);
    if (!scratch)
        return FC_NO_MEMORY;
    j.terms = fc_gemm_block(plan) * kernels->lanes;
    j.patch = patch_of(p, kernels);
    j.rows = rows_of(p, kernels);
    j.block_bytes = fc_bytes(j.rows * pixels_of(p), kernels->size);
    j.patches = scratch;
    j.blocks = scratch + fc_bytes(p->groups * pixels_of(p) * j.patch, kernels->size);
    copy_patches(&j);
    fc_parallel(plan->threads, p->groups * fc_ceil_div(p->out_channels, j.rows), run_task, &j);
    fc_arena_give();
    return FC_OK;
}

const fc_driver fc_driver_dots = {"dots", plan_dots, run_dots, .bounded = 1};
