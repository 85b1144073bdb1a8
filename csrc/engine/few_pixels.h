/* What the drivers for few output pixels share: their patches. */
#ifndef FC_ENGINE_FEW_PIXELS_H
#define FC_ENGINE_FEW_PIXELS_H

#include "engine/conv.h"

/* Of all images, at most. */
enum { FC_FEW_PIXELS = 16 };

/* The patch under each output pixel, of each group, as a row: fc_reduction() elements and zeros up to `patch`. */
void fc_few_pixels_patches(const fc_conv *problem, const fc_kernels *kernels, const void *x, void *patches, int64_t patch);

#endif
