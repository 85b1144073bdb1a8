/* Memory from the system, large blocks of it on huge pages: more small ones than a TLB holds wait for their addresses. */
#ifndef FC_BASE_PAGES_H
#define FC_BASE_PAGES_H

#include <stdint.h>
#include <stdlib.h>
#ifdef __linux__
#include <sys/mman.h>
#endif

enum { FC_PAGE = 4096, FC_HUGE_PAGE = 2 << 20 };

/* Aligned to `align`, to huge pages where `large`; NULL where memory is short.  free() releases it. */
static inline void *fc_pages_take(int64_t bytes, int64_t align, int large)
{
    void *memory;
    if (posix_memalign(&memory, large ? FC_HUGE_PAGE : (size_t)align, (size_t)bytes))
        return NULL;
#ifdef MADV_HUGEPAGE
    if (large)
        madvise(memory, (size_t)bytes, MADV_HUGEPAGE);
#endif
    return memory;
}

#endif
