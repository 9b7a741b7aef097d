/* An undo log: money moves between two accounts; the sum must never change.
 *
 * Old balances go to the log and the log is marked valid; then the accounts change in place; then the log is dropped.
 * Recovery restores the old balances from a valid log. Each step must be durable before the next one begins.
 *
 * LOG_WITH_MARK  the log's content and its mark are made durable together: the mark can arrive alone.
 */
#include "pool.h"

enum { TRANSFERS = 3, FIRST = 700, SECOND = 300, AMOUNT = 50 };

struct pool {
    LINE volatile u64 magic;
    LINE volatile u64 valid;
    LINE volatile u64 old_first;
    volatile u64 old_second;
    LINE volatile u64 first;
    LINE volatile u64 second;
};

static void drop_log(struct pool *pool) {
    pool->valid = 0;
    pmem_flush_line(&pool->valid);
    pmem_fence();
}

static void set_accounts(struct pool *pool, u64 first, u64 second) {
    pool->first = first;
    pool->second = second;
    pmem_flush_line(&pool->first);
    pmem_flush_line(&pool->second);
    pmem_fence();
}

static void pool_format(struct pool *pool) {
    pool->valid = 0;
    pmem_flush_line(&pool->valid);
    set_accounts(pool, FIRST, SECOND);
}

static void pool_work(struct pool *pool) {
    u64 first = FIRST, second = SECOND;
    for (unsigned transfer = 0; transfer < TRANSFERS; transfer++) {
        pool->old_first = first;
        pool->old_second = second;
        pmem_flush_line(&pool->old_first);
#ifndef LOG_WITH_MARK
        pmem_fence();
#endif
        pool->valid = 1;
        pmem_flush_line(&pool->valid);
        pmem_fence();
        first -= AMOUNT;
        second += AMOUNT;
        set_accounts(pool, first, second);
        drop_log(pool);
    }
}

static void pool_recover(struct pool *pool) {
    if (pool->valid) {
        set_accounts(pool, pool->old_first, pool->old_second);
        drop_log(pool);
    }
    u64 first = pool->first, second = pool->second;
    must_hold(first + second == FIRST + SECOND, "%lu and %lu make %lu, not %u", first, second, first + second,
              FIRST + SECOND);
}

POOL_GUEST("pmundlog")
