#include "engine/winograd_phases.h"

/* The taps of phase f.  Tap number u of them takes output o from position s (o + shift + u) + f; returns the shift. */
static int64_t cut_phase(const fc_window *w, int i, int64_t f, fc_winograd_phase *to)
{
    int64_t s = w->stride[i], offset = w->offset[i];
    *to = (fc_winograd_phase){.tap = ((f + offset) % s + s) % s};
    to->taps = to->tap < w->kernel[i] ? (w->kernel[i] - 1 - to->tap) / s + 1 : 0;
    return (to->tap - offset - f) / s;
}

/* Where each phase's taps stand among the r of a transform.  Where each has its own patches there is a choice; else these begin at
 * `low`, and an adjoint's taps follow each other backwards.  Returns whether they fit. */
static int place_phases(fc_winograd_strided_axis *a, const int64_t *shift, int64_t low, fc_winograd_order order)
{
    int64_t r = a->points - a->m + 1;
    a->terms = a->end = 0;
    a->begin = a->points;
    for (int64_t f = 0; f < a->count; f++) {
        fc_winograd_phase *to = &a->phase[f];
        to->at = order == FC_WINOGRAD_FORWARD  ? r - to->taps > 1
                 : order == FC_WINOGRAD_PACKED ? shift[f] - low
                                               : 1 - shift[f] - to->taps - low;
        if (!to->taps || to->at + to->taps > r)
            return 0;
        to->begin = to->at > 0;
        to->end = a->points - (to->at + to->taps < r);
        a->terms += to->end - to->begin;
        a->begin = fc_min(a->begin, to->begin);
        a->end = fc_max(a->end, to->end);
        if (to->taps > a->phase[a->largest].taps)
            a->largest = f;
    }
    if (order == FC_WINOGRAD_PACKED)
        a->terms = a->end - a->begin;
    return 1;
}

fc_winograd_strided_axis fc_winograd_strided_cut(const fc_window *w, int i, int64_t m, fc_winograd_order order)
{
    int64_t s = w->stride[i], shift[FC_WINOGRAD_STRIDE_MAX], low = INT64_MAX, first = INT64_MAX, last = INT64_MIN;
    int own = order == FC_WINOGRAD_FORWARD, adjoint = order == FC_WINOGRAD_ADJOINT;
    fc_winograd_strided_axis a = {.m = m, .points = FC_WINOGRAD_POINTS, .stride = s, .count = s};
    a.step_in = own ? s : 1;
    a.step_out = adjoint ? s : 1;
    if (w->kernel[i] == 1)
        a.m = a.points = 1;
    for (int64_t f = 0; f < s; f++) {
        shift[f] = cut_phase(w, i, f, &a.phase[f]);
        low = fc_min(low, adjoint ? 1 - shift[f] - a.phase[f].taps : shift[f]);
    }
    if (!place_phases(&a, shift, low, order))
        return a;
    fc_winograd_strided_axis next = a; /* patches that begin a position before may leave out more products */
    if (!own && place_phases(&next, shift, low - 1, order) && next.terms < a.terms) {
        a = next;
        low--;
    }
    for (int64_t f = 0; f < s; f++) {
        a.phase[f].skip = own ? s * (shift[f] - a.phase[f].at) + f : low;
        first = fc_min(first, a.phase[f].skip);
        last = fc_max(last, a.phase[f].skip);
    }
    for (int64_t f = 0; f < s; f++)
        a.phase[f].skip -= first;
    a.first = first;
    a.extra = a.step_in * (a.points - a.m - 1) + last - first + 1;
    a.tiles = fc_ceil_div(adjoint ? fc_ceil_div(w->in[i], s) : w->out[i], a.m);
    return a;
}

int64_t fc_winograd_strided_edge(const fc_window *w, fc_winograd_order order)
{
    int64_t best = 0, least = INT64_MAX;
    for (int64_t m = 2; m <= FC_WINOGRAD_TILE_MAX; m++) {
        fc_winograd_strided_axis h = fc_winograd_strided_cut(w, 1, m, order), v = fc_winograd_strided_cut(w, 2, m, order);
        int64_t products = fc_mul(fc_mul(h.tiles, h.terms), fc_mul(v.tiles, v.terms));
        if (products && products < least) {
            least = products;
            best = m;
        }
    }
    return best;
}
