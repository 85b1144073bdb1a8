/* The im2col driver: the product of the weights with patches that are packed block by block.
 *
 *     Y[o][p] = b[o] + sum_k W[o][k] P[k][p],     P[k][p] = x at tap k of output pixel p
 *
 *     for each group g, block of output pixels (of all images), block of output channels     a task
 *         for each block of k:
 *             pack P's rows for the block's pixels
 *             for each tile of rows o:  gemm kernel, added to the block of outputs
 *         store the block
 *
 * Serves every shape, stride and layout within fixed scratch.  Pixels are counted through the batch, so images of a pixel or
 * two fill vectors; what a band would make huge (a dilation of a thousand, padding
 * wider than the image) is read pixel by pixel here.  The matrix of patches never exists; a block of it takes about
 * FC_BLOCK_BYTES, whatever the image.
 */
#include "engine/gemm.h"
#include "engine/output.h"
#include "engine/weights.h"

#include <string.h>

enum { PIXELS, CHANNELS, TERMS }; /* plan->tile: pixels and output channels of a block, rows of patches at a time */

static int64_t patch_bytes(const fc_conv_plan *plan, int64_t size)
{
    return fc_arena_round(plan->tile[PIXELS] * plan->tile[TERMS] * size);
}

static int64_t output_bytes(const fc_conv_plan *plan, int64_t size)
{
    return fc_arena_round(plan->tile[PIXELS] * plan->tile[CHANNELS] * size);
}

static const char *plan_im2col(fc_conv_plan *plan, double *cost)
{
    const fc_conv *p = &plan->problem;
    const fc_kernels *kernels = fc_dispatch(p->real);
    int64_t k = fc_reduction(p), outputs = fc_pixels(p), strip = kernels->nv * kernels->lanes;
    if (!k)
        return "there is nothing to sum";
    int64_t most = fc_max(strip, FC_BLOCK_BYTES / kernels->size / fc_min(k, 4 * 1024) / strip * strip);
    int64_t pixels = fc_min(fc_min(most, 8 * strip), fc_ceil_div(outputs, kernels->lanes) * kernels->lanes);
    int64_t tasks = fc_mul(p->groups, fc_ceil_div(outputs, pixels));
    int64_t wanted = plan->threads > 1 ? 4 * plan->threads : 1;
    int64_t blocks = tasks < wanted ? fc_ceil_div(wanted, tasks) : 1;
    plan->tile[PIXELS] = pixels;
    plan->tile[CHANNELS] = fc_max(fc_min(16, p->out_channels), fc_min(512, fc_ceil_div(p->out_channels, blocks)));
    plan->tile[TERMS] = fc_min(k, FC_KC * fc_max(1, FC_BLOCK_BYTES / kernels->size / pixels / FC_KC));
    int64_t weights = fc_weights_plan(p, kernels->size).bytes;
    int64_t worker = patch_bytes(plan, kernels->size) + output_bytes(plan, kernels->size);
    int64_t offsets = fc_arena_round(plan->tile[TERMS] * (int64_t)sizeof(int64_t));
    plan->scratch = fc_add(fc_add(weights, offsets), fc_mul(plan->threads, worker));
    if (plan->scratch > fc_scratch_max(plan->threads))
        return "the rows of the weights exceed the scratch bound";
    double packs = (double)fc_ceil_div(p->out_channels, plan->tile[CHANNELS]), rows = (double)k * (double)outputs;
    double gemm = fc_gemm_cost(kernels, p->out_channels, pixels, k) * (double)fc_ceil_div(outputs, pixels);
    double segments = rows / (double)fc_min(pixels, p->window.out[2]);
    double take = p->x.s[2] == 1 ? 0.06 * (double)kernels->size : 2.0; /* channels last: 3-32 3x3s2@224 1.1 ms */
    *cost = 400 + (double)p->groups * (gemm + packs * (take * rows + 6.0 * segments) +
                                    (double)p->out_channels * (double)outputs * 0.1) + 0.3 * (double)weights;
    return NULL;
}

typedef struct job {
    const fc_conv_plan *plan;
    const fc_kernels *kernels;
    fc_weights weights;
    fc_gemm gemm;
    const char *x, *w, *bias;
    char *y, *scratch;
    int64_t worker_bytes;
} job;

/* P[k][j] for terms k0 ... k0 + terms of the pixels from..., row by row of the output; zeros up to a whole vector, for what is
 * left in scratch may be denormal and twenty times as slow to multiply. */
static void pack_patches(const fc_conv_plan *plan, const fc_kernels *kernels, char *patches, const char *x, int64_t k0,
                         int64_t terms, int64_t pixel, int64_t count)
{
    static const double zero = 0;
    const fc_window *w = &plan->problem.window;
    const fc_array_strides *s = &plan->problem.x;
    int64_t size = kernels->size, width = w->out[2], rest = -count & (kernels->lanes - 1);
    for (int64_t t = 0; t < terms; t++) {
        memset(fc_at(patches, t * plan->tile[PIXELS] + count, size), 0, (size_t)(rest * size));
        int64_t k = k0 + t, kw = k % w->kernel[2], kh = k / w->kernel[2] % w->kernel[1];
        int64_t kd = k / w->kernel[2] / w->kernel[1] % w->kernel[0], c = k / w->kernel[2] / w->kernel[1] / w->kernel[0];
        for (int64_t done = 0, n; done < count; done += n) {
            int64_t row = (pixel + done) / width, ow = (pixel + done) % width;
            int64_t oh = row % w->out[1], od = row / w->out[1] % w->out[0], image = row / w->out[1] / w->out[0];
            n = fc_min(width - ow, count - done);
            int64_t id = od * w->stride[0] + kd * w->dilation[0] - w->offset[0];
            int64_t ih = oh * w->stride[1] + kh * w->dilation[1] - w->offset[1];
            int inside = id >= 0 && id < w->in[0] && ih >= 0 && ih < w->in[1];
            kernels->gather_row(fc_at(patches, t * plan->tile[PIXELS] + done, size), n,
                                inside ? fc_at(x, image * s->n + c * s->c + id * s->s[0] + ih * s->s[1], size) : NULL, s->s[2],
                                ow * w->stride[2] + kw * w->dilation[2] - w->offset[2], w->stride[2], w->in[2], &zero);
        }
    }
}

/* The block's pixels of one channel, a row of the output at a time. */
static void store_pixels(const fc_conv *p, const fc_kernels *kernels, char *y, const char *block, int64_t pixel, int64_t count)
{
    int64_t width = p->window.out[2], size = kernels->size;
    for (int64_t done = 0, n; done < count; done += n) {
        int64_t at = fc_pixel_at(&p->window, pixel + done, &p->y);
        n = fc_min(width - (pixel + done) % width, count - done);
        kernels->scatter_row(fc_at(y, at, size), p->y.s[2], fc_at(block, done, size), n, 0);
    }
}

static void run_task(void *context, int64_t task, int worker)
{
    const job *j = context;
    const fc_conv_plan *plan = j->plan;
    const fc_conv *p = &plan->problem;
    const int64_t *tile = plan->tile;
    int64_t size = j->kernels->size, outputs = fc_pixels(p), k = fc_reduction(p);
    int64_t blocks = fc_ceil_div(p->out_channels, tile[CHANNELS]), columns = fc_ceil_div(outputs, tile[PIXELS]);
    int64_t o0 = task % blocks * tile[CHANNELS], pixel = task / blocks % columns * tile[PIXELS];
    int64_t g = task / blocks / columns;
    int64_t o1 = fc_min(p->out_channels, o0 + tile[CHANNELS]), count = fc_min(tile[PIXELS], outputs - pixel);
    char *patches = j->scratch + worker * j->worker_bytes, *block = patches + patch_bytes(plan, size);

    fc_gemm gemm = j->gemm;
    gemm.columns = fc_ceil_div(count, j->kernels->lanes) * j->kernels->lanes;
    const char *x = fc_at(j->x, g * p->channels * p->x.c, size);
    const char *w = fc_at(j->w, g * j->weights.g, size);
    for (int64_t k0 = 0; k0 < k; k0 += gemm.k) {
        gemm.k = fc_min(tile[TERMS], k - k0);
        pack_patches(plan, j->kernels, patches, x, k0, gemm.k, pixel, count);
        for (int64_t o = o0, rows; o < o1; o += rows) {
            rows = fc_min(gemm.rows, o1 - o);
            const void *a[FC_MR_MAX];
            for (int m = 0; m < rows; m++)
                a[m] = fc_at(w, (o + m) * j->weights.o + k0, size);
            const void *init = j->bias ? fc_at(j->bias, g * p->out_channels + o, size) : NULL;
            fc_gemm_run(&gemm, (int)rows, a, patches, fc_at(block, (o - o0) * tile[PIXELS], size), tile[PIXELS], init,
                        k0 > 0);
        }
    }
    for (int64_t o = o0; o < o1; o++)
        store_pixels(p, j->kernels, fc_at(j->y, (g * p->out_channels + o) * p->y.c, size),
                     fc_at(block, (o - o0) * tile[PIXELS], size), pixel, count);
}

static fc_status run_im2col(const fc_conv_plan *plan, void *x, void *w, void *bias, void *y)
{
    const fc_conv *p = &plan->problem;
    const fc_kernels *kernels = fc_dispatch(p->real);
    job j = {.plan = plan, .kernels = kernels, .weights = fc_weights_plan(p, kernels->size), .x = x, .bias = bias, .y = y};
    char *scratch = fc_arena_take(plan->scratch);
    if (!scratch)
        return FC_NO_MEMORY;
    int64_t *offset = (int64_t *)(void *)scratch;
    for (int64_t t = 0; t < plan->tile[TERMS]; t++)
        offset[t] = t * plan->tile[PIXELS];
    scratch += fc_arena_round(plan->tile[TERMS] * (int64_t)sizeof(int64_t));
    j.w = fc_weights_take(&j.weights, p, kernels, plan->threads, scratch, w);
    j.scratch = scratch + j.weights.bytes;
    j.worker_bytes = patch_bytes(plan, kernels->size) + output_bytes(plan, kernels->size);
    fc_gemm_plan(&j.gemm, kernels, fc_min(plan->tile[CHANNELS], p->out_channels), plan->tile[PIXELS]);
    j.gemm.b_offset = offset;
    j.gemm.terms = fc_gemm_block(plan);
    int64_t blocks = fc_ceil_div(p->out_channels, plan->tile[CHANNELS]);
    int64_t columns = fc_ceil_div(fc_pixels(p), plan->tile[PIXELS]);
    fc_parallel(plan->threads, p->groups * blocks * columns, run_task, &j);
    fc_arena_give();
    return FC_OK;
}

const fc_driver fc_driver_im2col = {"im2col", plan_im2col, run_im2col, .bounded = 0};
