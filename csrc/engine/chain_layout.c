/* Where a chain's bands lie, and what a worker keeps of them. */
#include "engine/chain.h"

/* ---- geometry -------------------------------------------------------------------------------- */

fc_span fc_chain_reads(const fc_window *w, int axis, fc_span out)
{
    int64_t first = out.first * w->stride[axis] - w->offset[axis];
    int64_t last = (out.last - 1) * w->stride[axis] + (w->kernel[axis] - 1) * w->dilation[axis] - w->offset[axis] + 1;
    fc_span in = {fc_chain_clamp(first, 0, w->in[axis]), fc_chain_clamp(last, 0, w->in[axis])};
    return in;
}

int64_t fc_chain_touches(const fc_window *w, int axis, int64_t in, int64_t most)
{
    int64_t reach = in + w->offset[axis] - (w->kernel[axis] - 1) * w->dilation[axis];
    return reach <= 0 ? 0 : fc_min(most, fc_ceil_div(reach, w->stride[axis]));
}

/* The first position that only outputs from `out` on have a part in; of rows a whole stride or a few before it, so that all bands of
 * a gradient begin with the same phase and take the same driver: separable s2 64-128@112, gradients, 717 to 675 us, two threads 400
 * to 340 (Zen 5).  Columns of u end where their tile's begin. */
static int64_t untouched(const fc_window *w, int axis, int64_t out)
{
    int64_t in = out * w->stride[axis] - w->offset[axis], phase = (in % w->stride[axis] + w->stride[axis]) % w->stride[axis];
    return fc_chain_clamp(axis == 1 ? in - phase : in, 0, w->in[axis]);
}

fc_span fc_chain_completes(const fc_window *w, int axis, fc_span out)
{
    fc_span own = {0, w->in[axis]};
    if (out.first > 0)
        own.first = untouched(w, axis, out.first);
    if (out.last < w->out[axis])
        own.last = untouched(w, axis, out.last);
    return own;
}

fc_span fc_chain_rows(const fc_chain_layout *l, int64_t band)
{
    int64_t rows = l->plan->rows;
    fc_span out = {band * rows, fc_min((band + 1) * rows, l->plan->problem.window.out[1])};
    return out;
}

fc_chain_region fc_chain_region_at(const fc_chain_layout *l, int64_t index)
{
    const fc_chain_plan *plan = l->plan;
    const fc_window *w = &plan->problem.window;
    int64_t tile = index % l->tiles, n = index / l->tiles * plan->images;
    fc_chain_region r = {.n = n, .images = fc_min(plan->images, plan->problem.batch - n)};
    r.out = (fc_span){tile * plan->columns, fc_min((tile + 1) * plan->columns, w->out[2])};
    r.in = fc_chain_reads(w, 2, r.out);
    r.own = fc_chain_completes(w, 2, r.out);
    r.reach = (fc_span){fc_chain_touches(w, 2, r.own.first, r.out.first), r.out.last};
    return r;
}

/* ---- layout ---------------------------------------------------------------------------------- */

static int64_t bytes_of(int64_t count, int64_t size)
{
    return fc_arena_round(fc_min(INT64_MAX / 16, fc_mul(count, size)));
}

/* Channels begin at cache lines, and not all in the same sets of the cache. */
static fc_chain_buffer buffer_of(const fc_chain_plan *plan, int64_t size, int64_t channels, int64_t rows, int64_t columns)
{
    int64_t line = FC_ALIGN / size, plane = fc_min(fc_mul(rows, columns), INT64_MAX / 16);
    fc_chain_buffer b = {.channel = fc_ceil_div(plan->merged ? fc_mul(plan->images, plane) : plane, line) * line, .image = plane};
    if (b.channel * size % 1024 == 0)
        b.channel += line;
    if (!plan->merged)
        b.image = fc_mul(channels, b.channel);
    b.bytes = bytes_of(fc_mul(fc_mul(plan->merged ? 1 : plan->images, channels), b.channel), size);
    return b;
}

static int64_t longest_rows(const fc_chain_layout *l, int backward)
{
    const fc_window *w = &l->plan->problem.window;
    int64_t most = 0;
    for (int64_t band = 0; band < l->bands; band++) {
        fc_span out = fc_chain_rows(l, band);
        fc_span in = backward ? (fc_span){fc_chain_touches(w, 1, fc_chain_completes(w, 1, out).first, out.first), out.last}
                              : fc_chain_reads(w, 1, out);
        most = fc_max(most, fc_length(in));
    }
    return most;
}

/* The columns that a tile has at most: of x for its outputs, of x that it completes, of y that have a part in those. */
static void widest(const fc_chain_layout *l, int64_t *in, int64_t *own, int64_t *reach)
{
    *in = *own = *reach = 0;
    for (int64_t tile = 0; tile < l->tiles; tile++) {
        fc_chain_region r = fc_chain_region_at(l, tile);
        *in = fc_max(*in, fc_length(r.in));
        *own = fc_max(*own, fc_length(r.own));
        *reach = fc_max(*reach, fc_length(r.reach));
    }
}

static int64_t most_completed(const fc_chain_layout *l)
{
    int64_t most = 0;
    for (int64_t band = 0; band < l->bands; band++)
        most = fc_max(most, fc_length(fc_chain_completes(&l->plan->problem.window, 1, fc_chain_rows(l, band))));
    return most;
}

static void lay_out_buffers(fc_chain_layout *l)
{
    const fc_chain_plan *plan = l->plan;
    const fc_chain *p = &plan->problem;
    int64_t size = l->kernels->size, middle = p->middle, rows = plan->rows, in, own, reach, wanted = plan->gradients;
    widest(l, &in, &own, &reach);
    if (p->mixed && (!wanted || wanted & (FC_CHAIN_FILTER | FC_CHAIN_LAST)))
        l->buffer[FC_CHAIN_U] = buffer_of(plan, size, middle, longest_rows(l, 0), in);
    if (p->split && (!wanted || wanted & (FC_CHAIN_FILTER | FC_CHAIN_LAST)))
        l->buffer[FC_CHAIN_V] = buffer_of(plan, size, middle, rows, in);
    if (wanted & ~FC_CHAIN_LAST && p->bounds.on) /* of all dt that they gate */
        l->buffer[FC_CHAIN_T] = buffer_of(plan, size, middle, longest_rows(l, 1), reach);
    else if (!wanted || wanted & FC_CHAIN_LAST)
        l->buffer[FC_CHAIN_T] = buffer_of(plan, size, middle, rows, plan->columns);
    if (wanted & ~FC_CHAIN_LAST) {
        l->buffer[FC_CHAIN_DT] = buffer_of(plan, size, middle, p->split ? rows : longest_rows(l, 1), reach);
        if (p->split)
            l->buffer[FC_CHAIN_DV] = buffer_of(plan, size, middle, longest_rows(l, 1), own);
    }
    if (p->mixed && wanted & (FC_CHAIN_INPUT | FC_CHAIN_FIRST))
        l->buffer[FC_CHAIN_DU] = buffer_of(plan, size, middle, most_completed(l), own);
    if (plan->merged && p->mixed)
        l->buffer[FC_CHAIN_FAR_X] = buffer_of(plan, size, p->channels, p->window.in[1], p->window.in[2]);
    if (plan->merged)
        l->buffer[FC_CHAIN_FAR_Y] = buffer_of(plan, size, p->out_channels, rows, plan->columns);
}

static void lay_out_sums(fc_chain_layout *l)
{
    const fc_chain *p = &l->plan->problem;
    int64_t size = l->kernels->size, wanted = l->plan->gradients, row = fc_chain_sum_row(l->kernels, p->middle), in, own, reach;
    if (wanted & FC_CHAIN_FIRST)
        l->sum_count[0] = fc_mul(p->channels, row);
    if (wanted & FC_CHAIN_FILTER)
        for (int i = 0; i < l->stages; i++)
            l->sum_count[1 + i] = fc_mul(p->middle, fc_taps(&l->stage[i]));
    if (wanted & FC_CHAIN_LAST)
        l->sum_count[3] = fc_mul(p->out_channels, row);
    for (int i = 0; i < 4; i++) { /* the first part of a mix's sum is the gradient itself where their rows are the same */
        l->sum_bytes[i] = bytes_of(l->sum_count[i], size);
        l->sum_parts[i] = l->plan->parts - ((i == 0 || i == 3) && row == p->middle);
    }
    l->part_bytes = fc_max(l->sum_bytes[1], l->sum_bytes[2]);
    widest(l, &in, &own, &reach);
    int64_t pixels = wanted & FC_CHAIN_LAST ? fc_mul(l->plan->rows, l->plan->columns) : 0;
    if (wanted & FC_CHAIN_FIRST)
        pixels = fc_max(pixels, fc_mul(most_completed(l), own));
    l->panel_bytes = bytes_of(fc_mul(row, fc_mul(pixels, l->plan->merged ? l->plan->images : 1)), size);
    l->tile_bytes = pixels ? fc_chain_sum_tile(l->kernels) * (l->plan->outer ? 1 : l->plan->threads) : 0;
}

/* Whether x and y are far more than a second-level cache holds, so that a product had better fetch what it is going to write:
 * separable 256@28 b8 7.35 to 7.0 ms; of the lone image, and 128@56, 1 % slower.  And what it is going to read: Zen 5, caches
 * flushed before each call and not, CP r64 256@56 1004 to 981 us, 969 to 948, its gradients 2623 to 2482, 2494 to 2467. */
static int is_far(const fc_chain *p, int64_t size)
{
    int64_t x = fc_mul(p->channels, fc_mul(p->window.in[1], p->window.in[2])), y = fc_mul(p->out_channels, fc_outputs(&p->window));
    return fc_mul(fc_mul(p->batch, fc_add(x, y)), size) > 2 * FC_FAR_BYTES;
}

/* A lone band's product takes the last mix as it is stored (Granite Rapids, gradients of separable 512@14: 1690 to 1620 us, two threads
 * 1125 to 1005: the transpose of 1 MiB takes 134 us, on one of them). */
fc_chain_layout fc_chain_lay_out(const fc_chain_plan *plan)
{
    const fc_chain *p = &plan->problem;
    fc_chain_layout l = {.plan = plan, .kernels = fc_dispatch(p->real), .stages = p->split ? 2 : 1};
    l.stage[0] = l.stage[1] = p->window;
    for (int i = 0; i < 2 && p->split; i++) { /* stage 0 leaves the columns as they are, stage 1 the rows */
        fc_window *w = &l.stage[i];
        int axis = 2 - i;
        w->in[axis] = w->out[axis] = i ? p->window.out[axis] : p->window.in[axis];
        w->kernel[axis] = w->stride[axis] = w->dilation[axis] = 1;
        w->offset[axis] = 0;
    }
    l.groups = fc_ceil_div(p->batch, plan->images);
    l.tiles = fc_ceil_div(p->window.out[2], plan->columns);
    l.bands = fc_ceil_div(p->window.out[1], plan->rows);
    l.far = is_far(p, l.kernels->size);
    lay_out_buffers(&l);
    lay_out_sums(&l);
    if (p->mixed && l.buffer[FC_CHAIN_U].bytes)
        l.first_bytes = bytes_of(fc_mul(p->channels, p->middle), l.kernels->size);
    if (plan->gradients & ~FC_CHAIN_LAST && l.groups * l.tiles * l.bands > 1)
        l.last_bytes = bytes_of(fc_mul(p->out_channels, p->middle), l.kernels->size);
    l.shared_bytes = fc_add(l.first_bytes, l.last_bytes);
    for (int i = 0; i < 4; i++)
        l.shared_bytes = fc_add(l.shared_bytes, fc_mul(l.sum_bytes[i], l.sum_parts[i]));
    l.worker_bytes = fc_add(l.part_bytes, fc_add(l.panel_bytes, l.tile_bytes));
    for (int i = 0; i < FC_CHAIN_BUFFERS; i++)
        l.worker_bytes = fc_add(l.worker_bytes, l.buffer[i].bytes);
    return l;
}
