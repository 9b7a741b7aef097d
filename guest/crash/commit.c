/* A commit word: a value is written, then a counter says that it is there. Recovery trusts the counter.
 *
 * NO_FLUSH     the value is never written back
 * NO_FENCE     the value's write-back is started but nothing waits for it before the counter is stored
 * FLUSH_EARLY  the line is flushed before the store that it is meant for
 */
#include "pool.h"

enum { VALUES = 4 };

struct pool {
    LINE volatile u64 magic;
    LINE volatile u64 committed;
    struct {
        LINE volatile u64 value;
    } slot[VALUES];
};

static u64 expected(u64 number) {
    return 1000 + number;
}

static void pool_format(struct pool *pool) {
    pool->committed = 0;
    pmem_flush_line(&pool->committed);
    pmem_fence();
}

static void pool_work(struct pool *pool) {
    for (u64 number = 0; number < VALUES; number++) {
        volatile u64 *value = &pool->slot[number].value;
#ifdef FLUSH_EARLY
        pmem_flush_line(value);
        *value = expected(number);
#else
        *value = expected(number);
#ifndef NO_FLUSH
        pmem_flush_line(value);
#endif
#endif
#ifndef NO_FENCE
        pmem_fence();
#endif
        pool->committed = number + 1;
        pmem_flush_line(&pool->committed);
        pmem_fence();
    }
}

static void pool_recover(struct pool *pool) {
    u64 committed = pool->committed;
    must_hold(committed <= VALUES, "%lu values committed", committed);
    for (u64 number = 0; number < committed; number++)
        must_hold(pool->slot[number].value == expected(number), "value %lu is committed but reads %lu", number,
                  pool->slot[number].value);
}

POOL_GUEST("pmcommit")
