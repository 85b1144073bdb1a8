/* gemm, gemm_gather, gemm_far, gemm_pack, gemm_pairs, gemm_short and gemm_runs: every [nv][mr] of a table; turned; dots.
 *
 * The contract of the first four fixes the order of the sum and its rounding, so the expected values are exact, and variants that
 * all meet them agree bit by bit.
 */
#include <math.h>
#include <string.h>

#include "check_kernels.h"

typedef enum start { ZERO, INIT, ADD, STARTS } start;
typedef enum family { PLAIN, GATHER, FAR, PAST, PACK, PACK_PAST } family; /* PAST: gemm_far, C past the caches */

/* This file is compiled with -ffp-contract=off: what is written is what is rounded. */
static double multiply_add(element type, int fused, double a, double b, double c)
{
    if (type == FLOAT32)
        return fused ? (double)fmaf((float)a, (float)b, (float)c) : (double)((float)a * (float)b + (float)c);
    return fused ? fma(a, b, c) : a * b + c;
}

static double add(element type, double a, double b)
{
    return type == FLOAT32 ? (double)((float)a + (float)b) : a + b;
}

/* Whether the kernels round a multiply-add once: 1 * -r + a * a is not zero then, where r is a * a rounded.  The baseline of
 * x86 cannot, and a build that is not OPTIMIZED need not. */
static int fuses(const subject *s)
{
    double a = 1 + (s->type == FLOAT32 ? 0x1p-23 : 0x1p-52);
    int64_t lanes = s->kernels->lanes, offset[2] = {0, lanes};
    array *row = array_take(s->type, 2, 1), *b = array_take(s->type, 2 * lanes, 1), *c = array_take(s->type, lanes, 1);
    array_put(row, 0, 1);
    array_put(row, 1, a);
    for (int64_t i = 0; i < lanes; i++) {
        array_put(b, i, -value_round(s->type, a * a));
        array_put(b, lanes + i, a);
    }
    s->kernels->gemm[1][1](2, (const void *const[]){row->data}, NULL, b->data, offset, c->data, offset, NULL, 0);
    int fused = array_get(c, 0) != 0;
    arrays_reset();
#if defined(OPTIMIZED) && defined(__x86_64__)
    if (fused != (strcmp(s->kernels->isa, "baseline") != 0))
        fail("a multiply-add is rounded %s", fused ? "once" : "twice");
#endif
    return fused;
}

/* What is read is locked; C, which holds something only to be added to, is watched. */
static void guard(array *a, array *b, array *init, array *c, start how)
{
    for (int64_t i = 0; how == ADD && i < c->count; i++)
        array_put(c, i, random_uniform());
    array_lock(a);
    array_lock(b);
    array_lock(init);
    array_watch(c);
}

/* One product, all arrays as short as the contract allows. */
static void one(subject *s, family f, int nv, int mr, int64_t k, start how, int at_end, int fused)
{
    const fc_kernels *kernels = s->kernels;
    int gather = f == GATHER;
    int64_t n = nv * kernels->lanes, gap = random_integer(0, 5), row = gather ? 2 * k + 3 : k + gap;
    int64_t c_row = n + (f == PAST || f == PACK_PAST ? kernels->lanes : 1) * gap;
    /* Now and then sums of denormal numbers, which must not be flushed. */
    double scale = random_integer(0, 7) ? 1 : s->type == FLOAT32 ? 0x1p-70 : 0x1p-520;
    int64_t a_offset[64] = {0}, b_offset[64] = {0}, c_offset[FC_MR_MAX];
    describe("%dx%d k=%lld %s at the %s of a page", mr, nv, (long long)k, how == ZERO ? "zero" : how == INIT ? "init" : "add",
             at_end ? "end" : "beginning");

    array *a = array_random(s->type, k ? (mr - 1) * row + (gather ? row : k) : 0, at_end);
    array *b = array_random(s->type, k ? (k - 1) * (n - 1) + n : 0, at_end); /* rows of B may overlap */
    array *init = array_random(s->type, mr, at_end), *c = array_take(s->type, (mr - 1) * c_row + n, at_end);
    array *panel = array_take(s->type, f >= PACK ? k * n : 0, at_end);
    const void *rows[FC_MR_MAX];
    int64_t origin = k ? random_integer(0, k - 1) : 0; /* of b among its rows: offsets of both signs */
    for (int m = 0; m < mr; m++) {
        rows[m] = a->data + (k ? (mr - 1 - m) * row * element_size(s->type) : 0);
        c_offset[m] = (m & 1 ? mr - 1 - m / 2 : m / 2) * c_row; /* in any order */
    }
    for (int64_t i = 0; i < k; i++) {
        a_offset[i] = i == 0 ? row - 1 : random_integer(0, row - 1);
        b_offset[i] = (k - 1 - i - origin) * (n - 1);
    }
    for (int64_t i = 0; i < a->count; i++)
        array_put(a, i, array_get(a, i) * scale);
    for (int64_t i = 0; i < b->count; i++)
        array_put(b, i, array_get(b, i) * scale);
    guard(a, b, init, c, how);
    for (int m = 0; m < mr; m++)
        for (int64_t j = 0; j < n; j++) {
            double sum = 0, old = how == ADD ? array_get(c, c_offset[m] + j) : how == INIT ? array_get(init, m) : 0;
            for (int64_t i = 0; i < k; i++)
                sum = multiply_add(s->type, fused, value_get(rows[m], s->type, gather ? a_offset[i] : i),
                                   array_get(b, b_offset[i] + origin * (n - 1) + j), sum);
            array_expect(c, c_offset[m] + j, add(s->type, sum, old), 0);
        }
    array_watch(panel);
    for (int64_t i = 0; i < panel->count; i++)
        array_expect(panel, i, array_get(b, b_offset[i / n] + origin * (n - 1) + i % n), 0);
    const void *from = b->data + origin * (n - 1) * element_size(s->type);
    const fc_lines anywhere = {b->data, random_integer(-9999, 9999), (int)random_integer(0, 4)}; /* is fetched */
    const void *begin = how == INIT || (how == ADD && random_integer(0, 1)) ? init->data : NULL;
    if (f >= PACK)
        kernels->gemm_pack[nv][mr](k, rows, b->data + (k ? (k - 1) * (n - 1) * element_size(s->type) : 0), 1 - n, panel->data,
                                   c->data, c_offset, begin, how == ADD, f == PACK_PAST);
    else if (f >= FAR)
        kernels->gemm_far[nv][mr](k, rows, from, b_offset, c->data, c_offset, begin, how == ADD,
                                  f == PAST && random_integer(0, 1) ? NULL : &anywhere, f == PAST);
    else
        (gather ? kernels->gemm_gather : kernels->gemm)[nv][mr](k, rows, gather ? a_offset : NULL, from, b_offset, c->data,
                                                                c_offset, begin, how == ADD);
    __sync_synchronize();
    array_check(c, "c");
    array_check(panel, "panel");
    arrays_reset();
    s->cases++;
}

static void check_variant(subject *s, family f, int nv, int mr, int fused)
{
    static const int64_t lengths[] = {0, 1, 2, 7, 33};
    for (int i = 0; i < 5; i++)
        for (start how = ZERO; how < (f == PAST || f == PACK_PAST ? ADD : STARTS); how++)
            for (int at_end = 0; at_end < 2; at_end++)
                one(s, f, nv, mr, lengths[i], how, at_end, fused);
}

static int has(const fc_kernels *kernels, family f, int nv, int mr)
{
    if (f >= PACK)
        return kernels->gemm_pack[nv][mr] != NULL;
    return f == PLAIN ? kernels->gemm[nv][mr] != NULL : f == GATHER ? kernels->gemm_gather[nv][mr] != NULL
                                                                  : kernels->gemm_far[nv][mr] != NULL;
}

static void check_family(subject *s, family f)
{
    const fc_kernels *kernels = s->kernels;
    int fused = fuses(s), packed = kernels->mr[4] >= 6 ? 4 : kernels->nv;
    if (kernels->nv < 1 || kernels->nv > FC_NV_MAX || kernels->lanes > FC_LANES_MAX)
        fail("the table's tile is %d vectors of %lld lanes", kernels->nv, (long long)kernels->lanes);
    for (int nv = 1; nv <= FC_NV_MAX; nv++) {
        int most = f >= FAR && nv != packed ? 0 : kernels->mr[nv];
        if (kernels->mr[nv] < 1 || kernels->mr[nv] > FC_MR_MAX)
            fail("the table has %d rows at %d vectors", kernels->mr[nv], nv);
        for (int mr = 1; mr <= FC_MR_MAX; mr++) {
            if (has(kernels, f, nv, mr) != (mr <= most))
                fail("variant %dx%d is %s, at most %d rows", mr, nv, mr > most ? "there" : "missing", most);
            if (mr <= most)
                check_variant(s, f, nv, mr, fused);
        }
    }
}

void check_gemm(subject *s)
{
    check_family(s, PLAIN);
}

void check_gemm_gather(subject *s)
{
    check_family(s, GATHER);
}

void check_gemm_far(subject *s)
{
    check_family(s, FAR);
    check_family(s, PAST);
}

void check_gemm_pack(subject *s)
{
    check_family(s, PACK);
    check_family(s, PACK_PAST);
}

/* Pairs of rows interleaved, each half vector of columns in a place of its own. */
static void one_of_pairs(subject *s, int nv, int mr, int64_t k, start how, int at_end, int fused)
{
    int64_t lanes = s->kernels->lanes, half = lanes / 2, n = nv * lanes, row = k + random_integer(0, 5), parts = 2 * nv;
    int64_t b_offset[64] = {0}, c_offset[FC_MR_MAX / 2], place[2 * FC_NV_MAX], apart = lanes + random_integer(0, 3);
    describe("pairs %dx%d k=%lld %s at the %s of a page", mr, nv, (long long)k, how == ZERO ? "zero" : "init",
             at_end ? "end" : "beginning");
    array *a = array_random(s->type, k ? (mr - 1) * row + k : 0, at_end), *init = array_random(s->type, mr, at_end);
    array *b = array_random(s->type, k ? (k - 1) * (n - 1) + n : 0, at_end);
    array *c = array_take(s->type, (mr / 2 * parts - 1) * apart + lanes, at_end);
    const void *rows[FC_MR_MAX];
    for (int m = 0; m < mr; m++)
        rows[m] = a->data + (k ? m * row * element_size(s->type) : 0);
    for (int64_t i = 0; i < k; i++)
        b_offset[i] = i * (n - 1);
    for (int m = 0; m < mr / 2; m++)
        c_offset[m] = (mr / 2 - 1 - m) * parts * apart;
    for (int h = 0; h < parts; h++)
        place[h] = (h & 1 ? parts - 1 - h / 2 : h / 2) * apart;
    guard(a, b, init, c, how);
    for (int m = 0; m < mr; m++)
        for (int64_t j = 0; j < n; j++) {
            double sum = 0;
            for (int64_t i = 0; i < k; i++)
                sum = multiply_add(s->type, fused, value_get(rows[m], s->type, i), array_get(b, b_offset[i] + j), sum);
            array_expect(c, c_offset[m / 2] + place[j / half] + 2 * (j % half) + m % 2,
                         add(s->type, sum, how == INIT ? array_get(init, m) : 0), 0);
        }
    s->kernels->gemm_pairs[nv][mr](k, rows, b->data, b_offset, c->data, c_offset, place, how == INIT ? init->data : NULL);
    array_check(c, "c");
    arrays_reset();
    s->cases++;
}

void check_gemm_pairs(subject *s)
{
    static const int64_t lengths[] = {0, 1, 2, 7, 33};
    const fc_kernels *kernels = s->kernels;
    int fused = fuses(s), most = kernels->mr[3] >= 8 ? 8 : 6;
    for (int nv = 1; nv <= FC_NV_MAX; nv++)
        for (int mr = 1; mr <= FC_MR_MAX; mr++) {
            int wanted = nv <= kernels->nv && mr <= most && mr % 2 == 0;
            if ((kernels->gemm_pairs[nv][mr] != NULL) != wanted)
                fail("variant %dx%d is %s", mr, nv, wanted ? "missing" : "there");
            for (int i = 0; i < 20 && wanted; i++)
                one_of_pairs(s, nv, mr, lengths[i % 5], i / 5 % 2 ? INIT : ZERO, i / 10, fused);
        }
}

/* Products whose columns follow each other, rows of C in either order. */
static void one_short(subject *s, int nv, int mr, int64_t k, start how, int at_end, int fused)
{
    int64_t n = nv * s->kernels->lanes, times = random_integer(0, 3), gap = random_integer(0, 5), all = times * n;
    int64_t a_row = mr + random_integer(0, 3), b_offset[64] = {0};
    int64_t c_row = (all + gap) * (random_integer(0, 1) ? 1 : -1), first = c_row < 0 ? (1 - mr) * c_row : 0;
    describe("short %dx%d k=%lld %lld times %s at the %s of a page", mr, nv, (long long)k, (long long)times,
             how == ZERO ? "zero" : how == ADD ? "added" : "init", at_end ? "end" : "beginning");
    array *a = array_random(s->type, k ? (k - 1) * a_row + mr : 0, at_end), *init = array_random(s->type, mr, at_end);
    array *b = array_random(s->type, k && times ? k - 1 + all : 0, at_end);
    array *c = array_take(s->type, times ? (mr - 1) * (all + gap) + all : 0, at_end);
    for (int64_t i = 0; i < k; i++)
        b_offset[i] = k - 1 - i;
    guard(a, b, init, c, how);
    for (int m = 0; m < mr; m++)
        for (int64_t j = 0; j < all; j++) {
            double sum = 0;
            for (int64_t i = 0; i < k; i++)
                sum = multiply_add(s->type, fused, array_get(a, i * a_row + m), array_get(b, b_offset[i] + j), sum);
            int64_t at = first + m * c_row + j;
            array_expect(c, at, add(s->type, sum, how == INIT ? array_get(init, m) : how == ADD ? array_get(c, at) : 0), 0);
        }
    s->kernels->gemm_short[nv][mr](times, k, a->data, a_row, b->data, n, b_offset, c->data + (times ? first : 0) * element_size(s->type), n,
                                   c_row, how == INIT ? init->data : NULL, how == ADD);
    array_check(c, "c");
    arrays_reset();
    s->cases++;
}

void check_gemm_short(subject *s)
{
    static const int64_t lengths[] = {0, 1, 2, 7, 33};
    int fused = fuses(s);
    for (int nv = 1; nv <= FC_NV_MAX; nv++)
        for (int mr = 1; mr <= FC_MR_MAX; mr++) {
            int wanted = mr <= s->kernels->mr[nv];
            if ((s->kernels->gemm_short[nv][mr] != NULL) != wanted)
                fail("variant %dx%d is %s", mr, nv, wanted ? "missing" : "there");
            for (int i = 0; i < 30 && wanted; i++)
                one_short(s, nv, mr, lengths[i % 5], (start)(i / 5 % STARTS), i / 15, fused);
        }
}

/* Runs of terms in any order, of A's row and of the panel; blocks whose sums are added one by one. */
static void one_of_runs(subject *s, int nv, int mr, int64_t runs, int64_t block, int adds, int at_end, int fused)
{
    int64_t n = nv * s->kernels->lanes, k = runs * FC_RUN, row = k + random_integer(0, 5), c_row = n + random_integer(0, 5);
    int64_t a_offset[8] = {0}, b_row[8] = {0}, c_offset[FC_MR_MAX];
    describe("runs %dx%d k=%lld in blocks of %lld%s at the %s of a page", mr, nv, (long long)k, (long long)block, adds ? " added" : "",
             at_end ? "end" : "beginning");
    array *a = array_random(s->type, mr * row, at_end), *panel = array_random(s->type, k * n, at_end);
    array *init = array_take(s->type, 0, at_end), *c = array_take(s->type, mr * c_row, at_end);
    const void *rows[FC_MR_MAX];
    for (int m = 0; m < mr; m++) {
        rows[m] = a->data + (mr - 1 - m) * row * element_size(s->type);
        c_offset[m] = (m & 1 ? mr - 1 - m / 2 : m / 2) * c_row;
    }
    for (int64_t i = 0; i < runs; i++) {
        a_offset[i] = i == 0 ? row - FC_RUN : random_integer(0, row - FC_RUN);
        b_row[i] = (runs - 1 - i) * FC_RUN;
    }
    guard(a, panel, init, c, adds ? ADD : ZERO);
    for (int m = 0; m < mr; m++)
        for (int64_t j = 0; j < n; j++) {
            double all = adds ? array_get(c, c_offset[m] + j) : 0;
            for (int64_t from = 0; from < k; from += block) {
                double sum = 0;
                for (int64_t t = from; t < k && t < from + block; t++)
                    sum = multiply_add(s->type, fused, value_get(rows[m], s->type, a_offset[t / FC_RUN] + t % FC_RUN),
                                       array_get(panel, (b_row[t / FC_RUN] + t % FC_RUN) * n + j), sum);
                all = adds || from ? add(s->type, all, sum) : sum;
            }
            array_expect(c, c_offset[m] + j, all, 0);
        }
    s->kernels->gemm_runs[nv][mr](k, block, rows, a_offset, panel->data, b_row, c->data, c_offset, adds);
    array_check(c, "c");
    arrays_reset();
    s->cases++;
}

void check_gemm_runs(subject *s)
{
    int fused = fuses(s), some = s->kernels->lanes * element_size(s->type) == 32;
    for (int nv = 1; nv <= FC_NV_MAX; nv++)
        for (int mr = 1; mr <= FC_MR_MAX; mr++) {
            int wanted = some && mr <= s->kernels->mr[nv];
            if ((s->kernels->gemm_runs[nv][mr] != NULL) != wanted)
                fail("variant %dx%d is %s", mr, nv, wanted ? "missing" : "there");
            s->cases += !wanted; /* of tables without the kernel all */
            for (int64_t runs = 1; runs <= 7 && wanted; runs += 2)
                for (int i = 0; i < 8; i++)
                    one_of_runs(s, nv, mr, runs, (i & 1 ? 2 : 8) * FC_RUN, i & 2, i & 4, fused);
        }
}

/* Tiles side by side in C, anywhere in A; pixels in any order of terms; beyond the last tile's a row of C may hold anything, up to a
 * vector, unless it is exact. */
static void one_turned(subject *s, int nv, int step, int mr, int64_t k, int64_t outputs, int exact, int at_end, int fused)
{
    int64_t lanes = s->kernels->lanes, n = nv * lanes, tiles = random_integer(1, 3), pixels = (mr - 1) * step + 1, at[3][2];
    int64_t a_offset[64] = {0}, width = tiles * mr, written = width - mr + (exact ? mr : lanes), c_row = written + random_integer(0, 5);
    describe("turned %dx%d step %d k=%lld %lld tiles %lld outputs%s at the %s of a page", mr, nv, step, (long long)k, (long long)tiles,
             (long long)outputs, exact ? " exactly" : "", at_end ? "end" : "beginning");
    array *a = array_random(s->type, k ? k + pixels + 1 : 0, at_end), *b = array_random(s->type, (k + 1) * n, at_end);
    array *c = array_take(s->type, (outputs - 1) * c_row + written, at_end);
    for (int64_t i = 0; i < k; i++)
        a_offset[i] = k - 1 - i;
    for (int64_t t = 0; t < tiles; t++) {
        at[t][0] = random_integer(0, 2);
        at[t][1] = t * mr;
    }
    array_lock(a);
    array_lock(b);
    array_watch(c);
    for (int64_t j = 0; j < outputs; j++)
        for (int64_t q = 0; q < written; q++) {
            double sum = array_get(b, j);
            for (int64_t i = 0; i < k && q < width; i++)
                sum = multiply_add(s->type, fused, array_get(a, at[q / mr][0] + a_offset[i] + q % mr * step),
                                   array_get(b, (i + 1) * n + j), sum);
            array_expect(c, j * c_row + q, sum, q < width ? 0 : INFINITY);
        }
    s->kernels->turned[nv - 1][step - 1][mr](tiles, (const int64_t(*)[2])at, k, a->data, a_offset, b->data, c->data, c_row, outputs,
                                             exact);
    array_check(c, "c");
    arrays_reset();
    s->cases++;
}

void check_turned(subject *s)
{
    static const int64_t lengths[] = {0, 1, 7, 13, 33};
    const fc_kernels *kernels = s->kernels;
    int fused = fuses(s), variants = 0;
    for (int nv = 1; nv <= 2; nv++)
        for (int step = 1; step <= 2; step++)
            for (int mr = 1; mr <= FC_LANES_MAX; mr++) {
                int there = kernels->turned[nv - 1][step - 1][mr] != NULL, one = kernels->turned[0][0][mr] != NULL;
                int fits = mr <= kernels->lanes && 2 * mr >= kernels->lanes, other = kernels->turned[nv - 1][2 - step][mr] != NULL;
                if (there != other || there > one || there > fits)
                    fail("variant %dx%d step %d is %s", mr, nv, step, there ? "there" : "missing");
                variants += there;
                for (int64_t outputs = 1; outputs <= nv * kernels->lanes && there; outputs++)
                    for (int i = 0; i < 20; i++)
                        one_turned(s, nv, step, mr, lengths[i % 5], outputs, i / 5 % 2, i / 10, fused);
            }
    if (!variants)
        fail("the table has no variant");
}

/* As short as the contract allows: B has zeros up to whole vectors, the rows of A end with their last term. */
static void one_of_dots(subject *s, int64_t rows, int64_t columns, int64_t k, start how, int at_end)
{
    int64_t lanes = s->kernels->lanes, whole = (k + lanes - 1) / lanes * lanes, gap = random_integer(0, 5);
    int64_t a_row = k + gap, b_row = whole + gap, c_row = columns + gap;
    describe("%lldx%lld k=%lld %s at the %s of a page", (long long)rows, (long long)columns, (long long)k,
             how == ZERO ? "zero" : how == INIT ? "init" : "add", at_end ? "end" : "beginning");
    array *a = array_random(s->type, k ? (rows - 1) * a_row + k : 0, at_end), *init = array_random(s->type, rows, at_end);
    array *b = array_random(s->type, k ? (columns - 1) * b_row + whole : 0, at_end);
    array *c = array_take(s->type, (rows - 1) * c_row + columns, at_end);
    for (int64_t n = 0; n < columns; n++)
        for (int64_t i = k; i < whole; i++)
            array_put(b, n * b_row + i, 0);
    guard(a, b, init, c, how);
    for (int64_t m = 0; m < rows; m++)
        for (int64_t n = 0; n < columns; n++) {
            double sum = how == ADD ? array_get(c, m * c_row + n) : how == INIT ? array_get(init, m) : 0;
            for (int64_t i = 0; i < k; i++)
                sum += array_get(a, m * a_row + i) * array_get(b, n * b_row + i);
            array_expect(c, m * c_row + n, sum, (double)(k + 2) * value_epsilon(s->type) * (double)(k + 1));
        }
    s->kernels->dots(k, a->data, a_row, b->data, b_row, c->data, c_row,
                     how == INIT || (how == ADD && random_integer(0, 1)) ? init->data : NULL, how == ADD, rows, columns);
    array_check(c, "c");
    arrays_reset();
    s->cases++;
}

void check_dots(subject *s)
{
    int64_t lanes = s->kernels->lanes, lengths[] = {0, 1, lanes - 1, lanes, 2 * lanes + 1, 5 * lanes};
    for (int64_t rows = 1; rows <= 13; rows++)
        for (int64_t columns = 1; columns <= 9; columns++)
            for (int i = 0; i < 6; i++)
                for (start how = ZERO; how < STARTS; how++)
                    one_of_dots(s, rows, columns, lengths[i], how, (rows + columns + i) & 1);
}
