/* The adjoint of a convolution, x from y, as forward problems.
 *
 *     x[i] = sum over o, t with o s + t d - offset = i of  w[t] y[o]
 *
 * For the positions i = s j + f of one phase f, only the taps with t d = f + offset (mod s) count; they are
 * t = t0 + u T, T = s / gcd(s, d), u = 0 ... U - 1, and then o = j + base - u D with D = d / gcd(s, d) and
 * base = (f + offset - t0 d) / s.  With the taps reversed this is a forward problem of stride 1, dilation D and U taps over
 * y, with weights read backwards from tap t0 + (U - 1) T, written to every s-th place of x: nothing is multiplied by an
 * inserted zero.  Phases without taps have none to sum and are filled with the bias.  The roles of the channels are
 * exchanged.  The input gradient and the transposed convolution are both this.
 *
 * Done one by one, phases pack their weights each for itself and write to every s-th place.  Some drivers do them all in one pass
 * and write whole rows; which is chosen by what the largest phase costs, times all multiplications over its own.  3x3s2 128@56, one
 * core of Emerald Rapids: 2.4 ms one by one, 1.55 ms together; transposed 4x4s2 128-64@14 b8 3.4, 2.5 ms.
 */
#include "engine/conv.h"

#include <math.h>
#include <string.h>

/* The part of a phase that lies on one axis. */
typedef struct axis_phase {
    int64_t first, step, taps; /* t0, T, U */
    int64_t dilation, offset;
} axis_phase;

static axis_phase plan_axis(const fc_window *w, int axis, int64_t f)
{
    int64_t s = w->stride[axis], d = w->dilation[axis], g = s, r = d;
    while (r) {
        int64_t t = g % r;
        g = r;
        r = t;
    }
    axis_phase phase = {.step = s / g, .dilation = d / g};
    int64_t wanted = ((f + w->offset[axis]) % s + s) % s;
    for (phase.first = 0; phase.first < fc_min(phase.step, w->kernel[axis]) && phase.first * d % s != wanted;)
        phase.first++;
    if (phase.first < fc_min(phase.step, w->kernel[axis]))
        phase.taps = (w->kernel[axis] - phase.first - 1) / phase.step + 1;
    phase.offset = (phase.taps - 1) * phase.dilation - (f + w->offset[axis] - phase.first * d) / s;
    return phase;
}

/* Below so many multiplications the phases' plans cost more than is won. */
enum { TILED_MULTIPLICATIONS = 20000 };

void fc_adjoint_tile(fc_conv *p)
{
    fc_window *w = &p->window;
    int whole = fc_mul(fc_mul(p->groups, p->out_channels), fc_reduction(p)) >= TILED_MULTIPLICATIONS;
    for (int i = 0; i < FC_AXES; i++)
        whole &= w->out[i] == 1 && w->kernel[i] == w->in[i] && !w->offset[i] && (w->dilation[i] == 1 || w->kernel[i] == 1);
    for (int i = 0; i < FC_AXES && whole; i++)
        w->stride[i] = w->kernel[i];
}

int64_t fc_adjoint_phases(const fc_conv *p)
{
    int64_t phases = 1;
    for (int i = 0; i < FC_AXES; i++)
        phases = fc_mul(phases, fc_min(p->window.stride[i], p->window.in[i]));
    return phases;
}

fc_conv fc_adjoint_problem(const fc_conv *p, int64_t phase, int64_t *w_begin, int64_t *x_begin)
{
    const fc_window *w = &p->window;
    fc_conv q = {.real = p->real,
                 .batch = p->batch,
                 .groups = p->groups,
                 .channels = p->out_channels,
                 .out_channels = p->channels,
                 .x = p->y,
                 .y = p->x,
                 .w = {.g = p->w.g, .o = p->w.c, .c = p->w.o}};
    *w_begin = *x_begin = 0;
    for (int i = FC_AXES - 1; i >= 0; i--) {
        int64_t phases = fc_min(w->stride[i], w->in[i]), f = phase % phases;
        phase /= phases;
        axis_phase a = plan_axis(w, i, f);
        q.window.in[i] = w->out[i];
        q.window.out[i] = (w->in[i] - f - 1) / w->stride[i] + 1;
        q.window.kernel[i] = a.taps;
        q.window.stride[i] = 1;
        q.window.dilation[i] = a.dilation;
        q.window.offset[i] = a.offset;
        q.y.s[i] = p->x.s[i] * w->stride[i];
        q.w.k[i] = -p->w.k[i] * a.step;
        *x_begin += p->x.s[i] * f;
        if (a.taps)
            *w_begin += p->w.k[i] * (a.first + (a.taps - 1) * a.step);
    }
    return q;
}

int64_t fc_adjoint_largest(const fc_conv *p)
{
    int64_t phase = 0;
    for (int i = 0; i < FC_AXES; i++) {
        int64_t phases = fc_min(p->window.stride[i], p->window.in[i]), best = 0, taps = -1;
        for (int64_t f = 0; f < phases; f++) {
            axis_phase a = plan_axis(&p->window, i, f);
            if (a.taps > taps) {
                taps = a.taps;
                best = f;
            }
        }
        phase = phase * phases + best;
    }
    return phase;
}

/* One phase as a plan: what the caller chose serves the phases that have terms to sum. */
static fc_status plan_phase(fc_conv_plan *phase, const fc_conv *q, fc_precision precision, const char *algorithm)
{
    return fc_conv_plan_make(phase, q, FC_FORWARD, precision, fc_reduction(q) ? algorithm : NULL);
}

fc_conv fc_adjoint_whole(const fc_conv *p)
{
    fc_conv q = *p;
    q.x = p->y;
    q.y = p->x;
    q.channels = p->out_channels;
    q.out_channels = p->channels;
    q.w.o = p->w.c;
    q.w.c = p->w.o;
    memcpy(q.window.in, p->window.out, sizeof q.window.in);
    memcpy(q.window.out, p->window.in, sizeof q.window.out);
    return q;
}

/* Drivers that do all phases at once, by the names of those that do them one by one. */
static const fc_driver *const drivers[] = {&fc_driver_depthwise_adjoint, &fc_driver_planes_adjoint,
                                           &fc_driver_winograd_strided_adjoint, &fc_driver_channels_adjoint,
                                           &fc_driver_im2col_adjoint, &fc_driver_pixels_adjoint,
                                           &fc_driver_pointwise_adjoint, NULL};

const fc_driver *fc_adjoint_driver(const char *name)
{
    int i = 0;
    while (drivers[i] && strcmp(drivers[i]->name, name))
        i++;
    return drivers[i];
}

/* Nanoseconds to write an element to every s-th place, a phase at a time: 128@28 to 56, 0.16 ms. */
#define SCATTER 0.4
/* And to fill all of x in rows first. */
#define FILL 0.1

/* The other phases have fewer taps, and so take longer for each of their multiplications than the largest: 3x3s2 128@56 by
 * winograd_channels and others 2.8 ms, all at once by channels 1.55; 512@14 b4 by channels 15.5, all at once 12. */
#define SMALLER 1.3

double fc_adjoint_cost(const fc_conv *p, double largest)
{
    int64_t w, x;
    if (fc_adjoint_phases(p) == 1)
        return largest;
    if (fc_taps(&p->window) == 1) { /* the other phases have nothing to sum */
        double images = (double)p->batch * (double)p->groups * (double)p->channels, outputs = (double)fc_outputs(&p->window);
        double all = (double)p->window.in[0] * (double)p->window.in[1] * (double)p->window.in[2];
        return largest + images * (FILL * all + (p->x.c == 1 ? 0 : SCATTER) * outputs);
    }
    fc_conv q = fc_adjoint_problem(p, fc_adjoint_largest(p), &w, &x);
    double all = (double)fc_outputs(&p->window) * (double)fc_taps(&p->window), elements = 1;
    double part = (double)fc_outputs(&q.window) * (double)fc_taps(&q.window);
    for (int i = 0; i < FC_AXES; i++)
        elements *= (double)p->window.in[i];
    elements *= (double)p->batch * (double)p->groups * (double)p->channels;
    return largest * (part > 0 && all > part ? SMALLER * all / part : 1) + SCATTER * elements;
}

/* The cheapest driver that does all phases at once, if it costs no more than the plan does so far. */
static void plan_together(fc_conv_plan *plan, const char *algorithm, int threads)
{
    const fc_driver *best = NULL;
    fc_conv_plan candidate = *plan;
    double cost;
    candidate.threads = 1;
    for (int i = 0; drivers[i]; i++) {
        if ((algorithm && strcmp(algorithm, drivers[i]->name)) || drivers[i]->plan(&candidate, &cost) || cost > plan->cost)
            continue;
        best = drivers[i];
        *plan = candidate;
        plan->cost = cost;
        for (plan->algorithm = 0; strcmp(best->name, fc_conv_algorithm_name(FC_ADJOINT, plan->algorithm));)
            plan->algorithm++;
    }
    for (; best && threads > 1; threads /= 2) {
        candidate = *plan;
        candidate.threads = threads;
        if (!best->plan(&candidate, &cost)) {
            *plan = candidate;
            return;
        }
    }
}

/* The phases one by one, by the driver of this name, or by what is cheapest for the largest. */
static fc_status plan_phases(fc_conv_plan *plan, const char *algorithm, int64_t phases)
{
    int64_t largest = fc_adjoint_largest(&plan->problem), w, x;
    for (int64_t i = 0; i < phases; i++) {
        if (!algorithm && i != largest)
            continue;
        fc_conv q = fc_adjoint_problem(&plan->problem, i, &w, &x);
        fc_conv_plan phase;
        fc_status status = plan_phase(&phase, &q, plan->precision, algorithm);
        if (status)
            return status;
        plan->scratch = fc_max(plan->scratch, phase.scratch);
        if (i == largest) {
            plan->algorithm = phase.algorithm;
            plan->cost = fc_adjoint_cost(&plan->problem, phase.cost);
        }
        if (phases == 1) { /* its plan is kept: execute_alone */
            plan->threads = phase.threads;
            memcpy(plan->tile, phase.tile, sizeof plan->tile);
        }
    }
    return FC_OK;
}

fc_status fc_adjoint_plan(fc_conv_plan *plan, const char *algorithm, int threads)
{
    int64_t phases = fc_adjoint_phases(&plan->problem);
    if (!phases)
        return FC_OK;
    const fc_conv_plan begun = *plan;
    fc_status status = plan_phases(plan, algorithm, phases);
    if (status == FC_REFUSED && phases > 1 && fc_adjoint_driver(algorithm)) { /* it may serve all phases at once */
        *plan = begun;
        plan->cost = INFINITY;
    } else if (status)
        return status;
    plan->chosen = algorithm != NULL;
    if (phases > 1 && (status || plan->algorithm >= 0) && fc_reduction(&plan->problem))
        plan_together(plan, algorithm, threads);
    return fc_adjoint_together(plan) ? FC_OK : status;
}

int64_t fc_adjoint_scratch(const fc_conv_plan *plan)
{
    int64_t most = plan->scratch, w, x;
    for (int64_t i = 0; i < fc_adjoint_phases(&plan->problem) && !fc_adjoint_together(plan); i++) {
        fc_conv q = fc_adjoint_problem(&plan->problem, i, &w, &x);
        fc_conv_plan phase;
        if (fc_reduction(&q) && !plan_phase(&phase, &q, plan->precision, NULL))
            most = fc_max(most, phase.scratch);
    }
    return most;
}

/* Where some phase has nothing to sum, all of x is filled at once, in rows, before the others write their places. */
static fc_status fill_empty_phases(const fc_conv *p, int64_t phases, void *x, void *bias)
{
    int64_t w_begin, x_begin, i = 0;
    for (fc_conv q; i < phases; i++) {
        q = fc_adjoint_problem(p, i, &w_begin, &x_begin);
        if (!fc_reduction(&q))
            break;
    }
    if (i == phases)
        return FC_OK;
    fc_conv all = {.real = p->real, .batch = p->batch, .groups = p->groups, .out_channels = p->channels, .y = p->x};
    for (int axis = 0; axis < FC_AXES; axis++) {
        all.window.out[axis] = p->window.in[axis];
        all.window.stride[axis] = all.window.dilation[axis] = 1;
    }
    fc_conv_plan fill;
    fc_status status = fc_conv_plan_make(&fill, &all, FC_FORWARD, FC_PRECISION_HIGH, NULL);
    return status ? status : fc_conv_execute(&fill, NULL, NULL, bias, x);
}

/* A phase that is alone, by the plan that was made for it. */
static fc_status execute_alone(const fc_conv_plan *plan, void *x, void *w, void *bias, void *y)
{
    int64_t at_w, at_x, size = fc_dispatch(plan->problem.real)->size;
    fc_conv_plan phase = *plan;
    phase.problem = fc_adjoint_problem(&plan->problem, 0, &at_w, &at_x);
    phase.direction = FC_FORWARD;
    return fc_conv_execute(&phase, y, fc_at(w, at_w, size), bias, fc_at(x, at_x, size));
}

fc_status fc_adjoint_execute(const fc_conv_plan *plan, void *x, void *w, void *bias, void *y)
{
    const fc_conv *p = &plan->problem;
    if (fc_adjoint_phases(p) == 1)
        return execute_alone(plan, x, w, bias, y);
    if (fc_adjoint_together(plan))
        return fc_adjoint_driver(fc_conv_algorithm_name(FC_ADJOINT, plan->algorithm))->run(plan, x, w, bias, y);
    int64_t phases = fc_adjoint_phases(p), size = fc_dispatch(p->real)->size, at_w, at_x;
    /* Scratch is kept between calls: taken once here, no phase can fail for want of it after another has written. */
    if (!fc_arena_take(plan->scratch))
        return FC_NO_MEMORY;
    fc_arena_give();
    const char *algorithm = plan->chosen ? fc_conv_algorithm_name(FC_ADJOINT, plan->algorithm) : NULL;
    fc_status status = fill_empty_phases(p, phases, x, bias);
    for (int64_t i = 0; i < phases && !status; i++) {
        fc_conv q = fc_adjoint_problem(p, i, &at_w, &at_x);
        fc_conv_plan phase;
        if (!fc_reduction(&q))
            continue;
        status = plan_phase(&phase, &q, plan->precision, algorithm);
        if (!status)
            status = fc_conv_execute(&phase, y, fc_at(w, at_w, size), bias, fc_at(x, at_x, size));
    }
    return status;
}
