#include "engine/flat.h"

#include <string.h>

enum { WIDTH_MAX = 512 }; /* wider rows lose few lanes, and copies of theirs would be large */

fc_flat fc_flat_plan(const fc_conv *p, const fc_kernels *kernels, int64_t most)
{
    const fc_window *w = &p->window;
    fc_flat f = {0};
    int64_t width = w->out[2], size = kernels->size, lanes = kernels->lanes;
    for (int i = 0; i < FC_AXES; i++)
        if (w->stride[i] != 1 || w->kernel[i] != (i ? 3 : 1) || (i && w->dilation[i] != 1))
            return f;
    if (w->in[0] != 1 || w->out[0] != 1 || w->offset[0] || w->in[2] != width || w->offset[2] != 1 || width < 1 ||
        width > WIDTH_MAX || w->in[1] < 1 || w->out[1] < 1 || !fc_flat_rows(&p->x, w->in[1], width))
        return f;
    f = (fc_flat){.width = width, .height = w->in[1], .offset = w->offset[1], .least = fc_ceil_div(lanes, width)};
    f.most = fc_max(f.least, most / width);
    f.table_bytes = fc_bytes(2 * width + lanes, size);
    f.copy_bytes = fc_bytes((f.most + 2) * width, size);
    f.least_bytes = fc_bytes(f.least * width, size);
    return f;
}

void fc_flat_share(fc_flat *f, const fc_kernels *kernels, void *scratch)
{
    for (int64_t i = 0; i < 2 * f->width + kernels->lanes; i++)
        memset(fc_at(scratch, i, kernels->size), (i + 1) % f->width ? 0xff : 0, (size_t)kernels->size);
    f->inside = scratch;
}

fc_flat_piece fc_flat_take(const fc_flat *f, const fc_kernels *kernels, const void *x, int64_t row, int64_t end, void *copy)
{
    int64_t size = kernels->size, width = f->width, top = row - f->offset, inside = fc_min(end, f->height - 2 + f->offset);
    if (top >= 0 && inside - row >= f->least)
        return (fc_flat_piece){fc_at(x, top * width, size), inside - row, (inside - row) * width};
    int64_t rows = fc_min(end - row, f->most);
    if (rows < end - row && top < 0) /* those that follow may be read in place */
        rows = fc_min(rows, fc_max(f->least, -top));
    int64_t total = fc_max(rows, f->least) + 2, first = fc_max(0, fc_min(top, f->height));
    int64_t last = fc_max(first, fc_min(top + rows + 2, f->height)), before = fc_max(0, fc_min(first - top, total));
    memset(copy, 0, (size_t)(before * width * size));
    kernels->scatter_row(fc_at(copy, before * width, size), 1, fc_at(x, first * width, size), (last - first) * width, 0);
    before += last - first;
    memset(fc_at(copy, before * width, size), 0, (size_t)((total - before) * width * size));
    return (fc_flat_piece){copy, rows, (total - 2) * width};
}
