#include "engine/tap_groups.h"

int fc_phases_plan(fc_phases *phases, const fc_conv *p, fc_direction direction)
{
    phases->whole = *p;
    if (direction == FC_FORWARD) {
        phases->count = 1;
        phases->phase[0] = (fc_phase){.problem = *p, .step = {1, 1, 1}};
        return 1;
    }
    int64_t count = fc_adjoint_phases(p), x_begin, place = 0;
    if (count > FC_PHASES_MAX)
        return 0;
    phases->count = (int)count;
    phases->whole = fc_adjoint_whole(p);
    for (int64_t f = 0; f < count; f++) {
        fc_phase *phase = &phases->phase[f];
        int64_t rest = f;
        phase->problem = fc_adjoint_problem(p, f, &phase->w_begin, &x_begin);
        phase->place = place;
        place += fc_taps(&phase->problem.window);
        for (int i = FC_AXES - 1; i >= 0; i--) {
            phase->step[i] = p->window.stride[i];
            phase->first[i] = rest % fc_min(p->window.stride[i], p->window.in[i]);
            rest /= fc_min(p->window.stride[i], p->window.in[i]);
        }
    }
    return 1;
}

int64_t fc_phase_tap(const fc_phase *phase, int64_t t)
{
    int64_t at = phase->w_begin;
    for (int i = FC_AXES - 1; i >= 0; i--) {
        at += t % phase->problem.window.kernel[i] * phase->problem.w.k[i];
        t /= phase->problem.window.kernel[i];
    }
    return at;
}

/* The outputs that meet a tap. */
static void meet(const fc_window *w, int axis, int64_t tap, int64_t *begin, int64_t *end)
{
    int64_t s = w->stride[axis], at = tap * w->dilation[axis] - w->offset[axis], last = w->in[axis] - 1 - at;
    *begin = at >= 0 ? 0 : fc_ceil_div(-at, s);
    *end = fc_max(*begin, last < 0 ? 0 : fc_min(w->out[axis], last / s + 1));
}

/* Outputs of the other axes from which on rows or planes that meet the same taps are worth a sum of their own, be they few: 3x3
 * 48-48@4x4000 on Zen 5 2.48, now 2.41 ms, 64-64@10x32 747, 729 us, 32-32@2x2000 222, 216, 5x5 64-64@10x200 as before; columns are
 * not (128-128@64x3 201, 208 us). */
enum { MANY = 32 };

/* Whether outputs that meet the same taps go together: for wide images.  Looking for them takes the square of the taps. */
static int by_outputs(const fc_window *w, int axis)
{
    int64_t others = w->out[(axis + 1) % FC_AXES] * w->out[(axis + 2) % FC_AXES];
    return w->kernel[axis] <= 8 && (w->out[axis] >= 4 * w->kernel[axis] || (axis < FC_AXES - 1 && others >= MANY));
}

/* The box that begins at this tap or, by outputs, at this output; maybe without outputs, or without taps. */
static fc_tap_box box_at(const fc_window *w, int axis, int64_t at)
{
    fc_tap_box box = {.first = at, .begin = at, .end = w->out[axis]};
    int64_t begin, end;
    if (!by_outputs(w, axis)) {
        meet(w, axis, at, &box.begin, &box.end);
        do
            if (at + ++box.taps < w->kernel[axis])
                meet(w, axis, at + box.taps, &begin, &end);
        while (at + box.taps < w->kernel[axis] && begin == box.begin && end == box.end);
        return box;
    }
    for (int64_t tap = w->kernel[axis] - 1; tap >= 0; tap--) {
        meet(w, axis, tap, &begin, &end);
        if (begin > at && begin < end)
            box.end = fc_min(box.end, begin);
        if (begin <= at && end > at) {
            box.end = fc_min(box.end, end);
            box.first = tap;
            box.taps++;
        }
    }
    return box;
}

/* The box after this one, or the first of the axis and 0. */
static int next_box(const fc_window *w, int axis, fc_tap_box *box)
{
    int outputs = by_outputs(w, axis);
    int64_t next = outputs ? box->end : box->first + box->taps;
    int more = next < (outputs ? w->out[axis] : w->kernel[axis]);
    *box = box_at(w, axis, more ? next : 0);
    return more;
}

fc_tap_counts fc_tap_groups_count(const fc_phases *phases)
{
    fc_tap_counts counts = {0};
    for (int f = 0; f < phases->count; f++) {
        const fc_window *w = &phases->phase[f].problem.window;
        int64_t groups = 1, all_taps = 1;
        double products = 1, visits = 1;
        for (int i = 0; i < FC_AXES; i++) {
            int64_t boxes = 0, taps = 0, sum = 0, outputs = 0;
            fc_tap_box box = box_at(w, i, 0);
            do {
                boxes++;
                taps += box.taps;
                sum += box.taps * (box.end - box.begin);
                outputs += box.taps ? box.end - box.begin : 0;
            } while (w->kernel[i] && next_box(w, i, &box));
            groups = fc_mul(groups, boxes);
            all_taps = fc_mul(all_taps, taps);
            products *= (double)sum;
            visits *= (double)outputs;
        }
        counts.groups = fc_add(counts.groups, groups);
        counts.taps = fc_add(counts.taps, all_taps);
        counts.products += products;
        counts.visits += visits;
    }
    return counts;
}

/* The next group of the phase in order, whether it has any taps and outputs or not. */
static int step_group(fc_tap_group *g)
{
    const fc_window *w = &g->phase->problem.window;
    for (int i = FC_AXES - 1; i >= 0; i--)
        if (next_box(w, i, &g->axis[i]))
            return 1;
    return 0;
}

int fc_tap_groups_list(const fc_phases *phases, fc_tap_group *groups, int64_t *count)
{
    int64_t place = 0, met = 0;
    *count = 0;
    for (int f = 0; f < phases->count; f++) {
        fc_tap_group g = {.phase = &phases->phase[f]};
        const fc_window *w = &g.phase->problem.window;
        if (!fc_taps(w))
            continue;
        for (int i = 0; i < FC_AXES; i++)
            g.axis[i] = box_at(w, i, 0);
        do {
            int64_t outputs = 1;
            g.first = 1;
            for (int i = 0; i < FC_AXES; i++) {
                outputs *= g.axis[i].end - g.axis[i].begin;
                g.first &= by_outputs(w, i) || !g.axis[i].first;
            }
            if (!outputs || !fc_group_taps(&g))
                continue;
            met += g.first ? outputs : 0;
            g.place = place;
            place += fc_group_taps(&g);
            groups[(*count)++] = g;
        } while (step_group(&g));
    }
    return met == fc_outputs(&phases->whole.window);
}
