/* Mappings above the first GiB, which start.S has made: whole GiB pages if the CPU has them, else 2 MiB pages. */
#include "guest.h"
#include "io.h"

enum { PRESENT = 1, WRITABLE = 2, LARGE = 0x80, ENTRIES = 512, SPARE_TABLES = 24 };
#define NX (1ull << 63)
#define GIB (1ull << 30)
#define LARGE_PAGE (1ull << 21)
#define HAS_GIB_PAGES (1u << 26)

extern u64 page_pdpt[ENTRIES];

static u64 spare[SPARE_TABLES][ENTRIES] __attribute__((aligned(4096)));
static unsigned spare_used;

static void map_gib(u64 number) {
    u64 base = number * GIB;
    if (cpuid(0x80000001, 0).edx & HAS_GIB_PAGES) {
        page_pdpt[number] = base | PRESENT | WRITABLE | LARGE | NX;
        return;
    }
    if (spare_used == SPARE_TABLES)
        panic("no page table left to map 0x%lx", base);
    u64 *directory = spare[spare_used++];
    for (unsigned i = 0; i < ENTRIES; i++)
        directory[i] = (base + i * LARGE_PAGE) | PRESENT | WRITABLE | LARGE | NX;
    page_pdpt[number] = (u64)directory | PRESENT | WRITABLE;
}

void map_physical(u64 base, u64 size) {
    if (!size || base + size < base || base + size > ENTRIES * GIB)
        panic("cannot map %lu bytes at 0x%lx", size, base);
    for (u64 number = base / GIB; number <= (base + size - 1) / GIB; number++)
        if (!page_pdpt[number])
            map_gib(number);
}
