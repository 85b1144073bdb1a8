/* One check per kernel of the table in csrc/kernels/kernels.h. */
#ifndef CHECK_KERNELS_H
#define CHECK_KERNELS_H

#include "check.h"
#include "kernels/kernels.h"

typedef struct subject {
    const fc_kernels *kernels;
    element type;       /* the real type */
    element index_type; /* the integer as wide */
    int64_t cases;
} subject;

/* Few different values, so that ties, zeros of both signs, infinities and NaN meet. */
void put_awkward(array *a);

void check_gemm(subject *s);
void check_gemm_gather(subject *s);
void check_gemm_far(subject *s);
void check_gemm_pack(subject *s);
void check_gemm_pairs(subject *s);
void check_gemm_short(subject *s);
void check_gemm_runs(subject *s);
void check_turned(subject *s);
void check_dots(subject *s);
void check_stencil(subject *s);
void check_stencil_runs(subject *s);
void check_correlate(subject *s);
void check_cross(subject *s);
void check_lane_sums(subject *s);
void check_trail(subject *s);
void check_depthwise(subject *s);
void check_depthwise_weight(subject *s);
void check_split_rows(subject *s);
void check_planes_stencil(subject *s);
void check_planes_correlate(subject *s);
void check_depthwise_flat(subject *s);
void check_depthwise_flat_weight(subject *s);
void check_depthwise_weave(subject *s);
void check_gather_row(subject *s);
void check_gather_rows(subject *s);
void check_gather_pairs(subject *s);
void check_gather_block(subject *s);
void check_scatter_row(subject *s);
void check_space_rows(subject *s);
void check_copy_vectors(subject *s);
void check_interleave(subject *s);
void check_transpose(subject *s);
void check_transpose_past(subject *s);
void check_transpose_rows(subject *s);
void check_transpose_taps(subject *s);
void check_sum_row(subject *s);
void check_dot(subject *s);
void check_winograd_input(subject *s);
void check_winograd_weights(subject *s);
void check_winograd_output(subject *s);
void check_winograd_channels_input(subject *s);
void check_winograd_channels_weights(subject *s);
void check_winograd_channels_outputs(subject *s);
void check_winograd_channels_gradient(subject *s);
void check_winograd_channels_taps(subject *s);
void check_pool_max(subject *s);
void check_pool_max_index(subject *s);
void check_pool_mean(subject *s);
void check_pool_rows_max(subject *s);
void check_pool_rows_max_index(subject *s);
void check_pool_rows_mean(subject *s);
void check_pool_rows_divide(subject *s);
void check_pool_rows_spread(subject *s);
void check_pool_narrow_max(subject *s);
void check_pool_narrow_mean(subject *s);
void check_pool_index(subject *s);
void check_pool_box_max(subject *s);
void check_pool_box_max_index(subject *s);
void check_pool_plane_means(subject *s);
void check_pool_plane_fill(subject *s);
void check_pool_box_sum(subject *s);
void check_pool_spread(subject *s);
void check_pool_route(subject *s);
void check_pool_pairs(subject *s);
void check_elementwise_gate(subject *s);
void check_elementwise_clamp(subject *s);
void check_elementwise_add(subject *s);
void check_elementwise_momentum(subject *s);
void check_elementwise_square_row(subject *s);
void check_elementwise_product_row(subject *s);
void check_elementwise_affine_row(subject *s);
void check_elementwise_combine_row(subject *s);

#endif
