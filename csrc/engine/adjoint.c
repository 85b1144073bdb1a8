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
 */
#include "engine/depthwise.h"

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

/* Whether a depthwise adjoint's phases are done together. */
static int plan_together(fc_conv_plan *plan, int64_t largest, const char *algorithm)
{
    fc_conv_plan together = *plan, phase;
    int64_t w, x;
    fc_conv q = fc_adjoint_problem(&plan->problem, largest, &w, &x);
    if ((algorithm && strcmp(algorithm, fc_driver_depthwise.name)) ||
        plan_phase(&phase, &q, plan->precision, fc_driver_depthwise.name))
        return 0;
    together.algorithm = phase.algorithm;
    together.chosen = algorithm != NULL;
    together.threads = phase.threads;
    together.cost = (double)fc_adjoint_phases(&plan->problem) * phase.cost;
    if (!fc_depthwise_adjoint_plan(&together))
        return 0;
    *plan = together;
    return 1;
}

fc_status fc_adjoint_plan(fc_conv_plan *plan, const char *algorithm)
{
    int64_t phases = fc_adjoint_phases(&plan->problem), w, x;
    if (!phases)
        return FC_OK;
    int64_t largest = fc_adjoint_largest(&plan->problem);
    if (plan_together(plan, largest, algorithm))
        return FC_OK;
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
            plan->cost = (double)phases * phase.cost;
        }
    }
    plan->chosen = algorithm != NULL;
    return FC_OK;
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

fc_status fc_adjoint_execute(const fc_conv_plan *plan, void *x, void *w, void *bias, void *y)
{
    const fc_conv *p = &plan->problem;
    if (fc_adjoint_together(plan))
        return fc_depthwise_adjoint_execute(plan, x, w, bias, y);
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
