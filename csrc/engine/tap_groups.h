/* The taps and outputs of a convolution, or of its adjoint, cut into boxes: each tap of a group meets each of its outputs.
 *
 * Outputs near the border meet fewer taps, since the others fall into the padding.  Axis by axis, either outputs that meet the
 * same taps go together, so that each has one sum, or, where the image is narrow and such boxes would hold a pixel or two, taps
 * that meet the same outputs.  The adjoint of a strided convolution is a forward problem per phase of the stride (adjoint.c),
 * whose outputs are every s-th of all: here its phases are just more groups.
 */
#ifndef FC_ENGINE_TAP_GROUPS_H
#define FC_ENGINE_TAP_GROUPS_H

#include "engine/conv.h"

enum { FC_PHASES_MAX = 16 };

typedef struct fc_phase {
    fc_conv problem;                       /* a forward one */
    int64_t w_begin;                       /* where its weights begin */
    int64_t first[FC_AXES], step[FC_AXES]; /* its output o is output first + o step of all */
    int64_t place;                         /* taps of the phases before */
} fc_phase;

typedef struct fc_phases {
    int count;
    fc_conv whole; /* all outputs, channels and taps; no phase's geometry */
    fc_phase phase[FC_PHASES_MAX];
} fc_phases;

/* Fills `phases` for a forward problem or an adjoint; returns 0 where there would be too many. */
int fc_phases_plan(fc_phases *phases, const fc_conv *problem, fc_direction direction);

/* Where the weight of tap t of the phase stands. */
int64_t fc_phase_tap(const fc_phase *phase, int64_t t);

/* Taps first ... first + taps of an axis meet outputs begin ... end. */
typedef struct fc_tap_box {
    int64_t first, taps, begin, end;
} fc_tap_box;

typedef struct fc_tap_group {
    const fc_phase *phase;
    fc_tap_box axis[FC_AXES];
    int64_t place; /* taps of the groups before */
    int first;     /* no group before it meets its outputs */
} fc_tap_group;

typedef struct fc_tap_counts {
    int64_t groups, taps;     /* taps: of all groups */
    double products, visits;  /* multiplications of one image and one pair of channels; outputs of all groups */
} fc_tap_counts;

fc_tap_counts fc_tap_groups_count(const fc_phases *phases);

/* Writes at most as many groups as were counted, and how many; the others meet no output.  Returns whether the first groups
 * meet every output. */
int fc_tap_groups_list(const fc_phases *phases, fc_tap_group *groups, int64_t *count);

static inline int64_t fc_group_taps(const fc_tap_group *g)
{
    return g->axis[0].taps * g->axis[1].taps * g->axis[2].taps;
}

#endif
