#include "engine/planes.h"

#include <string.h>

fc_planes fc_planes_plan(const int64_t in[FC_AXES], const fc_array_strides *x, int64_t rows, int64_t columns)
{
    fc_planes p = {.x = *x, .rows = rows, .columns = columns, .place_count = columns};
    memcpy(p.in, in, sizeof p.in);
    if (in[2] == 1) /* NumPy's stride of an axis of size 1 means nothing */
        p.x.s[2] = 1;
    p.flat = p.x.s[2] == 1 && (in[1] == 1 || x->s[1] == in[2]) && in[2] <= columns;
    if (p.flat)
        p.place_count = fc_mul(in[2], fc_min(rows, in[1]));
    return p;
}

/* A byte of a box; of one whose planes are large; of one whose planes share sets of the first-level cache (k4 over 768 rows of
 * 1024: 0.65 ms, the stencil driver 0.25); of elements that are copied one by one. */
#define NEAR 0.016
#define FAR 0.02
#define SHARED 0.05
#define SINGLE 0.2
/* Vectors below 64 bytes take more instructions a byte.  AVX2 on Zen 5, planes measured / estimated without, us, and the depthwise
 * driver: 3x3s2 64@112 168, 106, 97; 128@56 83, 53, 58; 256@28 45, 25, 35; 512@14 26, 16, 32. */
#define SHORT_VECTORS 1.6

double fc_planes_cost(const fc_planes *p, const fc_kernels *kernels, double bytes)
{
    double all = (double)p->in[0] * (double)p->in[1] * (double)p->in[2] * (double)kernels->size;
    bytes *= fc_has_short_vectors(kernels) ? SHORT_VECTORS : 1.0;
    int64_t apart = p->x.c * kernels->size % 4096;
    int shared = all > 2048 && (apart < 64 || apart > 4096 - 64);
    if (p->x.s[2] != 1)
        return bytes * (p->x.c == 1 ? NEAR : SINGLE);
    return bytes * (shared ? SHARED : all > 8192 ? FAR : NEAR);
}

void fc_planes_share(const fc_planes *p, int64_t lanes, int64_t *place)
{
    int64_t width = p->flat ? p->in[2] : p->columns;
    for (int64_t at = 0, row = 0; at < p->place_count; row += p->columns)
        for (int64_t j = 0; j < width; j++)
            place[at++] = (row + j) * lanes;
}

/* Row by row: columns [begin, end) of rows [top, bottom) of the image. */
static void take_rows(const fc_planes *p, const fc_kernels *kernels, const int64_t *place, const void *x, int64_t count,
                      int64_t columns, int64_t rows, char *dst)
{
    static const double zero = 0;
    int64_t size = kernels->size, lanes = kernels->lanes, row = p->columns * lanes;
    for (int64_t i = 0; i < rows; i++, dst += row * size, x = fc_at(x, p->x.s[1], size)) {
        if (p->x.s[2] == 1)
            kernels->transpose_rows(dst, place, x, p->x.c, count, columns);
        else if (p->x.c == 1 && count == lanes)
            kernels->copy_vectors(dst, lanes, x, p->x.s[2], 1, columns);
        else
            for (int64_t j = 0; j < columns; j++)
                kernels->gather_row(fc_at(dst, j * lanes, size), lanes, fc_at(x, j * p->x.s[2], size), p->x.c, 0, 1, count, &zero);
    }
}

/* One plane of a box; x is its element (0, 0). */
static void take_plane(const fc_planes *p, const fc_kernels *kernels, const int64_t *place, const fc_box *box, const void *x,
                       int64_t count, char *dst)
{
    const int64_t *first = box->first, *n = box->size;
    int64_t size = kernels->size, lanes = kernels->lanes, row = p->columns * lanes;
    int64_t top = fc_min(n[1], fc_max(0, -first[1])), bottom = fc_max(top, fc_min(n[1], p->in[1] - first[1]));
    int64_t left = fc_min(n[2], fc_max(0, -first[2])), right = fc_max(left, fc_min(n[2], p->in[2] - first[2]));
    memset(dst, 0, (size_t)(top * row * size));
    memset(dst + bottom * row * size, 0, (size_t)((n[1] - bottom) * row * size));
    if (top == bottom)
        return;
    for (int64_t i = top; i < bottom && right - left < n[2]; i++) {
        char *at = dst + i * row * size;
        kernels->copy_vectors(at, lanes, NULL, 0, 1, left);
        kernels->copy_vectors(fc_at(at, right * lanes, size), lanes, NULL, 0, 1, n[2] - right);
    }
    if (left == right)
        return;
    char *to = fc_at(dst, top * row + left * lanes, size);
    x = fc_at(x, (first[1] + top) * p->x.s[1] + (first[2] + left) * p->x.s[2], size);
    if (p->flat && right - left == p->in[2])
        kernels->transpose_rows(to, place, x, p->x.c, count, (bottom - top) * p->in[2]);
    else
        take_rows(p, kernels, place, x, count, right - left, bottom - top, to);
}

void fc_planes_take(const fc_planes *p, const fc_kernels *kernels, const int64_t *place, const fc_box *box, const void *x,
                    int64_t count, void *dst)
{
    int64_t size = kernels->size, plane = p->rows * p->columns * kernels->lanes;
    for (int64_t d = 0; d < box->size[0]; d++) {
        int64_t id = box->first[0] + d;
        void *to = fc_at(dst, d * plane, size);
        if (id >= 0 && id < p->in[0])
            take_plane(p, kernels, place, box, fc_at(x, id * p->x.s[0], size), count, to);
        else
            memset(to, 0, (size_t)(plane * size));
    }
}

void fc_planes_give(const fc_kernels *kernels, void *y, int64_t c, const int64_t s[FC_AXES], int64_t count, int64_t rows,
                    int64_t columns, const void *src, void *spare)
{
    int64_t size = kernels->size, lanes = kernels->lanes;
    int64_t pixels = rows == 1 || s[1] == columns ? rows * columns : columns, near = s[2] == 1 || columns == 1;
    int64_t vectors = !near && c == 1 && count == lanes; /* channels last: the copy's vectors are y's */
    for (int64_t i = 0; i < rows * columns; i += near ? pixels : vectors ? columns : 1) {
        const void *from = fc_at(src, i * lanes, size);
        void *to = fc_at(y, i / columns * s[1] + i % columns * s[2], size);
        if (vectors) {
            kernels->copy_vectors(to, s[2], from, lanes, 1, columns);
        } else if (!near) {
            kernels->scatter_row(to, c, from, count, 0);
        } else if (count < lanes && pixels >= lanes) {
            kernels->transpose(spare, pixels, from, lanes, pixels, lanes);
            for (int64_t k = 0; k < count; k++)
                kernels->scatter_row(fc_at(to, k * c, size), 1, fc_at(spare, k * pixels, size), pixels, 0);
        } else {
            kernels->transpose(to, c, from, lanes, pixels, count);
        }
    }
}

fc_planes_weights fc_planes_weights_plan(int64_t taps, const int64_t *from, int64_t lanes, int64_t *place)
{
    fc_planes_weights w = {.taps = taps, .least = taps ? from[0] : 0, .dense = 1};
    for (int64_t t = 0; t < taps; t++) {
        w.least = fc_min(w.least, from[t]);
        place[t] = -1;
    }
    for (int64_t t = 0; t < taps && w.dense; t++) {
        int64_t at = from[t] - w.least;
        w.dense = at < taps && place[at] < 0; /* each once */
        if (w.dense)
            place[at] = t * lanes;
    }
    return w;
}

void fc_planes_weights_take(const fc_planes_weights *weights, const fc_kernels *kernels, const int64_t *from, const int64_t *place,
                            const void *w, int64_t group, int64_t count, void *dst)
{
    static const double zero = 0;
    int64_t size = kernels->size, lanes = kernels->lanes;
    if (weights->dense && weights->taps && group >= weights->taps)
        kernels->transpose_rows(dst, place, fc_at(w, weights->least, size), group, count, weights->taps);
    else
        for (int64_t t = 0; t < weights->taps; t++)
            kernels->gather_row(fc_at(dst, t * lanes, size), lanes, fc_at(w, from[t], size), group, 0, 1, count, &zero);
}
