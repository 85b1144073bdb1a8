/* The reference driver: every output by its definition, one dot product over the taps that lie inside the image.
 *
 * Always applies, needs no scratch, and is the fastest for problems of a few hundred multiplications, where the other
 * drivers' preparations cost more than the sums.  Sums are in double.
 */
#include "engine/conv.h"

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

typedef struct job {
    const fc_conv *p;
    const fc_kernels *kernels;
    const char *x, *w, *bias;
    char *y;
} job;

/* One row of one output channel. */
static void run_row(void *context, int64_t task, int worker)
{
    (void)worker;
    const job *j = context;
    const fc_conv *p = j->p;
    const fc_window *w = &p->window;
    int64_t size = j->kernels->size, index[FC_AXES], begin[FC_AXES], n[4] = {p->channels}, xs[4] = {p->x.c}, ws[4] = {p->w.c};
    index[1] = task % w->out[1], task /= w->out[1];
    index[0] = task % w->out[0], task /= w->out[0];
    int64_t o = task % (p->groups * p->out_channels), image = task / (p->groups * p->out_channels), g = o / p->out_channels;
    for (int i = 0; i < FC_AXES; i++) {
        xs[1 + i] = p->x.s[i] * w->dilation[i];
        ws[1 + i] = p->w.k[i];
    }
    const void *init = j->bias ? fc_at(j->bias, o, size) : NULL;
    int64_t x0 = image * p->x.n + g * p->channels * p->x.c, w0 = g * p->w.g + o % p->out_channels * p->w.o;
    for (int i = 0; i < 2; i++) {
        x0 += clip(w, i, index[i], &begin[i], &n[1 + i]) * p->x.s[i];
        w0 += begin[i] * p->w.k[i];
    }
    int64_t y0 = image * p->y.n + o * p->y.c + index[0] * p->y.s[0] + index[1] * p->y.s[1];
    for (int64_t ow = 0; ow < w->out[2]; ow++) {
        int64_t at = clip(w, 2, ow, &begin[2], &n[3]);
        j->kernels->dot(fc_at(j->y, y0 + ow * p->y.s[2], size), init, n, fc_at(j->x, x0 + at * p->x.s[2], size), xs,
                        fc_at(j->w, w0 + begin[2] * p->w.k[2], size), ws);
    }
}

static const char *plan_reference(fc_conv_plan *plan, double *cost)
{
    const fc_conv *p = &plan->problem;
    double outputs = (double)p->batch * (double)p->groups * (double)p->out_channels * (double)fc_outputs(&p->window);
    plan->scratch = 0;
    *cost = 20 + outputs * (12 + 1.2 * (double)fc_reduction(p));
    return NULL;
}

static fc_status run_reference(const fc_conv_plan *plan, void *x, void *w, void *bias, void *y)
{
    const fc_conv *p = &plan->problem;
    job j = {p, fc_dispatch(p->real), x, w, bias, y};
    int64_t rows = p->batch * p->groups * p->out_channels * p->window.out[0] * p->window.out[1];
    fc_parallel(plan->threads, rows, run_row, &j);
    return FC_OK;
}

const fc_driver fc_driver_reference = {"reference", plan_reference, run_reference};
