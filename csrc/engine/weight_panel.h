/* A panel: some rows of an image with its channels next to each other, as the weight gradients' products need them.
 *
 * Pixel (r, q) of the panel is `width` elements: input position (ih + r step[0], iw + q step[1]) of every channel, zeros in
 * the padding and beyond the last channel.  With `fold` rows, a pixel holds those of the rows below it too: element
 * k channels + c of it is channel c at (ih + r step[0] + k, iw + q step[1]).  So taps that are neighbours in a row (and, folded,
 * in a column) are neighbours in memory.
 */
#ifndef FC_ENGINE_WEIGHT_PANEL_H
#define FC_ENGINE_WEIGHT_PANEL_H

#include "engine/conv.h"

typedef struct fc_panel {
    int64_t width, fold; /* fold = 1: any width from the channels on; else width = fold channels */
    int64_t rows, pitch; /* at most, and pixels of a row */
    int64_t step[2];
} fc_panel;

/* Where the pixels come from: two axes of an image, and its channels. */
typedef struct fc_panel_image {
    const void *x;           /* channel 0, position (0, 0); NULL: all padding */
    int64_t channels, c;     /* number and stride */
    int64_t size[2], stride[2];
} fc_panel_image;

/* Elements of a panel of `rows` rows. */
static inline int64_t fc_panel_elements(const fc_panel *panel, int64_t rows)
{
    return fc_mul(fc_mul(rows, panel->pitch), panel->width);
}

/* Scratch of a pack. */
int64_t fc_panel_scratch(const fc_panel *panel, int64_t size);

void fc_panel_pack(const fc_panel *panel, const fc_kernels *kernels, void *dst, void *scratch, const fc_panel_image *image,
                   int64_t rows, int64_t ih, int64_t iw);

/* The way back: the first image->size rows and pixels of a panel of at most a vector of channels, `pitch` pixels a row, to x;
 * `past` the caches where its rows allow.  Scratch: as much as the panel. */
void fc_panel_store(const fc_kernels *kernels, const fc_panel_image *image, const void *panel, int64_t pitch, int past,
                    void *scratch);

#endif
