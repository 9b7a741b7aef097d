/* A 16-byte record, replaced again and again: a number and its square, which belong together.
 *
 * ONE_STORE  one 16-byte SSE store replaces the record in place, as if it were atomic. Memory only promises 8 bytes.
 * Fixed: the new record goes to the slot not in use; an 8-byte store then switches to it.
 */
#include "pool.h"

enum { UPDATES = 5 };

struct pool {
    LINE volatile u64 magic;
    LINE volatile u64 current;
    struct {
        LINE volatile u64 number;
        volatile u64 square;
    } record[2];
};

static void pool_format(struct pool *pool) {
    pool->current = 0;
    pool->record[0].number = 1;
    pool->record[0].square = 1;
    pmem_flush_line(&pool->current);
    pmem_flush_line(&pool->record[0]);
    pmem_fence();
}

/* One instruction, 16 bytes. The compiler itself keeps away from SSE here, so no register needs saving. */
#define store_16_bytes(to, low, high)                                                                                  \
    do {                                                                                                               \
        u64 pair_[2] __attribute__((aligned(16))) = {(low), (high)};                                                   \
        __asm__ volatile("movaps %1, %%xmm0\n\t"                                                                       \
                         "movaps %%xmm0, %0"                                                                           \
                         : "=m"(*(to))                                                                                 \
                         : "m"(pair_)                                                                                  \
                         : "memory");                                                                                  \
    } while (0)

static void pool_work(struct pool *pool) {
    for (u64 number = 2; number < 2 + UPDATES; number++) {
#ifdef ONE_STORE
        store_16_bytes(&pool->record[0], number, number * number);
        pmem_flush_line(&pool->record[0]);
        pmem_fence();
#else
        u64 next = !pool->current;
        store_16_bytes(&pool->record[next], number, number * number);
        pmem_flush_line(&pool->record[next]);
        pmem_fence();
        pool->current = next;
        pmem_flush_line(&pool->current);
        pmem_fence();
#endif
    }
}

static void pool_recover(struct pool *pool) {
    u64 current = pool->current;
    must_hold(current < 2, "record %lu is current", current);
    u64 number = pool->record[current].number, square = pool->record[current].square;
    must_hold(number && square == number * number, "record of %lu says its square is %lu", number, square);
}

POOL_GUEST("pmtorn16")
