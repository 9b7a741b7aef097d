/* A hash map with chains in transactions, as PMDK's hashmap_tx: the count belongs to the map, and is checked.
 *
 * Whatever is not added here is made durable where it stands, so that a transaction that was cut keeps it:
 *
 * COUNT_NOT_ADDED   the count changes without being added to the transaction
 * BUCKET_NOT_ADDED  the head of a chain changes without being added
 * GROW_NOT_ADDED    growing swings the pointer to the new buckets without adding it
 */
#include "transaction.h"

enum { FIRST_SIZE = 2 };

struct entry {
    LINE u64 key;
    u64 value;
    struct entry *next;
};

struct buckets {
    LINE u64 size;
    struct entry *head[];
};

struct root {
    struct transaction tx;
    LINE u64 count;
    LINE struct buckets *volatile buckets;
};

static void structure_format(struct root *root) {
    root->tx.entries = 0;
    root->count = 0;
    root->buckets = allocate(sizeof *root->buckets + FIRST_SIZE * sizeof(struct entry *));
    root->buckets->size = FIRST_SIZE;
    persist(root->buckets->size);
    persist(root->tx.entries);
    persist(root->count);
    persist(root->buckets);
}

static struct entry **head_of(struct buckets *buckets, u64 key) {
    return &buckets->head[key % buckets->size];
}

static struct entry *find(struct root *root, u64 key) {
    struct entry *entry = *head_of(root->buckets, key);
    while (entry && entry->key != key)
        entry = entry->next;
    return entry;
}

static void structure_recover(struct root *root) {
    u64 entries = 0;
    tx_recover();
    for (u64 number = 0; number < root->buckets->size; number++)
        for (struct entry *entry = root->buckets->head[number]; entry; entry = entry->next)
            entries++;
    if (entries != root->count) {
        printf("violated: there are %lu entries, the count says %lu\n", entries, root->count);
        exit(1);
    }
}

static void change_count(struct root *root, u64 by) {
#ifndef COUNT_NOT_ADDED
    tx_add(root->count);
#endif
    root->count += by; /* blamed: COUNT_NOT_ADDED */
#ifdef COUNT_NOT_ADDED
    persist(root->count);
#endif
    tx_commit();
}

static void grow(struct root *root) {
    struct buckets *old = root->buckets, *fresh;
    fresh = tx_new(sizeof *fresh + 2 * old->size * sizeof *fresh->head);
    fresh->size = 2 * old->size;
    for (u64 number = 0; number < old->size; number++)
        for (struct entry *entry = old->head[number], *next; entry; entry = next) {
            next = entry->next;
            tx_add(entry->next);
            entry->next = *head_of(fresh, entry->key);
            *head_of(fresh, entry->key) = entry;
        }
#ifndef GROW_NOT_ADDED
    tx_add(root->buckets);
#endif
    root->buckets = fresh; /* blamed: GROW_NOT_ADDED */
#ifdef GROW_NOT_ADDED
    persist(root->buckets);
#endif
    tx_commit();
}

static void structure_put(struct root *root, u64 key, u64 value) {
    struct entry *entry = find(root, key);
    if (entry) {
        tx_add(entry->value);
        entry->value = value;
        tx_commit();
        return;
    }
    if (root->count == 2 * root->buckets->size)
        grow(root);
    struct entry **head = head_of(root->buckets, key);
    entry = tx_new(sizeof *entry);
    entry->key = key;
    entry->value = value;
    entry->next = *head;
#ifndef BUCKET_NOT_ADDED
    tx_add(*head);
#endif
    *head = entry; /* blamed: BUCKET_NOT_ADDED */
#ifdef BUCKET_NOT_ADDED
    persist(*head);
#endif
    change_count(root, 1);
}

static u64 structure_get(struct root *root, u64 key) {
    const struct entry *entry = find(root, key);
    return entry ? entry->value : 0;
}

static void structure_remove(struct root *root, u64 key) {
    struct entry **link = head_of(root->buckets, key);
    while (*link && (*link)->key != key)
        link = &(*link)->next;
    if (!*link)
        return;
    tx_add(*link);
    *link = (*link)->next;
    change_count(root, -1UL);
}

STEPS({1, 10}, {3, 30}, {2, 20}, {3, 0}, {4, 40}, {5, 50}, {6, 60}, {2, 21}, )
