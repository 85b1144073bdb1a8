/* One vector type for the file that includes this: GCC/Clang vector extensions, exactly as wide as the ISA's registers.
 *
 * Before including: REAL_BITS (32 or 64), VECTOR_BYTES, ISA.  A vector type wider than the registers compiles, and runs
 * at a tenth of the speed.  `(v){0} + s` is a real addition; `s - (v){0}` folds into a broadcast and keeps NaN and -0.
 */
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#ifndef NAME
#define JOIN_(a, b, c, d) a##_##b##c##_##d
#define JOIN(a, b, c, d) JOIN_(a, b, c, d)
#define NAME(family) JOIN(family, f, REAL_BITS, ISA)
#define LANES ((int)(VECTOR_BYTES / sizeof(real)))
#ifndef INLINE /* the sanitizers' builds do not inline */
#define INLINE static inline __attribute__((always_inline))
#endif
#endif

#if REAL_BITS == 32
#define real float
#define integer int32_t
#define REAL_SUFFIX "ps"
#else
#define real double
#define integer int64_t
#define REAL_SUFFIX "pd"
#endif
#define v NAME(vector)
#define vi NAME(ivector)
#define vu NAME(uvector)

typedef real v __attribute__((vector_size(VECTOR_BYTES)));
typedef integer vi __attribute__((vector_size(VECTOR_BYTES)));
typedef real vu __attribute__((vector_size(VECTOR_BYTES), aligned(REAL_BITS / 8), may_alias));

#define load NAME(load)
#define store NAME(store)
#define store_ahead NAME(store_ahead)
#define stream NAME(stream)
#define splat NAME(splat)
#define copy NAME(copy)
#define copy_ends NAME(copy_ends)

INLINE v load(const real *p)
{
    return *(const vu *)p;
}

INLINE void store(real *p, v x)
{
    *(vu *)p = x;
}

/* Where the second-level cache holds what is written: stores wait for its lines in order, so the line `next` elements further on, which
 * will be written soon, is fetched meanwhile.  Granite Rapids, 36 lines for a vector of 3x3 kernels: 46 to 41 ns, of 25 in the
 * first-level cache; two vectors ahead the same, from four on as slow as none. */
INLINE void store_ahead(real *p, v x, int64_t next)
{
    store(p, x);
    __builtin_prefetch(p + next, 1);
}

/* To a multiple of the vector's bytes, past the caches where the compiler can say so. */
INLINE void stream(real *p, v x)
{
#if defined(__clang__)
    __builtin_nontemporal_store(x, (v *)p);
#elif defined(__x86_64__)
    typedef long long words __attribute__((vector_size(VECTOR_BYTES)));
#if VECTOR_BYTES == 64
    __builtin_ia32_movntdq512((words *)p, (words)x);
#elif VECTOR_BYTES == 32
    __builtin_ia32_movntdq256((words *)p, (words)x);
#else
    __builtin_ia32_movntdq((words *)p, (words)x);
#endif
#else
    store(p, x);
#endif
}

INLINE v splat(real s)
{
    return s - (v){0};
}

/* Hides from the compiler that x was loaded: it would load it anew for every multiply-add, and loads are the bottleneck. */
#define keep NAME(keep)
INLINE v keep(v x)
{
#if defined(__x86_64__)
    __asm__("" : "+v"(x));
#elif defined(__aarch64__)
    __asm__("" : "+w"(x));
#endif
    return x;
}

/* Hides from the compiler where p came from.  Of the 36 vectors of a Winograd tile, which stand a step apart, it would else keep
 * the addresses, most of them in memory: as many instructions again as the transform itself has. */
#define pointer NAME(pointer)
INLINE real *pointer(const real *p)
{
    __asm__("" : "+r"(p));
    return (real *)p;
}

/* The nearest of low ... high; NaN, which is neither below nor above, stays. */
#define clamp NAME(clamp)
INLINE v clamp(v x, v low, v high)
{
    v y;
    for (int l = 0; l < LANES; l++) {
        real a = low[l] > x[l] ? low[l] : x[l];
        y[l] = high[l] < a ? high[l] : a;
    }
    return y;
}

/* x where it is greater than `best` or NaN, else `best`: of equal values best, so that a maximum by it keeps the first, and of
 * NaNs the last.  maxps alone forgets a NaN in its first operand; AVX-512 mends that by one instruction, which puts x where x is
 * NaN of either kind. */
#define greater NAME(greater)
INLINE v greater(v x, v best)
{
#if defined(__x86_64__) && VECTOR_BYTES == 64
    v y;
    __asm__("vmax" REAL_SUFFIX " %2, %1, %0" : "=v"(y) : "v"(x), "v"(best));
    __asm__("vfixupimm" REAL_SUFFIX " $0, %2, %1, %0" : "+v"(y) : "v"(x), "v"(0x11 - (vi){0}));
    return y;
#elif defined(__x86_64__) && VECTOR_BYTES == 32
    v y;
    __asm__("vmax" REAL_SUFFIX " %2, %1, %0" : "=x"(y) : "x"(x), "x"(best));
    vi mask = x != x;
    __asm__("vblendv" REAL_SUFFIX " %2, %1, %0, %0" : "+x"(y) : "x"(x), "x"(mask));
    return y;
#else
    vi mask = (x > best) | (x != x);
    return (v)((mask & (vi)x) | (~mask & (vi)best));
#endif
}

/* x, but y where that is infinite: y a quotient and x the same, corrected by a rest that is then none (NaN). */
#define finite_or NAME(finite_or)
INLINE v finite_or(v x, v y)
{
#if defined(__x86_64__) && VECTOR_BYTES == 64
    __asm__("vfixupimm" REAL_SUFFIX " $0, %2, %1, %0" : "+v"(x) : "v"(y), "v"(0x110000 - (vi){0}));
    return x;
#else
    vi number = x == x;
    return (v)((number & (vi)x) | (~number & (vi)y));
#endif
}

/* Lane l of the result is element index[l] of x and y as one row. */
#define permute NAME(permute)
INLINE v permute(v x, v y, vi index)
{
#if defined(__clang__) /* has no shuffle by a vector of indices; sees through the loop where they are constant */
    v out;
    for (int l = 0; l < LANES; l++)
        out[l] = index[l] & LANES ? y[index[l] & (LANES - 1)] : x[index[l] & (LANES - 1)];
    return out;
#else
    return __builtin_shuffle(x, y, index);
#endif
}

/* The first and the last `part` elements, which overlap where count < 2 part. */
INLINE void copy_ends(real *dst, const real *src, int64_t count, int part)
{
    memcpy(dst, src, part * sizeof(real));
    memcpy(dst + count - part, src + count - part, part * sizeof(real));
}

/* Copies count elements; full vectors, or parts of one, the last overlapping the one before.  Regions must not overlap. */
INLINE void copy(real *dst, const real *src, int64_t count)
{
    if (count < LANES) {
        if (LANES > 8 && count >= 8)
            copy_ends(dst, src, count, 8);
        else if (LANES > 4 && count >= 4)
            copy_ends(dst, src, count, 4);
        else
            for (int64_t j = 0; j < count; j++)
                dst[j] = src[j];
        return;
    }
    for (int64_t j = 0; j < count - LANES; j += LANES)
        store(dst + j, load(src + j));
    store(dst + count - LANES, load(src + count - LANES));
}

/* Of each block of x and y as one: every second unit, from the first or the second on. */
#define every_second NAME(every_second)
INLINE v every_second(v x, v y, int unit, int block, int second)
{
    vi index;
    for (int l = 0; l < LANES; l++) {
        int at = l % (block / 2), begin = l / block * block + (l % block < block / 2 ? 0 : LANES);
        index[l] = begin + (2 * (at / unit) + second) * unit + at % unit;
    }
    return permute(x, y, index);
}

/* Squares of 2 x 2 or 4 x 4 units in as many rows, `apart` from each other. */
#define transpose_units NAME(transpose_units)
INLINE void transpose_units(int units, int unit, v *row, int apart)
{
    v *a = row, *b = row + apart, *c = row + 2 * apart, *d = row + 3 * apart;
    v even = every_second(*a, *b, unit, units * unit, 0), odd = every_second(*a, *b, unit, units * unit, 1);
    if (units == 2) {
        *a = even;
        *b = odd;
        return;
    }
    v next = every_second(*c, *d, unit, units * unit, 0), last = every_second(*c, *d, unit, units * unit, 1);
    *a = every_second(even, next, unit, units * unit, 0);
    *b = every_second(odd, last, unit, units * unit, 0);
    *c = every_second(even, next, unit, units * unit, 1);
    *d = every_second(odd, last, unit, units * unit, 1);
}

/* The first LANES elements of as many rows; those `ahead` of them, if any, are fetched.  By pointers to four rows at a time, for the
 * addresses of all do not fit the registers.  Zen 4, nanoseconds a vector transposed in the first cache, without and with: 16 floats 1.45,
 * 1.24 (4.5 cycles: four shuffles), 8 floats 1.08, 0.59, 8 doubles 1.79, 1.12, 4 doubles 1.01, 0.72; from memory 2.1 either way.
 * Rejected: half the shuffles replaced by loads of 128 bits, inserted (16 floats 1.2-1.3 where this takes 1.05-1.2, 8 doubles 0.99 and
 * 0.81; better only where rows lie across cache lines, 1.32 and 1.38) or broadcast with a mask (1.36). */
#define load_square NAME(load_square)
INLINE void load_square(v square[LANES], const real *in, int64_t row, int64_t ahead)
{
#pragma GCC unroll 16
    for (int l = 0; l < LANES; l++) {
        square[l] = load(in + l % 4 * row);
        if (ahead)
            __builtin_prefetch(in + l % 4 * row + ahead);
        if (l % 4 == 3)
            in = pointer(in + 4 * row);
    }
}

/* The same to `count` rows, past the caches where asked for and possible. */
#define store_square NAME(store_square)
INLINE void store_square(real *out, int64_t row, const v square[LANES], int count, int past, int ahead)
{
#pragma GCC unroll 16
    for (int l = 0; l < count; l++) {
        real *p = out + l % 4 * row;
        if (past && !((uintptr_t)p % VECTOR_BYTES))
            stream(p, square[l]);
        else
            store(p, square[l]);
        if (ahead)
            __builtin_prefetch(p + ahead, 1);
        if (l % 4 == 3)
            out = pointer(out + 4 * row);
    }
}

/* LANES x LANES elements in registers: within 128 bits first, whose shuffles are the cheapest, then those among each other. */
#define transpose_square NAME(transpose_square)
INLINE void transpose_square(v row[LANES])
{
    enum { PART = 16 / sizeof(real), PARTS = LANES / PART };
#pragma GCC unroll 4
    for (int i = 0; i < LANES; i += PART)
        transpose_units(PART, 1, row + i, 1);
#pragma GCC unroll 4
    for (int i = 0; i < PART && PARTS > 1; i++)
        transpose_units(PARTS, PART, row + i, PART);
}

#define every_other NAME(every_other)
#define even_of NAME(even_of)
#define odd_of NAME(odd_of)
#define every_third NAME(every_third)
#define third_of NAME(third_of)

/* Elements odd, odd + 2, odd + 4, ... of two vectors as one row.  AVX2 exchanges halves first, which even and odd ones share, and then
 * shuffles within 128 bits: three instructions, four for both.  GCC's three have two permutations across, Zen's slowest shuffle. */
INLINE v every_other(v x, v y, int odd)
{
    vi index;
#if VECTOR_BYTES == 32
    enum { PART = LANES / 2 };
    vi low, high;
    for (int l = 0; l < LANES; l++) {
        low[l] = l < PART ? l : l + PART;
        high[l] = low[l] + PART;
        index[l] = l / PART * PART + 2 * (l % PART) % PART + (l % PART < PART / 2 ? 0 : LANES) + odd;
    }
    v lows = permute(x, y, low);
    y = permute(x, y, high);
    x = lows;
#else
    for (int l = 0; l < LANES; l++)
        index[l] = 2 * l + odd;
#endif
    return permute(x, y, index);
}

INLINE v even_of(v x, v y)
{
    return every_other(x, y, 0);
}

INLINE v odd_of(v x, v y)
{
    return every_other(x, y, 1);
}

/* Elements j, j + 3, j + 6, ... of three vectors as one row. */
INLINE v every_third(int j, v x, v y, v z)
{
    vi first, second;
    for (int l = 0; l < LANES; l++) {
        int at = 3 * l + j;
        first[l] = at < 2 * LANES ? at : 0;
        second[l] = at < 2 * LANES ? l : at - LANES;
    }
    return permute(permute(x, y, first), z, second);
}

/* Vector j of three: the elements of three vectors in turn. */
INLINE v third_of(int j, v x, v y, v z)
{
    vi first, second;
    for (int l = 0; l < LANES; l++) {
        int at = j * LANES + l, from = at % 3;
        first[l] = from == 2 ? 0 : from * LANES + at / 3;
        second[l] = from == 2 ? LANES + at / 3 : l;
    }
    return permute(permute(x, y, first), z, second);
}
