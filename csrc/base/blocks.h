/* Memory of the arrays that operations return: on cache lines, and kept for the next array of about that size.
 *
 * malloc places a large block 16 bytes after a page's start, where every vector of 64 bytes crosses a cache line, and gives
 * it back to the system when it is freed, so that the next result is written to fresh pages at 0.1 to 0.25 us per KiB.
 * 1x1 64-256@56: 567 us with image and result as malloc gives them, 508 with one of the two on cache lines, 460 with both.
 * Blocks of 4 MiB and more ask for huge pages, as NumPy's own do (256-512@56: 1.32 to 1.28 ms).
 *
 * Freed blocks of FC_BLOCKS_KEEP bytes altogether are kept, the oldest leaves first.  A block may be an eighth and a
 * line larger than what is asked for.  Any thread may call, also in a forked child whose parent was in the midst of a call: who
 * finds the store taken goes to malloc.
 */
#ifndef FC_BASE_BLOCKS_H
#define FC_BASE_BLOCKS_H

#include "fastconv.h"

enum { FC_BLOCKS_KEEP = 128 << 20, FC_BLOCKS_KEPT = 64 };

/* NULL where memory is short, or bytes < 0. */
void *fc_block_take(int64_t bytes);
void fc_block_give(void *block);
/* What the block has room for; at least what it was taken for. */
int64_t fc_block_size(const void *block);

#endif
