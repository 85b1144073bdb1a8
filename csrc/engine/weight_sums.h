/* The sums behind a weight gradient of groups with few channels, in double: [g][chunk][c][m][tap]. */
#ifndef FC_ENGINE_WEIGHT_SUMS_H
#define FC_ENGINE_WEIGHT_SUMS_H

#include "engine/conv.h"

/* w = the chunks' sums, added in order; element (g, m, c, tap) anywhere in memory. */
static inline void fc_weight_sums_store(const fc_conv *p, const double *sums, int64_t chunks, void *w)
{
    const int64_t *k = p->window.kernel;
    int64_t size = fc_dispatch(p->real)->size, pairs = p->channels * p->out_channels, count = pairs * fc_taps(&p->window);
    for (int64_t g = 0; g < p->groups; g++, sums += chunks * count) {
        const double *first = sums;
        for (int64_t i = 0; i < pairs; i++)
            for (int64_t kd = 0; kd < k[0]; kd++)
                for (int64_t kh = 0; kh < k[1]; kh++) {
                    int64_t at = g * p->w.g + i % p->out_channels * p->w.o + i / p->out_channels * p->w.c;
                    at += kd * p->w.k[0] + kh * p->w.k[1];
                    for (int64_t kw = 0; kw < k[2]; kw++, at += p->w.k[2], first++) {
                        double sum = 0;
                        for (int64_t chunk = 0; chunk < chunks; chunk++)
                            sum += first[chunk * count];
                        if (p->real == FC_FLOAT32)
                            *(float *)fc_at(w, at, size) = (float)sum;
                        else
                            *(double *)fc_at(w, at, size) = sum;
                    }
                }
    }
}

#endif
