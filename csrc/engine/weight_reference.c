/* The weight gradient by its definition: every element one dot product over the outputs whose tap lies inside the image.
 *
 *     dW[g, o, c, k] = sum_{n, p} dY[n, g, o, p] X[n, g, c, p s + k d - offset]
 *
 * Always applies, needs no scratch; the fastest for the smallest problems. */
#include "engine/conv.h"

typedef struct job {
    const fc_conv *p;
    const fc_kernels *kernels;
    const char *x, *y;
    char *w;
} job;

static int64_t floor_div(int64_t a, int64_t b)
{
    return a / b - (a % b < 0);
}

static void run_element(void *context, int64_t task, int worker)
{
    (void)worker;
    const job *j = context;
    const fc_conv *p = j->p;
    const fc_window *w = &p->window;
    int64_t size = j->kernels->size, n[4] = {p->batch}, xs[4] = {p->x.n}, ys[4] = {p->y.n}, x0 = 0, y0 = 0, w0 = 0;
    for (int i = FC_AXES - 1; i >= 0; i--) {
        int64_t k = task % w->kernel[i], shift = k * w->dilation[i] - w->offset[i], s = w->stride[i];
        task /= w->kernel[i];
        int64_t begin = fc_max(0, -floor_div(shift, s)), end = fc_min(w->out[i], floor_div(w->in[i] - 1 - shift, s) + 1);
        n[1 + i] = fc_max(0, end - begin);
        xs[1 + i] = p->x.s[i] * s;
        ys[1 + i] = p->y.s[i];
        x0 += (begin * s + shift) * p->x.s[i];
        y0 += begin * p->y.s[i];
        w0 += k * p->w.k[i];
    }
    int64_t c = task % p->channels, o = task / p->channels % p->out_channels, g = task / p->channels / p->out_channels;
    x0 += (g * p->channels + c) * p->x.c;
    y0 += (g * p->out_channels + o) * p->y.c;
    w0 += g * p->w.g + o * p->w.o + c * p->w.c;
    j->kernels->dot(fc_at(j->w, w0, size), NULL, n, fc_at(j->x, x0, size), xs, fc_at(j->y, y0, size), ys);
}

static const char *plan_reference(fc_conv_plan *plan, double *cost)
{
    const fc_conv *p = &plan->problem;
    double elements = (double)p->groups * (double)p->out_channels * (double)fc_reduction(p);
    plan->scratch = 0;
    *cost = 20 + elements * (15 + 1.2 * (double)p->batch * (double)fc_outputs(&p->window));
    return NULL;
}

static fc_status run_reference(const fc_conv_plan *plan, void *x, void *w, void *bias, void *y)
{
    (void)bias;
    const fc_conv *p = &plan->problem;
    job j = {p, fc_dispatch(p->real), x, y, w};
    fc_parallel(plan->threads, p->groups * p->out_channels * fc_reduction(p), run_element, &j);
    return FC_OK;
}

const fc_driver fc_driver_weight_reference = {"reference", plan_reference, run_reference, .bounded = 0};
