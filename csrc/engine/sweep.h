/* A product whose B is far, a wide matrix whose rows lie pages apart, as the channels of an image do; or narrow.
 *
 *     C[m][n] = init[m] + sum_k A[m][k] B[k][n]
 *
 * fc_gemm_run streams all of B for every tile of rows.  Here a strip of B serves all rows of C before the next: copied, some
 * hundred terms at a time, or read where it stands.  The last columns, where they fill no more than half a vector, can be summed
 * with lanes over k instead of columns.
 */
#ifndef FC_ENGINE_SWEEP_H
#define FC_ENGINE_SWEEP_H

#include "engine/gemm.h"

typedef struct fc_sweep {
    const fc_kernels *kernels;
    int64_t rows, k;             /* of C; terms of a sum */
    int64_t terms;               /* summed before they are added to C, at most */
    int64_t a_row, b_row, c_row; /* elements between rows */
    int b_far, c_far;            /* in no cache: the next strip is fetched while one is summed */
    int along;                   /* a block of terms serves all strips before the next */
    int c_past;                  /* so large that it is written past the caches where its rows are whole cache lines */
} fc_sweep;

/* How many of the last columns are better summed so: always the same, since the order of their sums is another. */
int64_t fc_sweep_last(const fc_kernels *kernels, int64_t columns);

/* `last` of the columns are summed over k, and at least a vector is not; `next` is the B of the product after this, or NULL;
 * `scratch` takes fc_sweep_bytes(). */
void fc_sweep_run(const fc_sweep *sweep, int64_t columns, int64_t last, const void *a, const void *b, const void *next, void *c,
                  const void *init, void *scratch);

int64_t fc_sweep_bytes(const fc_sweep *sweep);

/* Nanoseconds that m rows take, estimated. */
double fc_sweep_cost(const fc_sweep *sweep, int64_t m, int64_t columns, int64_t last);

/* Whether a convolution's product is faster so. */
int fc_sweep_pays(const fc_conv *problem, const fc_kernels *kernels);

#endif
