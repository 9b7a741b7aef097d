/* A ring of records: when it is full, each new record takes the place of the oldest one.
 *
 * Records oldest .. newest - 1 are promised to be readable. Fixed: give the oldest one up, write over it, then count
 * the new one in.
 *
 * TAIL_LAST  the oldest record is given up only after it has been written over.
 */
#include "pool.h"

enum { SLOTS = 3, RECORDS = 6 };

struct pool {
    LINE volatile u64 magic;
    LINE volatile u64 oldest;
    LINE volatile u64 newest;
    struct {
        LINE volatile u64 number;
        volatile u64 content;
    } record[SLOTS];
};

static u64 content_of(u64 number) {
    return number * 1000003 + 17;
}

static void pool_format(struct pool *pool) {
    pool->oldest = 0;
    pool->newest = 0;
    pmem_flush_line(&pool->oldest);
    pmem_flush_line(&pool->newest);
    pmem_fence();
}

static void give_up_oldest(struct pool *pool, u64 number) {
    if (number < SLOTS)
        return;
    pool->oldest = number - SLOTS + 1;
    pmem_flush_line(&pool->oldest);
    pmem_fence();
}

static void pool_work(struct pool *pool) {
    for (u64 number = 0; number < RECORDS; number++) {
        u64 slot = number % SLOTS;
#ifndef TAIL_LAST
        give_up_oldest(pool, number);
#endif
        pool->record[slot].number = number;
        pool->record[slot].content = content_of(number);
        pmem_flush_line(&pool->record[slot]);
        pmem_fence();
#ifdef TAIL_LAST
        give_up_oldest(pool, number);
#endif
        pool->newest = number + 1;
        pmem_flush_line(&pool->newest);
        pmem_fence();
    }
}

static void pool_recover(struct pool *pool) {
    u64 oldest = pool->oldest, newest = pool->newest;
    must_hold(oldest <= newest && newest <= RECORDS && newest - oldest <= SLOTS, "records %lu to %lu", oldest, newest);
    for (u64 number = oldest; number < newest; number++) {
        u64 slot = number % SLOTS;
        must_hold(pool->record[slot].number == number && pool->record[slot].content == content_of(number),
                  "record %lu reads %lu, %lu", number, pool->record[slot].number, pool->record[slot].content);
    }
}

POOL_GUEST("pmringlg")
