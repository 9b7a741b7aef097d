/* What MAP_SYNC is for. The guest does everything right: store, flush, fence, and only then the commit word.
 *
 * But its file may be sparse. The first store to a page makes the file system allocate a block; unless the host
 * mapped the file with MAP_SYNC, the journal entry for that block can be lost in a power failure although the data
 * reached the medium, and then the page reads as before. A guest cannot see or cure that: it has no way to ask the
 * host for a sync.
 *
 * OWN_PAGE  every value lives on a fresh page: right with MAP_SYNC, broken without.
 * Fixed: commit word and values share one page, which is there as a whole or not at all.
 */
#include "pool.h"

enum { VALUES = 3, PAGE = 4096 };

#ifdef OWN_PAGE
#define APART __attribute__((aligned(PAGE)))
#else
#define APART LINE
#endif

struct pool {
    LINE volatile u64 magic;
    LINE volatile u64 committed;
    struct {
        APART volatile u64 value;
    } slot[VALUES];
};

static u64 expected(u64 number) {
    return 0x73796e63 + number;
}

static void pool_format(struct pool *pool) {
    pool->committed = 0;
    pmem_flush_line(&pool->committed);
    pmem_fence();
}

static void pool_work(struct pool *pool) {
    for (u64 number = 0; number < VALUES; number++) {
        pool->slot[number].value = expected(number);
        pmem_flush_line(&pool->slot[number].value);
        pmem_fence();
        pool->committed = number + 1;
        pmem_flush_line(&pool->committed);
        pmem_fence();
    }
}

static void pool_recover(struct pool *pool) {
    u64 committed = pool->committed;
    must_hold(committed <= VALUES, "%lu values committed", committed);
    for (u64 number = 0; number < committed; number++)
        must_hold(pool->slot[number].value == expected(number), "value %lu is committed but reads 0x%lx", number,
                  pool->slot[number].value);
}

POOL_GUEST("pmmapsyn")
