#include "engine/rows.h"

#include <string.h>

fc_rows fc_rows_plan(int64_t size, int64_t height, int64_t width, int64_t row, int64_t element, int64_t left, int64_t right,
                     int64_t count)
{
    return fc_rows_plan_columns(size, height, width, 0, width, row, element, left, right, count);
}

fc_rows fc_rows_plan_columns(int64_t size, int64_t height, int64_t total, int64_t begin, int64_t width, int64_t row,
                             int64_t element, int64_t left, int64_t right, int64_t count)
{
    fc_rows r = {.height = height, .width = width, .element = element, .left = left, .right = right};
    r.row = height == 1 ? total : row; /* NumPy's stride of an axis of size 1 means nothing */
    r.pitch = fc_add(left, fc_max(right, width));
    r.copies = count;
    r.last = -1;
    if (element == 1 && r.row >= total && width > 0) {
        int64_t room = (height - 1) * r.row + total - begin - right;
        r.first = fc_ceil_div(fc_max(0, left - begin), r.row);
        r.last = room >= 0 ? fc_min(height - 1, room / r.row) : -1;
        r.copies = fc_min(count, fc_max(0, height - fc_max(0, r.last - r.first + 1)));
    }
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
    int64_t i = first, last = fc_min(r->last, first + count - 1), bytes = r->row * kernels->size;
    while (i < first + count) {
        const char *at = fc_at(x, i * r->row, kernels->size);
        if (!x || i < 0 || i >= r->height) {
            *table++ = zero;
            i++;
        } else if (i >= r->first && i <= last) {
            for (; i <= last; i++, at += bytes)
                *table++ = at;
        } else {
            void *row = fc_at(scratch, r->left, kernels->size);
            kernels->gather_row(row, r->pitch - r->left, at, r->element, 0, 1, r->width, zero);
            scratch = fc_at(scratch, r->pitch, kernels->size);
            *table++ = row;
            i++;
        }
    }
    return scratch;
}
