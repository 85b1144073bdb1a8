/* The weights of a convolution, or of all phases of its adjoint, transposed: panels of a strip of output channels (channels.c).
 *
 * A row is a term, (phase, channel, tap), or (phase, tap, channel) where terms go by runs of channels; its elements are the strip's
 * output channels, zeros beyond the last.  The channels come in parts, which follow each other.
 */
#ifndef FC_ENGINE_TAP_PANELS_H
#define FC_ENGINE_TAP_PANELS_H

#include "engine/tap_groups.h"

typedef struct fc_tap_panels {
    const fc_phases *phases;
    const fc_kernels *kernels;
    const char *w;
    int runs;
    int64_t width; /* elements of a row, but by runs those of its own strip's vectors */
} fc_tap_panels;

/* The row of tap t of channel i of `inputs`, from where a part's rows of the phase begin. */
static inline int64_t fc_tap_panel_row(const fc_tap_panels *p, const fc_phase *f, int64_t t, int64_t i, int64_t inputs)
{
    return p->runs ? t * inputs + i : i * fc_taps(&f->problem.window) + t;
}

/* Elements of a row, of a strip of `nv` vectors. */
static inline int64_t fc_tap_panel_row_elements(const fc_tap_panels *p, int64_t nv)
{
    return p->runs ? nv * p->kernels->lanes : p->width;
}

/* Writes the part of channels c ... c + inputs of group g for the `nv` vectors of outputs from o on; place: room for a number for each
 * of `inputs` and four times the taps. */
void fc_tap_panel_pack(const fc_tap_panels *p, char *panel, int64_t *place, int64_t g, int64_t o, int64_t nv, int64_t c, int64_t inputs);

#endif
