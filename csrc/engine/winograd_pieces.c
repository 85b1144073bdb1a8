/* The weights of winograd_channels.c: cutting a kernel, and U.
 *
 *     taps[c][t][o] = w[o][c][t]                                  for a few channels at a time: memory is read in long rows
 *     U[f][piece][c][o] = (G g G^T)_f of the piece's taps g       for each channel, piece
 *
 * Taps in any other order in memory than forwards or backwards are gathered one by one.  3x3 has its own kernel, which
 * winograd.c shares: it transposes in registers what it transforms.
 *
 * Gathering channel by channel took 4.4 ms of 256-256@14 5x5, batch 1; a few hundred taps at a time, 3.2 ms.
 */
#include "engine/winograd_pieces.h"

/* Points.  Eight err more than six: they must save that part of the products. */
enum { SIX = 6, EIGHT = 8, LEAST_GAIN = 16 };
enum { TAPS_MAX = 256, MULTIPLICATIONS_MIN = 1024 }; /* TAPS_MAX: that are gathered together */

const char *fc_winograd_pieces_refusal(const fc_conv_plan *plan, const fc_window *w)
{
    if (fc_winograd_precision_refusal(plan))
        return fc_winograd_precision_refusal(plan);
    if (plan->multiplications < MULTIPLICATIONS_MIN) /* where even a plan takes as long as the sums */
        return "the problem is too small to transform";
    if (w->stride[1] != 1 || w->stride[2] != 1)
        return "the stride is not 1";
    if ((w->kernel[1] > 1 && w->dilation[1] > w->out[1]) || (w->kernel[2] > 1 && w->dilation[2] > w->out[2]))
        return "the dilation exceeds the output";
    if (w->kernel[1] == 1 && w->kernel[2] == 1)
        return "the kernel has one tap";
    return NULL;
}

fc_winograd_axis fc_winograd_cut(const fc_window *w, int axis, int64_t m, int64_t points)
{
    int64_t kernel = w->kernel[axis], r = points + 1 - m;
    if (kernel == 1)
        return (fc_winograd_axis){1, 1, 1, 1, 1, w->out[axis], 1};
    fc_winograd_axis a = {.m = m, .points = points, .d = w->dilation[axis]};
    a.tiles = fc_ceil_div(w->out[axis], fc_mul(m, a.d));
    a.pieces = 1 + fc_ceil_div(fc_max(0, kernel - r), m);
    a.last = kernel - (a.pieces - 1) * m;
    if (a.pieces > 1 && m > r)
        a.tiles = 0;
    a.terms = (a.points - 1) * a.pieces;
    for (int64_t piece = 0; piece < a.pieces; piece++)
        a.terms += fc_winograd_has_terms(&a, piece, a.points - 1);
    return a;
}

/* Kernels whose weights winograd.c's kernel transforms: no edge takes fewer products. */
static int is_3x3(const fc_window *w)
{
    return w->kernel[1] == 3 && w->kernel[2] == 3;
}

/* The best m for so many points, and its products. */
static int64_t best_edge(const fc_window *w, int64_t points, int64_t *least)
{
    int64_t best = 2;
    *least = INT64_MAX;
    for (int64_t m = 2; m <= (points == SIX ? FC_WINOGRAD_TILE_MAX : FC_WINOGRAD_LINE_MAX); m++) {
        fc_winograd_axis a = fc_winograd_cut(w, 1, m, points), b = fc_winograd_cut(w, 2, m, points);
        int64_t products = fc_mul(fc_mul(a.tiles, a.terms), fc_mul(b.tiles, b.terms));
        if (products && products < *least) {
            *least = products;
            best = m;
        }
    }
    return best;
}

int64_t fc_winograd_edge(const fc_window *w)
{
    int64_t least;
    return is_3x3(w) ? 4 : best_edge(w, SIX, &least);
}

fc_winograd_tile fc_winograd_tile_of(const fc_window *w)
{
    int64_t least, products = INT64_MAX, edge = 0;
    if (is_3x3(w))
        return (fc_winograd_tile){4, SIX};
    if (w->kernel[1] == 1 || w->kernel[2] == 1)
        edge = best_edge(w, EIGHT, &products);
    fc_winograd_tile tile = {best_edge(w, SIX, &least), SIX};
    return least - least / LEAST_GAIN >= products ? (fc_winograd_tile){edge, EIGHT} : tile;
}

const fc_winograd_channels_kernels *fc_winograd_kernels_of(const fc_kernels *kernels, const fc_winograd_axis *h,
                                                           const fc_winograd_axis *w)
{
    return &kernels->winograd_channels[h->points == EIGHT || w->points == EIGHT ? 2 : h->points > 1 && w->points > 1];
}

int64_t fc_winograd_taps_bytes(const fc_window *w, int64_t width, int64_t size)
{
    return fc_bytes(fc_mul(fc_max(TAPS_MAX, fc_mul(w->kernel[1], w->kernel[2])), width), size);
}

/* How many channels' taps that scratch holds. */
static int64_t together_of(const fc_window *w)
{
    return fc_max(1, TAPS_MAX / fc_max(1, fc_mul(w->kernel[1], w->kernel[2])));
}

/* Where the weights' channels are neighbours: a tap of all channels at a time. */
static void gather_channels(const fc_conv *p, const fc_kernels *kernels, const void *w, int64_t channels, int64_t outputs,
                            int64_t width, void *taps)
{
    const int64_t *k = p->window.kernel, *s = p->w.k;
    int64_t size = kernels->size, place[TAPS_MAX], all = k[1] * k[2];
    for (int64_t c = 0, n; c < channels; c += n) {
        n = fc_min(TAPS_MAX, channels - c);
        for (int64_t i = 0; i < n; i++)
            place[i] = (c + i) * all * width;
        for (int64_t t = 0; t < all; t++)
            kernels->transpose_rows(fc_at(taps, t * width, size), place, fc_at(w, c + t / k[2] * s[1] + t % k[2] * s[2], size),
                                    p->w.o, outputs, n);
    }
}

void fc_winograd_gather(const fc_conv *p, const void *w, int64_t channels, int64_t outputs, int64_t width, void *taps)
{
    static const double zero = 0;
    const fc_kernels *kernels = fc_dispatch(p->real);
    const int64_t *k = p->window.kernel, *s = p->w.k;
    int64_t size = kernels->size, place[TAPS_MAX], all = k[1] * k[2], sign = s[2] < 0 ? -1 : 1, count = channels * all;
    if (s[2] == sign && (k[1] == 1 || s[1] == k[2] * sign) && all <= TAPS_MAX) {
        int64_t most = p->w.c == all ? fc_min(count, together_of(&p->window) * all) : all;
        for (int64_t t = 0; t < most; t++)
            place[t] = (sign < 0 ? t / all * all + all - 1 - t % all : t) * width;
        for (int64_t t = 0; t < count; t += most)
            kernels->transpose_rows(fc_at(taps, t * width, size), place,
                                    fc_at(w, t / all * p->w.c - (sign < 0 ? all - 1 : 0), size), p->w.o, outputs,
                                    fc_min(most, count - t));
        return;
    }
    if (p->w.c == 1 && p->w.o != 1) {
        gather_channels(p, kernels, w, channels, outputs, width, taps);
        return;
    }
    for (int64_t t = 0; t < count; t++)
        kernels->gather_row(fc_at(taps, t * width, size), width,
                            fc_at(w, t / all * p->w.c + t % all / k[2] * s[1] + t % k[2] * s[2], size), p->w.o, 0, 1, outputs,
                            &zero);
}

/* One channel's row of U of every piece. */
static void transform_channel(const fc_winograd_pieces *q, const void *taps, int64_t width, int64_t next, char *u)
{
    const fc_kernels *kernels = fc_dispatch(q->problem->real);
    const fc_winograd_channels_kernels *transforms = fc_winograd_kernels_of(kernels, &q->h, &q->w);
    int along = q->w.points > 1, both = along && q->h.points > 1;
    int64_t size = kernels->size, row = q->problem->window.kernel[2] * width;
    for (int64_t i = 0; i < q->h.pieces; i++)
        for (int64_t j = 0; j < q->w.pieces; j++, u += next * width * size) {
            int64_t rows = i + 1 < q->h.pieces ? q->h.m : q->h.last, columns = j + 1 < q->w.pieces ? q->w.m : q->w.last;
            const int64_t box[4] = {0, both ? rows : 1, 0, along ? columns : rows};
            transforms->weights[q->edge](u, q->step,
                                         fc_at(taps, i * q->h.m * row + j * q->w.m * width, size), row, along ? width : row, box,
                                         width / kernels->lanes);
        }
}

void fc_winograd_transform(const fc_winograd_pieces *q, const void *w, int64_t channels, int64_t outputs, int64_t width,
                           int64_t next, void *u, void *taps)
{
    const fc_conv *p = q->problem;
    const fc_kernels *kernels = fc_dispatch(p->real);
    const int64_t *k = p->window.kernel;
    int64_t size = kernels->size, all = fc_mul(k[1], k[2]), together = together_of(&p->window);
    if (is_3x3(&p->window)) {
        int64_t stride[4] = {p->w.c, p->w.o, p->w.k[1], p->w.k[2]};
        kernels->winograd[0].weights(u, q->step, width, w, stride, channels, outputs);
        return;
    }
    for (int64_t c = 0, n; c < channels; c += n) {
        n = fc_min(together, channels - c);
        fc_winograd_gather(p, fc_at(w, c * p->w.c, size), n, outputs, width, taps);
        for (int64_t i = 0; i < n; i++)
            transform_channel(q, fc_at(taps, i * all * width, size), width, next, fc_at(u, (c + i) * width, size));
    }
}
