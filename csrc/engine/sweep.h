/* A product whose B is far: a wide matrix whose rows lie pages apart, as the channels of an image do.
 *
 *     C[m][n] = init[m] + sum_k A[m][k] B[k][n]
 *
 * fc_gemm_run streams all of B for every tile of rows.  Here a block of B, a strip wide and FC_SWEEP_TERMS high, serves all rows of
 * C before the next: it stays in the first-level cache, and its pages in the first-level TLB.
 */
#ifndef FC_ENGINE_SWEEP_H
#define FC_ENGINE_SWEEP_H

#include "engine/gemm.h"

enum { FC_SWEEP_TERMS = 64 };

/* Rows of A begin a_row elements apart; b, c, c_row, init, and what may be read and written beyond the columns, are those of
 * fc_gemm_run, k, columns and b_offset those of `gemm`, whose tile does not matter. */
void fc_sweep_run(const fc_gemm *gemm, int64_t rows, const void *a, int64_t a_row, const void *b, void *c, int64_t c_row,
                  const void *init);

/* Whether a convolution's product is faster so: by its shape alone, for then its sums are cut into blocks of FC_SWEEP_TERMS,
 * however it is computed. */
int fc_sweep_pays(const fc_conv *problem, const fc_kernels *kernels);

#endif
