/* Sizes that saturate instead of overflowing: a product or sum that does not fit is INT64_MAX, which no allocation grants. */
#ifndef FC_BASE_SIZE_H
#define FC_BASE_SIZE_H

#include <stdint.h>

static inline int64_t fc_mul(int64_t a, int64_t b)
{
    int64_t c;
    return __builtin_mul_overflow(a, b, &c) ? INT64_MAX : c;
}

static inline int64_t fc_add(int64_t a, int64_t b)
{
    int64_t c;
    return __builtin_add_overflow(a, b, &c) ? INT64_MAX : c;
}

static inline int64_t fc_min(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static inline int64_t fc_max(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

static inline int64_t fc_ceil_div(int64_t a, int64_t b)
{
    return a / b + (a % b > 0);
}

#endif
