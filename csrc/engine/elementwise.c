/* What stands between the convolutions of a training step: ReLU's gradient, batch normalisation, the momentum step.
 *
 *     relu:        dx = g where low < y < high, else 0
 *     residual:    y = min(max(y + x, low), high)
 *     momentum:    u = keep u + fraction g,  w = w - lr u  (Nesterov: w - lr (g + momentum u))
 *     batch norm:  y = (x - mean_c) weight_c / sqrt(variance_c + eps) + bias_c,  and its gradient
 *
 * Elements are cut into pieces of fixed length, batch normalisation into channels, whatever the number of threads: the same bits at
 * any.  A channel is read three times (mean, variance, output), but stays in the second-level cache between: one pass over memory
 * instead of NumPy's eight.  No scratch.
 *
 * Not here: ReLU forward, which convolutions do as they store (`bounds` of fc_conv), and NumPy elsewhere; SGD without momentum, two
 * passes in NumPy that nobody waits for.
 */
#include <math.h>

#include "base/size.h"
#include "base/threads.h"
#include "engine/dispatch.h"

/* Elements of a task, and below which waking a second thread costs more than it saves. */
enum { PIECE = 16384, SERIAL_ELEMENTS = 200000 };

typedef struct elements {
    const fc_kernels *kernels;
    int64_t count;
    char *dst, *velocity;
    const char *gradient, *y;
    double low, high;
    const fc_momentum *rule;
} elements;

static int threads_for(int64_t count)
{
    return count < SERIAL_ELEMENTS ? 1 : fc_threads_get();
}

static void gate_piece(void *context, int64_t piece, int worker)
{
    (void)worker;
    const elements *e = context;
    int64_t first = piece * PIECE, count = e->count - first < PIECE ? e->count - first : PIECE, at = first * e->kernels->size;
    e->kernels->elementwise.gate(e->dst + at, e->gradient + at, e->y + at, e->low, e->high, count);
}

void fc_gate(fc_real real, int64_t count, double low, double high, const void *y, const void *gradient, void *dst)
{
    elements e = {.kernels = fc_dispatch(real), .count = count, .dst = dst, .gradient = gradient, .y = y, .low = low, .high = high};
    fc_parallel(threads_for(count), (count + PIECE - 1) / PIECE, gate_piece, &e);
}

static void add_piece(void *context, int64_t piece, int worker)
{
    (void)worker;
    const elements *e = context;
    int64_t first = piece * PIECE, count = e->count - first < PIECE ? e->count - first : PIECE, at = first * e->kernels->size;
    e->kernels->elementwise.add(e->dst + at, e->y + at, e->low, e->high, count);
}

void fc_residual_add(fc_real real, int64_t count, double low, double high, const void *x, void *y)
{
    elements e = {.kernels = fc_dispatch(real), .count = count, .dst = y, .y = x, .low = low, .high = high};
    fc_parallel(threads_for(count), (count + PIECE - 1) / PIECE, add_piece, &e);
}

static void momentum_piece(void *context, int64_t piece, int worker)
{
    (void)worker;
    const elements *e = context;
    int64_t first = piece * PIECE, count = e->count - first < PIECE ? e->count - first : PIECE, at = first * e->kernels->size;
    const fc_momentum *r = e->rule;
    e->kernels->elementwise.momentum(e->dst + at, e->velocity + at, e->gradient + at, r->keep, r->fraction, r->momentum, r->lr,
                                     r->nesterov, count);
}

void fc_momentum_step(fc_real real, int64_t count, const fc_momentum *rule, const void *gradient, void *velocity, void *parameter)
{
    elements e = {.kernels = fc_dispatch(real), .count = count, .dst = parameter, .velocity = velocity, .gradient = gradient,
                  .rule = rule};
    fc_parallel(threads_for(count), (count + PIECE - 1) / PIECE, momentum_piece, &e);
}

typedef struct norm {
    const fc_batch_norm *problem;
    const fc_kernels *kernels;
    const char *x, *gradient;
    char *out;
    double *grad_weight, *grad_bias;
} norm;

static int64_t row_at(const norm *j, int64_t n, int64_t c)
{
    return (n * j->problem->channels + c) * j->problem->pixels * j->kernels->size;
}

static void measure(const norm *j, int64_t c)
{
    const fc_batch_norm *p = j->problem;
    double count = (double)(p->batch * p->pixels), sum = 0, squares = 0;
    for (int64_t n = 0; n < p->batch; n++)
        j->kernels->sum_row(&sum, j->x + row_at(j, n, c), 1, p->pixels);
    p->mean[c] = count > 0 ? sum / count : 0;
    for (int64_t n = 0; n < p->batch; n++)
        j->kernels->elementwise.square_row(&squares, j->x + row_at(j, n, c), p->mean[c], p->pixels);
    p->variance[c] = count > 0 ? squares / count : 0;
}

static void normalize_channel(void *context, int64_t c, int worker)
{
    (void)worker;
    const norm *j = context;
    const fc_batch_norm *p = j->problem;
    if (p->from_batch)
        measure(j, c);
    double factor = p->weight[c] / sqrt(p->variance[c] + p->eps);
    for (int64_t n = 0; n < p->batch; n++)
        j->kernels->elementwise.affine_row(j->out + row_at(j, n, c), j->x + row_at(j, n, c), p->mean[c], factor, p->bias[c],
                                           p->pixels);
}

void fc_batch_norm_forward(const fc_batch_norm *problem, const void *x, void *y)
{
    norm j = {.problem = problem, .kernels = fc_dispatch(problem->real), .x = x, .out = y};
    int64_t count = fc_mul(fc_mul(problem->batch, problem->channels), problem->pixels);
    fc_parallel(threads_for(count), problem->channels, normalize_channel, &j);
}

static void differentiate_channel(void *context, int64_t c, int worker)
{
    (void)worker;
    const norm *j = context;
    const fc_batch_norm *p = j->problem;
    double sum = 0, product = 0, scale = 1 / sqrt(p->variance[c] + p->eps), count = (double)(p->batch * p->pixels);
    for (int64_t n = 0; n < p->batch; n++)
        j->kernels->elementwise.product_row(&sum, &product, j->gradient + row_at(j, n, c), j->x + row_at(j, n, c), p->mean[c],
                                            p->pixels);
    j->grad_bias[c] = sum;
    j->grad_weight[c] = product * scale;
    if (!j->out)
        return;
    double shift = p->from_batch ? sum / count : 0, slope = p->from_batch ? product * scale * scale / count : 0;
    for (int64_t n = 0; n < p->batch; n++)
        j->kernels->elementwise.combine_row(j->out + row_at(j, n, c), j->gradient + row_at(j, n, c), j->x + row_at(j, n, c),
                                            p->mean[c], shift, slope, p->weight[c] * scale, p->pixels);
}

void fc_batch_norm_gradient(const fc_batch_norm *problem, const void *x, const void *gradient, double *grad_weight,
                            double *grad_bias, void *dx)
{
    norm j = {.problem = problem, .kernels = fc_dispatch(problem->real), .x = x, .gradient = gradient, .out = dx,
              .grad_weight = grad_weight, .grad_bias = grad_bias};
    int64_t count = fc_mul(fc_mul(problem->batch, problem->channels), problem->pixels);
    fc_parallel(threads_for(count), problem->channels, differentiate_channel, &j);
}
