/* A ledger in persistent memory: entries, and a count that says how many of them are there.
 *
 * It is written for libpmem, so the same file compiles for Linux (cc NAME.c -lpmem) and, with `emu cc`, as a guest.
 * At every start it first checks what it finds: that is its recovery, and what `emu crash` runs on every crash state.
 */
#include <inttypes.h>
#include <libpmem.h>
#include <stdio.h>

enum { ENTRIES = 8, WORK = 3 };

struct entry {
    uint64_t amount;
    uint64_t check; /* ~amount: the entry is whole */
    char unused[48];
};

struct ledger {
    uint64_t count;
    char unused[56];
    struct entry entries[ENTRIES];
};

static void add(struct ledger *ledger, uint64_t amount) {
    struct entry *entry = &ledger->entries[ledger->count];
    entry->amount = amount;
    entry->check = ~amount;
    /* THE BUG: nothing makes the entry durable before the count names it. The fix is this line:
     * pmem_persist(entry, sizeof *entry);
     */
    ledger->count++;
    pmem_persist(&ledger->count, sizeof ledger->count);
}

static int recover(const struct ledger *ledger) {
    if (ledger->count > ENTRIES) {
        printf("%" PRIu64 " entries: too many\n", ledger->count);
        return 1;
    }
    for (uint64_t i = 0; i < ledger->count; i++)
        if (ledger->entries[i].check != ~ledger->entries[i].amount) {
            printf("entry %" PRIu64 " is not whole\n", i);
            return 1;
        }
    return 0;
}

int main(void) {
    size_t mapped;
    int is_pmem;
    struct ledger *ledger = pmem_map_file("/pmem/NAME", sizeof *ledger, PMEM_FILE_CREATE, 0600, &mapped, &is_pmem);
    if (!ledger) {
        printf("cannot map the ledger: %s\n", pmem_errormsg());
        return 1;
    }
    if (recover(ledger))
        return 1;
    while (ledger->count < WORK)
        add(ledger, 100 + ledger->count);
    printf("%" PRIu64 " entries\n", ledger->count);
    return 0;
}
