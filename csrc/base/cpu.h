/* What this CPU (and the system that saves its registers) can run. */
#ifndef FC_BASE_CPU_H
#define FC_BASE_CPU_H

int fc_cpu_has_avx2(void);   /* with FMA */
int fc_cpu_has_avx512(void); /* F, BW, DQ, VL */

#endif
