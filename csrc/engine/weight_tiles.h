/* What the weight gradients' products share: cutting into equal parts, and the shape of a tile. */
#ifndef FC_ENGINE_WEIGHT_TILES_H
#define FC_ENGINE_WEIGHT_TILES_H

#include "engine/gemm.h"

/* The size of each of as few equal parts as are at most `most`. */
static inline int64_t fc_weight_part(int64_t total, int64_t most)
{
    return fc_ceil_div(total, fc_ceil_div(total, fc_max(1, most)));
}

/* What so many vectors of columns cost, a vector of a strip of the best width being 1 (measured: 9x3 0.96 of peak, 14x2 0.93,
 * 6x4 0.95, 9x2 0.81, 9x1 0.5).  Tables whose strips are of two vectors have no other good one. */
static inline double fc_weight_columns_cost(const fc_kernels *kernels, int64_t vectors)
{
    if (kernels->nv > 2 && (vectors == 2 || vectors % 4 == 0))
        return (double)vectors * (vectors == 2 ? 1.07 : 1.02);
    if (vectors == 1)
        return 1.6;
    int64_t rest = vectors % kernels->nv;
    return (double)vectors + (rest == 0 ? 0.0 : kernels->nv == 2 ? 0.6 : rest == 1 ? 0.8 : 0.4);
}

/* fc_gemm_plan, with strips of four vectors where that leaves no narrower one: 6x4 reads less of A than 14x2 (1x1 64-256@56
 * from 807 to 786 us). */
static inline void fc_weight_gemm_plan(fc_gemm *gemm, const fc_kernels *kernels, int64_t outputs, int64_t columns)
{
    int64_t vectors = columns / kernels->lanes, rows = kernels->mr[4];
    fc_gemm_plan(gemm, kernels, outputs, columns);
    if (vectors % kernels->nv == 0 || vectors % 4 != 0 || rows < 6)
        return;
    gemm->strip = 4;
    gemm->rows = (int)fc_weight_part(outputs, rows);
}

#endif
