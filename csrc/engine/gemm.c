#include "engine/gemm.h"

void fc_gemm_plan(fc_gemm *g, const fc_kernels *kernels, int64_t m, int64_t columns)
{
    int64_t vectors = fc_ceil_div(columns, kernels->lanes);
    g->kernels = kernels;
    g->columns = columns;
    g->terms = FC_KC;
    if (vectors <= 2)
        g->strip = vectors < 1 ? 1 : (int)vectors;
    else if (m <= kernels->mr[4] && vectors >= 4)
        g->strip = 4;
    else
        g->strip = vectors == 4 ? 2 : kernels->nv;
    int64_t tiles = fc_max(1, fc_ceil_div(m, kernels->mr[g->strip]));
    g->rows = (int)fc_max(1, fc_ceil_div(m, tiles));
}

/* One product while the next lines of what is ahead are fetched, of a single row of it. */
static void run_far(const fc_gemm *g, fc_gemm_far_kernel far, int64_t k, const void *const *a, const void *b, const int64_t *b_offset,
                    void *c, const int64_t *c_offset, const void *init, int add)
{
    fc_ahead *ahead = g->ahead;
    const char *at = ahead->at + ahead->line * FC_ALIGN;
    int64_t lines = fc_min(g->fetch, ahead->lines - ahead->line);
    const fc_lines next = {at, fc_ceil_div(lines * FC_ALIGN / g->kernels->size, k), 0};
    ahead->line += lines;
    if (ahead->line == ahead->lines) {
        ahead->line = 0;
        ahead->at += ahead->row;
        ahead->rows--;
    }
    far(k, a, b, b_offset, c, c_offset, init, add, &next, 0);
}

/* The product for `vectors` whole vectors of columns, from `column` on. */
static void run_strips(const fc_gemm *g, int rows, const void *const *a, const void *b, void *c, int64_t c_row,
                       const void *init, int add, int64_t column, int64_t vectors)
{
    const fc_gemm_kernels *family = g->gather ? &g->kernels->gemm_gather : &g->kernels->gemm;
    int64_t size = g->kernels->size;
    const void *block[FC_MR_MAX];
    int64_t k0 = 0, most = fc_gemm_terms(g->kernels, g->k, g->terms), c_offset[FC_MR_MAX];
    for (int m = 0; m < rows; m++)
        c_offset[m] = m * c_row;
    do {
        int64_t k = fc_min(most, g->k - k0);
        for (int m = 0; m < rows; m++)
            block[m] = fc_at(a[m], g->gather ? 0 : k0, size);
        const int64_t *a_offset = g->gather ? g->a_offset + k0 : NULL;
        for (int64_t done = 0, nv; done < vectors; done += nv) {
            nv = fc_gemm_next_strip(g->strip, vectors - done);
            int64_t at = column + done * g->kernels->lanes;
            if (g->along && g->ahead && g->ahead->rows > 0 && g->kernels->gemm_far[nv][rows]) {
                run_far(g, g->kernels->gemm_far[nv][rows], k, block, fc_at(b, at, size), g->b_offset + k0, fc_at(c, at, size), c_offset,
                        init, add || k0);
                continue;
            }
            if (g->ahead)
                fc_fetch(g->ahead, g->fetch);
            (*family)[nv][rows](k, block, a_offset, fc_at(b, at, size), g->b_offset + k0, fc_at(c, at, size), c_offset, init,
                                add || k0);
        }
        k0 += k;
    } while (k0 < g->k);
}

void fc_gemm_run(const fc_gemm *g, int rows, const void *const *a, const void *b, void *c, int64_t c_row,
                 const void *init, int add)
{
    int64_t lanes = g->kernels->lanes, vectors = fc_ceil_div(g->columns, lanes), last = 0;
    if (g->columns % lanes && g->columns > lanes) {
        last = fc_gemm_last_strip(g->strip, vectors);
        if (last * lanes > g->columns)
            last = 1;
    }
    if (vectors > last)
        run_strips(g, rows, a, b, c, c_row, init, add, 0, vectors - last);
    if (last)
        run_strips(g, rows, a, b, c, c_row, init, add, g->columns - last * lanes, last);
}

double fc_gemm_cost(const fc_kernels *kernels, int64_t m, int64_t columns, int64_t k)
{
    fc_gemm g;
    fc_gemm_plan(&g, kernels, m, columns);
    double vectors = (double)fc_ceil_div(columns, kernels->lanes), tiles = (double)fc_ceil_div(m, g.rows);
    double blocks = (double)fc_ceil_div(k, FC_KC), strips = vectors / g.strip;
    /* A multiply-add per 1/8 ns (Zen 5, 4 GHz, two a cycle), at least a load per broadcast and, three times as dear because
     * it crosses cache lines, per vector of B (one row: k31 4x512@2000 3.6 ms); one vector a row reaches 60 % of that. */
    double arithmetic = (double)m * vectors * (g.strip == 1 ? 1.6 : 1.0), loads = (double)m * strips + 3.0 * tiles * vectors;
    return (double)k * 0.125 * (arithmetic > loads ? arithmetic : loads) + tiles * strips * blocks * 4.0;
}
