#include "engine/neighbours.h"

/* Of a copy of what one row of a block's outputs reads, at most.  Zen 3, 3x3 48-48 over 4x4000, whose whole row takes 2.3 MiB: not copied
 * 10.2 ms, 42 in bad minutes; so 8.2, 9.5. */
enum { COPY_BYTES = 4 << 20 };

fc_extent fc_neighbours_read(const fc_phases *phases, int axis, int64_t begin, int64_t end)
{
    fc_extent read = {INT64_MAX, INT64_MIN};
    for (const fc_phase *f = phases->phase; f < phases->phase + phases->count; f++) {
        const fc_window *w = &f->problem.window;
        int64_t at = f->first[axis], step = f->step[axis], stride = w->stride[axis], offset = w->offset[axis];
        int64_t first = fc_ceil_div(fc_max(0, begin - at), step), last = (end - 1 - at) / step;
        if (end - 1 < at || last < first || !fc_taps(w))
            continue;
        read.begin = fc_min(read.begin, first * stride - offset);
        read.end = fc_max(read.end, last * stride - offset + (w->kernel[axis] - 1) * w->dilation[axis] + 1);
    }
    read.begin = fc_max(0, fc_min(read.begin, phases->whole.window.in[axis]));
    read.end = fc_max(read.begin, fc_min(read.end, phases->whole.window.in[axis]));
    return read;
}

/* What outputs of an axis read of it, at most, where `pieces` runs of them make `outputs`. */
static int64_t reach_of(const fc_phases *phases, int axis, int64_t outputs, int64_t pieces)
{
    int64_t low = INT64_MAX, high = INT64_MIN, step = phases->phase[0].step[axis], stride = phases->phase[0].problem.window.stride[axis];
    for (const fc_phase *f = phases->phase; f < phases->phase + phases->count; f++) {
        const fc_window *w = &f->problem.window;
        low = fc_min(low, -w->offset[axis]);
        high = fc_max(high, (w->kernel[axis] - 1) * w->dilation[axis] + 1 - w->offset[axis]);
    }
    int64_t reach = fc_add(fc_mul(fc_ceil_div(outputs, step), stride), fc_mul(pieces, high - low));
    return fc_min(reach, fc_mul(pieces, phases->whole.window.in[axis]));
}

int64_t fc_neighbours_most(const fc_phases *phases, int64_t rows)
{
    int64_t out = phases->whole.window.out[1];
    return reach_of(phases, 1, rows, rows % out == 0 ? rows / out : out % rows == 0 ? 1 : rows / out + 2);
}

fc_array_strides fc_neighbours_strides(const fc_phases *phases, int64_t columns, int64_t size)
{
    int64_t lines = fc_bytes(phases->whole.channels, size) / FC_ALIGN, pixel = (lines % 32 ? lines : lines + 1) * FC_ALIGN / size;
    return (fc_array_strides){.c = 1, .s = {0, fc_mul(reach_of(phases, 2, columns, 1), pixel), pixel}};
}

int fc_neighbours_pay(const fc_phases *phases, int64_t columns, int64_t size)
{
    const fc_conv *p = &phases->whole;
    const fc_window *w = &p->window;
    int flat = w->in[0] == 1 && w->out[0] == 1 && w->kernel[0] == 1 && w->stride[0] == 1 && w->offset[0] == 0;
    int overlaps = w->kernel[1] >= w->stride[1] && w->kernel[2] >= w->stride[2] && fc_taps(w) > 1;
    if (p->x.c == 1 || p->x.s[2] != 1 || !flat || !overlaps)
        return 0;
    return fc_mul(fc_mul(fc_neighbours_most(phases, 1), fc_neighbours_strides(phases, columns, size).s[1]), size) <= COPY_BYTES;
}

void fc_neighbours_copy(const fc_phases *phases, const fc_kernels *kernels, const fc_array_strides *strides, const void *x, int64_t row,
                        int64_t rows, fc_extent columns, void *copy)
{
    const fc_conv *p = &phases->whole;
    int64_t size = kernels->size, width = columns.end - columns.begin, pixel = strides->s[2], height = p->window.out[1];
    char *to = copy;
    for (int64_t end = row + rows, next; row < end; row = next) {
        next = fc_min(end, (row / height + 1) * height);
        fc_extent read = fc_neighbours_read(phases, 1, row % height, row % height + next - row);
        for (int64_t r = read.begin, n; r < read.end; r += n) {
            n = p->x.s[1] == width && strides->s[1] == width * pixel ? read.end - read.begin : 1;
            kernels->transpose(to, pixel, fc_at(x, row / height * p->x.n + r * p->x.s[1] + columns.begin, size), p->x.c, p->channels,
                               n * width);
            to = fc_at(to, n * strides->s[1], size);
        }
    }
}
