/* Every kernel of every table that this CPU can run, against loops written from its contract.
 *
 *     check_kernels
 *
 * Prints the ISAs, then a line per kernel:  ok|FAIL isa real kernel cases|what went wrong.  Exit status 1 where one failed.
 */
#include "check_kernels.h"

#include <stdio.h>

#include "engine/dispatch.h"

static const struct row {
    const char *name;
    void (*run)(subject *s);
} rows[] = {
    {"gemm", check_gemm},
    {"gemm_gather", check_gemm_gather},
    {"gemm_far", check_gemm_far},
    {"gemm_pack", check_gemm_pack},
    {"gemm_pairs", check_gemm_pairs},
    {"gemm_short", check_gemm_short},
    {"gemm_runs", check_gemm_runs},
    {"turned", check_turned},
    {"dots", check_dots},
    {"stencil", check_stencil},
    {"stencil_runs", check_stencil_runs},
    {"correlate", check_correlate},
    {"cross", check_cross},
    {"lane_sums", check_lane_sums},
    {"trail", check_trail},
    {"depthwise", check_depthwise},
    {"depthwise_weight", check_depthwise_weight},
    {"split_rows", check_split_rows},
    {"planes_stencil", check_planes_stencil},
    {"planes_correlate", check_planes_correlate},
    {"depthwise_flat", check_depthwise_flat},
    {"depthwise_flat_weight", check_depthwise_flat_weight},
    {"depthwise_weave", check_depthwise_weave},
    {"gather_row", check_gather_row},
    {"gather_rows", check_gather_rows},
    {"gather_pairs", check_gather_pairs},
    {"gather_block", check_gather_block},
    {"scatter_row", check_scatter_row},
    {"space_rows", check_space_rows},
    {"copy_vectors", check_copy_vectors},
    {"interleave", check_interleave},
    {"transpose", check_transpose},
    {"transpose_past", check_transpose_past},
    {"transpose_rows", check_transpose_rows},
    {"transpose_taps", check_transpose_taps},
    {"sum_row", check_sum_row},
    {"dot", check_dot},
    {"winograd.input", check_winograd_input},
    {"winograd.weights", check_winograd_weights},
    {"winograd.output", check_winograd_output},
    {"winograd_channels.input", check_winograd_channels_input},
    {"winograd_channels.weights", check_winograd_channels_weights},
    {"winograd_channels.outputs", check_winograd_channels_outputs},
    {"winograd_channels.gradient", check_winograd_channels_gradient},
    {"winograd_channels.taps", check_winograd_channels_taps},
    {"pool.max", check_pool_max},
    {"pool.max_index", check_pool_max_index},
    {"pool.mean", check_pool_mean},
    {"pool.rows_max", check_pool_rows_max},
    {"pool.rows_max_index", check_pool_rows_max_index},
    {"pool.rows_mean", check_pool_rows_mean},
    {"pool.rows_divide", check_pool_rows_divide},
    {"pool.rows_spread", check_pool_rows_spread},
    {"pool.narrow_max", check_pool_narrow_max},
    {"pool.narrow_mean", check_pool_narrow_mean},
    {"pool.index", check_pool_index},
    {"pool.plane_means", check_pool_plane_means},
    {"pool.plane_fill", check_pool_plane_fill},
    {"pool.box_max", check_pool_box_max},
    {"pool.box_max_index", check_pool_box_max_index},
    {"pool.box_sum", check_pool_box_sum},
    {"pool.spread", check_pool_spread},
    {"pool.route", check_pool_route},
    {"pool.pairs", check_pool_pairs},
    {"elementwise.gate", check_elementwise_gate},
    {"elementwise.clamp", check_elementwise_clamp},
    {"elementwise.add", check_elementwise_add},
    {"elementwise.momentum", check_elementwise_momentum},
    {"elementwise.square_row", check_elementwise_square_row},
    {"elementwise.product_row", check_elementwise_product_row},
    {"elementwise.affine_row", check_elementwise_affine_row},
    {"elementwise.combine_row", check_elementwise_combine_row},
};

typedef struct job {
    const struct row *row;
    subject subject;
} job;

static void run(void *context)
{
    job *j = context;
    random_seed(1);
    describe("before the first case");
    j->row->run(&j->subject);
}

int main(void)
{
    const char *isas[8], *reals[] = {"float32", "float64"};
    int count = fc_isa_available(isas, 8), failures = 0;
    print_isas(isas, count);
    for (int i = 0; i < count; i++)
        for (fc_real real = FC_FLOAT32; real <= FC_FLOAT64; real++)
            for (size_t r = 0; r < sizeof rows / sizeof rows[0]; r++) {
                fc_isa_cap(isas[i]);
                job j = {&rows[r], {fc_dispatch(real), (element)real, real == FC_FLOAT32 ? INT32 : INT64, 0}};
                const char *wrong = caught(run, &j);
                failures += wrong != NULL;
                printf("%s %s %s %s ", wrong ? "FAIL" : "ok", isas[i], reals[real], rows[r].name);
                if (wrong)
                    printf("%s\n", wrong);
                else
                    printf("%lld\n", (long long)j.subject.cases);
                fflush(stdout);
            }
    return failures > 0;
}
