/* A two-level hash table: each key has two possible buckets in the top level and two in the bottom level, which has
 * half as many. A bucket has a token per slot that says whether the slot is in use (idea: level hashing, OSDI'18).
 *
 * TOKEN_WITH_ITEM  the token is stored before the item is durable, and one fence waits for both: the token can arrive
 *                  alone.
 */
#include "pool.h"

enum { TOP = 4, BOTTOM = 2, SLOTS = 2, KEYS = 6 };

struct bucket {
    LINE volatile u8 token[SLOTS];
    struct {
        LINE volatile u64 key;
        volatile u64 value;
    } slot[SLOTS];
};

struct pool {
    LINE volatile u64 magic;
    struct bucket bucket[TOP + BOTTOM];
};

static u64 key_at(unsigned number) {
    return 0x9E37 * (number + 1);
}

static u64 value_of(u64 key) {
    return key ^ 0x76616c7565;
}

/* The `choice`-th bucket of `key`: 0 and 1 in the top level, 2 and 3 in the bottom level. */
static unsigned bucket_of(u64 key, unsigned choice) {
    u64 hash = choice & 1 ? key * 0xC2B2AE3D27D4EB4F : key * 0x9E3779B97F4A7C15;
    unsigned top = (unsigned)(hash >> 60) % TOP;
    return choice < 2 ? top : TOP + top / (TOP / BOTTOM);
}

static void pool_format(struct pool *pool) {
    for (unsigned b = 0; b < TOP + BOTTOM; b++) {
        *(volatile u64 *)&pool->bucket[b] = 0;
        pmem_flush_line(&pool->bucket[b]);
    }
    pmem_fence();
}

static void put(struct bucket *bucket, unsigned slot, u64 key) {
#ifdef TOKEN_WITH_ITEM
    bucket->token[slot] = 1;
    bucket->slot[slot].key = key;
    bucket->slot[slot].value = value_of(key);
    pmem_flush_line(&bucket->token);
    pmem_flush_line(&bucket->slot[slot]);
    pmem_fence();
#else
    bucket->slot[slot].key = key;
    bucket->slot[slot].value = value_of(key);
    pmem_flush_line(&bucket->slot[slot]);
    pmem_fence();
    bucket->token[slot] = 1;
    pmem_flush_line(&bucket->token);
    pmem_fence();
#endif
}

static void insert(struct pool *pool, u64 key) {
    for (unsigned choice = 0; choice < 4; choice++) {
        struct bucket *bucket = &pool->bucket[bucket_of(key, choice)];
        for (unsigned slot = 0; slot < SLOTS; slot++)
            if (!bucket->token[slot]) {
                put(bucket, slot, key);
                return;
            }
    }
    panic("the table is full");
}

static void pool_work(struct pool *pool) {
    for (unsigned number = 0; number < KEYS; number++)
        insert(pool, key_at(number));
}

static int belongs(u64 key, unsigned bucket) {
    for (unsigned choice = 0; choice < 4; choice++)
        if (bucket_of(key, choice) == bucket)
            return 1;
    return 0;
}

static void pool_recover(struct pool *pool) {
    for (unsigned b = 0; b < TOP + BOTTOM; b++)
        for (unsigned slot = 0; slot < SLOTS; slot++) {
            if (!pool->bucket[b].token[slot])
                continue;
            u64 key = pool->bucket[b].slot[slot].key, value = pool->bucket[b].slot[slot].value;
            must_hold(key && belongs(key, b), "bucket %u has key 0x%lx", b, key);
            must_hold(value == value_of(key), "key 0x%lx has value 0x%lx", key, value);
        }
}

POOL_GUEST("pmlvlhsh")
