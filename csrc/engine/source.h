/* Where a driver reads its input: in place where an image is laid out as a band already, else from a band copied per task.
 *
 * In place serves images without padding or stride whose rows follow each other without gaps: 1x1 convolutions, "valid"
 * ones, gradients of "full" ones.  Either way output (r, q) of the block stands at r * pitch + q, channel c at c * channel,
 * and tap k of the reduction at offset[k].
 */
#ifndef FC_ENGINE_SOURCE_H
#define FC_ENGINE_SOURCE_H

#include "engine/band.h"
#include "engine/conv.h"

typedef struct fc_source {
    fc_band band;
    int in_place;
    int64_t rows, pitch, channel;
    int64_t bytes; /* scratch of one worker; 0 in place */
} fc_source;

/* A source of `channels` channels at a time for bands of `rows` output rows.  In place there is no room to read beyond the
 * last position, so a driver that reads vectors says whether its blocks are long enough. */
fc_source fc_source_plan(const fc_conv *problem, int64_t size, int64_t channels, int64_t rows, int in_place_allowed);

/* From a flat band: rows of outputs follow each other without gaps. */
fc_source fc_source_plan_flat(const fc_conv *problem, int64_t size, int64_t channels, int64_t rows);

/* Positions from the block's first output to its last: what a product over the block has as columns. */
static inline int64_t fc_source_columns(const fc_source *source, int64_t rows, int64_t out_width)
{
    return (rows - 1) * source->pitch + out_width;
}

/* The most rows whose copy stays within `bytes`, at least one, spread evenly over the image. */
int64_t fc_source_rows(const fc_conv *problem, int64_t size, int64_t channels, int64_t bytes);

/* offset[(c * KD + kd) * KH * KW + kh * KW + kw] for `channels` channels. */
void fc_source_offsets(const fc_source *source, const fc_conv *problem, int64_t channels, int64_t *offset);

/* The block for output rows oh ... of plane od; `x` is the first channel's element (0, 0, 0). */
const void *fc_source_take(const fc_source *source, const fc_conv *problem, const fc_kernels *kernels, void *scratch,
                           const void *x, int64_t channels, int64_t od, int64_t oh);

#endif
