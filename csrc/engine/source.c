#include "engine/source.h"

/* Every tap of every output inside the image, neighbours in memory, rows without gaps between them. */
static int lies_as_band(const fc_conv *p)
{
    const fc_window *w = &p->window;
    for (int i = 1; i < FC_AXES; i++)
        if (w->out[i] > 1 && w->stride[i] > 1)
            return 0;
    return fc_lies_inside(w) && (p->x.s[2] == 1 || w->in[2] == 1) && (p->x.s[1] == w->in[2] || w->in[1] == 1);
}

static void set_band(fc_source *s, int64_t size, int64_t channels)
{
    s->pitch = s->band.pitch;
    s->channel = s->band.channel;
    s->bytes = fc_arena_round(fc_min(INT64_MAX / 2, fc_mul(fc_add(fc_mul(channels, s->channel), FC_LANES_MAX), size)));
}

fc_source fc_source_plan(const fc_conv *p, int64_t size, int64_t channels, int64_t rows, int in_place_allowed)
{
    fc_source s = {.band = fc_band_plan(&p->window, rows), .rows = rows};
    if (in_place_allowed && lies_as_band(p)) {
        s.in_place = 1;
        s.pitch = p->window.in[2];
        s.channel = p->x.c;
        return s;
    }
    set_band(&s, size, channels);
    return s;
}

fc_source fc_source_plan_flat(const fc_conv *p, int64_t size, int64_t channels, int64_t rows)
{
    fc_source s = {.band = fc_band_plan_flat(&p->window, rows), .rows = rows};
    set_band(&s, size, channels);
    return s;
}

int64_t fc_source_rows(const fc_conv *p, int64_t size, int64_t channels, int64_t bytes)
{
    int64_t height = p->window.out[1];
    fc_band one = fc_band_plan(&p->window, 1);
    int64_t row = fc_mul(fc_mul(channels, one.channel / one.copied_rows), size), most = bytes / fc_max(row, 1);
    int64_t rows = fc_max(1, fc_min(height, most - (one.copied_rows - 1)));
    return fc_ceil_div(height, fc_ceil_div(height, rows));
}

void fc_source_offsets(const fc_source *s, const fc_conv *p, int64_t channels, int64_t *offset)
{
    const fc_window *w = &p->window;
    int64_t taps = fc_taps(w), *at = offset;
    for (int64_t kd = 0; kd < w->kernel[0] && channels; kd++)
        for (int64_t kh = 0; kh < w->kernel[1]; kh++)
            for (int64_t kw = 0; kw < w->kernel[2]; kw++)
                *at++ = s->in_place ? kd * w->dilation[0] * p->x.s[0] + kh * w->dilation[1] * p->x.s[1] +
                                          kw * w->dilation[2] * p->x.s[2]
                                    : fc_band_tap(&s->band, w, kd, kh, kw);
    for (int64_t i = taps; i < channels * taps; i++)
        offset[i] = offset[i - taps] + s->channel;
}

const void *fc_source_take(const fc_source *s, const fc_conv *p, const fc_kernels *kernels, void *scratch, const void *x,
                           int64_t channels, int64_t od, int64_t oh)
{
    const fc_window *w = &p->window;
    if (s->in_place) {
        int64_t id = od * w->stride[0] - w->offset[0], ih = oh * w->stride[1] - w->offset[1];
        return fc_at(x, id * p->x.s[0] + ih * p->x.s[1] - w->offset[2] * p->x.s[2], kernels->size);
    }
    if (p->x.c == 1 && p->x.s[2] != 1) {
        fc_band_copy_neighbours(&s->band, w, kernels, scratch, channels, x, p->x.s, od, oh);
        return scratch;
    }
    static const double zero = 0;
    for (int64_t c = 0; c < channels; c++)
        fc_band_copy(&s->band, w, kernels, fc_at(scratch, c * s->channel, kernels->size),
                     fc_at(x, c * p->x.c, kernels->size), p->x.s, od, oh, &zero);
    return scratch;
}
