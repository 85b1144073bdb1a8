/* The weight gradient as a product: rows are taps, lanes are output channels, the sum runs over output pixels.
 *
 *     dW[o][k] = sum_{n, p} dY[n][o][p] X[n][p + offset[k]],     k = (c, kd, kh, kw)
 *
 * A is the image itself: row k begins at the tap's offset in the band (or in the image, in place), and pixel p of it stands
 * at p's place in the band, through the kernel's column offsets: no patch is packed.  B is dY transposed, pixels by channels.
 *
 *     for each chunk of the sum, group g, block of input channels, block of output channels      a task
 *         for each image n, plane od, band of rows of the chunk, in order
 *             copy the band's input (the block's channels); transpose the band's dY
 *             for each tile of rows k: gemm kernel, added to the block of dW
 *     for each block: add its chunks in order, store
 *
 * The sum is cut into chunks, where the blocks alone are too few tasks, by the problem's shape and never by the number of
 * threads, so that the bits do not depend on it.  Rejected: lanes over pixels with horizontal sums (x0.5); packing patches
 * transposed, lanes over taps (KH KW times as much to transpose); bands with gaps of zeros in dY instead of column offsets
 * (0 times an infinity of the next row's would be NaN).
 */
#include "engine/gemm.h"
#include "engine/output.h"
#include "engine/source.h"
#include "engine/weights.h"

enum { ROWS, INPUTS, OUTPUTS, CHUNKS }; /* plan->tile: rows of a band, channels of a block, parts of the sum */
enum { TASKS_WANTED = 8, CHUNK_BYTES_MAX = 8 << 20 };

typedef struct layout {
    const fc_kernels *kernels;
    fc_source source;
    int64_t bands, units;                           /* units: bands of all images */
    int64_t input_blocks, output_blocks, lane_row;  /* lane_row: a block's output channels, in whole vectors */
    int64_t terms, pixels;                          /* rows of a block of dW, columns of A at most */
    int64_t offset_bytes, place_bytes, block_bytes; /* tables: taps, places of pixels and of rows of B; one block of dW */
    int64_t gradient_bytes, tile_bytes;             /* dY transposed; a row of it gathered first */
} layout;

static int64_t bytes_of(int64_t count, int64_t size)
{
    return fc_arena_round(fc_min(INT64_MAX / 8, fc_mul(count, size)));
}

static layout lay_out(const fc_conv_plan *plan)
{
    const fc_conv *p = &plan->problem;
    const fc_kernels *kernels = fc_dispatch(p->real);
    int64_t rows = plan->tile[ROWS], width = p->window.out[2], size = kernels->size;
    layout l = {.kernels = kernels, .bands = fc_ceil_div(p->window.out[1], rows)};
    l.units = p->batch * p->window.out[0] * l.bands;
    l.source = fc_source_plan(p, size, plan->tile[INPUTS], rows, 1);
    l.input_blocks = fc_ceil_div(p->channels, plan->tile[INPUTS]);
    l.output_blocks = fc_ceil_div(p->out_channels, plan->tile[OUTPUTS]);
    l.lane_row = fc_ceil_div(plan->tile[OUTPUTS], kernels->lanes) * kernels->lanes;
    l.terms = plan->tile[INPUTS] * fc_taps(&p->window);
    l.pixels = rows * width;
    l.offset_bytes = bytes_of(l.terms, sizeof(int64_t));
    l.place_bytes = bytes_of(l.pixels, sizeof(int64_t));
    l.block_bytes = bytes_of(l.terms * l.lane_row, size);
    l.gradient_bytes = bytes_of(fc_mul(l.pixels, l.lane_row), size);
    l.tile_bytes = p->y.s[2] == 1 ? 0 : bytes_of(fc_mul(width, plan->tile[OUTPUTS]), size);
    return l;
}

static int64_t worker_bytes(const layout *l)
{
    return fc_add(fc_add(l->source.bytes, l->gradient_bytes), fc_add(l->block_bytes, l->tile_bytes));
}

static int64_t blocks_of(const fc_conv *p, const layout *l)
{
    return p->groups * l->input_blocks * l->output_blocks;
}

static void choose_tile(fc_conv_plan *plan, const fc_kernels *kernels)
{
    const fc_conv *p = &plan->problem;
    int64_t size = kernels->size, outputs = fc_min(p->out_channels, 512), taps = fc_taps(&p->window);
    int64_t inputs = fc_max(1, fc_min(p->channels, FC_BLOCK_BYTES / size / fc_min(taps * outputs, FC_BLOCK_BYTES)));
    plan->tile[OUTPUTS] = fc_ceil_div(p->out_channels, fc_ceil_div(p->out_channels, outputs));
    plan->tile[INPUTS] = fc_ceil_div(p->channels, fc_ceil_div(p->channels, inputs));
    int64_t rows = fc_source_rows(p, size, plan->tile[INPUTS], FC_BLOCK_BYTES);
    rows = fc_min(rows, fc_max(1, FC_BLOCK_BYTES / size / fc_min(p->window.out[2] * outputs, FC_BLOCK_BYTES)));
    plan->tile[ROWS] = fc_ceil_div(p->window.out[1], fc_ceil_div(p->window.out[1], rows));
    plan->tile[CHUNKS] = 1;
    layout l = lay_out(plan);
    int64_t blocks = blocks_of(p, &l), room = CHUNK_BYTES_MAX / fc_max(1, fc_mul(blocks, l.block_bytes));
    if (blocks < TASKS_WANTED)
        plan->tile[CHUNKS] = fc_max(1, fc_min(fc_min(l.units, room), fc_ceil_div(TASKS_WANTED, blocks)));
}

static const char *plan_gemm(fc_conv_plan *plan, double *cost)
{
    const fc_conv *p = &plan->problem;
    const fc_kernels *kernels = fc_dispatch(p->real);
    if (!fc_reduction(p) || !p->out_channels || !p->batch || !fc_outputs(&p->window))
        return "there is nothing to sum";
    if (!fc_weights_plan(p, kernels->size).in_place)
        return "the weight gradient's rows are not contiguous";
    if (fc_mul(fc_taps(&p->window), fc_min(p->out_channels, 512)) > fc_scratch_max(plan->threads))
        return "a block of the weight gradient exceeds the scratch bound";
    choose_tile(plan, kernels);
    layout l = lay_out(plan);
    int64_t chunks = plan->tile[CHUNKS] > 1 ? fc_mul(plan->tile[CHUNKS], fc_mul(blocks_of(p, &l), l.block_bytes)) : 0;
    plan->scratch = fc_add(fc_add(l.offset_bytes, fc_mul(2, l.place_bytes)),
                           fc_add(chunks, fc_mul(plan->threads, worker_bytes(&l))));
    if (plan->scratch > fc_scratch_max(plan->threads))
        return "a band of the input or of the gradient exceeds the scratch bound";
    double tasks = (double)blocks_of(p, &l) * (double)l.units, bytes = (double)kernels->size;
    double gemm = fc_gemm_cost(kernels, l.terms, l.lane_row, l.pixels);
    double copied = l.source.in_place ? 0 : (double)plan->tile[INPUTS] * (double)l.source.channel;
    double block = (double)l.terms * (double)l.lane_row;
    *cost = 500 + (double)l.terms + 2 * (double)l.pixels + 0.5 * block * (double)blocks_of(p, &l) * (double)plan->tile[CHUNKS] +
            tasks * (80 + gemm + 0.03 * bytes * copied + 0.25 * (double)l.pixels * (double)plan->tile[OUTPUTS] + 0.02 * bytes * block);
    return NULL;
}

typedef struct job {
    const fc_conv_plan *plan;
    layout l;
    fc_gemm gemm;
    const int64_t *offset;
    const char *x, *y;
    char *w, *scratch, *chunks;
} job;

typedef struct block {
    int64_t g, c, o, inputs, outputs;
} block;

static block block_at(const job *j, int64_t index)
{
    const fc_conv *p = &j->plan->problem;
    const int64_t *tile = j->plan->tile;
    block b = {.o = index % j->l.output_blocks * tile[OUTPUTS]};
    index /= j->l.output_blocks;
    b.c = index % j->l.input_blocks * tile[INPUTS];
    b.g = index / j->l.input_blocks;
    b.outputs = fc_min(tile[OUTPUTS], p->out_channels - b.o);
    b.inputs = fc_min(tile[INPUTS], p->channels - b.c);
    return b;
}

/* B: the band's pixels by the block's output channels, all rows at once where they follow each other in memory; `row` takes
 * rows whose pixels do not. */
static void transpose_gradient(const job *j, const block *b, char *gradient, char *row, const char *y, int64_t rows)
{
    static const double zero = 0;
    const fc_conv *p = &j->plan->problem;
    const fc_kernels *kernels = j->l.kernels;
    int64_t width = p->window.out[2], size = kernels->size;
    if (p->y.s[2] == 1 && (p->y.s[1] == width || rows == 1)) {
        kernels->transpose(gradient, j->l.lane_row, y, p->y.c, b->outputs, rows * width);
        return;
    }
    for (int64_t r = 0; r < rows; r++) {
        const char *in = fc_at(y, r * p->y.s[1], size);
        for (int64_t o = 0; o < b->outputs && p->y.s[2] != 1; o++)
            kernels->gather_row(fc_at(row, o * width, size), width, fc_at(in, o * p->y.c, size), p->y.s[2], 0, 1, width, &zero);
        kernels->transpose(fc_at(gradient, r * width * j->l.lane_row, size), j->l.lane_row, p->y.s[2] == 1 ? in : row,
                           p->y.s[2] == 1 ? p->y.c : width, b->outputs, width);
    }
}

/* Adds one band's part to the block. */
static void add_unit(const job *j, const block *b, char *sum, char *scratch, int64_t unit, int add)
{
    const fc_conv *p = &j->plan->problem;
    int64_t size = j->l.kernels->size, band = unit % j->l.bands, od = unit / j->l.bands % p->window.out[0];
    int64_t n = unit / j->l.bands / p->window.out[0], oh = band * j->plan->tile[ROWS];
    int64_t rows = fc_min(j->plan->tile[ROWS], p->window.out[1] - oh), terms = b->inputs * fc_taps(&p->window);
    char *gradient = scratch + j->l.source.bytes, *row = gradient + j->l.gradient_bytes;
    const void *x = fc_at(j->x, n * p->x.n + (b->g * p->channels + b->c) * p->x.c, size);
    const void *in = fc_source_take(&j->l.source, p, j->l.kernels, scratch, x, b->inputs, od, oh);
    int64_t y = n * p->y.n + (b->g * p->out_channels + b->o) * p->y.c + od * p->y.s[0] + oh * p->y.s[1];
    transpose_gradient(j, b, gradient, row, fc_at(j->y, y, size), rows);
    fc_gemm gemm = j->gemm;
    gemm.k = rows * p->window.out[2];
    for (int64_t k = 0, mr; k < terms; k += mr) {
        mr = fc_min(gemm.rows, terms - k);
        const void *a[FC_MR_MAX];
        for (int m = 0; m < mr; m++)
            a[m] = fc_at(in, j->offset[k + m], size);
        fc_gemm_run(&gemm, (int)mr, a, gradient, fc_at(sum, k * j->l.lane_row, size), j->l.lane_row, NULL, add);
    }
}

static void store_block(const job *j, const block *b, const char *sum)
{
    const fc_conv *p = &j->plan->problem;
    int64_t size = j->l.kernels->size, taps = fc_taps(&p->window);
    j->l.kernels->transpose(fc_at(j->w, b->g * p->w.g + b->o * p->w.o + b->c * taps, size), p->w.o, sum, j->l.lane_row,
                            b->inputs * taps, b->outputs);
}

static void run_task(void *context, int64_t task, int worker)
{
    const job *j = context;
    int64_t chunks = j->plan->tile[CHUNKS], chunk = task % chunks, index = task / chunks;
    block b = block_at(j, index);
    char *scratch = j->scratch + worker * worker_bytes(&j->l);
    char *sum = j->chunks ? j->chunks + task * j->l.block_bytes
                          : scratch + j->l.source.bytes + j->l.gradient_bytes + j->l.tile_bytes;
    int64_t first = j->l.units * chunk / chunks, last = j->l.units * (chunk + 1) / chunks;
    for (int64_t unit = first; unit < last; unit++)
        add_unit(j, &b, sum, scratch, unit, unit > first);
    if (!j->chunks)
        store_block(j, &b, sum);
}

static void join_chunks(void *context, int64_t index, int worker)
{
    (void)worker;
    const job *j = context;
    block b = block_at(j, index);
    int64_t chunks = j->plan->tile[CHUNKS], count = b.inputs * fc_taps(&j->plan->problem.window) * j->l.lane_row;
    char *sum = j->chunks + index * chunks * j->l.block_bytes;
    for (int64_t i = 1; i < chunks; i++)
        j->l.kernels->scatter_row(sum, 1, sum + i * j->l.block_bytes, count, 1);
    store_block(j, &b, sum);
}

static fc_status run_gemm(const fc_conv_plan *plan, void *x, void *w, void *bias, void *y)
{
    (void)bias;
    const fc_conv *p = &plan->problem;
    job j = {.plan = plan, .l = lay_out(plan), .x = x, .y = y, .w = w};
    char *scratch = fc_arena_take(plan->scratch);
    if (!scratch)
        return FC_NO_MEMORY;
    int64_t *offset = (int64_t *)(void *)scratch, *place = (int64_t *)(void *)(scratch + j.l.offset_bytes);
    int64_t *row = (int64_t *)(void *)(scratch + j.l.offset_bytes + j.l.place_bytes), width = p->window.out[2];
    fc_source_offsets(&j.l.source, p, plan->tile[INPUTS], offset);
    for (int64_t i = 0; i < j.l.pixels; i++) {
        place[i] = i / width * j.l.source.pitch + i % width;
        row[i] = i * j.l.lane_row;
    }
    scratch += j.l.offset_bytes + 2 * j.l.place_bytes;
    int64_t blocks = blocks_of(p, &j.l), tasks = blocks * plan->tile[CHUNKS];
    if (plan->tile[CHUNKS] > 1) {
        j.chunks = scratch;
        scratch += tasks * j.l.block_bytes;
    }
    j.scratch = scratch;
    j.offset = offset;
    fc_gemm_plan(&j.gemm, j.l.kernels, j.l.terms, j.l.lane_row);
    j.gemm.gather = 1;
    j.gemm.a_offset = place;
    j.gemm.b_offset = row;
    fc_parallel(plan->threads, tasks, run_task, &j);
    if (j.chunks)
        fc_parallel(plan->threads, blocks, join_chunks, &j);
    fc_arena_give();
    return FC_OK;
}

const fc_driver fc_driver_weight_gemm = {"gemm", plan_gemm, run_gemm};
