#include "base/blocks.h"

#include <stdatomic.h>

#include "base/pages.h"

enum { LINE = 64, LARGE = 4 << 20 };

/* One cache line before the block. */
typedef struct header {
    _Alignas(LINE) int64_t size;
} header;

static struct store {
    atomic_flag taken;
    int count;
    int64_t bytes;
    header *kept[FC_BLOCKS_KEPT]; /* the oldest first */
} store = {.taken = ATOMIC_FLAG_INIT};

static int enter(void)
{
    return !atomic_flag_test_and_set_explicit(&store.taken, memory_order_acquire);
}

static void leave(void)
{
    atomic_flag_clear_explicit(&store.taken, memory_order_release);
}

static header *remove_kept(int i)
{
    header *h = store.kept[i];
    store.bytes -= h->size;
    for (store.count--; i < store.count; i++)
        store.kept[i] = store.kept[i + 1];
    return h;
}

/* The smallest that is large enough, the youngest among equals, as its lines may still be in a cache. */
static header *find(int64_t bytes)
{
    int best = -1;
    for (int i = store.count - 1; i >= 0; i--) {
        int64_t size = store.kept[i]->size;
        if (size >= bytes && size - bytes <= bytes / 8 + LINE && (best < 0 || size < store.kept[best]->size))
            best = i;
    }
    return best < 0 ? NULL : remove_kept(best);
}

static header *allocate(int64_t bytes)
{
    int64_t unit = bytes >= FC_PAGE ? FC_PAGE : LINE, whole = (bytes + LINE + unit - 1) / unit * unit;
    header *h = fc_pages_take(whole, LINE, bytes >= LARGE);
    if (h)
        h->size = whole - LINE;
    return h;
}

void *fc_block_take(int64_t bytes)
{
    if (bytes < 0 || bytes > INT64_MAX - FC_HUGE_PAGE)
        return NULL;
    header *h = NULL;
    if (enter()) {
        h = find(bytes);
        leave();
    }
    if (!h)
        h = allocate(bytes);
    return h ? h + 1 : NULL;
}

void fc_block_give(void *block)
{
    header *h = (header *)block - 1, *old[FC_BLOCKS_KEPT];
    int leaving = 0;
    if (h->size > FC_BLOCKS_KEEP || !enter()) {
        free(h);
        return;
    }
    while (store.count == FC_BLOCKS_KEPT || store.bytes + h->size > FC_BLOCKS_KEEP)
        old[leaving++] = remove_kept(0);
    store.kept[store.count++] = h;
    store.bytes += h->size;
    leave();
    while (leaving)
        free(old[--leaving]);
}

int64_t fc_block_size(const void *block)
{
    return ((const header *)block - 1)->size;
}
