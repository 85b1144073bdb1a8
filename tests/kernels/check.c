#define _GNU_SOURCE
#include "check.h"

#include <math.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { ROOMS = 12, ROOM_BYTES = 8 << 20, PAGE_BYTES = 64 << 10, SLACK_BYTES = 512 };

static array rooms[ROOMS];
static int taken;
static uint64_t state = 1;
static char context[512], message[1024];
static sigjmp_buf escape;
static pthread_t catcher;
static volatile sig_atomic_t catching;

int64_t element_size(element type)
{
    return type == FLOAT32 || type == INT32 ? 4 : 8;
}

double value_get(const void *data, element type, int64_t i)
{
    switch (type) {
    case FLOAT32: return (double)((const float *)data)[i];
    case FLOAT64: return ((const double *)data)[i];
    case INT32: return ((const int32_t *)data)[i];
    default: return (double)((const int64_t *)data)[i];
    }
}

void value_put(void *data, element type, int64_t i, double value)
{
    switch (type) {
    case FLOAT32: ((float *)data)[i] = (float)value; break;
    case FLOAT64: ((double *)data)[i] = value; break;
    case INT32: ((int32_t *)data)[i] = (int32_t)value; break;
    default: ((int64_t *)data)[i] = (int64_t)value;
    }
}

double value_round(element type, double value)
{
    return type == FLOAT32 ? (double)(float)value : value;
}

double value_epsilon(element type)
{
    return type == FLOAT32 ? 0x1p-24 : 0x1p-53;
}

static void open_rooms(void)
{
    for (int i = 0; i < ROOMS; i++) {
        char *map = mmap(NULL, ROOM_BYTES + 2 * PAGE_BYTES, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (map == MAP_FAILED || mprotect(map + PAGE_BYTES, ROOM_BYTES, PROT_READ | PROT_WRITE)) {
            perror("guarded memory");
            exit(3);
        }
        rooms[i].map = map + PAGE_BYTES;
        rooms[i].before = malloc(ROOM_BYTES);
    }
}

void arrays_reset(void)
{
    taken = 0;
}

/* The array with the open side's slack. */
static char *zone(const array *a, int64_t *bytes)
{
    int64_t size = a->count * element_size(a->type);
    *bytes = size + SLACK_BYTES;
    return a->data + size == a->map + ROOM_BYTES ? a->data - SLACK_BYTES : a->data;
}

array *array_take(element type, int64_t count, int at_end)
{
    int64_t bytes = count * element_size(type);
    if (!rooms[0].map)
        open_rooms();
    if (taken == ROOMS || count < 0 || bytes + SLACK_BYTES > ROOM_BYTES) {
        fprintf(stderr, "no room for %lld elements: %s\n", (long long)count, context);
        exit(3);
    }
    array *a = &rooms[taken++];
    if (a->locked)
        mprotect(a->map, ROOM_BYTES, PROT_READ | PROT_WRITE);
    a->locked = 0;
    a->type = type;
    a->count = count;
    a->data = at_end ? a->map + ROOM_BYTES - bytes : a->map;
    memset(zone(a, &bytes), 0xff, (size_t)bytes);
    return a;
}

array *array_random(element type, int64_t count, int at_end)
{
    array *a = array_take(type, count, at_end);
    for (int64_t i = 0; i < count; i++)
        array_put(a, i, random_uniform());
    return a;
}

double array_get(const array *a, int64_t i)
{
    return value_get(a->data, a->type, i);
}

void array_put(array *a, int64_t i, double value)
{
    value_put(a->data, a->type, i, value);
}

void array_lock(array *a)
{
    a->locked = !mprotect(a->map, ROOM_BYTES, PROT_READ);
}

void array_watch(array *a)
{
    int64_t bytes;
    const char *begin = zone(a, &bytes);
    memcpy(a->before, begin, (size_t)bytes);
    if (a->capacity < a->count) {
        a->capacity = 2 * a->count;
        a->want = realloc(a->want, (size_t)a->capacity * sizeof(double));
        a->bound = realloc(a->bound, (size_t)a->capacity * sizeof(double));
    }
    for (int64_t i = 0; i < a->count; i++)
        a->bound[i] = KEPT;
}

void array_restore(array *a)
{
    int64_t bytes;
    char *begin = zone(a, &bytes);
    memcpy(begin, a->before, (size_t)bytes);
}

void array_expect(array *a, int64_t i, double want, double bound)
{
    if (i < 0 || i >= a->count)
        fail("the check itself is wrong: element %lld of %lld", (long long)i, (long long)a->count);
    a->want[i] = want;
    a->bound[i] = bound;
}

/* Exact where the bound is zero, and then zeros have signs; anything where it is infinite. */
static int agrees(double got, double want, double bound)
{
    if (isinf(bound))
        return 1;
    if (isnan(want) || isinf(want) || bound == 0)
        return isnan(want) ? isnan(got) : got == want && !signbit(got) == !signbit(want);
    return fabs(got - want) <= bound;
}

void array_check(const array *a, const char *name)
{
    int64_t bytes, size = element_size(a->type);
    const char *begin = zone(a, &bytes), *before = a->before + (a->data - begin);
    for (int64_t i = 0; i < a->count; i++) {
        double got = array_get(a, i), want = a->bound[i] == KEPT ? value_get(before, a->type, i) : a->want[i];
        if (a->bound[i] == KEPT && memcmp(a->data + i * size, before + i * size, (size_t)size))
            fail("%s[%lld] was not to be written: %.17g became %.17g", name, (long long)i, want, got);
        if (a->bound[i] != KEPT && !agrees(got, want, a->bound[i]))
            fail("%s[%lld] of %lld is %.17g, not %.17g; the bound is %.2g", name, (long long)i, (long long)a->count, got,
                 want, a->bound[i]);
    }
    int64_t from = begin == a->data ? a->count * size : 0; /* of the slack */
    for (int64_t i = from; i < from + SLACK_BYTES; i++)
        if (begin[i] != a->before[i])
            fail("byte %lld %s %s was overwritten", (long long)(from ? i - from : SLACK_BYTES - i),
                 from ? "after" : "before", name);
}

void random_seed(uint64_t seed)
{
    state = seed * 0x9e3779b97f4a7c15u + 0x632be59bd9b4e019u;
}

/* splitmix64 (Steele, Lea and Flood, 2014). */
static uint64_t random_bits(void)
{
    uint64_t z = state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

int64_t random_integer(int64_t least, int64_t most)
{
    return least + (int64_t)(random_bits() % (uint64_t)(most - least + 1));
}

double random_uniform(void)
{
    return (double)(random_bits() >> 11) * 0x1p-52 - 1;
}

int64_t random_choice(int count, const int64_t *values)
{
    return values[random_integer(0, count - 1)];
}

void describe(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(context, sizeof context, format, arguments);
    va_end(arguments);
}

void fail(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    int used = snprintf(message, sizeof message, "%s: ", context);
    vsnprintf(message + used, sizeof message - (size_t)used, format, arguments);
    va_end(arguments);
    siglongjmp(escape, 1);
}

void print_isas(const char *const *names, int count)
{
    printf("isas");
    for (int i = 0; i < count; i++)
        printf(" %s", names[i]);
    printf("\n");
}

static void on_fault(int number, siginfo_t *info, void *unused)
{
    (void)unused;
    const char *address = info->si_addr, *what = number == SIGBUS ? "a bus error" : "memory that is nobody's";
    char text[128] = "";
    for (int i = 0; i < taken; i++)
        if (address >= rooms[i].map - PAGE_BYTES && address < rooms[i].map + ROOM_BYTES + PAGE_BYTES) {
            what = rooms[i].locked ? "an array that is only to be read" : "an array that is written";
            snprintf(text, sizeof text, ", at byte %lld of its %lld", (long long)(address - rooms[i].data),
                     (long long)(rooms[i].count * element_size(rooms[i].type)));
        }
    snprintf(message, sizeof message, "%s: touched %s%s", context, what, text);
    if (catching && pthread_equal(pthread_self(), catcher))
        siglongjmp(escape, 1);
    printf("FAIL %s\n", message);
    fflush(stdout);
    _exit(2);
}

const char *caught(void (*check)(void *), void *argument)
{
    struct sigaction action = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO | SA_NODEFER};
    sigaction(SIGSEGV, &action, NULL);
    sigaction(SIGBUS, &action, NULL);
    catcher = pthread_self();
    if (sigsetjmp(escape, 1)) {
        catching = 0;
        return message;
    }
    catching = 1;
    check(argument);
    catching = 0;
    return NULL;
}
