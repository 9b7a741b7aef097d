/* Appends an entry: first the entry, and when that is durable, the count. */
#include "logbook.h"

#include <libpmem.h>
#include <string.h>

void append(struct logbook *logbook, const char *text) {
    struct entry *entry = &logbook->entries[logbook->count];
    uint64_t length = strlen(text);

    memcpy(entry->text, text, length + 1);
    entry->length = length;
    entry->sum = sum_of(text, length);
    pmem_persist(entry, sizeof *entry);

    logbook->count++;
    pmem_persist(&logbook->count, sizeof logbook->count);
}
