/* What the Winograd drivers with lanes over channels share: blocks of output channels, and the products of one frequency. */
#ifndef FC_ENGINE_WINOGRAD_BLOCKS_H
#define FC_ENGINE_WINOGRAD_BLOCKS_H

#include "engine/gemm.h"

/* The output channels in vectors, cut into blocks. */
typedef struct fc_winograd_blocks {
    const fc_kernels *kernels;
    int64_t outputs, vectors, parts, width; /* channels; vectors; blocks of them, elements of the widest */
} fc_winograd_blocks;

/* A block: channels o ... o + outputs, in vectors of `width` elements together. */
typedef struct fc_winograd_part {
    int64_t o, outputs, width;
} fc_winograd_part;

/* `threads`: which the blocks are tasks of, as many for each; 1 where they are not. */
fc_winograd_blocks fc_winograd_blocks_cut(const fc_kernels *kernels, int64_t outputs, int threads);

fc_winograd_part fc_winograd_part_at(const fc_winograd_blocks *blocks, int64_t index);

/* Rows of U for sums of `terms`: for the widest blocks in offset[0 ...], for those a vector narrower in offset[terms ...]. */
void fc_winograd_offsets(const fc_winograd_blocks *blocks, int64_t terms, int64_t *offset);

/* M += V U at one frequency for one block, or M = V U: not by fc_gemm_run, as a product of 16 terms and two vectors takes as long
 * as its tables of rows. */
typedef struct fc_winograd_product {
    const fc_winograd_blocks *blocks;
    fc_gemm gemm;
    const int64_t *u_offset, *place; /* of U's rows, in elements; of V's, one for each tile, in bytes */
    int64_t tiles, width, c_offset[FC_MR_MAX];
} fc_winograd_product;

/* `offset` as fc_winograd_offsets has left it. */
fc_winograd_product fc_winograd_product_plan(const fc_winograd_blocks *blocks, const fc_winograd_part *part, const int64_t *offset,
                                             int64_t terms, const int64_t *place, int64_t tiles);
void fc_winograd_product_run(const fc_winograd_product *product, int64_t terms, const char *v, const char *u, char *m, int add);

#endif
