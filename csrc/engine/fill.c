/* Problems with nothing to sum: no input channels, or no taps (a phase of an adjoint that no tap reaches).  Y = bias. */
#include "engine/conv.h"

static const char *plan_fill(fc_conv_plan *plan, double *cost)
{
    const fc_conv *p = &plan->problem;
    if (fc_reduction(p))
        return "there are terms to sum";
    plan->scratch = 0;
    *cost = 0;
    return NULL;
}

typedef struct job {
    const fc_conv *problem;
    const fc_kernels *kernels;
    const char *bias;
    char *y;
} job;

/* One channel of one image, row by row; a row that is not contiguous is a column of rows of one element. */
static void fill_channel(void *context, int64_t task, int worker)
{
    (void)worker;
    static const double zero = 0;
    const job *j = context;
    const fc_conv *p = j->problem;
    const int64_t *out = p->window.out;
    int64_t size = j->kernels->size, channels = p->groups * p->out_channels, o = task % channels;
    int64_t width = p->y.s[2] == 1 ? out[2] : 1, columns = out[2] / width;
    const void *value = j->bias ? fc_at(j->bias, o, size) : &zero;
    for (int64_t i = 0; i < out[0] * out[1] * columns; i++) {
        int64_t row = i / columns, at = row / out[1] * p->y.s[0] + row % out[1] * p->y.s[1] + i % columns * p->y.s[2];
        j->kernels->gather_row(fc_at(j->y, task / channels * p->y.n + o * p->y.c + at, size), width, NULL, 1, 0, 1, 0, value);
    }
}

/* One row of pixels whose channels are neighbours; at once where there is no bias and nothing between them. */
static void fill_pixels(void *context, int64_t task, int worker)
{
    (void)worker;
    static const double zero = 0;
    const job *j = context;
    const fc_conv *p = j->problem;
    const int64_t *out = p->window.out;
    int64_t size = j->kernels->size, channels = p->groups * p->out_channels, plane = task / out[1];
    int64_t at = plane / out[0] * p->y.n + plane % out[0] * p->y.s[0] + task % out[1] * p->y.s[1];
    int64_t pixels = !j->bias && p->y.s[2] == channels ? out[2] : 1;
    for (int64_t i = 0; i < out[2]; i += pixels)
        j->kernels->gather_row(fc_at(j->y, at + i * p->y.s[2], size), pixels * channels, j->bias, 1, 0, 1, channels, &zero);
}

static fc_status run_fill(const fc_conv_plan *plan, void *x, void *w, void *bias, void *y)
{
    (void)x, (void)w;
    const fc_conv *p = &plan->problem;
    job j = {p, fc_dispatch(p->real), bias, y};
    if (p->y.c == 1 && p->y.s[2] != 1)
        fc_parallel(plan->threads, p->batch * p->window.out[0] * p->window.out[1], fill_pixels, &j);
    else
        fc_parallel(plan->threads, p->batch * p->groups * p->out_channels, fill_channel, &j);
    return FC_OK;
}

const fc_driver fc_driver_fill = {"fill", plan_fill, run_fill, .bounded = 0};
