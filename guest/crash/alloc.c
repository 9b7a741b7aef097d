/* Allocator metadata: a bit per block says that it is taken, a root per object says where it is.
 *
 * A root must never point to a free block: the next allocation would hand that block out a second time. A taken block
 * without a root is only a leak, and recovery gives it back. So: take before pointing, stop pointing before giving
 * back.
 *
 * FREE_FIRST  the block is given back while its root still points to it. No flush or fence can mend that order.
 */
#include "pool.h"

enum { BLOCKS = 4, ROOTS = 3 };

struct pool {
    LINE volatile u64 magic;
    LINE volatile u64 taken;
    struct {
        LINE volatile u64 block; /* counted from 1; 0 is none */
    } root[ROOTS];
    struct {
        LINE volatile u64 content;
    } block[BLOCKS];
};

static void set_taken(struct pool *pool, u64 taken) {
    pool->taken = taken;
    pmem_flush_line(&pool->taken);
    pmem_fence();
}

static void set_root(struct pool *pool, unsigned root, u64 block) {
    pool->root[root].block = block;
    pmem_flush_line(&pool->root[root]);
    pmem_fence();
}

static void pool_format(struct pool *pool) {
    for (unsigned root = 0; root < ROOTS; root++) {
        pool->root[root].block = 0;
        pmem_flush_line(&pool->root[root]);
    }
    set_taken(pool, 0);
}

static void create(struct pool *pool, unsigned root) {
    u64 block = 0;
    while (pool->taken >> block & 1)
        if (++block == BLOCKS)
            panic("no free block");
    set_taken(pool, pool->taken | 1ull << block);
    pool->block[block].content = root + 1;
    pmem_flush_line(&pool->block[block]);
    pmem_fence();
    set_root(pool, root, block + 1);
}

static void destroy(struct pool *pool, unsigned root) {
    u64 bit = 1ull << (pool->root[root].block - 1);
#ifdef FREE_FIRST
    set_taken(pool, pool->taken & ~bit);
    set_root(pool, root, 0);
#else
    set_root(pool, root, 0);
    set_taken(pool, pool->taken & ~bit);
#endif
}

static void pool_work(struct pool *pool) {
    create(pool, 0);
    create(pool, 1);
    destroy(pool, 0);
    create(pool, 2);
    destroy(pool, 1);
}

static void pool_recover(struct pool *pool) {
    u64 reached = 0, taken = pool->taken;
    for (unsigned root = 0; root < ROOTS; root++) {
        u64 block = pool->root[root].block;
        if (!block)
            continue;
        must_hold(block <= BLOCKS, "root %u points to block %lu", root, block);
        u64 bit = 1ull << (block - 1);
        must_hold(taken & bit, "root %u points to block %lu, which is free", root, block);
        must_hold(!(reached & bit), "block %lu belongs to two roots", block);
        must_hold(pool->block[block - 1].content == root + 1, "block %lu of root %u holds %lu", block, root,
                  pool->block[block - 1].content);
        reached |= bit;
    }
    if (taken != reached)
        set_taken(pool, reached);
}

POOL_GUEST("pmalloca")
