/* Merged bands: images of few pixels side by side, so that a mix of theirs is one product.
 *
 *     far[c][n * pixels + p] = image[n, c, p]
 *
 * Nothing is copied where they lie so already, as the pixels of channels-last images do.  Scratch: a band of x, where it is mixed,
 * and of y, per worker.
 */
#include "engine/chain.h"

/* Whether the pixels of all images are equally far from each other. */
static int side_by_side(const fc_array_strides *s, int64_t rows, int64_t columns)
{
    return s->n == rows * columns * s->s[2] && (s->s[1] == columns * s->s[2] || rows == 1);
}

/* Copies between an image array and a far buffer. */
static void copy_far(const fc_chain_walk *walk, const fc_chain_region *r, const fc_chain_view *from, const fc_chain_view *to,
                     int64_t channels, int64_t rows, int64_t columns)
{
    static const double zero = 0;
    const fc_kernels *kernels = walk->l->kernels;
    const fc_array_strides *a = &from->stride, *b = &to->stride;
    int64_t size = kernels->size;
    int whole = a->s[2] == 1 && b->s[2] == 1 && (rows == 1 || (a->s[1] == columns && b->s[1] == columns));
    for (int64_t n = 0; n < r->images; n++)
        for (int64_t c = 0; c < channels; c++) {
            char *dst = fc_at(to->at, n * b->n + c * b->c, size), *src = fc_at(from->at, n * a->n + c * a->c, size);
            if (whole)
                kernels->scatter_row(dst, 1, src, rows * columns, 0);
            for (int64_t i = 0; i < rows && !whole; i++, dst += b->s[1] * size, src += a->s[1] * size)
                if (b->s[2] == 1)
                    kernels->gather_row(dst, columns, src, a->s[2], 0, 1, columns, &zero);
                else
                    kernels->scatter_row(dst, b->s[2], src, columns, 0);
        }
}

fc_chain_view fc_chain_far(fc_chain_walk *walk, const fc_chain_region *r, int buffer, const fc_chain_view *image, int64_t channels,
                           int64_t rows, int64_t columns, int load)
{
    if (!walk->l->plan->merged || side_by_side(&image->stride, rows, columns))
        return *image;
    fc_chain_view far = fc_chain_part(walk, buffer, columns, 0, 0);
    far.stride.n = rows * columns;
    walk->cost += 0.1 * (double)(r->images * channels) * (double)(rows * columns); /* 64 channels of 4x4: 1.6 ns each */
    if (load && !walk->dry)
        copy_far(walk, r, image, &far, channels, rows, columns);
    return far;
}

void fc_chain_store(const fc_chain_walk *walk, const fc_chain_region *r, const fc_chain_view *image, const fc_chain_view *far,
                    int64_t channels, int64_t rows, int64_t columns)
{
    if (far->at != image->at && !walk->dry && !walk->status)
        copy_far(walk, r, far, image, channels, rows, columns);
}
