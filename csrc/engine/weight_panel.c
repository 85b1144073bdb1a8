#include "engine/weight_panel.h"

/* Rows that are copied, padded, and then transposed while they are in the first cache; of a strided image, whose rows are far away and
 * short, as many as the second holds: 1x1s2 256-512@56 3190 to 3020 us (Zen 3). */
enum { SLICE_BYTES = 24 << 10, STRIDED_BYTES = 96 << 10 };

static int64_t copied_rows(const fc_panel *p, int64_t rows)
{
    return p->fold > 1 ? (rows - 1) * p->step[0] + p->fold : rows;
}

static int64_t slice_rows(const fc_panel *p, int64_t size)
{
    int64_t row = fc_mul(fc_mul(p->width, p->pitch), size);
    return fc_max(1, fc_min(p->rows, (p->step[1] > 1 ? STRIDED_BYTES : SLICE_BYTES) / fc_max(1, row)));
}

int64_t fc_panel_scratch(const fc_panel *p, int64_t size)
{
    int64_t rows = copied_rows(p, slice_rows(p, size));
    return fc_arena_round(fc_min(INT64_MAX / 8, fc_mul(fc_mul(fc_mul(rows, p->width / p->fold), p->pitch), size)));
}

/* The pixels of the panel are those of whole rows of the image, without gaps. */
static int lies_in_image(const fc_panel *p, const fc_panel_image *m, int64_t rows, int64_t ih, int64_t iw)
{
    return m->x && p->fold == 1 && m->channels == p->width && p->step[0] == 1 && p->step[1] == 1 && iw == 0 && ih >= 0 &&
           ih + rows <= m->size[0] && p->pitch == m->size[1] && m->stride[1] == 1 &&
           (m->stride[0] == p->pitch || rows == 1);
}

/* Where the channels of a pixel are neighbours already they are copied; returns 0 where they are not. */
static int pack_pixels(const fc_panel *p, const fc_kernels *kernels, void *dst, const fc_panel_image *m, int64_t rows, int64_t ih,
                       int64_t iw)
{
    static const double zero = 0;
    int64_t size = kernels->size;
    if (p->fold > 1 || m->c != 1 || m->stride[1] == 1)
        return 0;
    for (int64_t i = 0; i < rows; i++) {
        int64_t r = ih + i * p->step[0], inside = m->x && r >= 0 && r < m->size[0];
        char *out = fc_at(dst, i * p->pitch * p->width, size);
        if (m->channels == p->width && p->width % kernels->lanes == 0) {
            int64_t step = p->step[1], begin = inside ? fc_min(p->pitch, iw < 0 ? fc_ceil_div(-iw, step) : 0) : p->pitch;
            int64_t end = fc_max(begin, fc_min(p->pitch, fc_ceil_div(fc_max(0, m->size[1] - iw), step)));
            int vectors = (int)(p->width / kernels->lanes);
            kernels->copy_vectors(out, p->width, NULL, 0, vectors, begin);
            kernels->copy_vectors(fc_at(out, begin * p->width, size), p->width,
                                  fc_at(m->x, r * m->stride[0] + (iw + begin * step) * m->stride[1], size), step * m->stride[1],
                                  vectors, end - begin);
            kernels->copy_vectors(fc_at(out, end * p->width, size), p->width, NULL, 0, vectors, p->pitch - end);
            continue;
        }
        for (int64_t j = 0, q = iw; j < p->pitch; j++, q += p->step[1], out += p->width * size)
            kernels->gather_row(out, p->width,
                                inside && q >= 0 && q < m->size[1] ? fc_at(m->x, r * m->stride[0] + q * m->stride[1], size) : NULL,
                                1, 0, 1, m->channels, &zero);
    }
    return 1;
}

/* Rows of at least a vector of pixels are transposed as they stand, between zeros; returns 0 where they are not such. */
static int pack_rows(const fc_panel *p, const fc_kernels *kernels, void *dst, const fc_panel_image *m, int64_t rows, int64_t ih,
                     int64_t iw)
{
    static const double zero = 0;
    int64_t size = kernels->size, width = p->width, begin = fc_max(0, -iw), end = fc_min(p->pitch, m->size[1] - iw);
    if (p->fold > 1 || m->channels != width || p->step[1] != 1 || m->stride[1] != 1 || end - begin < kernels->lanes)
        return 0;
    for (int64_t r = 0; r < rows; r++) {
        int64_t at = ih + r * p->step[0], inside = m->x && at >= 0 && at < m->size[0] ? begin : p->pitch;
        char *out = fc_at(dst, r * p->pitch * width, size);
        kernels->gather_row(out, inside * width, NULL, 1, 0, 1, 0, &zero);
        if (inside == p->pitch)
            continue;
        kernels->transpose(fc_at(out, begin * width, size), width, fc_at(m->x, at * m->stride[0] + iw + begin, size), m->c, width,
                           end - begin);
        kernels->gather_row(fc_at(out, end * width, size), (p->pitch - end) * width, NULL, 1, 0, 1, 0, &zero);
    }
    return 1;
}

/* Narrow images without gaps are transposed some rows at a time, whatever their ends, and then copied between zeros: 16-32@14
 * b32 from 490 to 370 us. */
static int pack_plane(const fc_panel *p, const fc_kernels *kernels, void *dst, void *scratch, const fc_panel_image *m, int64_t rows,
                      int64_t ih, int64_t iw)
{
    static const double zero = 0;
    int64_t size = kernels->size, in = m->size[1], row = p->pitch * p->width, slice = slice_rows(p, size);
    int64_t begin = fc_min(rows, fc_max(0, -ih)), end = m->x ? fc_max(begin, fc_min(rows, m->size[0] - ih)) : begin;
    if (p->fold > 1 || m->channels != p->width || p->step[0] != 1 || p->step[1] != 1 || m->stride[1] != 1 || m->stride[0] != in ||
        in > p->pitch)
        return 0;
    kernels->gather_row(dst, begin * row, NULL, 1, 0, 1, 0, &zero);
    for (int64_t r = begin, n; r < end; r += n) {
        n = fc_min(slice, end - r);
        kernels->transpose(scratch, p->width, fc_at(m->x, (ih + r) * in, size), m->c, p->width, n * in);
        for (int64_t i = 0; i < n; i++)
            kernels->gather_row(fc_at(dst, (r + i) * row, size), row, fc_at(scratch, i * in * p->width, size), 1, iw * p->width, 1,
                                in * p->width, &zero);
    }
    kernels->gather_row(fc_at(dst, end * row, size), (rows - end) * row, NULL, 1, 0, 1, 0, &zero);
    return 1;
}

void fc_panel_pack(const fc_panel *p, const fc_kernels *kernels, void *dst, void *scratch, const fc_panel_image *m,
                   int64_t rows, int64_t ih, int64_t iw)
{
    static const double zero = 0;
    int64_t size = kernels->size, pitch = p->pitch, slice = slice_rows(p, size), lanes = p->width / p->fold;
    if (lies_in_image(p, m, rows, ih, iw)) {
        kernels->transpose(dst, p->width, fc_at(m->x, ih * m->stride[0], size), m->c, p->width, rows * pitch);
        return;
    }
    if (pack_pixels(p, kernels, dst, m, rows, ih, iw) || pack_rows(p, kernels, dst, m, rows, ih, iw) ||
        pack_plane(p, kernels, dst, scratch, m, rows, ih, iw))
        return;
    for (int64_t r = 0, n; r < rows; r += n) {
        n = fc_min(slice, rows - r);
        int64_t copied = copied_rows(p, n), step = p->fold > 1 ? 1 : p->step[0];
        int64_t next_row = p->fold > 1 ? lanes * pitch : pitch, next_channel = p->fold > 1 ? pitch : copied * pitch;
        const int64_t first[] = {ih + r * p->step[0], iw}, steps[] = {step, p->step[1]};
        for (int64_t c = 0; c < lanes; c++)
            kernels->gather_rows(fc_at(scratch, c * next_channel, size), next_row, copied, pitch,
                                 m->x && c < m->channels ? fc_at(m->x, c * m->c, size) : NULL, m->stride, first, steps, m->size, &zero);
        void *out = fc_at(dst, r * pitch * p->width, size);
        if (p->fold == 1)
            kernels->transpose(out, p->width, scratch, copied * pitch, p->width, copied * pitch);
        for (int64_t i = 0; i < n && p->fold > 1; i++)
            kernels->transpose(fc_at(out, i * pitch * p->width, size), p->width,
                               fc_at(scratch, i * p->step[0] * next_row, size), pitch, p->width, pitch);
    }
}

/* Where the channels of a pixel are neighbours. */
static void store_pixels(const fc_kernels *kernels, const fc_panel_image *m, const void *panel, int64_t pitch)
{
    static const double zero = 0;
    int64_t size = kernels->size, lanes = kernels->lanes;
    for (int64_t r = 0; r < m->size[0]; r++) {
        char *to = fc_at(m->x, r * m->stride[0], size);
        const void *from = fc_at(panel, r * pitch * lanes, size);
        if (m->channels == lanes)
            kernels->copy_vectors(to, m->stride[1], from, lanes, 1, m->size[1]);
        for (int64_t q = 0; q < m->size[1] && m->channels < lanes; q++)
            kernels->gather_row(fc_at(to, q * m->stride[1], size), m->channels, fc_at(from, q * lanes, size), 1, 0, 1, m->channels,
                                &zero);
    }
}

void fc_panel_store(const fc_kernels *kernels, const fc_panel_image *m, const void *panel, int64_t pitch, int past,
                    void *scratch)
{
    fc_transpose_kernel transpose = past ? kernels->transpose_past : kernels->transpose;
    int64_t size = kernels->size, lanes = kernels->lanes, rows = m->size[0], width = m->size[1];
    if (m->c == 1 && (m->channels == lanes || m->stride[1] != 1)) {
        store_pixels(kernels, m, panel, pitch);
        return;
    }
    if (pitch == width && m->stride[0] == width && m->stride[1] == 1 && m->channels == lanes) {
        transpose(fc_at(m->x, 0, size), m->c, panel, lanes, rows * pitch, lanes);
        return;
    }
    if (m->stride[1] == 1 && m->channels == lanes && width >= lanes) {
        for (int64_t r = 0; r < rows; r++)
            transpose(fc_at(m->x, r * m->stride[0], size), m->c, fc_at(panel, r * pitch * lanes, size), lanes, width, lanes);
        return;
    }
    kernels->transpose(scratch, rows * pitch, panel, lanes, rows * pitch, lanes);
    for (int64_t c = 0; c < m->channels; c++)
        for (int64_t r = 0; r < rows; r++)
            kernels->scatter_row(fc_at(m->x, c * m->c + r * m->stride[0], size), m->stride[1],
                                 fc_at(scratch, (c * rows + r) * pitch, size), width, 0);
}
