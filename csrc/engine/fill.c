/* Problems with nothing to sum: no input channels, or no taps (a phase of an adjoint that no tap reaches).  Y = bias. */
#include "engine/conv.h"

static const char *plan_fill(fc_conv_plan *plan, double *cost)
{
    const fc_conv *p = &plan->problem;
    if (fc_reduction(p))
        return "there are terms to sum";
    plan->scratch = fc_arena_round(fc_min(INT64_MAX / 4, fc_mul(p->window.out[2], fc_dispatch(p->real)->size)));
    *cost = 0;
    return NULL;
}

static fc_status run_fill(const fc_conv_plan *plan, void *x, void *w, void *bias, void *y)
{
    (void)x, (void)w;
    static const double zero = 0;
    const fc_conv *p = &plan->problem;
    const fc_kernels *kernels = fc_dispatch(p->real);
    const int64_t *out = p->window.out;
    void *row = fc_arena_take(plan->scratch);
    if (!row)
        return FC_NO_MEMORY;
    for (int64_t o = 0; o < p->groups * p->out_channels; o++) {
        kernels->gather_row(row, out[2], NULL, 1, 0, 1, 0, bias ? fc_at(bias, o, kernels->size) : &zero);
        for (int64_t i = 0; i < p->batch * out[0] * out[1]; i++) {
            int64_t oh = i % out[1], od = i / out[1] % out[0], n = i / out[1] / out[0];
            int64_t at = n * p->y.n + o * p->y.c + od * p->y.s[0] + oh * p->y.s[1];
            kernels->scatter_row(fc_at(y, at, kernels->size), p->y.s[2], row, out[2], 0);
        }
    }
    fc_arena_give();
    return FC_OK;
}

const fc_driver fc_driver_fill = {"fill", plan_fill, run_fill};
