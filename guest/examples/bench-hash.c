/* bench-hash [OPERATIONS]: a hash table in the NVDIMM that grows with the number of operations, seven inserts to one
 * removal, and a recovery that looks every key up. Crash-consistent: what the laboratory costs when it finds nothing.
 *
 * A bucket is one cache line, so a value that is stored before its key also persists before it. `done` counts the
 * operations that are durable; the one after them may be there or not.
 */
#include "pool.h"

enum { SLOTS = 3, PROBES = 8, STANDARD = 100 };

struct pool {
    LINE volatile u64 magic;
    LINE volatile u64 done;
    struct bucket {
        LINE volatile u64 key[SLOTS];
        volatile u64 value[SLOTS];
    } bucket[];
};

static u64 operations, buckets;

static u64 key_of(u64 operation) {
    return operation + 1;
}

static u64 value_of(u64 key) {
    return key ^ 0x76616c7565;
}

static int removes(u64 operation) {
    return operation % 8 == 3;
}

/* The slot that holds `key` (0: a free one) among the buckets where `home` belongs. */
static volatile u64 *find(struct pool *pool, u64 home, u64 key, struct bucket **in) {
    u64 first = home * 0x9E3779B97F4A7C15 >> 32;
    for (unsigned probe = 0; probe < PROBES; probe++) {
        struct bucket *bucket = &pool->bucket[(first + probe) % buckets];
        for (unsigned slot = 0; slot < SLOTS; slot++)
            if (bucket->key[slot] == key) {
                *in = bucket;
                return &bucket->key[slot];
            }
    }
    return NULL;
}

static void pool_format(struct pool *pool) {
    pool->done = 0;
    pmem_flush_line(&pool->done);
    for (u64 b = 0; b < buckets; b++) {
        for (unsigned slot = 0; slot < SLOTS; slot++)
            pool->bucket[b].key[slot] = 0;
        pmem_flush_line(&pool->bucket[b]);
    }
    pmem_fence();
}

static void pool_work(struct pool *pool) {
    for (u64 n = 0; n < operations; n++) {
        struct bucket *bucket;
        u64 key = key_of(removes(n) ? n / 2 : n);
        volatile u64 *slot = find(pool, key, removes(n) ? key : 0, &bucket);
        if (!slot)
            panic(removes(n) ? "key %lu is lost" : "there is no room for key %lu", key);
        if (removes(n))
            *slot = 0;
        else {
            slot[SLOTS] = value_of(key);
            *slot = key;
        }
        pmem_flush_line(bucket);
        pmem_fence();
        pool->done = n + 1;
        pmem_flush_line(&pool->done);
        pmem_fence();
    }
}

static void pool_recover(struct pool *pool) {
    u64 done = pool->done;
    must_hold(done <= operations, "%lu operations are done", done);
    for (u64 n = 0; n <= done && n < operations; n++) {
        if (removes(n))
            continue;
        struct bucket *bucket;
        u64 key = key_of(n), end = 2 * n + 1;
        volatile u64 *slot = find(pool, key, key, &bucket);
        must_hold(!slot || slot[SLOTS] == value_of(key), "key %lu has value 0x%lx", key, slot[SLOTS]);
        if (removes(end) && end < done)
            must_hold(!slot, "key %lu is there after its removal", key);
        else if (n < done && !(removes(end) && end == done))
            must_hold(slot, "key %lu is lost", key);
    }
}

int main(int argc, char **argv) {
    u64 expected;
    struct nvdimm nvdimm = nvdimm_first();
    operations = argc > 1 ? parse_number(argv[1], "OPERATIONS") : STANDARD;
    for (buckets = PROBES; 2 * buckets < operations;)
        buckets *= 2;
    __builtin_memcpy(&expected, "bnchhash", 8);
    return pool_main(&nvdimm, sizeof(struct pool) + buckets * sizeof(struct bucket), expected);
}
