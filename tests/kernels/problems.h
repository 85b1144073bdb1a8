/* Random problems of csrc/engine with their arrays in guarded memory, and what they should give. */
#ifndef PROBLEMS_H
#define PROBLEMS_H

#include "check.h"
#include "fastconv.h"

typedef struct problem {
    fc_conv conv;
    fc_direction direction;
    array *x, *w, *y, *bias;
    int64_t x0, w0, y0; /* where element (0, 0, ...) stands */
    int with_bias;
    double largest; /* of the outputs, before they are bounded */
} problem;

/* Strides of any sign and order with gaps, axis i of size[i]; `repeats`: some may be 0.  Returns where element 0 stands,
 * and how many elements there are in *count. */
int64_t random_layout(int axes, const int64_t *size, int64_t *stride, int repeats, int64_t *count);

/* A window over 1 to 3 axes with all that a window can have, sometimes of size 0; axes up to `most` long. */
fc_window random_window(int64_t most);

/* `large`: enough work for more than one thread. */
problem random_problem(fc_real real, fc_direction direction, int large);
/* Arrays for it: layouts and values; only the output can be written. */
void problem_fill(problem *p);
/* What the output should be, by the definition, with a bound that holds for sums in any order. */
void problem_expect(problem *p);
array *problem_output(const problem *p);
int64_t problem_multiplications(const fc_conv *c);

#endif
