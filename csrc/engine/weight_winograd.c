/* The weight gradient by Winograd F(m x m, r x r), m + r = 7, read backwards, of any kernel; or F(m, r) of an axis alone.
 * float32.
 *
 *     V[f][t][c] = (B^T d B)_f of channel c, patch t          D[f][t][o] = (A dy A^T)_f of output channel o, tile t
 *     U[f][q][o][c] = sum_t D[f][t][o] V[f][t + q][c]         dW[o][c] of piece q = G^T U G
 *
 * A 3x3 kernel's tiles of 4x4 pixels take 36 products instead of 9 over 16 times as many pixels, a fourth of the
 * multiplications; a longer kernel is cut into pieces, whose patches are those of tiles further right or below, as in
 * winograd_channels.c: 5x5 takes 36 % of them, 7x7 27 %, 1x7 52 %.
 *
 * Lanes are channels: rows of tiles are copied as panels (pixels by channels), whose transforms need no shuffles.  A dilated
 * convolution is one per phase of the dilation, whose pixels stand that far apart in the same panel.  A strided one is a sum over
 * the phases of the stride, which are so many more input channels of a convolution of stride 1 with the taps of a phase: they share
 * a panel, D and the products.  4x4s2 64-128@32 b8 2.25 to 1.43 ms (Zen 5), 5x5s2 32-64@40 b8 1.38 to 0.84; 3x3s2, four phases of
 * 2x2 taps of which seven are dropped, as long as `weight_gemm.c` takes.
 *
 *     for each chunk of the sum, group g, kd, block of channels, block of output channels        a task
 *         for each batch of rows of tiles of the chunk, in order
 *             transform the block's channels into V, its output channels into D
 *             for each f, piece: gemm kernel over tiles of rows o, added to U
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
#include "engine/winograd_pieces.h"

enum { CHANNELS, OUTPUTS, ROWS, CHUNKS }; /* plan->tile: of a block; rows of tiles of a batch; parts of the sum */
/* Channels and output channels of a block, tiles of a batch, tiles of a stripe.  Measured at 1 MiB and more of cache: batches
 * of 64 tiles x0.97, blocks of 128 x0.95, of 32 output channels x0.92; stripes of 16 tiles x0.92 at 64-64@224. */
enum { BLOCK = 64, TILES = 64, COLUMNS = 64 };
enum { POINTS = 6, STRIDE_MAX = 4, TASKS_WANTED = 8, CHUNK_BYTES_MAX = 6 << 20, JOIN_ROWS = 16 };

typedef struct layout {
    const fc_kernels *kernels;
    const fc_winograd_channels_kernels *winograd;
    int64_t edge; /* m */
    fc_winograd_axis h, w;                /* of a phase of the stride */
    int64_t stride[2], parts;             /* parts: phases of the stride, of both axes */
    int64_t frequencies, pieces, phases;  /* phases: of the dilation, of both axes */
    fc_panel x, y;
    int64_t stripes, columns, v_columns;  /* of a plane; tiles of a row in each phase, and patches: those of the pieces too */
    int64_t row, rows;                    /* tiles of a row in all phases; rows of all stripes */
    int64_t batches, tiles;               /* of the sum; of a batch */
    int64_t channels, outputs;            /* of a block, in whole vectors */
    int64_t width;                        /* of a row of V and U: all parts of each vector of channels */
    int64_t channel_blocks, output_blocks;
    int64_t v_step, d_step, u_step;       /* elements from one frequency to the next */
    int64_t taps;                         /* of a plane of the kernel */
    int64_t v_bytes, d_bytes, u_bytes, panel_bytes, temp_bytes, taps_bytes, place_bytes;
    int64_t sum_bytes;                    /* dW of a block: outputs, taps, channels */
} layout;

static int64_t whole(int64_t count, int64_t lanes)
{
    return fc_ceil_div(count, lanes) * lanes;
}

/* What each phase of the stride is; where it has a tap less than the first, that is computed and dropped. */
static fc_window phase_of(const fc_window *w)
{
    fc_window one = *w;
    for (int i = 1; i < FC_AXES; i++) {
        one.kernel[i] = fc_ceil_div(w->kernel[i], w->stride[i]);
        one.stride[i] = 1;
    }
    return one;
}

static void lay_out_tiles(layout *l, const fc_conv_plan *plan, int64_t edge)
{
    const fc_window *w = &plan->problem.window, one = phase_of(w);
    int64_t batch = plan->tile[ROWS], lanes = l->kernels->lanes;
    l->edge = edge;
    l->h = fc_winograd_cut(&one, 1, l->edge, POINTS);
    l->w = fc_winograd_cut(&one, 2, l->edge, POINTS);
    l->stride[0] = w->stride[1];
    l->stride[1] = w->stride[2];
    l->parts = w->stride[1] * w->stride[2];
    l->winograd = &l->kernels->winograd_channels[l->h.points > 1 && l->w.points > 1];
    l->frequencies = l->h.points * l->w.points;
    l->pieces = fc_mul(l->h.pieces, l->w.pieces);
    l->phases = fc_mul(l->h.d, l->w.d);
    l->taps = fc_mul(w->kernel[1], w->kernel[2]);
    l->columns = fc_weight_part(l->w.tiles, COLUMNS);
    l->stripes = fc_ceil_div(l->w.tiles, l->columns);
    l->v_columns = fc_add(l->columns, l->w.pieces - 1);
    l->row = fc_mul(l->phases, l->columns);
    l->rows = fc_mul(fc_mul(fc_mul(plan->problem.batch, w->out[0]), l->stripes), l->h.tiles);
    l->batches = fc_ceil_div(l->rows, batch);
    l->tiles = fc_mul(batch, l->row);
    int64_t rows = fc_min(batch, l->h.tiles), high = fc_mul(l->h.m, fc_add(rows, l->h.pieces - 1)) + l->h.points - l->h.m;
    l->x = (fc_panel){.width = lanes, .fold = 1, .rows = fc_mul(l->stride[0] * l->h.d, high),
                      .pitch = fc_mul(l->stride[1] * l->w.d, fc_mul(l->w.m, l->v_columns) + l->w.points - l->w.m),
                      .step = {1, 1}};
    l->y = (fc_panel){.width = lanes, .fold = 1, .rows = fc_mul(l->h.d, l->h.m * rows),
                      .pitch = fc_mul(l->w.d, l->w.m * l->columns), .step = {1, 1}};
}

static layout lay_out(const fc_conv_plan *plan, int64_t edge)
{
    const fc_conv *p = &plan->problem;
    const int64_t *tile = plan->tile;
    layout l = {.kernels = fc_dispatch(p->real)};
    int64_t lanes = l.kernels->lanes, size = l.kernels->size;
    lay_out_tiles(&l, plan, edge);
    int64_t v_rows = fc_mul(fc_min(tile[ROWS], fc_winograd_stripes(tile[ROWS], l.h.tiles)), l.h.pieces - 1);
    int64_t patches = fc_mul(fc_mul(fc_add(tile[ROWS], v_rows), l.phases), l.v_columns);
    l.channels = whole(tile[CHANNELS], lanes);
    l.width = fc_mul(l.parts, l.channels);
    l.outputs = whole(tile[OUTPUTS], lanes);
    l.channel_blocks = fc_ceil_div(p->channels, tile[CHANNELS]);
    l.output_blocks = fc_ceil_div(p->out_channels, tile[OUTPUTS]);
    l.v_step = fc_add(fc_mul(patches, l.width), STEP_PAD);
    l.d_step = fc_add(fc_mul(l.tiles, l.outputs), STEP_PAD);
    l.u_step = fc_add(fc_mul(fc_mul(l.pieces, tile[OUTPUTS]), l.width), STEP_PAD);
    l.v_bytes = fc_bytes(fc_mul(l.frequencies, l.v_step), size);
    l.d_bytes = fc_bytes(fc_mul(l.frequencies, l.d_step), size);
    l.u_bytes = fc_bytes(fc_mul(l.frequencies, l.u_step), size);
    l.panel_bytes = fc_bytes(fc_max(fc_panel_elements(&l.x, l.x.rows), fc_panel_elements(&l.y, l.y.rows)), size);
    l.temp_bytes = fc_max(fc_panel_scratch(&l.x, size), fc_panel_scratch(&l.y, size));
    l.taps_bytes = fc_bytes(fc_mul(l.taps, l.channels), size);
    l.place_bytes = fc_bytes(l.tiles, sizeof(int64_t));
    l.sum_bytes = fc_bytes(fc_mul(tile[OUTPUTS], fc_mul(l.taps, l.channels)), size);
    return l;
}

static int64_t worker_bytes(const layout *l)
{
    int64_t transformed = fc_add(fc_add(l->v_bytes, l->d_bytes), l->u_bytes), small = fc_add(l->taps_bytes, l->place_bytes);
    return fc_add(fc_add(transformed, small), fc_add(l->panel_bytes, l->temp_bytes));
}

static int64_t blocks_of(const fc_conv *p, const layout *l)
{
    return fc_mul(p->groups * p->window.kernel[0], l->channel_blocks * l->output_blocks);
}

/* U is as large as a block of 64 x 64 of a 3x3 kernel, with fewer rows where it has more frequencies and pieces. */
static layout choose_tile(fc_conv_plan *plan, const fc_kernels *kernels)
{
    const fc_conv *p = &plan->problem;
    const fc_window one = phase_of(&p->window);
    int64_t *tile = plan->tile, edge = fc_winograd_edge(&one);
    tile[ROWS] = tile[CHUNKS] = tile[CHANNELS] = tile[OUTPUTS] = 1;
    layout l = lay_out(plan, edge);
    tile[ROWS] = fc_weight_part(l.rows, TILES / fc_min(TILES, l.row));
    int64_t channels = fc_max(kernels->lanes, (tile[ROWS] == l.rows ? 2 * BLOCK : BLOCK) / l.parts);
    int64_t outputs = fc_max(BLOCK / 4, fc_min(2 * BLOCK, FREQUENCIES * BLOCK / fc_mul(l.frequencies, l.pieces)));
    tile[CHANNELS] = fc_min(p->channels, whole(fc_weight_part(p->channels, channels), kernels->lanes));
    tile[OUTPUTS] = fc_weight_part(p->out_channels, outputs);
    l = lay_out(plan, edge);
    int64_t blocks = blocks_of(p, &l), room = CHUNK_BYTES_MAX / fc_max(1, fc_mul(blocks, l.sum_bytes));
    tile[CHUNKS] = fc_max(1, fc_min(fc_min(l.batches, room), fc_ceil_div(TASKS_WANTED, blocks)));
    return l;
}

/* Zen 3, AVX2, measured / estimated of 20 kernels of two axes without, 2.1 to 3.1, of one axis 2.3, gemm 1.9: 16-32@14 42 us, gemm 30;
 * 8 channels 5x5@32 74, 60; 1x7 192-192@17 b4 8.4 ms, 11.2. */
#define SHORT_VECTORS 1.3

/* Relative to 'gemm', calibrated on Emerald Rapids, one thread: 128-128@16 b32 6.9 ms (gemm 15.5), 64-64@224 11.7 (24.0),
 * 512-512@14 5.1 (6.5), 512-512@7 2.7 (2.4), 16-32@14 b32 0.42 (0.37); `pass` on Zen 5: 4.3 (10.4), 6.5 (15.5), 2.7 (4.0), 1.40
 * (1.35), 0.21 (0.24), 5x5 16-32@28 b16 1.06 (1.25); of one axis k3 64-128 L4096 b8 5.0 (7.0), 1x7 192-192@17 b4 1.8 (2.55). */
static double estimate(const fc_conv_plan *plan, const layout *l)
{
    double blocks = (double)blocks_of(&plan->problem, l), tiles = (double)l->batches * (double)l->tiles;
    double points = (double)l->frequencies / FREQUENCIES, pixels = (double)(l->h.m * l->w.m) / 16;
    double patches = (double)(l->x.rows / l->stride[0] * l->v_columns) / (double)(l->y.rows * l->columns) * (double)l->h.m;
    double terms = (double)l->batches * (double)(l->h.terms * l->w.terms);
    double gemm = terms * fc_gemm_cost(l->kernels, plan->tile[OUTPUTS], l->width, l->tiles);
    double transforms = (2.0 * points + 0.5 * pixels) * tiles * (patches * (double)l->width + (double)l->outputs);
    double weights = 5.0 * points * (double)l->pieces * (double)l->width * (double)l->outputs * (double)plan->tile[CHUNKS];
    int square = l->h.points > 1 && l->w.points > 1;
    double cost = 2000 + blocks * ((square ? 0.87 : 1.15) * (gemm + transforms) + weights);
    return square && fc_has_short_vectors(l->kernels) ? SHORT_VECTORS * cost : cost;
}

static const char *plan_winograd(fc_conv_plan *plan, double *cost)
{
    const fc_conv *p = &plan->problem;
    const fc_kernels *kernels = fc_dispatch(p->real);
    const fc_window *w = &p->window;
    for (int i = 1; i < FC_AXES; i++)
        if (w->stride[i] > STRIDE_MAX || (w->stride[i] > 1 && w->dilation[i] > 1))
            return "the stride exceeds 4, or the kernel is dilated too";
    const fc_window one = phase_of(w);
    const char *reason = fc_winograd_pieces_refusal(plan, &one);
    if (reason)
        return reason;
    if (!fc_reduction(p) || !p->out_channels || !p->batch || !fc_outputs(&p->window))
        return "there is nothing to sum";
    if (!fc_weights_plan(p, kernels->size).in_place)
        return "the weight gradient's rows are not contiguous";
    layout l = choose_tile(plan, kernels);
    int64_t tasks = fc_mul(blocks_of(p, &l), plan->tile[CHUNKS]);
    plan->scratch = fc_mul(plan->threads, worker_bytes(&l));
    if (plan->tile[CHUNKS] > 1)
        plan->scratch = fc_add(plan->scratch, fc_mul(tasks, l.sum_bytes));
    if (plan->scratch > fc_scratch_max(plan->threads))
        return "the transformed tiles exceed the scratch bound";
    *cost = estimate(plan, &l);
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

/* Rows tr ... tr + rows of tiles of a stripe of a plane, from its column tc on; tiles from `at` of the batch on, and patches from
 * `v` of V on. */
typedef struct segment {
    int64_t n, od, tc, tr, rows, at, v;
} segment;

/* The segment that begins with row `row` of the batch's; returns 0 after the last. */
static int next_segment(const job *j, int64_t batch, int64_t *row, segment *s)
{
    const layout *l = &j->l;
    int64_t first = batch * j->plan->tile[ROWS], end = fc_min(l->rows, first + j->plan->tile[ROWS]), at = first + *row;
    if (at >= end)
        return 0;
    int64_t stripe = at / l->h.tiles, plane = stripe / l->stripes, depth = j->plan->problem.window.out[0];
    *s = (segment){.n = plane / depth, .od = plane % depth, .tc = stripe % l->stripes * l->columns, .tr = at % l->h.tiles};
    s->rows = fc_min(end - at, l->h.tiles - s->tr);
    s->at = *row * l->row;
    s->v = (*row + (stripe - first / l->h.tiles) * (l->h.pieces - 1)) * l->phases * l->v_columns;
    *row += s->rows;
    return 1;
}

/* What differs between V and D: the transform, the panel it reads, and rows and tiles of a row. */
typedef struct side {
    fc_winograd_patches_kernel run;
    const fc_panel *panel;
    int64_t lines, rows, columns, step, next;
    int64_t stride[2]; /* its phases are side by side in each row */
} side;

/* Some channels of a segment, a vector of them at a time: packed, and transformed into dst. */
static void transform_channels(const job *j, const side *q, fc_panel_image image, int64_t ih, int64_t iw, char *dst, char *scratch)
{
    const layout *l = &j->l;
    const int64_t used[4] = {0, fc_winograd_used(&l->h), 0, fc_winograd_used(&l->w)};
    const int64_t line[4] = {0, 1, 0, l->w.points > 1 ? used[3] : used[1]};
    int64_t size = l->kernels->size, lanes = l->kernels->lanes, row = q->panel->pitch * lanes, channels = image.channels;
    int64_t parts = q->stride[0] * q->stride[1], down = q->stride[0] * l->h.d * row, right = q->stride[1] * l->w.d * lanes;
    const char *first = image.x;
    for (int64_t c = 0; c < channels; c += lanes) {
        image.channels = fc_min(lanes, channels - c);
        image.x = first ? fc_at(first, c * image.c, size) : NULL;
        fc_panel_pack(q->panel, l->kernels, scratch, scratch + l->panel_bytes, &image, q->lines, ih, iw);
        for (int64_t k = 0; k < q->rows * l->phases; k++) /* rows of tiles of a phase of the dilation */
            for (int64_t part = 0; part < parts; part++) {
                int64_t at = k / l->phases * l->h.m * down + (k % l->phases / l->w.d + part / q->stride[1]) * row;
                at += (k % l->w.d + part % q->stride[1]) * lanes;
                q->run(fc_at(dst, k * q->columns * q->next + c * parts + part * lanes, size), q->step, q->next,
                       fc_at(scratch, at, size), down, l->w.points > 1 ? right : down, l->w.m * right, q->columns,
                       l->h.points > 1 && l->w.points > 1 ? used : line);
            }
    }
}

/* V and D of a segment. */
static void transform_segment(const job *j, const block *b, const segment *s, char *v, char *d, char *scratch)
{
    const fc_conv *p = &j->plan->problem;
    const fc_window *w = &p->window;
    const layout *l = &j->l;
    int64_t size = l->kernels->size, ih = l->h.d * l->h.m * s->tr, iw = l->w.d * l->w.m * s->tc;
    int64_t id = s->od * w->stride[0] + b->kd * w->dilation[0] - w->offset[0], rows = s->rows + l->h.pieces - 1;
    fc_panel_image image = {.channels = b->channels, .c = p->x.c, .size = {w->in[1], w->in[2]}, .stride = {p->x.s[1], p->x.s[2]}};
    side q = {l->winograd->input, &l->x, l->stride[0] * l->h.d * (l->h.m * rows + l->h.points - l->h.m), rows, l->v_columns,
              l->v_step, l->width, {l->stride[0], l->stride[1]}};
    if (id >= 0 && id < w->in[0])
        image.x = fc_at(j->x, s->n * p->x.n + (b->g * p->channels + b->c) * p->x.c + id * p->x.s[0], size);
    transform_channels(j, &q, image, l->stride[0] * ih - w->offset[1], l->stride[1] * iw - w->offset[2],
                       fc_at(v, s->v * l->width, size), scratch);
    image = (fc_panel_image){.channels = b->outputs, .c = p->y.c, .size = {w->out[1], w->out[2]}, .stride = {p->y.s[1], p->y.s[2]}};
    q = (side){l->winograd->gradient[l->edge], &l->y, l->h.d * l->h.m * s->rows, s->rows, l->columns, l->d_step, l->outputs, {1, 1}};
    image.x = fc_at(j->y, s->n * p->y.n + (b->g * p->out_channels + b->o) * p->y.c + s->od * p->y.s[0], size);
    transform_channels(j, &q, image, ih, iw, fc_at(d, s->at * l->outputs, size), scratch);
}

/* V and D of a batch, and where the patches of its tiles are in V.  Returns the number of tiles. */
static int64_t transform_batch(const job *j, const block *b, int64_t batch, char *v, char *d, int64_t *place, char *scratch)
{
    const layout *l = &j->l;
    int64_t row = 0;
    for (segment s; next_segment(j, batch, &row, &s);) {
        transform_segment(j, b, &s, v, d, scratch);
        for (int64_t line = 0; line < s.rows * l->phases; line++)
            for (int64_t t = 0; t < l->columns; t++)
                place[s.at + line * l->columns + t] = (s.v + line * l->v_columns + t) * l->width;
    }
    return row * l->row;
}

/* Vectors of a row of V and U that a block fills: the last block's rows may be shorter. */
static int64_t vectors_of(const layout *l, const block *b)
{
    return l->parts * fc_ceil_div(b->channels, l->kernels->lanes);
}

/* U of one frequency and piece, += D V.  Not by fc_gemm_run, whose tables take as long as a tile's sixteen terms, which are all that a
 * small image has: Granite Rapids, 256-384@13 0.93 of the time, 512-512@14 0.90, 64-64@224 0.96; by gemm_gather, 0.96, 0.93, 1.0. */
static void add_product(const job *j, const fc_gemm *gemm, int64_t outputs, const char *d, const char *v, char *u, int add)
{
    const fc_kernels *kernels = gemm->kernels;
    int64_t size = kernels->size, width = j->l.width, vectors = gemm->columns / kernels->lanes;
    for (int64_t k = 0; k < gemm->k; k += gemm->terms)
        for (int64_t o = 0, rows; o < outputs; o += rows) {
            rows = fc_min(gemm->rows, outputs - o);
            const char *a = fc_at(d, k * j->l.outputs + o, size);
            for (int64_t done = 0, nv; done < vectors; done += nv) {
                nv = fc_gemm_next_strip(gemm->strip, vectors - done);
                int64_t at = done * kernels->lanes, count = fc_min(gemm->terms, gemm->k - k);
                kernels->gemm_short[nv][rows](1, count, a, j->l.outputs, fc_at(v, at, size), 0, gemm->b_offset + k,
                                              fc_at(u, o * width + at, size), 0, width, NULL, add || k);
            }
        }
}

static void add_products(const job *j, const block *b, int64_t tiles, const char *v, const int64_t *place, const char *d, char *u,
                         int add)
{
    const layout *l = &j->l;
    int64_t size = l->kernels->size, right = l->width * size, down = l->phases * l->v_columns * right;
    int64_t next = b->outputs * l->width * size;
    fc_gemm gemm = j->gemm;
    gemm.k = tiles;
    gemm.terms = fc_gemm_terms(gemm.kernels, tiles, gemm.terms);
    gemm.columns = vectors_of(l, b) * l->kernels->lanes;
    gemm.b_offset = place;
    for (int64_t fh = 0; fh < l->h.points; fh++)
        for (int64_t fw = 0; fw < l->w.points; fw++, v += l->v_step * size, d += l->d_step * size, u += l->u_step * size)
            for (int64_t h = 0; h < l->h.pieces; h++)
                for (int64_t w = 0; w < l->w.pieces; w++)
                    if (fc_winograd_has_terms(&l->h, h, fh) && fc_winograd_has_terms(&l->w, w, fw))
                        add_product(j, &gemm, b->outputs, d, v + h * down + w * right, u + (h * l->w.pieces + w) * next, add);
}

/* The taps of output channel `o` of a block from U, each a row of channels, those of a phase of the stride that far apart.  Returns
 * whether all are finite. */
static int transform_taps(const job *j, const block *b, int64_t o, const char *u, char *taps)
{
    const layout *l = &j->l;
    const int64_t *kernel = j->plan->problem.window.kernel;
    int64_t size = l->kernels->size, lanes = l->kernels->lanes, row = kernel[2] * l->channels;
    int64_t across = l->stride[1] * l->channels, down = l->stride[0] * row;
    int64_t vectors = vectors_of(l, b), together = l->parts > 1 ? 1 : vectors;
    int along = l->w.points > 1, finite = 1;
    for (int64_t piece = 0; piece < l->pieces; piece++) {
        int64_t h = piece / l->w.pieces * l->h.m, w = piece % l->w.pieces * l->w.m;
        int last_h = piece / l->w.pieces == l->h.pieces - 1, last_w = piece % l->w.pieces == l->w.pieces - 1;
        char *to = fc_at(taps, h * down + w * across, size);
        const char *from = fc_at(u, (piece * b->outputs + o) * l->width, size);
        for (int64_t k = 0; k < vectors; k += together) {
            int64_t fh = k % l->parts / l->stride[1], fw = k % l->parts % l->stride[1];
            int64_t rows = last_h ? fc_ceil_div(kernel[1] - fh, l->stride[0]) - h : l->h.m;
            int64_t columns = last_w ? fc_ceil_div(kernel[2] - fw, l->stride[1]) - w : l->w.m;
            const int64_t count[2] = {along ? rows : 1, along ? columns : rows};
            if (rows > 0 && columns > 0)
                finite &= l->winograd->taps[l->edge](fc_at(to, fh * row + fw * l->channels + k / l->parts * lanes, size), down,
                                                     along ? across : down, fc_at(from, k * lanes, size), l->u_step, count, together);
        }
    }
    return finite;
}

static void store_taps(const job *j, const block *b, int64_t o, const char *taps)
{
    const fc_conv *p = &j->plan->problem;
    int64_t row = fc_taps(&p->window), size = j->l.kernels->size;
    void *w = fc_at(j->w, b->g * p->w.g + (b->o + o) * p->w.o + b->c * row + b->kd * j->l.taps, size);
    j->l.kernels->transpose(w, row, taps, j->l.channels, j->l.taps, b->channels);
}

static void run_task(void *context, int64_t task, int worker)
{
    const job *j = context;
    const layout *l = &j->l;
    int64_t chunks = j->plan->tile[CHUNKS], chunk = task % chunks, size = l->kernels->size;
    block b = block_at(j, task / chunks);
    char *v = j->scratch + worker * worker_bytes(l), *d = v + l->v_bytes, *u = d + l->d_bytes, *taps = u + l->u_bytes;
    int64_t *place = (int64_t *)(void *)(taps + l->taps_bytes), first = l->batches * chunk / chunks;
    for (int64_t batch = first; batch < l->batches * (chunk + 1) / chunks; batch++) {
        int64_t tiles = transform_batch(j, &b, batch, v, d, place, taps + l->taps_bytes + l->place_bytes);
        add_products(j, &b, tiles, v, place, d, u, batch > first);
    }
    int finite = 1;
    char *sum = j->chunks ? j->chunks + task * l->sum_bytes : taps;
    for (int64_t o = 0; o < b.outputs; o++) {
        finite &= transform_taps(j, &b, o, u, sum);
        if (j->chunks)
            sum += l->taps * l->channels * size;
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
    int64_t row = j->l.taps * j->l.channels, size = j->l.kernels->size;
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
    const fc_window one = phase_of(&p->window);
    job j = {.plan = plan, .l = lay_out(plan, fc_winograd_edge(&one)), .x = x, .y = y, .w = w, .spoilt = &spoilt};
    char *scratch = fc_arena_take(plan->scratch);
    if (!scratch)
        return FC_NO_MEMORY;
    int64_t blocks = blocks_of(p, &j.l), tasks = blocks * plan->tile[CHUNKS];
    if (plan->tile[CHUNKS] > 1) {
        j.chunks = scratch;
        scratch += tasks * j.l.sum_bytes;
    }
    j.scratch = scratch;
    fc_weight_gemm_plan(&j.gemm, j.l.kernels, plan->tile[OUTPUTS], j.l.width);
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
