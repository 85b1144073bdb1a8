#include "engine/band.h"

#include "engine/conv.h"

#include <string.h>

static int64_t gcd(int64_t a, int64_t b)
{
    while (b) {
        int64_t r = a % b;
        a = b;
        b = r;
    }
    return a;
}

/* Taps after which the phases of an axis repeat. */
static int64_t period(const fc_window *w, int axis)
{
    return w->stride[axis] == 1 ? 1 : w->stride[axis] / gcd(w->stride[axis], w->dilation[axis]);
}

static int64_t last_shift(const fc_window *w, int axis)
{
    return fc_mul(w->kernel[axis] - 1, w->dilation[axis]) / w->stride[axis];
}

static fc_band plan(const fc_window *w, int64_t rows, int flat)
{
    fc_band band = {.rows = fc_min(rows, w->out[1]), .flat = flat};
    for (int i = 0; i < 2; i++)
        band.slots[i] = i && flat ? w->kernel[2] : fc_min(w->kernel[1 + i], period(w, 1 + i));
    band.copied_rows = fc_add(band.rows, last_shift(w, 1));
    band.pitch = flat ? w->out[2] : fc_add(w->out[2], last_shift(w, 2));
    band.channel = fc_mul(fc_mul(fc_mul(w->kernel[0], band.slots[0]), band.slots[1]), fc_mul(band.copied_rows, band.pitch));
    return band;
}

fc_band fc_band_plan(const fc_window *w, int64_t rows)
{
    return plan(w, rows, 0);
}

fc_band fc_band_plan_flat(const fc_window *w, int64_t rows)
{
    return plan(w, rows, 1);
}

int64_t fc_band_tap(const fc_band *band, const fc_window *w, int64_t kd, int64_t kh, int64_t kw)
{
    int64_t h = kh % band->slots[0], q = kw % band->slots[1];
    int64_t row = kh * w->dilation[1] / w->stride[1], column = band->flat ? 0 : kw * w->dilation[2] / w->stride[2];
    return (((kd * band->slots[0] + h) * band->slots[1] + q) * band->copied_rows + row) * band->pitch + column;
}

/* The element at position `i` of an axis, or NULL in the padding. */
static const char *at(const char *x, int64_t i, int64_t size, int64_t bytes)
{
    return x && i >= 0 && i < size ? x + i * bytes : NULL;
}

/* Where in a plane the copy of slot (h, q) begins: of the phases' shift by the stride, and of the padding before it. */
static void begin_slot(const fc_band *band, const fc_window *w, int64_t oh, int64_t h, int64_t q, int64_t first[2])
{
    first[0] = oh * w->stride[1] + h * w->dilation[1] % w->stride[1] - w->offset[1];
    first[1] = (band->flat ? q * w->dilation[2] : q * w->dilation[2] % w->stride[2]) - w->offset[2];
}

void fc_band_copy(const fc_band *band, const fc_window *w, const fc_kernels *kernels, void *dst, const void *x,
                  const int64_t stride[FC_AXES], int64_t od, int64_t oh, const void *fill)
{
    char *out = dst;
    int64_t slot = band->copied_rows * band->pitch * kernels->size;
    int pairs = w->stride[2] == 2 && stride[2] == 1 && (band->flat ? w->dilation[2] == 1 : band->slots[1] == 2);
    for (int64_t kd = 0; kd < w->kernel[0]; kd++) {
        int64_t id = od * w->stride[0] + kd * w->dilation[0] - w->offset[0];
        const char *plane = at(x, id, w->in[0], stride[0] * kernels->size);
        for (int64_t h = 0; h < band->slots[0]; h++)
            for (int64_t q = 0, both; q < band->slots[1]; q += 1 + both, out += (1 + both) * slot) {
                int64_t first[2];
                begin_slot(band, w, oh, h, q, first);
                both = pairs && q + 1 < band->slots[1];
                if (both)
                    kernels->gather_pairs(out, out + slot, band->copied_rows, band->pitch, plane, stride[1], first, w->stride[1],
                                          w->in + 1, fill);
                else
                    kernels->gather_rows(out, band->pitch, band->copied_rows, band->pitch, plane, stride + 1, first, w->stride + 1,
                                         w->in + 1, fill);
            }
    }
}

/* Those of `count` positions from `first` on, `step` apart, that lie within `size`. */
static void inside(int64_t *begin, int64_t *end, int64_t count, int64_t first, int64_t step, int64_t size)
{
    *begin = first < 0 ? fc_ceil_div(-first, step) : 0;
    *end = fc_min(count, first < size ? fc_ceil_div(size - first, step) : 0);
}

void fc_band_copy_neighbours(const fc_band *band, const fc_window *w, const fc_kernels *kernels, void *dst, int64_t channels,
                             const void *x, const int64_t stride[FC_AXES], int64_t od, int64_t oh)
{
    char *out = memset(dst, 0, (size_t)(channels * band->channel * kernels->size));
    for (int64_t kd = 0; kd < w->kernel[0]; kd++) {
        int64_t id = od * w->stride[0] + kd * w->dilation[0] - w->offset[0];
        const char *plane = at(x, id, w->in[0], stride[0] * kernels->size);
        for (int64_t h = 0; h < band->slots[0]; h++)
            for (int64_t q = 0; q < band->slots[1]; q++, out += band->copied_rows * band->pitch * kernels->size) {
                int64_t first[2], row, row_end, begin, end;
                begin_slot(band, w, oh, h, q, first);
                inside(&row, &row_end, band->copied_rows, first[0], w->stride[1], plane ? w->in[1] : 0);
                inside(&begin, &end, band->pitch, first[1], w->stride[2], w->in[2]);
                for (; row < row_end && begin < end; row++)
                    kernels->transpose(fc_at(out, row * band->pitch + begin, kernels->size), band->channel,
                                       fc_at(plane, (first[0] + row * w->stride[1]) * stride[1] +
                                                        (first[1] + begin * w->stride[2]) * stride[2], kernels->size),
                                       w->stride[2] * stride[2], end - begin, channels);
            }
    }
}
