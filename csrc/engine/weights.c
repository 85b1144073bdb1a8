#include "engine/weights.h"

fc_weights fc_weights_plan(const fc_conv *p, int64_t size)
{
    const int64_t *k = p->window.kernel;
    int64_t taps = fc_taps(&p->window), row = fc_reduction(p);
    int packed = (k[2] == 1 || p->w.k[2] == 1) && (k[1] == 1 || p->w.k[1] == k[2]) &&
                 (k[0] == 1 || p->w.k[0] == k[1] * k[2]) && (p->channels == 1 || p->w.c == taps);
    if (packed)
        return (fc_weights){.in_place = 1, .o = p->w.o, .g = p->w.g};
    int64_t bytes = fc_mul(fc_mul(fc_mul(p->groups, p->out_channels), row), size);
    return (fc_weights){.o = row, .g = p->out_channels * row, .bytes = fc_arena_round(fc_min(bytes, INT64_MAX / 2))};
}

enum { ROWS = 16 }; /* rows of a task: neighbours in memory where the channels' strides are large */

typedef struct job {
    const fc_conv *problem;
    const fc_kernels *kernels;
    const void *w;
    void *rows;
    int64_t row;
} job;

static void pack_rows(void *context, int64_t task, int worker)
{
    (void)worker;
    const job *j = context;
    const fc_conv *p = j->problem;
    int64_t parts = fc_ceil_div(p->out_channels, ROWS), g = task / parts, o = task % parts * ROWS;
    int64_t rows = fc_min(ROWS, p->out_channels - o), n[4] = {p->channels}, strides[4] = {p->w.c};
    for (int i = 0; i < FC_AXES; i++) {
        n[1 + i] = p->window.kernel[i];
        strides[1 + i] = p->w.k[i];
    }
    void *dst = fc_at(j->rows, (g * p->out_channels + o) * j->row, j->kernels->size);
    const void *src = fc_at(j->w, g * p->w.g + o * p->w.o, j->kernels->size);
    if (fc_taps(&p->window) == 1 && p->w.o == 1)
        j->kernels->transpose(dst, j->row, src, p->w.c, p->channels, rows);
    else
        j->kernels->gather_block(dst, j->row, rows, n, src, p->w.o, strides);
}

const void *fc_weights_take(const fc_weights *weights, const fc_conv *p, const fc_kernels *kernels, int threads,
                            void *scratch, const void *w)
{
    if (weights->in_place)
        return w;
    fc_conv q = *p;
    if (p->out_channels == 1) { /* rows of many groups a task: gradient of dw k3 256 over 4096 138 us, so 135 */
        q.out_channels = p->groups;
        q.groups = 1;
        q.w.o = p->w.g;
    }
    job j = {&q, kernels, w, scratch, weights->o};
    fc_parallel(threads, q.groups * fc_ceil_div(q.out_channels, ROWS), pack_rows, &j);
    return scratch;
}
