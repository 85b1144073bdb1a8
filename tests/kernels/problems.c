#include "problems.h"

#include <math.h>
#include <string.h>

enum { ELEMENTS_MAX = 500000 };

/* Where element 0 stands. */
static int64_t try_layout(int axes, const int64_t *size, int64_t *stride, int repeats, int plain)
{
    int order[8];
    int64_t step = 1, first = 0;
    for (int i = 0; i < axes; i++)
        order[i] = axes - 1 - i;
    for (int i = axes - 1; i > 0 && !plain; i--) { /* Fisher and Yates */
        int j = (int)random_integer(0, i), t = order[i];
        order[i] = order[j];
        order[j] = t;
    }
    for (int i = 0; i < axes; i++) {
        int axis = order[i];
        int64_t n = size[axis] > 0 ? size[axis] : 1;
        if (!plain && repeats && random_integer(0, 11) == 0) {
            stride[axis] = 0;
            continue;
        }
        step *= plain || random_integer(0, 3) ? 1 : random_integer(2, 3);
        stride[axis] = step;
        step = step * n + (plain || random_integer(0, 3) ? 0 : random_integer(1, 3));
        if (!plain && random_integer(0, 3) == 0) {
            first += (n - 1) * stride[axis];
            stride[axis] = -stride[axis];
        }
    }
    return first;
}

int64_t random_layout(int axes, const int64_t *size, int64_t *stride, int repeats, int64_t *count)
{
    int64_t first, empty = 0;
    for (int i = 0; i < axes; i++)
        empty |= size[i] == 0;
    do { /* until the gaps are not too many */
        first = try_layout(axes, size, stride, repeats, random_integer(0, 2) == 0);
        *count = 1;
        for (int i = 0; i < axes; i++)
            *count += (size[i] - 1) * (stride[i] < 0 ? -stride[i] : stride[i]);
    } while (!empty && *count > ELEMENTS_MAX);
    *count = empty ? 0 : *count;
    return empty ? 0 : first;
}

fc_window random_window(int64_t most)
{
    fc_window w;
    int axes = (int)random_integer(1, FC_AXES);
    for (int i = 0; i < FC_AXES; i++) {
        int used = i >= FC_AXES - axes;
        int64_t limit = i == FC_AXES - 1 ? most : most / (1 + axes);
        w.in[i] = used ? random_integer(1, limit < 1 ? 1 : limit) : 1;
        w.kernel[i] = used ? CHOOSE(1, 1, 2, 3, 3, 5) : 1;
        w.stride[i] = used ? CHOOSE(1, 1, 1, 2, 3, 5) : 1;
        w.dilation[i] = used ? CHOOSE(1, 1, 1, 2, 4) : 1;
        w.offset[i] = used ? CHOOSE(0, 0, 1, 1, 2, 7, -1, -3) : 0;
        int64_t room = w.in[i] + 2 * w.offset[i] - (w.kernel[i] - 1) * w.dilation[i] - 1;
        w.out[i] = !used ? 1 : room < 0 || random_integer(0, 5) == 0 ? random_integer(1, limit) : room / w.stride[i] + 1;
    }
    if (random_integer(0, 39) == 0)
        w.in[2] = 0;
    if (random_integer(0, 39) == 0)
        w.kernel[random_integer(0, 2)] = 0;
    if (random_integer(0, 39) == 0)
        w.out[random_integer(0, 2)] = 0;
    return w;
}

int64_t problem_multiplications(const fc_conv *c)
{
    const fc_window *w = &c->window;
    int64_t product = c->batch * c->groups * c->channels * c->out_channels;
    for (int i = 0; i < FC_AXES; i++)
        product *= w->kernel[i] * w->out[i];
    return product;
}

/* Now and then a plain 3x3 of stride 1, which has algorithms of its own. */
static void make_plain(fc_conv *c)
{
    fc_window *w = &c->window;
    for (int i = 0; i < FC_AXES; i++) {
        w->kernel[i] = i ? 3 : 1;
        w->in[i] = i ? random_integer(3, 20) : 1;
        w->stride[i] = w->dilation[i] = 1;
        w->offset[i] = i ? random_integer(0, 1) : 0;
        w->out[i] = w->in[i] + 2 * w->offset[i] - w->kernel[i] + 1;
    }
    c->channels = random_integer(1, 20);
    c->out_channels = random_integer(1, 20);
}

/* Or a dense layer: few pixels, many channels, and now and then whole vectors of them. */
static void make_dense(fc_conv *c)
{
    fc_window *w = &c->window;
    for (int i = 0; i < FC_AXES; i++) {
        w->in[i] = w->out[i] = i ? random_integer(1, 2) : 1;
        w->kernel[i] = w->stride[i] = w->dilation[i] = 1;
        w->offset[i] = 0;
    }
    c->channels = CHOOSE(16, 32, 48, 50);
    c->out_channels = CHOOSE(16, 32, 48, 50);
}

static fc_conv random_sizes(int large)
{
    fc_conv c = {.bounds = {0}};
    int64_t most = large ? 2000000 : 60000, multiplications;
    do {
        c.window = random_window(large ? 60 : 24);
        c.batch = random_integer(0, 39) ? random_integer(1, 3) : 0;
        c.groups = CHOOSE(1, 1, 2, 5);
        c.channels = random_integer(0, 39) ? random_integer(1, large ? 40 : 6) : 0;
        c.out_channels = random_integer(0, 39) ? random_integer(1, large ? 40 : 20) : 0;
        if (random_integer(0, 3) == 0)
            c.channels = 1;
        if (random_integer(0, 2) == 0)
            make_plain(&c);
        else if (random_integer(0, 9) == 0)
            make_dense(&c);
        const int64_t *in = c.window.in;
        if (random_integer(0, 3) == 0 && in[0] * in[1] * in[2] <= 600) { /* depthwise */
            c.groups = random_integer(5, 40);
            c.channels = 1;
            c.out_channels = random_integer(1, 2);
        }
        multiplications = problem_multiplications(&c);
    } while (multiplications > most || (large && multiplications < 400000));
    return c;
}

/* Sizes of x, y and w as their strides stand in the structures. */
static void shapes(const fc_conv *c, int64_t x[5], int64_t y[5], int64_t w[6])
{
    x[0] = y[0] = c->batch;
    w[0] = c->groups;
    x[1] = c->groups * c->channels;
    y[1] = c->groups * c->out_channels;
    w[1] = c->out_channels;
    w[2] = c->channels;
    for (int i = 0; i < FC_AXES; i++) {
        x[2 + i] = c->window.in[i];
        y[2 + i] = c->window.out[i];
        w[3 + i] = c->window.kernel[i];
    }
}

problem random_problem(fc_real real, fc_direction direction, int large)
{
    problem p = {.conv = random_sizes(large), .direction = direction};
    p.conv.real = real;
    p.with_bias = direction != FC_WEIGHT && random_integer(0, 1);
    if (direction == FC_FORWARD && random_integer(0, 3) == 0)
        p.conv.bounds = (fc_bounds){1, random_integer(0, 1) ? 0 : -INFINITY, random_integer(0, 1) ? 1.5 : INFINITY};
    return p;
}

void problem_fill(problem *p)
{
    fc_conv *c = &p->conv;
    element type = (element)c->real;
    int64_t x[5], y[5], w[6], xs[5], ys[5], ws[6], xn, yn, wn;
    shapes(c, x, y, w);
    p->x0 = random_layout(5, x, xs, p->direction != FC_ADJOINT, &xn);
    p->y0 = random_layout(5, y, ys, p->direction != FC_FORWARD, &yn);
    p->w0 = random_layout(6, w, ws, p->direction != FC_WEIGHT, &wn);
    memcpy(&c->x, xs, sizeof xs);
    memcpy(&c->y, ys, sizeof ys);
    memcpy(&c->w, ws, sizeof ws);
    arrays_reset();
    int at_end = random_integer(0, 3) != 0;
    p->x = (p->direction == FC_ADJOINT ? array_take : array_random)(type, xn, at_end);
    p->y = (p->direction == FC_FORWARD ? array_take : array_random)(type, yn, at_end);
    p->w = (p->direction == FC_WEIGHT ? array_take : array_random)(type, wn, at_end);
    p->bias = array_random(type, p->direction == FC_ADJOINT ? x[1] : y[1], at_end);
    array_lock(p->bias);
    if (p->direction != FC_FORWARD)
        array_lock(p->y);
    if (p->direction != FC_ADJOINT)
        array_lock(p->x);
    if (p->direction != FC_WEIGHT)
        array_lock(p->w);
}

array *problem_output(const problem *p)
{
    return p->direction == FC_FORWARD ? p->y : p->direction == FC_ADJOINT ? p->x : p->w;
}

/* What one term of the sums is: places in y, w and x. */
typedef struct term {
    int64_t y, w, x;
} term;

/* Adds a product to its output's expected value, and its size to the bound. */
static void add_term(const problem *p, term t)
{
    double y = p->direction == FC_FORWARD ? 1 : array_get(p->y, t.y);
    double w = p->direction == FC_WEIGHT ? 1 : array_get(p->w, t.w);
    double x = p->direction == FC_ADJOINT ? 1 : array_get(p->x, t.x);
    int64_t at = p->direction == FC_FORWARD ? t.y : p->direction == FC_ADJOINT ? t.x : t.w;
    array *out = problem_output(p);
    array_expect(out, at, out->want[at] + y * w * x, out->bound[at] + fabs(y * w * x));
}

/* All taps of one output, one input channel: those inside the image. */
static void add_taps(const problem *p, term t, const int64_t stop[FC_AXES])
{
    const fc_window *v = &p->conv.window;
    int64_t start[FC_AXES];
    for (int a = 0; a < FC_AXES; a++)
        start[a] = stop[a] * v->stride[a] - v->offset[a];
    for (int64_t d = 0; d < v->kernel[0]; d++)
        for (int64_t h = 0; h < v->kernel[1]; h++)
            for (int64_t k = 0; k < v->kernel[2]; k++) {
                const int64_t tap[FC_AXES] = {d, h, k};
                term at = t;
                int inside = 1;
                for (int a = 0; a < FC_AXES; a++) {
                    int64_t i = start[a] + tap[a] * v->dilation[a];
                    inside &= i >= 0 && i < v->in[a];
                    at.x += i * p->conv.x.s[a];
                    at.w += tap[a] * p->conv.w.k[a];
                }
                if (inside)
                    add_term(p, at);
            }
}

static void add_terms(const problem *p)
{
    const fc_conv *c = &p->conv;
    const int64_t *out = c->window.out;
    for (int64_t n = 0; n < c->batch; n++)
        for (int64_t o = 0; o < c->groups * c->out_channels; o++)
            for (int64_t i = 0; i < out[0] * out[1] * out[2]; i++)
                for (int64_t ch = 0; ch < c->channels; ch++) {
                    const int64_t stop[FC_AXES] = {i / out[2] / out[1], i / out[2] % out[1], i % out[2]};
                    int64_t g = o / c->out_channels;
                    term t = {p->y0 + n * c->y.n + o * c->y.c,
                              p->w0 + g * c->w.g + o % c->out_channels * c->w.o + ch * c->w.c,
                              p->x0 + n * c->x.n + (g * c->channels + ch) * c->x.c};
                    for (int a = 0; a < FC_AXES; a++)
                        t.y += stop[a] * c->y.s[a];
                    add_taps(p, t, stop);
                }
}

/* Every element of the output begins with its bias, or zero; the last of `axes` runs fastest. */
static void expect_bias(const problem *p, int axes, const int64_t *size, const int64_t *stride, int64_t first)
{
    int64_t count = 1;
    for (int a = 0; a < axes; a++)
        count *= size[a];
    for (int64_t i = 0; i < count; i++) {
        int64_t rest = i, at = first, channel = 0;
        for (int a = axes - 1; a >= 0; a--) {
            at += rest % size[a] * stride[a];
            channel = a == 1 ? rest % size[a] : channel;
            rest /= size[a];
        }
        double bias = p->with_bias ? array_get(p->bias, channel) : 0;
        array_expect(problem_output(p), at, bias, fabs(bias));
    }
}

/* The largest output, and all of them within the problem's bounds. */
static void expect_bounded(problem *p)
{
    array *out = problem_output(p);
    const fc_bounds *limits = &p->conv.bounds;
    p->largest = 0;
    for (int64_t i = 0; i < out->count; i++)
        if (out->bound[i] != KEPT) {
            p->largest = fmax(p->largest, fabs(out->want[i]));
            if (limits->on)
                out->want[i] = fmin(fmax(out->want[i], limits->low), limits->high);
        }
}

void problem_expect(problem *p)
{
    const fc_conv *c = &p->conv;
    const fc_window *v = &c->window;
    int64_t x[5], y[5], w[6], strides[6], taps = v->kernel[0] * v->kernel[1] * v->kernel[2];
    shapes(c, x, y, w);
    array *out = problem_output(p);
    array_watch(out);
    if (p->direction == FC_FORWARD)
        expect_bias(p, 5, y, memcpy(strides, &c->y, sizeof c->y), p->y0);
    else if (p->direction == FC_ADJOINT)
        expect_bias(p, 5, x, memcpy(strides, &c->x, sizeof c->x), p->x0);
    else
        expect_bias(p, 6, w, memcpy(strides, &c->w, sizeof c->w), p->w0);
    add_terms(p);
    int64_t terms = p->direction == FC_FORWARD   ? c->channels * taps
                    : p->direction == FC_ADJOINT ? c->out_channels * taps
                                                 : c->batch * v->out[0] * v->out[1] * v->out[2];
    for (int64_t i = 0; i < out->count; i++)
        if (out->bound[i] > 0)
            out->bound[i] *= 2 * value_epsilon(out->type) * (double)(terms + 1);
    expect_bounded(p);
}
