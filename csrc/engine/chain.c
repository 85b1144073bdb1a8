/* Chains: mix, filter and join a band of rows at a time, so that the `middle` channels between them stay in cache.
 *
 *     u[n, r] = sum_i first[i, r] x[n, i];   t[n, r] = filter[r] * u[n, r];   y[n, o] = bias[o] + sum_r last[o, r] t[n, r]
 *
 * or u = x, where t may have bounds (an activation).
 *
 *     for each group of images, tile of columns, run of bands      a task
 *         for each band of output rows
 *             keep the rows of u that the band before left; mix the new ones
 *             filter them, once or column by row
 *             join them into y
 *
 * Every link is a convolution of the band, planned and run as any other: strides, dilations, layouts and precision are solved
 * where they are for all.  A separable chain filters x in place.
 *
 * Where there are fewer tasks than threads, bands follow each other and each link runs on all threads.
 *
 * Images of few pixels are merged: a mix is one product over the pixels of all images of a band, which are copied side by side
 * where they do not lie so (as channels-last ones do).
 *
 * Scratch: the first mix transposed; per worker u and t of a band, and what the hungriest link takes.  Bands, and the pieces that
 * are mixed, depend on the shape alone, so that bits do not depend on the number of threads (pieces cost one thread 3 % of CP r64
 * 256@56).
 *
 * Tried: the mixes transposed by each worker for itself (Zen 5, two threads, CP r64 256@56 478 to 473 us, gradients the same).
 * Zen 4, one thread, CP r16 256@56, 538 us, its gradients 1345 (multiply-adds alone 440, 1100): joins, whose sums are of 16 terms, in
 * tiles of 6x4, 8x3, 6x3 instead of 9x3 537, 538, 538 and 1340, 1365, 1380; mixes along the rows, or in blocks of 64 or 128 terms, whose
 * part of x the first-level cache holds, 537 and 1350 to 1375.  Zen 5, two threads, r16, where joins wait for the third-level cache to
 * write, 80 us of a half's 54: what a tile writes fetched one, three or four tiles before 3 to 9 % slower; joins swept by strips 107
 * us alone instead of 125, in the chain the same.
 */
#include "engine/chain.h"

#include <string.h>

/* A band of the middle channels.  CP 256-256@56 at rank 64, 64 KiB to 800 KiB: 1820, 1643, 1603, 1602, 1649, 1628, 1658 us;
 * separable 128@56: 1111, 1099, 879, 917, 848, 948, 874.  Products want wide bands, the gradients' the most: from 256 to 448 KiB
 * separable 512@14 860 to 750 us, its gradients 2160 to 1860, those of 256@28 b8 21.4 to 18.6 ms; a mix before the filter
 * takes two buffers more and gains nothing.  Lower bands that the join reads where they lie (176, 120 KiB): separable 128@56 0.91,
 * 0.89 of the speed, 512@14 0.86, 0.77.  Fetching the next band's x while a band is joined, a few lines before each product: CP
 * 256@56 at rank 64 0.96, separable 256@28 b8 0.93, 128@56 0.99.  Gradients in bands whose x and dy stay in the second-level cache,
 * for each is read twice: CP 256@56 at ranks 16 and 64 0.95 to 1.02, separable s2 64-128@112 0.98. */
enum { BAND_BYTES = 448 << 10, MIXED_BAND_BYTES = 256 << 10, ROWS_MIN = 4, COLUMNS_MIN = 128 };
/* An image of a batch that is not cut, by vectors of 32 bytes.  Zen 3, in spite of its second-level cache of half a MiB, one thread and
 * two: separable 256@28 b8 11.1, 5.6 to 10.7, 5.4 ms, its gradients 25.2, 17.0 to 23.7, 16.0; in twice as many bytes 128@56 b4 1.0, 0.97
 * of the speed; all bands in 820 KiB, lone images 128@56 1.0, their gradients 0.95, in 64 to 200 KiB 0.83 to 1.0. */
enum { WHOLE_BYTES = 2 * BAND_BYTES };
/* Half of a lone image whose gradients are worth two runs has more pixels: see halve. */
enum { HALF_PIXELS_MIN = 128 };
/* What a merged band may take of x or y. */
enum { FAR_BYTES = 1 << 20 };
enum { PARTS_WANTED = 8, PART_BYTES_MAX = 8 << 20, SERIAL_MULTIPLICATIONS = 400000 };

/* ---- links ----------------------------------------------------------------------------------- */

/* Made once for each shape of band, in the rehearsal: of CP r64 256@56, 7 us of a call's 960.  A band's rows of a far image are the
 * pixel driver's, which alone fetches them ahead: Zen 3, one thread, by the channel driver and so, CP r16 256@56 830, 790 us, its
 * gradients 2400, 2050, r64 3240, 2870 and 9050, 8200; beside a busy core r16 1750, 1170.  (By vectors of whole lines it is the cheaper
 * by estimate.)  Images from 3 MB on taken for far: CP r16 k9 128@4096 at two threads 405 to 440, separable s2 64-128@112 505 to 520. */
static const fc_conv_plan *plan_of(fc_chain_walk *walk, int link, const fc_conv *problem, fc_direction direction)
{
    const fc_chain_plan *chain = walk->l->plan;
    fc_conv_plan *plan = &walk->link[link];
    for (int i = 0; i < chain->shapes[link]; i++)
        if (!memcmp(&chain->link[link][i].problem, problem, sizeof *problem))
            return &chain->link[link][i];
    if (!memcmp(&plan->problem, problem, sizeof *problem))
        return plan;
    if (walk->dry && chain->shapes[link] < FC_CHAIN_SHAPES)
        plan = &walk->dry->link[link][walk->dry->shapes[link]++];
    int mix = link == FC_LINK_MIX || link == FC_LINK_D_T;
    int fetched = walk->l->far && mix && problem->x.s[2] == 1 && fc_has_short_vectors(walk->l->kernels);
    walk->status = fc_conv_plan_make(plan, problem, direction, chain->precision, fetched ? "pixels" : NULL);
    if (fetched && walk->status)
        walk->status = fc_conv_plan_make(plan, problem, direction, chain->precision, NULL);
    if (walk->dry && !walk->status)
        walk->lent = fc_max(walk->lent, direction == FC_ADJOINT ? fc_adjoint_scratch(plan) : plan->scratch);
    plan->x_far = walk->l->far && mix;
    plan->y_far = walk->l->far && (link == FC_LINK_JOIN || link == FC_LINK_D_X);
    return plan;
}

void fc_chain_link(fc_chain_walk *walk, int link, const fc_conv *problem, fc_direction direction, const void *x,
                   const void *w, const void *bias, const void *y)
{
    if (walk->status)
        return;
    const fc_conv_plan *plan = plan_of(walk, link, problem, direction);
    walk->multiplications = fc_add(walk->multiplications, plan->multiplications);
    walk->cost += 1.2 * plan->cost; /* links come anew with each band: 64-64@56 at rank 128 1.47 ms, the dense order 1.34 */
    if (!walk->dry && !walk->status)
        walk->status = fc_conv_execute(plan, fc_at(x, 0, 1), fc_at(w, 0, 1), fc_at(bias, 0, 1), fc_at(y, 0, 1));
}

fc_chain_view fc_chain_image(const fc_chain_walk *walk, const void *array, const fc_array_strides *stride, int64_t n,
                             int64_t row, int64_t column)
{
    fc_chain_view v = {NULL, *stride};
    if (!walk->dry)
        v.at = fc_at(array, n * stride->n + row * stride->s[1] + column * stride->s[2], walk->l->kernels->size);
    return v;
}

fc_chain_view fc_chain_part(const fc_chain_walk *walk, int buffer, int64_t width, int64_t row, int64_t column)
{
    const fc_chain_buffer *b = &walk->l->buffer[buffer];
    fc_chain_view v = {NULL, {.n = b->image, .c = b->channel, .s = {0, width, 1}}};
    if (!walk->dry)
        v.at = fc_at(walk->buffer[buffer], row * width + column, walk->l->kernels->size);
    return v;
}

static void set_axis(fc_window *w, int axis, const fc_window *whole, fc_span in, fc_span out)
{
    w->in[axis] = fc_length(in);
    w->out[axis] = fc_length(out);
    w->kernel[axis] = whole->kernel[axis];
    w->stride[axis] = whole->stride[axis];
    w->dilation[axis] = whole->dilation[axis];
    w->offset[axis] = whole->offset[axis] + in.first - out.first * whole->stride[axis];
}

fc_conv fc_chain_pointwise(const fc_chain_walk *walk, const fc_chain_region *r, int64_t channels, int64_t out_channels,
                           int64_t rows, int64_t columns, const fc_chain_view *x, const fc_chain_view *y)
{
    int64_t batch = r->images;
    if (walk->l->plan->merged) {
        columns *= rows * batch;
        rows = batch = 1;
    }
    return (fc_conv){.real = walk->l->plan->problem.real, .batch = batch, .groups = 1, .channels = channels,
                     .out_channels = out_channels, .x = x->stride, .y = y->stride,
                     .window = {.in = {1, rows, columns}, .out = {1, rows, columns}, .kernel = {1, 1, 1},
                                .stride = {1, 1, 1}, .dilation = {1, 1, 1}},
                     .w = {.g = channels * out_channels, .o = channels, .c = 1, .k = {1, 1, 1}}};
}

fc_conv fc_chain_filter(const fc_chain_walk *walk, const fc_chain_region *r, int stage, fc_span in_rows, fc_span out_rows,
                        fc_span in_columns, fc_span out_columns, const fc_chain_view *x, const fc_chain_view *y)
{
    const fc_chain *p = &walk->l->plan->problem;
    const fc_window *whole = &walk->l->stage[stage];
    int64_t groups = p->mixed ? p->middle : p->channels, each = p->mixed ? 1 : p->middle / p->channels;
    int64_t taps = fc_taps(whole);
    fc_conv q = {.real = p->real, .batch = r->images, .groups = groups, .channels = 1, .out_channels = each,
                 .window = {.in = {1}, .out = {1}, .kernel = {1}, .stride = {1}, .dilation = {1}},
                 .x = x->stride, .y = y->stride,
                 .w = {.g = each * taps, .o = taps, .c = taps, .k = {taps, whole->kernel[2], 1}}};
    set_axis(&q.window, 1, whole, in_rows, out_rows);
    set_axis(&q.window, 2, whole, in_columns, out_columns);
    return q;
}

void fc_chain_carry(const fc_chain_walk *walk, int buffer, int64_t images, int64_t width, int64_t begin, int64_t from,
                    int64_t to)
{
    int64_t size = walk->l->kernels->size, channel = walk->l->buffer[buffer].channel * size;
    if (walk->dry || from >= to || from == begin)
        return;
    for (int64_t i = 0; i < images * walk->l->plan->problem.middle; i++) { /* merged images are whole and keep no rows */
        char *rows = walk->buffer[buffer] + i * channel;
        memmove(rows, fc_at(rows, (from - begin) * width, size), (size_t)((to - from) * width * size));
    }
}

/* ---- the forward pass ------------------------------------------------------------------------ */

/* Whether it is worth more than one thread. */
static int is_large(const fc_chain *p)
{
    const fc_window *w = &p->window;
    int64_t in = p->mixed ? fc_mul(p->channels, fc_mul(w->in[1], w->in[2])) : 0;
    int64_t out = fc_mul(fc_add(p->out_channels, fc_taps(w)), fc_outputs(w));
    return fc_mul(fc_mul(p->batch, p->middle), fc_add(in, out)) >= SERIAL_MULTIPLICATIONS;
}

/* The first row after `at`, `last` at most, where what some band reads begins or ends. */
static int64_t cut_after(const fc_chain_layout *l, int64_t band, int64_t at, int64_t last)
{
    const fc_window *w = &l->plan->problem.window;
    for (int64_t b = band; b < l->bands; b++) {
        int64_t first = fc_chain_reads(w, 1, fc_chain_rows(l, b)).first;
        if (first <= at)
            continue;
        last = fc_min(last, first);
        break;
    }
    for (int64_t b = band - 1; b >= 0; b--) {
        int64_t end = fc_chain_reads(w, 1, fc_chain_rows(l, b)).last;
        if (end <= at)
            break;
        last = fc_min(last, end);
    }
    return last;
}

static void mix_rows(fc_chain_walk *walk, const fc_chain_region *r, fc_span rows, int64_t to)
{
    const fc_chain *p = &walk->l->plan->problem;
    int64_t width = fc_length(r->in), height = fc_length(rows);
    fc_chain_view x = fc_chain_image(walk, walk->arrays->x, &p->x, r->n, rows.first, r->in.first);
    fc_chain_view u = fc_chain_part(walk, FC_CHAIN_U, width, to, 0);
    x = fc_chain_far(walk, r, FC_CHAIN_FAR_X, &x, p->channels, height, width, 1);
    fc_conv mix = fc_chain_pointwise(walk, r, p->channels, p->middle, height, width, &x, &u);
    fc_chain_link(walk, FC_LINK_MIX, &mix, FC_FORWARD, x.at, walk->first, NULL, u.at);
}

/* Runs of bands begin where the number of threads says, and their first band mixes again what the one before it had mixed: in pieces
 * that every run has in common, for the order of a sum's terms depends on where the last vector of its product's pixels ends. */
void fc_chain_mix(fc_chain_walk *walk, const fc_chain_region *r, fc_span in, int64_t band)
{
    const fc_chain_layout *l = walk->l;
    int64_t width = fc_length(r->in), kept = fc_max(in.first, walk->u.last);
    int cut = !l->plan->gradients && is_large(&l->plan->problem);
    fc_chain_carry(walk, FC_CHAIN_U, r->images, width, walk->u.first, in.first, walk->u.last);
    for (int64_t last; kept < in.last; kept = last) {
        last = cut ? cut_after(l, band, kept, in.last) : in.last;
        mix_rows(walk, r, (fc_span){kept, last}, kept - in.first);
    }
    walk->u = in;
}

void fc_chain_filters(fc_chain_walk *walk, const fc_chain_region *r, fc_span in, fc_span out, fc_span columns, int stages)
{
    const fc_chain *p = &walk->l->plan->problem;
    int64_t width = fc_length(r->in);
    fc_span from = r->in;
    if (p->split)
        columns = r->in;
    fc_chain_view x = fc_chain_part(walk, FC_CHAIN_U, width, 0, 0);
    fc_chain_view y = fc_chain_part(walk, p->split ? FC_CHAIN_V : FC_CHAIN_T, fc_length(columns), 0, 0);
    if (!p->mixed) { /* x in place, where rows above and below are at hand too */
        x = fc_chain_image(walk, walk->arrays->x, &p->x, r->n, 0, 0);
        in = (fc_span){0, p->window.in[1]};
        from = (fc_span){0, p->window.in[2]};
    }
    fc_conv filter = fc_chain_filter(walk, r, 0, in, out, from, columns, &x, &y);
    filter.bounds = p->bounds;
    fc_chain_link(walk, FC_LINK_FILTER, &filter, FC_FORWARD, x.at, walk->arrays->filter[0], NULL, y.at);
    if (stages < 2)
        return;
    fc_chain_view t = fc_chain_part(walk, FC_CHAIN_T, fc_length(r->out), 0, 0);
    filter = fc_chain_filter(walk, r, 1, out, out, r->in, r->out, &y, &t);
    fc_chain_link(walk, FC_LINK_ROW_FILTER, &filter, FC_FORWARD, y.at, walk->arrays->filter[1], NULL, t.at);
}

static void forward(fc_chain_walk *walk, const fc_chain_region *r, int64_t first, int64_t last)
{
    const fc_chain_layout *l = walk->l;
    const fc_chain *p = &l->plan->problem;
    walk->u = (fc_span){0};
    for (int64_t band = first; band < last; band++) {
        fc_span out = fc_chain_rows(l, band), in = fc_chain_reads(&p->window, 1, out);
        if (p->mixed)
            fc_chain_mix(walk, r, in, band);
        fc_chain_filters(walk, r, in, out, r->out, l->stages);
        fc_chain_view t = fc_chain_part(walk, FC_CHAIN_T, fc_length(r->out), 0, 0);
        fc_chain_view y = fc_chain_image(walk, walk->arrays->y, &p->y, r->n, out.first, r->out.first);
        int64_t rows = fc_length(out), width = fc_length(r->out);
        fc_chain_view far = fc_chain_far(walk, r, FC_CHAIN_FAR_Y, &y, p->out_channels, rows, width, 0);
        fc_conv join = fc_chain_pointwise(walk, r, p->middle, p->out_channels, rows, width, &t, &far);
        fc_chain_link(walk, FC_LINK_JOIN, &join, FC_FORWARD, t.at, walk->arrays->last, walk->arrays->bias, far.at);
        fc_chain_store(walk, r, &y, &far, p->out_channels, rows, width);
    }
}

/* ---- plan and execute ------------------------------------------------------------------------ */

/* As many parts of a balanced whole as pieces of at most `most` make. */
static int64_t balanced(int64_t whole, int64_t most)
{
    most = fc_chain_clamp(most, 1, fc_max(whole, 1));
    return fc_max(1, fc_ceil_div(whole, fc_max(1, fc_ceil_div(whole, most))));
}

/* A few rows more where their pixels fill whole vectors then: 28 x 28 in bands of 16 rows, not 14, whose last half of a vector
 * costs the join of 256 channels 17 of 337 us. */
static int64_t whole_vectors(const fc_chain_plan *plan, int64_t rows, int64_t lanes)
{
    int64_t height = plan->problem.window.out[1];
    for (int64_t more = rows; more <= rows + rows / 7 && more < height; more++)
        if (fc_mul(more, plan->columns) % lanes == 0 && height % more * plan->columns % lanes == 0)
            return more;
    return rows;
}

/* Where the last vector of each image would waste an eighth of the lanes: separable 512@7 b8 1854 to 1695 us, its gradients 4.40 to
 * 4.09 ms; where it wastes none, 4x4, copying takes as long as it saves (62.8 instead of 60.7 us: r32 128@4 b16). */
static int wants_merging(int64_t pixels, int64_t lanes)
{
    return pixels > 0 && 8 * (fc_ceil_div(pixels, lanes) * lanes - pixels) > pixels;
}

/* Two bands of what would be one, for two threads, unless halves fill vectors badly, as those of 14 x 14 would (separable 512@14,
 * two threads: 239 instead of 230 us).  Links that change threads wait for each other's caches, the longer the further the cores are
 * apart: two threads, alternately on such cores and on near ones, CP r16 256@56 208, 165 to 169, 156 us, its gradients 561, 413
 * to 491, 411; one thread 270 to 275, 729 to 750.  Nor for gradients of few pixels in a half, as the sums of both are added and the
 * last mix is transposed for few products: Zen 3, one thread and two, separable 512@14 3250, 2260 to 2950, 1570 us, 256@16 1400, 880 to
 * 1120, 760; 256@20, 200 pixels in a half, 1550, 1070 and 1420, 1130. */
static void halve(fc_chain_plan *plan, const fc_kernels *kernels)
{
    const fc_window *w = &plan->problem.window;
    int64_t rows = fc_ceil_div(w->out[1], 2), columns = fc_ceil_div(fc_ceil_div(w->out[2], 2), kernels->lanes) * kernels->lanes;
    int64_t half = fc_mul(rows, w->out[2]), least = plan->gradients ? HALF_PIXELS_MIN : 0;
    if (w->out[1] >= 2 * ROWS_MIN && half > least && !wants_merging(half, kernels->lanes))
        plan->rows = rows;
    else if (w->out[1] == 1 && columns >= COLUMNS_MIN)
        plan->columns = columns;
}

static void choose_band(fc_chain_plan *plan, const fc_kernels *kernels)
{
    const fc_chain *p = &plan->problem;
    const fc_window *w = &p->window;
    int64_t size = kernels->size, most = p->mixed ? MIXED_BAND_BYTES : BAND_BYTES;
    int64_t down = p->mixed ? w->stride[1] : 1, across = p->mixed ? w->stride[2] : 1;
    int64_t column = fc_max(1, fc_mul(fc_mul(p->middle, size), fc_mul(down, across))), row = fc_mul(column, w->out[2]);
    int64_t image = fc_mul(row, w->out[1]);
    if (p->batch > 1 && !p->mixed && image <= WHOLE_BYTES && fc_has_short_vectors(kernels))
        most = fc_max(most, image);
    plan->columns = w->out[2];
    if (most / row < fc_min(ROWS_MIN, w->out[1]))
        plan->columns = balanced(w->out[2], fc_max(COLUMNS_MIN, most / fc_mul(column, fc_min(ROWS_MIN, w->out[1]))));
    plan->rows = whole_vectors(plan, balanced(w->out[1], most / fc_mul(column, fc_max(plan->columns, 1))), kernels->lanes);
    plan->images = 1;
    if (plan->rows == w->out[1] && plan->columns == w->out[2])
        plan->images = balanced(p->batch, most / fc_max(1, image));
    int64_t pixels = fc_max(fc_outputs(w), p->mixed ? fc_mul(w->in[1], w->in[2]) : 1);
    int64_t far = fc_mul(fc_mul(fc_max(p->out_channels, p->mixed ? p->channels : 1), pixels), size);
    int64_t images = fc_min(plan->images, FAR_BYTES / fc_max(1, far));
    plan->merged = images > 1 && wants_merging(pixels, kernels->lanes);
    if (plan->merged)
        plan->images = balanced(p->batch, images);
    if (is_large(p) && p->batch == 1 && plan->rows == w->out[1] && plan->columns == w->out[2] && !(p->split && plan->gradients))
        halve(plan, kernels);
    plan->columns = fc_max(plan->columns, 1);
    plan->rows = fc_max(plan->rows, 1);
}

/* Rows of u that the runs of bands have in common. */
static int64_t mixed_twice(const fc_chain_plan *plan)
{
    const fc_window *w = &plan->problem.window;
    return plan->problem.mixed ? (plan->parts - 1) * fc_max(0, fc_add(fc_mul(w->kernel[1] - 1, w->dilation[1]), 1) - w->stride[1]) : 0;
}

/* Parts of the sums: by the shape, whatever the threads.  Runs of the forward pass: as many as threads want; a band each where none
 * leaves rows for the next: two threads, separable s2 64-128@112 359 to 258 us, 256@28 566 to 550, 128@56 408 to 380. */
static void choose_parts(fc_chain_plan *plan)
{
    plan->parts = 1;
    fc_chain_layout l = fc_chain_lay_out(plan);
    int64_t regions = fc_mul(l.groups, l.tiles), tasks;
    int64_t sums = l.sum_bytes[0] + l.sum_bytes[1] + l.sum_bytes[2] + l.sum_bytes[3];
    if (plan->gradients) {
        int64_t wanted = regions == 1 && l.bands > 1 && !plan->problem.split ? 2 : fc_chain_clamp(regions, 1, PARTS_WANTED);
        plan->parts = tasks = fc_chain_clamp(PART_BYTES_MAX / fc_max(sums, 1), 1, wanted);
    } else {
        if (plan->threads > 1 && regions < 4 * plan->threads)
            plan->parts = fc_max(1, fc_min(l.bands, fc_ceil_div(plan->threads, fc_max(regions, 1))));
        if (l.bands < 2 * plan->parts && (8 * mixed_twice(plan) > plan->problem.window.in[1] || l.bands % plan->parts))
            plan->parts = 1; /* else much is mixed twice, or runs are unequal */
        tasks = fc_mul(regions, plan->parts);
    }
    plan->outer = plan->threads > 1 && tasks > 0 && (tasks % plan->threads == 0 || tasks >= 4 * plan->threads);
    if (!plan->outer && !plan->gradients)
        plan->parts = 1;
}

/* Runs that the gradients' bands of a region are cut into. */
static int64_t runs_of(const fc_chain_layout *l)
{
    return fc_max(1, l->plan->parts / fc_max(1, l->groups * l->tiles));
}

/* Every link of the first and the last region, to know what they cost and take. */
static fc_status rehearse(fc_chain_plan *plan)
{
    static const fc_chain_arrays none;
    fc_chain_layout l = fc_chain_lay_out(plan);
    fc_threads_limit(plan->outer ? 1 : plan->threads);
    fc_status status = FC_OK;
    for (int64_t tile = 0; tile < l.tiles && l.groups && !status; tile++)
        for (int64_t group = 0; group < l.groups && !status; group += fc_max(1, l.groups - 1)) {
            fc_chain_walk walk = {.l = &l, .dry = plan, .arrays = &none, .gradients = &none};
            fc_chain_region r = fc_chain_region_at(&l, group * l.tiles + tile);
            int64_t times = group || l.groups == 1 ? 1 : l.groups - 1;
            int64_t runs = runs_of(&l);
            for (int64_t run = 0; run < runs && plan->gradients; run++)
                fc_chain_backward(&walk, &r, l.bands * run / runs, l.bands * (run + 1) / runs);
            if (!plan->gradients)
                forward(&walk, &r, 0, l.bands);
            status = walk.status;
            plan->lent = fc_max(plan->lent, fc_arena_round(walk.lent));
            plan->multiplications = fc_add(plan->multiplications, fc_mul(times, walk.multiplications));
            plan->cost += (double)times * walk.cost;
        }
    fc_threads_limit(0);
    int64_t workers = plan->outer ? plan->threads : 1;
    plan->scratch = fc_add(l.shared_bytes, fc_mul(workers, fc_add(l.worker_bytes, plan->lent)));
    return status;
}

static int valid(const fc_chain *p)
{
    if (p->mixed && p->bounds.on) /* of u there is too little at hand to gate what bands before left of dt */
        return 0;
    const fc_window *w = &p->window;
    int64_t bound = INT64_MAX / 8, images = fc_mul(p->batch, fc_max(p->middle, fc_max(p->channels, p->out_channels)));
    for (int i = 1; i < FC_AXES; i++)
        if (w->in[i] > bound || w->offset[i] > bound || fc_mul(w->out[i], w->stride[i]) > bound ||
            fc_mul(w->kernel[i], w->dilation[i]) > bound)
            return 0;
    return fc_mul(images, fc_mul(w->in[1], w->in[2])) < bound && fc_mul(images, fc_mul(w->out[1], w->out[2])) < bound;
}

fc_status fc_chain_plan_make(fc_chain_plan *plan, const fc_chain *p, int gradients, fc_precision precision)
{
    *plan = (fc_chain_plan){.problem = *p, .precision = precision, .gradients = gradients, .threads = 1};
    if (!valid(p))
        return FC_INVALID;
    if (is_large(p))
        plan->threads = fc_threads_get();
    choose_band(plan, fc_dispatch(p->real));
    choose_parts(plan);
    return rehearse(plan);
}

typedef struct job {
    const fc_chain_layout *l;
    const fc_chain_arrays *arrays, *gradients;
    char *shared, *scratch;
    fc_status *status; /* of each worker */
} job;

static fc_chain_walk start(const job *j, char *scratch, int64_t part)
{
    const fc_chain_layout *l = j->l;
    fc_chain_walk walk = {.l = l, .arrays = j->arrays, .gradients = j->gradients, .first = j->shared,
                          .last = j->shared + l->first_bytes};
    for (int i = 0; i < FC_CHAIN_BUFFERS; i++) {
        walk.buffer[i] = scratch;
        scratch += l->buffer[i].bytes;
    }
    walk.part = scratch;
    walk.panel = walk.part + l->part_bytes;
    walk.tile = walk.panel + l->panel_bytes;
    if (l->plan->problem.middle % l->kernels->lanes) /* what is left of the last vector is multiplied, and may be denormal */
        memset(walk.panel, 0, (size_t)l->panel_bytes);
    for (int i = 0; i < 4 && l->plan->gradients; i++)
        walk.sum[i] = fc_chain_sum(l, j->shared + l->first_bytes + l->last_bytes, j->gradients, i, part);
    return walk;
}

static void run_task(void *context, int64_t task, int worker)
{
    const job *j = context;
    const fc_chain_layout *l = j->l;
    const fc_chain_plan *plan = l->plan;
    char *scratch = j->scratch + worker * (l->worker_bytes + plan->lent);
    int64_t regions = l->groups * l->tiles, parts = plan->parts;
    fc_arena_lend(scratch + l->worker_bytes, plan->lent);
    fc_threads_limit(plan->outer ? 1 : plan->threads);
    fc_chain_walk walk = start(j, scratch, plan->gradients ? task : 0);
    if (plan->gradients) {
        int64_t runs = runs_of(l), pieces = regions * runs;
        for (int64_t i = pieces * task / parts; i < pieces * (task + 1) / parts; i++) {
            fc_chain_region r = fc_chain_region_at(l, i / runs);
            fc_chain_backward(&walk, &r, l->bands * (i % runs) / runs, l->bands * (i % runs + 1) / runs);
        }
        for (int i = 0; i < 4; i++)
            if (!walk.begun[i] && l->sum_count[i])
                memset(walk.sum[i], 0, (size_t)(l->sum_count[i] * l->kernels->size));
    } else {
        fc_chain_region r = fc_chain_region_at(l, task / parts);
        forward(&walk, &r, l->bands * (task % parts) / parts, l->bands * (task % parts + 1) / parts);
    }
    if (walk.status)
        j->status[worker] = walk.status;
    fc_arena_lend(NULL, 0);
    fc_threads_limit(0);
}

fc_status fc_chain_execute(const fc_chain_plan *plan, const fc_chain_arrays *arrays, const fc_chain_arrays *gradients)
{
    const fc_chain *p = &plan->problem;
    fc_chain_layout l = fc_chain_lay_out(plan);
    fc_status status[FC_THREADS_MAX] = {FC_OK}, worst = FC_OK;
    char *scratch = fc_arena_take(plan->scratch);
    if (!scratch)
        return FC_NO_MEMORY;
    job j = {&l, arrays, gradients, scratch, scratch + l.shared_bytes, status};
    if (l.first_bytes)
        l.kernels->transpose(scratch, p->channels, arrays->first, p->middle, p->channels, p->middle);
    if (l.last_bytes)
        l.kernels->transpose(scratch + l.first_bytes, p->out_channels, arrays->last, p->middle, p->out_channels, p->middle);
    int workers = plan->outer ? plan->threads : 1;
    fc_parallel(workers, plan->gradients ? plan->parts : l.groups * l.tiles * plan->parts, run_task, &j);
    if (plan->gradients)
        fc_chain_store_sums(&l, scratch + l.first_bytes + l.last_bytes, gradients);
    fc_arena_give();
    for (int i = 0; i < workers; i++)
        worst = status[i] ? status[i] : worst;
    return worst;
}
