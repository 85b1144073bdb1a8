/* Channels as lanes: boxes of pixels of many planes, copied so that a pixel is one vector over the planes, and back.
 *
 * What the depthwise drivers over planes share.  A transpose costs about a third of a cycle an element (0.12 ns), and all the rest
 * runs in whole vectors, whatever the windows and however narrow the rows.
 */
#ifndef FC_ENGINE_PLANES_H
#define FC_ENGINE_PLANES_H

#include "engine/conv.h"

/* The most taps of a window: longer sums would lose precision. */
enum { FC_PLANES_TAPS_MAX = 256 };

/* A box of pixels, [first, first + size) along each axis; it may reach beyond the image. */
typedef struct fc_box {
    int64_t first[FC_AXES], size[FC_AXES];
} fc_box;

/* Copies of boxes of at most these rows and columns of an image of size `in`. */
typedef struct fc_planes {
    int64_t in[FC_AXES];
    fc_array_strides x;
    int64_t rows, columns; /* of a copy, whose rows and planes stand equally far apart whatever the box */
    int64_t place_count;
    int flat; /* rows follow each other without gaps, and boxes hold whole ones */
} fc_planes;

fc_planes fc_planes_plan(const int64_t in[FC_AXES], const fc_array_strides *x, int64_t rows, int64_t columns);

/* Nanoseconds, in the measure of the depthwise driver's estimate, to copy so many bytes of a box, or back. */
double fc_planes_cost(const fc_planes *planes, const fc_kernels *kernels, double bytes);

/* Fills place_count elements that takes share. */
void fc_planes_share(const fc_planes *planes, int64_t lanes, int64_t *place);

/* dst[d][h][w] = pixel first + (d, h, w) of `count` <= lanes planes from x on, x.c apart; zeros beyond the image and in the lanes
 * that are left. */
void fc_planes_take(const fc_planes *planes, const fc_kernels *kernels, const int64_t *place, const fc_box *box, const void *x,
                    int64_t count, void *dst);

/* The reverse: rows x columns pixels of src, without gaps, to y, whose strides are s (and c over `count` planes).  `spare` is as
 * large as src. */
void fc_planes_give(const fc_kernels *kernels, void *y, int64_t c, const int64_t s[FC_AXES], int64_t count, int64_t rows,
                    int64_t columns, const void *src, void *spare);

/* Weights as vectors over groups: dst[t] = the weights of `count` groups at element from[t] of each, t < taps. */
typedef struct fc_planes_weights {
    int64_t taps, least; /* the least of `from` */
    int dense;           /* they are all the elements from the least on */
} fc_planes_weights;

/* Given `from`, fills `place`, as many elements. */
fc_planes_weights fc_planes_weights_plan(int64_t taps, const int64_t *from, int64_t lanes, int64_t *place);
void fc_planes_weights_take(const fc_planes_weights *weights, const fc_kernels *kernels, const int64_t *from, const int64_t *place,
                            const void *w, int64_t group, int64_t count, void *dst);

#endif
