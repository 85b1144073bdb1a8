/* The weight gradient by Winograd F(4x4, 3x3), read backwards: 36 products over tiles instead of 9 over 16 times as many
 * pixels, 4 times fewer multiplications.  float32, 3x3 (or KDx3x3), stride 1.
 *
 *     V[f][t][c] = (B^T d B)_f of channel c, tile t          D[f][t][o] = (A dy A^T)_f of output channel o, tile t
 *     U[f][o][c] = sum_t D[f][t][o] V[f][t][c]                dW[o][c] = G^T U G
 *
 * Lanes are channels: rows of tiles are copied as panels (pixels by channels), whose transforms need no shuffles.  A dilated
 * convolution is one per phase of the dilation, whose pixels stand that far apart in the same panel.
 *
 *     for each chunk of the sum, group g, kd, block of channels, block of output channels        a task
 *         for each batch of rows of tiles of the chunk, in order
 *             transform the block's channels into V, its output channels into D
 *             for each f: gemm kernel over tiles of rows o, added to U
 *         transform U; store, or keep for the sum over the chunks
 *     add the chunks in order, store
 *
 * Blocks are small, so that V, D and U stay in the second-level cache: their transforms are repeated instead, once per
 * block of the other.
 *
 * One NaN or infinity spoils a whole block.  If anything in dW is not finite, all of it is computed again without Winograd,
 * so that non-finite values are those of a direct sum.
 */
#include <stdatomic.h>

#include "engine/weight_panel.h"
#include "engine/weight_tiles.h"
#include "engine/weights.h"
#include "engine/winograd.h"

enum { CHANNELS, OUTPUTS, ROWS, CHUNKS }; /* plan->tile: of a block; rows of tiles of a batch; parts of the sum */
enum { TAPS = 9 };
/* Channels and output channels of a block, tiles of a batch, tiles of a stripe.  Measured at 1 MiB and more of cache: batches
 * of 64 tiles x0.97, blocks of 128 x0.95, of 32 output channels x0.92; stripes of 16 tiles x0.92 at 64-64@224. */
enum { BLOCK = 64, TILES = 32, COLUMNS = 64 };
enum { TASKS_WANTED = 16, CHUNK_BYTES_MAX = 6 << 20, JOIN_ROWS = 16 };

typedef struct layout {
    const fc_kernels *kernels;
    fc_panel x, y;
    int64_t stripes, row_tiles, columns;  /* of a plane: stripes of columns, rows of tiles of each, tiles of such a row */
    int64_t row, rows;                    /* tiles of a row in all phases; rows of all stripes */
    int64_t batches, tiles;               /* of the sum; of a batch */
    int64_t channels, outputs;            /* of a block, in whole vectors */
    int64_t channel_blocks, output_blocks;
    int64_t v_step, d_step, u_step;       /* elements from one frequency to the next */
    int64_t v_bytes, d_bytes, u_bytes, panel_bytes, temp_bytes, taps_bytes, offset_bytes;
    int64_t sum_bytes;                    /* dW of a block: outputs, taps, channels */
} layout;

static int64_t whole(int64_t count, int64_t lanes)
{
    return fc_ceil_div(count, lanes) * lanes;
}

static layout lay_out(const fc_conv_plan *plan)
{
    const fc_conv *p = &plan->problem;
    const fc_window *w = &p->window;
    const fc_kernels *kernels = fc_dispatch(p->real);
    const int64_t *tile = plan->tile, *d = w->dilation;
    int64_t lanes = kernels->lanes, size = kernels->size;
    layout l = {.kernels = kernels};
    l.row_tiles = fc_ceil_div(w->out[1], fc_mul(4, d[1]));
    int64_t columns = fc_ceil_div(w->out[2], fc_mul(4, d[2]));
    l.columns = fc_weight_part(columns, COLUMNS);
    l.stripes = fc_ceil_div(columns, l.columns);
    l.row = fc_mul(fc_mul(d[1], d[2]), l.columns);
    l.rows = fc_mul(fc_mul(fc_mul(p->batch, w->out[0]), l.stripes), l.row_tiles);
    l.batches = fc_ceil_div(l.rows, tile[ROWS]);
    l.tiles = fc_mul(tile[ROWS], l.row);
    int64_t rows = fc_min(tile[ROWS], l.row_tiles);
    l.x = (fc_panel){.width = lanes, .fold = 1, .rows = (4 * rows + 2) * d[1], .pitch = (4 * l.columns + 2) * d[2], .step = {1, 1}};
    l.y = (fc_panel){.width = lanes, .fold = 1, .rows = 4 * rows * d[1], .pitch = 4 * l.columns * d[2], .step = {1, 1}};
    l.channels = whole(tile[CHANNELS], lanes);
    l.outputs = whole(tile[OUTPUTS], lanes);
    l.channel_blocks = fc_ceil_div(p->channels, tile[CHANNELS]);
    l.output_blocks = fc_ceil_div(p->out_channels, tile[OUTPUTS]);
    l.v_step = fc_add(fc_mul(l.tiles, l.channels), STEP_PAD);
    l.d_step = fc_add(fc_mul(l.tiles, l.outputs), STEP_PAD);
    l.u_step = fc_add(fc_mul(tile[OUTPUTS], l.channels), STEP_PAD);
    l.v_bytes = fc_bytes(fc_mul(FREQUENCIES, l.v_step), size);
    l.d_bytes = fc_bytes(fc_mul(FREQUENCIES, l.d_step), size);
    l.u_bytes = fc_bytes(fc_mul(FREQUENCIES, l.u_step), size);
    l.panel_bytes = fc_bytes(fc_panel_elements(&l.x, l.x.rows), size);
    l.temp_bytes = fc_max(fc_panel_scratch(&l.x, size), fc_panel_scratch(&l.y, size));
    l.taps_bytes = fc_bytes(TAPS * l.channels, size);
    l.offset_bytes = fc_bytes(2 * l.tiles, sizeof(int64_t));
    l.sum_bytes = fc_bytes(fc_mul(tile[OUTPUTS], TAPS * l.channels), size);
    return l;
}

static int64_t worker_bytes(const layout *l)
{
    return fc_add(fc_add(fc_add(l->v_bytes, l->d_bytes), fc_add(l->u_bytes, l->panel_bytes)), fc_add(l->temp_bytes, l->taps_bytes));
}

static int64_t blocks_of(const fc_conv *p, const layout *l)
{
    return fc_mul(p->groups * p->window.kernel[0], l->channel_blocks * l->output_blocks);
}

static void choose_tile(fc_conv_plan *plan, const fc_kernels *kernels)
{
    const fc_conv *p = &plan->problem;
    int64_t *tile = plan->tile;
    tile[ROWS] = tile[CHUNKS] = tile[CHANNELS] = tile[OUTPUTS] = 1;
    layout l = lay_out(plan);
    tile[ROWS] = fc_weight_part(l.rows, TILES / fc_min(TILES, l.row));
    int64_t channels = tile[ROWS] == l.rows ? 2 * BLOCK : BLOCK;
    tile[CHANNELS] = fc_min(p->channels, whole(fc_weight_part(p->channels, channels), kernels->lanes));
    tile[OUTPUTS] = fc_weight_part(p->out_channels, BLOCK);
    l = lay_out(plan);
    int64_t blocks = blocks_of(p, &l), room = CHUNK_BYTES_MAX / fc_max(1, fc_mul(blocks, l.sum_bytes));
    tile[CHUNKS] = fc_max(1, fc_min(fc_min(l.batches, room), fc_ceil_div(TASKS_WANTED, blocks)));
}

static const char *plan_winograd(fc_conv_plan *plan, double *cost)
{
    const fc_conv *p = &plan->problem;
    const fc_window *w = &p->window;
    const fc_kernels *kernels = fc_dispatch(p->real);
    const char *reason = fc_winograd_refusal(plan);
    if (reason)
        return reason;
    if (!fc_reduction(p) || !p->out_channels || !p->batch || !fc_outputs(w))
        return "there is nothing to sum";
    if (!fc_weights_plan(p, kernels->size).in_place)
        return "the weight gradient's rows are not contiguous";
    choose_tile(plan, kernels);
    layout l = lay_out(plan);
    int64_t tasks = fc_mul(blocks_of(p, &l), plan->tile[CHUNKS]);
    plan->scratch = fc_add(l.offset_bytes, fc_mul(plan->threads, worker_bytes(&l)));
    if (plan->tile[CHUNKS] > 1)
        plan->scratch = fc_add(plan->scratch, fc_mul(tasks, l.sum_bytes));
    if (plan->scratch > fc_scratch_max(plan->threads))
        return "the transformed tiles exceed the scratch bound";
    double blocks = (double)blocks_of(p, &l), tiles = (double)l.batches * (double)l.tiles;
    double block = (double)l.channels * (double)l.outputs;
    double gemm = FREQUENCIES * (double)l.batches * fc_gemm_cost(kernels, plan->tile[OUTPUTS], l.channels, l.tiles);
    double transforms = 3.5 * tiles * (double)(l.channels + l.outputs) + 5.0 * block * (double)plan->tile[CHUNKS];
    /* Relative to 'gemm', calibrated on Emerald Rapids, one thread: 128-128@16 b32 6.9 ms (gemm 15.5), 64-64@224 11.7 (24.0),
     * 512-512@14 5.1 (6.5), 512-512@7 2.7 (2.4), 16-32@14 b32 0.42 (0.37). */
    *cost = 2000 + blocks * (1.25 * gemm + transforms);
    return NULL;
}

typedef struct job {
    const fc_conv_plan *plan;
    layout l;
    fc_gemm gemm;
    const char *x, *y;
    char *w, *scratch, *chunks;
    _Atomic int *spoilt;
} job;

typedef struct block {
    int64_t g, kd, c, o, channels, outputs;
} block;

static block block_at(const job *j, int64_t index)
{
    const fc_conv *p = &j->plan->problem;
    const int64_t *tile = j->plan->tile;
    block b = {.o = index % j->l.output_blocks * tile[OUTPUTS]};
    index /= j->l.output_blocks;
    b.c = index % j->l.channel_blocks * tile[CHANNELS];
    index /= j->l.channel_blocks;
    b.kd = index % p->window.kernel[0];
    b.g = index / p->window.kernel[0];
    b.outputs = fc_min(tile[OUTPUTS], p->out_channels - b.o);
    b.channels = fc_min(tile[CHANNELS], p->channels - b.c);
    return b;
}

/* Rows tr ... tr + rows of tiles, from column tc on, of one plane of an image. */
typedef struct segment {
    int64_t n, od, tc, tr, rows;
} segment;

static segment segment_at(const job *j, int64_t row, int64_t rows)
{
    int64_t depth = j->plan->problem.window.out[0], stripe = row / j->l.row_tiles, plane = stripe / j->l.stripes;
    segment s = {.n = plane / depth, .od = plane % depth, .tc = stripe % j->l.stripes * j->l.columns, .tr = row % j->l.row_tiles};
    s.rows = fc_min(rows, j->l.row_tiles - s.tr);
    return s;
}


/* Some channels of a segment, a vector of them at a time: packed, and transformed into dst. */
static void transform_channels(const job *j, const fc_panel *panel, const segment *s, fc_panel_image image, int64_t ih, int64_t iw,
                               fc_winograd_patches_kernel run, char *dst, int64_t step, int64_t next, char *scratch)
{
    const layout *l = &j->l;
    const int64_t *d = j->plan->problem.window.dilation, all[4] = {0, 6, 0, 6};
    int64_t size = l->kernels->size, lanes = l->kernels->lanes, row = panel->pitch * lanes, channels = image.channels;
    int64_t rows = (4 * s->rows + (panel == &l->x ? 2 : 0)) * d[1];
    const char *first = image.x;
    for (int64_t c = 0; c < channels; c += lanes) {
        image.channels = fc_min(lanes, channels - c);
        image.x = first ? fc_at(first, c * image.c, size) : NULL;
        fc_panel_pack(panel, l->kernels, scratch, scratch + l->panel_bytes, &image, rows, ih, iw);
        for (int64_t k = 0; k < s->rows * d[1] * d[2]; k++) { /* rows of tiles of a phase */
            int64_t at = (k / (d[1] * d[2]) * 4 * d[1] + k / d[2] % d[1]) * row + k % d[2] * lanes;
            run(fc_at(dst, k * l->columns * next + c, size), step, next, fc_at(scratch, at, size), d[1] * row, d[2] * lanes,
                4 * d[2] * lanes, l->columns, all);
        }
    }
}

/* V and D of some neighbouring rows of tiles, from tile `at` of the batch on. */
static void transform_segment(const job *j, const block *b, const segment *s, int64_t at, char *v, char *d, char *scratch)
{
    const fc_conv *p = &j->plan->problem;
    const fc_window *w = &p->window;
    const layout *l = &j->l;
    int64_t size = l->kernels->size, ih = 4 * s->tr * w->dilation[1], iw = 4 * s->tc * w->dilation[2];
    int64_t id = s->od * w->stride[0] + b->kd * w->dilation[0] - w->offset[0];
    fc_panel_image image = {.channels = b->channels, .c = p->x.c, .size = {w->in[1], w->in[2]}, .stride = {p->x.s[1], p->x.s[2]}};
    if (id >= 0 && id < w->in[0])
        image.x = fc_at(j->x, s->n * p->x.n + (b->g * p->channels + b->c) * p->x.c + id * p->x.s[0], size);
    transform_channels(j, &l->x, s, image, ih - w->offset[1], iw - w->offset[2], l->kernels->winograd_channels[1].input,
                       fc_at(v, at * l->channels, size), l->v_step, l->channels, scratch);
    image = (fc_panel_image){.channels = b->outputs, .c = p->y.c, .size = {w->out[1], w->out[2]}, .stride = {p->y.s[1], p->y.s[2]}};
    image.x = fc_at(j->y, s->n * p->y.n + (b->g * p->out_channels + b->o) * p->y.c + s->od * p->y.s[0], size);
    transform_channels(j, &l->y, s, image, ih, iw, l->kernels->winograd_gradient.output, fc_at(d, at * l->outputs, size),
                       l->d_step, l->outputs, scratch);
}

static void add_products(const job *j, const block *b, int64_t tiles, const char *v, const char *d, char *u, int add)
{
    const layout *l = &j->l;
    int64_t size = l->kernels->size, count = fc_ceil_div(b->outputs, j->gemm.rows);
    fc_gemm gemm = j->gemm;
    gemm.k = tiles;
    for (int f = 0; f < FREQUENCIES; f++)
        for (int64_t i = 0; i < count; i++) {
            int64_t o = b->outputs * i / count, rows = b->outputs * (i + 1) / count - o;
            const void *a[FC_MR_MAX];
            for (int64_t m = 0; m < rows; m++)
                a[m] = fc_at(d, f * l->d_step + o + m, size);
            fc_gemm_run(&gemm, (int)rows, a, fc_at(v, f * l->v_step, size), fc_at(u, f * l->u_step + o * l->channels, size),
                        l->channels, NULL, add);
        }
}

static void store_taps(const job *j, const block *b, int64_t o, const char *taps)
{
    const fc_conv *p = &j->plan->problem;
    int64_t row = fc_taps(&p->window), size = j->l.kernels->size;
    void *w = fc_at(j->w, b->g * p->w.g + (b->o + o) * p->w.o + b->c * row + b->kd * TAPS, size);
    j->l.kernels->transpose(w, row, taps, j->l.channels, TAPS, b->channels);
}

static void run_task(void *context, int64_t task, int worker)
{
    const job *j = context;
    const layout *l = &j->l;
    int64_t chunks = j->plan->tile[CHUNKS], chunk = task % chunks, batch_rows = j->plan->tile[ROWS], size = l->kernels->size;
    block b = block_at(j, task / chunks);
    char *v = j->scratch + worker * worker_bytes(l), *d = v + l->v_bytes, *u = d + l->d_bytes, *taps = u + l->u_bytes;
    int64_t first = l->batches * chunk / chunks, last = l->batches * (chunk + 1) / chunks;
    for (int64_t batch = first; batch < last; batch++) {
        int64_t begin = batch * batch_rows, end = fc_min(l->rows, begin + batch_rows);
        for (int64_t row = begin; row < end;) {
            segment s = segment_at(j, row, end - row);
            transform_segment(j, &b, &s, (row - begin) * l->row, v, d, taps + l->taps_bytes);
            row += s.rows;
        }
        add_products(j, &b, (end - begin) * l->row, v, d, u, batch > first);
    }
    int finite = 1;
    char *sum = j->chunks ? j->chunks + task * l->sum_bytes : taps;
    for (int64_t o = 0; o < b.outputs; o++) {
        finite &= l->kernels->winograd_gradient.weights(sum, l->channels, fc_at(u, o * l->channels, size), l->u_step, l->channels);
        if (j->chunks)
            sum += TAPS * l->channels * size;
        else
            store_taps(j, &b, o, sum);
    }
    if (!finite)
        atomic_store_explicit(j->spoilt, 1, memory_order_relaxed);
}

/* Some rows of a block: the chunks' sums in order, to dW. */
static void join_chunks(void *context, int64_t task, int worker)
{
    (void)worker;
    const job *j = context;
    int64_t pieces = fc_ceil_div(j->plan->tile[OUTPUTS], JOIN_ROWS), index = task / pieces, chunks = j->plan->tile[CHUNKS];
    int64_t row = TAPS * j->l.channels, size = j->l.kernels->size;
    block b = block_at(j, index);
    for (int64_t o = task % pieces * JOIN_ROWS, end = fc_min(b.outputs, o + JOIN_ROWS); o < end; o++) {
        char *sum = j->chunks + index * chunks * j->l.sum_bytes + o * row * size;
        for (int64_t i = 1; i < chunks; i++)
            j->l.kernels->scatter_row(sum, 1, sum + i * j->l.sum_bytes, row, 1);
        store_taps(j, &b, o, sum);
    }
}

static fc_status run_winograd(const fc_conv_plan *plan, void *x, void *w, void *bias, void *y)
{
    const fc_conv *p = &plan->problem;
    _Atomic int spoilt = 0;
    job j = {.plan = plan, .l = lay_out(plan), .x = x, .y = y, .w = w, .spoilt = &spoilt};
    char *scratch = fc_arena_take(plan->scratch);
    if (!scratch)
        return FC_NO_MEMORY;
    int64_t *offset = (int64_t *)(void *)scratch;
    for (int64_t t = 0; t < j.l.tiles; t++) {
        offset[t] = t * j.l.outputs;
        offset[j.l.tiles + t] = t * j.l.channels;
    }
    scratch += j.l.offset_bytes;
    int64_t blocks = blocks_of(p, &j.l), tasks = blocks * plan->tile[CHUNKS];
    if (plan->tile[CHUNKS] > 1) {
        j.chunks = scratch;
        scratch += tasks * j.l.sum_bytes;
    }
    j.scratch = scratch;
    fc_weight_gemm_plan(&j.gemm, j.l.kernels, plan->tile[OUTPUTS], j.l.channels);
    j.gemm.gather = 1;
    j.gemm.a_offset = offset;
    j.gemm.b_offset = offset + j.l.tiles;
    fc_parallel(plan->threads, tasks, run_task, &j);
    if (j.chunks)
        fc_parallel(plan->threads, blocks * fc_ceil_div(plan->tile[OUTPUTS], JOIN_ROWS), join_chunks, &j);
    fc_arena_give();
    fc_conv_plan direct;
    if (!spoilt)
        return FC_OK;
    fc_status status = fc_conv_plan_make(&direct, p, FC_WEIGHT, FC_PRECISION_HIGHEST, NULL);
    return status ? status : fc_conv_execute(&direct, x, w, bias, y);
}

const fc_driver fc_driver_weight_winograd = {"winograd", plan_winograd, run_winograd, .bounded = 0};
