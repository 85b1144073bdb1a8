#include "base/cpu.h"

#if defined(__x86_64__)
int fc_cpu_has_avx2(void)
{
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}

int fc_cpu_has_avx512(void)
{
    return fc_cpu_has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}

int fc_cpu_has_near_cache(void)
{
    return __builtin_cpu_is("amd") != 0;
}

int fc_cpu_has_half_multiplier(void)
{
    return __builtin_cpu_is("amdfam19h") && fc_cpu_has_avx512();
}
#else
int fc_cpu_has_avx2(void)
{
    return 0;
}

int fc_cpu_has_avx512(void)
{
    return 0;
}

int fc_cpu_has_near_cache(void)
{
    return 0;
}

int fc_cpu_has_half_multiplier(void)
{
    return 0;
}
#endif
