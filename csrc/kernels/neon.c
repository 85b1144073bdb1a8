/* NEON (AArch64 only): 32 registers of 16 bytes, FMA; the tiles of AVX-512. */
#define ISA neon
#define VECTOR_BYTES 16
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
