/* A band: the input that some output rows need, copied once, padded and split by stride phase.
 *
 * With stride s and dilation d, tap t of output o reads input position o s + t d - offset.  Writing t d = shift * s + phase,
 * the copy of phase f holds positions j s + f - offset, j = 0, 1, ..., and the tap reads its element j = o + shift: the
 * lanes o, o + 1, ... are neighbours in memory whatever the stride.  Phases repeat after s / gcd(s, d) taps, so only
 * `slots` = min(kernel, s / gcd(s, d)) of them are copied: a 1x1 convolution of stride 2 copies a quarter of the image.
 *
 * One channel of the band is [KD planes][slots of h][slots of w][copied_rows][pitch]; output (r, q) of the band stands at
 * r * pitch + q, and a tap adds fc_band_tap().  Padding, strides, dilation and any layout of x are solved here, once, for
 * the drivers that read it as a matrix or under a stencil.
 */
#ifndef FC_ENGINE_BAND_H
#define FC_ENGINE_BAND_H

#include "fastconv.h"
#include "kernels/kernels.h"

typedef struct fc_band {
    int64_t rows;               /* output rows that one band serves */
    int64_t slots[2];           /* phases of h and w */
    int flat;                   /* a slot of w for each tap, none of whose rows are longer than the output's */
    int64_t copied_rows, pitch; /* of one phase */
    int64_t channel;            /* elements of one channel's copy; INT64_MAX where they do not fit */
} fc_band;

fc_band fc_band_plan(const fc_window *window, int64_t rows);

/* Flat: KW copies, so that rows of outputs follow each other without gaps. */
fc_band fc_band_plan_flat(const fc_window *window, int64_t rows);

/* Where tap (kd, kh, kw) of the band's output (0, 0) stands in a channel's copy. */
int64_t fc_band_tap(const fc_band *band, const fc_window *window, int64_t kd, int64_t kh, int64_t kw);

/* Copies one channel for output rows oh, oh + 1, ... (at most band->rows) of output plane od.  `x` is the channel's
 * element (0, 0, 0), `stride` its strides, `fill` what stands in the padding. */
void fc_band_copy(const fc_band *band, const fc_window *window, const fc_kernels *kernels, void *dst, const void *x,
                  const int64_t stride[FC_AXES], int64_t od, int64_t oh, const void *fill);

/* Copies channels that are neighbours in x, padded with zeros, channel after channel: a row at a time is transposed. */
void fc_band_copy_neighbours(const fc_band *band, const fc_window *window, const fc_kernels *kernels, void *dst, int64_t channels,
                             const void *x, const int64_t stride[FC_AXES], int64_t od, int64_t oh);

#endif
