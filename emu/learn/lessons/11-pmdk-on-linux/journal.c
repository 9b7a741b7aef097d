/* A journal over libpmem, for Linux: append adds an entry, read checks all. NO_PERSIST leaves out what makes an entry durable
 * before the count names it. */
#include <libpmem.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

enum { MOST = 8 };

struct entry {
    uint64_t value;
    uint64_t check; /* ~value: the entry is whole */
    char unused[48];
};

struct journal {
    uint64_t count;
    char unused[56];
    struct entry entries[MOST];
};

static int append(struct journal *journal) {
    struct entry *entry = &journal->entries[journal->count];
    if (journal->count == MOST)
        return 2;
    entry->value = 1000 + journal->count;
    entry->check = ~entry->value;
#ifndef NO_PERSIST
    pmem_persist(entry, sizeof *entry);
#endif
    journal->count++;
    pmem_persist(&journal->count, sizeof journal->count);
    return 0;
}

static int check(const struct journal *journal) {
    for (uint64_t i = 0; i < journal->count && i < MOST; i++)
        if (journal->entries[i].check != ~journal->entries[i].value) {
            printf("entry %lu is counted and not whole\n", (unsigned long)i);
            return 1;
        }
    return journal->count > MOST;
}

int main(int argc, char **argv) {
    int is_pmem, status;
    struct journal *journal;
    if (argc != 3)
        return 2;
    journal = pmem_map_file(argv[2], sizeof *journal, PMEM_FILE_CREATE, 0600, NULL, &is_pmem);
    if (!journal) {
        fprintf(stderr, "cannot map %s: %s\n", argv[2], pmem_errormsg());
        return 1;
    }
    status = strcmp(argv[1], "append") ? check(journal) : append(journal);
    printf("%lu entries, is_pmem %d\n", (unsigned long)journal->count, is_pmem);
    return status;
}
