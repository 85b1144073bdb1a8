/* Scratch memory: one block per thread, kept between calls, so that a call allocates nothing anew.
 *
 * Fresh pages cost 0.4 to 8 us per 4 KiB on virtual machines, more than the work done in them; malloc gives large blocks
 * back to the system at every free.  A thread therefore keeps its block until it ends, up to FC_ARENA_KEEP bytes; a larger
 * one is released by fc_arena_give.  It is on huge pages, for Winograd's transforms write to 36 places at a time, far apart:
 * dilated 3x3 128@28 at two threads 637 to 541 us (Granite Rapids), dense 3x3 on average 1.03 times as fast.
 * One take per thread is open at a time: an operation books all it needs, for all of its workers, in one piece.  A take of no
 * more than the open one's is the beginning of the same block: an operation that runs another one books its scratch too, and
 * keeps its own at the end.
 */
#ifndef FC_BASE_ARENA_H
#define FC_BASE_ARENA_H

#include "fastconv.h"

enum { FC_ALIGN = 64, FC_ARENA_KEEP = 128 << 20 };

/* Aligned to FC_ALIGN; NULL where memory is short (or bytes < 0, a size that overflowed). */
void *fc_arena_take(int64_t bytes);
void fc_arena_give(void);

/* Until it is called with NULL: this thread's takes come from here, and fail where it is too small.  So an operation whose
 * tasks run other operations books their scratch with its own. */
void fc_arena_lend(void *block, int64_t bytes);

/* The size rounded up to whole cache lines, for carving a block into parts. */
static inline int64_t fc_arena_round(int64_t bytes)
{
    return (bytes + FC_ALIGN - 1) & ~(int64_t)(FC_ALIGN - 1);
}

#endif
