/* The frame of every structure here: one map from small keys to values, one fixed list of operations, one check.
 *
 * On an empty NVDIMM the program formats the structure and runs the operations; `done` counts them, durably, after each.
 * On a pool it recovers and compares with a plain array: every operation that is counted must be there whole, the one
 * in flight whole or not at all (durable linearizability for one thread). Then the remaining operations must work.
 *
 * Only libpmem is used, so the same source is a Linux program: cc -DPOOL_FILE='"pool"' cceh.c -lpmem
 * Its pointers are addresses: there the pool must be mapped at the same place again, with PMEM_MMAP_HINT.
 *
 * "blamed: NAME" marks the line that a report must name when the bug NAME is compiled in.
 */
#ifndef PEER_H
#define PEER_H

#include <libpmem.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifndef POOL_FILE
#define POOL_FILE "/dev/pmem0"
#endif

enum { LINE_SIZE = 64, KEYS = 32, HEAP = 16384, POOL_MAGIC = 0x72656570 };
#define LINE __attribute__((aligned(LINE_SIZE)))
#define persist(what) pmem_persist((const void *)&(what), sizeof(what))
#define flush(what) pmem_flush((const void *)&(what), sizeof(what))

typedef uint64_t u64;
typedef uint8_t u8;

/* What each structure defines. Keys are 1 to KEYS - 1; no value is 0. `structure_recover` runs before anything else
 * after a crash; `structure_get` is 0 for a key that is not there. */
struct root;
static void structure_format(struct root *root);
static void structure_recover(struct root *root);
static void structure_put(struct root *root, u64 key, u64 value);
static u64 structure_get(struct root *root, u64 key);
static void structure_remove(struct root *root, u64 key);

struct step {
    u64 key, value; /* value 0: remove */
};
static const struct step steps[];
static const unsigned step_count;
#define STEPS(...)                                                                                                     \
    static const struct step steps[] = {__VA_ARGS__};                                                                  \
    static const unsigned step_count = sizeof steps / sizeof *steps;

struct pool {
    LINE volatile u64 magic;
    LINE volatile u64 done;
    LINE volatile u64 top; /* bytes of the heap in use */
    LINE unsigned char root[4096];
    LINE unsigned char heap[HEAP];
};
static struct pool *pool;

/* Zeroed and durable. What a crash allocated and lost is leaked, which no structure here promises against. */
static inline void *allocate(size_t size) {
    u64 top = pool->top;
    size = (size + LINE_SIZE - 1) / LINE_SIZE * LINE_SIZE;
    if (top + size > HEAP) {
        printf("the heap is full\n");
        exit(1);
    }
    pmem_memset_persist(pool->heap + top, 0, size);
    pool->top = top + size;
    persist(pool->top);
    return pool->heap + top;
}

static inline void run(struct root *root, const struct step *step) {
    if (step->value)
        structure_put(root, step->key, step->value);
    else
        structure_remove(root, step->key);
}

static inline void must_be(struct root *root, u64 key, u64 before, u64 after) {
    u64 found = structure_get(root, key);
    if (found != before && found != after) {
        printf("violated: key %lu is %lu, not %lu", key, found, before);
        if (before != after)
            printf(" or %lu", after);
        printf("\n");
        exit(1);
    }
}

static inline void check(struct root *root) {
    u64 before[KEYS] = {0}, after[KEYS], done = pool->done, named = 0;
    for (unsigned number = 0; number < step_count; number++)
        named |= 1UL << steps[number].key;
    for (unsigned number = 0; number < done; number++)
        before[steps[number].key] = steps[number].value;
    memcpy(after, before, sizeof after);
    if (done < step_count)
        after[steps[done].key] = steps[done].value;
    structure_recover(root);
    for (u64 key = 1; key < KEYS; key++)
        if (named >> key & 1)
            must_be(root, key, before[key], after[key]);
    for (u64 number = done; number < step_count; number++) {
        run(root, &steps[number]);
        after[steps[number].key] = steps[number].value;
    }
    for (u64 key = 1; key < KEYS; key++)
        if (named >> key & 1)
            must_be(root, key, after[key], after[key]);
}

int main(void) {
    pool = pmem_map_file(POOL_FILE, sizeof *pool, PMEM_FILE_CREATE, 0666, NULL, NULL);
    if (!pool) {
        printf("no NVDIMM: %s\n", pmem_errormsg());
        return 2;
    }
    struct root *root = (struct root *)pool->root;
    if (pool->magic == POOL_MAGIC) {
        check(root);
        return 0;
    }
    pool->done = 0;
    pool->top = 0;
    pmem_persist((void *)&pool->done, 2 * LINE_SIZE);
    structure_format(root);
    pool->magic = POOL_MAGIC;
    persist(pool->magic);
    for (unsigned number = 0; number < step_count; number++) {
        run(root, &steps[number]);
        pool->done = number + 1;
        persist(pool->done);
    }
    return 0;
}

#endif
