#include "engine/band.h"

#include "base/size.h"

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

/* How many of the band's rows from row ih of a plane on lie in the image with all their columns, strided: these are picked at once:
 * 28 of every second pixel 4.5 ns a row, 11.5 one by one; 1x1s2 256-512@56 at two threads 1010 to 992 us (Zen 4). */
static int64_t whole_rows(const fc_band *band, const fc_window *w, const char *plane, int64_t ih, int64_t iw)
{
    int64_t last = iw + (band->pitch - 1) * w->stride[2];
    if (!plane || w->stride[2] == 1 || ih < 0 || ih >= w->in[1] || iw < 0 || last >= w->in[2])
        return 0;
    return fc_min(band->copied_rows, fc_ceil_div(w->in[1] - ih, w->stride[1]));
}

void fc_band_copy(const fc_band *band, const fc_window *w, const fc_kernels *kernels, void *dst, const void *x,
                  const int64_t stride[FC_AXES], int64_t od, int64_t oh, const void *fill)
{
    char *out = dst;
    for (int64_t kd = 0; kd < w->kernel[0]; kd++) {
        int64_t id = od * w->stride[0] + kd * w->dilation[0] - w->offset[0];
        const char *plane = at(x, id, w->in[0], stride[0] * kernels->size);
        for (int64_t h = 0; h < band->slots[0]; h++)
            for (int64_t q = 0; q < band->slots[1]; q++) {
                int64_t ih = oh * w->stride[1] + h * w->dilation[1] % w->stride[1] - w->offset[1];
                int64_t iw = (band->flat ? q * w->dilation[2] : q * w->dilation[2] % w->stride[2]) - w->offset[2];
                int64_t whole = whole_rows(band, w, plane, ih, iw);
                if (whole)
                    kernels->pick_rows(out, band->pitch, plane + (ih * stride[1] + iw * stride[2]) * kernels->size,
                                       w->stride[1] * stride[1], w->stride[2] * stride[2], whole, band->pitch);
                ih += whole * w->stride[1];
                out += whole * band->pitch * kernels->size;
                for (int64_t j = whole; j < band->copied_rows; j++, ih += w->stride[1], out += band->pitch * kernels->size)
                    kernels->gather_row(out, band->pitch, at(plane, ih, w->in[1], stride[1] * kernels->size), stride[2], iw,
                                        w->stride[2], w->in[2], fill);
            }
    }
}
