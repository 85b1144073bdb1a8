/* Blocks of B outermost:
 *
 *     for each block of 64 rows of B
 *         for each strip of columns
 *             for each tile of rows of C:  gemm kernel, added to C but for the first block
 *
 * A (64 x 256) B (256 x 448, rows 12 KiB apart), GFLOPS of a peak of 172 (Emerald Rapids, one core): fc_gemm_run 118; blocks of
 * 32, 64, 96, 128, 256 terms 136, 147, 139, 129, 112, since a first-level TLB has 64 to 96 entries; tiles of 6x4, 9x3, 14x2 at 64
 * terms 147, 136, 135.  Rejected: fetching the next block ahead (as fast: the rows of a block are few enough for the hardware to
 * follow).
 */
#include "engine/sweep.h"

enum { PLANE_BYTES = 1024 };

int fc_sweep_pays(const fc_conv *p, const fc_kernels *kernels)
{
    const fc_window *w = &p->window;
    return fc_taps(w) == 1 && p->channels > FC_SWEEP_TERMS && p->out_channels >= kernels->mr[kernels->nv] &&
           fc_mul(w->in[1], w->in[2]) * kernels->size >= PLANE_BYTES;
}

/* As wide as leaves a tile six rows, else as the ISA prefers. */
static int strip_of(const fc_kernels *kernels)
{
    return kernels->mr[4] >= 6 ? 4 : kernels->nv;
}

/* All rows of one block of terms, k0 ... k0 + k, and one strip at `column`. */
static void run_block(const fc_gemm *g, int64_t rows, const char *a, int64_t a_row, const void *b, char *c, int64_t c_row,
                      const void *init, int64_t k0, int64_t k, int64_t column, int nv)
{
    int64_t size = g->kernels->size, tiles = fc_ceil_div(rows, g->kernels->mr[nv]), height = fc_ceil_div(rows, tiles);
    int64_t c_offset[FC_MR_MAX];
    for (int m = 0; m < FC_MR_MAX; m++)
        c_offset[m] = m * c_row;
    for (int64_t o = 0, mr; o < rows; o += mr) {
        mr = fc_min(height, rows - o);
        const void *block[FC_MR_MAX];
        for (int m = 0; m < mr; m++)
            block[m] = fc_at(a, (o + m) * a_row + k0, size);
        g->kernels->gemm[nv][mr](k, block, NULL, fc_at(b, column, size), g->b_offset + k0, fc_at(c, o * c_row + column, size),
                                 c_offset, init ? fc_at(init, o, size) : NULL, k0 > 0);
    }
}

void fc_sweep_run(const fc_gemm *g, int64_t rows, const void *a, int64_t a_row, const void *b, void *c, int64_t c_row,
                  const void *init)
{
    int64_t lanes = g->kernels->lanes, vectors = fc_ceil_div(g->columns, lanes), k, tail = 0;
    int strip = strip_of(g->kernels);
    if (g->columns % lanes && vectors > 1)
        tail = fc_gemm_last_strip(strip, vectors);
    if (tail * lanes > g->columns)
        tail = 1;
    vectors -= tail; /* the last strip overlaps the one before and is done by itself, for blocks are added up */
    for (int64_t k0 = 0; k0 < g->k; k0 += k) {
        k = fc_min(FC_SWEEP_TERMS, g->k - k0);
        for (int64_t done = 0, nv; done < vectors; done += nv) {
            nv = fc_gemm_next_strip(strip, vectors - done);
            run_block(g, rows, a, a_row, b, c, c_row, init, k0, k, done * lanes, (int)nv);
        }
    }
    for (int64_t k0 = 0; k0 < g->k && tail; k0 += k) {
        k = fc_min(FC_SWEEP_TERMS, g->k - k0);
        run_block(g, rows, a, a_row, b, c, c_row, init, k0, k, g->columns - tail * lanes, (int)tail);
    }
}
