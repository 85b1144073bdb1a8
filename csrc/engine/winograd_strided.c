/* Winograd of a strided convolution and of its adjoint, the transposed one: phases of the stride, transformed together.
 *
 * The taps that meet positions s j + f of an axis are f', f' + s, ...: a convolution of stride 1 over a phase of the image.  With
 * F(m x m, r x r), m + r = 7, as in winograd_channels.c (phases f, frequencies k, tiles t),
 *
 *     forward:    M_k[t][o] = sum_{f, c} V_{f,k}[t][c] U_{f,k}[c][o]    y = A^T M A + b: one transform of the sum over the phases
 *     adjoint:    M_{f,k}[t][c] = sum_o V_k[t][o] U_{f,k}[o][c]         x_f = A^T M_f A + b: one transform of the gradient for all
 *
 * Where a phase has fewer than r taps it has no term at the point 0, if its first tap is not the first of r, nor at infinity, if
 * its last is not the last: those products are left out.  So two taps take 5 products for 4 outputs, one takes 4.  Forwards a
 * phase's place among the r taps is free; the phases of an adjoint share one V, so there it follows from the stride and padding.
 * Multiplications of the direct sum by products: 4x4 stride 2, 2.6; 5x5 stride 2, 3.3; 3x3 stride 2, 1.8.
 *
 * Few channels would leave most lanes of V empty.  Forwards their phases are packed side by side as channels of one convolution of
 * stride 1, without the products left out: 7x7 stride 2 of a photograph has 12 terms a product, and 3.0 times fewer.
 *
 *     for each group g, block of rows of tiles                                                                a task
 *         for each vector of channels: copy as a panel (pixels by channels), transform into V
 *         for each block of output channels (a strip of the kernel's):
 *             for each phase, block of channels: weights into U, unless that is done once a call
 *                 for each frequency: add to M
 *             transform M; store by way of a panel, in which the phases of an adjoint stand side by side
 *
 * Where there are fewer blocks than threads want, one after the other has its blocks of output channels as tasks, and each worker makes
 * V for itself, or its vectors of channels are tasks first, and V is shared.  A tile that is not finite is computed again by definition,
 * as in winograd_channels.c.
 */
#include <string.h>

#include "base/cpu.h"
#include "engine/output.h"
#include "engine/weight_panel.h"
#include "engine/weight_tiles.h"
#include "engine/winograd_blocks.h"
#include "engine/winograd_phases.h"
#include "engine/winograd_pieces.h"

/* plan->tile: rows of tiles of a block; whether U is made for each block, once a call (1) or once a worker (OWN); whether a block is
 * a task (1), or its output channels are and V is shared (0) or made by each worker (OWN); m. */
enum { ROWS, SHARED, WHOLE, EDGE };
enum { CHANNELS = 128, TILES = 48, TILES_MIN = 16, TASK = 32 };
enum { PACKED_CHANNELS = 8 }; /* channels that are packed, at most: their phases are no more terms than a block of the sum */
enum { MULTIPLICATIONS_MIN = 2048, SHARED_BYTES = 8 << 20, V_BYTES = 384 << 10, V_BYTES_MAX = 6 << 20 };

typedef struct layout {
    const fc_kernels *kernels;
    const fc_winograd_channels_kernels *winograd;
    fc_winograd_strided_axis h, w;
    int packed;
    int64_t frequencies, phases, x_phases, y_phases; /* of V and of M: one of them has a single phase, packed both */
    int64_t order[FC_WINOGRAD_STRIDE_MAX * FC_WINOGRAD_STRIDE_MAX]; /* the phases, the one with the most taps first */
    fc_panel x;
    int64_t rows, blocks, tiles;        /* rows of tiles of all planes; blocks of a group; tiles of a block */
    int64_t terms, inputs, channels;    /* channels, packed of all phases; in whole vectors; of a block of the sum */
    fc_winograd_blocks outputs;
    int past; /* y is written past the caches */
    int64_t v_step, m_step, u_step;     /* elements from one frequency to the next */
    int64_t v_bytes, m_bytes, u_bytes, panel_bytes, temp_bytes, offset_bytes, taps_bytes;
} layout;

/* The problem from the side of what is read and what is written. */
static fc_conv whole_of(const fc_conv_plan *plan)
{
    return plan->direction == FC_FORWARD ? plan->problem : fc_adjoint_whole(&plan->problem);
}

static fc_winograd_order order_of(const fc_conv_plan *plan)
{
    if (plan->direction != FC_FORWARD)
        return FC_WINOGRAD_ADJOINT;
    return plan->problem.channels <= PACKED_CHANNELS ? FC_WINOGRAD_PACKED : FC_WINOGRAD_FORWARD;
}

static layout lay_out(const fc_conv_plan *plan, const fc_conv *p)
{
    const fc_window *w = &plan->problem.window;
    const fc_kernels *kernels = fc_dispatch(p->real);
    int64_t lanes = kernels->lanes, size = kernels->size, rows = plan->tile[ROWS];
    fc_winograd_order order = order_of(plan);
    layout l = {.kernels = kernels, .packed = order == FC_WINOGRAD_PACKED};
    l.h = fc_winograd_strided_cut(w, 1, plan->tile[EDGE], order);
    l.w = fc_winograd_strided_cut(w, 2, plan->tile[EDGE], order);
    l.winograd = &kernels->winograd_channels[l.h.points > 1 && l.w.points > 1];
    l.frequencies = l.h.points * l.w.points;
    l.phases = l.h.count * l.w.count;
    for (int64_t i = 0; i < l.phases; i++)
        l.order[i] = (l.h.largest + i / l.w.count) % l.h.count * l.w.count + (l.w.largest + i % l.w.count) % l.w.count;
    l.x_phases = order == FC_WINOGRAD_FORWARD ? l.phases : 1;
    l.y_phases = order == FC_WINOGRAD_ADJOINT ? l.phases : 1;
    l.terms = p->channels * (l.packed ? l.phases : 1);
    l.inputs = fc_ceil_div(l.terms, lanes) * lanes;
    l.rows = fc_mul(fc_mul(p->batch, p->window.out[0]), l.h.tiles);
    l.blocks = fc_ceil_div(l.rows, rows);
    l.tiles = fc_mul(rows, l.w.tiles);
    rows = fc_min(rows, l.h.tiles);
    l.x = (fc_panel){.width = lanes, .fold = 1, .rows = l.h.step_in * l.h.m * rows + l.h.extra,
                     .pitch = fc_add(fc_mul(l.w.step_in * l.w.m, l.w.tiles), l.w.extra), .step = {1, 1}};
    l.channels = fc_weight_part(l.terms, CHANNELS);
    l.outputs = fc_winograd_blocks_cut(kernels, p->out_channels, plan->tile[WHOLE] == 1 ? 1 : plan->threads);
    l.past = !fc_has_short_vectors(kernels) && fc_writes_past(p, size); /* by whole lines */
    l.v_step = fc_add(fc_mul(l.tiles, l.inputs), STEP_PAD);
    l.m_step = fc_add(fc_mul(l.tiles, l.outputs.width), STEP_PAD);
    l.u_step = fc_add(fc_mul(plan->tile[SHARED] ? l.inputs : l.channels, l.outputs.width), STEP_PAD);
    l.v_bytes = fc_bytes(fc_mul(l.x_phases * l.frequencies, l.v_step), size);
    l.m_bytes = fc_bytes(fc_mul(l.y_phases * l.frequencies, l.m_step), size);
    l.u_bytes = fc_bytes(fc_mul((plan->tile[SHARED] && !l.packed ? l.phases : 1) * l.frequencies, l.u_step), size);
    fc_panel y = {.width = lanes, .fold = 1, .rows = l.h.step_out * l.h.m * rows, .pitch = fc_mul(l.w.step_out * l.w.m, l.w.tiles)};
    l.panel_bytes = fc_bytes(fc_max(fc_panel_elements(&l.x, l.x.rows), fc_panel_elements(&y, y.rows)), size);
    l.temp_bytes = fc_max(fc_panel_scratch(&l.x, size), l.panel_bytes);
    l.offset_bytes = fc_bytes(fc_add(2 * l.channels, l.tiles), sizeof(int64_t));
    int64_t gathered = l.packed ? p->channels : plan->tile[SHARED] ? TASK : l.channels;
    l.taps_bytes = fc_bytes(fc_mul(gathered, fc_mul(fc_taps(w), l.outputs.width)), size);
    return l;
}

static int64_t worker_bytes(const fc_conv_plan *plan, const layout *l)
{
    int64_t own = fc_add(plan->tile[SHARED] ? 0 : l->u_bytes, plan->tile[WHOLE] ? l->v_bytes + FC_ALIGN : 0);
    return fc_add(fc_add(l->panel_bytes, l->temp_bytes), fc_add(fc_add(l->m_bytes, l->taps_bytes), own));
}

/* Bytes of U of all blocks of output channels. */
static int64_t all_weights(const fc_conv *p, const layout *l)
{
    return fc_mul(fc_mul(p->groups, l->outputs.parts), l->u_bytes);
}

static int64_t shared_bytes(const fc_conv_plan *plan, const layout *l)
{
    int64_t weights = fc_winograd_shared_bytes(plan, SHARED, all_weights(&plan->problem, l));
    return fc_add(fc_add(l->offset_bytes, plan->tile[WHOLE] ? 0 : l->v_bytes), weights);
}

static int64_t scratch_of(const fc_conv_plan *plan, const layout *l)
{
    return fc_add(shared_bytes(plan, l), fc_mul(plan->threads, worker_bytes(plan, l)));
}

/* Nanoseconds to make V of all blocks once, of one group. */
static double inputs_cost(const layout *l)
{
    double tiles = (double)l->blocks * (double)l->tiles, products = (double)(l->h.terms * l->w.terms);
    double points = l->x_phases > 1 ? products : (double)((l->h.end - l->h.begin) * (l->w.end - l->w.begin));
    return tiles * (double)l->inputs * (points / FREQUENCIES + 1.5 * (double)(l->h.m * l->w.m * l->x_phases) / 16);
}

/* Nanoseconds to make U once, of one group. */
static double weights_cost(const fc_conv *p, const layout *l)
{
    double outputs = (double)(l->outputs.vectors * l->kernels->lanes), products = (double)(l->h.terms * l->w.terms);
    return outputs * (1.3 * (double)l->inputs * products / FREQUENCIES + 0.3 * (double)p->channels * (double)fc_taps(&p->window));
}

/* Where the third-level cache is far from a core, V, U and M take longer, and U more so where it is read anew for every block; most where
 * channels.c shares out among threads what this does in turns, or reads a pixel's channels in place.  Granite Rapids, beside PyTorch's
 * calls, us, channels and this, one thread and two: 3x3s2 128@56 1525, 1505; 915, 1055; channels last 1170, 1330; their gradients 1650,
 * 1535; 860, 830; 1160, 1330; k3s2 384-384 over 3000 8510, 8140; 4215, 4650; upsample 128-64@14 b8 2600, 2750; 1330, 1580, its gradient
 * 2810, 2070; 1470, 1325; packed 7x7s2 3-64@224 (pixels) 1530, 1215; 800, 650. */
#define FAR 1.15
#define FAR_MOST 1.26
#define FAR_WEIGHT 0.12

/* Nanoseconds, fitted on Zen 5 to 68 problems (half of them within 5 %, nine of ten within 15).  One thread, us, channels and this:
 * 3x3s2 128-128@56 934, 722, its gradient 1019, 794; 64-128@28 b8 929, 829; 256-256@28 964, 1071; k3s2 384-384 over 3000 5500,
 * 4850; 4x4s2 64-128@32 b8 2160, 1210; 5x5s3 96-192@60 1568, 1121; 7x7s2 32-64@64 823, 388; packed 7x7s2 3-64@224 1020, 783,
 * 11x11s4 3-96@224 960, 755, 4x4s2 3-64@64 b8 294, 357.  Emerald Rapids, of which FAR_WEIGHT is, before a block's taps were gathered
 * once for all phases: 4x4s2 128-256@16 b8 3700, 2570; 5x5s2 64-64@64 b4 5890, 4200; 3x3s2 64-128@28 b8 2050, 2740;
 * upsample 128-64@14 b8 3300, 3900. */
static double estimate(const fc_conv_plan *plan, const fc_conv *p, const layout *l)
{
    double groups = (double)p->groups, tiles = (double)l->blocks * (double)l->tiles;
    double inputs = (double)l->inputs, outputs = (double)(l->outputs.vectors * l->kernels->lanes);
    double products = (double)(l->h.terms * l->w.terms), blocks = (double)l->blocks;
    double pixels = (double)(l->h.m * l->w.m) / 16, copy_out = p->y.c == 1 ? 3.0 : 3.5;
    double block = fc_gemm_cost(l->kernels, l->tiles, l->outputs.vectors * l->kernels->lanes, l->packed ? l->terms : l->inputs);
    double gemm = products * blocks * block, calls = products * tiles / 9 * (double)l->outputs.vectors / 3;
    double sums = tiles * outputs * (double)l->y_phases * ((double)l->frequencies / FREQUENCIES + copy_out * pixels);
    double weights = weights_cost(p, l);
    double cost = 1.1 * gemm + 8 * calls + inputs_cost(l) + sums + weights * (plan->tile[SHARED] ? 1 : blocks);
    if (!fc_cpu_has_near_cache()) {
        cost *= l->packed || (plan->direction == FC_ADJOINT && p->x.c != 1) ? FAR : FAR_MOST;
        if (plan->tile[SHARED] && all_weights(p, l) > FC_FAR_BYTES)
            cost += FAR_WEIGHT * inputs * outputs * products * blocks;
    }
    return 2000 + groups * cost;
}

/* Rows of tiles whose V stays in the cache, but not so few that reading U costs more than the products; where the weights are
 * transformed anew for every block, as many as scratch allows.  Where U is more than a second-level cache holds and V of all tiles
 * is not, that is once: part after part of U is transformed and used while it is near (upsample's input gradient, 64-128@28 4x4s2
 * b8, 3.2 to 2.7 ms, two threads 2.2 to 1.8; of adjoints, whose M is the large array, up to 15 % slower). */
static layout choose_tile(fc_conv_plan *plan, const fc_conv *p)
{
    plan->tile[ROWS] = plan->tile[SHARED] = plan->tile[WHOLE] = 1;
    layout l = lay_out(plan, p);
    int64_t u_bytes = all_weights(p, &l), v_bytes = fc_max(1, l.v_bytes);
    int once = l.x_phases > 1 && u_bytes > FC_FAR_BYTES && fc_mul(l.rows, v_bytes) <= FC_FAR_BYTES;
    int shared = u_bytes <= SHARED_BYTES && !once;
    int64_t rows = fc_max(V_BYTES / v_bytes, fc_ceil_div(TILES, fc_max(1, l.w.tiles)));
    rows = fc_max(1, fc_min(l.rows, fc_min(shared ? rows : INT64_MAX, V_BYTES_MAX / v_bytes)));
    int64_t even = fc_ceil_div(l.rows, (once ? 1 : 2) * plan->threads);
    double groups = (double)p->groups;
    int dear = once && !fc_winograd_own_pays(plan, groups * weights_cost(p, &l), estimate(plan, p, &l));
    if (plan->threads > 1 && !dear && rows > even && fc_mul(even, l.w.tiles) >= TILES_MIN) /* as many blocks for each thread */
        rows = even;
    plan->tile[ROWS] = fc_weight_part(l.rows, rows);
    plan->tile[SHARED] = shared && plan->tile[ROWS] < l.rows;
    plan->tile[WHOLE] = p->groups * fc_ceil_div(l.rows, plan->tile[ROWS]) >= (once ? 1 : 2) * plan->threads;
    l = lay_out(plan, p);
    double all = estimate(plan, p, &l);
    if (plan->tile[WHOLE])
        fc_winograd_choose_own(plan, SHARED, groups * weights_cost(p, &l), all, all_weights(p, &l),
                               fc_add(fc_mul(plan->threads, worker_bytes(plan, &l)), l.offset_bytes));
    else if (fc_winograd_own_inputs_pay(plan, groups * inputs_cost(&l), all, l.v_bytes)) {
        plan->tile[WHOLE] = OWN;
        if (scratch_of(plan, &l) > fc_scratch_max(plan->threads))
            plan->tile[WHOLE] = 0;
    }
    plan->scratch = scratch_of(plan, &l);
    return l;
}

static const char *plan_strided(fc_conv_plan *plan, double *cost)
{
    const fc_window *w = &plan->problem.window;
    const char *reason = fc_winograd_precision_refusal(plan);
    if (reason)
        return reason;
    int64_t outputs = fc_mul(plan->problem.batch * plan->problem.out_channels, fc_outputs(w));
    if (fc_mul(outputs, fc_reduction(&plan->problem)) < MULTIPLICATIONS_MIN)
        return "the problem is too small to transform";
    if (w->stride[1] == 1 && w->stride[2] == 1)
        return "the stride is 1";
    if (w->kernel[0] != 1 || w->stride[0] != 1 || w->offset[0] || w->in[0] != w->out[0])
        return "the kernel or the stride is deep";
    for (int i = 1; i < FC_AXES; i++)
        if (w->stride[i] > FC_WINOGRAD_STRIDE_MAX || w->kernel[i] < w->stride[i] || (w->kernel[i] > 1 && w->dilation[i] > 1))
            return "a stride exceeds 4 or the kernel, or the kernel is dilated";
    const fc_conv problem = whole_of(plan), *p = &problem;
    plan->tile[EDGE] = fc_winograd_strided_edge(w, order_of(plan));
    if (!plan->tile[EDGE] || !p->channels)
        return "no transform serves so many taps";
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
    const int64_t *place;                 /* of the tiles' rows of V, in bytes */
    int64_t g, block;                     /* under way */
} job;

/* Rows tr ... tr + rows of tiles of a plane, which are tiles at ... of the block. */
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
    int64_t plane = at / l->h.tiles, depth = j->problem.window.out[0];
    *s = (segment){.n = plane / depth, .od = plane % depth, .tr = at % l->h.tiles, .at = *row * l->w.tiles};
    s->rows = fc_min(end - at, l->h.tiles - s->tr);
    *row += s->rows;
    return 1;
}

/* A phase's patches of a segment, from a panel. */
static void transform_patches(const layout *l, const segment *s, const fc_winograd_phase *h, const fc_winograd_phase *w,
                              const char *panel, char *v)
{
    int own = l->x_phases > 1, both = l->h.points > 1 && l->w.points > 1;
    const fc_winograd_strided_axis *along = l->w.points > 1 ? &l->w : &l->h;
    const fc_winograd_phase *line = l->w.points > 1 ? w : h;
    const int64_t points[4] = {both ? (own ? h->begin : l->h.begin) : 0, both ? (own ? h->end : l->h.end) : 1,
                               own ? line->begin : along->begin, own ? line->end : along->end};
    int64_t size = l->kernels->size, right = l->kernels->lanes, down = l->x.pitch * right, lone = l->w.tiles == 1;
    panel = fc_at(panel, h->skip * down + w->skip * right, size);
    down *= l->h.step_in;
    right *= l->w.step_in;
    for (int64_t r = 0; r < (lone ? 1 : s->rows); r++) /* a lone column's tiles are one line */
        l->winograd->input(fc_at(v, (s->at + r * l->w.tiles) * l->inputs, size), l->v_step, l->inputs,
                           fc_at(panel, r * l->h.m * down, size), down, l->w.points > 1 ? right : down,
                           lone ? l->h.m * down : l->w.m * right, lone ? s->rows : l->w.tiles, points);
}

/* A panel of all phases, element (phase, channel): phase position (ih, iw) is its first pixel. */
static void pack_phases(const job *j, const fc_panel_image *image, int64_t first, int64_t rows, int64_t ih, int64_t iw, char *panel)
{
    static const double zero = 0;
    const layout *l = &j->l;
    const fc_window *w = &j->problem.window;
    int64_t size = l->kernels->size, lanes = l->kernels->lanes, pitch = l->x.pitch, s = w->stride[2];
    char *temp = panel + l->panel_bytes;
    for (int64_t k = 0; k < lanes; k++) {
        int64_t f = (first + k) / image->channels, c = (first + k) % image->channels;
        for (int64_t r = 0; r < rows; r++) {
            int64_t at = w->stride[1] * (ih + r) + f / l->w.count;
            int inside = first + k < l->terms && at >= 0 && at < image->size[0];
            l->kernels->gather_row(fc_at(temp, (k * rows + r) * pitch, size), pitch,
                                   inside ? fc_at(image->x, c * image->c + at * image->stride[0], size) : NULL, image->stride[1],
                                   s * iw + f % l->w.count, s, image->size[1], &zero);
        }
    }
    l->kernels->transpose(panel, lanes, temp, rows * pitch, lanes, rows * pitch);
}

/* A vector of channels, or of all phases' where they are packed. */
static void transform_input(void *context, int64_t task, int worker)
{
    const job *j = context;
    const layout *l = &j->l;
    const fc_conv *p = &j->problem;
    int64_t size = l->kernels->size, lanes = l->kernels->lanes, c = task * lanes, at = 0, wide = l->x_phases > 1 ? l->w.count : 1;
    char *panel = j->scratch + worker * worker_bytes(j->plan, l);
    fc_panel_image image = {.channels = l->packed ? p->channels : fc_min(lanes, p->channels - c), .c = p->x.c,
                            .size = {p->window.in[1], p->window.in[2]}, .stride = {p->x.s[1], p->x.s[2]}};
    for (segment s; next_segment(j, &at, &s);) {
        int64_t rows = l->h.step_in * l->h.m * s.rows + l->h.extra, ih = l->h.step_in * l->h.m * s.tr + l->h.first;
        image.x = fc_at(j->x, s.n * p->x.n + (j->g * p->channels + (l->packed ? 0 : c)) * p->x.c + s.od * p->x.s[0], size);
        if (l->packed)
            pack_phases(j, &image, c, rows, ih, l->w.first, panel);
        else
            fc_panel_pack(&l->x, l->kernels, panel, panel + l->panel_bytes, &image, rows, ih, l->w.first);
        for (int64_t f = 0; f < l->x_phases; f++)
            transform_patches(l, &s, &l->h.phase[f / wide], &l->w.phase[f % wide], panel,
                              fc_at(j->inputs, f * l->frequencies * l->v_step + c, size));
    }
}

/* A channel's row of U of one phase, from all its taps: those of an adjoint in reverse order. */
static void transform_channel(const job *j, const fc_winograd_phase *h, const fc_winograd_phase *w, const char *taps, int64_t width,
                              char *u)
{
    const layout *l = &j->l;
    int64_t size = l->kernels->size, down = j->problem.window.kernel[2] * width, right = width;
    int64_t first = h->tap * down + w->tap * right, along = l->w.points > 1, both = along && l->h.points > 1;
    if (j->plan->direction != FC_FORWARD) {
        first += (h->taps - 1) * l->h.stride * down + (w->taps - 1) * l->w.stride * right;
        down = -down;
        right = -right;
    }
    down *= l->h.stride;
    right *= l->w.stride;
    const fc_winograd_phase *line = along ? w : h;
    const int64_t box[4] = {both ? h->at : 0, both ? h->at + h->taps : 1, line->at, line->at + line->taps};
    first -= (both || !along ? h->at * down : 0) + (along ? w->at * right : 0); /* where tap (0, 0) of the r x r would be */
    l->winograd->weights[j->plan->tile[EDGE]](u, l->u_step, fc_at(taps, first, size), down, along ? right : down, box,
                                              width / l->kernels->lanes);
}

/* The taps of channels c ... c + channels, for one block of output channels. */
static void gather_taps(const job *j, int64_t g, const fc_winograd_part *b, int64_t c, int64_t channels, char *taps)
{
    const fc_conv *p = &j->problem;
    fc_winograd_gather(p, fc_at(j->w, g * p->w.g + b->o * p->w.o + c * p->w.c, j->l.kernels->size), channels, b->outputs, b->width,
                       taps);
}

/* U of their phases first ... end in order; packed, one below the other, zeros where some have no term. */
static void transform_weights(const job *j, const char *taps, int64_t width, int64_t channels, int64_t first, int64_t end, char *u)
{
    const layout *l = &j->l;
    int64_t size = l->kernels->size, all = fc_taps(&j->problem.window);
    if (l->packed)
        memset(u, 0, (size_t)(l->frequencies * l->u_step * size));
    for (int64_t c = 0; c < channels; c++)
        for (int64_t i = first; i < end; i++) {
            int64_t f = l->order[i], at = (i - first) * l->frequencies * l->u_step + c * width;
            transform_channel(j, &l->h.phase[f / l->w.count], &l->w.phase[f % l->w.count], fc_at(taps, c * all * width, size),
                              width, fc_at(u, l->packed ? (f * channels + c) * width : at, size));
        }
}

/* TASK channels of a block of output channels. */
static void transform_shared(void *context, int64_t task, int worker)
{
    const job *j = context;
    const layout *l = &j->l;
    int64_t pieces = fc_ceil_div(j->problem.channels, TASK), c = task % pieces * TASK, block = task / pieces;
    int64_t channels = fc_min(TASK, j->problem.channels - c);
    fc_winograd_part b = fc_winograd_part_at(&l->outputs, block % l->outputs.parts);
    char *taps = j->scratch + worker * worker_bytes(j->plan, l);
    gather_taps(j, block / l->outputs.parts, &b, c, channels, taps);
    transform_weights(j, taps, b.width, channels, 0, l->phases,
                      fc_at(j->weights, c * b.width, l->kernels->size) + block * l->u_bytes);
}

/* Whether phase f has terms at a frequency; packed, whether any has. */
static int has_terms(const layout *l, int64_t f, int64_t frequency)
{
    const fc_winograd_phase *h = &l->h.phase[f / l->w.count], *w = &l->w.phase[f % l->w.count];
    int64_t i = frequency / l->w.points, k = frequency % l->w.points;
    if (l->packed)
        return i >= l->h.begin && i < l->h.end && k >= l->w.begin && k < l->w.end;
    return i >= h->begin && i < h->end && k >= w->begin && k < w->end;
}

/* The products of phases first ... end and channels c ... c + channels; U begins with the first of both.  What is first written
 * begins with zeros where there are no terms: forwards by the phase with the most taps, whose frequencies hold all others'. */
static void add_phases(const job *j, const fc_winograd_part *b, int64_t first, int64_t end, int64_t c, int64_t channels,
                       const char *u, char *m)
{
    const layout *l = &j->l;
    int64_t size = l->kernels->size, forward = l->y_phases == 1, next = l->frequencies;
    int64_t tiles = fc_min(l->tiles, (l->rows - j->block * j->plan->tile[ROWS]) * l->w.tiles);
    fc_winograd_product product = fc_winograd_product_plan(&l->outputs, b, j->offset, l->channels, j->place, tiles);
    for (int64_t k = 0; k < l->frequencies; k++)
        for (int64_t i = first; i < end; i++) {
            int64_t f = l->order[i], inside = has_terms(l, f, k), add = c || (forward && i);
            if (inside || !add)
                fc_winograd_product_run(&product, inside ? channels : 0,
                                        fc_at(j->inputs, ((l->x_phases > 1 ? f * next : 0) + k) * l->v_step + c, size),
                                        fc_at(u, ((i - first) * next + k) * l->u_step, size),
                                        fc_at(m, ((forward ? 0 : f * next) + k) * l->m_step, size), add != 0);
        }
}

/* By definition, where a tile is not finite. */
static void repair(const job *j, const segment *s, int64_t o)
{
    const fc_conv *p = &j->plan->problem;
    int64_t size = j->l.kernels->size, first = j->l.h.m * s->tr, end = first + j->l.h.m * s->rows, forward = j->l.y_phases == 1;
    for (int64_t f = 0; f < (forward ? 1 : fc_adjoint_phases(p)); f++) {
        int64_t at_w = 0, at_y = 0;
        fc_conv q = forward ? *p : fc_adjoint_problem(p, f, &at_w, &at_y);
        for (int64_t row = first; row < fc_min(end, q.window.out[1]); row++)
            fc_reference_row(&q, j->x, fc_at(j->w, at_w, size), j->bias, fc_at(j->y, at_y, size), o,
                             s->n * q.window.out[0] + s->od, row, 0, q.window.out[2]);
    }
}

/* One vector of output channels of a segment: the phases side by side as a panel.  Returns whether all are finite. */
static int transform_outputs(const job *j, const segment *s, char *panel, const char *m, int64_t width, const void *init)
{
    const layout *l = &j->l;
    int64_t size = l->kernels->size, lanes = l->kernels->lanes, pitch = l->w.step_out * l->w.m * l->w.tiles;
    int64_t down = l->h.step_out * pitch * lanes, right = l->w.step_out * lanes, lone = l->w.tiles == 1, finite = 1;
    double bounds[2];
    fc_output_bounds(&j->problem, bounds);
    for (int64_t f = 0; f < l->y_phases; f++)
        for (int64_t r = 0; r < (lone ? 1 : s->rows); r++) {
            char *to = fc_at(panel, r * l->h.m * down + (f / l->w.count * pitch + f % l->w.count) * lanes, size);
            const char *from = fc_at(m, f * l->frequencies * l->m_step + (s->at + r * l->w.tiles) * width, size);
            finite &= l->winograd->outputs[j->plan->tile[EDGE]](to, down, l->w.points > 1 ? right : down,
                                                                lone ? l->h.m * down : l->w.m * right, from, l->m_step, width,
                                                                init, bounds, lone ? s->rows : l->w.tiles) != 0;
        }
    return finite;
}

static void store_outputs(const job *j, const segment *s, int64_t o, int64_t channels, const char *m, int64_t width, char *panel)
{
    const fc_conv *p = &j->problem;
    const layout *l = &j->l;
    int64_t size = l->kernels->size, high = l->h.step_out * l->h.m, row = high * s->tr;
    fc_panel_image to = {.channels = channels, .c = p->y.c, .stride = {p->y.s[1], p->y.s[2]}};
    double init[FC_LANES_MAX] = {0};
    to.x = fc_at(j->y, s->n * p->y.n + o * p->y.c + s->od * p->y.s[0] + row * p->y.s[1], size);
    to.size[0] = fc_min(high * s->rows, p->window.out[1] - row);
    to.size[1] = p->window.out[2];
    if (j->bias)
        memcpy(init, fc_at(j->bias, o, size), (size_t)(channels * size));
    int finite = transform_outputs(j, s, panel, m, width, init);
    fc_panel_store(l->kernels, &to, panel, l->w.step_out * l->w.m * l->w.tiles, l->past, panel + l->panel_bytes);
    for (int64_t c = 0; c < channels && !finite; c++)
        repair(j, s, o + c);
}

static void multiply(void *context, int64_t task, int worker)
{
    const job *j = context;
    const layout *l = &j->l;
    const fc_conv *p = &j->problem;
    int64_t size = l->kernels->size, lanes = l->kernels->lanes, row = 0, sums = l->packed ? 1 : l->phases;
    char *panel = j->scratch + worker * worker_bytes(j->plan, l), *m = panel + l->panel_bytes + l->temp_bytes;
    char *taps = m + l->m_bytes, *own = taps + l->taps_bytes;
    fc_winograd_part b = fc_winograd_part_at(&l->outputs, task);
    for (int64_t c = 0, n; c < l->terms; c += n) { /* so with shared weights or without: sums in the same order */
        n = fc_min(l->channels, l->terms - c);
        int64_t together = j->weights ? sums : 1, channels = l->packed ? p->channels : n;
        if (!j->weights)
            gather_taps(j, j->g, &b, c, channels, taps);
        for (int64_t i = 0; i < sums; i += together) {
            const char *u = own;
            if (j->weights)
                u = fc_at(j->weights, c * b.width, size) + (j->g * l->outputs.parts + task) * l->u_bytes;
            else
                transform_weights(j, taps, b.width, channels, i, l->packed ? l->phases : i + 1, own);
            add_phases(j, &b, i, i + together, c, n, u, m);
        }
    }
    for (segment s; next_segment(j, &row, &s);)
        for (int64_t o = 0; o < b.outputs; o += lanes)
            store_outputs(j, &s, j->g * p->out_channels + b.o + o, fc_min(lanes, b.outputs - o), fc_at(m, o, size), b.width, panel);
    if (l->past)
        __sync_synchronize();
}

static int64_t weight_tasks(const job *j)
{
    return j->problem.groups * j->l.outputs.parts * fc_ceil_div(j->problem.channels, TASK);
}

static int64_t input_tasks(const job *j)
{
    return fc_ceil_div(j->l.terms, j->l.kernels->lanes);
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
        int64_t *made = fc_winograd_own(own.weights, all_weights(&own.problem, &own.l), worker);
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

static fc_status run_strided(const fc_conv_plan *plan, void *x, void *w, void *bias, void *y)
{
    int forward = plan->direction == FC_FORWARD;
    job j = {.plan = plan, .problem = whole_of(plan), .x = forward ? x : y, .w = w, .bias = bias, .y = forward ? y : x};
    const fc_conv *p = &j.problem;
    const layout *l = &j.l;
    j.l = lay_out(plan, p);
    char *scratch = fc_arena_take(plan->scratch);
    if (!scratch)
        return FC_NO_MEMORY;
    int64_t *offset = (int64_t *)(void *)scratch;
    fc_winograd_offsets(&l->outputs, l->channels, offset);
    int64_t *place = offset + 2 * l->channels;
    for (int64_t t = 0; t < l->tiles; t++)
        place[t] = t * l->inputs * l->kernels->size;
    j.offset = offset;
    j.place = place;
    j.inputs = scratch + l->offset_bytes;
    j.scratch = j.inputs + (plan->tile[WHOLE] ? 0 : l->v_bytes);
    if (plan->tile[SHARED]) {
        j.weights = j.scratch;
        j.scratch += fc_winograd_shared_bytes(plan, SHARED, all_weights(p, l));
    }
    if (plan->tile[SHARED] == OWN)
        fc_winograd_forget(plan, j.weights, all_weights(p, l));
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

const fc_driver fc_driver_winograd_strided = {"winograd_strided", plan_strided, run_strided, .bounded = 1};
const fc_driver fc_driver_winograd_strided_adjoint = {"winograd_strided", plan_strided, run_strided, .bounded = 0};
