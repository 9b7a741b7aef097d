/* Recovers the logbook, appends until it has three entries, and judges what is there. It marks each operation for emu
 * (ports 0xE10 and 0xE14), so that `emu crash --durable-when-done` knows what was promised. */
#include "logbook.h"

#include <libpmem.h>
#include <stdio.h>

static const char *const NOTES[] = {"left harbour at dawn", "wind from the west, heavy sea", "land in sight"};
enum { ENTRIES = sizeof NOTES / sizeof *NOTES };

static void mark(uint16_t port, uint32_t operation) {
    __asm__ volatile("outl %0, %1" : : "a"(operation), "Nd"(port) : "memory");
}

static int whole(const struct entry *entry) {
    return entry->length < sizeof entry->text && entry->sum == sum_of(entry->text, entry->length);
}

static int examine(const struct logbook *logbook) {
    if (logbook->count > ENTRIES) {
        printf("%lu entries are too many\n", (unsigned long)logbook->count);
        return 1;
    }
    for (uint64_t i = 0; i < logbook->count; i++)
        if (!whole(&logbook->entries[i])) {
            printf("entry %lu is counted and not whole\n", (unsigned long)i);
            return 1;
        }
    return 0;
}

int main(void) {
    struct logbook *logbook = pmem_map_file("/dev/pmem0", sizeof *logbook, PMEM_FILE_CREATE, 0600, NULL, NULL);
    if (!logbook) {
        printf("cannot map the logbook: %s\n", pmem_errormsg());
        return 1;
    }
    if (examine(logbook))
        return 1;
    for (uint64_t next = logbook->count; next < ENTRIES; next++) {
        mark(0xE10, (uint32_t)next);
        append(logbook, NOTES[next]);
        mark(0xE14, (uint32_t)next);
    }
    if (logbook->count != ENTRIES) {
        printf("%lu entries, not %d\n", (unsigned long)logbook->count, ENTRIES);
        return 1;
    }
    return examine(logbook);
}
