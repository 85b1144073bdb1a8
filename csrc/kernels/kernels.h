/* The interface between the engine and the code that is compiled once per instruction set.
 *
 * A table of kernels exists per ISA and real type.  Kernels compute full tiles on contiguous or regularly strided memory;
 * they know nothing of padding, threads or allocation, and every tail is the engine's business.  Pointers are untyped here
 * so that the engine is written once; all counts, offsets and strides are in elements.
 */
#ifndef FC_KERNELS_H
#define FC_KERNELS_H

#include <stddef.h>
#include <stdint.h>

enum { FC_MR_MAX = 14, FC_NV_MAX = 4, FC_LANES_MAX = 16, FC_WINOGRAD_CELLS_MAX = 8, FC_LINE_BYTES = 64 };

/* gemm:         C[m][n] = init[m] + sum_{k < K} A[m][k] * B[k][n]           (add: C[m][n] += the sum)
 * gemm_gather:  the same with A[m][a_offset[k]] for A[m][k]
 *
 * m < mr rows and n < nv * lanes columns, both constants of the variant.  Row m of A begins at a[m].  Row k of B begins at
 * b + b_offset[k] and is contiguous in n; any alignment.  So packed panels, an image read in place and the rows of a padded
 * copy are all the same to the kernel.  Row m of C is c + c_offset[m].  `init` may be NULL (zeros); C is read only to add.
 * K may be 0.  Each element is one chain of fused multiply-adds in the order of k, then one addition, whatever the variant:
 * results do not depend on how a matrix is cut into tiles.  gemm ignores a_offset. */
typedef void (*fc_gemm_kernel)(int64_t k, const void *const *a, const int64_t *a_offset, const void *b,
                               const int64_t *b_offset, void *c, const int64_t *c_offset, const void *init, int add);
typedef fc_gemm_kernel fc_gemm_kernels[FC_NV_MAX + 1][FC_MR_MAX + 1]; /* [nv][mr]; NULL above the most rows */

/* Cache lines, at any address: 2^run that follow each other, and again from `row` elements further on. */
typedef struct fc_lines {
    const void *at;
    int64_t row;
    int run;
} fc_lines;

/* gemm_far:  gemm where what follows is in no cache: with every term one of the lines `ahead` is fetched to the second-level cache.
 * past: C, whose rows all begin at multiples of a vector's bytes, is written past the caches, and nothing is added to it; then ahead may
 * be NULL, and a barrier (__sync_synchronize) stands before others may read C.  Only at the vectors of a packed strip: four where six
 * rows go with them, else the table's nv. */
typedef void (*fc_gemm_far_kernel)(int64_t k, const void *const *a, const void *b, const int64_t *b_offset, void *c,
                                   const int64_t *c_offset, const void *init, int add, const fc_lines *ahead, int past);
typedef fc_gemm_far_kernel fc_gemm_far_kernels[FC_NV_MAX + 1][FC_MR_MAX + 1]; /* [nv][mr]; NULL where there is none */

/* gemm_pack:  gemm with row k of B at b + k * b_step, which is stored too, at panel + k * nv * lanes: of a strip that many tiles share
 * the first copies what the others read.  `past` and vectors as gemm_far's. */
typedef void (*fc_gemm_pack_kernel)(int64_t k, const void *const *a, const void *b, int64_t b_step, void *panel, void *c,
                                    const int64_t *c_offset, const void *init, int add, int past);
typedef fc_gemm_pack_kernel fc_gemm_pack_kernels[FC_NV_MAX + 1][FC_MR_MAX + 1]; /* [nv][mr]; NULL where there is none */

/* gemm_pairs:  C(m, h)[2 i + f] = init[2 m + f] + sum_{k < K} A[2 m + f][k] * B[k][h * lanes / 2 + i],   i < lanes / 2, f < 2
 *
 * Pairs of gemm's rows interleaved: m < mr / 2, h < 2 nv; C(m, h) is at c + c_offset[m] + place[h].  Up to the table's nv, with an
 * even number of rows, six at most or, where the table has 9x3 tiles, eight. */
typedef void (*fc_gemm_pairs_kernel)(int64_t k, const void *const *a, const void *b, const int64_t *b_offset, void *c,
                                     const int64_t *c_offset, const int64_t *place, const void *init);
typedef fc_gemm_pairs_kernel fc_gemm_pairs_kernels[FC_NV_MAX + 1][FC_MR_MAX + 1]; /* [nv][mr]; NULL where there is none */

/* gemm_short:  C[m][n] (+)= init[m] + sum_{k < K} A[k * a_row + m] * B[k][n],   m < mr, n < nv * lanes,   for each of some products
 *
 * gemm of a transposed A, for sums of few terms too: rows of C are c_row apart; B and C of a product are b_next and c_next beyond those of
 * the one before.  All variants that gemm has, the same bits. */
typedef void (*fc_gemm_short_kernel)(int64_t times, int64_t k, const void *a, int64_t a_row, const void *b, int64_t b_next,
                                     const int64_t *b_offset, void *c, int64_t c_next, int64_t c_row, const void *init, int add);
typedef fc_gemm_short_kernel fc_gemm_short_kernels[FC_NV_MAX + 1][FC_MR_MAX + 1]; /* [nv][mr]; NULL above the most rows */

/* gemm_runs:  C[m][n] (+)= sum_{i < K / R, r < R} A[m][a_offset[i] + r] * B(i, r)[n],   B(i, r) = b + (b_row[i] + r) * nv * lanes
 *
 * gemm_gather of a panel as wide as the tile, whose terms stand in runs of R = FC_RUN, a whole number of them and at least one; also that
 * many a block of the sum, whose blocks are added to C one by one.  All variants that gemm has, where vectors have 32 bytes:
 * of SSE2's it takes 1.2 times as long as gemm_gather (3x3 512-512@14, 3x3s2 128-128@56). */
enum { FC_RUN = 8 };
typedef void (*fc_gemm_runs_kernel)(int64_t k, int64_t block, const void *const *a, const int64_t *a_offset, const void *b,
                                    const int64_t *b_row, void *c, const int64_t *c_offset, int add);
typedef fc_gemm_runs_kernel fc_gemm_runs_kernels[FC_NV_MAX + 1][FC_MR_MAX + 1]; /* [nv][mr]; NULL where there is none */

/* turned:  C[j][m] = B[0][j] + sum_{i < K} A[a_offset[i] + m * step] * B[1 + i][j],   m < mr, j < outputs,   for each of some tiles
 *
 * Tile t's A begins at a + at[t][0], row j of its C is c + at[t][1] + j * c_row.  mr, step (1 or 2) and nv (1 or 2) are constants of the
 * variant; a row of B is nv vectors and follows the last, outputs is at least 1 and at most their lanes.  Whole vectors of rows are
 * written, whatever beyond m, a tile's before the next one's; of the last tile, if `exact`, mr elements.  Each element is one chain
 * of multiply-adds in the order of i, whatever the variant. */
typedef void (*fc_turned_kernel)(int64_t tiles, const int64_t (*at)[2], int64_t k, const void *a, const int64_t *a_offset,
                                 const void *b, void *c, int64_t c_row, int64_t outputs, int exact);
typedef fc_turned_kernel fc_turned_kernels[2][2][FC_LANES_MAX + 1]; /* [nv - 1][step - 1][mr]; NULL where there is none */

/* dots:  C[m][n] = init[m] + sum_{k < K} A[m][k] * B[n][k],   m < rows, n < columns           (add: C[m][n] += the sum)
 *
 * Rows of A, B and C begin a_row, b_row and c_row apart; B is followed by zeros up to whole vectors of k.  Each element is summed
 * in as many parts as there are lanes, whatever rows and columns are. */
typedef void (*fc_dots_kernel)(int64_t k, const void *a, int64_t a_row, const void *b, int64_t b_row, void *c, int64_t c_row,
                               const void *init, int add, int64_t rows, int64_t columns);

/* stencil:  y[r][q] = init + sum_t w[t] * x[r * x_row + q + offset[t]],   r < rows, q < width
 *
 * One channel under one filter; width >= lanes (the last vector overlaps the one before). */
typedef void (*fc_stencil_kernel)(int64_t taps, const int64_t *offset, const void *w, const void *init, const void *x,
                                  int64_t x_row, void *y, int64_t y_row, int64_t rows, int64_t width);

/* stencil_runs:  y[r][q] = init + sum_{l < lines, k < run} w[l * run + k] * x[r * x_row + q + offset[l] + k],   r < rows, q < width
 *
 * The same, of neighbouring taps. */
typedef void (*fc_stencil_runs_kernel)(int64_t lines, const int64_t *offset, int64_t run, const void *w, const void *init,
                                       const void *x, int64_t x_row, void *y, int64_t y_row, int64_t rows, int64_t width);

/* correlate:  sum[t] += sum_{r < rows, q < width} x[r * x_row + q + offset[t]] * y[r * y_row + q],   t < taps
 *
 * Rows of x and y can be read in whole vectors beyond width; what stands there does not count. */
typedef void (*fc_correlate_kernel)(double *sum, int64_t taps, const int64_t *offset, const void *x, int64_t x_row,
                                    const void *y, int64_t y_row, int64_t rows, int64_t width);

/* cross:  sum[n * sum_row + m * lanes] = sum_i x[m][at[i][0]] * y[n][at[i][1]],  vectors   (add: += the sum)
 *
 * m < mr and n < nr, both constants of the variant; i < whole + partial, of which the last `partial` vectors count with their last
 * `rest` lanes only, whatever stands in the others.
 *
 * lane_sums:  dst[j] = the sum of all lanes of the vector at src + j * lanes,  j < count */
enum { FC_CROSS_MAX = 5 };
typedef struct fc_cross_pixels {
    const int64_t (*at)[2];
    int64_t whole, partial, rest;
} fc_cross_pixels;
typedef void (*fc_cross_kernel)(const fc_cross_pixels *pixels, const void *const *x, const void *const *y, void *sum,
                                int64_t sum_row, int add);
typedef void (*fc_lane_sums_kernel)(void *dst, const void *src, int64_t count);

/* trail:  sum[(l * taps + k) * sum_row] = sum_{r < rows, q < width} x[l][r * x_row + q + k] * y[r * y_row + q * y_pixel],  vectors of
 *         sum and y   (add: += the sum)
 *
 * l < lines and k < taps, both constants of the variant; width >= taps. */
enum { FC_TRAIL_TAPS = 7, FC_TRAIL_LINES = 9 };
typedef struct fc_trail_pixels {
    int64_t rows, width, x_row, y_row, y_pixel;
} fc_trail_pixels;
typedef void (*fc_trail_kernel)(const fc_trail_pixels *pixels, const void *const *x, const void *y, void *sum, int64_t sum_row, int add);

/* depthwise: one channel under one filter, whose input is a table of rows, so that padding above and below, and rows that
 * cannot be read in place, cost a pointer each.  x(kd, i, j) is element j of row[kd * plane + i * step]:
 *
 * depthwise:         y[r][q] = init + sum_{kd, kh, kw} w[kd][kh][kw] * x(kd, r * S + kh, q * S + shift[kw])
 * depthwise_weight:  sum[kd][kh][kw] += sum_{r, q} gradient[r * step][q] * x(kd, r * S + kh, q * S + shift[kw])
 *
 * with r < rows, q < out; x is zero where 0 <= j < in does not hold; S = 1 or 2 and the kernel's height are constants of the
 * variant.  shift ascends.  Whole vectors are read from every row (and gradient): from element min(0, shift[0]) on, up to
 * where a vector of outputs at the last column, or at column 0 where out < lanes, ends: LANES * S elements from its first.
 * Whole vectors are written: with out < lanes beyond the row, rows in ascending order.
 *
 * depthwise with S = 2 and a height of FC_DEPTHWISE_SPLIT or more takes rows as split_rows leaves them, and their padding: columns
 * are q + shift[kw], whatever `in`, and shift is in any order.
 *
 * split_rows:  dst[2 r pitch + j % 2 * pitch + j / 2] = x[r * x_row + j * x_stride] where j < in, else 0;  r < rows, j < 2 pitch
 *
 * pitch is a multiple of lanes. */
enum { FC_DEPTHWISE_HEIGHT_MAX = 9, FC_DEPTHWISE_SPLIT = 4 };
typedef struct fc_depthwise_window {
    int64_t planes, plane, step; /* KD, and strides of the table */
    int64_t taps;                /* KW */
    const int64_t *shift;
    int64_t in, out; /* widths */
} fc_depthwise_window;

typedef void (*fc_depthwise_kernel)(const fc_depthwise_window *window, const void *w, const void *init,
                                    const void *const *row, void *y, int64_t y_row, int64_t rows);
typedef void (*fc_depthwise_weight_kernel)(const fc_depthwise_window *window, double *sum, const void *const *row,
                                           const void *const *gradient, int64_t rows);

typedef void (*fc_split_rows_kernel)(void *dst, int64_t pitch, const void *x, int64_t x_row, int64_t x_stride, int64_t in,
                                     int64_t rows);

/* planes: lanes over channels that share nothing but their geometry; an element of x, y, w, init and sum is a vector here, whose
 * offsets and steps count reals:
 *
 * planes_stencil:    y[q * y_step] = init + sum_{l < lines, k < run[l]} w[t] * x[offset[l] + (q + k) * x_step],  q < count,
 *                    t = 0, 1, ... in the order of l, then k; init may be NULL (zeros), lines 0; clamped to bounds[0] ... bounds[1]
 * planes_correlate:  sum[t] += sum_{r < rows, q < count} x[r * x_row + q * x_step + offset[t]] * y[r * y_row + q * y_step],
 *                    t < taps */
typedef void (*fc_planes_stencil_kernel)(int64_t lines, const int64_t *offset, const int64_t *run, const void *w, const void *init,
                                         const void *x, int64_t x_step, void *y, int64_t y_step, int64_t count,
                                         const double *bounds);
typedef void (*fc_planes_correlate_kernel)(void *sum, int64_t taps, const int64_t *offset, const void *x, int64_t x_step,
                                           int64_t x_row, const void *y, int64_t y_step, int64_t y_row, int64_t rows,
                                           int64_t count);
/* depthwise for 3 x 3 taps at stride 1 over a plane of height x width elements without gaps, the columns padded by one:
 *
 * depthwise_flat:         y[r][q] = init + sum_{kh, kw} w[(3 kh + kw) w_step] * x(row + r + kh, q + kw - 1),   r < rows, q < width
 * depthwise_flat_weight:  sum[3 kh + kw] += sum_{r, q} gradient[r][q] * x(row + r + kh, q + kw - 1)
 *
 * without the terms that lie outside of x; rows of y and gradient have no gaps either.  Nothing beyond any of them is read or
 * written; rows is at least 1, row any. */
typedef void (*fc_depthwise_flat_kernel)(const void *w, int64_t w_step, const void *init, const void *x, int64_t height,
                                         int64_t width, int64_t row, void *y, int64_t rows);
typedef void (*fc_depthwise_flat_weight_kernel)(double *sum, const void *x, int64_t height, int64_t width, int64_t row,
                                                const void *gradient, int64_t rows);

/* depthwise_weave: the adjoint of stride 2, of K x K taps padded by P, both constants of the variant; y is a table of rows:
 *
 *     x[r][q] = init + sum_{kh, kw} w[K kh + kw] * y((r + P - kh) / 2, (q + P - kw) / 2),   r < rows, q < out
 *
 * over the taps that make both whole.  y(i, j) is element j + shift of row[i + (K - 1 - P) / 2], zero for elements outside of
 * [0, in).  Whole vectors of y are read: from the first element that a term of column 0 meets, up to where a vector ends that
 * begins at the last (or at those of column 0).  Whole vectors of x are written: beyond a row where rows stand side by side and
 * what is written too much belongs to rows that are written later. */
enum { FC_WEAVE_SIDE_MIN = 3, FC_WEAVE_SIDE_MAX = 5 };
typedef struct fc_weave_window {
    int64_t shift, in, out; /* in, out: widths */
} fc_weave_window;

typedef void (*fc_depthwise_weave_kernel)(const fc_weave_window *window, const void *w, const void *init, const void *const *row,
                                          void *x, int64_t x_row, int64_t rows);

/* gather_row:  dst[j] = x[first + j * step] where 0 <= first + j * step < size, else fill;   j < count.
 * Element i of x stands at x + i * x_stride.  The one place where padding, strides and row ends are solved.  A NULL x is
 * a row that lies in the padding altogether. */
typedef void (*fc_gather_row_kernel)(void *dst, int64_t count, const void *x, int64_t x_stride, int64_t first, int64_t step,
                                     int64_t size, const void *fill);

/* gather_rows:  dst[r * dst_row + j] = x[first[0] + r * step[0]][first[1] + j * step[1]] where both lie within size, else fill;
 * r < rows, j < count.  Element (i, j) of x stands at x + i * x_stride[0] + j * x_stride[1].  A NULL x lies in the padding altogether.
 * dst_row is at least count. */
typedef void (*fc_gather_rows_kernel)(void *dst, int64_t dst_row, int64_t rows, int64_t count, const void *x, const int64_t *x_stride,
                                      const int64_t *first, const int64_t *step, const int64_t *size, const void *fill);

/* gather_pairs:  even[r * count + j] and odd[r * count + j] = x[first[0] + r * step][first[1] + 2 j] and the element after it, each
 * where it lies within size, else fill;   r < rows, j < count.  gather_rows twice, of rows x_row apart, read once. */
typedef void (*fc_gather_pairs_kernel)(void *even, void *odd, int64_t rows, int64_t count, const void *x, int64_t x_row,
                                       const int64_t *first, int64_t step, const int64_t *size, const void *fill);

/* gather_block:  dst[r * dst_row + ((c * n[1] + i) * n[2] + j) * n[3] + k] = x[r, c, i, j, k],   r < rows, all of n.
 * Read in the order of c, then r: for weights whose rows r are neighbours and whose channels c are far apart. */
typedef void (*fc_gather_block_kernel)(void *dst, int64_t dst_row, int64_t rows, const int64_t *n, const void *x, int64_t x_row,
                                       const int64_t *x_stride);

/* scatter_row:  dst[j * dst_stride] = src[j]   (add: +=);   j < count. */
typedef void (*fc_scatter_row_kernel)(void *dst, int64_t dst_stride, const void *src, int64_t count, int add);

/* space_rows:  for each span, dst[r * dst_row + j] = src[j / 2] where r is 0 and j even, else fill;   r < rows, j < count, from src
 * and dst on; the same for each of `planes`, whose fill is one of an array, or zero where that is NULL.  Up to a vector of src may
 * be read beyond its row. */
typedef struct fc_spaced {
    int64_t src, dst, count, rows;
} fc_spaced;
typedef void (*fc_space_rows_kernel)(void *dst, int64_t dst_plane, int64_t dst_row, const fc_spaced *spans, int64_t span_count,
                                     const void *src, int64_t src_plane, int64_t planes, const void *fill);

/* copy_vectors:  `vectors` whole vectors at dst + j * dst_step = those at src + j * src_step, or zeros where src is NULL;
 * j < count. */
typedef void (*fc_copy_vectors_kernel)(void *dst, int64_t dst_step, const void *src, int64_t src_step, int vectors,
                                       int64_t count);

/* interleave:  dst[2 j] = even[j], dst[2 j + 1] = odd[j], up to dst[count - 1]; half a vector beyond both is read. */
typedef void (*fc_interleave_kernel)(void *dst, const void *even, const void *odd, int64_t count);

/* transpose:  dst[j * dst_row + i] = src[i * src_row + j],   i < rows, j < columns; any sizes.
 * transpose_past:  the same, past the caches where whole vectors have their place in memory; who reads dst waits for a fence. */
typedef void (*fc_transpose_kernel)(void *dst, int64_t dst_row, const void *src, int64_t src_row, int64_t rows,
                                    int64_t columns);

/* transpose_taps:  dst[(i lanes + l) taps + t] = src[place[i] + offset[t] + l],   i < count, l < lanes, t < taps.  Up to a vector
 * beyond dst is written. */
typedef void (*fc_transpose_taps_kernel)(void *dst, const void *src, const int64_t *place, int64_t count, const int64_t *offset,
                                         int64_t taps);

/* transpose_rows:  dst[place[j] + i] = src[i * src_row + j],   i < rows, j < columns; a negative place is left out.  Whole
 * vectors are written: zeros for i >= rows. */
typedef void (*fc_transpose_rows_kernel)(void *dst, const int64_t *place, const void *src, int64_t src_row, int64_t rows,
                                         int64_t columns);

/* sum_row:  *sum += sum_{j < count} x[j * x_stride], in double lanes for float32. */
typedef void (*fc_sum_row_kernel)(double *sum, const void *x, int64_t x_stride, int64_t count);

/* dot (the reference driver's body): one output element, taps over one axis after the other.
 *   init + sum_{c < n[0], a < n[1], b < n[2], d < n[3]} x[c, a, b, d] * w[c, a, b, d], strides per axis for both. */
typedef void (*fc_dot_kernel)(void *y, const void *init, const int64_t *n, const void *x, const int64_t *x_stride,
                              const void *w, const int64_t *w_stride);

/* Pooling along rows, the input a table of rows like depthwise's: of output q in row r, tap (t, kw) of a window is
 *
 *     x(t, kw) = element q * stride + shift[kw] of row[r * step + line[t]],   t < lines, kw < taps; padding outside of [0, in)
 *
 * lines and taps are at least 1, shift ascends.  Whole vectors are read from every row: from element min(0, shift[0]) on, up to
 * where a vector of outputs at the last column, or at column 0 where out < lanes, ends: LANES * stride elements from its
 * first.  Whole vectors are written: with out < lanes beyond the row, rows in ascending order. */
enum { FC_POOL_ROLL_MAX = 16 }; /* lines of a window that are reduced once for all outputs at stride 1; a power of two */
typedef struct fc_pool_window {
    int64_t lines, step;
    const int64_t *line;
    int64_t taps, stride;
    const int64_t *shift;
    int64_t in, out; /* widths */
} fc_pool_window;

/* A mean's gradient along rows: which outputs q meet element i of a row of x, q * stride <= i + phase < q * stride + kernel;
 * source rows stand `row` elements apart. */
typedef struct fc_spread_window {
    int64_t row;
    int64_t stride, kernel, phase; /* 0 <= phase < stride <= lanes */
} fc_spread_window;

/* Pooling planes whose rows are one vector or (narrow_vectors of them) two, the second of which ends where its row does: it overlaps
 * the first, or, of a row of one, is padding.  Of output row r, element i of vector j of a plane, tap (t, k) of a window is
 *
 *     x(t, k) = element index[(k * vectors + j) * lanes + i] of the two at lines[0] + ... + lines[r - 1] + t of `line`,
 *               t < lines[r], k < taps
 *
 * an element beyond both is padding; lines are elements from the plane's first on. */
typedef struct fc_narrow_window {
    int64_t rows, width, in; /* of a plane of outputs; the width of x */
    const int64_t *lines, *line;
    int64_t taps; /* at most lanes */
    const void *index;          /* integers as wide as the real type, at most 2 lanes; below that where rows of x are one vector */
    const double *row_divisor;  /* of a mean */
    const void *column_divisor; /* `width` or lanes; NULL: ones */
    int64_t columns_first; /* rows of a plane of x, at most FC_NARROW_ROWS, if a mean finds each row's columns once: one divisor, as
                              many lines to all rows, which count elements of whole vectors of outputs, this many of zeros;
                              else 0, as where narrow_vectors is 1 */
} fc_narrow_window;

enum { FC_NARROW_ROWS = 32 };

/* Pooling.  Lanes over the channels of a pixel, where channels are last: r < rows, q < width, at least one vector of which is
 * written.
 *
 * max:        y[r][q] = max_t x[r * x_row + q + offset[t]];  a NaN wins over what came before; no tap gives -infinity
 * max_index:  and index[r][q] = position[t] of the winner, `none` where nothing beats -infinity; `position` and `index` hold
 *             integers as wide as the real type
 * mean:       y[r][q] = sum_t x[r * x_row + q + offset[t]] / row_divisor[r];  row_divisor may be NULL (ones)
 *
 * Along rows, see fc_pool_window; padding does not win and adds nothing:
 *
 * rows_max:        y[r][q] = max_{t, kw} x(t, kw), of zeros of both signs either
 * rows_max_index:  and index[r][q] = position[t * taps + kw] of the winner, as above; positions are sums of a line's and a column's
 * rows_mean:       y[r][q] = sum_{t, kw} x(t, kw) / (row_divisor[r] * column_divisor[q]);  column_divisor may be NULL (ones)
 * rows_divide:     dst[r][q] = y[r][q] / (row_divisor[r] * column_divisor[q]), q < width, then zeros up to dst_row; whole
 *                  vectors of y are read, and up to a vector beyond the last row of dst is written
 * rows_spread:     x[r][i] = sum of src[(first[r] + t) * row + q] over all t < lines[r] and the q that meet i, i < width; up to a
 *                  vector beyond each row is written, rows in ascending order.  From the first q that meets i, kernel / stride
 *                  elements before it and a vector after it are read, and are zeros where there is no output
 *
 * narrow_max, narrow_mean: y[p][r][q] of `planes` planes of fc_narrow_window, those of x x_plane elements apart, those of y
 *             without gaps; whole vectors are written, in ascending order
 *
 * index:      dst[j * dst_stride] = base + j * step + lanes[j],  j < count; returns whether any of the lanes is negative
 *
 * plane_means:  dst[i] = sum_{j < count} x[i][j] / divisor,  i < lanes, count >= lanes
 * plane_fill:   x[i * plane + j] = y[i * step] / divisor,  i < planes, j < count
 *
 * The next three reduce one box x[i, j, k] of n[0] x n[1] x n[2] elements.
 *
 * box_max:        *y = the maximum
 * box_max_index:  and *tap = the winner's place in row-major order; the box is not empty
 * box_sum:        *sum = the sum, in double
 *
 * spread:     dst[first[q] + i] += src[q],  i < length[q], q < count
 * route:      dst[index[j] * dst_stride] = src[j]  (add: +=),  j < count, element j of src and index at j * its stride; stops
 *             at an index outside [0, size) and returns how many it did
 * pairs:      windows two columns wide and `lines` (1 or 2) rows high, side by side, width >= lanes of them in each of some rows, give
 *             src to the one of their elements whose place is their index:
 *                 dst[(lines r + i) * dst_row + 2 j + k] = src[r * width + j] (add: +0) where index[r * width + j] is
 *                 place + (lines r + i) * dst_row + 2 j + k, else 0,  r < rows, j < width, i < lines, k < 2
 *             Places are below 2^31; of float32 the low words of indices are looked at.  Returns how many of them are places of their
 *             windows; of float32 none where an index is beyond 32 bits */
typedef struct fc_pool_kernels {
    void (*max)(int64_t taps, const int64_t *offset, const void *x, int64_t x_row, void *y, int64_t y_row, int64_t rows,
                int64_t width);
    void (*max_index)(int64_t taps, const int64_t *offset, const void *position, int64_t none, const void *x, int64_t x_row,
                      void *y, int64_t y_row, void *index, int64_t index_row, int64_t rows, int64_t width);
    void (*mean)(int64_t taps, const int64_t *offset, const double *row_divisor, const void *x, int64_t x_row, void *y,
                 int64_t y_row, int64_t rows, int64_t width);
    void (*rows_max)(const fc_pool_window *window, const void *const *row, void *y, int64_t y_row, int64_t rows);
    void (*rows_max_index)(const fc_pool_window *window, const void *position, int64_t none, const void *const *row, void *y,
                           int64_t y_row, void *index, int64_t index_row, int64_t rows);
    void (*rows_mean)(const fc_pool_window *window, const double *row_divisor, const void *column_divisor,
                      const void *const *row, void *y, int64_t y_row, int64_t rows);
    void (*rows_divide)(void *dst, int64_t dst_row, const double *row_divisor, const void *column_divisor, const void *y,
                        int64_t y_row, int64_t rows, int64_t width);
    void (*rows_spread)(const fc_spread_window *spread, const int64_t *first, const int64_t *lines, const void *src, void *x,
                        int64_t x_row, int64_t rows, int64_t width);
    int narrow_vectors; /* of a row, at most */
    void (*narrow_max)(const fc_narrow_window *window, const void *x, int64_t x_plane, void *y, int64_t planes);
    void (*narrow_mean)(const fc_narrow_window *window, const void *x, int64_t x_plane, void *y, int64_t planes);
    int (*index)(int64_t *dst, int64_t dst_stride, const void *lanes, int64_t base, int64_t step, int64_t count);
    void (*plane_means)(void *dst, const void *const *x, int64_t count, double divisor);
    void (*plane_fill)(void *x, int64_t plane, int64_t count, const void *y, int64_t step, double divisor, int64_t planes);
    void (*box_max)(const int64_t *n, const int64_t *x_stride, const void *x, void *y);
    void (*box_max_index)(const int64_t *n, const int64_t *x_stride, const void *x, void *y, int64_t *tap);
    void (*box_sum)(const int64_t *n, const int64_t *x_stride, const void *x, double *sum);
    void (*spread)(void *dst, const int64_t *first, const int64_t *length, const void *src, int64_t count);
    int64_t (*route)(void *dst, int64_t dst_stride, int64_t size, const void *src, int64_t src_stride, const int64_t *index,
                     int64_t index_stride, int64_t count, int add);
    int64_t (*pairs)(int lines, int64_t width, void *dst, int64_t dst_row, const void *src, const int64_t *index, int64_t place,
                     int64_t rows, int add);
} fc_pool_kernels;

/* Winograd F(4x4, 3x3), float32 only (NULL pointers otherwise), for two sizes of cells.  A cell is `cell` neighbouring pixels
 * in each of four rows, cell / 4 tiles; `cells` of them make a vector of tiles.  Frequency f = 6 i + j stands `step` elements
 * after the one before.
 *
 * input:    dst[f * step + t], t < lanes: the transforms of a group of cells, whose patches' upper left corners are cells[k]
 *           and whose rows are `row` elements apart; reads cell + 4 elements of six rows of each.
 * weights:  dst[f * step + o * row + c], o < outputs, c < channels in whole vectors (zeros beyond): the transforms of the 3x3
 *           kernels, element (o, c, i, j) at stride[0] o + stride[1] c + stride[2] i + stride[3] j.
 * output:   the group's outputs at cells[k], rows row[k] apart, from src[f * step + t]: the nearest of bounds[0] ... bounds[1];
 *           0 if any of them is not finite. */
typedef struct fc_winograd_kernels {
    int cell, cells;
    void (*input)(void *dst, int64_t step, const void *const *cells, int64_t row);
    void (*weights)(void *dst, int64_t step, int64_t row, const void *w, const int64_t *stride, int64_t outputs,
                    int64_t channels);
    int (*output)(void *const *cells, const int64_t *row, const void *src, int64_t step, const void *init, const double *bounds);
} fc_winograd_kernels;

/* Winograd with lanes over channels (NULL for float64): F(m x m, r x r), m + r = 7, of both axes, or F(m, r) of one.  Frequency
 * f = 6 i + j, or f = j, stands `step` elements after the one before; of one axis there is only i = 0, and what is said of rows
 * does not count.  Of one axis also with eight points, m + r = 9: read 8 and 7 for 6 and 5; without `gradient` and `taps`.
 *
 * input:    dst[f * step + t * next], a vector: (B^T d B)_f of tile t < tiles, whose pixel (i, j), i, j < 6, is the vector at
 *           x + i * row + j * pixel + t * tile; without frequency i = 0 if points[0] > 0, i = 5 if points[1] < 6, and
 *           with points[2], points[3] likewise j
 * weights:  dst[f * step + k * lanes], k < vectors: (G g G^T)_f, g_ij the vector at taps + i * row + j * pixel + k * lanes for
 *           box[0] <= i < box[1], box[2] <= j < box[3] and zero for the others of r x r; by m.  Frequencies where that is
 *           zero whatever the taps are left alone: i = 0 if box[0] > 0, i = 5 if box[1] < r, and j likewise
 * outputs:  pixel (i, j), i, j < m, of tile t < tiles, the vector at y + i * row + j * pixel + t * tile, becomes
 *           (A^T M A)_ij + the vector at init, clamped to bounds[0] ... bounds[1]; M_f is at src + f * step + t * next; by m.
 *           0 if any of them is not finite before it is clamped
 * gradient: like input, (A y A^T)_f of the m x m pixels of each tile of the output's gradient; by m
 * taps:     tap (i, j), i < count[0], j < count[1], of r x r, the vector at taps + i * row + j * pixel + k * lanes, k < vectors,
 *           becomes (G^T U G)_ij, U_f at src + f * step + k * lanes; by m.  What stands at i = 5 does not matter if
 *           count[0] < r, nor at j = 5 if count[1] < r.  0 if any of these taps is not finite */
enum { FC_WINOGRAD_TILE_MAX = 5, FC_WINOGRAD_LINE_MAX = 6 };
typedef void (*fc_winograd_weights_kernel)(void *dst, int64_t step, const void *taps, int64_t row, int64_t pixel,
                                           const int64_t *box, int64_t vectors);
typedef int (*fc_winograd_outputs_kernel)(void *y, int64_t row, int64_t pixel, int64_t tile, const void *src, int64_t step,
                                          int64_t next, const void *init, const double *bounds, int64_t tiles);
typedef void (*fc_winograd_patches_kernel)(void *dst, int64_t step, int64_t next, const void *x, int64_t row, int64_t pixel,
                                           int64_t tile, int64_t tiles, const int64_t *points);
typedef int (*fc_winograd_taps_kernel)(void *taps, int64_t row, int64_t pixel, const void *src, int64_t step,
                                       const int64_t *count, int64_t vectors);
typedef struct fc_winograd_channels_kernels {
    fc_winograd_patches_kernel input;
    fc_winograd_weights_kernel weights[FC_WINOGRAD_LINE_MAX + 1];
    fc_winograd_outputs_kernel outputs[FC_WINOGRAD_LINE_MAX + 1];
    fc_winograd_patches_kernel gradient[FC_WINOGRAD_TILE_MAX + 1];
    fc_winograd_taps_kernel taps[FC_WINOGRAD_TILE_MAX + 1];
} fc_winograd_channels_kernels;

/* Elementwise: one pass over contiguous memory, any count; dst may be gradient, and no other array.
 *
 * gate:         dst[j] = gradient[j] where low < y[j] < high, else 0; comparisons with NaN are false, and close nothing
 * clamp:        y[j] = the nearest of low ... high; NaN stays
 * add:          y[j] = the nearest of low ... high to y[j] + x[j]
 * momentum:     u[j] = keep u[j] + fraction g[j],  w[j] -= lr u[j]  (nesterov: w[j] -= lr (g[j] + momentum u[j]))
 * square_row:   *sum += sum_j (x[j] - mean)^2, in double
 * product_row:  *sum += sum_j g[j],  *product += sum_j g[j] (x[j] - mean), in double
 * affine_row:   y[j] = (x[j] - mean) factor + shift
 * combine_row:  dst[j] = (g[j] - shift - (x[j] - mean) slope) factor */
typedef struct fc_elementwise_kernels {
    void (*gate)(void *dst, const void *gradient, const void *y, double low, double high, int64_t count);
    void (*clamp)(void *y, double low, double high, int64_t count);
    void (*add)(void *y, const void *x, double low, double high, int64_t count);
    void (*momentum)(void *w, void *u, const void *g, double keep, double fraction, double momentum, double lr, int nesterov,
                     int64_t count);
    void (*square_row)(double *sum, const void *x, double mean, int64_t count);
    void (*product_row)(double *sum, double *product, const void *g, const void *x, double mean, int64_t count);
    void (*affine_row)(void *y, const void *x, double mean, double factor, double shift, int64_t count);
    void (*combine_row)(void *dst, const void *g, const void *x, double mean, double shift, double slope, double factor,
                        int64_t count);
} fc_elementwise_kernels;

typedef struct fc_kernels {
    const char *isa;
    int64_t size;                     /* of the real type, in bytes */
    int64_t lanes;                    /* of one vector */
    int mr[FC_NV_MAX + 1];            /* the most rows of gemm at nv vectors (mr[0] is unused) */
    int nv;                           /* the preferred number of vectors of a gemm tile */
    fc_gemm_kernels gemm, gemm_gather;
    fc_gemm_far_kernels gemm_far;
    fc_gemm_pack_kernels gemm_pack;
    fc_gemm_short_kernels gemm_short;
    fc_gemm_runs_kernels gemm_runs;
    fc_gemm_pairs_kernels gemm_pairs;
    fc_turned_kernels turned;
    fc_dots_kernel dots;
    fc_stencil_kernel stencil;
    fc_stencil_runs_kernel stencil_runs;
    fc_correlate_kernel correlate;
    int cross_rows, cross_columns;                             /* the most rows m and columns n of cross */
    fc_cross_kernel cross[FC_CROSS_MAX + 1][FC_CROSS_MAX + 1]; /* [nr][mr]; NULL above these */
    fc_lane_sums_kernel lane_sums;
    fc_trail_kernel trail[FC_TRAIL_TAPS + 1][FC_TRAIL_LINES + 1]; /* [taps][lines]; NULL where there is none */
    fc_depthwise_kernel depthwise[2][FC_DEPTHWISE_HEIGHT_MAX + 1];               /* [S - 1][height] */
    fc_depthwise_weight_kernel depthwise_weight[2][FC_DEPTHWISE_HEIGHT_MAX + 1];
    fc_split_rows_kernel split_rows;
    fc_planes_stencil_kernel planes_stencil;
    fc_planes_correlate_kernel planes_correlate;
    fc_depthwise_flat_kernel depthwise_flat;
    fc_depthwise_flat_weight_kernel depthwise_flat_weight;
    fc_depthwise_weave_kernel depthwise_weave[2][FC_WEAVE_SIDE_MAX - FC_WEAVE_SIDE_MIN + 1]; /* [P][K - the least] */
    fc_gather_row_kernel gather_row;
    fc_gather_rows_kernel gather_rows;
    fc_gather_pairs_kernel gather_pairs;
    fc_gather_block_kernel gather_block;
    fc_scatter_row_kernel scatter_row;
    fc_space_rows_kernel space_rows;
    fc_copy_vectors_kernel copy_vectors;
    fc_interleave_kernel interleave;
    fc_transpose_kernel transpose, transpose_past;
    fc_transpose_rows_kernel transpose_rows;
    fc_transpose_taps_kernel transpose_taps;
    fc_sum_row_kernel sum_row;
    fc_dot_kernel dot;
    fc_winograd_channels_kernels winograd_channels[3]; /* of one axis, of both; of one, eight points */
    fc_winograd_kernels winograd[2]; /* cells of a vector of pixels, and of half a one */
    fc_pool_kernels pool;
    fc_elementwise_kernels elementwise;
} fc_kernels;

/* Defined by the ISA files that were compiled in. */
extern const fc_kernels fc_kernels_f32_baseline, fc_kernels_f64_baseline;
#if defined(__x86_64__) || defined(_M_X64)
extern const fc_kernels fc_kernels_f32_avx2, fc_kernels_f64_avx2;
extern const fc_kernels fc_kernels_f32_avx512, fc_kernels_f64_avx512;
#elif defined(__aarch64__)
extern const fc_kernels fc_kernels_f32_neon, fc_kernels_f64_neon;
#endif

#endif
