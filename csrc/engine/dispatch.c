#include "engine/dispatch.h"

#include <stdatomic.h>
#include <string.h>

#include "base/cpu.h"

static int always(void)
{
    return 1;
}

/* From the least to the most; the first row runs everywhere. */
static const struct isa {
    const char *name;
    int (*available)(void);
    const fc_kernels *tables[2];
} isas[] = {
    {"baseline", always, {&fc_kernels_f32_baseline, &fc_kernels_f64_baseline}},
#if defined(__x86_64__)
    {"avx2", fc_cpu_has_avx2, {&fc_kernels_f32_avx2, &fc_kernels_f64_avx2}},
    {"avx512", fc_cpu_has_avx512, {&fc_kernels_f32_avx512, &fc_kernels_f64_avx512}},
#elif defined(__aarch64__)
    {"neon", always, {&fc_kernels_f32_neon, &fc_kernels_f64_neon}},
#endif
};
enum { ISAS = sizeof isas / sizeof isas[0] };

static _Atomic int chosen = -1;

static int best_up_to(int last)
{
    while (last > 0 && !isas[last].available())
        last--;
    return last;
}

static const struct isa *current(void)
{
    int i = atomic_load_explicit(&chosen, memory_order_relaxed);
    if (i < 0) {
        i = best_up_to(ISAS - 1);
        atomic_store(&chosen, i);
    }
    return &isas[i];
}

const fc_kernels *fc_dispatch(fc_real type)
{
    return current()->tables[type];
}

int fc_has_half_multiplier(const fc_kernels *kernels)
{
    return fc_cpu_has_half_multiplier() && !fc_has_short_vectors(kernels);
}

int fc_has_short_vectors(const fc_kernels *kernels)
{
    return kernels->lanes * kernels->size < 64;
}

const char *fc_isa_name(void)
{
    return current()->name;
}

/* A cap that this architecture has no row for ("neon" on x86) caps at the baseline. */
fc_status fc_isa_cap(const char *cap)
{
    static const char *const known[] = {"baseline", "avx2", "avx512", "neon"};
    int valid = !cap, last = cap ? 0 : ISAS - 1;
    for (size_t i = 0; cap && i < sizeof known / sizeof known[0]; i++)
        valid |= !strcmp(cap, known[i]);
    for (int i = 0; cap && i < ISAS; i++)
        if (!strcmp(cap, isas[i].name))
            last = i;
    if (!valid)
        return FC_INVALID;
    atomic_store(&chosen, best_up_to(last));
    return FC_OK;
}

int fc_isa_available(const char **names, int capacity)
{
    int count = 0;
    for (int i = 0; i < ISAS && count < capacity; i++)
        if (isas[i].available())
            names[count++] = isas[i].name;
    return count;
}
