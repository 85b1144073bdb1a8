/* The weight gradient of few output pixels: a sum of so many outer products, written once, row after row.
 *
 *     dW[o][k] = sum_p dY[p][o] P[p][k],     P[p] = the patch under output pixel p, of all images
 *
 *     copy the patches, a row each, and dY, output channels by pixels                                   once a call
 *     for each group g, block of output channels                                                        a task
 *         for each tile of rows o, strip of k:  gemm kernel, into dW
 *
 * There is less to compute than to write, and weight_gemm.c spends as long on each of its short products as the kernel does.
 * us (`weight_gemm.c`, this; Zen 4, one thread): 1x1 1280-1000@1 184, 78, 960-240@1 b8 86, 39, 7x7 128-256@7 414, 100; two threads
 * 160, 47; 94, 45; 360, 91.  Rejected: stores past the caches (1280-1000 180: the third-level cache holds what is written).
 */
#include "engine/few_pixels.h"
#include "engine/gemm.h"
#include "engine/weights.h"

enum { TASK_BYTES = 64 << 10 }; /* of dW, at least */

static int64_t patches_bytes(const fc_conv *p, int64_t size)
{
    return fc_bytes(fc_mul(fc_mul(p->groups, fc_pixels(p)), fc_reduction(p)), size);
}

/* dY, and again as rows of pixels. */
static int64_t gradient_bytes(const fc_conv *p, int64_t size)
{
    return fc_bytes(fc_mul(fc_mul(p->groups, p->out_channels), fc_pixels(p)), size);
}

static const char *plan_few_pixels(fc_conv_plan *plan, double *cost)
{
    const fc_conv *p = &plan->problem;
    const fc_kernels *kernels = fc_dispatch(p->real);
    int64_t pixels = fc_pixels(p), k = fc_reduction(p);
    if (!k || !p->out_channels || !pixels)
        return "there is nothing to sum";
    if (pixels > FC_FEW_PIXELS)
        return "there are more than a few output pixels";
    if (k < kernels->lanes)
        return "too few weights of an output channel: less than a vector";
    if (!fc_weights_plan(p, kernels->size).in_place)
        return "the weight gradient's rows are not contiguous";
    plan->scratch = fc_add(patches_bytes(p, kernels->size), 2 * gradient_bytes(p, kernels->size));
    if (plan->scratch > fc_scratch_max(plan->threads))
        return "the patches exceed the scratch bound";
    double rows = (double)p->groups * (double)p->out_channels, n = (double)pixels, taps = (double)fc_taps(&p->window);
    double vectors = rows * (double)fc_ceil_div(k, kernels->lanes);
    double copies = (double)p->groups * n * (double)k * (taps == 1 ? 0.3 : 8.0 / (double)p->window.kernel[2]);
    *cost = 200 + copies + 0.5 * rows * n + vectors * (0.7 + 0.15 * n);
    return NULL;
}

typedef struct job {
    const fc_conv *p;
    const fc_kernels *kernels;
    const char *patches, *gradient; /* a pixel's patch; an output channel's pixels */
    char *w;
    int64_t blocks; /* of a group's output channels */
} job;

/* Output channels begin ... end of group g. */
static void multiply(const job *j, int64_t g, int64_t begin, int64_t end)
{
    const fc_conv *p = j->p;
    int64_t size = j->kernels->size, lanes = j->kernels->lanes, pixels = fc_pixels(p), k = fc_reduction(p);
    int64_t b_offset[FC_FEW_PIXELS], c_offset[FC_MR_MAX], vectors = fc_ceil_div(k, lanes);
    int64_t strip = fc_min(fc_gemm_packed_strip(j->kernels), k / lanes); /* the last overlaps the one before */
    const char *b = fc_at(j->patches, g * pixels * k, size);
    for (int64_t i = 0; i < pixels; i++)
        b_offset[i] = i * k;
    for (int m = 0; m < FC_MR_MAX; m++)
        c_offset[m] = m * p->w.o;
    for (int64_t o = begin, rows; o < end; o += rows) {
        rows = fc_min(j->kernels->mr[strip], end - o);
        const void *a[FC_MR_MAX];
        for (int64_t m = 0; m < rows; m++)
            a[m] = fc_at(j->gradient, (g * p->out_channels + o + m) * pixels, size);
        char *c = fc_at(j->w, g * p->w.g + o * p->w.o, size);
        for (int64_t done = 0, nv; done < vectors; done += nv) {
            nv = fc_min(strip, vectors - done);
            int64_t at = fc_min(done * lanes, k - nv * lanes);
            j->kernels->gemm[nv][rows](pixels, a, NULL, fc_at(b, at, size), b_offset, fc_at(c, at, size), c_offset, NULL, 0);
        }
    }
}

static void run_task(void *context, int64_t task, int worker)
{
    (void)worker;
    const job *j = context;
    int64_t g = task / j->blocks, block = task % j->blocks, outputs = j->p->out_channels;
    multiply(j, g, outputs * block / j->blocks, outputs * (block + 1) / j->blocks);
}

static void turn_gradient(const fc_conv *p, const fc_kernels *kernels, const void *y, char *rows, char *turned)
{
    static const double zero = 0;
    int64_t size = kernels->size, pixels = fc_pixels(p), channels = p->groups * p->out_channels;
    for (int64_t i = 0; i < pixels; i++)
        kernels->gather_row(fc_at(rows, i * channels, size), channels, fc_at(y, fc_pixel_at(&p->window, i, &p->y), size), p->y.c, 0, 1,
                            channels, &zero);
    kernels->transpose(turned, pixels, rows, channels, pixels, channels);
}

static fc_status run_few_pixels(const fc_conv_plan *plan, void *x, void *w, void *bias, void *y)
{
    (void)bias;
    const fc_conv *p = &plan->problem;
    const fc_kernels *kernels = fc_dispatch(p->real);
    int64_t size = kernels->size, k = fc_reduction(p);
    char *scratch = fc_arena_take(plan->scratch);
    if (!scratch)
        return FC_NO_MEMORY;
    char *rows = scratch + patches_bytes(p, size), *turned = rows + gradient_bytes(p, size);
    job j = {.p = p, .kernels = kernels, .patches = scratch, .gradient = turned, .w = w};
    int64_t least = fc_max(1, TASK_BYTES / size / k), tile = kernels->mr[fc_gemm_packed_strip(kernels)];
    j.blocks = fc_max(1, p->out_channels / (fc_ceil_div(least, tile) * tile));
    fc_few_pixels_patches(p, kernels, x, scratch, k);
    turn_gradient(p, kernels, y, rows, turned);
    fc_parallel(plan->threads, p->groups * j.blocks, run_task, &j);
    fc_arena_give();
    return FC_OK;
}

const fc_driver fc_driver_weight_few_pixels = {"few_pixels", plan_few_pixels, run_few_pixels, .bounded = 0};
