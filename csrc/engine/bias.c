/* The bias gradient, sums[c] = sum_{n, p} x[n, c, p], summed in double. */
#include "engine/conv.h"

/* Elements below which waking a second thread costs more than it saves. */
enum { SERIAL_ELEMENTS = 200000 };

typedef struct job {
    const int64_t *size;
    const fc_array_strides *strides;
    const fc_kernels *kernels;
    const char *x;
    char *sums;
} job;

static void sum_channel(void *context, int64_t c, int worker)
{
    (void)worker;
    const job *j = context;
    const fc_array_strides *s = j->strides;
    int64_t depth = j->size[2], height = j->size[3], width = j->size[4];
    int flat = s->s[2] == 1 && s->s[1] == width && (depth == 1 || s->s[0] == height * width);
    int64_t rows = flat ? 1 : depth * height;
    double sum = 0;
    for (int64_t n = 0; n < j->size[0]; n++)
        for (int64_t r = 0; r < rows; r++) {
            int64_t at = n * s->n + c * s->c + (flat ? 0 : r / height * s->s[0] + r % height * s->s[1]);
            j->kernels->sum_row(&sum, fc_at(j->x, at, j->kernels->size), s->s[2], flat ? depth * height * width : width);
        }
    if (j->kernels->size == sizeof(float))
        *(float *)fc_at(j->sums, c, sizeof(float)) = (float)sum;
    else
        *(double *)fc_at(j->sums, c, sizeof(double)) = sum;
}

void fc_channel_sums(fc_real real, const int64_t size[2 + FC_AXES], const fc_array_strides *strides, const void *x, void *sums)
{
    job j = {size, strides, fc_dispatch(real), x, sums};
    int64_t count = fc_mul(fc_mul(size[0], size[1]), fc_mul(fc_mul(size[2], size[3]), size[4]));
    fc_parallel(count < SERIAL_ELEMENTS ? 1 : fc_threads_get(), size[1], sum_channel, &j);
}
