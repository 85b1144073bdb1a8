/* The gradients of a chain's mixes: sums over the pixels of a band.
 *
 *     sum[c][r] += sum_p far[c][p] near[r][p]          c < channels, r < middle
 *
 * `far` is an image, x or dy, that is read where it stands; `near` is a band of the middle channels, the few, which are
 * transposed into panels, pixels by a strip of channels, that the gemm kernel takes for its B.
 *
 *     for each image of the band
 *         transpose near
 *         for each strip of r:  for each block of c:  for each run of pixels:  for each tile of c:  gemm kernel, added
 *
 * A block's rows of an image are read from end to end, as the hardware fetches best what comes from far, and its sums stay in the
 * first-level cache; runs outermost read a few lines of each row at a time: Granite Rapids, one thread, gradients of CP r16 256@56
 * 1665 to 1530 us, of r64 4330 to 4300; blocks of one tile 2 % slower than of 24 rows.  Fetching the sums' lines before a product: the
 * same.
 *
 * A run is as long as leaves its part of a panel in the first-level cache: of narrow panels 256 pixels, not 128, r16 256@56 1463 to
 * 1388 us (512: another 3 %, but sums twice as long; wider panels in runs of 256 and 512, Zen 5: the same).  Runs of equal length, not
 * a short one at the end of a band, and a kernel's offsets listed once for all: Zen 5, one thread, r16 256@56 700 to 670 us, r32
 * 128@28 b8 1300 to 1240, k9 128@4096 500 to 478, separable 128@56 1060 to 1035.  The weight gradient's driver does the same for any
 * window; here no tap needs an offset, sums stay where they are from band to band, and rows of the gradient are rows of them.
 *
 * Tried, where all r fill one vector and the kernel has a load for every multiply-add: lanes over pixels and their sums at the end,
 * nothing transposed (alone 88 GFLOPS instead of 63; rank 16 256@56 1.41 to 1.45 ms, as the images come from far).
 */
#include "engine/chain.h"
#include "engine/gemm.h"

enum { RUN = 256, ROWS = 24 }; /* ROWS: of a block of c, in whole tiles */

typedef struct job {
    const fc_chain_walk *walk;
    const fc_kernels *kernels;
    const fc_chain_view *far;
    char *sum;
    int64_t image, channels, rows, width, tasks, strip, panel_row; /* strip: vectors; panel_row: elements of a sum's row */
    int64_t run; /* pixels */
    int flat, add; /* rows of far follow each other without gaps */
} job;

static int64_t strip_of(const fc_kernels *kernels)
{
    return kernels->mr[4] >= 6 ? 4 : kernels->nv;
}

int64_t fc_chain_sum_row(const fc_kernels *kernels, int64_t middle)
{
    return fc_ceil_div(middle, kernels->lanes) * kernels->lanes;
}

int64_t fc_chain_sum_tile(const fc_kernels *kernels)
{
    return FC_MR_MAX * RUN * kernels->size;
}

/* Strip s of the panels: pixels by its channels. */
static void transpose_strip(const job *j, const fc_chain_view *near, int64_t s)
{
    int64_t size = j->kernels->size, width = j->strip * j->kernels->lanes, first = s * width, pixels = j->rows * j->width;
    int64_t middle = j->walk->l->plan->problem.middle;
    j->kernels->transpose(fc_at(j->walk->panel, first * pixels, size), fc_min(width, j->panel_row - first),
                          fc_at(near->at, j->image * near->stride.n + first * near->stride.c, size), near->stride.c,
                          fc_min(width, middle - first), pixels);
}

/* Rows of A for one tile: in place, or gathered where pixels are no neighbours. */
static void take_rows(const job *j, const void **a, char *tile, int64_t c, int64_t mr, int64_t pixel, int64_t k)
{
    static const double zero = 0;
    const fc_array_strides *s = &j->far->stride;
    int64_t size = j->kernels->size, at = j->image * s->n + c * s->c;
    at += j->flat ? pixel : pixel / j->width * s->s[1] + pixel % j->width * s->s[2];
    for (int64_t m = 0; m < mr; m++, at += s->c) {
        a[m] = fc_at(j->far->at, at, size);
        if (j->flat || s->s[2] == 1 || k == 1)
            continue;
        j->kernels->gather_row(fc_at(tile, m * RUN, size), k, a[m], s->s[2], 0, 1, k, &zero);
        a[m] = fc_at(tile, m * RUN, size);
    }
}

/* Rows of a tile: of a strip of `nv` vectors. */
static int64_t tile_rows(const fc_kernels *kernels, int64_t nv)
{
    return nv == 1 ? fc_min(FC_VECTOR_ROWS, kernels->mr[nv]) : kernels->mr[nv];
}

/* A strip of r: its first, its width, and the kernel's offsets of a run's pixels and of a tile's channels. */
typedef struct strip {
    int64_t column, width, nv, offset[RUN], c_offset[FC_MR_MAX];
} strip;

static void begin_strip(const job *j, strip *s, int64_t column)
{
    s->column = column;
    s->width = fc_min(j->strip * j->kernels->lanes, j->panel_row - column);
    s->nv = s->width / j->kernels->lanes;
    for (int64_t i = 0; i < j->run; i++)
        s->offset[i] = i * s->width;
    for (int m = 0; m < FC_MR_MAX; m++)
        s->c_offset[m] = m * j->panel_row;
}

/* One run of pixels for channels first ... last. */
static void add_run(const job *j, const strip *s, char *tile, int64_t first, int64_t last, int64_t pixel, int64_t k, int add)
{
    const fc_kernels *kernels = j->kernels;
    int64_t size = kernels->size, pixels = j->rows * j->width;
    int64_t tiles = fc_ceil_div(last - first, tile_rows(kernels, s->nv)), height = fc_ceil_div(last - first, tiles);
    const void *b = fc_at(j->walk->panel, s->column * pixels + pixel * s->width, size);
    for (int64_t c = first, mr; c < last; c += mr) {
        const void *a[FC_MR_MAX];
        mr = fc_min(height, last - c);
        take_rows(j, a, tile, c, mr, pixel, k);
        kernels->gemm[s->nv][mr](k, a, NULL, b, s->offset, fc_at(j->sum, c * j->panel_row + s->column, size), s->c_offset, NULL,
                                 add);
    }
}

/* Some channels of a strip, all runs of pixels. */
static void add_rows(const job *j, const strip *s, char *tile, int64_t first, int64_t last)
{
    int64_t pixels = j->rows * j->width;
    for (int64_t pixel = 0, k; pixel < pixels; pixel += k) {
        k = fc_min(j->run, (j->flat ? pixels : (pixel / j->width + 1) * j->width) - pixel);
        add_run(j, s, tile, first, last, pixel, k, j->add || pixel);
    }
}

static void run_task(void *context, int64_t task, int worker)
{
    const job *j = context;
    int64_t first = j->channels * task / j->tasks, last = j->channels * (task + 1) / j->tasks;
    char *tile = j->walk->tile + worker * fc_chain_sum_tile(j->kernels);
    for (int64_t column = 0; column < j->panel_row; column += j->strip * j->kernels->lanes) {
        strip s;
        begin_strip(j, &s, column);
        int64_t most = tile_rows(j->kernels, s.nv), block = fc_max(most, ROWS / most * most);
        for (int64_t c = first; c < last; c += block)
            add_rows(j, &s, tile, c, fc_min(last, c + block));
    }
}

void fc_chain_add_sum(fc_chain_walk *walk, int i, const fc_chain_region *r, int64_t channels, const fc_chain_view *far,
                      const fc_chain_view *near, int64_t rows, int64_t width)
{
    const fc_chain_plan *plan = walk->l->plan;
    const fc_kernels *kernels = walk->l->kernels;
    int64_t images = r->images, middle = plan->problem.middle;
    if (plan->merged) {
        width = images * rows * width;
        rows = images = 1;
    }
    int64_t pixels = fc_mul(rows, width);
    int threads = plan->outer ? 1 : plan->threads;
    if (!pixels || !channels || walk->status)
        return;
    job j = {.walk = walk, .kernels = kernels, .far = far, .sum = walk->sum[i], .channels = channels, .rows = rows,
             .width = width, .strip = strip_of(kernels), .panel_row = fc_chain_sum_row(kernels, middle)};
    j.run = fc_min(RUN, 512 / fc_min(j.strip, j.panel_row / kernels->lanes));
    j.flat = (far->stride.s[2] == 1 || width == 1) && (far->stride.s[1] == width || rows == 1);
    int64_t whole = j.flat ? pixels : width;
    j.run = fc_ceil_div(whole, fc_ceil_div(whole, j.run)); /* not a short one at the end */
    j.tasks = threads == 1 ? 1 : fc_max(1, fc_min(4 * threads, channels / kernels->mr[kernels->nv]));
    walk->multiplications = fc_add(walk->multiplications, fc_mul(fc_mul(images, pixels), fc_mul(channels, middle)));
    walk->cost += (double)images * (fc_gemm_cost(kernels, channels, middle, pixels) + 0.25 * (double)(pixels * middle));
    for (j.image = 0; j.image < images && !walk->dry; j.image++) {
        for (int64_t s = 0; s * j.strip * kernels->lanes < middle; s++)
            transpose_strip(&j, near, s);
        j.add = walk->begun[i];
        fc_parallel(threads, j.tasks, run_task, &j);
        walk->begun[i] = 1;
    }
}
