/* What every CPU of the architecture has: SSE2 on x86-64 (16 registers of 16 bytes, no FMA), and the only code elsewhere. */
#define ISA baseline
#define VECTOR_BYTES 16
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
