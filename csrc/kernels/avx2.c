/* AVX2 with FMA: 16 registers of 32 bytes; 6x2 leaves four for B and the broadcast. */
#define ISA avx2
#define VECTOR_BYTES 32
#define MR_1 8
#define MR_2 6
#define MR_3 4
#define MR_4 3
#define NV 2

#define REAL_BITS 32
#include "kernels/all.inc"
#undef REAL_BITS
#define REAL_BITS 64
#include "kernels/all.inc"
