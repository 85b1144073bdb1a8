/* A table of pointers to an image's rows, for the drivers that read rows in place.
 *
 * Rows in the padding are one row of zeros.  The others are read where they are, unless their elements are no neighbours in
 * memory, or vectors that reach `left` elements before a row and up to `right` from its first would leave the image (the
 * first and last row, mostly): those are copied, with room around them.  What stands before them is not defined; after them it is
 * padding, for vectors that reach into it (what pointers had left there were denormals: means over 2 planes of 6x6 took 1.6 us,
 * then 1.1).
 */
#ifndef FC_ENGINE_ROWS_H
#define FC_ENGINE_ROWS_H

#include "engine/conv.h"

typedef struct fc_rows {
    int64_t height, width, row, element; /* the image: sizes and strides */
    int64_t left, right;
    int64_t first, last;   /* the rows that are read in place */
    int64_t copies, pitch; /* rows that a take copies at most, and what each takes */
    int64_t bytes;         /* scratch of one take */
} fc_rows;

/* Takes of at most `count` rows, one after the other. */
fc_rows fc_rows_plan(int64_t size, int64_t height, int64_t width, int64_t row, int64_t element, int64_t left, int64_t right,
                     int64_t count);

/* The same for `width` columns from column `begin` of rows of `total`; takes are given x at column `begin`. */
fc_rows fc_rows_plan_columns(int64_t size, int64_t height, int64_t total, int64_t begin, int64_t width, int64_t row,
                             int64_t element, int64_t left, int64_t right, int64_t count);

/* Bytes of the row of zeros that takes share, and that row. */
int64_t fc_rows_zero_bytes(const fc_rows *rows, int64_t size);
const void *fc_rows_zero(const fc_rows *rows, int64_t size, void *scratch);

/* table[i] = row first + i of the image at x, i < count; x may be NULL (all padding).  Returns the scratch that is left.
 * `zero` stands for the rows in the padding: zeros, or whatever the caller pads with. */
void *fc_rows_take(const fc_rows *rows, const fc_kernels *kernels, const void **table, void *scratch, const void *zero,
                   const void *x, int64_t first, int64_t count);

#endif
