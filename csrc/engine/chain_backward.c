/* The gradients of a chain, band by band; docs/lowrank.md derives them.
 *
 *     dt[r] = sum_o last[o, r] dy[o]         dlast[o, r] = sum dy[o] t[r]
 *     and, where t has bounds, dt = 0 where it met one
 *     du[r] = filter[r]' * dt[r]             dfilter[r, k] = sum dt[r] u[r, tap k]
 *     dx[i] = sum_r first[i, r] du[r]        dfirst[i, r] = sum du[r] x[i]
 *
 *     for each part of the sums: for each group of images, tile of columns, run of bands        a task
 *         for each band of output rows
 *             u and t again (the rows of u that the band before left are kept)
 *             dlast += dy t;  dt, whose last rows the band before left too;  dfilter += dt u
 *             rows of du that no later band adds to;  dfirst += du x;  dx = first du
 *     add the parts in order
 *
 * Nothing is kept from the forward pass: u and t of a band cost less than reading them from memory.  A row of dx is written by
 * the band that completes it, from rows of dt that were kept, so that nothing is added up in dx.  The bands of a lone image are two
 * runs, for links that change threads wait for each other's caches: at two threads separable 128@56 takes 1.03 ms instead of 1.89,
 * as long as one thread; CP 256@56 at rank 64 2.22 instead of 4.28, at rank 16 0.80.
 */
#include "engine/chain.h"

#include <math.h>
#include <string.h>

/* Adds what a band contributes to sum i: the link writes the sum itself where it is the first. */
static void add_link(fc_chain_walk *walk, int i, int link, const fc_conv *problem, const char *x, const char *y)
{
    const fc_chain_layout *l = walk->l;
    char *sum = walk->begun[i] ? walk->part : walk->sum[i];
    fc_chain_link(walk, link, problem, FC_WEIGHT, x, sum, NULL, y);
    if (walk->begun[i] && !walk->dry)
        l->kernels->scatter_row(walk->sum[i], 1, walk->part, l->sum_count[i], 1);
    walk->begun[i] = 1;
}

static fc_span both(fc_span a, fc_span b)
{
    fc_span s = {fc_max(a.first, b.first), fc_min(a.last, b.last)};
    s.last = fc_max(s.first, s.last);
    return s;
}

/* Bounds: dt, in rows `out` from dt on, is zero where t met one of them.  t is there for the rows and columns of the outputs; more
 * are wanted where bands begin, and where tiles overlap. */
static void gate(fc_chain_walk *walk, const fc_chain_region *r, fc_span in, fc_span out, const fc_chain_view *dt, int at_hand)
{
    const fc_chain *p = &walk->l->plan->problem;
    const fc_kernels *kernels = walk->l->kernels;
    if (!at_hand)
        fc_chain_filters(walk, r, in, out, r->reach, 1);
    fc_chain_view t = fc_chain_part(walk, FC_CHAIN_T, fc_length(r->reach), 0, 0);
    double high = isinf(p->bounds.high) ? NAN : p->bounds.high; /* an infinite t is open */
    for (int64_t i = 0; i < r->images * p->middle && !walk->dry && !walk->status; i++) {
        int64_t n = i / p->middle, c = i % p->middle;
        char *d = fc_at(dt->at, n * dt->stride.n + c * dt->stride.c, kernels->size);
        const void *y = fc_at(t.at, n * t.stride.n + c * t.stride.c, kernels->size);
        kernels->elementwise.gate(d, d, y, p->bounds.low, high, fc_length(out) * fc_length(r->reach));
    }
}

/* The gradient behind the last filter, for rows `out`, which follow those from `begin` on in its buffer. */
static void take_dt(fc_chain_walk *walk, const fc_chain_region *r, fc_span in, fc_span out, int64_t begin, int at_hand)
{
    const fc_chain *p = &walk->l->plan->problem;
    int64_t width = fc_length(r->reach);
    fc_chain_view dy = fc_chain_image(walk, walk->arrays->y, &p->y, r->n, out.first, r->reach.first);
    int load = !(walk->l->plan->gradients & FC_CHAIN_LAST); /* else it has been, for that gradient */
    dy = fc_chain_far(walk, r, FC_CHAIN_FAR_Y, &dy, p->out_channels, fc_length(out), width, load);
    fc_chain_view dt = fc_chain_part(walk, FC_CHAIN_DT, width, out.first - begin, 0);
    fc_conv q = fc_chain_pointwise(walk, r, p->out_channels, p->middle, fc_length(out), width, &dy, &dt);
    if (!walk->l->last_bytes)
        q.w = (fc_weight_strides){.g = p->out_channels * p->middle, .o = 1, .c = p->middle, .k = {1, 1, 1}};
    const void *last = walk->l->last_bytes ? walk->last : walk->arrays->last;
    fc_chain_link(walk, FC_LINK_D_T, &q, FC_FORWARD, dy.at, last, NULL, dt.at);
    if (p->bounds.on)
        gate(walk, r, in, out, &dt, at_hand);
}

/* Split: the row filter's gradient, and dv, which follows the rows from `begin` on. */
static void pass_row_filter(fc_chain_walk *walk, const fc_chain_region *r, fc_span out, int64_t begin)
{
    int64_t width = fc_length(r->reach), own = fc_length(r->own);
    fc_chain_view dt = fc_chain_part(walk, FC_CHAIN_DT, width, 0, 0);
    fc_chain_view dv = fc_chain_part(walk, FC_CHAIN_DV, own, out.first - begin, 0);
    if (walk->l->plan->gradients & FC_CHAIN_FILTER) {
        fc_chain_view v = fc_chain_part(walk, FC_CHAIN_V, fc_length(r->in), 0, 0);
        fc_chain_view inner = fc_chain_part(walk, FC_CHAIN_DT, width, 0, r->out.first - r->reach.first);
        fc_conv q = fc_chain_filter(walk, r, 1, out, out, r->in, r->out, &v, &inner);
        add_link(walk, 2, FC_LINK_D_ROW_FILTER, &q, v.at, inner.at);
    }
    fc_conv q = fc_chain_filter(walk, r, 1, out, out, r->own, r->reach, &dv, &dt);
    fc_chain_link(walk, FC_LINK_D_V, &q, FC_ADJOINT, dv.at, walk->arrays->filter[1], NULL, dt.at);
}

/* The (first) filter's gradient from rows `out` of the gradient behind it. */
static void add_filter(fc_chain_walk *walk, const fc_chain_region *r, fc_span in, fc_span out, int64_t begin)
{
    const fc_chain *p = &walk->l->plan->problem;
    fc_span to = p->split ? both(r->own, r->in) : r->out, from = p->split ? to : r->in;
    fc_span at = p->split ? r->own : r->reach;
    fc_chain_view x = fc_chain_part(walk, FC_CHAIN_U, fc_length(r->in), 0, from.first - r->in.first);
    fc_chain_view e = fc_chain_part(walk, p->split ? FC_CHAIN_DV : FC_CHAIN_DT, fc_length(at), out.first - begin,
                                    to.first - at.first);
    if (!p->mixed) {
        x = fc_chain_image(walk, walk->arrays->x, &p->x, r->n, 0, 0);
        in = (fc_span){0, p->window.in[1]};
        from = (fc_span){0, p->window.in[2]};
    }
    fc_conv q = fc_chain_filter(walk, r, 0, in, out, from, to, &x, &e);
    add_link(walk, 1, FC_LINK_D_FILTER, &q, x.at, e.at);
}

/* Rows `own` of the input's gradient, from rows `touching` of the gradient behind the first filter. */
static void take_input(fc_chain_walk *walk, const fc_chain_region *r, fc_span own, fc_span touching)
{
    const fc_chain_layout *l = walk->l;
    const fc_chain *p = &l->plan->problem;
    int64_t width = fc_length(r->own), rows = fc_length(own);
    fc_span at = p->split ? r->own : r->reach;
    fc_chain_view dx = fc_chain_image(walk, walk->gradients->x, &p->dx, r->n, own.first, r->own.first);
    fc_chain_view x = fc_chain_image(walk, walk->arrays->x, &p->x, r->n, own.first, r->own.first);
    fc_chain_view du = p->mixed ? fc_chain_part(walk, FC_CHAIN_DU, width, 0, 0) : dx;
    fc_chain_view e = fc_chain_part(walk, p->split ? FC_CHAIN_DV : FC_CHAIN_DT, fc_length(at), 0, 0);
    fc_conv q = fc_chain_filter(walk, r, 0, own, touching, r->own, at, &du, &e);
    fc_chain_link(walk, FC_LINK_D_U, &q, FC_ADJOINT, du.at, walk->arrays->filter[0], NULL, e.at);
    if (p->mixed && l->plan->gradients & FC_CHAIN_FIRST) {
        x = fc_chain_far(walk, r, FC_CHAIN_FAR_X, &x, p->channels, rows, width, 1);
        fc_chain_add_sum(walk, 0, r, p->channels, &x, &du, rows, width);
    }
    if (p->mixed && l->plan->gradients & FC_CHAIN_INPUT) {
        fc_chain_view far = fc_chain_far(walk, r, FC_CHAIN_FAR_X, &dx, p->channels, rows, width, 0);
        q = fc_chain_pointwise(walk, r, p->middle, p->channels, rows, width, &du, &far);
        fc_chain_link(walk, FC_LINK_D_X, &q, FC_FORWARD, du.at, walk->arrays->first, NULL, far.at);
        fc_chain_store(walk, r, &dx, &far, p->channels, rows, width);
    }
}

/* Everything behind dt, for one band. */
static void pass_filters(fc_chain_walk *walk, const fc_chain_region *r, fc_span in, fc_span out, fc_span own)
{
    const fc_chain_layout *l = walk->l;
    const fc_chain *p = &l->plan->problem;
    fc_span touching = {fc_chain_touches(&p->window, 1, own.first, out.first), out.last};
    int buffer = p->split ? FC_CHAIN_DV : FC_CHAIN_DT;
    fc_chain_carry(walk, buffer, r->images, fc_length(p->split ? r->own : r->reach), walk->e.first, touching.first,
                   walk->e.last);
    fc_span fresh = {fc_max(touching.first, walk->e.last), out.last}; /* before `out` where no band before left them */
    int at_hand = l->plan->gradients & FC_CHAIN_LAST && fresh.first == out.first && r->reach.first == r->out.first;
    take_dt(walk, r, in, fresh, p->split ? out.first : touching.first, at_hand);
    if (p->split)
        pass_row_filter(walk, r, out, touching.first);
    if (l->plan->gradients & FC_CHAIN_FILTER)
        add_filter(walk, r, in, out, touching.first);
    walk->e = touching;
    if (l->plan->gradients & (FC_CHAIN_INPUT | FC_CHAIN_FIRST) && fc_length(own) && fc_length(r->own))
        take_input(walk, r, own, touching);
}

void fc_chain_backward(fc_chain_walk *walk, const fc_chain_region *r, int64_t first, int64_t last)
{
    const fc_chain_layout *l = walk->l;
    const fc_chain *p = &l->plan->problem;
    int wanted = l->plan->gradients, t = wanted & FC_CHAIN_LAST, filter = wanted & FC_CHAIN_FILTER;
    walk->u = walk->e = (fc_span){0};
    for (int64_t band = first; band < last; band++) {
        fc_span out = fc_chain_rows(l, band), in = fc_chain_reads(&p->window, 1, out);
        if (p->mixed && (t || filter))
            fc_chain_mix(walk, r, in, band);
        if (t || (filter && p->split))
            fc_chain_filters(walk, r, in, out, r->out, t ? l->stages : 1);
        fc_chain_view dy = fc_chain_image(walk, walk->arrays->y, &p->y, r->n, out.first, r->out.first);
        fc_chain_view near = fc_chain_part(walk, FC_CHAIN_T, fc_length(r->out), 0, 0);
        if (t)
            dy = fc_chain_far(walk, r, FC_CHAIN_FAR_Y, &dy, p->out_channels, fc_length(out), fc_length(r->out), 1);
        if (t)
            fc_chain_add_sum(walk, 3, r, p->out_channels, &dy, &near, fc_length(out), fc_length(r->out));
        if (wanted & ~FC_CHAIN_LAST)
            pass_filters(walk, r, in, out, fc_chain_completes(&p->window, 1, out));
    }
}

char *fc_chain_sum(const fc_chain_layout *l, char *sums, const fc_chain_arrays *gradients, int i, int64_t part)
{
    int64_t at = part - (l->plan->parts - l->sum_parts[i]);
    if (at < 0)
        return i ? gradients->last : gradients->first;
    for (int before = 0; before < i; before++)
        sums += l->sum_parts[before] * l->sum_bytes[before];
    return sums + at * l->sum_bytes[i];
}

/* Rows of whole vectors as rows without gaps. */
static void store_mix(const fc_chain_layout *l, char *gradient, const char *sum, int64_t channels)
{
    int64_t size = l->kernels->size, middle = l->plan->problem.middle, row = fc_chain_sum_row(l->kernels, middle);
    for (int64_t c = 0; c < channels && sum != gradient; c++)
        memcpy(fc_at(gradient, c * middle, size), fc_at(sum, c * row, size), (size_t)(middle * size));
}

void fc_chain_store_sums(const fc_chain_layout *l, char *sums, const fc_chain_arrays *gradients)
{
    const fc_chain *p = &l->plan->problem;
    for (int i = 0; i < 4; i++) {
        if (!l->sum_count[i])
            continue;
        char *sum = fc_chain_sum(l, sums, gradients, i, 0);
        for (int64_t part = 1; part < l->plan->parts; part++)
            l->kernels->scatter_row(sum, 1, fc_chain_sum(l, sums, gradients, i, part), l->sum_count[i], 1);
        if (i == 0 || i == 3)
            store_mix(l, i ? gradients->last : gradients->first, sum, i ? p->out_channels : p->channels);
        else
            memcpy(gradients->filter[i - 1], sum, (size_t)(l->sum_count[i] * l->kernels->size));
    }
}
