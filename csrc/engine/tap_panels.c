#include "engine/tap_panels.h"

/* Where all taps of `inputs` channels go that are read together, channel by channel: place[i * span + element of w]. */
static void list_places(const fc_tap_panels *p, int64_t *place, int64_t low, int64_t span, int64_t inputs, int64_t row)
{
    for (int64_t i = 0; i < inputs * span; i++)
        place[i] = -1;
    for (const fc_phase *f = p->phases->phase; f < p->phases->phase + p->phases->count; f++) {
        int64_t taps = fc_taps(&f->problem.window);
        for (int64_t t = 0; t < taps; t++) {
            int64_t at = fc_phase_tap(f, t) - low;
            for (int64_t i = 0; i < inputs; i++)
                place[i * span + at] = (f->place * inputs + fc_tap_panel_row(p, f, t, i, inputs)) * row;
        }
    }
}

/* Tap by tap. */
static void pack_taps(const fc_tap_panels *p, char *panel, int64_t *place, const char *w, int64_t outputs, int64_t nv, int64_t inputs)
{
    static const double zero = 0;
    const fc_kernels *kernels = p->kernels;
    const fc_weight_strides *from = &p->phases->whole.w;
    int64_t size = kernels->size, row = fc_tap_panel_row_elements(p, nv);
    for (const fc_phase *f = p->phases->phase; f < p->phases->phase + p->phases->count; f++) {
        int64_t taps = fc_taps(&f->problem.window);
        for (int64_t i = 0; i < inputs; i++)
            place[i] = fc_tap_panel_row(p, f, 0, i, inputs) * row;
        for (int64_t t = 0; t < taps; t++) {
            const char *src = fc_at(w, fc_phase_tap(f, t), size);
            char *dst = fc_at(panel, (f->place * inputs + fc_tap_panel_row(p, f, t, 0, inputs)) * row, size);
            if (from->c == 1)
                kernels->transpose_rows(dst, place, src, from->o, outputs, inputs);
            else
                for (int64_t i = 0; i < inputs; i++)
                    kernels->gather_row(fc_at(dst, place[i], size), nv * kernels->lanes, fc_at(src, i * from->c, size), from->o, 0, 1,
                                        outputs, &zero);
        }
    }
}

void fc_tap_panel_pack(const fc_tap_panels *p, char *panel, int64_t *place, int64_t g, int64_t o, int64_t nv, int64_t c, int64_t inputs)
{
    const fc_conv *whole = &p->phases->whole;
    const fc_weight_strides *from = &whole->w;
    const fc_kernels *kernels = p->kernels;
    int64_t size = kernels->size, outputs = fc_min(nv * kernels->lanes, whole->out_channels - o), low = 0, span = 1, apart = 1;
    for (int i = 0; i < FC_AXES; i++) {
        int64_t reach = (whole->window.kernel[i] - 1) * from->k[i];
        low += fc_min(0, reach);
        span += reach < 0 ? -reach : reach;
        apart &= whole->window.kernel[i] == 1 || from->k[i] != 0; /* else taps share elements */
    }
    const char *w = fc_at(p->w, g * from->g + o * from->o + c * from->c, size);
    if (from->c == 1 || from->o == 1 || !apart || span > 4 * fc_taps(&whole->window)) {
        pack_taps(p, panel, place, w, outputs, nv, inputs);
        return;
    }
    int64_t calls = from->c == span ? 1 : inputs; /* a channel's taps lie close together, perhaps the channels too */
    list_places(p, place, low, span, inputs, fc_tap_panel_row_elements(p, nv));
    for (int64_t i = 0; i < calls; i++)
        kernels->transpose_rows(panel, place + i * span, fc_at(w, i * from->c + low, size), from->o, outputs, inputs / calls * span);
}
