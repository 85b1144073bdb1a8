/* What one core can do at best: multiply-adds in registers, and copies. Built for the CPU at hand by peak.py. */
#include <stddef.h>
#include <string.h>

#if defined(__AVX512F__)
#define VECTOR_BYTES 64
#define CHAINS 16
#elif defined(__AVX__)
#define VECTOR_BYTES 32
#define CHAINS 12                /* 16 registers, two of them for the constants */
#elif defined(__aarch64__)
#define VECTOR_BYTES 16
#define CHAINS 16
#else
#define VECTOR_BYTES 16
#define CHAINS 12
#endif

/* Enough independent chains to hide the latency on every unit; operands come from outside so that nothing folds.
   Returns the number of operations. */
#define MULTIPLY_ADDS(real)                                                                       \
    long multiply_adds_##real(long rounds, double start, double factor, double term, double *sum) \
    {                                                                                             \
        typedef real vector __attribute__((vector_size(VECTOR_BYTES)));                           \
        vector chain[CHAINS], f = (real)factor - (vector){0}, t = (real)term - (vector){0};       \
        _Pragma("GCC unroll 16") for (int i = 0; i < CHAINS; i++)                                 \
            chain[i] = (real)(start + i) - (vector){0};                                           \
        for (long r = 0; r < rounds; r++)                                                         \
            _Pragma("GCC unroll 16") for (int i = 0; i < CHAINS; i++)                             \
                chain[i] = chain[i] * f + t;                                                      \
        *sum = 0;                                                                                 \
        for (int i = 0; i < CHAINS; i++)                                                          \
            *sum += (double)chain[i][0];                                                          \
        return 2 * rounds * CHAINS * (long)(VECTOR_BYTES / sizeof(real));                         \
    }

MULTIPLY_ADDS(float)
MULTIPLY_ADDS(double)

void copies(char *to, const char *from, size_t bytes, long repeats)
{
    for (long r = 0; r < repeats; r++) {
        memcpy(to, from, bytes);
        __asm__ volatile("" : : "r"(to) : "memory");   /* each copy is to be made */
    }
}
