#include "engine/rows.h"

#include <string.h>

fc_rows fc_rows_plan(int64_t size, int64_t height, int64_t width, int64_t row, int64_t element, int64_t left, int64_t right,
                     int64_t count)
{
    fc_rows r = {.height = height, .width = width, .element = element, .left = left, .right = right};
    r.row = height == 1 ? width : row; /* NumPy's stride of an axis of size 1 means nothing */
    r.in_place = element == 1 && r.row >= width && width > 0;
    r.pitch = fc_add(left, fc_max(right, width));
    r.copies = count;
    if (r.in_place)
        r.copies = fc_min(count, fc_add(fc_ceil_div(left, r.row), fc_ceil_div(fc_max(0, right - width), r.row)));
    r.bytes = fc_arena_round(fc_min(INT64_MAX / 8, fc_mul(fc_mul(r.copies, r.pitch), size)));
    return r;
}

int64_t fc_rows_zero_bytes(const fc_rows *r, int64_t size)
{
    return fc_arena_round(fc_min(INT64_MAX / 8, fc_mul(r->pitch, size)));
}

const void *fc_rows_zero(const fc_rows *r, int64_t size, void *scratch)
{
    memset(scratch, 0, (size_t)(r->pitch * size));
    return fc_at(scratch, r->left, size);
}

void *fc_rows_take(const fc_rows *r, const fc_kernels *kernels, const void **table, void *scratch, const void *zero,
                   const void *x, int64_t first, int64_t count)
{
    int64_t end = (r->height - 1) * r->row + r->width;
    for (int64_t i = first; i < first + count; i++) {
        const void *at = fc_at(x, i * r->row, kernels->size);
        if (!x || i < 0 || i >= r->height) {
            *table++ = zero;
        } else if (r->in_place && i * r->row >= r->left && i * r->row + r->right <= end) {
            *table++ = at;
        } else {
            void *row = fc_at(scratch, r->left, kernels->size);
            kernels->gather_row(row, r->width, at, r->element, 0, 1, r->width, zero);
            scratch = fc_at(scratch, r->pitch, kernels->size);
            *table++ = row;
        }
    }
    return scratch;
}
