/* The Winograd driver, F(4x4, 3x3): 36 small products instead of one with nine times the reduction, 2.25 to 4 times fewer
 * multiplications.  float32, 3x3 (or 1x3x3), stride and dilation 1.
 *
 *     V[f][c][t] = (B^T d B)_f of channel c, tile t          U[f][o][c] = (G g G^T)_f
 *     M[f][o][t] = sum_c U[f][o][c] V[f][c][t]                y = A^T M A + b
 *
 * Tiles are counted in cells of LANES / 4, a vector of output pixels in each of four rows; a block is some cells (whole rows
 * of tiles, of several images where they are small, or a part of one wide row).
 *
 *     for each block, group g                                                        a task
 *         for each channel: copy the rows that the block's tiles touch, padded; transform into V
 *         for each block of output channels:
 *             transform its weights into U, unless that is done once a call
 *             for each f: gemm kernel over tiles of rows o; transform M and store
 *
 * Where there are fewer blocks than threads want (batch 1, small images), channels are transformed in parallel first and the
 * blocks of output channels are the tasks.  U is made once a call where it fits FC_TRANSFORMED_BYTES and serves several
 * blocks; otherwise per block of output channels, in cache: at 512-512@14, batch 1, U would be 38 MB against 9 MB of weights.
 *
 * One NaN or infinity in a patch, or a sum that overflows, spoils a whole tile.  The output transform sees it, and those
 * tiles' rows are computed again by their definition, so that non-finite values travel as in a direct sum.
 */
#include "engine/gemm.h"

enum { CELLS, OUTPUTS, SHARED_INPUT, SHARED_WEIGHTS }; /* plan->tile; the last two are flags */
enum { FC_TRANSFORMED_BYTES = 8 << 20, FREQUENCIES = 36, STEP_PAD = 16, SEGMENTS_MAX = 32 };

typedef struct layout {
    const fc_kernels *kernels;
    int64_t row_cells, row_tiles;                /* of one row of tiles */
    int64_t block_rows, column_blocks, blocks;   /* rows of tiles of a block; blocks of one group */
    int64_t tiles;                               /* of a block, in whole vectors: columns of the products */
    int64_t inputs;                              /* input channels in whole vectors */
    int64_t v_step, m_step, u_step, u_rows;      /* elements from one frequency to the next; output channels of a U */
    int64_t v_bytes, m_bytes, u_bytes, band_bytes, offset_bytes;
} layout;

/* Rows of tiles tr ... tr + rows of plane `plane` (n, od), cells tc ... tc + cells of each. */
typedef struct segment {
    int64_t plane, tr, rows, tc, cells;
} segment;

static int64_t bytes_of(int64_t count, int64_t size)
{
    return fc_arena_round(fc_min(INT64_MAX / 8, fc_mul(count, size)));
}

static layout lay_out(const fc_conv_plan *plan)
{
    const fc_conv *p = &plan->problem;
    const fc_kernels *kernels = fc_dispatch(p->real);
    int64_t lanes = kernels->lanes, cells = plan->tile[CELLS], size = kernels->size;
    layout l = {.kernels = kernels, .row_tiles = fc_ceil_div(p->window.out[1], 4)};
    l.row_cells = fc_ceil_div(p->window.out[2], lanes);
    l.block_rows = fc_max(1, cells / l.row_cells);
    l.column_blocks = fc_ceil_div(l.row_cells, cells);
    l.blocks = fc_ceil_div(p->batch * p->window.out[0] * l.row_tiles, l.block_rows) * l.column_blocks;
    int64_t block_cells = l.column_blocks > 1 ? cells : l.block_rows * l.row_cells;
    l.tiles = fc_ceil_div(block_cells, 4) * lanes;
    l.inputs = fc_ceil_div(p->channels, lanes) * lanes;
    l.u_rows = plan->tile[SHARED_WEIGHTS] ? p->out_channels : plan->tile[OUTPUTS];
    l.v_step = fc_add(fc_mul(p->channels, l.tiles), STEP_PAD);
    l.m_step = fc_add(fc_mul(plan->tile[OUTPUTS], l.tiles), STEP_PAD);
    l.u_step = fc_add(fc_mul(l.u_rows, l.inputs), STEP_PAD);
    l.v_bytes = bytes_of(fc_mul(FREQUENCIES, l.v_step), size);
    l.m_bytes = bytes_of(fc_mul(FREQUENCIES, l.m_step), size);
    l.u_bytes = bytes_of(fc_mul(FREQUENCIES, l.u_step), size);
    l.band_bytes = bytes_of(l.block_rows * 6 * (fc_min(l.row_cells, cells) * lanes + 4) + 2 * lanes, size);
    l.offset_bytes = bytes_of(p->channels, sizeof(int64_t));
    return l;
}

static int64_t worker_bytes(const fc_conv_plan *plan, const layout *l)
{
    int64_t input = plan->tile[SHARED_INPUT] ? 0 : l->v_bytes, weights = plan->tile[SHARED_WEIGHTS] ? 0 : l->u_bytes;
    return fc_add(fc_add(input, weights), fc_add(l->m_bytes, l->band_bytes));
}

static int64_t shared_bytes(const fc_conv_plan *plan, const layout *l)
{
    int64_t groups = plan->problem.groups;
    int64_t input = plan->tile[SHARED_INPUT] ? fc_mul(groups * l->blocks, l->v_bytes) : 0;
    int64_t weights = plan->tile[SHARED_WEIGHTS] ? fc_mul(groups, l->u_bytes) : 0;
    return fc_add(fc_add(input, weights), l->offset_bytes);
}

static void choose_tile(fc_conv_plan *plan, const fc_kernels *kernels)
{
    const fc_conv *p = &plan->problem;
    /* Two strips of tiles, one where many channels would drive V far out of the cache. */
    plan->tile[CELLS] = 4 * kernels->nv * (p->channels <= 256 ? 2 : 1);
    plan->tile[OUTPUTS] = p->out_channels;
    layout l = lay_out(plan);
    int64_t weights = fc_mul(p->groups, fc_mul(FREQUENCIES, fc_mul(p->out_channels, l.inputs) + STEP_PAD)) * kernels->size;
    plan->tile[SHARED_WEIGHTS] = l.blocks > 2 && weights <= FC_TRANSFORMED_BYTES;
    plan->tile[SHARED_INPUT] = plan->threads > 1 && p->groups * l.blocks < 2 * plan->threads;
    int64_t rows = kernels->mr[kernels->nv], bytes = FREQUENCIES * kernels->size * l.tiles, most = (448 << 10) / bytes;
    if (!plan->tile[SHARED_WEIGHTS])
        most = fc_min(most, (768 << 10) / (FREQUENCIES * kernels->size) / l.inputs);
    int64_t blocks = fc_ceil_div(p->out_channels, fc_max(rows, most / rows * rows));
    if (plan->tile[SHARED_INPUT])
        blocks = fc_max(blocks, fc_min(4 * plan->threads, p->out_channels / rows));
    plan->tile[OUTPUTS] = fc_ceil_div(p->out_channels, fc_max(1, blocks));
}

static const char *plan_winograd(fc_conv_plan *plan, double *cost)
{
    const fc_conv *p = &plan->problem;
    const fc_window *w = &p->window;
    const fc_kernels *kernels = fc_dispatch(p->real);
    if (!kernels->winograd.input)
        return "float64 is summed directly";
    if (plan->precision == FC_PRECISION_HIGHEST)
        return "the precision 'highest' allows direct sums only";
    if (w->kernel[0] != 1 || w->kernel[1] != 3 || w->kernel[2] != 3)
        return "the kernel is not 3x3";
    if (w->stride[1] != 1 || w->stride[2] != 1 || w->dilation[1] != 1 || w->dilation[2] != 1)
        return "stride or dilation is not 1";
    if (!p->channels)
        return "there is nothing to sum";
    choose_tile(plan, kernels);
    layout l = lay_out(plan);
    plan->scratch = fc_add(shared_bytes(plan, &l), fc_mul(plan->threads, worker_bytes(plan, &l)));
    if (plan->scratch > FC_SCRATCH_MAX)
        return "the transformed tiles and weights exceed the scratch bound";
    double blocks = (double)p->groups * (double)l.blocks, vectors = (double)(l.tiles / kernels->lanes);
    double channels = (double)p->channels, outputs = (double)p->out_channels;
    double weights = outputs * channels * 2.0 * (plan->tile[SHARED_WEIGHTS] ? (double)p->groups : blocks);
    *cost = 2000 + weights + blocks * (FREQUENCIES * fc_gemm_cost(kernels, p->out_channels, l.tiles, p->channels) +
                                       vectors * (75 * channels + 60 * outputs));
    return NULL;
}

typedef struct job {
    const fc_conv_plan *plan;
    layout l;
    fc_gemm gemm;
    const char *x, *w, *bias;
    char *y, *scratch;    /* scratch of the workers */
    char *inputs, *weights; /* shared V and U, or NULL */
} job;

/* The segments of a block, and their number. */
static int segments_of(const job *j, int64_t block, segment *segments)
{
    const layout *l = &j->l;
    const fc_conv *p = &j->plan->problem;
    int64_t part = block % l->column_blocks, row = block / l->column_blocks * l->block_rows, count = 0;
    int64_t rows = fc_min(l->block_rows, p->batch * p->window.out[0] * l->row_tiles - row), cells = j->plan->tile[CELLS];
    for (int64_t n; rows > 0; rows -= n, row += n) {
        int64_t tr = row % l->row_tiles, tc = part * cells;
        n = fc_min(rows, l->row_tiles - tr);
        segments[count++] = (segment){row / l->row_tiles, tr, n, tc, fc_min(l->row_cells - tc, cells)};
    }
    return (int)count;
}

/* The rows of one channel that a segment's tiles touch, padded: 4 rows + 2 of cells * lanes + 2 pixels. */
static char *copy_segment(const job *j, const segment *s, char *band, int64_t pitch, int64_t channel)
{
    static const double zero = 0;
    const fc_conv *p = &j->plan->problem;
    const fc_window *w = &p->window;
    const fc_kernels *kernels = j->l.kernels;
    int64_t n = s->plane / w->out[0], id = s->plane % w->out[0] * w->stride[0] - w->offset[0];
    const char *x = fc_at(j->x, n * p->x.n + channel * p->x.c + id * p->x.s[0], kernels->size);
    for (int64_t i = 0; i < 4 * s->rows + 2; i++, band += pitch * kernels->size) {
        int64_t ih = 4 * s->tr + i - w->offset[1];
        int inside = id >= 0 && id < w->in[0] && ih >= 0 && ih < w->in[1];
        kernels->gather_row(band, pitch, inside ? fc_at(x, ih * p->x.s[1], kernels->size) : NULL, p->x.s[2],
                            s->tc * kernels->lanes - w->offset[2], 1, w->in[2], &zero);
    }
    return band;
}

/* V for channels begin ... end of one block. */
static void transform_inputs(const job *j, int64_t g, int64_t block, int64_t begin, int64_t end, char *inputs, char *band)
{
    const layout *l = &j->l;
    int64_t size = l->kernels->size, lanes = l->kernels->lanes;
    segment segments[SEGMENTS_MAX];
    int count = segments_of(j, block, segments);
    int64_t pitch = segments[0].cells * lanes + 2;
    for (int64_t c = begin; c < end; c++) {
        char *rows = band, *v = inputs + c * l->tiles * size;
        const void *cells[4];
        int filled = 0;
        for (int i = 0; i < count; i++) {
            const segment *s = &segments[i];
            char *next = copy_segment(j, s, rows, pitch, g * j->plan->problem.channels + c);
            for (int64_t cell = 0; cell < s->rows * s->cells; cell++) {
                cells[filled++] = fc_at(rows, cell / s->cells * 4 * pitch + cell % s->cells * lanes, size);
                if (filled == 4) {
                    l->kernels->winograd.input(v, l->v_step, cells, pitch);
                    v += lanes * size;
                    filled = 0;
                }
            }
            rows = next;
        }
        if (filled) {
            for (int i = filled; i < 4; i++)
                cells[i] = cells[0];
            l->kernels->winograd.input(v, l->v_step, cells, pitch);
        }
    }
}

/* U for output channels begin ... end of a group, as rows 0 ... of `weights`. */
static void transform_weights(const job *j, int64_t g, int64_t begin, int64_t end, char *weights)
{
    const fc_conv *p = &j->plan->problem;
    int64_t size = j->l.kernels->size, stride[3] = {p->w.c, p->w.k[1], p->w.k[2]};
    for (int64_t o = begin; o < end; o++)
        j->l.kernels->winograd.weights(weights + (o - begin) * j->l.inputs * size, j->l.u_step,
                                       fc_at(j->w, g * p->w.g + o * p->w.o, size), stride, p->channels);
}

/* Four cells of one output channel: straight into y where all of them lie inside it, else by way of `tile`. */
static void store_cells(const job *j, const segment *const *at, const int64_t *cell, int count, int64_t o, char *tile,
                        const char *m)
{
    const fc_conv *p = &j->plan->problem;
    const fc_kernels *kernels = j->l.kernels;
    int64_t size = kernels->size, lanes = kernels->lanes, height = p->window.out[1], width = p->window.out[2];
    void *cells[4], *places[4];
    int64_t oh[4], ow[4], inside = count == 4 && p->y.s[2] == 1;
    for (int i = 0; i < count; i++) {
        int64_t n = at[i]->plane / p->window.out[0], od = at[i]->plane % p->window.out[0];
        oh[i] = 4 * (at[i]->tr + cell[i] / at[i]->cells);
        ow[i] = (at[i]->tc + cell[i] % at[i]->cells) * lanes;
        inside &= oh[i] + 4 <= height && ow[i] + lanes <= width;
        places[i] = fc_at(j->y, n * p->y.n + o * p->y.c + od * p->y.s[0] + oh[i] * p->y.s[1] + ow[i] * p->y.s[2], size);
    }
    for (int i = 0; i < 4; i++)
        cells[i] = inside ? places[i] : tile + i * lanes * size;
    const void *init = j->bias ? fc_at(j->bias, o, size) : NULL;
    int finite = kernels->winograd.output(cells, inside ? p->y.s[1] : 4 * lanes, m, j->l.m_step, init);
    for (int i = 0; i < count && (!inside || !finite); i++) {
        for (int64_t r = 0; r < fc_min(4, height - oh[i]); r++) {
            char *y = fc_at(places[i], r * p->y.s[1], size);
            if (!finite)
                fc_reference_row(p, j->x, j->w, j->bias, j->y, o, at[i]->plane, oh[i] + r, ow[i], fc_min(width, ow[i] + lanes));
            else
                kernels->scatter_row(y, p->y.s[2], tile + (i + 4 * r) * lanes * size, fc_min(lanes, width - ow[i]), 0);
        }
    }
}

/* Output channels begin ... end of one block, from V and U to y. */
static void multiply(const job *j, int64_t g, int64_t block, int64_t begin, int64_t end, const char *inputs,
                     const char *weights, char *products, char *tile)
{
    const layout *l = &j->l;
    int64_t size = l->kernels->size, lanes = l->kernels->lanes;
    for (int f = 0; f < FREQUENCIES; f++)
        for (int64_t o = begin, rows; o < end; o += rows) {
            rows = fc_min(j->gemm.rows, end - o);
            const void *a[FC_MR_MAX];
            for (int m = 0; m < rows; m++)
                a[m] = weights + (f * l->u_step + (o - begin + m) * l->inputs) * size;
            fc_gemm_run(&j->gemm, (int)rows, a, inputs + f * l->v_step * size,
                        products + (f * l->m_step + (o - begin) * l->tiles) * size, l->tiles, NULL, 0);
        }
    segment segments[SEGMENTS_MAX];
    int count = segments_of(j, block, segments);
    for (int64_t o = begin; o < end; o++) {
        const char *m = products + (o - begin) * l->tiles * size;
        const segment *at[4];
        int64_t cell[4];
        int filled = 0;
        for (int i = 0; i < count; i++)
            for (int64_t k = 0; k < segments[i].rows * segments[i].cells; k++) {
                at[filled] = &segments[i];
                cell[filled++] = k;
                if (filled == 4) {
                    store_cells(j, at, cell, 4, g * j->plan->problem.out_channels + o, tile, m);
                    m += lanes * size;
                    filled = 0;
                }
            }
        if (filled)
            store_cells(j, at, cell, filled, g * j->plan->problem.out_channels + o, tile, m);
    }
}

/* A worker's scratch: U of a block of channels (unless shared), M, the band (also the tile of output), V (unless shared). */
static void multiply_outputs(const job *j, int64_t g, int64_t block, int64_t begin, int64_t end, const char *inputs, char *scratch)
{
    const layout *l = &j->l;
    const char *weights = scratch;
    if (j->weights)
        weights = j->weights + g * l->u_bytes + begin * l->inputs * l->kernels->size;
    else
        transform_weights(j, g, begin, end, scratch);
    char *products = scratch + (j->weights ? 0 : l->u_bytes);
    multiply(j, g, block, begin, end, inputs, weights, products, products + l->m_bytes);
}

static void run_block(void *context, int64_t task, int worker)
{
    const job *j = context;
    const layout *l = &j->l;
    int64_t g = task / l->blocks, block = task % l->blocks, outputs = j->plan->tile[OUTPUTS];
    char *scratch = j->scratch + worker * worker_bytes(j->plan, l);
    char *band = scratch + (j->weights ? 0 : l->u_bytes) + l->m_bytes, *inputs = band + l->band_bytes;
    transform_inputs(j, g, block, 0, j->plan->problem.channels, inputs, band);
    for (int64_t o = 0; o < j->plan->problem.out_channels; o += outputs)
        multiply_outputs(j, g, block, o, fc_min(j->plan->problem.out_channels, o + outputs), inputs, scratch);
}

enum { INPUT_PARTS = 8 }; /* tasks that one block's channels are cut into */

static void run_input_part(void *context, int64_t task, int worker)
{
    const job *j = context;
    const layout *l = &j->l;
    int64_t part = task % INPUT_PARTS, index = task / INPUT_PARTS, channels = j->plan->problem.channels;
    char *band = j->scratch + worker * worker_bytes(j->plan, l) + (j->weights ? 0 : l->u_bytes) + l->m_bytes;
    transform_inputs(j, index / l->blocks, index % l->blocks, channels * part / INPUT_PARTS,
                     channels * (part + 1) / INPUT_PARTS, j->inputs + index * l->v_bytes, band);
}

static void run_output_part(void *context, int64_t task, int worker)
{
    const job *j = context;
    const layout *l = &j->l;
    int64_t outputs = j->plan->tile[OUTPUTS], parts = fc_ceil_div(j->plan->problem.out_channels, outputs);
    int64_t o = task % parts * outputs, index = task / parts;
    multiply_outputs(j, index / l->blocks, index % l->blocks, o, fc_min(j->plan->problem.out_channels, o + outputs),
                     j->inputs + index * l->v_bytes, j->scratch + worker * worker_bytes(j->plan, l));
}

static void run_weights(void *context, int64_t task, int worker)
{
    (void)worker;
    const job *j = context;
    int64_t outputs = j->plan->problem.out_channels, g = task / outputs, o = task % outputs;
    transform_weights(j, g, o, o + 1, j->weights + g * j->l.u_bytes + o * j->l.inputs * j->l.kernels->size);
}

static fc_status run_winograd(const fc_conv_plan *plan, void *x, void *w, void *bias, void *y)
{
    const fc_conv *p = &plan->problem;
    job j = {.plan = plan, .l = lay_out(plan), .x = x, .w = w, .bias = bias, .y = y};
    char *scratch = fc_arena_take(plan->scratch);
    if (!scratch)
        return FC_NO_MEMORY;
    int64_t *offset = (int64_t *)(void *)scratch;
    for (int64_t c = 0; c < p->channels; c++)
        offset[c] = c * j.l.tiles;
    scratch += j.l.offset_bytes;
    if (plan->tile[SHARED_WEIGHTS]) {
        j.weights = scratch;
        scratch += p->groups * j.l.u_bytes;
        fc_parallel(plan->threads, p->groups * p->out_channels, run_weights, &j);
    }
    int64_t blocks = p->groups * j.l.blocks;
    if (plan->tile[SHARED_INPUT])
        j.inputs = scratch;
    j.scratch = scratch + (j.inputs ? blocks * j.l.v_bytes : 0);
    fc_gemm_plan(&j.gemm, j.l.kernels, fc_min(plan->tile[OUTPUTS], p->out_channels), j.l.tiles);
    j.gemm.k = p->channels;
    j.gemm.b_offset = offset;
    if (j.inputs) {
        fc_parallel(plan->threads, blocks * INPUT_PARTS, run_input_part, &j);
        fc_parallel(plan->threads, blocks * fc_ceil_div(p->out_channels, plan->tile[OUTPUTS]), run_output_part, &j);
    } else {
        fc_parallel(plan->threads, blocks, run_block, &j);
    }
    fc_arena_give();
    return FC_OK;
}

const fc_driver fc_driver_winograd = {"winograd", plan_winograd, run_winograd};
