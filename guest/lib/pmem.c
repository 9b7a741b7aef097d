#include "pmem.h"

#include "io.h"

enum flush_kind pmem_flush_kind;

void pmem_init(void) {
    if (cpuid(0, 0).eax < 7)
        return;
    u32 features = cpuid(7, 0).ebx; /* bit 24: CLWB, bit 23: CLFLUSHOPT */
    pmem_flush_kind = features >> 24 & 1 ? FLUSH_CLWB : features >> 23 & 1 ? FLUSH_CLFLUSHOPT : FLUSH_CLFLUSH;
}

void pmem_flush(const volatile void *address, size_t size) {
    u64 end = (u64)address + size;
    for (u64 line = (u64)address & ~(u64)(CACHE_LINE - 1); line < end; line += CACHE_LINE)
        pmem_flush_line(line);
}

void pmem_persist(const volatile void *address, size_t size) {
    pmem_flush(address, size);
    pmem_fence();
}

void pmem_memcpy_nt(volatile void *to, const void *from, size_t size) {
    volatile u64 *out = to;
    const u64 *in = from;
    for (size_t i = 0; i < size / 8; i++)
        pmem_store_nt(out + i, in[i]);
    pmem_fence();
}
