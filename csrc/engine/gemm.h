/* Cutting a product of matrices into the kernel's tiles: rows balanced, columns in strips, the sum in blocks.
 *
 * Strips of vectors run from the left; where the columns are no multiple of a vector the last strip overlaps the one before
 * and computes its part afresh, so that nothing beyond the columns is read or written.  Only where there are fewer columns
 * than lanes does B need room to be read, and C to be written, up to a whole vector.
 */
#ifndef FC_ENGINE_GEMM_H
#define FC_ENGINE_GEMM_H

#include "engine/conv.h"

/* Terms summed in one accumulator before it is added to the output: bounds the error of long sums (2.3e-6 to 4e-7 of max|y|
 * at 2304 terms) and keeps a tile's slices of A and B in the first-level cache.  Costs 0-2 %. */
enum { FC_KC = 288 };

/* The same in "highest": 64-32 3x3 over 32x32 errs by 7.9e-7 of max|y| in one sum of 288 terms, by 3.1e-7 in three. */
static inline int64_t fc_gemm_block(const fc_conv_plan *plan)
{
    return plan->precision == FC_PRECISION_HIGHEST && plan->problem.real == FC_FLOAT32 ? FC_KC / 3 : FC_KC;
}

/* Terms of a sum's blocks (the last may have fewer), at most `most`, balanced, whole vectors of them. */
static inline int64_t fc_gemm_terms(const fc_kernels *kernels, int64_t k, int64_t most)
{
    int64_t blocks = fc_max(1, fc_ceil_div(k, most));
    return fc_ceil_div(fc_ceil_div(k, blocks), kernels->lanes) * kernels->lanes;
}

/* What later products read or write, where that is far away: `rows` rows of some cache lines.  A few lines are fetched to the
 * second-level cache before each product that runs meanwhile: hardware follows fewer streams than an image has channels. */
typedef struct fc_ahead {
    const char *at;
    int64_t row, rows, lines, line; /* bytes between rows; of a row, those fetched already */
} fc_ahead;

static inline void fc_fetch(fc_ahead *a, int64_t lines)
{
    for (; lines-- > 0 && a->rows > 0; a->line++) {
        if (a->line == a->lines) {
            a->line = 0;
            a->at += a->row;
            a->rows--;
        }
        __builtin_prefetch(a->at + a->line * FC_ALIGN, 0, 2);
    }
}

typedef struct fc_gemm {
    const fc_kernels *kernels;
    int gather;      /* A through a_offset */
    int strip, rows; /* vectors of a strip and rows of a tile, at most */
    int64_t k, columns;
    int64_t terms; /* of a block of the sum, at most: FC_KC */
    const int64_t *a_offset, *b_offset;
    fc_ahead *ahead; /* or NULL; `fetch` lines before each strip, or, `along`, with its terms where there is a kernel for it */
    int64_t fetch;
    int along;       /* without gather */
} fc_gemm;

/* The tile for a product of m rows; `rows` is the balanced height. */
void fc_gemm_plan(fc_gemm *gemm, const fc_kernels *kernels, int64_t m, int64_t columns);

/* Vectors of a strip whose part of B has just been packed for many tiles: four where the kernel has six rows then.  Tiles of six by
 * four read less of A and B than nine by three, which counts where another thread shares the core: 1x1 64-256@56 0.78 to 0.82
 * of what the kernel alone reaches there, channels last 0.84 to 0.88. */
static inline int fc_gemm_packed_strip(const fc_kernels *kernels)
{
    return kernels->mr[4] >= 6 ? 4 : kernels->nv;
}

/* The width of the next strip when `vectors` are left: never a single vector after a wide one. */
static inline int fc_gemm_next_strip(int strip, int64_t vectors)
{
    if (vectors == strip || vectors >= strip + 2)
        return strip;
    return vectors > strip ? 2 : (int)vectors;
}

/* The width of the strip that comes last. */
static inline int fc_gemm_last_strip(int strip, int64_t vectors)
{
    int nv = 0;
    for (int64_t left = vectors > 3 * strip ? vectors % strip + 2 * strip : vectors; left > 0; left -= nv)
        nv = fc_gemm_next_strip(strip, left);
    return nv;
}

/* Rows of a tile that gathers A, at most: the pointers of more leave the integer registers, and of two vectors more sums wait to be
 * stored.  Of two vectors, part of the peak: Granite Rapids, 96 terms, six rows, seven, eight, ten, twelve, fourteen 0.83, 0.85, 0.90,
 * 0.75, 0.86, 0.91 (seven to eight: gradient of 3x3 32-64@32 b32 in "highest" 0.96 of the time, fourteen as eight); Zen 4, 224 terms,
 * nine, ten, thirteen, fourteen 0.98, 0.91, 0.95, 0.99, and 27 terms, 3-32@32 b32 channels last, at most six, seven, eight, nine,
 * fourteen 535, 540, 553, 555, 569 us.  Of one vector, Zen 4, nine, ten, thirteen, fourteen 1.00, 0.86, 0.79, 0.78. */
static inline int64_t fc_gather_rows(const fc_kernels *kernels, int64_t nv)
{
    return fc_min(kernels->mr[nv], nv == 2 ? 8 : 9);
}

/* Rows of a tile of one vector: more pointers than these do not fit the integer registers, and each is loaded at every term then.  14,
 * 12, 10, 8 of them (Zen 5, one thread, us): CP r16 256@56 703, 684, 666, 670, k9 128@4096 516, 505, 495, 497; 13, 10, 8: the products of
 * Winograd's method of 3x3 32-16@14 b32 207, 200, 202; of two vectors 14 rows, 10, 8, 7: the same or slower. */
enum { FC_VECTOR_ROWS = 10 };

/* C (rows x columns) = init + A B for one tile's rows; or C += A B, and then the columns must be whole vectors. */
void fc_gemm_run(const fc_gemm *gemm, int rows, const void *const *a, const void *b, void *c, int64_t c_row,
                 const void *init, int add);

/* Nanoseconds that m rows take, estimated. */
double fc_gemm_cost(const fc_kernels *kernels, int64_t m, int64_t columns, int64_t k);

#endif
