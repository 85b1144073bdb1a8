/* The kernel tables of the best instruction set that this CPU has and the cap allows. */
#ifndef FC_ENGINE_DISPATCH_H
#define FC_ENGINE_DISPATCH_H

#include "fastconv.h"
#include "kernels/kernels.h"

const fc_kernels *fc_dispatch(fc_real real);

#endif
