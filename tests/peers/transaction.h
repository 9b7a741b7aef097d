/* Undo-log transactions as libpmemobj offers them: what tx_add() names is restored unless the transaction is committed.
 *
 * A log entry is durable before its range may change; at the commit all ranges are made durable, and then the log is
 * dropped by one store. What tx_new() allocates is new: it needs no undo, only durability at the commit.
 */
#ifndef TRANSACTION_H
#define TRANSACTION_H

#include "peer.h"

enum { TX_ENTRIES = 16, TX_BYTES = 128 };

struct transaction {
    LINE volatile u64 entries;
    struct tx_entry {
        LINE volatile u64 offset, size, restore; /* in the pool; restore 0: new memory */
        u8 old[TX_BYTES];
    } entry[TX_ENTRIES];
};

/* Every structure here begins with it. */
static struct transaction *tx(void) {
    return (struct transaction *)pool->root;
}

static inline void tx_log(const volatile void *range, u64 size, u64 restore) {
    struct tx_entry *entry = &tx()->entry[tx()->entries];
    if (tx()->entries == TX_ENTRIES || (restore && size > TX_BYTES)) {
        printf("the transaction is too large\n");
        exit(1);
    }
    entry->offset = (u64)range - (u64)pool;
    entry->size = size;
    entry->restore = restore;
    if (restore)
        memcpy(entry->old, (const void *)range, size);
    persist(*entry);
    tx()->entries++;
    persist(tx()->entries);
}

/* Before `what` changes. */
#define tx_add(what) tx_log(&(what), sizeof(what), 1)

static inline void *tx_new(size_t size) {
    void *block = allocate(size);
    tx_log(block, size, 0);
    return block;
}

static inline void tx_finish(int restore) {
    for (u64 number = tx()->entries; number--;) {
        struct tx_entry *entry = &tx()->entry[number];
        void *range = (char *)pool + entry->offset;
        if (restore && entry->restore)
            memcpy(range, entry->old, entry->size);
        pmem_flush(range, entry->size);
    }
    pmem_drain();
    tx()->entries = 0;
    persist(tx()->entries);
}

static inline void tx_commit(void) {
    tx_finish(0);
}

static inline void tx_recover(void) {
    if (tx()->entries)
        tx_finish(1);
}

#endif
