/* What both depthwise drivers share: which windows the kernels serve, and a band's input as tables of rows. */
#ifndef FC_ENGINE_DEPTHWISE_H
#define FC_ENGINE_DEPTHWISE_H

#include "engine/rows.h"

typedef struct fc_depthwise {
    fc_depthwise_window window; /* but for `shift` */
    int variant;                /* of the kernels: the stride - 1 */
    int64_t rows, bands;        /* output rows of a band */
    int64_t channels;           /* whose planes the table holds, one after the other */
    fc_rows x;
    int64_t pitch;              /* of a split row's phases, 0 where rows are not split; zeros between them pad both */
    int64_t lead;               /* zeros before the first */
    int64_t table_bytes, copy_bytes; /* of one worker */
    int64_t shared_bytes;            /* the shifts, the row of zeros */
} fc_depthwise;

/* NULL, or why no kernel serves the window. */
const char *fc_depthwise_refusal(const fc_conv *problem);

/* Whether an array's rows follow each other without gaps, `width` elements each, in an image of `height`. */
static inline int fc_depthwise_has_flat_rows(const fc_array_strides *s, int64_t height, int64_t width)
{
    return (s->s[2] == 1 || width == 1) && (s->s[1] == width || height == 1);
}

/* Whether the window is 3 x 3 at stride 1, the columns padded by one, and x without gaps: the kernels depthwise_flat and
 * depthwise_flat_weight, which read it in place. */
int fc_depthwise_is_flat(const fc_conv *problem);

/* A table for bands of at most `rows` output rows: `whole`: of all channels of a group, rows split where the forward kernels want
 * them so, else of one channel, as the weight gradient's. */
fc_depthwise fc_depthwise_plan(const fc_conv *problem, const fc_kernels *kernels, int64_t rows, int whole);

/* Writes what workers share; returns the row of zeros and sets window.shift. */
const void *fc_depthwise_share(fc_depthwise *depthwise, const fc_conv *problem, int64_t size, void *scratch);

/* The rows behind `rows` output rows from (od, oh) of the channels from x on. */
void fc_depthwise_take(const fc_depthwise *depthwise, const fc_conv *problem, const fc_kernels *kernels, const void **table,
                       void *copies, const void *zero, const void *x, int64_t od, int64_t oh, int64_t rows);

#endif
