/* What the Winograd drivers share.  F(4x4, 3x3) has 36 products, and serves 3x3 kernels of stride 1 in float32. */
#ifndef FC_ENGINE_WINOGRAD_H
#define FC_ENGINE_WINOGRAD_H

#include "engine/conv.h"

/* STEP_PAD: elements between two frequencies beyond what they hold, so that they do not lie a power of two apart. */
enum { FREQUENCIES = 36, STEP_PAD = 16 };

/* Why no transform serves the problem, whatever its kernel, or NULL. */
static inline const char *fc_winograd_precision_refusal(const fc_conv_plan *plan)
{
    if (!fc_dispatch(plan->problem.real)->winograd[0].input)
        return "float64 is summed directly";
    if (plan->precision == FC_PRECISION_HIGHEST)
        return "the precision 'highest' allows direct sums only";
    return NULL;
}

/* Why F(4x4, 3x3) does not, or NULL. */
static inline const char *fc_winograd_refusal(const fc_conv_plan *plan)
{
    const fc_window *w = &plan->problem.window;
    const char *reason = fc_winograd_precision_refusal(plan);
    if (reason)
        return reason;
    if (w->kernel[1] != 3 || w->kernel[2] != 3)
        return "the kernel is not 3x3";
    if (w->stride[1] != 1 || w->stride[2] != 1)
        return "the stride is not 1";
    if (w->dilation[1] > w->out[1] || w->dilation[2] > w->out[2])
        return "the dilation exceeds the output";
    return NULL;
}

#endif
