/* Weights as rows: w[g, o] a contiguous row over (c, kd, kh, kw), in place where memory is so, else packed once a call. */
#ifndef FC_ENGINE_WEIGHTS_H
#define FC_ENGINE_WEIGHTS_H

#include "engine/conv.h"

typedef struct fc_weights {
    int in_place;
    int64_t o, g;  /* strides of the rows */
    int64_t bytes; /* scratch; 0 in place */
} fc_weights;

fc_weights fc_weights_plan(const fc_conv *problem, int64_t size);
const void *fc_weights_take(const fc_weights *weights, const fc_conv *problem, const fc_kernels *kernels, int threads,
                            void *scratch, const void *w);

#endif
