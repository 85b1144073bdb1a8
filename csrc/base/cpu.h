/* What this CPU (and the system that saves its registers) can run, and what it is like. */
#ifndef FC_BASE_CPU_H
#define FC_BASE_CPU_H

int fc_cpu_has_avx2(void);   /* with FMA */
int fc_cpu_has_avx512(void); /* F, BW, DQ, VL */

/* Whether a core reads its third-level cache about as fast as it computes with what it reads: AMD's, which eight cores share
 * (Zen 5 90 GB/s); not Intel's, which a mesh of tens of them do (Emerald Rapids 17 GB/s), nor what was not measured. */
int fc_cpu_has_near_cache(void);

/* Whether a core multiplies one vector of 512 bits a cycle where others do two: Zen 4, so that products weigh more there. */
int fc_cpu_has_half_multiplier(void);

#endif
