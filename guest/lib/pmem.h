/* Stores that last: write back cache lines, wait for them, copy past the cache.
 *
 * A store to persistent memory is durable once its line has been written back and a fence has waited for that
 * (Intel SDM volume 1, 12.4). CLWB and CLFLUSHOPT only start the write-back; SFENCE waits. The line may also be
 * written back earlier, by eviction, in any order against other lines: only a fence makes an order.
 *
 * The two one-line steps are macros, so that the instruction belongs to the source line that asked for it.
 */
#ifndef PMEM_H
#define PMEM_H

#include "guest.h"

enum { CACHE_LINE = 64 };
enum flush_kind { FLUSH_CLFLUSH, FLUSH_CLFLUSHOPT, FLUSH_CLWB };

/* The best flush instruction of this CPU, chosen by pmem_init() from CPUID. */
extern enum flush_kind pmem_flush_kind;

void pmem_init(void);

/* Starts writing back the cache line of `address`. Durable when pmem_fence() has followed. */
#define pmem_flush_line(address)                                                                                       \
    do {                                                                                                               \
        volatile char *line_ = (volatile char *)(address);                                                             \
        if (pmem_flush_kind == FLUSH_CLWB)                                                                             \
            __asm__ volatile("clwb %0" : "+m"(*line_)::"memory");                                                      \
        else if (pmem_flush_kind == FLUSH_CLFLUSHOPT)                                                                  \
            __asm__ volatile("clflushopt %0" : "+m"(*line_)::"memory");                                                \
        else                                                                                                           \
            __asm__ volatile("clflush %0" : "+m"(*line_)::"memory");                                                   \
    } while (0)

/* Waits until everything flushed, and everything stored past the cache, before it is in the persistence domain. */
#define pmem_fence() __asm__ volatile("sfence" ::: "memory")

/* Starts writing back every line of [address, address + size). Durable when pmem_fence() has followed. */
void pmem_flush(const volatile void *address, size_t size);

/* Flush and fence. Durable when it returns. */
void pmem_persist(const volatile void *address, size_t size);

/* A non-temporal 8-byte store. Durable when pmem_fence() has followed; needs no flush. */
static inline void pmem_store_nt(volatile u64 *to, u64 value) {
    __asm__ volatile("movnti %1, %0" : "=m"(*to) : "r"(value) : "memory");
}

/* Copies past the cache; `to` and `size` are multiples of 8. Durable when it returns. */
void pmem_memcpy_nt(volatile void *to, const void *from, size_t size);

#endif
