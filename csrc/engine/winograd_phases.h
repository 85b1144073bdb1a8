/* One axis of an image for winograd_strided.c: a kernel's taps by phases of the stride, and where they stand in a transform. */
#ifndef FC_ENGINE_WINOGRAD_PHASES_H
#define FC_ENGINE_WINOGRAD_PHASES_H

#include "engine/winograd.h"

enum { FC_WINOGRAD_STRIDE_MAX = 4, FC_WINOGRAD_POINTS = 6 };

/* Forwards each phase has its own patches, or all have the same, side by side as channels; an adjoint's phases share theirs. */
typedef enum fc_winograd_order { FC_WINOGRAD_FORWARD, FC_WINOGRAD_PACKED, FC_WINOGRAD_ADJOINT } fc_winograd_order;

/* A phase of an axis: taps `tap`, tap + stride, ... */
typedef struct fc_winograd_phase {
    int64_t tap, taps;
    int64_t at;         /* the place of the first, of an adjoint the last, among the r of a transform */
    int64_t begin, end; /* points with a term */
    int64_t skip;       /* pixels of a panel before the phase's first patch */
} fc_winograd_phase;

/* Where the kernel has one tap there is nothing to transform: tiles and patches are single pixels. */
typedef struct fc_winograd_strided_axis {
    int64_t m, points, tiles; /* no tiles: m does not serve the phases */
    int64_t stride, count;    /* count: phases with outputs or inputs of their own, as many as the stride */
    int64_t step_in, step_out; /* pixels of a panel from one of a phase to the next: 1 or the stride */
    int64_t first, extra;     /* position of a panel's first pixel; pixels of the panel of n tiles: step_in m n + extra */
    int64_t largest, terms;   /* the phase with the most taps; products of a tile: points of each phase with a term */
    int64_t begin, end;       /* points with a term in any phase */
    fc_winograd_phase phase[FC_WINOGRAD_STRIDE_MAX];
} fc_winograd_strided_axis;

/* For tiles of m outputs; `window` is the forward one, whatever the order. */
fc_winograd_strided_axis fc_winograd_strided_cut(const fc_window *window, int axis, int64_t m, fc_winograd_order order);

/* The m that takes the fewest products; 0 if none serves. */
int64_t fc_winograd_strided_edge(const fc_window *window, fc_winograd_order order);

#endif
