/* What the checks of the C code share: arrays in guarded memory, expected values, random numbers, failures.
 *
 * An array ends right before a page that cannot be touched, or begins right after one, so that a kernel that reads or
 * writes beyond it is caught at the first byte.  The open side is filled with a pattern that must survive.  An array that
 * a kernel may only read is locked.  One that it writes is watched: every element is either expected, with a bound on its
 * error, or must keep its bytes.
 */
#ifndef CHECK_H
#define CHECK_H

#include <setjmp.h>
#include <stdint.h>

typedef enum element { FLOAT32, FLOAT64, INT32, INT64 } element; /* the first two as fc_real */

typedef struct array {
    char *data;
    element type;
    int64_t count;
    char *map, *before; /* the room; a copy of the watched zone */
    double *want, *bound;
    int64_t capacity;
    int locked;
} array;

enum { KEPT = -1 }; /* the bound of an element that must not change */

int64_t element_size(element type);
double value_get(const void *data, element type, int64_t i);
void value_put(void *data, element type, int64_t i, double value);
/* The value rounded to the type. */
double value_round(element type, double value);
/* Half the distance from 1 to the next number. */
double value_epsilon(element type);

/* All arrays are free for the next case. */
void arrays_reset(void);
/* Full of NaN (integers: -1). */
array *array_take(element type, int64_t count, int at_end);
/* Uniform in [-1, 1). */
array *array_random(element type, int64_t count, int at_end);
double array_get(const array *a, int64_t i);
void array_put(array *a, int64_t i, double value);
/* Nobody may write to it any more. */
void array_lock(array *a);
void array_watch(array *a);
/* As it was when it was watched. */
void array_restore(array *a);
void array_expect(array *a, int64_t i, double want, double bound);
/* Fails at the first element that is wrong, and where memory around the array has changed. */
void array_check(const array *a, const char *name);

/* The same numbers for the same seed. */
void random_seed(uint64_t seed);
int64_t random_integer(int64_t least, int64_t most);
double random_uniform(void);
/* One of the values that follow, `count` of them. */
int64_t random_choice(int count, const int64_t *values);
#define CHOOSE(...)                                                                                                  \
    random_choice((int)(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)), (const int64_t[]){__VA_ARGS__})

/* What is being tried, for the message of a failure. */
void describe(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* Ends the running check. */
_Noreturn void fail(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* The first line of a program: "isas baseline avx2 ..." */
void print_isas(const char *const *names, int count);
/* Runs a check; its failure, or NULL.  A touched guard page is a failure, and on another thread the end of the program. */
const char *caught(void (*check)(void *context), void *context);

#endif
