#include "engine/winograd_blocks.h"

/* Blocks are a strip of the kernel's wide, so that none of their products is a single vector's.  Rejected: four of AVX-512's in 6x4 tiles
 * (7x7 64-64@14 b8 from 2.13 to 2.29 ms, 3x3 256-256@28 from 2.42 to 2.69).  AVX2, Zen 3, blocks of three vectors, two, four: 3x3 64-64@224
 * 18.4, 17.4, 17.5 ms, 256-256@8 b32 11.4, 10.8, 10.4, 32-64@32 b32 6.56, 6.34, 6.37, k80s4 1-64 7.8, 6.5, 6.4. */
fc_winograd_blocks fc_winograd_blocks_cut(const fc_kernels *kernels, int64_t outputs, int threads)
{
    fc_winograd_blocks b = {.kernels = kernels, .outputs = outputs, .vectors = fc_ceil_div(outputs, kernels->lanes)};
    b.parts = fc_min(b.vectors, fc_ceil_div(fc_ceil_div(b.vectors, kernels->nv), threads) * threads);
    b.width = fc_ceil_div(b.vectors, b.parts) * kernels->lanes;
    return b;
}

fc_winograd_part fc_winograd_part_at(const fc_winograd_blocks *b, int64_t index)
{
    int64_t lanes = b->kernels->lanes, begin = b->vectors * index / b->parts, end = b->vectors * (index + 1) / b->parts;
    return (fc_winograd_part){begin * lanes, fc_min(b->outputs, end * lanes) - begin * lanes, (end - begin) * lanes};
}

void fc_winograd_offsets(const fc_winograd_blocks *b, int64_t terms, int64_t *offset)
{
    for (int64_t c = 0; c < terms; c++) {
        offset[c] = c * b->width;
        offset[terms + c] = c * (b->width - b->kernels->lanes);
    }
}

fc_winograd_product fc_winograd_product_plan(const fc_winograd_blocks *b, const fc_winograd_part *part, const int64_t *offset,
                                             int64_t terms, const int64_t *place, int64_t tiles)
{
    fc_winograd_product product = {.blocks = b, .place = place, .tiles = tiles, .width = part->width};
    product.u_offset = offset + (part->width < b->width ? terms : 0);
    fc_gemm_plan(&product.gemm, b->kernels, tiles, part->width);
    if (part->width == b->kernels->lanes && tiles > 0)
        product.gemm.rows = (int)fc_min(product.gemm.rows, fc_ceil_div(tiles, fc_ceil_div(tiles, FC_VECTOR_ROWS)));
    for (int i = 0; i < product.gemm.rows; i++)
        product.c_offset[i] = i * part->width;
    return product;
}

void fc_winograd_product_run(const fc_winograd_product *product, int64_t terms, const char *v, const char *u, char *m, int add)
{
    const fc_kernels *kernels = product->blocks->kernels;
    int64_t size = kernels->size, vectors = product->width / kernels->lanes;
    for (int64_t t = 0, rows; t < product->tiles; t += rows) {
        rows = fc_min(product->gemm.rows, product->tiles - t);
        const void *a[FC_MR_MAX];
        for (int i = 0; i < rows; i++)
            a[i] = v + product->place[t + i];
        for (int64_t done = 0, nv; done < vectors; done += nv) {
            int64_t at = done * kernels->lanes;
            nv = fc_gemm_next_strip(product->gemm.strip, vectors - done);
            kernels->gemm[nv][rows](terms, a, NULL, fc_at(u, at, size), product->u_offset, fc_at(m, t * product->width + at, size),
                                    product->c_offset, NULL, add);
        }
    }
}
