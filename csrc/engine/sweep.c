/* Strips outermost:
 *
 *     for each strip of columns
 *         for each block of terms
 *             for each tile of rows of C:  gemm kernel, added to C but for the first block
 *                 the first tile:  copies the block's part of the strip as it reads it, unless few tiles share it
 *                 the first strip:  dots kernel for the last columns, where they are few, transposed once
 *
 * Scratch: the block of a strip (up to 108 KiB, read from the second-level cache once for each tile), its rows' offsets, and the
 * transposed last columns.
 *
 * Emerald Rapids, one core, GFLOPS of useful sums where the kernel reaches 168: 512-512@14 (12.25 vectors) 168 without its last
 * four columns, 153 with a thirteenth vector for them (512 terms a block; 147 at 256); not copied, a block of 64 terms and four
 * vectors for all rows before the next block, 134-141; lanes over outputs of transposed weights 164, but the weights' transpose
 * and the image's cost a tenth.  64-256@56 150, copied or not: it writes as much as memory takes. Blocks of terms
 * outermost, so that half of a large A stays near (768-768@14, 1024-1024@14): within 1 %.  Beside a busy hyperthread, part of what
 * the kernel alone reaches there: 64-256@56 0.78 in strips of three vectors, 0.82 of four, 512-512@14 0.83, 0.84, in blocks of 256
 * terms 0.77; 64-64@56 b16 0.58 by tiles over all of B, 0.63 swept, 0.70 in strips of four.
 *
 * A strip that few tiles share is not copied, for the copy takes as long as a tile: GFLOPS copied and not, B in the second-level
 * cache, 16 rows of 256 terms 112, 160; 32 136, 167; 64 151, 167; 128 of 128 terms 157, 167; 256 of 256 166, 170, but 111, 107
 * while another thread shares the core.  Rows that begin inside a cache line: 16 rows 107, 129; 32 108, 104; 64 148, 139.  What
 * up to three tiles read in place is not fetched ahead too: CP r16 256@56 494 to 454 us.
 *
 * A strip is copied by the kernel of its first tile, which has loaded it: a copy of its own took 7 % of 1x1 256-64@56, and what it
 * reads from a far cache is waited for.  Zen 5, one thread: 1x1 256-64@56 496 to 450 us, of eight images 4170 to 3815, 64-256@56 452
 * to 430, 128-128@56 b8 3640 to 3490, CP r64 256@56 965 to 940, its gradients 2480 to 2420; AVX2 256-64@56 935 to 890, 512-512@14
 * as fast.  Alone, 64 rows of 256 terms, GFLOPS: copied before 222, so 245; read where it stands, aligned 249, misaligned 216.
 *
 * What is fetched of B and C are runs of a row's lines, of two strips: of lines a page or more apart the first-level cache waits for no
 * more than 16 at a time (3.8 ms for the 25 MB below, if each takes 150 ns), of lines that follow each other the second-level cache's own
 * prefetcher takes over.  Granite Rapids, beside PyTorch's calls, us by one line of each row and so, one and two threads: 1x1
 * 64-64@56 b16 4015 to 2300, 1990 to 1270, its gradient 3600 to 2570, 1620 to 1290; 64-256@56 708 to 595, 330 to 327, gradient 755 to
 * 670, 425 to 355; CP r64 256@56 1670 to 1480, 917 to 811.  Runs of 4, 16, 32 or 64 strips, in bursts before each product: as fast as of
 * 2, of one strip as slow as before; each line's fetch repeated over two to eight terms, to spread them: the same or 6 % slower.
 *
 * C's lines too are fetched in the kernel, where its tiles are as many: bursts before each product cost 4 % of CP r64 256@56 (Zen 5,
 * one thread, 940 to 915 us; nothing fetched the same).
 *
 * Of vectors shorter than a line, a strip's row is one line, which one tile would fetch of all rows, as fast as they return: before each
 * product a few are.  Zen 3, one thread, least and lower quartile: 64-64@56 b16 6.6, 9.4 to 5.9, 7.8 ms, 128-128@56 b8 13.1, 14.3 to
 * 10.0, 10.2, 256-64@56 b8 19.4, 24.7 to 16.6, 17.6; 256-64@56, which the third-level cache holds, 1650, 1930 to 1730, 1850 us; CP
 * r64 256@56 3240 to 2920, beside a busy core 4270 to 3140, r32 128@28 b8 1570 to 1540, 3080 to 2200.  Two
 * lines each, or the next four or eight strips' rows at once: the same.  Tried there too, blocks of 192 and 288 terms instead of 512
 * (1024-256@14 6 % slower), outermost (the same), images of 0.3 to 0.8 MB fetched (2 to 5 % slower).
 *
 * Far arrays, 64-64@56 b16 (12.8 MB each; sums alone 2.4 ms, a copy 1.1-2.2, by strips without fetching ahead 3.8), best and lower
 * quartile beside a busy hyperthread: nothing fetched 5.5, 6.7 ms; bursts of B and C before each product 3.6, 5.0; B and C in the
 * kernel, a line a term 3.0-3.2, 4.3; B in the kernel, C past the caches 2.7, 3.9, misaligned B copied 2.9, 4.1.  The stores past
 * the caches spare reading C from memory before it is overwritten.  Where each layer reads what the last one wrote they still gain
 * at 12.8 MB (4.4 to 4.1) and nothing at 3.2 MB, hence FC_PAST_BYTES.  Tried: bands of 2, 4, 8 strips fetched row by row (2 %
 * better than strip by strip without stores past the caches), every second line (the hardware fetches no pairs: 9 ms), two strips
 * ahead (the same), huge pages (the same), copying the next strip inside the kernel too (3-5 %, two panels, not worth its code).
 *
 * Few rows, far B: along.  Strip by strip, 256 lines in as many pages follow each other, which the hardware does not fetch ahead, and
 * software fetches no faster than a core's 16 first-level misses at a time return from a far third-level cache.  So a block of 32 terms
 * goes along all strips before the next block: 32 rows of B are read from end to end, and C is added to from the second-level cache.
 * Granite Rapids, 16 rows of 256 terms, 3136 columns in that cache (115 us to read, 130 to multiply): 334 to 234 us; 32 rows 500 to
 * 430; 64 rows the same, whence the bound in pixels.c; not tried where the third-level cache is near.  Blocks of 16 terms 244, of 64
 * 283; nothing fetched by software 250; parts of 256 or 512 columns 238; all of a band read before it is multiplied 377.  CP r16
 * 256@56 625 to 560 us, its gradients 1675 to 1485; beside strips that fetch runs of lines 565, 640; 1450, 1585.
 *
 * Granite Rapids, 64-64@56 b16, the same loops alone: arithmetic 1.85 ms at the peak, 2.25 with all in the second-level cache; the next
 * strip copied inside the kernel 5 % slower; pages of 4 KiB under x cost 5-8 %.  All aligned B in place: 0-2 %.
 */
#include "engine/sweep.h"

/* TILES: of few rows, whose B is read in place; of short vectors one, since its strips are a line or two of each of many rows, which
 * the first-level cache does not keep for the next tile (Zen 3, one thread, CP r16 256@56 815 to 785 us; 16 rows of 128 terms 16 KiB
 * apart 680 to 570). */
enum { TERMS_MIN = 64, ALIGNED_TILES = 16, TILES = 3 };

int fc_sweep_pays(const fc_conv *p, const fc_kernels *kernels)
{
    return fc_taps(&p->window) == 1 && p->channels >= TERMS_MIN && p->out_channels >= kernels->mr[kernels->nv];
}

int64_t fc_sweep_last(const fc_kernels *kernels, int64_t columns)
{
    int64_t rest = columns % kernels->lanes;
    return rest <= kernels->lanes / 2 ? rest : 0;
}

/* A sum's terms up to whole vectors. */
static int64_t padded(const fc_sweep *s)
{
    return fc_mul(fc_ceil_div(s->k, s->kernels->lanes), s->kernels->lanes);
}

/* A block of a strip, and its rows' offsets. */
static int64_t strip_bytes(const fc_sweep *s)
{
    int64_t width = fc_gemm_packed_strip(s->kernels) * s->kernels->lanes;
    return fc_arena_round(s->terms * (width * s->kernels->size + (int64_t)sizeof(int64_t)));
}

int64_t fc_sweep_bytes(const fc_sweep *s)
{
    return strip_bytes(s) + fc_arena_round(fc_min(INT64_MAX / 4, fc_mul(s->kernels->lanes / 2 * s->kernels->size, padded(s))));
}

double fc_sweep_cost(const fc_sweep *s, int64_t m, int64_t columns, int64_t last)
{
    double k = (double)s->k, lanes = (double)s->kernels->lanes;
    return fc_gemm_cost(s->kernels, m, columns - last, s->k) + k * (0.5 * (double)columns + 0.2 * (double)(last * m)) / lanes;
}

/* The last columns: transposed, and where their sums go. */
typedef struct tail {
    int64_t columns, row;
    char *b, *c;
} tail;

static tail take_tail(const fc_sweep *s, int64_t columns, const void *b, void *c, void *scratch)
{
    static const double zero = 0;
    tail t = {.columns = columns, .row = padded(s), .b = scratch, .c = c};
    for (int64_t n = 0; n < columns; n++)
        s->kernels->gather_row(fc_at(t.b, n * t.row, s->kernels->size), t.row, fc_at(b, n, s->kernels->size), s->b_row, 0, 1, s->k,
                               &zero);
    return t;
}

/* `nv` vectors of columns. */
typedef struct strip {
    int nv, in_place;
    const char *b, *next; /* the next strip of B, fetched meanwhile where B is far; or NULL */
    const char *pair;     /* the next two strips of B, or NULL: of their rows this one and its neighbour fetch ... */
    int first, both;      /* ... the first half, the second, or, the last, both */
    char *c;
    const tail *last; /* the last columns, summed while the rows of A are near; or NULL */
} strip;

/* What the kernel fetches, some rows of two strips by each of so many tiles. */
typedef struct ahead {
    fc_lines lines;
    int64_t rows, tiles; /* rows of a tile; tiles that are left */
} ahead;

/* What a strip fetches and how it writes. */
typedef struct far {
    int packs;                 /* the first tile copies the block */
    int past;                  /* the kernel writes C past the caches */
    ahead b, c;                /* of the next two strips, by the tiles behind that; or, where these are too few: */
    fc_ahead b_ahead, c_ahead; /* of the next, before them */
} far;

/* A power of two. */
static int log_of(int64_t n)
{
    return (int)__builtin_ctzll((unsigned long long)n);
}

/* The first of `rows` that a strip fetches. */
static int64_t first_row(const strip *t, int64_t rows)
{
    return t->first ? 0 : fc_ceil_div(rows, 2);
}

/* How many it fetches. */
static int64_t part_of(const strip *t, int64_t rows)
{
    return t->both ? rows : t->first ? fc_ceil_div(rows, 2) : rows / 2;
}

static far plan_far(const fc_sweep *s, const strip *t, int64_t tiles, int64_t terms)
{
    int64_t size = s->kernels->size, bytes = t->nv * s->kernels->lanes * size;
    int there = s->kernels->gemm_far[t->nv][1] != NULL, whole = terms >= s->k;
    int line = fc_has_short_vectors(s->kernels); /* a row of a strip: a tile would fetch all of them */
    far f = {.packs = there && !t->in_place};
    f.past = there && s->c_past && whole && !(((uintptr_t)t->c | (uintptr_t)(s->c_row * size)) % FC_ALIGN);
    f.b.lines.run = f.c.lines.run = log_of(fc_max(1, 2 * bytes / FC_ALIGN));
    f.b.lines.row = s->b_row;
    f.c.lines.row = s->c_row;
    int64_t b_rows = there && s->b_far && t->pair && !line ? part_of(t, terms) : 0;
    int64_t c_rows = there && s->c_far && !f.past && whole ? part_of(t, s->rows) : 0;
    f.c.lines.at = t->c + (t->first ? 2 : 1) * bytes + first_row(t, s->rows) * s->c_row * size;
    f.b.rows = f.c.rows = fc_max(1, terms >> f.b.lines.run);
    f.b.tiles = fc_ceil_div(b_rows, f.b.rows);
    f.c.tiles = fc_ceil_div(c_rows, f.c.rows);
    if (f.packs + f.b.tiles > tiles)
        f.b.tiles = 0;
    if (f.packs + f.b.tiles + f.c.tiles > tiles)
        f.c.tiles = 0;
    f.b_ahead = (fc_ahead){.row = s->b_row * size, .lines = line ? 1 : 1 + bytes / FC_ALIGN};
    f.c_ahead = (fc_ahead){t->c + bytes, s->c_row * size, s->c_far && !f.past && !f.c.tiles ? s->rows : 0, f.b_ahead.lines, 0};
    return f;
}

/* The lines that the next tile fetches, or NULL. */
static const fc_lines *next_lines(ahead *a, fc_lines *lines, int64_t size)
{
    if (!a->tiles)
        return NULL;
    *lines = a->lines;
    a->lines.at = fc_at(a->lines.at, a->rows * a->lines.row, size);
    a->tiles--;
    return lines;
}

/* All rows of C by terms [k, k + terms) of a strip; `block` is their B. */
static void run_block(const fc_sweep *s, const strip *t, far *f, const void *a, const void *init, void *block,
                      const int64_t *offset, int64_t k, int64_t terms)
{
    const fc_kernels *kernels = s->kernels;
    int64_t size = kernels->size, tiles = fc_ceil_div(s->rows, kernels->mr[t->nv]), c_offset[FC_MR_MAX];
    int64_t few = s->rows / tiles, larger = s->rows % tiles; /* rows of a tile, or one more: of so many tiles */
    int64_t share = f->b_ahead.rows ? fc_ceil_div(terms, tiles) : 0;
    for (int m = 0; m < FC_MR_MAX; m++)
        c_offset[m] = m * s->c_row;
    int64_t step = s->a_row * size, c_step = s->c_row * size;
    const char *from = fc_at(a, k, size);
    char *c = t->c;
    for (int64_t i = 0, o = 0, mr; i < tiles; i++, o += mr, c += mr * c_step) {
        mr = few + (i < larger);
        const void *row[FC_MR_MAX], *start = init ? fc_at(init, o, size) : NULL;
        for (int64_t m = 0; m < mr; m++, from += step)
            row[m] = from;
        fc_fetch(&f->b_ahead, share * f->b_ahead.lines);
        fc_fetch(&f->c_ahead, mr * f->c_ahead.lines);
        fc_lines lines;
        const fc_lines *next = i < f->packs ? NULL : next_lines(f->b.tiles ? &f->b : &f->c, &lines, size);
        if (i < f->packs)
            kernels->gemm_pack[t->nv][mr](terms, row, fc_at(t->b, k * s->b_row, size), s->b_row, block, c, c_offset, start, k > 0,
                                          f->past);
        else if (next || f->past)
            kernels->gemm_far[t->nv][mr](terms, row, block, offset, c, c_offset, start, k > 0, next, f->past);
        else
            kernels->gemm[t->nv][mr](terms, row, NULL, block, offset, c, c_offset, start, k > 0);
        if (t->last)
            kernels->dots(terms, row[0], s->a_row, fc_at(t->last->b, k, size), t->last->row,
                          fc_at(t->last->c, o * s->c_row, size), s->c_row, start, k > 0, mr, t->last->columns);
    }
}

/* Terms of a block. */
static int64_t block_terms(const fc_sweep *s)
{
    return s->k > s->terms ? fc_gemm_terms(s->kernels, s->k, s->terms) : s->k;
}

/* The B of a block of a strip: where it stands, or copied, unless a tile does it. */
static void *take_block(const fc_sweep *s, const strip *t, const far *f, int64_t k, int64_t terms, void *panel)
{
    int64_t size = s->kernels->size;
    if (t->in_place)
        return fc_at(t->b, k * s->b_row, size);
    if (f->packs)
        return panel;
    s->kernels->copy_vectors(panel, t->nv * s->kernels->lanes, fc_at(t->b, k * s->b_row, size), s->b_row, t->nv, terms);
    return panel;
}

/* Where a block's rows begin.  `row` is that between those listed: anew for each strip it took 6 % of 16 rows of 256 terms. */
static void list_offsets(const fc_sweep *s, const strip *t, int64_t *b_offset, int64_t *row)
{
    int64_t wanted = t->in_place ? s->b_row : t->nv * s->kernels->lanes, terms = block_terms(s);
    for (int64_t i = 0; i < terms && *row != wanted; i++)
        b_offset[i] = i * wanted;
    *row = wanted;
}

static void run_strip(const fc_sweep *s, const strip *t, const void *a, const void *init, int64_t *b_offset, int64_t *row)
{
    int64_t size = s->kernels->size, tiles = fc_ceil_div(s->rows, s->kernels->mr[t->nv]), most = block_terms(s);
    far f = plan_far(s, t, tiles, most);
    const ahead b = f.b;
    list_offsets(s, t, b_offset, row);
    for (int64_t k = 0; k < s->k; k += most) {
        int64_t terms = fc_min(most, s->k - k);
        void *block = take_block(s, t, &f, k, terms, b_offset + s->terms);
        if (s->b_far && t->next) {
            f.b = b;
            if (b.tiles) /* the pair before shares the first line */
                f.b.lines.at = fc_at(t->pair, (k + first_row(t, terms)) * s->b_row, size) + FC_ALIGN - 1;
            f.b_ahead.at = t->next + k * s->b_row * size;
            f.b_ahead.at += f.b_ahead.lines == 1 ? FC_ALIGN - 1 : 0; /* which it shares with this strip's where they cross lines */
            f.b_ahead.rows = b.tiles || t->in_place ? 0 : terms;
            f.b_ahead.line = 0;
        }
        run_block(s, t, &f, a, init, block, b_offset, k, terms);
    }
}

/* `strips` strips like this one, which is the first: a block of terms after the other along all of them. */
static void run_along(const fc_sweep *s, const strip *first, int64_t strips, const void *a, const void *init, int64_t *b_offset,
                      int64_t *listed)
{
    int64_t most = block_terms(s), bytes = first->nv * s->kernels->lanes * s->kernels->size, row = s->b_row * s->kernels->size;
    list_offsets(s, first, b_offset, listed);
    for (int64_t k = 0; k < s->k; k += most)
        for (int64_t i = 0; i < strips; i++) {
            strip t = *first;
            int64_t terms = fc_min(most, s->k - k);
            t.b += i * bytes;
            t.c += i * bytes;
            t.last = i ? NULL : first->last;
            int there = s->kernels->gemm_far[t.nv][1] != NULL;
            far f = {.packs = there && !t.in_place};
            f.b.lines = (fc_lines){i + 1 < strips ? t.b + k * row + bytes : first->b + (k + most) * row, s->b_row,
                                   log_of(fc_max(1, bytes / FC_ALIGN))};
            f.b.rows = fc_max(1, terms >> f.b.lines.run);
            f.b.tiles = there && (k + most < s->k || i + 1 < strips) ? fc_ceil_div(terms, f.b.rows) : 0;
            run_block(s, &t, &f, a, init, take_block(s, &t, &f, k, terms, b_offset + s->terms), b_offset, k, terms);
        }
}

/* The strip of `columns` that begins with vector `done`, the first of a pair or the second; `all`: what the strips have in common, at
 * most so many vectors, the whole of B and C, what follows B, the last columns. */
static strip strip_at(const fc_sweep *s, const strip *all, int64_t columns, int64_t done, int first)
{
    int64_t lanes = s->kernels->lanes, size = s->kernels->size, vectors = fc_ceil_div(columns, lanes);
    int nv = fc_gemm_next_strip(all->nv, vectors - done);
    nv = nv * lanes > columns ? 1 : nv;
    int64_t at = fc_min(done * lanes, columns - nv * lanes), bytes = nv * lanes * size;
    strip t = {.nv = nv, .in_place = all->in_place, .b = fc_at(all->b, at, size), .next = all->next, .pair = all->next, .first = first};
    t.c = fc_at(all->c, at, size);
    t.last = done ? NULL : all->last;
    t.both = first && done + nv >= vectors;
    if (done + nv < vectors)
        t.next = t.b + bytes;
    if (done + nv + (first ? all->nv : 0) < vectors)
        t.pair = t.b + (first ? 2 : 1) * bytes;
    return t;
}

void fc_sweep_run(const fc_sweep *s, int64_t columns, int64_t last, const void *a, const void *b, const void *next, void *c,
                  const void *init, void *scratch)
{
    int64_t size = s->kernels->size, lanes = s->kernels->lanes, whole = columns - last, vectors = fc_ceil_div(whole, lanes);
    int64_t tiles = fc_ceil_div(s->rows, s->kernels->mr[s->kernels->nv]), done = 0, row = INT64_MIN;
    int aligned = !(((uintptr_t)b | (uintptr_t)(s->b_row * size)) % FC_ALIGN);
    int few = tiles <= (fc_has_short_vectors(s->kernels) ? 1 : TILES);
    int in_place = few || (aligned && tiles <= ALIGNED_TILES);
    int most = !s->along && (few || (in_place && !s->b_far)) ? s->kernels->nv : fc_gemm_packed_strip(s->kernels);
    tail rest = take_tail(s, last, fc_at(b, whole, size), fc_at(c, whole, size), (char *)scratch + strip_bytes(s));
    strip all = {.nv = most, .in_place = in_place, .b = b, .next = next, .c = c, .last = last ? &rest : NULL};
    if (s->along) {
        while ((done + most) * lanes <= whole && fc_gemm_next_strip(most, vectors - done) == most)
            done += most;
        run_along(s, &all, done / most, a, init, scratch, &row);
    }
    for (int first = 1; done < vectors; first = !first) {
        strip t = strip_at(s, &all, whole, done, first);
        run_strip(s, &t, a, init, scratch, &row);
        done += t.nv;
    }
    if (s->c_past)
        __sync_synchronize();
}
