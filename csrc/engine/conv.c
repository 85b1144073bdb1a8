/* Plans and the chooser: an ordered list of drivers per direction, each applicable or refused with its reason, the cheapest
 * estimate taken.  The last of each list always applies. */
#include "base/cpu.h"
#include "engine/output.h"

#include <math.h>
#include <string.h>

static const fc_driver *const forward_drivers[] = {
    &fc_driver_fill,       &fc_driver_few_pixels, &fc_driver_depthwise,         &fc_driver_planes,
    &fc_driver_stencil,    &fc_driver_winograd,   &fc_driver_winograd_channels, &fc_driver_winograd_strided,
    &fc_driver_pixels,     &fc_driver_turned,     &fc_driver_pointwise,         &fc_driver_channels,
    &fc_driver_im2col,     &fc_driver_reference,  NULL};
static const fc_driver *const weight_drivers[] = {&fc_driver_weight_depthwise, &fc_driver_weight_planes,
                                                  &fc_driver_weight_stencil,   &fc_driver_weight_winograd,
                                                  &fc_driver_weight_gemm,      &fc_driver_weight_channels,
                                                  &fc_driver_weight_rows,      &fc_driver_weight_few_pixels,
                                                  &fc_driver_weight_patches,   &fc_driver_weight_reference,
                                                  NULL};

/* Multiplications (or outputs, where nothing is summed) below which one thread does it all: waking a second one costs more
 * (5-50 us). */
enum { SERIAL_MULTIPLICATIONS = 400000 };

/* Estimated nanoseconds below which the chooser takes one thread where cores share no near cache: the second would fetch the image
 * and the weights, line by line, from the first.  Granite Rapids, 3x3 16-32@14: 23.9 us with two, 16.4 with one, its input gradient
 * 28.1, 16.3; depthwise 3x3 512@14, estimated 14.4 us: 18.8, 30.2. */
enum { SERIAL_COST = 12000 };

static const fc_driver *const *drivers_of(fc_direction direction)
{
    return direction == FC_WEIGHT ? weight_drivers : forward_drivers;
}

/* Sizes that no index computation overflows on: every position that a tap can name, and every stride times it, is taken
 * to be below 2^61; array strides come from arrays that exist. */
static int valid(const fc_conv *p)
{
    const fc_window *w = &p->window;
    int64_t bound = INT64_MAX / 4;
    if (p->batch < 0 || p->groups < 1 || p->channels < 0 || p->out_channels < 0)
        return 0;
    for (int i = 0; i < FC_AXES; i++) {
        if (w->in[i] < 0 || w->out[i] < 0 || w->kernel[i] < 0 || w->stride[i] < 1 || w->dilation[i] < 1)
            return 0;
        int64_t span = fc_add(fc_mul(w->out[i], w->stride[i]), fc_mul(w->kernel[i], w->dilation[i]));
        if (span > bound || w->offset[i] > bound || w->offset[i] < -bound)
            return 0;
    }
    return fc_mul(fc_mul(p->groups, p->out_channels), fc_reduction(p)) < bound &&
           fc_mul(fc_mul(p->batch, p->groups), fc_mul(p->out_channels, fc_outputs(w))) < bound;
}

static int known(const fc_driver *const *drivers, const char *name)
{
    for (int i = 0; drivers[i]; i++)
        if (!strcmp(drivers[i]->name, name))
            return 1;
    return 0;
}

/* Plans the problem with the driver of this name, or with the cheapest.  The choice is made for one thread, so that results do
 * not depend on their number; then the driver's plan is made anew for as many threads as its scratch allows. */
static fc_status choose(fc_conv_plan *plan, const char *name, int threads)
{
    const fc_driver *const *drivers = drivers_of(plan->direction);
    fc_conv_plan candidate = *plan;
    double least = INFINITY, cost;
    int last = 0;
    while (drivers[last + 1])
        last++;
    /* The reference first, which serves the least problems; then those that serve the simplest. */
    for (int k = 0; k <= last && !(least < FC_ENOUGH && plan->multiplications); k++) {
        int i = k ? k - 1 : last;
        if ((name && strcmp(drivers[i]->name, name)) || drivers[i]->plan(&candidate, &cost) || !(cost < least))
            continue;
        least = cost;
        *plan = candidate;
        plan->algorithm = i;
        plan->cost = cost;
    }
    if (plan->algorithm < 0)
        return FC_REFUSED;
    if (!name && plan->cost < SERIAL_COST && !fc_cpu_has_near_cache())
        threads = 1;
    for (; threads > 1; threads /= 2) {
        candidate = *plan;
        candidate.threads = threads;
        if (!drivers[plan->algorithm]->plan(&candidate, &cost)) {
            *plan = candidate;
            break;
        }
    }
    plan->chosen = name != NULL;
    return FC_OK;
}

fc_status fc_conv_plan_make(fc_conv_plan *plan, const fc_conv *p, fc_direction direction, fc_precision precision,
                            const char *algorithm)
{
    return fc_conv_plan_for(plan, p, direction, precision, algorithm, fc_threads_get());
}

fc_status fc_conv_plan_for(fc_conv_plan *plan, const fc_conv *p, fc_direction direction, fc_precision precision, const char *algorithm,
                           int most)
{
    *plan = (fc_conv_plan){.problem = *p, .direction = direction, .precision = precision, .algorithm = -1, .threads = 1};
    if (!valid(p))
        return FC_INVALID;
    int64_t outputs = fc_mul(fc_mul(p->batch, p->groups), fc_mul(p->out_channels, fc_outputs(&p->window)));
    plan->multiplications = fc_mul(outputs, fc_reduction(p));
    int threads = fc_max(plan->multiplications, outputs) >= SERIAL_MULTIPLICATIONS ? most : 1;
    if (algorithm && !known(drivers_of(direction), algorithm))
        return FC_INVALID;
    if (direction == FC_ADJOINT) {
        fc_adjoint_tile(&plan->problem);
        return fc_adjoint_plan(plan, algorithm, threads);
    }
    if (direction == FC_FORWARD && !outputs)
        return FC_OK;
    return choose(plan, algorithm, threads);
}

typedef struct outputs {
    const fc_conv_plan *plan;
    void *y;
} outputs;

/* The bounds of one plane of a channel; of one of all channels where these are neighbours. */
static void clamp_plane(void *context, int64_t task, int worker)
{
    (void)worker;
    const outputs *j = context;
    const fc_conv *p = &j->plan->problem;
    const fc_kernels *kernels = fc_dispatch(p->real);
    int64_t channels = p->groups * p->out_channels, width = p->window.out[2], pixel = p->y.c == 1 ? channels : 1;
    int64_t whole = p->y.s[2] == pixel ? width : 1; /* pixels that follow each other without gaps */
    int64_t planes = p->window.out[0] * (p->y.c == 1 ? 1 : channels), n = task / planes, rest = task % planes;
    int64_t first = n * p->y.n + rest % p->window.out[0] * p->y.s[0] + rest / p->window.out[0] * p->y.c;
    for (int64_t oh = 0; oh < p->window.out[1]; oh++)
        for (int64_t ow = 0; ow < width; ow += whole)
            fc_output_clamp(p, kernels, fc_at(j->y, first + oh * p->y.s[1] + ow * p->y.s[2], kernels->size), whole * pixel);
}

static void clamp_outputs(const fc_conv_plan *plan, void *y)
{
    const fc_conv *p = &plan->problem;
    outputs j = {plan, y};
    int64_t planes = p->window.out[0] * (p->y.c == 1 ? 1 : p->groups * p->out_channels);
    fc_parallel(plan->threads, p->batch * planes, clamp_plane, &j);
}

fc_status fc_conv_execute(const fc_conv_plan *plan, void *x, void *w, void *bias, void *y)
{
    if (plan->direction == FC_ADJOINT)
        return fc_adjoint_execute(plan, x, w, bias, y);
    if (plan->algorithm < 0)
        return FC_OK;
    const fc_driver *driver = drivers_of(plan->direction)[plan->algorithm];
    fc_status status = driver->run(plan, x, w, bias, y);
    if (status == FC_OK && plan->problem.bounds.on && !driver->bounded)
        clamp_outputs(plan, y);
    return status;
}

/* The offer of a driver for the largest phase, for all of them; instead of it, where the same driver does all phases at once and
 * would be taken for that, or serves no phase alone, what this costs. */
static void offer_adjoint(const fc_conv *p, fc_precision precision, fc_conv_option *option)
{
    const fc_driver *together = fc_adjoint_driver(option->name);
    fc_conv_plan plan = {.problem = *p, .direction = FC_ADJOINT, .precision = precision, .threads = 1};
    double cost;
    option->cost = fc_adjoint_cost(p, option->cost);
    if (fc_adjoint_phases(p) > 1 && together && !together->plan(&plan, &cost) && cost <= option->cost) {
        option->reason = NULL;
        option->cost = cost;
        option->scratch = plan.scratch;
    }
}

int fc_conv_options(const fc_conv *p, fc_direction direction, fc_precision precision, fc_conv_option *options)
{
    const fc_driver *const *drivers = drivers_of(direction);
    fc_conv_plan plan;
    fc_conv problem = *p, adjoint = *p;
    int64_t w, x;
    fc_adjoint_tile(&adjoint);
    if (direction == FC_ADJOINT && !fc_adjoint_phases(p)) /* no positions, no choice */
        return 0;
    if (direction == FC_ADJOINT)
        problem = fc_adjoint_problem(&adjoint, fc_adjoint_largest(&adjoint), &w, &x);
    if (fc_conv_plan_make(&plan, &problem, direction == FC_WEIGHT ? FC_WEIGHT : FC_FORWARD, precision, NULL) ||
        plan.algorithm < 0) /* no outputs, no choice: the drivers take every size for positive */
        return 0;
    int count = 0;
    for (; drivers[count]; count++) {
        fc_conv_plan candidate = plan;
        candidate.threads = 1;
        fc_conv_option *option = &options[count];
        *option = (fc_conv_option){.name = drivers[count]->name, .cost = INFINITY};
        option->reason = drivers[count]->plan(&candidate, &option->cost);
        option->scratch = candidate.scratch;
        if (option->reason)
            option->cost = INFINITY;
        if (direction == FC_ADJOINT)
            offer_adjoint(&adjoint, precision, option);
    }
    return count;
}

const char *fc_conv_algorithm_name(fc_direction direction, int algorithm)
{
    return algorithm < 0 ? "none" : drivers_of(direction)[algorithm]->name;
}
