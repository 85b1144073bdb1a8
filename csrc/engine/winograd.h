/* What the Winograd drivers share: 6x6 products of a tile, and float32 alone. */
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

#endif
