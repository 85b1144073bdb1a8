/* Winograd with lanes over channels: F(m x m, r x r), m + r = 7, of any kernel, or F(m, r) of an axis alone (1x7, sequences), there
 * also m + r = 9.  float32, stride 1; sequences of one channel with any stride, whose phases are channels.  A dilated convolution is
 * one per phase of the dilation, whose pixels stand that far apart in one panel.
 *
 *     V[f][t][c] = (B^T d B)_f of channel c, patch t         U[f][q][c][o] = (G g_q G^T)_f of piece q of the kernel
 *     M[f][t][o] = sum_{q, c} V[f][t + q][c] U[f][q][c][o]    y = A^T M A + b
 *
 * (with three axes the sum runs over kd, q and c).  winograd.c has its lanes over tiles, which a 14x14 image has 16 of: its
 * products are one vector wide, where a third of the multiply-adds wait for loads.  Here products are tiles by output channels,
 * 8 rows of 3 vectors, and no transform shuffles; images whose rows are contiguous are transposed on the way in and out.
 *
 * A longer kernel is cut into pieces as many taps apart as tiles are pixels, so that a piece's patch is that of a tile further
 * right or below: the input is transformed once, the output too, and only the sum grows.  Of an axis of k taps, multiplications
 * per output: 6/5 for 2, 6/4 for 3, 6/3 for 4, 6/2 for 5, 12/3 for 6 and 7, 18/3 up to 10.  Six points whatever m is, so one
 * B^T; their errors, of max|y|: 2.0e-6 for 2x2, 1.9e-6 for 3x3, 1.5e-6 for 5x5, 1.1e-6 for 7x7, 7e-7 for 1x7, 256 channels.
 *
 * Of an axis alone, eight points, where they save a sixteenth: 8/6 for 3, 8/5 for 4, 8/4 for 5, 14/4 for 8, 35/4 for 20; errors up
 * to 2.5e-6 for 3, 1.7e-6 for 5.
 *
 * Sequences of fewer channels than lanes: a row of V has these and no more, so that the patches of all pieces of a tile follow each
 * other, and are terms of one product.  80 taps, stride 4, of one channel are 20 taps of four, in 5 pieces: 20 terms a product, and
 * 2.3 times fewer multiplications.
 *
 *     for each group g, block of rows of tiles                                                                a task
 *         for each kd, vector of channels: copy as a panel (pixels by channels), transform into V
 *         for each block of output channels (a strip of the kernel's):
 *             for each block of channels: weights into U, unless that is done once a call
 *                 for each piece, f: add to M
 *             transform M; store, or copy to y by way of a panel
 *
 * Where there are fewer blocks than threads want, one after the other has its blocks of output channels as tasks, and each worker makes
 * V for itself, or its vectors of channels are tasks first, and V is shared.
 *
 * Channels come in blocks so that U of one (36 x 128 x 48) stays in the second-level cache while it is used; M is small.  Where U is
 * made for each block of tiles, and read once or twice, half as many: Zen 4, 512-512@7 2770 to 2190 us, 512-512@14 5310 to 4890,
 * 384-384@13 2990 to 2740 (a quarter as many: 2250; of a kernel cut into pieces, 5x5 256-256@14, 3200 to 3320).
 *
 * Against the direct drivers (Emerald Rapids, one thread): 7x7 64-64@14 b8 4.3 to 2.3 ms, 5x5 32-64@14 b64 9.1 to 5.7, 5x5
 * 16-32@28 b16 2.1 to 1.45, 1x7 192-192@17 b4 3.9 to 3.0, 2x2 64-128@33 b2 0.86 to 0.70, k3 64-128 of 4096 b8 11 to 8.7.
 * Zen 5, sequences, six points (or pixels.c) and eight, us: k3 64-128 over 4096 b8 4860, 4590, k3 dilated 128-128 over 1024 b4 1035,
 * 970, k5 256-256 over 500 b2 1790, 1217, k15 12-48 over 2000 b4 496, 357, k80s4 1-64 over 16000 b16 2590, 2050, k251 8000, 4540.
 *
 * Rejected there: y, or the next block's x, fetched to the second-level cache while products run (as fast at best, and 3 % slower:
 * rows a power of two apart share its sets; Granite Rapids, x in runs of its rows, 0.95 to 1.05); V_BYTES of 48 to 512 KiB (the same);
 * rows of y that begin inside a cache line turned in scratch (k80s4), then copied past the caches (15 % slower) or through them (10-20
 * %).  Zen 4, where products take 60 (32-64@32 b32) to 70 % (64-64@224) of a call at 0.98 of the peak and transposes 18 to 12: x
 * fetched four vectors ahead, not two, or to the second cache: the same.
 *
 * y goes past the caches where vectors are whole lines only: Zen 3, AVX2, halves of lines past them and y as it comes, k3 64-128 over
 * 4096 b8 22.5, 14.9 ms, 64-64@224 23.3, 18.9.
 *
 * One NaN or infinity in a patch, or a sum that overflows, spoils a tile.  The output transform sees it, and that vector of
 * channels is computed again by definition, in the rows of this image that the block holds.
 */
#include <string.h>

#include "base/cpu.h"
#include "engine/output.h"
#include "engine/weight_panel.h"
#include "engine/weight_tiles.h"
#include "engine/winograd_blocks.h"
#include "engine/winograd_pieces.h"

/* plan->tile: rows of tiles of a block; whether U is made for each block, once a call (1) or once a worker (OWN); whether a block is
 * a task (1), or its output channels are and V is shared (0) or made by each worker (OWN); points and m, as digits. */
enum { ROWS, SHARED, WHOLE, EDGE };
enum { CHANNELS = 128, ONCE = 64 };
enum { SHARED_BYTES = 8 << 20, V_BYTES = 384 << 10, V_BYTES_MAX = 6 << 20, TILES = 48, FAR_TILES = 32 };

typedef struct layout {
    const fc_kernels *kernels;
    const fc_winograd_channels_kernels *winograd;
    int64_t edge; /* m */
    fc_winograd_axis h, w;
    int64_t frequencies, pieces, phases; /* phases: of the dilation, of both axes */
    int64_t together;                   /* pieces whose terms follow each other in V, and are summed at once */
    fc_panel x;                         /* the input pixels of a segment */
    int64_t columns, stripes;           /* tiles of a row in each phase; stripes that a plane is cut into, each of such rows */
    int64_t v_columns;                  /* patches of that row: a tile's, and those of the pieces to its right */
    int64_t rows, blocks, tiles;        /* rows of tiles of all stripes; blocks of a group; tiles of a block */
    int64_t inputs, channels;           /* terms of a row of V, in whole vectors; channels of a block */
    fc_winograd_blocks outputs;
    int past;                           /* y is written past the caches */
    int64_t tile_bytes;                 /* of V or of a block of M, whichever has more, for a tile of all phases */
    int64_t v_step, m_step, u_step;     /* elements from one frequency to the next */
    int64_t v_bytes, m_bytes, u_bytes, panel_bytes, temp_bytes, offset_bytes, place_bytes, taps_bytes;
} layout;

/* The phases of a lone channel's stride are channels that are neighbours, and its kernel a shorter one of stride 1; where there are
 * as many taps in each and nothing beyond the last whole pixel is read. */
static void join_phases(fc_conv *p)
{
    fc_window *w = &p->window;
    int64_t s = w->stride[2], read = (w->out[2] - 1) * s + w->kernel[2] - w->offset[2];
    if (p->channels != 1 || p->groups != 1 || w->dilation[2] != 1 || w->kernel[2] % s || w->offset[2] % s ||
        (w->in[2] % s && read > w->in[2] / s * s))
        return;
    p->channels = s;
    p->x.c = p->x.s[2];
    p->w.c = p->w.k[2];
    p->x.s[2] *= s;
    p->w.k[2] *= s;
    w->in[2] /= s;
    w->kernel[2] /= s;
    w->offset[2] /= s;
    w->stride[2] = 1;
}

/* A sequence of many channels is an image of one column, so that its tiles can be cut into blocks like rows; dilated, of as many
 * columns as the dilation, where this divides it. */
static fc_conv image_of(const fc_conv *p)
{
    fc_conv q = *p;
    fc_window *w = &q.window;
    int64_t d = w->dilation[2];
    if (w->in[1] != 1 || w->out[1] != 1 || w->kernel[1] != 1 || w->offset[1])
        return q;
    join_phases(&q);
    if (q.channels < fc_dispatch(q.real)->lanes || w->kernel[2] == 1 || d < 1 || w->in[2] % d || w->out[2] % d || w->offset[2] % d)
        return q;
    w->in[1] = w->in[2] / d;
    w->out[1] = w->out[2] / d;
    w->kernel[1] = w->kernel[2];
    w->offset[1] = w->offset[2] / d;
    w->stride[1] = w->stride[2];
    w->in[2] = w->out[2] = d;
    w->kernel[2] = w->stride[2] = w->dilation[1] = w->dilation[2] = 1;
    w->offset[2] = 0;
    q.x.s[1] = d * q.x.s[2];
    q.y.s[1] = d * q.y.s[2];
    q.w.k[1] = q.w.k[2];
    return q;
}

/* Of a block, where V of as many is beyond V_BYTES: reading U for fewer takes as long as the products.  Where the third-level cache is far
 * U, V and M had better stay in the second: Granite Rapids, whose that has 2 MiB, 48, 32, 24, 16 tiles, 64-128@16 b32 3120, 3005, 3020,
 * 2970 us, its gradient (U 1.2 MB, V 0.9, 0.6 ...) 3510, 3100, 3010, 3070, 128-128@16 b32 6450, 6210, 6400, 6400; U of the next frequency
 * fetched to it meanwhile, by software, 1.03 to 1.2 times as long. */
static int64_t least_tiles(void)
{
    return fc_cpu_has_near_cache() ? TILES : FAR_TILES;
}

/* Rows whose V would leave the cache are cut into stripes: 3x3 48-48@4x4000 from 4.1 to 2.4 ms. */
static layout lay_out(const fc_conv_plan *plan, const fc_conv *p)
{
    const fc_window *w = &p->window;
    const fc_kernels *kernels = fc_dispatch(p->real);
    int64_t lanes = kernels->lanes, size = kernels->size, rows = plan->tile[ROWS];
    layout l = {.kernels = kernels, .edge = plan->tile[EDGE] % 10};
    l.h = fc_winograd_cut(w, 1, l.edge, plan->tile[EDGE] / 10);
    l.w = fc_winograd_cut(w, 2, l.edge, plan->tile[EDGE] / 10);
    l.winograd = fc_winograd_kernels_of(kernels, &l.h, &l.w);
    l.frequencies = l.h.points * l.w.points;
    l.pieces = fc_mul(l.h.pieces, l.w.pieces);
    l.phases = fc_mul(l.h.d, l.w.d);
    l.inputs = fc_mul(w->kernel[0], fc_ceil_div(p->channels, lanes) * lanes);
    l.together = 1;
    if (p->channels < lanes && w->kernel[0] == 1 && l.h.points == 1 && l.w.d == 1) {
        l.inputs = p->channels;
        l.together = fc_min(l.pieces, CHANNELS / p->channels);
    }
    l.outputs = fc_winograd_blocks_cut(kernels, p->out_channels, plan->tile[WHOLE] == 1 ? 1 : plan->threads);
    l.tile_bytes = fc_max(1, fc_mul(fc_mul(l.frequencies * l.phases, fc_max(l.inputs, l.outputs.width)), size));
    int64_t columns = fc_max(least_tiles(), V_BYTES / l.tile_bytes);
    l.columns = l.w.tiles > 2 * columns ? fc_weight_part(l.w.tiles, columns) : l.w.tiles;
    l.stripes = fc_ceil_div(l.w.tiles, l.columns);
    l.v_columns = l.columns + l.w.pieces - 1;
    l.rows = fc_mul(fc_mul(fc_mul(p->batch, w->out[0]), l.stripes), l.h.tiles);
    l.blocks = fc_ceil_div(l.rows, rows);
    l.tiles = fc_mul(fc_mul(rows, l.phases), l.columns);
    int64_t v_rows = fc_add(rows, fc_mul(fc_min(rows, fc_winograd_stripes(rows, l.h.tiles)), l.h.pieces - 1));
    rows = fc_add(fc_min(rows, l.h.tiles), l.h.pieces - 1);
    l.x = (fc_panel){.width = lanes, .fold = 1, .rows = fc_mul(l.h.d, l.h.m * rows + l.h.points - l.h.m),
                     .pitch = fc_mul(l.w.d, l.w.m * l.v_columns + l.w.points - l.w.m), .step = {1, 1}};
    l.channels = fc_weight_part(p->channels, plan->tile[SHARED] ? CHANNELS : l.pieces == 1 ? ONCE : fc_max(CHANNELS / l.pieces, lanes));
    int64_t terms = fc_mul(plan->tile[SHARED] ? l.inputs : l.channels, l.pieces);
    l.v_step = fc_add(fc_mul(fc_mul(fc_mul(v_rows, l.phases), l.v_columns), l.inputs), STEP_PAD);
    l.m_step = fc_add(fc_mul(l.tiles, l.outputs.width), STEP_PAD);
    l.past = !fc_has_short_vectors(kernels) && fc_writes_past(p, size); /* by whole lines */
    l.u_step = fc_add(fc_mul(terms, l.outputs.width), STEP_PAD);
    l.v_bytes = fc_bytes(fc_mul(l.frequencies, l.v_step), size);
    l.m_bytes = fc_bytes(fc_mul(l.frequencies, l.m_step), size);
    l.u_bytes = fc_bytes(fc_mul(l.frequencies, l.u_step), size);
    l.panel_bytes = fc_bytes(fc_panel_elements(&l.x, l.x.rows), size);
    l.temp_bytes = fc_max(fc_panel_scratch(&l.x, size), l.panel_bytes);
    l.offset_bytes = fc_bytes(2 * l.channels * l.together, sizeof(int64_t));
    l.place_bytes = fc_bytes(l.tiles, sizeof(int64_t));
    l.taps_bytes = fc_winograd_taps_bytes(w, l.outputs.width, size);
    return l;
}

static int64_t worker_bytes(const fc_conv_plan *plan, const layout *l)
{
    int64_t own = fc_add(plan->tile[SHARED] ? 0 : l->u_bytes, plan->tile[WHOLE] ? l->v_bytes + FC_ALIGN : 0);
    own = fc_add(own, fc_add(l->place_bytes, l->taps_bytes));
    return fc_add(fc_add(l->panel_bytes, l->temp_bytes), fc_add(l->m_bytes, own));
}

static int64_t shared_bytes(const fc_conv_plan *plan, const layout *l)
{
    int64_t weights = fc_mul(fc_mul(plan->problem.groups, l->outputs.parts), l->u_bytes);
    return fc_add(fc_add(l->offset_bytes, plan->tile[WHOLE] ? 0 : l->v_bytes), fc_winograd_shared_bytes(plan, SHARED, weights));
}

static int64_t scratch_of(const fc_conv_plan *plan, const layout *l)
{
    return fc_add(shared_bytes(plan, l), fc_mul(plan->threads, worker_bytes(plan, l)));
}

/* What it costs to make U once. */
static double weights_cost(const fc_conv *p, const layout *l)
{
    double points = (double)l->frequencies / FREQUENCIES, taps = (double)fc_mul(p->window.kernel[1], p->window.kernel[2]);
    double weights = (double)p->groups * (double)l->inputs * (double)(l->outputs.vectors * l->kernels->lanes);
    /* An adjoint's are apart: 512-512@14 9510 us, forward 7840 (Zen 3). */
    double apart = p->w.o < p->w.c && fc_has_short_vectors(l->kernels) ? 1.12 : 1.0;
    return weights * (3.0 * apart * points * (double)l->pieces + (l->pieces == 1 && taps == 9 ? 0 : 0.22 * taps));
}

/* Of what is no product, measured in products, where these take twice the time: Zen 4, us, channels.c and this, 16-32@14 19.5, 13.9,
 * 64-64@7 34, 29, 256-256@7 520, 418, 512-512@7 2130, 1800, of which products are 6 to 78 %. */
#define HALF_MULTIPLIER 0.55

/* Of vectors shorter than a line, whose transforms are as many instructions: Zen 3, us, winograd.c and this, input gradients of
 * 256-384@13 2520, 2740, of 384-384@13 4700, 5100, but forward 3630, 3060 and 5370, 4580; 8 channels 5x5@32 by this 85, by pixels 56. */
#define SHORT_VECTORS 1.1

/* So where a pixel's channels are neighbours, read a vector at a time from among more. */
#define SHORT_PIXELS 1.25

/* What it costs to make V of all blocks once. */
static double inputs_cost(const fc_conv *p, const layout *l)
{
    double points = (double)l->frequencies / FREQUENCIES, pixels = (double)(l->h.m * l->w.m) / 16, copy_in = p->x.c == 1 ? 0.8 : 1.0;
    double patches = (double)l->blocks * (double)l->tiles * (double)fc_max(l->inputs, l->kernels->lanes);
    return (double)p->groups * patches * (2.5 * points + copy_in * pixels);
}

/* Relative to winograd's, whose constants these are.  A phase of an adjoint is written pixel by pixel: 4x4s2 64-128@32 b8, input
 * gradient, is no faster than by channels.c, 3x3s2 128-128@56 neither, but 1.2 times so where channels are neighbours. */
static double estimate(const fc_conv_plan *plan, const fc_conv *p, const layout *l)
{
    double groups = (double)p->groups, tiles = (double)l->blocks * (double)l->tiles;
    double points = (double)l->frequencies / FREQUENCIES;
    double outputs = (double)(l->outputs.vectors * l->kernels->lanes), pixels = (double)(l->h.m * l->w.m) / 16;
    int by_pixel = p->out_channels < l->kernels->lanes;
    double copy_out = p->y.c == 1 && !by_pixel ? 0.0 : p->y.s[2] == 1 ? 1.2 : 6.0;
    double block = fc_gemm_cost(l->kernels, l->tiles, l->outputs.vectors * l->kernels->lanes, l->inputs * l->together);
    double gemm = groups * (double)l->blocks * (double)(l->h.terms * l->w.terms) / (double)l->together * block;
    double sums = (2.0 * points + copy_out * pixels) * outputs;
    double weights = weights_cost(p, l) * (plan->tile[SHARED] ? 1.0 : (double)l->blocks);
    double rest = 2000 + inputs_cost(p, l) + groups * tiles * sums + weights;
    if (fc_has_short_vectors(l->kernels))
        return SHORT_VECTORS * (p->x.c == 1 ? SHORT_PIXELS : 1.0) * (1.15 * gemm + rest);
    return 1.15 * gemm + (fc_has_half_multiplier(l->kernels) ? HALF_MULTIPLIER : 1.0) * rest;
}

/* Rows of tiles whose V stays in the cache, but not so few that reading U costs more than the products; where the weights are
 * transformed anew for every block, as many as scratch allows. */
static layout choose_tile(fc_conv_plan *plan, const fc_conv *p)
{
    plan->tile[ROWS] = plan->tile[SHARED] = plan->tile[WHOLE] = 1;
    layout l = lay_out(plan, p);
    int shared = fc_mul(fc_mul(p->groups, l.outputs.parts), l.u_bytes) <= SHARED_BYTES;
    int64_t v_bytes = fc_mul(l.v_columns, l.tile_bytes);
    int64_t rows = fc_max(V_BYTES / v_bytes, fc_ceil_div(least_tiles(), fc_mul(l.phases, l.columns)));
    rows = fc_max(1, fc_min(l.rows, fc_min(shared ? rows : INT64_MAX, V_BYTES_MAX / v_bytes)));
    plan->tile[ROWS] = fc_weight_part(l.rows, rows);
    plan->tile[SHARED] = shared && plan->tile[ROWS] < l.rows;
    if (plan->tile[SHARED]) { /* as many blocks for each thread */
        int64_t blocks = fc_ceil_div(fc_ceil_div(l.rows, plan->tile[ROWS]), plan->threads) * plan->threads;
        plan->tile[ROWS] = fc_ceil_div(l.rows, fc_min(l.rows, blocks));
    }
    int64_t blocks = fc_mul(p->groups, fc_ceil_div(l.rows, plan->tile[ROWS]));
    plan->tile[WHOLE] = blocks >= 2 * plan->threads || (blocks % plan->threads == 0 && l.rows % plan->threads == 0);
    l = lay_out(plan, p);
    if (plan->tile[WHOLE])
        fc_winograd_choose_own(plan, SHARED, weights_cost(p, &l), estimate(plan, p, &l),
                               fc_mul(fc_mul(p->groups, l.outputs.parts), l.u_bytes),
                               fc_add(fc_mul(plan->threads, worker_bytes(plan, &l)), l.offset_bytes));
    else if (fc_winograd_own_inputs_pay(plan, inputs_cost(p, &l), estimate(plan, p, &l), l.v_bytes)) {
        plan->tile[WHOLE] = OWN;
        if (scratch_of(plan, &l) > fc_scratch_max(plan->threads))
            plan->tile[WHOLE] = 0;
    }
    plan->scratch = scratch_of(plan, &l);
    return l;
}

static const char *plan_winograd(fc_conv_plan *plan, double *cost)
{
    const fc_conv problem = image_of(&plan->problem), *p = &problem;
    const fc_window *w = &p->window;
    const fc_kernels *kernels = fc_dispatch(p->real);
    const char *reason = fc_winograd_pieces_refusal(plan, w);
    if (reason)
        return reason;
    if (w->kernel[0] > 1 && p->channels % kernels->lanes)
        return "the kernel is deep and the channels are no whole vectors";
    if (!fc_reduction(p))
        return "there is nothing to sum";
    fc_winograd_tile tile = fc_winograd_tile_of(w);
    plan->tile[EDGE] = 10 * tile.points + tile.m;
    layout l = choose_tile(plan, p);
    if (plan->scratch > fc_scratch_max(plan->threads))
        return "the transformed tiles and weights exceed the scratch bound";
    *cost = estimate(plan, p, &l);
    return NULL;
}

typedef struct job {
    const fc_conv_plan *plan;
    fc_conv problem;
    layout l;
    const char *x, *w, *bias;
    char *y, *inputs, *weights, *scratch; /* V; shared U, or NULL; of the workers */
    const int64_t *offset;                /* of the rows of U: fc_winograd_offsets */
    int64_t g, block;                     /* under way */
} job;

/* The row of tiles that a block begins with: blocks differ by one row at most, and so do the sums of each thread's. */
static int64_t block_row(const layout *l, int64_t block)
{
    return l->rows / l->blocks * block + l->rows % l->blocks * block / l->blocks;
}

/* Rows tr ... tr + rows of tiles of one stripe of a plane, from its column tc on, which are tiles at ... of the block; its patches
 * are rows v ... of V. */
typedef struct segment {
    int64_t n, od, tc, tr, rows, at, v;
} segment;

/* The segment that begins with row `row` of the block's; returns 0 after the last. */
static int next_segment(const job *j, int64_t *row, segment *s)
{
    const layout *l = &j->l;
    int64_t first = block_row(l, j->block), end = block_row(l, j->block + 1), at = first + *row;
    if (at >= end)
        return 0;
    int64_t stripe = at / l->h.tiles, plane = stripe / l->stripes, depth = j->problem.window.out[0];
    *s = (segment){.n = plane / depth, .od = plane % depth, .tr = at % l->h.tiles};
    s->at = *row * l->phases * l->columns;
    s->tc = stripe % l->stripes * l->columns;
    s->rows = fc_min(end - at, l->h.tiles - s->tr);
    s->v = (*row + (stripe - first / l->h.tiles) * (l->h.pieces - 1)) * l->phases * l->v_columns;
    *row += s->rows;
    return 1;
}

/* Patches of `rows` rows of tiles, of `columns` each in every phase, from pixels that stand `row` and `pixel` apart. */
static void transform_patches(const layout *l, char *v, const char *x, int64_t row, int64_t pixel, int64_t rows, int64_t columns)
{
    int64_t size = l->kernels->size, down = l->h.d * row, right = l->w.d * pixel, step = l->w.points > 1 ? right : down;
    int together = l->v_columns == 1; /* a lone column's tiles are one line */
    const int64_t points[4] = {0, fc_winograd_used(&l->h), 0, fc_winograd_used(&l->w)};
    const int64_t line[4] = {0, 1, 0, l->w.points > 1 ? points[3] : points[1]};
    for (int64_t r = 0; r < (together ? 1 : rows); r++)
        for (int64_t phase = 0; phase < l->phases; phase++) {
            const char *from = fc_at(x, r * l->h.m * down + phase / l->w.d * row + phase % l->w.d * pixel, size);
            char *to = fc_at(v, (r * l->phases + phase) * l->v_columns * l->inputs, size);
            l->winograd->input(to, l->v_step, (together ? l->phases : 1) * l->inputs, from, down, step,
                               together ? l->h.m * down : l->w.m * right, together ? rows : columns,
                               l->h.points > 1 && l->w.points > 1 ? points : line);
        }
}

/* Patches begin ... end of `rows` rows by way of a panel; position (ih, iw) of the image is the first one's of a row.  Whole rows
 * without gaps are copied as one: those of a sequence are a pixel each. */
static void transform_panel(const job *j, const fc_panel_image *image, int64_t rows, int64_t ih, int64_t iw, int64_t begin,
                            int64_t end, char *v, char *scratch)
{
    const layout *l = &j->l;
    int64_t size = l->kernels->size, lanes = l->kernels->lanes, lines = l->h.d * (l->h.m * rows + l->h.points - l->h.m);
    int64_t pitch = l->w.d * (l->w.m * (end - begin) + l->w.points - l->w.m);
    fc_panel panel = l->x;
    fc_panel_image from = *image;
    if (begin >= end)
        return;
    iw += l->w.m * begin;
    panel.pitch = pitch;
    if (iw == 0 && pitch == image->size[1] && image->stride[0] == pitch * image->stride[1]) {
        from.size[0] = panel.rows = 1;
        from.size[1] = pitch * image->size[0];
        panel.pitch = pitch * lines;
        iw = pitch * ih;
        ih = 0;
        lines = 1;
    }
    fc_panel_pack(&panel, l->kernels, scratch, scratch + l->panel_bytes, &from, lines, ih, iw);
    transform_patches(l, fc_at(v, begin * l->inputs, size), scratch, pitch * lanes, lanes, rows, end - begin);
}

/* One row of patches of an image whose channels are neighbours: those that lie inside it are read where they stand.  What lies
 * beyond the last channel is read too, and no sum takes it; where rows of V are as short, the next patch overwrites it. */
static void transform_in_place(const job *j, const fc_panel_image *image, int64_t ih, int64_t iw, char *v, char *scratch)
{
    const layout *l = &j->l;
    int64_t size = l->kernels->size, m = l->w.m, begin = fc_min(l->v_columns, fc_ceil_div(fc_max(0, -iw), m));
    int64_t beyond = fc_ceil_div(l->kernels->lanes - image->channels, fc_max(1, image->stride[1])); /* pixels, of the last vector */
    int64_t room = image->size[1] - iw - (l->w.points - m) - beyond, end = fc_max(begin, fc_min(l->v_columns, fc_max(0, room) / m));
    if (!image->x || ih < 0 || ih + l->h.points > image->size[0])
        begin = end = l->v_columns;
    transform_panel(j, image, 1, ih, iw, 0, begin, v, scratch);
    if (begin < end)
        transform_patches(l, fc_at(v, begin * l->inputs, size),
                          fc_at(image->x, ih * image->stride[0] + (iw + m * begin) * image->stride[1], size), image->stride[0],
                          image->stride[1], 1, end - begin);
    transform_panel(j, image, 1, ih, iw, end, l->v_columns, v, scratch);
}

static void transform_input(void *context, int64_t task, int worker)
{
    const job *j = context;
    const layout *l = &j->l;
    const fc_conv *p = &j->problem;
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
        int64_t ih = l->h.m * l->h.d * s.tr - w->offset[1], iw = l->w.m * l->w.d * s.tc - w->offset[2];
        int64_t rows = s.rows + l->h.pieces - 1;
        int in_place = p->x.c == 1 && l->phases == 1 && (image.channels == lanes || image.stride[1] > 0);
        char *v = fc_at(j->inputs, s.v * l->inputs + kd * p->channels + c, size);
        if (!in_place)
            transform_panel(j, &image, rows, ih, iw, 0, l->v_columns, v, scratch);
        for (int64_t r = 0; r < rows && in_place; r++)
            transform_in_place(j, &image, ih + l->h.m * r, iw, fc_at(v, r * l->v_columns * l->inputs, size), scratch);
    }
}

/* U of channels c ... c + channels at kd, for one block of output channels. */
static void transform_weights(const job *j, int64_t g, const fc_winograd_part *b, int64_t kd, int64_t c, int64_t channels,
                              int64_t next, char *u, char *taps)
{
    const fc_conv *p = &j->problem;
    const layout *l = &j->l;
    fc_winograd_pieces pieces = {p, l->h, l->w, l->edge, l->u_step};
    const void *w = fc_at(j->w, g * p->w.g + b->o * p->w.o + c * p->w.c + kd * p->w.k[0], l->kernels->size);
    fc_winograd_transform(&pieces, w, channels, b->outputs, b->width, next, u, taps);
}

static void transform_shared(void *context, int64_t task, int worker)
{
    const job *j = context;
    const layout *l = &j->l;
    const fc_conv *p = &j->problem;
    fc_winograd_part b = fc_winograd_part_at(&l->outputs, task % l->outputs.parts);
    char *taps = j->scratch + worker * worker_bytes(j->plan, l);
    for (int64_t kd = 0; kd < p->window.kernel[0]; kd++)
        transform_weights(j, task / l->outputs.parts, &b, kd, 0, p->channels, l->inputs,
                          fc_at(j->weights, kd * p->channels * b.width, l->kernels->size) + task * l->u_bytes, taps);
}

/* Where the patches of the block's tiles are in V, in bytes. */
static void place_tiles(const job *j, int64_t *place)
{
    const layout *l = &j->l;
    int64_t row = 0;
    for (segment s; next_segment(j, &row, &s);)
        for (int64_t line = 0; line < s.rows * l->phases; line++)
            for (int64_t t = 0; t < l->columns; t++)
                place[s.at + line * l->columns + t] = (s.v + line * l->v_columns + t) * l->inputs * l->kernels->size;
}

static int has_terms(const layout *l, int64_t piece, int64_t f)
{
    return fc_winograd_has_terms(&l->h, piece / l->w.pieces, f / l->w.points) &&
           fc_winograd_has_terms(&l->w, piece % l->w.pieces, f % l->w.points);
}

/* M += V U over some terms of V, of which piece `piece` and those together with it read those of the patches to the right and below;
 * the first sets M, to zero where it has no terms. */
static void add_products(const job *j, const fc_winograd_part *b, int64_t piece, int64_t term, int64_t terms, const int64_t *place,
                         const char *u, char *m)
{
    const layout *l = &j->l;
    int64_t size = l->kernels->size, rows = block_row(l, j->block + 1) - block_row(l, j->block);
    int64_t count = fc_min(l->together, l->pieces - piece), right = l->inputs * size, down = b->width * terms * size;
    int add = piece + term > 0;
    fc_winograd_product product = fc_winograd_product_plan(&l->outputs, b, j->offset, l->channels * l->together, place,
                                                           rows * l->phases * l->columns);
    const char *v = fc_at(j->inputs, term, size);
    v += (piece / l->w.pieces * l->phases * l->v_columns + piece % l->w.pieces) * l->inputs * size;
    for (int64_t f = 0; f < l->frequencies; f++, v += l->v_step * size, u += l->u_step * size, m += l->m_step * size) {
        int64_t skip = 0; /* pieces without terms, of which only the last can have some at infinity */
        while (skip < count && !has_terms(l, piece + skip, f))
            skip++;
        if (skip < count || !add)
            fc_winograd_product_run(&product, (count - skip) * terms, v + skip * right, u + skip * down, m, add);
    }
}

/* One vector of output channels of a segment: tiles of M to pixels `row` and `pixel` apart.  Returns whether all are finite. */
static int transform_outputs(const job *j, const segment *s, char *y, int64_t row, int64_t pixel, const char *m, int64_t width,
                             const void *init)
{
    const layout *l = &j->l;
    int64_t size = l->kernels->size, down = l->h.d * row, right = l->w.d * pixel, step = l->w.points > 1 ? right : down;
    int together = l->columns == 1, finite = 1; /* a lone column's tiles are one line */
    double bounds[2];
    fc_output_bounds(&j->problem, bounds);
    for (int64_t r = 0; r < (together ? 1 : s->rows); r++)
        for (int64_t phase = 0; phase < l->phases; phase++) {
            char *to = fc_at(y, r * l->h.m * down + phase / l->w.d * row + phase % l->w.d * pixel, size);
            const char *from = fc_at(m, (s->at + (r * l->phases + phase) * l->columns) * width, size);
            finite &= l->winograd->outputs[l->edge](to, down, step, together ? l->h.m * down : l->w.m * right, from,
                                                                l->m_step, (together ? l->phases : 1) * width, init, bounds,
                                                                together ? s->rows : l->columns) != 0;
        }
    return finite;
}

static void store_outputs(const job *j, const segment *s, int64_t o, int64_t channels, const char *m, int64_t width, char *panel)
{
    const fc_conv *p = &j->problem;
    const layout *l = &j->l;
    int64_t size = l->kernels->size, lanes = l->kernels->lanes, high = l->h.d * l->h.m, pitch = l->w.d * l->w.m * l->columns;
    int64_t oh = high * s->tr, last = fc_min(p->window.out[1], oh + high * s->rows);
    int64_t ow = l->w.d * l->w.m * s->tc, end = fc_min(p->window.out[2], ow + pitch);
    char *y = fc_at(j->y, s->n * p->y.n + o * p->y.c + s->od * p->y.s[0] + oh * p->y.s[1] + ow * p->y.s[2], size);
    double init[FC_LANES_MAX] = {0};
    if (j->bias)
        memcpy(init, fc_at(j->bias, o, size), (size_t)(channels * size));
    int direct = p->y.c == 1 && channels == lanes && ow + pitch == end && oh + high * s->rows == last;
    int finite = transform_outputs(j, s, direct ? y : panel, direct ? p->y.s[1] : pitch * lanes, direct ? p->y.s[2] : lanes, m,
                                   width, init);
    fc_panel_image to = {.x = y, .channels = channels, .c = p->y.c, .size = {last - oh, end - ow},
                         .stride = {p->y.s[1], p->y.s[2]}};
    if (!direct)
        fc_panel_store(l->kernels, &to, panel, pitch, l->past, panel + l->panel_bytes);
    for (int64_t c = 0; c < channels && !finite; c++)
        for (int64_t row = oh; row < last; row++)
            fc_reference_row(p, j->x, j->w, j->bias, j->y, o + c, s->n * p->window.out[0] + s->od, row, ow, end);
}

static void multiply(void *context, int64_t task, int worker)
{
    const job *j = context;
    const layout *l = &j->l;
    const fc_conv *p = &j->problem;
    int64_t size = l->kernels->size, lanes = l->kernels->lanes, row = 0;
    char *panel = j->scratch + worker * worker_bytes(j->plan, l), *m = panel + l->panel_bytes + l->temp_bytes;
    char *taps = m + l->m_bytes, *u = taps + l->taps_bytes + l->place_bytes;
    int64_t *place = (int64_t *)(void *)(taps + l->taps_bytes);
    fc_winograd_part b = fc_winograd_part_at(&l->outputs, task);
    place_tiles(j, place);
    for (int64_t kd = 0; kd < p->window.kernel[0]; kd++)
        for (int64_t c = 0, n, term = kd * p->channels; c < p->channels; c += n, term += n) {
            int64_t next = (j->weights ? l->inputs : l->channels) * b.width;
            n = fc_min(l->channels, p->channels - c);
            if (j->weights)
                u = fc_at(j->weights, term * b.width, size) + (j->g * l->outputs.parts + task) * l->u_bytes;
            else
                transform_weights(j, j->g, &b, kd, c, n, l->channels, u, taps);
            for (int64_t piece = 0; piece < l->pieces; piece += l->together)
                add_products(j, &b, piece, term, n, place, fc_at(u, piece * next, size), m);
        }
    for (segment s; next_segment(j, &row, &s);)
        for (int64_t o = 0; o < b.outputs; o += lanes)
            store_outputs(j, &s, j->g * p->out_channels + b.o + o, fc_min(lanes, b.outputs - o), fc_at(m, o, size), b.width, panel);
    if (l->past)
        __sync_synchronize();
}

static int64_t weight_tasks(const job *j)
{
    return j->problem.groups * j->l.outputs.parts;
}

static int64_t input_tasks(const job *j)
{
    return j->problem.window.kernel[0] * fc_ceil_div(j->problem.channels, j->l.kernels->lanes);
}

/* A worker's own V, and after it the number of the block that it was last made for. */
static char *own_inputs(const job *j, int worker)
{
    return j->scratch + (worker + 1) * worker_bytes(j->plan, &j->l) - FC_ALIGN - j->l.v_bytes;
}

/* A block, or of the one under way a part of the output channels, by a worker with a V of its own. */
static void run_own(void *context, int64_t task, int worker)
{
    job own = *(const job *)context;
    int whole = own.plan->tile[WHOLE] == 1;
    if (whole) {
        own.g = task / own.l.blocks;
        own.block = task % own.l.blocks;
    }
    own.inputs = own_inputs(&own, worker);
    if (own.plan->tile[SHARED] == OWN) {
        int64_t *made = fc_winograd_own(own.weights, weight_tasks(&own) * own.l.u_bytes, worker);
        own.weights = (char *)made + FC_ALIGN;
        for (int64_t i = 0; i < weight_tasks(&own) && !*made; i++)
            transform_shared(&own, i, worker);
        *made = 1;
    }
    int64_t *last = (int64_t *)(void *)(own.inputs + own.l.v_bytes), block = own.g * own.l.blocks + own.block;
    for (int64_t i = 0; i < input_tasks(&own) && *last != block; i++)
        transform_input(&own, i, worker);
    *last = block;
    for (int64_t i = whole ? 0 : task; i < (whole ? own.l.outputs.parts : task + 1); i++)
        multiply(&own, i, worker);
}

static fc_status run_winograd(const fc_conv_plan *plan, void *x, void *w, void *bias, void *y)
{
    job j = {.plan = plan, .problem = image_of(&plan->problem), .x = x, .w = w, .bias = bias, .y = y};
    const fc_conv *p = &j.problem;
    const layout *l = &j.l;
    j.l = lay_out(plan, p);
    char *scratch = fc_arena_take(plan->scratch);
    if (!scratch)
        return FC_NO_MEMORY;
    int64_t *offset = (int64_t *)(void *)scratch;
    fc_winograd_offsets(&l->outputs, l->channels * l->together, offset);
    j.offset = offset;
    j.inputs = scratch + l->offset_bytes;
    j.scratch = j.inputs + (plan->tile[WHOLE] ? 0 : l->v_bytes);
    if (plan->tile[SHARED]) {
        j.weights = j.scratch;
        j.scratch += fc_winograd_shared_bytes(plan, SHARED, weight_tasks(&j) * l->u_bytes);
    }
    if (plan->tile[SHARED] == OWN)
        fc_winograd_forget(plan, j.weights, weight_tasks(&j) * l->u_bytes);
    else if (plan->tile[SHARED])
        fc_parallel(plan->threads, weight_tasks(&j), transform_shared, &j);
    for (int i = 0; i < plan->threads && plan->tile[WHOLE]; i++) /* made for no block yet */
        *(int64_t *)(void *)(own_inputs(&j, i) + l->v_bytes) = -1;
    if (plan->tile[WHOLE] == 1)
        fc_parallel(plan->threads, p->groups * l->blocks, run_own, &j);
    for (j.g = 0; j.g < p->groups && plan->tile[WHOLE] != 1; j.g++)
        for (j.block = 0; j.block < l->blocks; j.block++) {
            if (!plan->tile[WHOLE])
                fc_parallel(plan->threads, input_tasks(&j), transform_input, &j);
            fc_parallel(plan->threads, l->outputs.parts, plan->tile[WHOLE] ? run_own : multiply, &j);
        }
    fc_arena_give();
    return FC_OK;
}

const fc_driver fc_driver_winograd_channels = {"winograd_channels", plan_winograd, run_winograd, .bounded = 1};
