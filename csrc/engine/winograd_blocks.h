/* What the Winograd drivers with lanes over channels share: blocks of output channels, and the products of one frequency. */
#ifndef FC_ENGINE_WINOGRAD_BLOCKS_H
#define FC_ENGINE_WINOGRAD_BLOCKS_H

#include "base/cpu.h"
#include "engine/gemm.h"

/* The output channels in vectors, cut into blocks. */
typedef struct fc_winograd_blocks {
    const fc_kernels *kernels;
    int64_t outputs, vectors, parts, width; /* channels; vectors; blocks of them, elements of the widest */
} fc_winograd_blocks;

/* A block: channels o ... o + outputs, in vectors of `width` elements together. */
typedef struct fc_winograd_part {
    int64_t o, outputs, width;
} fc_winograd_part;

/* `threads`: which the blocks are tasks of, as many for each; 1 where they are not. */
fc_winograd_blocks fc_winograd_blocks_cut(const fc_kernels *kernels, int64_t outputs, int threads);

fc_winograd_part fc_winograd_part_at(const fc_winograd_blocks *blocks, int64_t index);

/* Rows of U for sums of `terms`: for the widest blocks in offset[0 ...], for those a vector narrower in offset[terms ...]. */
void fc_winograd_offsets(const fc_winograd_blocks *blocks, int64_t terms, int64_t *offset);

/* U of a call whose blocks are tasks: of all workers, or each its own, made with its first block where that adds an eighth to its time
 * at most; V of one whose parts are tasks likewise.  What another core has written is slow to come where cores have no near cache in
 * common: Granite Rapids, two threads, V of all and of each, 3x3 256-384@13's gradient 657, 522 us, 512-512@14's 1477, 1409,
 * 256-256@8 b32's 3300, 2750; there up to a half pays.  Elsewhere, on one virtual machine, it was so in some processes, for minutes: 4x4s2
 * 128-64@14 b8 transposed took 1020 us at two threads, of 1120 at one, and takes 780; in the others, 590 instead of 575. */
enum { OWN = 2, OWN_PART = 8, OWN_PART_FAR = 2 };

/* Whether each worker makes what costs `cost` of `all`, at one thread. */
static inline int fc_winograd_own_pays(const fc_conv_plan *plan, double cost, double all)
{
    int part = fc_cpu_has_near_cache() ? OWN_PART : OWN_PART_FAR;
    return plan->threads > 1 && part * (plan->threads - 1) * cost <= all;
}

/* The same of V, `bytes` of each: where cores share a near cache, as long as theirs leave room in it.  Zen 4, two threads, V of all and of
 * each, 3x3 384-384@13's gradient 1630, 1330 us, 512-512@14's 2530, 2400, 3x3s2 128-128@56's 1065, 955, 512-512@7 b8's 4250, 4070, but
 * 256-256@8 b32, whose V takes 4.5 MiB, 4380, 5690, its gradient 4550, 5600. */
static inline int fc_winograd_own_inputs_pay(const fc_conv_plan *plan, double cost, double all, int64_t bytes)
{
    return (bytes <= FC_FAR_BYTES || !fc_cpu_has_near_cache()) && fc_winograd_own_pays(plan, cost, all);
}

/* Bytes of U, `weights` for one: plan->tile[shared] says whose it is.  A copy of a worker's begins with whether it is made. */
static inline int64_t fc_winograd_shared_bytes(const fc_conv_plan *plan, int shared, int64_t weights)
{
    int64_t copy = fc_add(weights, FC_ALIGN);
    return plan->tile[shared] == OWN ? fc_mul(plan->threads, copy) : plan->tile[shared] ? weights : 0;
}

static inline int64_t *fc_winograd_own(char *u, int64_t weights, int worker)
{
    return (int64_t *)(void *)(u + worker * (weights + FC_ALIGN));
}

static inline void fc_winograd_forget(const fc_conv_plan *plan, char *u, int64_t weights)
{
    for (int i = 0; i < plan->threads; i++)
        *fc_winograd_own(u, weights, i) = 0;
}

/* Costs: of U, and of all, at one thread; `bytes`: of the rest of the scratch. */
static inline void fc_winograd_choose_own(fc_conv_plan *plan, int shared, double cost, double all, int64_t weights, int64_t bytes)
{
    if (plan->tile[shared] != 1 || !fc_winograd_own_pays(plan, cost, all))
        return;
    plan->tile[shared] = OWN;
    if (fc_add(bytes, fc_winograd_shared_bytes(plan, shared, weights)) > fc_scratch_max(plan->threads))
        plan->tile[shared] = 1;
}

/* M += V U at one frequency for one block, or M = V U: not by fc_gemm_run, as a product of 16 terms and two vectors takes as long
 * as its tables of rows. */
typedef struct fc_winograd_product {
    const fc_winograd_blocks *blocks;
    fc_gemm gemm;
    const int64_t *u_offset, *place; /* of U's rows, in elements; of V's, one for each tile, in bytes */
    int64_t tiles, width, c_offset[FC_MR_MAX];
} fc_winograd_product;

/* `offset` as fc_winograd_offsets has left it. */
fc_winograd_product fc_winograd_product_plan(const fc_winograd_blocks *blocks, const fc_winograd_part *part, const int64_t *offset,
                                             int64_t terms, const int64_t *place, int64_t tiles);
void fc_winograd_product_run(const fc_winograd_product *product, int64_t terms, const char *v, const char *u, char *m, int add);

#endif
