/* The Winograd driver, F(4x4, 3x3): 36 small products instead of one with nine times the reduction, 2.25 to 4 times fewer
 * multiplications.  float32, 3x3 (or KDx3x3), stride 1.
 *
 *     V[f][c][t] = (B^T d B)_f of channel c, tile t          U[f][o][c] = (G g G^T)_f
 *     M[f][o][t] = sum_c U[f][o][c] V[f][c][t]                y = A^T M A + b
 *
 * (with three axes the sum runs over c and kd, and c stands for the pair: a plane of the kernel, a plane of the input).
 * Tiles come in cells, a few neighbours of a row (half a vector of pixels), and a block is some cells: whole rows of tiles, of
 * several images where they are small, or a part of one wide row.  A dilated convolution is one per phase of the dilation,
 * over every d-th pixel: phases are planes, like images.
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
#include <math.h>

#include "engine/gemm.h"
#include "engine/output.h"
#include "engine/winograd.h"

enum { CELLS, OUTPUTS, FLAGS }; /* plan->tile */
enum { SHARED_INPUT = 1, SHARED_WEIGHTS = 2, HALF_CELLS = 4 };
enum { FC_TRANSFORMED_BYTES = 8 << 20, CELLS_MAX = 96 };

typedef struct layout {
    const fc_kernels *kernels;
    const fc_winograd_kernels *winograd;
    int64_t cell, group;                         /* pixels of a cell; cells of a vector */
    int64_t row_cells, row_tiles, rows;          /* cells of a row of tiles; rows of tiles of a plane, and of all */
    int64_t block_rows, column_blocks, blocks;   /* rows of tiles of a block; blocks of one group */
    int64_t pitch;                               /* pixels of a copied row */
    int64_t tiles;                               /* of a block, in whole vectors: columns of the products */
    int64_t terms, inputs;                       /* (kd, c) of the sum; a row of U, in whole vectors */
    int64_t v_step, m_step, u_step, u_rows;      /* elements from one frequency to the next; output channels of a U */
    int64_t v_bytes, m_bytes, u_bytes, band_bytes, offset_bytes;
} layout;

/* Rows of tiles tr ... tr + rows of a plane (n, od, phase), cells tc ... tc + cells of each. */
typedef struct segment {
    int64_t plane, tr, rows, tc, cells;
} segment;

/* A plane's place in the problem: image, output plane, and the phase of the dilation in height and width. */
typedef struct place {
    int64_t n, od, phase[2];
} place;

/* Rows of tiles of a block of at most `most` cells: those that waste the fewest lanes, cells and strips rounded up. */
static int64_t block_rows(int64_t rows, int64_t row_cells, int64_t most, int64_t group)
{
    int64_t best = 1;
    double least = INFINITY;
    for (int64_t n = 1; n <= rows && n * row_cells <= most; n++) {
        int64_t vectors = fc_ceil_div(n * row_cells, group), blocks = fc_ceil_div(rows, n);
        double cost = (double)blocks * ((double)vectors + 0.1 * (double)(vectors % 3 != 0) + 0.1);
        if (cost <= least) {
            least = cost;
            best = n;
        }
    }
    return best;
}

/* Vectors at the end of a block's that are done in pairs: a strip of two has more rows than one of three, so what three does
 * not divide is a product of its own (7 vectors: 3, 4 instead of 3, 2, 2 at the height of 3). */
static int64_t pair_vectors(const fc_kernels *kernels, int64_t vectors)
{
    int64_t rest = vectors % 3;
    return kernels->nv != 3 || !rest || vectors <= 4 ? 0 : rest == 1 ? 4 : 2;
}

static int64_t planes_of(const fc_conv *p)
{
    const fc_window *w = &p->window;
    return fc_mul(fc_mul(p->batch, w->out[0]), fc_mul(w->dilation[1], w->dilation[2]));
}

static place place_of(const fc_conv *p, int64_t plane)
{
    const fc_window *w = &p->window;
    place at = {.phase = {plane / w->dilation[2] % w->dilation[1], plane % w->dilation[2]}};
    plane /= w->dilation[1] * w->dilation[2];
    at.od = plane % w->out[0];
    at.n = plane / w->out[0];
    return at;
}

static layout lay_out(const fc_conv_plan *plan)
{
    const fc_conv *p = &plan->problem;
    const fc_kernels *kernels = fc_dispatch(p->real);
    int64_t lanes = kernels->lanes, cells = plan->tile[CELLS], size = kernels->size;
    const fc_winograd_kernels *winograd = &kernels->winograd[plan->tile[FLAGS] & HALF_CELLS ? 1 : 0];
    layout l = {.kernels = kernels, .winograd = winograd, .cell = winograd->cell, .group = winograd->cells};
    l.row_tiles = fc_ceil_div(fc_ceil_div(p->window.out[1], p->window.dilation[1]), 4);
    l.row_cells = fc_ceil_div(fc_ceil_div(p->window.out[2], p->window.dilation[2]), l.cell);
    l.rows = fc_mul(planes_of(p), l.row_tiles);
    l.column_blocks = fc_ceil_div(l.row_cells, cells);
    l.block_rows = block_rows(l.rows, l.row_cells, cells, l.group);
    l.blocks = fc_mul(fc_ceil_div(l.rows, l.block_rows), l.column_blocks);
    int64_t block_cells = l.column_blocks > 1 ? cells : l.block_rows * l.row_cells;
    l.tiles = fc_ceil_div(block_cells, l.group) * lanes;
    l.terms = fc_mul(p->window.kernel[0], p->channels);
    l.inputs = fc_ceil_div(l.terms, lanes) * lanes;
    l.u_rows = plan->tile[FLAGS] & SHARED_WEIGHTS ? p->out_channels : plan->tile[OUTPUTS];
    l.v_step = fc_add(fc_mul(l.terms, l.tiles), STEP_PAD);
    l.m_step = fc_add(fc_mul(plan->tile[OUTPUTS], l.tiles), STEP_PAD);
    l.u_step = fc_add(fc_mul(l.u_rows, l.inputs), STEP_PAD);
    l.v_bytes = fc_bytes(fc_mul(FREQUENCIES, l.v_step), size);
    l.m_bytes = fc_bytes(fc_mul(FREQUENCIES, l.m_step), size);
    l.u_bytes = fc_bytes(fc_mul(FREQUENCIES, l.u_step), size);
    l.pitch = fc_min(l.row_cells, cells) * l.cell + 2;
    l.band_bytes = fc_bytes(fc_max(fc_mul(l.block_rows * 6, l.pitch) + lanes, 16 * lanes), size);
    l.offset_bytes = fc_bytes(l.terms, sizeof(int64_t));
    return l;
}

static int64_t worker_bytes(const fc_conv_plan *plan, const layout *l)
{
    int64_t input = plan->tile[FLAGS] & SHARED_INPUT ? 0 : l->v_bytes;
    int64_t weights = plan->tile[FLAGS] & SHARED_WEIGHTS ? 0 : l->u_bytes;
    return fc_add(fc_add(input, weights), fc_add(l->m_bytes, l->band_bytes));
}

static int64_t shared_bytes(const fc_conv_plan *plan, const layout *l)
{
    int64_t groups = plan->problem.groups;
    int64_t input = plan->tile[FLAGS] & SHARED_INPUT ? fc_mul(groups * l->blocks, l->v_bytes) : 0;
    int64_t weights = plan->tile[FLAGS] & SHARED_WEIGHTS ? fc_mul(groups, l->u_bytes) : 0;
    return fc_add(fc_add(input, weights), l->offset_bytes);
}

/* Estimated nanoseconds of the transforms and products of one call.  Calibrated on Zen 5, one thread: 1-16@28 b32 178 us,
 * 16-32@14 b32 283 us, 128-128@16 b32 4.04 ms, 64-64@224 7.45 ms, 512-512@14 2.8 ms. */
static double block_cost(const fc_conv *p, const layout *l)
{
    double blocks = (double)p->groups * (double)l->blocks, vectors = (double)(l->tiles / l->kernels->lanes);
    double channels = (double)l->terms, outputs = (double)p->out_channels;
    /* Pixels that are not neighbours are copied one by one, six rows of a tile's four. */
    if (p->window.dilation[2] > 4 || p->x.s[2] != 1)
        channels *= 1 + 0.5 * 6 * 4 * (double)l->kernels->lanes / 110;
    double transforms = vectors * (110 * channels + 90 * outputs) * (l->winograd == l->kernels->winograd ? 1.0 : 1.6);
    return blocks * (1.15 * FREQUENCIES * fc_gemm_cost(l->kernels, p->out_channels, l->tiles, l->terms) + transforms);
}

/* Blocks of at most so many vectors, of cells or halves, as their waste decides; blocks of output channels whose M, and U,
 * stay in the cache.  Returns the layout. */
static layout choose_tile(fc_conv_plan *plan, const fc_kernels *kernels, int64_t vectors)
{
    const fc_conv *p = &plan->problem;
    int64_t cells = kernels->winograd[0].cells * vectors;
    plan->tile[CELLS] = cells;
    plan->tile[OUTPUTS] = p->out_channels;
    plan->tile[FLAGS] = 0;
    layout whole = lay_out(plan);
    plan->tile[CELLS] = kernels->winograd[1].cells * vectors;
    plan->tile[FLAGS] = HALF_CELLS;
    layout half = lay_out(plan);
    if (block_cost(p, &half) > block_cost(p, &whole)) {
        plan->tile[CELLS] = cells;
        plan->tile[FLAGS] = 0;
    }
    layout l = lay_out(plan);
    int64_t weights = fc_mul(p->groups, fc_mul(FREQUENCIES, fc_mul(p->out_channels, l.inputs) + STEP_PAD)) * kernels->size;
    int shared = l.blocks > 2 && weights <= FC_TRANSFORMED_BYTES, few = p->groups * l.blocks < 2 * plan->threads;
    plan->tile[FLAGS] |= (shared ? SHARED_WEIGHTS : 0) | (plan->threads > 1 && few ? SHARED_INPUT : 0);
    int64_t rows = kernels->mr[kernels->nv], bytes = FREQUENCIES * kernels->size * l.tiles, most = (448 << 10) / bytes;
    if (!shared)
        most = fc_min(most, (768 << 10) / (FREQUENCIES * kernels->size) / l.inputs);
    /* A V beyond the cache is read once per block of outputs, so there are few of these, even if U then leaves the cache:
     * 256-256@56 with blocks of 18 takes 13.7 ms, of 52 12.0; 128-128@16 b32 8.1 and 7.0; 512-512@28, V three times as wide
     * besides, 18.2 and 14.0.  Not worth it for a few tiles: 512-512@14, one vector, 4.8 and 6.2. */
    if (l.v_bytes > 1 << 20 && l.tiles >= 3 * kernels->lanes)
        most = fc_max(most, 64);
    int64_t blocks = fc_ceil_div(p->out_channels, fc_max(rows, most / rows * rows));
    if (plan->tile[FLAGS] & SHARED_INPUT)
        blocks = fc_max(blocks, fc_min(4 * plan->threads, p->out_channels / rows));
    plan->tile[OUTPUTS] = fc_ceil_div(p->out_channels, fc_max(1, blocks));
    l = lay_out(plan);
    plan->scratch = fc_add(shared_bytes(plan, &l), fc_mul(plan->threads, worker_bytes(plan, &l)));
    return l;
}

/* Why F(4x4, 3x3) does not serve the problem, or NULL. */
static const char *refusal(const fc_conv_plan *plan)
{
    const fc_window *w = &plan->problem.window;
    const char *reason = fc_winograd_precision_refusal(plan);
    if (reason)
        return reason;
    if (w->kernel[1] != 3 || w->kernel[2] != 3)
        return "the kernel is not 3x3";
    if (w->stride[1] != 1 || w->stride[2] != 1)
        return "the stride is not 1";
    if (w->dilation[1] > w->out[1] || w->dilation[2] > w->out[2])
        return "the dilation exceeds the output";
    return NULL;
}

/* Dearer where vectors are short, whose sums are of few tiles: Zen 3, this and winograd_channels, ms, 512-512@7 b8 19.3, 14.0, @14 9.4,
 * 7.8, @28 42.6, 20.0, 384-384@13 5.0, 4.4; input gradients 18.8, 15.0, @14 7.9, 9.2, @13 3.5, 3.9. */
#define SHORT_VECTORS 1.12

static const char *plan_winograd(fc_conv_plan *plan, double *cost)
{
    const fc_conv *p = &plan->problem;
    const fc_window *w = &p->window;
    const fc_kernels *kernels = fc_dispatch(p->real);
    const char *reason = refusal(plan);
    if (reason)
        return reason;
    if (w->kernel[0] > 1 && p->channels % kernels->lanes)
        return "the kernel is deep and the channels are no whole vectors";
    if (!fc_reduction(p))
        return "there is nothing to sum";
    layout l = choose_tile(plan, kernels, 3 * kernels->nv);
    if (plan->scratch > fc_scratch_max(plan->threads))
        l = choose_tile(plan, kernels, kernels->nv);
    if (plan->scratch > fc_scratch_max(plan->threads))
        return "the transformed tiles and weights exceed the scratch bound";
    double blocks = plan->tile[FLAGS] & SHARED_WEIGHTS ? 1.0 : (double)l.blocks;
    *cost = 2000 + 3.0 * blocks * (double)p->groups * (double)p->out_channels * (double)l.terms + block_cost(p, &l);
    *cost *= fc_has_short_vectors(kernels) ? SHORT_VECTORS : 1.0;
    return NULL;
}

typedef struct job {
    const fc_conv_plan *plan;
    layout l;
    fc_gemm gemm[2]; /* of the strips of three vectors, and of the pairs that are left */
    const char *x, *w, *bias;
    char *y, *scratch;    /* scratch of the workers */
    char *inputs, *weights; /* shared V and U, or NULL */
} job;

/* The segments of a block, and their number, at most CELLS_MAX. */
static int segments_of(const job *j, int64_t block, segment *segments)
{
    const layout *l = &j->l;
    int64_t part = block % l->column_blocks, row = block / l->column_blocks * l->block_rows, cells = j->plan->tile[CELLS];
    int64_t rows = fc_min(l->block_rows, l->rows - row);
    int count = 0;
    for (int64_t n; rows > 0; rows -= n, row += n) {
        int64_t tr = row % l->row_tiles, tc = part * cells;
        n = fc_min(rows, l->row_tiles - tr);
        segments[count++] = (segment){row / l->row_tiles, tr, n, tc, fc_min(l->row_cells - tc, cells)};
    }
    return count;
}

/* The rows of one channel, tap kd, that a segment's tiles touch, padded: 4 rows + 2 of `pitch` pixels.  Returns the end. */
static char *copy_segment(const job *j, const segment *s, char *band, int64_t pitch, int64_t channel, int64_t kd)
{
    static const double zero = 0;
    const fc_conv *p = &j->plan->problem;
    const fc_window *w = &p->window;
    const fc_kernels *kernels = j->l.kernels;
    place at = place_of(p, s->plane);
    int64_t id = at.od * w->stride[0] + kd * w->dilation[0] - w->offset[0];
    int64_t first = s->tc * j->l.cell * w->dilation[2] + at.phase[1] - w->offset[2];
    const char *x = fc_at(j->x, at.n * p->x.n + channel * p->x.c + id * p->x.s[0], kernels->size);
    for (int64_t i = 0; i < 4 * s->rows + 2; i++, band += pitch * kernels->size) {
        int64_t ih = (4 * s->tr + i) * w->dilation[1] + at.phase[0] - w->offset[1];
        int inside = id >= 0 && id < w->in[0] && ih >= 0 && ih < w->in[1];
        kernels->gather_row(band, pitch, inside ? fc_at(x, ih * p->x.s[1], kernels->size) : NULL, p->x.s[2], first,
                            w->dilation[2], w->in[2], &zero);
    }
    return band;
}

/* V for terms begin ... end of one block. */
static void transform_inputs(const job *j, int64_t g, int64_t block, int64_t begin, int64_t end, char *inputs, char *band)
{
    const layout *l = &j->l;
    int64_t size = l->kernels->size, place_in_band[CELLS_MAX + FC_WINOGRAD_CELLS_MAX], rows = 0, count = 0;
    segment segments[CELLS_MAX];
    int parts = segments_of(j, block, segments);
    int64_t pitch = l->pitch;
    for (int i = 0; i < parts; rows += 4 * segments[i++].rows + 2)
        for (int64_t cell = 0; cell < segments[i].rows * segments[i].cells; cell++)
            place_in_band[count++] = ((rows + cell / segments[i].cells * 4) * pitch + cell % segments[i].cells * l->cell) * size;
    while (count % l->group) /* the last vector's rest: any cell */
        place_in_band[count++] = 0;
    int64_t channels = j->plan->problem.channels;
    for (int64_t term = begin; term < end; term++) {
        char *next = band, *v = inputs + term * l->tiles * size;
        for (int i = 0; i < parts; i++)
            next = copy_segment(j, &segments[i], next, pitch, g * channels + term % channels, term / channels);
        for (int64_t at = 0; at < count; at += l->group, v += l->kernels->lanes * size) {
            const void *cells[FC_WINOGRAD_CELLS_MAX];
            for (int k = 0; k < l->group; k++)
                cells[k] = band + place_in_band[at + k];
            l->winograd->input(v, l->v_step, cells, pitch);
        }
    }
}

/* U for output channels begin ... end of a group, as rows 0 ... of `weights`. */
static void transform_weights(const job *j, int64_t g, int64_t begin, int64_t end, char *weights)
{
    const fc_conv *p = &j->plan->problem;
    int64_t stride[4] = {p->w.o, p->w.c, p->w.k[1], p->w.k[2]};
    int64_t size = j->l.kernels->size;
    for (int64_t kd = 0; kd < p->window.kernel[0]; kd++)
        j->l.winograd->weights(weights + kd * p->channels * size, j->l.u_step, j->l.inputs,
                               fc_at(j->w, g * p->w.g + begin * p->w.o + kd * p->w.k[0], size), stride, end - begin,
                               p->channels);
}

/* Where a cell's outputs go: its first element in channel 0, and how many rows and columns of it lie inside y. */
typedef struct target {
    int64_t y, plane, oh, ow, rows, columns;
} target;

static int targets_of(const job *j, int64_t block, target *targets)
{
    const fc_conv *p = &j->plan->problem;
    const fc_window *w = &p->window;
    segment segments[CELLS_MAX];
    int parts = segments_of(j, block, segments), count = 0;
    for (int i = 0; i < parts; i++) {
        const segment *s = &segments[i];
        place at = place_of(p, s->plane);
        int64_t height = fc_ceil_div(w->out[1] - at.phase[0], w->dilation[1]);
        int64_t width = fc_ceil_div(w->out[2] - at.phase[1], w->dilation[2]);
        for (int64_t cell = 0; cell < s->rows * s->cells; cell++) {
            int64_t row = 4 * (s->tr + cell / s->cells), column = (s->tc + cell % s->cells) * j->l.cell;
            target t = {.plane = at.n * w->out[0] + at.od, .rows = fc_min(4, height - row)};
            t.columns = fc_min(j->l.cell, width - column);
            t.oh = row * w->dilation[1] + at.phase[0];
            t.ow = column * w->dilation[2] + at.phase[1];
            t.y = at.n * p->y.n + at.od * p->y.s[0] + t.oh * p->y.s[1] + t.ow * p->y.s[2];
            targets[count++] = t;
        }
    }
    return count;
}

/* One vector of tiles of one output channel: cells that lie inside y are written there, others by way of `tile`. */
static void store_cells(const job *j, const target *targets, int count, int64_t o, char *tile, const char *m)
{
    const fc_conv *p = &j->plan->problem;
    const fc_kernels *kernels = j->l.kernels;
    int64_t size = kernels->size, row[FC_WINOGRAD_CELLS_MAX], y_row = p->y.s[1] * p->window.dilation[1];
    int64_t y_column = p->y.s[2] * p->window.dilation[2];
    void *cells[FC_WINOGRAD_CELLS_MAX];
    char *y = j->y + o * p->y.c * size;
    unsigned by_tile = 0;
    for (int k = 0; k < j->l.group; k++) {
        int inside = k < count && targets[k].rows == 4 && targets[k].columns == j->l.cell && y_column == 1;
        cells[k] = inside ? y + targets[k].y * size : tile + 4 * k * j->l.cell * size;
        row[k] = inside ? y_row : j->l.cell;
        by_tile |= (unsigned)!inside << k;
    }
    const void *init = j->bias ? fc_at(j->bias, o, size) : NULL;
    double bounds[2];
    fc_output_bounds(p, bounds);
    int finite = j->l.winograd->output(cells, row, m, j->l.m_step, init, bounds);
    for (int k = 0; k < count && (by_tile || !finite); k++)
        for (int64_t r = 0; r < targets[k].rows; r++)
            if (finite && by_tile >> k & 1 && targets[k].columns > 0)
                kernels->scatter_row(y + (targets[k].y + r * y_row) * size, y_column,
                                     tile + (4 * k + r) * j->l.cell * size, targets[k].columns, 0);
            else if (!finite)
                for (int64_t q = 0, ow = targets[k].ow; q < targets[k].columns; q++, ow += p->window.dilation[2])
                    fc_reference_row(p, j->x, j->w, j->bias, j->y, o, targets[k].plane,
                                     targets[k].oh + r * p->window.dilation[1], ow, ow + 1);
}

/* Output channels begin ... end of one block, from V and U to y. */
static void multiply(const job *j, int64_t g, int64_t block, int64_t begin, int64_t end, const char *inputs,
                     const char *weights, char *products, char *tile)
{
    const layout *l = &j->l;
    int64_t size = l->kernels->size;
    for (int f = 0; f < FREQUENCIES; f++)
        for (int part = 0; part < 2; part++)
            for (int64_t o = begin, rows, at = part * j->gemm[0].columns; o < end && j->gemm[part].columns; o += rows) {
                rows = fc_min(j->gemm[part].rows, end - o);
                const void *a[FC_MR_MAX];
                for (int m = 0; m < rows; m++)
                    a[m] = weights + (f * l->u_step + (o - begin + m) * l->inputs) * size;
                fc_gemm_run(&j->gemm[part], (int)rows, a, inputs + (f * l->v_step + at) * size,
                            products + (f * l->m_step + (o - begin) * l->tiles + at) * size, l->tiles, NULL, 0);
            }
    target targets[CELLS_MAX];
    int64_t count = targets_of(j, block, targets);
    for (int64_t o = begin; o < end; o++) {
        const char *m = products + (o - begin) * l->tiles * size;
        for (int64_t at = 0; at < count; at += l->group, m += l->kernels->lanes * size)
            store_cells(j, targets + at, (int)fc_min(l->group, count - at), g * j->plan->problem.out_channels + o, tile, m);
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
    transform_inputs(j, g, block, 0, l->terms, inputs, band);
    for (int64_t o = 0; o < j->plan->problem.out_channels; o += outputs)
        multiply_outputs(j, g, block, o, fc_min(j->plan->problem.out_channels, o + outputs), inputs, scratch);
}

enum { INPUT_PARTS = 8 }; /* tasks that one block's channels are cut into */

static void run_input_part(void *context, int64_t task, int worker)
{
    const job *j = context;
    const layout *l = &j->l;
    int64_t part = task % INPUT_PARTS, index = task / INPUT_PARTS;
    char *band = j->scratch + worker * worker_bytes(j->plan, l) + (j->weights ? 0 : l->u_bytes) + l->m_bytes;
    transform_inputs(j, index / l->blocks, index % l->blocks, l->terms * part / INPUT_PARTS,
                     l->terms * (part + 1) / INPUT_PARTS, j->inputs + index * l->v_bytes, band);
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

enum { WEIGHT_ROWS = 16 }; /* output channels of a task of the shared transform */

static void run_weights(void *context, int64_t task, int worker)
{
    (void)worker;
    const job *j = context;
    int64_t outputs = j->plan->problem.out_channels, parts = fc_ceil_div(outputs, WEIGHT_ROWS);
    int64_t g = task / parts, o = task % parts * WEIGHT_ROWS;
    transform_weights(j, g, o, fc_min(outputs, o + WEIGHT_ROWS),
                      j->weights + g * j->l.u_bytes + o * j->l.inputs * j->l.kernels->size);
}

static fc_status run_winograd(const fc_conv_plan *plan, void *x, void *w, void *bias, void *y)
{
    const fc_conv *p = &plan->problem;
    job j = {.plan = plan, .l = lay_out(plan), .x = x, .w = w, .bias = bias, .y = y};
    char *scratch = fc_arena_take(plan->scratch);
    if (!scratch)
        return FC_NO_MEMORY;
    int64_t *offset = (int64_t *)(void *)scratch;
    for (int64_t term = 0; term < j.l.terms; term++)
        offset[term] = term * j.l.tiles;
    scratch += j.l.offset_bytes;
    if (plan->tile[FLAGS] & SHARED_WEIGHTS) {
        j.weights = scratch;
        scratch += p->groups * j.l.u_bytes;
        fc_parallel(plan->threads, p->groups * fc_ceil_div(p->out_channels, WEIGHT_ROWS), run_weights, &j);
    }
    int64_t blocks = p->groups * j.l.blocks;
    if (plan->tile[FLAGS] & SHARED_INPUT)
        j.inputs = scratch;
    j.scratch = scratch + (j.inputs ? blocks * j.l.v_bytes : 0);
    int64_t lanes = j.l.kernels->lanes, pairs = pair_vectors(j.l.kernels, j.l.tiles / lanes) * lanes;
    for (int part = 0; part < 2; part++) {
        int64_t columns = part ? pairs : j.l.tiles - pairs;
        fc_gemm_plan(&j.gemm[part], j.l.kernels, fc_min(plan->tile[OUTPUTS], p->out_channels), columns);
        j.gemm[part].columns = columns;
        j.gemm[part].k = j.l.terms;
        j.gemm[part].b_offset = offset;
    }
    if (j.inputs) {
        fc_parallel(plan->threads, blocks * INPUT_PARTS, run_input_part, &j);
        fc_parallel(plan->threads, blocks * fc_ceil_div(p->out_channels, plan->tile[OUTPUTS]), run_output_part, &j);
    } else {
        fc_parallel(plan->threads, blocks, run_block, &j);
    }
    fc_arena_give();
    return FC_OK;
}

const fc_driver fc_driver_winograd = {"winograd", plan_winograd, run_winograd, .bounded = 1};
