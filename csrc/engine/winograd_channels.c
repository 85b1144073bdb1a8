/* Winograd F(4x4, 3x3) with lanes over channels: images whose channels are neighbours in memory, and images of few tiles.
 * float32, 3x3 (or KDx3x3), stride 1, no dilation.
 *
 *     V[f][t][c] = (B^T d B)_f of channel c, tile t          U[f][c][o] = (G g G^T)_f
 *     M[f][t][o] = sum_c V[f][t][c] U[f][c][o]                y = A^T M A + b
 *
 * (with three axes the sum runs over kd and c).  winograd.c has its lanes over tiles, which a 14x14 image has 16 of: its
 * products are one vector wide, where a third of the multiply-adds wait for loads.  Here products are tiles by output channels,
 * 8 rows of 3 vectors, and no transform shuffles; images whose rows are contiguous are transposed on the way in and out.
 *
 *     for each group g, block of rows of tiles                                                                a task
 *         for each kd, vector of channels: copy as a panel (pixels by channels), transform into V
 *         for each block of output channels (up to three vectors):
 *             for each block of channels: weights into U, unless that is done once a call; for each f: add to M
 *             transform M; store, or copy to y by way of a panel
 *
 * Where there are fewer blocks than threads want, one after the other has its vectors of channels, then its blocks of output
 * channels as tasks, and V is shared.
 *
 * Channels come in blocks so that U of one (36 x 128 x 48) stays in the second-level cache while it is used; M is small.
 *
 * One NaN or infinity in a patch, or a sum that overflows, spoils a tile.  The output transform sees it, and that vector of
 * channels is computed again by definition, in the rows of this image that the block holds.
 */
#include <string.h>

#include "engine/output.h"
#include "engine/weight_panel.h"
#include "engine/weight_tiles.h"
#include "engine/winograd.h"

/* plan->tile: rows of tiles of a block; whether U is made once a call; whether a block is a task. */
enum { ROWS, SHARED, WHOLE };
enum { CHANNELS = 128, VECTORS = 3 };
enum { SHARED_BYTES = 8 << 20, V_BYTES = 384 << 10, V_BYTES_MAX = 6 << 20, TILES = 48 };

typedef struct layout {
    const fc_kernels *kernels;
    fc_panel x;                         /* the input pixels of a segment */
    int64_t columns, row_tiles, rows;   /* tiles of a row; rows of tiles of a plane, and of all */
    int64_t blocks, tiles;              /* of a group; of a block */
    int64_t inputs, channels;           /* terms of a row of V, in whole vectors; channels of a block */
    int64_t vectors, parts, width;      /* of output channels: vectors, blocks of them, elements of the widest */
    int64_t v_step, m_step, u_step;     /* elements from one frequency to the next */
    int64_t v_bytes, m_bytes, u_bytes, panel_bytes, temp_bytes, offset_bytes;
} layout;

static layout lay_out(const fc_conv_plan *plan)
{
    const fc_conv *p = &plan->problem;
    const fc_window *w = &p->window;
    const fc_kernels *kernels = fc_dispatch(p->real);
    int64_t lanes = kernels->lanes, size = kernels->size, rows = plan->tile[ROWS];
    layout l = {.kernels = kernels, .columns = fc_ceil_div(w->out[2], 4), .row_tiles = fc_ceil_div(w->out[1], 4)};
    l.rows = fc_mul(fc_mul(p->batch, w->out[0]), l.row_tiles);
    l.blocks = fc_ceil_div(l.rows, rows);
    l.tiles = fc_mul(rows, l.columns);
    rows = fc_min(rows, l.row_tiles);
    l.x = (fc_panel){.width = lanes, .fold = 1, .rows = 4 * rows + 2, .pitch = 4 * l.columns + 2, .step = {1, 1}};
    l.inputs = fc_mul(w->kernel[0], fc_ceil_div(p->channels, lanes) * lanes);
    l.channels = fc_weight_part(p->channels, CHANNELS);
    l.vectors = fc_ceil_div(p->out_channels, lanes);
    l.parts = fc_ceil_div(l.vectors, VECTORS);
    if (!plan->tile[WHOLE]) /* as many for each thread */
        l.parts = fc_min(l.vectors, fc_ceil_div(l.parts, plan->threads) * plan->threads);
    l.width = fc_ceil_div(l.vectors, l.parts) * lanes;
    l.v_step = fc_add(fc_mul(l.tiles, l.inputs), STEP_PAD);
    l.m_step = fc_add(fc_mul(l.tiles, l.width), STEP_PAD);
    l.u_step = fc_add(fc_mul(plan->tile[SHARED] ? l.inputs : l.channels, l.width), STEP_PAD);
    l.v_bytes = fc_bytes(fc_mul(FREQUENCIES, l.v_step), size);
    l.m_bytes = fc_bytes(fc_mul(FREQUENCIES, l.m_step), size);
    l.u_bytes = fc_bytes(fc_mul(FREQUENCIES, l.u_step), size);
    l.panel_bytes = fc_bytes(fc_panel_elements(&l.x, l.x.rows), size);
    l.temp_bytes = fc_max(fc_panel_scratch(&l.x, size), l.panel_bytes);
    l.offset_bytes = fc_bytes(2 * l.channels, sizeof(int64_t));
    return l;
}

static int64_t worker_bytes(const fc_conv_plan *plan, const layout *l)
{
    int64_t own = fc_add(plan->tile[SHARED] ? 0 : l->u_bytes, plan->tile[WHOLE] ? l->v_bytes : 0);
    return fc_add(fc_add(l->panel_bytes, l->temp_bytes), fc_add(l->m_bytes, own));
}

static int64_t shared_bytes(const fc_conv_plan *plan, const layout *l)
{
    int64_t weights = plan->tile[SHARED] ? fc_mul(fc_mul(plan->problem.groups, l->parts), l->u_bytes) : 0;
    return fc_add(fc_add(l->offset_bytes, plan->tile[WHOLE] ? 0 : l->v_bytes), weights);
}

/* Rows of tiles whose V stays in the cache, but not so few that reading U costs more than the products; where the weights are
 * transformed anew for every block, as many as scratch allows. */
static layout choose_tile(fc_conv_plan *plan)
{
    plan->tile[ROWS] = plan->tile[SHARED] = plan->tile[WHOLE] = 1;
    layout l = lay_out(plan);
    int shared = fc_mul(fc_mul(plan->problem.groups, l.parts), l.u_bytes) <= SHARED_BYTES;
    int64_t rows = fc_max(V_BYTES / l.v_bytes, fc_ceil_div(TILES, l.columns));
    rows = fc_max(1, fc_min(l.rows, fc_min(shared ? rows : INT64_MAX, V_BYTES_MAX / l.v_bytes)));
    plan->tile[ROWS] = fc_weight_part(l.rows, rows);
    plan->tile[SHARED] = shared && plan->tile[ROWS] < l.rows;
    plan->tile[WHOLE] = plan->problem.groups * fc_ceil_div(l.rows, plan->tile[ROWS]) >= 2 * plan->threads;
    l = lay_out(plan);
    plan->scratch = fc_add(shared_bytes(plan, &l), fc_mul(plan->threads, worker_bytes(plan, &l)));
    return l;
}

/* Relative to winograd's, whose constants these are. */
static double estimate(const fc_conv_plan *plan, const layout *l)
{
    const fc_conv *p = &plan->problem;
    double groups = (double)p->groups, tiles = (double)l->rows * (double)l->columns;
    double outputs = (double)(l->vectors * l->kernels->lanes);
    double weights = groups * (double)l->inputs * outputs * (plan->tile[SHARED] ? 1.0 : (double)l->blocks);
    double copy_in = p->x.c == 1 ? 0.8 : 1.0, copy_out = p->y.c == 1 ? 0.0 : 1.2;
    double block = fc_gemm_cost(l->kernels, l->tiles, l->vectors * l->kernels->lanes, l->inputs);
    double gemm = groups * (double)l->blocks * block;
    double transforms = groups * tiles * ((2.5 + copy_in) * (double)l->inputs + (2.0 + copy_out) * outputs);
    return 2000 + 1.15 * FREQUENCIES * gemm + transforms + 3.0 * weights;
}

static const char *plan_winograd(fc_conv_plan *plan, double *cost)
{
    const fc_conv *p = &plan->problem;
    const fc_window *w = &p->window;
    const fc_kernels *kernels = fc_dispatch(p->real);
    const char *reason = fc_winograd_refusal(plan);
    if (reason)
        return reason;
    if (w->dilation[1] != 1 || w->dilation[2] != 1)
        return "the dilation is not 1";
    if (w->kernel[0] > 1 && p->channels % kernels->lanes)
        return "the kernel is deep and the channels are no whole vectors";
    if (!fc_reduction(p))
        return "there is nothing to sum";
    layout l = choose_tile(plan);
    if (plan->scratch > fc_scratch_max(plan->threads))
        return "the transformed tiles and weights exceed the scratch bound";
    *cost = estimate(plan, &l);
    return NULL;
}

typedef struct job {
    const fc_conv_plan *plan;
    layout l;
    const char *x, *w, *bias;
    char *y, *inputs, *weights, *scratch; /* V; shared U, or NULL; of the workers */
    const int64_t *offset[2];             /* rows of U, for the widest blocks of output channels and those a vector narrower */
    int64_t g, block;                     /* under way */
} job;

/* Rows tr ... tr + rows of tiles of one plane, which are tiles at ... of the block. */
typedef struct segment {
    int64_t n, od, tr, rows, at;
} segment;

/* The segment that begins with row `row` of the block's; returns 0 after the last. */
static int next_segment(const job *j, int64_t *row, segment *s)
{
    const layout *l = &j->l;
    int64_t first = j->block * j->plan->tile[ROWS], end = fc_min(l->rows, first + j->plan->tile[ROWS]), at = first + *row;
    if (at >= end)
        return 0;
    int64_t plane = at / l->row_tiles, depth = j->plan->problem.window.out[0];
    *s = (segment){.n = plane / depth, .od = plane % depth, .tr = at % l->row_tiles, .at = *row * l->columns};
    s->rows = fc_min(end - at, l->row_tiles - s->tr);
    *row += s->rows;
    return 1;
}

/* Tiles begin ... end of `rows` rows of tiles by way of a panel; position (ih, iw) of the image is the first tile's of a row. */
static void transform_panel(const job *j, const fc_panel_image *image, int64_t rows, int64_t ih, int64_t iw, int64_t begin,
                            int64_t end, char *v, char *scratch)
{
    const layout *l = &j->l;
    int64_t size = l->kernels->size, lanes = l->kernels->lanes;
    fc_panel panel = l->x;
    panel.pitch = 4 * (end - begin) + 2;
    if (begin >= end)
        return;
    fc_panel_pack(&panel, l->kernels, scratch, scratch + l->panel_bytes, image, 4 * rows + 2, ih, iw + 4 * begin);
    for (int64_t r = 0; r < rows; r++)
        l->kernels->winograd_gradient.input(fc_at(v, (r * l->columns + begin) * l->inputs, size), l->v_step, l->inputs,
                                            fc_at(scratch, 4 * r * panel.pitch * lanes, size), panel.pitch * lanes, lanes,
                                            end - begin);
}

/* One row of tiles of an image whose channels are neighbours: those that lie inside it are read where they stand. */
static void transform_in_place(const job *j, const fc_panel_image *image, int64_t ih, int64_t iw, char *v, char *scratch)
{
    const layout *l = &j->l;
    int64_t size = l->kernels->size, begin = fc_min(l->columns, fc_ceil_div(fc_max(0, -iw), 4));
    int64_t end = fc_max(begin, fc_min(l->columns, (image->size[1] - iw - 2) / 4));
    if (!image->x || ih < 0 || ih + 6 > image->size[0])
        begin = end = l->columns;
    transform_panel(j, image, 1, ih, iw, 0, begin, v, scratch);
    if (begin < end)
        l->kernels->winograd_gradient.input(fc_at(v, begin * l->inputs, size), l->v_step, l->inputs,
                                            fc_at(image->x, ih * image->stride[0] + (iw + 4 * begin) * image->stride[1], size),
                                            image->stride[0], image->stride[1], end - begin);
    transform_panel(j, image, 1, ih, iw, end, l->columns, v, scratch);
}

static void transform_input(void *context, int64_t task, int worker)
{
    const job *j = context;
    const layout *l = &j->l;
    const fc_conv *p = &j->plan->problem;
    const fc_window *w = &p->window;
    int64_t size = l->kernels->size, lanes = l->kernels->lanes, vectors = fc_ceil_div(p->channels, lanes);
    int64_t kd = task / vectors, c = task % vectors * lanes, at = 0;
    char *scratch = j->scratch + worker * worker_bytes(j->plan, l);
    fc_panel_image image = {.channels = fc_min(lanes, p->channels - c), .c = p->x.c, .size = {w->in[1], w->in[2]},
                            .stride = {p->x.s[1], p->x.s[2]}};
    for (segment s; next_segment(j, &at, &s);) {
        int64_t id = s.od * w->stride[0] + kd * w->dilation[0] - w->offset[0];
        image.x = id < 0 || id >= w->in[0] ? NULL
                                           : fc_at(j->x, s.n * p->x.n + (j->g * p->channels + c) * p->x.c + id * p->x.s[0], size);
        int64_t ih = 4 * s.tr - w->offset[1], iw = -w->offset[2];
        char *v = fc_at(j->inputs, s.at * l->inputs + kd * p->channels + c, size);
        if (p->x.c != 1 || image.channels < lanes)
            transform_panel(j, &image, s.rows, ih, iw, 0, l->columns, v, scratch);
        for (int64_t r = 0; r < s.rows && p->x.c == 1 && image.channels == lanes; r++)
            transform_in_place(j, &image, ih + 4 * r, iw, fc_at(v, r * l->columns * l->inputs, size), scratch);
    }
}

/* A block of output channels: o ... o + outputs, in vectors of `width` elements together. */
typedef struct part {
    int64_t o, outputs, width;
} part;

static part part_at(const job *j, int64_t index)
{
    const layout *l = &j->l;
    int64_t lanes = l->kernels->lanes, begin = l->vectors * index / l->parts, end = l->vectors * (index + 1) / l->parts;
    return (part){begin * lanes, fc_min(j->plan->problem.out_channels, end * lanes) - begin * lanes, (end - begin) * lanes};
}

/* U of channels c ... c + channels at kd, for one block of output channels; rows of U are channels. */
static void transform_weights(const job *j, int64_t g, const part *b, int64_t kd, int64_t c, int64_t channels, char *u)
{
    const fc_conv *p = &j->plan->problem;
    int64_t stride[4] = {p->w.c, p->w.o, p->w.k[1], p->w.k[2]};
    const void *w = fc_at(j->w, g * p->w.g + b->o * p->w.o + c * p->w.c + kd * p->w.k[0], j->l.kernels->size);
    j->l.kernels->winograd[0].weights(u, j->l.u_step, b->width, w, stride, channels, b->outputs);
}

static void transform_shared(void *context, int64_t task, int worker)
{
    (void)worker;
    const job *j = context;
    const fc_conv *p = &j->plan->problem;
    part b = part_at(j, task % j->l.parts);
    for (int64_t kd = 0; kd < p->window.kernel[0]; kd++)
        transform_weights(j, task / j->l.parts, &b, kd, 0, p->channels,
                          fc_at(j->weights, kd * p->channels * b.width, j->l.kernels->size) + task * j->l.u_bytes);
}

/* M += V U over some terms. */
static void add_products(const job *j, const part *b, int64_t term, int64_t terms, const char *u, char *m)
{
    const layout *l = &j->l;
    int64_t size = l->kernels->size, tiles = fc_min(l->tiles, (l->rows - j->block * j->plan->tile[ROWS]) * l->columns);
    fc_gemm gemm = {0};
    fc_gemm_plan(&gemm, l->kernels, tiles, b->width);
    gemm.k = terms;
    gemm.b_offset = j->offset[b->width < l->width];
    for (int f = 0; f < FREQUENCIES; f++)
        for (int64_t t = 0, rows; t < tiles; t += rows) {
            rows = fc_min(gemm.rows, tiles - t);
            const void *a[FC_MR_MAX];
            for (int i = 0; i < rows; i++)
                a[i] = fc_at(j->inputs, f * l->v_step + (t + i) * l->inputs + term, size);
            fc_gemm_run(&gemm, (int)rows, a, fc_at(u, f * l->u_step, size), fc_at(m, f * l->m_step + t * b->width, size), b->width,
                        NULL, term > 0);
        }
}

/* A panel of a segment's outputs, pixels by a vector of channels, to y. */
static void store_panel(const job *j, const segment *s, char *y, int64_t channels, const char *panel, char *scratch)
{
    static const double zero = 0;
    const fc_conv *p = &j->plan->problem;
    const fc_kernels *kernels = j->l.kernels;
    int64_t size = kernels->size, lanes = kernels->lanes, width = p->window.out[2], pitch = 4 * j->l.columns;
    int64_t rows = fc_min(4 * s->rows, p->window.out[1] - 4 * s->tr);
    if (p->y.c == 1 && channels == lanes) {
        for (int64_t r = 0; r < rows; r++)
            kernels->copy_vectors(fc_at(y, r * p->y.s[1], size), p->y.s[2], fc_at(panel, r * pitch * lanes, size), lanes, 1, width);
        return;
    }
    if (p->y.c == 1 && p->y.s[2] != 1) {
        for (int64_t r = 0; r < rows; r++)
            for (int64_t q = 0; q < width; q++)
                kernels->gather_row(fc_at(y, r * p->y.s[1] + q * p->y.s[2], size), channels,
                                    fc_at(panel, (r * pitch + q) * lanes, size), 1, 0, 1, channels, &zero);
        return;
    }
    if (pitch == width && p->y.s[1] == width && p->y.s[2] == 1 && channels == lanes) {
        kernels->transpose(y, p->y.c, panel, lanes, rows * pitch, lanes);
        return;
    }
    kernels->transpose(scratch, rows * pitch, panel, lanes, rows * pitch, lanes);
    for (int64_t c = 0; c < channels; c++)
        for (int64_t r = 0; r < rows; r++)
            kernels->scatter_row(fc_at(y, c * p->y.c + r * p->y.s[1], size), p->y.s[2],
                                 fc_at(scratch, (c * rows + r) * pitch, size), width, 0);
}

/* One vector of output channels of a segment. */
static void store_outputs(const job *j, const segment *s, int64_t o, int64_t channels, const char *m, int64_t width, char *panel)
{
    const fc_conv *p = &j->plan->problem;
    const layout *l = &j->l;
    int64_t size = l->kernels->size, lanes = l->kernels->lanes, out = p->window.out[2], spoilt = 0;
    char *y = fc_at(j->y, s->n * p->y.n + o * p->y.c + s->od * p->y.s[0] + 4 * s->tr * p->y.s[1], size);
    double init[FC_LANES_MAX] = {0}, bounds[2];
    fc_output_bounds(p, bounds);
    if (j->bias)
        memcpy(init, fc_at(j->bias, o, size), (size_t)(channels * size));
    int direct = p->y.c == 1 && channels == lanes && 4 * l->columns == out && 4 * (s->tr + s->rows) <= p->window.out[1];
    for (int64_t r = 0; r < s->rows; r++) {
        int64_t row = direct ? p->y.s[1] : 4 * l->columns * lanes;
        int finite = l->kernels->winograd_outputs(direct ? fc_at(y, 4 * r * row, size) : fc_at(panel, 4 * r * row, size), row,
                                                  direct ? p->y.s[2] : lanes, fc_at(m, (s->at + r * l->columns) * width, size),
                                                  l->m_step, width, init, bounds, l->columns);
        spoilt |= finite ? 0 : 1;
    }
    if (!direct)
        store_panel(j, s, y, channels, panel, panel + l->panel_bytes);
    for (int64_t c = 0; c < channels && spoilt; c++)
        for (int64_t oh = 4 * s->tr, end = fc_min(p->window.out[1], oh + 4 * s->rows); oh < end; oh++)
            fc_reference_row(p, j->x, j->w, j->bias, j->y, o + c, s->n * p->window.out[0] + s->od, oh, 0, out);
}

static void multiply(void *context, int64_t task, int worker)
{
    const job *j = context;
    const layout *l = &j->l;
    const fc_conv *p = &j->plan->problem;
    int64_t size = l->kernels->size, lanes = l->kernels->lanes, row = 0;
    char *panel = j->scratch + worker * worker_bytes(j->plan, l), *m = panel + l->panel_bytes + l->temp_bytes, *u = m + l->m_bytes;
    part b = part_at(j, task);
    for (int64_t kd = 0; kd < p->window.kernel[0]; kd++)
        for (int64_t c = 0, n; c < p->channels; c += n) {
            n = fc_min(l->channels, p->channels - c);
            if (j->weights)
                u = fc_at(j->weights, (kd * p->channels + c) * b.width, size) + (j->g * l->parts + task) * l->u_bytes;
            else
                transform_weights(j, j->g, &b, kd, c, n, u);
            add_products(j, &b, kd * p->channels + c, n, u, m);
        }
    for (segment s; next_segment(j, &row, &s);)
        for (int64_t o = 0; o < b.outputs; o += lanes)
            store_outputs(j, &s, j->g * p->out_channels + b.o + o, fc_min(lanes, b.outputs - o), fc_at(m, o, size), b.width, panel);
}

static int64_t input_tasks(const job *j)
{
    return j->plan->problem.window.kernel[0] * fc_ceil_div(j->plan->problem.channels, j->l.kernels->lanes);
}

static void run_block(void *context, int64_t task, int worker)
{
    job own = *(const job *)context;
    own.g = task / own.l.blocks;
    own.block = task % own.l.blocks;
    own.inputs = own.scratch + (worker + 1) * worker_bytes(own.plan, &own.l) - own.l.v_bytes;
    for (int64_t i = 0; i < input_tasks(&own); i++)
        transform_input(&own, i, worker);
    for (int64_t i = 0; i < own.l.parts; i++)
        multiply(&own, i, worker);
}

static fc_status run_winograd(const fc_conv_plan *plan, void *x, void *w, void *bias, void *y)
{
    const fc_conv *p = &plan->problem;
    job j = {.plan = plan, .l = lay_out(plan), .x = x, .w = w, .bias = bias, .y = y};
    const layout *l = &j.l;
    char *scratch = fc_arena_take(plan->scratch);
    if (!scratch)
        return FC_NO_MEMORY;
    int64_t *offset = (int64_t *)(void *)scratch;
    for (int64_t c = 0; c < l->channels; c++) {
        offset[c] = c * l->width;
        offset[l->channels + c] = c * (l->width - l->kernels->lanes);
    }
    j.offset[0] = offset;
    j.offset[1] = offset + l->channels;
    j.inputs = scratch + l->offset_bytes;
    j.scratch = j.inputs + (plan->tile[WHOLE] ? 0 : l->v_bytes);
    if (plan->tile[SHARED]) {
        j.weights = j.scratch;
        j.scratch += p->groups * l->parts * l->u_bytes;
        fc_parallel(plan->threads, p->groups * l->parts, transform_shared, &j);
    }
    if (plan->tile[WHOLE])
        fc_parallel(plan->threads, p->groups * l->blocks, run_block, &j);
    for (j.g = 0; j.g < p->groups && !plan->tile[WHOLE]; j.g++)
        for (j.block = 0; j.block < l->blocks; j.block++) {
            fc_parallel(plan->threads, input_tasks(&j), transform_input, &j);
            fc_parallel(plan->threads, l->parts, multiply, &j);
        }
    fc_arena_give();
    return FC_OK;
}

const fc_driver fc_driver_winograd_channels = {"winograd_channels", plan_winograd, run_winograd};
