/* P-CLHT (RECIPE; Lee and others: SOSP 2019): a hash table of one cache line per bucket with chains of further lines.
 * A value is stored before its key, in one line, so that their order persists. Growing copies all to a new table,
 * makes that durable, and then swings the pointer.
 *
 * FLUSH_NEXT      of a new table only the first chain is flushed: the wrong pointer is followed
 * TABLE_EARLY     the pointer is swung before the new table is durable
 * ROOT_NO_FLUSH   the pointer itself is never flushed
 * CHAIN_NO_FLUSH  a further line of a chain is linked, but never flushed
 * KEY_FIRST       the key is stored before the value, although one line keeps the order of its stores
 */
#include "peer.h"

enum { SLOTS = 3, FIRST_SIZE = 2 };

struct bucket {
    LINE volatile u64 key[SLOTS];
    volatile u64 value[SLOTS];
    struct bucket *volatile next;
};

struct table {
    LINE volatile u64 size;
    volatile u64 chained;
    struct bucket bucket[];
};

struct root {
    LINE struct table *volatile table;
};

static struct table *new_table(u64 size) {
    struct table *table = allocate(sizeof *table + size * sizeof *table->bucket);
    table->size = size;
    persist(table->size);
    return table;
}

static struct bucket *bucket_of(struct table *table, u64 key) {
    return &table->bucket[key % table->size];
}

static void structure_format(struct root *root) {
    root->table = new_table(FIRST_SIZE);
    persist(root->table);
}

static void structure_recover(struct root *root) {
    (void)root;
}

static void insert(struct table *table, u64 key, u64 value) {
    struct bucket *bucket = bucket_of(table, key);
    for (;; bucket = bucket->next) {
        for (unsigned slot = 0; slot < SLOTS; slot++)
            if (!bucket->key[slot]) {
#ifdef KEY_FIRST
                bucket->key[slot] = key;     /* blamed: KEY_FIRST */
                bucket->value[slot] = value; /* blamed: KEY_FIRST */
#else
                bucket->value[slot] = value;
                bucket->key[slot] = key;
#endif
                persist(*bucket);
                return;
            }
        if (!bucket->next)
            break;
    }
    struct bucket *fresh = allocate(sizeof *fresh);
    fresh->value[0] = value;
    fresh->key[0] = key; /* blamed: CHAIN_NO_FLUSH */
#ifndef CHAIN_NO_FLUSH
    persist(*fresh);
#endif
    bucket->next = fresh;
    persist(bucket->next);
    table->chained++; /* a hint when to grow: right or wrong, all is found */
}

/* Stores only; the caller makes the new table durable as a whole. */
static void copy(struct table *to, u64 key, u64 value) {
    struct bucket *bucket = bucket_of(to, key);
    for (;; bucket = bucket->next) {
        for (unsigned slot = 0; slot < SLOTS; slot++)
            if (!bucket->key[slot]) {
                bucket->value[slot] = value;
                bucket->key[slot] = key; /* blamed: FLUSH_NEXT TABLE_EARLY */
                return;
            }
        if (!bucket->next)
            bucket->next = allocate(sizeof *bucket); /* blamed: FLUSH_NEXT TABLE_EARLY */
    }
}

static void flush_table(struct table *table) {
    for (u64 number = 0; number < table->size; number++) {
        flush(table->bucket[number]);
#ifdef FLUSH_NEXT
        struct bucket *chain = table->bucket[0].next;
#else
        struct bucket *chain = table->bucket[number].next;
#endif
        for (; chain; chain = chain->next)
            flush(*chain);
    }
#ifndef TABLE_EARLY
    pmem_drain();
#endif
}

static void grow(struct root *root) {
    struct table *old = root->table, *fresh = new_table(2 * old->size);
    for (u64 number = 0; number < old->size; number++)
        for (struct bucket *bucket = &old->bucket[number]; bucket; bucket = bucket->next)
            for (unsigned slot = 0; slot < SLOTS; slot++)
                if (bucket->key[slot])
                    copy(fresh, bucket->key[slot], bucket->value[slot]);
    flush_table(fresh);
    root->table = fresh; /* blamed: ROOT_NO_FLUSH */
#ifndef ROOT_NO_FLUSH
    persist(root->table);
#endif
}

static volatile u64 *find(struct root *root, u64 key, volatile u64 **place) {
    for (struct bucket *bucket = bucket_of(root->table, key); bucket; bucket = bucket->next)
        for (unsigned slot = 0; slot < SLOTS; slot++)
            if (bucket->key[slot] == key) {
                *place = &bucket->value[slot];
                return &bucket->key[slot];
            }
    return NULL;
}

static void structure_put(struct root *root, u64 key, u64 value) {
    volatile u64 *place;
    if (find(root, key, &place)) {
        *place = value;
        persist(*place);
        return;
    }
    insert(root->table, key, value);
    if (root->table->chained > 1)
        grow(root);
}

static u64 structure_get(struct root *root, u64 key) {
    volatile u64 *place;
    return find(root, key, &place) ? *place : 0;
}

static void structure_remove(struct root *root, u64 key) {
    volatile u64 *value, *place = find(root, key, &value);
    if (place) {
        *place = 0;
        persist(*place);
    }
}

/* Odd keys all fall into bucket 1 of 2 and then 1 of 4: its chain is needed before and after growing. */
STEPS({1, 10}, {5, 50}, {1, 11}, {9, 90}, {2, 20}, {13, 130}, {17, 170}, {21, 210}, {25, 250}, {5, 0}, {29, 290}, )
