#include "base/arena.h"

#include <pthread.h>
#include <stdlib.h>

#include "base/pages.h"

typedef struct arena {
    void *block;
    int64_t size;
} arena;

static pthread_key_t key;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static int key_status;
static _Thread_local arena *own, lent;

static void release(void *pointer)
{
    arena *a = pointer;
    free(a->block);
    free(a);
}

static void make_key(void)
{
    key_status = pthread_key_create(&key, release);
}

static arena *own_arena(void)
{
    if (own)
        return own;
    pthread_once(&once, make_key);
    if (key_status)
        return NULL;
    arena *a = calloc(1, sizeof *a);
    if (a && pthread_setspecific(key, a)) {
        free(a);
        a = NULL;
    }
    return own = a;
}

void fc_arena_lend(void *block, int64_t bytes)
{
    lent = (arena){block, bytes};
}

/* Whole cache lines.  A last part of more than half a huge page is one. */
static int64_t size_of(int64_t bytes)
{
    int64_t size = fc_arena_round(bytes ? bytes : 1), rest = size % FC_HUGE_PAGE;
    return rest < FC_HUGE_PAGE / 2 ? size : size - rest + FC_HUGE_PAGE;
}

void *fc_arena_take(int64_t bytes)
{
    if (lent.block)
        return bytes >= 0 && bytes <= lent.size ? lent.block : NULL;
    arena *a = own_arena();
    if (!a || bytes < 0 || bytes > INT64_MAX - FC_HUGE_PAGE)
        return NULL;
    if (bytes <= a->size && a->block)
        return a->block;
    free(a->block);
    a->size = size_of(bytes);
    a->block = fc_pages_take(a->size, FC_PAGE, a->size >= FC_HUGE_PAGE);
    if (!a->block)
        a->size = 0;
    return a->block;
}

void fc_arena_give(void)
{
    arena *a = own;
    if (!lent.block && a && a->size > FC_ARENA_KEEP) {
        free(a->block);
        a->block = NULL;
        a->size = 0;
    }
}
