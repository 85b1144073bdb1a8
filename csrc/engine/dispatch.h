/* The kernel tables of the best instruction set that this CPU has and the cap allows. */
#ifndef FC_ENGINE_DISPATCH_H
#define FC_ENGINE_DISPATCH_H

#include "fastconv.h"
#include "kernels/kernels.h"

const fc_kernels *fc_dispatch(fc_real real);

/* Whether these kernels' vectors are such that this CPU multiplies but one of them a cycle (base/cpu.h). */
int fc_has_half_multiplier(const fc_kernels *kernels);

/* Whether these kernels' vectors are shorter than a cache line. */
int fc_has_short_vectors(const fc_kernels *kernels);

#endif
