/* The engine on random problems: every algorithm of every direction against the definition, on arrays of any strides in
 * guarded memory; and the choice of the instruction set.
 *
 *     check_engine first count           `count` problems per ISA, real type and direction, the first with seed `first`
 *     check_engine first count large     only problems for several threads, only on the best ISA
 *
 * Prints a line per ISA, real type, direction and algorithm:  ok|FAIL isa real direction algorithm  runs|what went wrong.
 * Algorithms come from fc_conv_options(), so a new one is tried without a change here.  Each call runs on a thread of its
 * own, whose scratch is as large as its plan says and no larger.
 */
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/conv.h"
#include "problems.h"

enum { LARGE_EVERY = 12, THREADS = 3 };

static const char *const reals[] = {"float32", "float64"};
static const char *const directions[] = {"forward", "adjoint", "weight"};
static const char *const precisions[] = {"high", "highest"};

typedef struct record {
    char name[32];
    int64_t runs;
    char wrong[1024];
} record;

static record records[FC_ALGORITHMS_MAX];
static int recorded;

static record *record_of(const char *name)
{
    for (int i = 0; i < recorded; i++)
        if (!strcmp(records[i].name, name))
            return &records[i];
    if (recorded == FC_ALGORITHMS_MAX)
        fail("more algorithms than FC_ALGORITHMS_MAX");
    record *r = &records[recorded++];
    *r = (record){.runs = 0};
    snprintf(r->name, sizeof r->name, "%s", name);
    return r;
}

typedef struct call {
    const problem *p;
    const fc_conv_plan *plan;
    fc_status status;
} call;

static void *execute(void *context)
{
    call *c = context;
    const problem *p = c->p;
    int64_t size = element_size((element)p->conv.real);
    c->status = fc_conv_execute(c->plan, p->x->data + p->x0 * size, p->w->data + p->w0 * size,
                                p->with_bias ? p->bias->data : NULL, p->y->data + p->y0 * size);
    return NULL;
}

static void execute_afresh(const problem *p, const fc_conv_plan *plan)
{
    call c = {p, plan, FC_INVALID};
    pthread_t thread;
    if (pthread_create(&thread, NULL, execute, &c))
        fail("no thread to run on");
    pthread_join(thread, NULL);
    if (c.status)
        fail("executed with status %d", c.status);
}

static void describe_problem(const problem *p, const char *algorithm, int threads, fc_precision precision, int64_t seed)
{
    const fc_conv *c = &p->conv;
    const fc_window *v = &c->window;
    char text[256];
    int used = 0;
    const int64_t *parts[] = {v->in, v->kernel, v->out, v->stride, v->dilation, v->offset};
    static const char *const names[] = {"in", "kernel", "out", "stride", "dilation", "offset"};
    for (int i = 0; i < 6; i++)
        used += snprintf(text + used, sizeof text - (size_t)used, " %s %lld,%lld,%lld", names[i], (long long)parts[i][0],
                         (long long)parts[i][1], (long long)parts[i][2]);
    describe("%s %s %s %s seed %lld, precision %s, %d threads: N=%lld G=%lld C=%lld O=%lld%s%s%s", fc_isa_name(), reals[c->real],
             directions[p->direction], algorithm, (long long)seed, precisions[precision], threads, (long long)c->batch,
             (long long)c->groups, (long long)c->channels, (long long)c->out_channels, text, p->with_bias ? " bias" : "",
             c->bounds.on ? " bounded" : "");
}

/* The documented error of the fast algorithms for float32: 1e-5 of the largest output. */
static void loosen(array *out, double largest)
{
    for (int64_t i = 0; i < out->count; i++)
        if (out->bound[i] != KEPT)
            out->bound[i] = fmax(out->bound[i], 1e-5 * largest);
}

/* A case: one algorithm (NULL: the cheapest) at one precision, on one thread and on three, which give the same bits. */
typedef struct attempt {
    const problem *p;
    const char *algorithm;
    fc_precision precision;
    int64_t seed;
    record *record;
} attempt;

static void try_algorithm(void *context)
{
    const attempt *a = context;
    array *out = problem_output(a->p);
    size_t bytes = (size_t)(out->count * element_size(out->type));
    static char *first;
    static size_t capacity;
    if (capacity < bytes)
        first = realloc(first, capacity = bytes);
    for (int threads = 1; threads <= THREADS; threads += THREADS - 1) {
        fc_conv_plan plan;
        describe_problem(a->p, a->algorithm ? a->algorithm : "chosen", threads, a->precision, a->seed);
        fc_threads_set(threads);
        fc_status status = fc_conv_plan_make(&plan, &a->p->conv, a->p->direction, a->precision, a->algorithm);
        if (a->p->direction == FC_ADJOINT && a->algorithm && status == FC_REFUSED)
            return; /* the algorithm serves the largest phase, which the options show, but not another */
        if (status)
            fail("planned with status %d", status);
        if (plan.scratch > fc_scratch_max(plan.threads))
            fail("books %lld bytes of scratch", (long long)plan.scratch);
        array_restore(out);
        execute_afresh(a->p, &plan);
        array_check(out, "output");
        a->record->runs++;
        if (threads == 1)
            memcpy(first, out->data, bytes);
        else if (memcmp(first, out->data, bytes))
            fail("one thread and three give different bits");
        if (plan.threads == 1 && a->p->direction != FC_ADJOINT && problem_multiplications(&a->p->conv) < 100000)
            break; /* too small for threads: the second run would be the first again */
    }
}

static void note(record *r, const char *wrong)
{
    if (wrong && !r->wrong[0])
        snprintf(r->wrong, sizeof r->wrong, "%s", wrong);
}

/* The options agree with the plans: what is refused cannot be planned, the last always applies, the choice is the cheapest, or
 * cheap enough not to ask the others.  Where there are no outputs there is no choice. */
static void check_options(void *context)
{
    const attempt *a = context;
    const fc_conv *c = &a->p->conv;
    fc_conv_option options[FC_ALGORITHMS_MAX];
    fc_conv_plan plan;
    fc_threads_set(1);
    describe_problem(a->p, "chosen", 1, a->precision, a->seed);
    int count = fc_conv_options(c, a->p->direction, a->precision, options), cheapest = 0;
    if (count && options[count - 1].reason)
        fail("the last algorithm does not apply: %s", options[count - 1].reason);
    for (int i = 0; i < count; i++) {
        if ((options[i].reason == NULL) != (isfinite(options[i].cost) != 0))
            fail("%s costs %g and is refused for \"%s\"", options[i].name, options[i].cost, options[i].reason);
        fc_status status = fc_conv_plan_make(&plan, c, a->p->direction, a->precision, options[i].name);
        if (a->p->direction != FC_ADJOINT && problem_output(a->p)->count && status != (options[i].reason ? FC_REFUSED : FC_OK))
            fail("%s: status %d, and the reason is \"%s\"", options[i].name, status, options[i].reason);
        cheapest = options[i].cost < options[cheapest].cost ? i : cheapest;
    }
    fc_status status = fc_conv_plan_make(&plan, c, a->p->direction, a->precision, NULL);
    if (status)
        fail("planned with status %d", status);
    if ((plan.algorithm < 0) != (count == 0))
        fail("%d algorithms to choose from, chose %s", count, fc_conv_algorithm_name(a->p->direction, plan.algorithm));
    if (count && plan.cost >= FC_ENOUGH && strcmp(fc_conv_algorithm_name(a->p->direction, plan.algorithm), options[cheapest].name))
        fail("chose %s, but %s costs least", fc_conv_algorithm_name(a->p->direction, plan.algorithm), options[cheapest].name);
}

static void try_problem(fc_real real, fc_direction direction, int large, int64_t seed)
{
    random_seed((uint64_t)seed);
    problem p = random_problem(real, direction, large);
    problem_fill(&p);
    problem_expect(&p);
    for (int precision = FC_PRECISION_HIGHEST; precision >= FC_PRECISION_HIGH; precision--) {
        fc_conv_option options[FC_ALGORITHMS_MAX];
        attempt a = {&p, NULL, (fc_precision)precision, seed, record_of("chosen")};
        if (precision == FC_PRECISION_HIGH && real == FC_FLOAT32)
            loosen(problem_output(&p), p.largest);
        note(a.record, caught(check_options, &a));
        note(a.record, caught(try_algorithm, &a));
        fc_threads_set(1);
        int count = fc_conv_options(&p.conv, direction, (fc_precision)precision, options);
        for (int i = 0; i < count; i++) {
            a.algorithm = options[i].name;
            a.record = record_of(options[i].name);
            if (!options[i].reason)
                note(a.record, caught(try_algorithm, &a));
        }
    }
}

/* Caps choose the last available row up to themselves; tables are of their ISA and of their type. */
static void check_dispatch(void *unused)
{
    (void)unused;
    static const char *const known[] = {"baseline", "avx2", "avx512", "neon"};
    const char *isas[8], *rank[4];
    int count = fc_isa_available(isas, 8), ranks = 0;
    describe("dispatch");
    if (count < 1 || strcmp(isas[0], "baseline"))
        fail("%d instruction sets, the first is %s", count, count ? isas[0] : "missing");
    for (int k = 0; k < 4; k++) { /* those available come in the order of `known` */
        if (ranks < count && !strcmp(isas[ranks], known[k]))
            rank[ranks++] = known[k];
        if (fc_isa_cap(known[k]))
            fail("the cap %s is refused", known[k]);
#if defined(__x86_64__)
        const char *want = k == 3 ? "baseline" : rank[ranks - 1];
#else
        const char *want = k == 3 ? rank[ranks - 1] : "baseline";
#endif
        if (strcmp(fc_isa_name(), want))
            fail("the cap %s gives %s, not %s", known[k], fc_isa_name(), want);
        for (fc_real real = FC_FLOAT32; real <= FC_FLOAT64; real++) {
            const fc_kernels *table = fc_dispatch(real);
            if (strcmp(table->isa, want) || table->size != element_size((element)real))
                fail("the table of %s %s is of %s and %lld bytes", want, reals[real], table->isa, (long long)table->size);
        }
    }
    if (ranks != count)
        fail("%s is out of order", isas[ranks]);
    if (fc_isa_cap("baseline") || fc_isa_cap("sse9") != FC_INVALID || strcmp(fc_isa_name(), "baseline"))
        fail("an unknown cap is accepted, or changes the choice");
    if (fc_isa_cap(NULL) || strcmp(fc_isa_name(), isas[count - 1]))
        fail("without a cap %s is chosen, not %s", fc_isa_name(), isas[count - 1]);
    if (fc_isa_available(isas, 1) != 1)
        fail("more names than there is room for");
}

/* What no problem can have, and what would overflow on the way to a plan. */
static void check_invalid(void *unused)
{
    (void)unused;
    const fc_conv good = {.batch = 1, .groups = 1, .channels = 2, .out_channels = 2,
                          .window = {{1, 5, 5}, {1, 3, 3}, {1, 3, 3}, {1, 1, 1}, {1, 1, 1}, {0, 0, 0}}};
    fc_conv c = good;
    fc_window *w = &c.window;
    fc_conv_plan plan;
    const struct {
        const char *name;
        int64_t *field, value;
    } wrong[] = {
        {"batch", &c.batch, -1},         {"batch", &c.batch, INT64_MAX},
        {"groups", &c.groups, 0},        {"groups", &c.groups, INT64_MAX / 2},
        {"channels", &c.channels, -1},   {"channels", &c.channels, INT64_MAX / 8},
        {"outputs", &c.out_channels, -1}, {"outputs", &c.out_channels, INT64_MAX / 16},
        {"in", &w->in[2], -1},           {"in", &w->in[0], INT64_MIN},
        {"kernel", &w->kernel[0], -1},   {"kernel", &w->kernel[1], INT64_MAX},
        {"out", &w->out[1], -1},         {"out", &w->out[2], INT64_MAX},
        {"stride", &w->stride[1], 0},    {"stride", &w->stride[2], INT64_MAX},
        {"dilation", &w->dilation[2], 0}, {"dilation", &w->dilation[0], INT64_MAX},
        {"offset", &w->offset[1], INT64_MAX}, {"offset", &w->offset[0], INT64_MIN},
    };
    describe("invalid problems");
    if (fc_conv_plan_make(&plan, &good, FC_FORWARD, FC_PRECISION_HIGH, NULL))
        fail("the valid one is refused");
    if (fc_conv_plan_make(&plan, &good, FC_FORWARD, FC_PRECISION_HIGH, "no such algorithm") != FC_INVALID)
        fail("an unknown algorithm is accepted");
    for (int direction = FC_FORWARD; direction <= FC_WEIGHT; direction++)
        for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
            c = good;
            *wrong[i].field = wrong[i].value;
            if (fc_conv_plan_make(&plan, &c, (fc_direction)direction, FC_PRECISION_HIGH, NULL) != FC_INVALID)
                fail("%s is planned with %s = %lld", directions[direction], wrong[i].name, (long long)wrong[i].value);
        }
}

/* The bias gradient on arrays of any strides: sums in double, rounded once. */
static void check_sums(void *unused)
{
    (void)unused;
    for (int64_t seed = 0; seed < 200; seed++) {
        random_seed((uint64_t)seed);
        fc_real real = seed % 2 ? FC_FLOAT64 : FC_FLOAT32;
        int64_t size[5], stride[5], count, most = seed % 20 ? 7 : 12; /* now and then enough for threads */
        for (int i = 0; i < 5; i++)
            size[i] = random_integer(0, 29) ? random_integer(most == 12 ? most - 1 : 1, most) : 0;
        arrays_reset();
        int64_t first = random_layout(5, size, stride, 1, &count);
        array *x = array_random((element)real, count, 1), *sums = array_take((element)real, size[1], 1);
        array_lock(x);
        array_watch(sums);
        describe("channel sums, seed %lld", (long long)seed);
        for (int64_t c = 0; c < size[1]; c++) {
            double sum = 0, magnitude = 0;
            for (int64_t i = 0; i < size[0] * size[2] * size[3] * size[4]; i++) {
                int64_t w = i % size[4], h = i / size[4] % size[3], d = i / size[4] / size[3] % size[2];
                int64_t n = i / size[4] / size[3] / size[2];
                int64_t row = first + n * stride[0] + c * stride[1] + d * stride[2] + h * stride[3];
                double value = array_get(x, row + w * stride[4]);
                sum += value;
                magnitude += fabs(value);
            }
            double terms = (double)(size[0] * size[2] * size[3] * size[4]);
            array_expect(sums, c, sum, value_epsilon(sums->type) * fabs(sum) + 2 * value_epsilon(FLOAT64) * terms * magnitude);
        }
        fc_array_strides strides;
        memcpy(&strides, stride, sizeof strides);
        fc_threads_set(THREADS);
        fc_channel_sums(real, size, &strides, x->data + first * element_size(x->type), sums->data);
        array_check(sums, "sums");
    }
}

static int report(const char *name, const char *wrong)
{
    printf("%s %s %s\n", wrong ? "FAIL" : "ok", name, wrong ? wrong : "1");
    fflush(stdout);
    return wrong != NULL;
}

int main(int count, char **arguments)
{
    if (count != 3 && count != 4)
        return fprintf(stderr, "usage: check_engine first count [large]\n"), 2;
    int large = count == 4;
    int64_t seed = atoll(arguments[1]), problems = atoll(arguments[2]);
    const char *isas[8];
    int available = fc_isa_available(isas, 8), failures = 0;
    print_isas(isas, available);
    failures += report("dispatch", caught(check_dispatch, NULL));
    failures += report("invalid", caught(check_invalid, NULL));
    failures += report("sums", caught(check_sums, NULL));
    for (int i = large ? available - 1 : 0; i < available; i++)
        for (fc_real real = FC_FLOAT32; real <= FC_FLOAT64; real++)
            for (fc_direction direction = FC_FORWARD; direction <= FC_WEIGHT; direction++) {
                fc_isa_cap(isas[i]);
                recorded = 0;
                for (int64_t k = 0; k < problems; k++)
                    try_problem(real, direction, large || k % LARGE_EVERY == LARGE_EVERY - 1, seed + k);
                for (int r = 0; r < recorded; r++) {
                    const record *a = &records[r];
                    printf("%s %s %s %s %s ", a->wrong[0] ? "FAIL" : "ok", isas[i], reals[real], directions[direction], a->name);
                    if (a->wrong[0])
                        printf("%s\n", a->wrong);
                    else
                        printf("%lld\n", (long long)a->runs);
                    failures += a->wrong[0] != 0;
                }
                fflush(stdout);
            }
    return failures > 0;
}
