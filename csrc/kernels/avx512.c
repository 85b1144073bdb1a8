/* AVX-512: 32 registers of 64 bytes.  14x2, 9x3 and 6x4 tiles leave a register or more for B and broadcast from memory;
 * on Zen 5 they reach 95-99 % of the FMA peak (9x3 the most), rows of A read in place. */
#define ISA avx512
#define VECTOR_BYTES 64
#define MR_1 14
#define MR_2 14
#define MR_3 9
#define MR_4 6
#define NV 3

#define REAL_BITS 32
#include "kernels/all.inc"
#undef REAL_BITS
#define REAL_BITS 64
#include "kernels/all.inc"
