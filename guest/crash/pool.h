/* The frame of every teaching guest of the crash laboratory.
 *
 * Workload and recovery live in one image. At boot it looks at the start of the NVDIMM:
 *   - its own magic number: a pool is there. Recover, check what must hold, end with EXIT_OK or EXIT_FAILED.
 *   - zero: nothing there, or a crash hit before the pool was complete. Format and run the workload.
 * The magic number is one aligned 8-byte store made last, after everything else of the format is durable; so a crash
 * during formatting leaves zero, and formatting again is right, because it writes every field that anybody reads.
 *
 * Recovery is quiet unless something is wrong: the laboratory runs it hundreds of times per second. Every field that
 * has to be ordered against another one has a cache line to itself, so that only flushes and fences order them.
 */
#ifndef POOL_H
#define POOL_H

#include "nvdimm.h"
#include "pmem.h"

#define LINE __attribute__((aligned(CACHE_LINE)))

/* What each guest defines. `pool_format` makes its stores durable; the frame adds the magic number. */
struct pool;
static void pool_format(struct pool *pool);
static void pool_work(struct pool *pool);
static void pool_recover(struct pool *pool);

/* Ends the guest with EXIT_FAILED and says which promise was broken. */
#define must_hold(condition, ...)                                                                                      \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            printf("violated: " __VA_ARGS__);                                                                          \
            printf("\n");                                                                                              \
            guest_exit(EXIT_FAILED);                                                                                   \
        }                                                                                                              \
    } while (0)

static inline int pool_main(const struct nvdimm *nvdimm, u64 size, u64 expected) {
    struct pool *pool = (struct pool *)nvdimm->base;
    volatile u64 *magic = (volatile u64 *)nvdimm->base;
    if (nvdimm->size < size) {
        printf("the NVDIMM is too small: %lu bytes are needed\n", size);
        return EXIT_USAGE;
    }
    if (*magic == expected) {
        pool_recover(pool);
        return EXIT_OK;
    }
    if (*magic) {
        printf("the NVDIMM holds something else\n");
        return EXIT_USAGE;
    }
    pool_format(pool);
    *magic = expected;
    pmem_flush_line(magic);
    pmem_fence();
    pool_work(pool);
    printf("done\n");
    return EXIT_OK;
}

/* Defines main() for a guest whose magic number is the eight characters of `name`. */
#define POOL_GUEST(name)                                                                                               \
    int main(int argc, char **argv) {                                                                                  \
        u64 expected;                                                                                                  \
        struct nvdimm nvdimm = nvdimm_first();                                                                         \
        (void)argc, (void)argv;                                                                                        \
        _Static_assert(sizeof name == 9, "a magic number has eight characters");                                       \
        __builtin_memcpy(&expected, name, 8);                                                                          \
        return pool_main(&nvdimm, sizeof(struct pool), expected);                                                      \
    }

#endif
