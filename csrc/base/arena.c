#include "base/arena.h"

#include <pthread.h>
#include <stdlib.h>

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

void *fc_arena_take(int64_t bytes)
{
    if (lent.block)
        return bytes >= 0 && bytes <= lent.size ? lent.block : NULL;
    arena *a = own_arena();
    if (!a || bytes < 0 || bytes > INT64_MAX - FC_ALIGN)
        return NULL;
    if (bytes <= a->size && a->block)
        return a->block;
    free(a->block);
    a->size = fc_arena_round(bytes ? bytes : 1);
    if (posix_memalign(&a->block, 4096, (size_t)a->size)) {
        a->block = NULL;
        a->size = 0;
    }
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
