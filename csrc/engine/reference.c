/* The reference driver: every output by its definition, one dot product over the taps that lie inside the image.
 *
 * Always applies, needs no scratch, and is the fastest for problems of a few hundred multiplications, where the other
 * drivers' preparations cost more than the sums.  Sums are in double.
 */
#include "engine/output.h"

/* Taps of one axis that meet the image: begin ... begin + count; returns the position that the first one reads. */
static int64_t clip(const fc_window *w, int axis, int64_t o, int64_t *begin, int64_t *count)
{
    int64_t first = o * w->stride[axis] - w->offset[axis], d = w->dilation[axis];
    int64_t b = first >= 0 ? 0 : (-first + d - 1) / d;
    int64_t e = first >= w->in[axis] ? 0 : (w->in[axis] - 1 - first) / d + 1;
    *begin = b;
    *count = fc_max(0, fc_min(e, w->kernel[axis]) - b);
    return first + b * d;
}

void fc_reference_row(const fc_conv *p, const void *x, const void *w, const void *bias, void *y, int64_t o, int64_t plane,
                      int64_t oh, int64_t first, int64_t last)
{
    const fc_window *window = &p->window;
    const fc_kernels *kernels = fc_dispatch(p->real);
    int64_t size = kernels->size, index[2] = {plane % window->out[0], oh}, image = plane / window->out[0];
    int64_t g = o / p->out_channels, n[4] = {p->channels}, xs[4] = {p->x.c}, ws[4] = {p->w.c}, begin;
    for (int i = 0; i < FC_AXES; i++) {
        xs[1 + i] = p->x.s[i] * window->dilation[i];
        ws[1 + i] = p->w.k[i];
    }
    int64_t x0 = image * p->x.n + g * p->channels * p->x.c, w0 = g * p->w.g + o % p->out_channels * p->w.o;
    for (int i = 0; i < 2; i++) {
        x0 += clip(window, i, index[i], &begin, &n[1 + i]) * p->x.s[i];
        w0 += begin * p->w.k[i];
    }
    int64_t y0 = image * p->y.n + o * p->y.c + index[0] * p->y.s[0] + index[1] * p->y.s[1];
    const void *init = bias ? fc_at(bias, o, size) : NULL;
    for (int64_t ow = first; ow < last; ow++) {
        int64_t at = clip(window, 2, ow, &begin, &n[3]);
        void *out = fc_at(y, y0 + ow * p->y.s[2], size);
        kernels->dot(out, init, n, fc_at(x, x0 + at * p->x.s[2], size), xs, fc_at(w, w0 + begin * p->w.k[2], size), ws);
        fc_output_clamp(p, kernels, out, 1);
    }
}

typedef struct job {
    const fc_conv *p;
    const void *x, *w, *bias;
    void *y;
} job;

static void run_row(void *context, int64_t task, int worker)
{
    (void)worker;
    const job *j = context;
    const int64_t *out = j->p->window.out;
    int64_t row = task % (out[0] * out[1]), channel = task / (out[0] * out[1]), channels = j->p->groups * j->p->out_channels;
    fc_reference_row(j->p, j->x, j->w, j->bias, j->y, channel % channels, channel / channels * out[0] + row / out[1],
                     row % out[1], 0, out[2]);
}

static const char *plan_reference(fc_conv_plan *plan, double *cost)
{
    const fc_conv *p = &plan->problem;
    double outputs = (double)p->batch * (double)p->groups * (double)p->out_channels * (double)fc_outputs(&p->window);
    plan->scratch = 0;
    /* A product of a matrix and a vector, both contiguous, is the one problem that this driver serves with vectors; weights
     * whose channels are far apart (an adjoint's) cost a cache miss a term. */
    int64_t taps = fc_taps(&p->window);
    int vector = taps == 1 && p->x.c == 1 && p->w.c == 1 && p->channels >= 16, far = p->w.c > taps && p->channels > 64;
    *cost = 20 + outputs * (12 + (vector ? 0.12 : far ? 4.0 : 1.2) * (double)fc_reduction(p));
    return NULL;
}

static fc_status run_reference(const fc_conv_plan *plan, void *x, void *w, void *bias, void *y)
{
    const fc_conv *p = &plan->problem;
    job j = {p, x, w, bias, y};
    int64_t rows = p->batch * p->groups * p->out_channels * p->window.out[0] * p->window.out[1];
    fc_parallel(plan->threads, rows, run_row, &j);
    return FC_OK;
}

const fc_driver fc_driver_reference = {"reference", plan_reference, run_reference, .bounded = 1};
