/* Level hashing (Zuo, Hua, Wu: OSDI 2018): two levels of buckets, the bottom one half as large. A key has two buckets
 * in each level; each bucket has a token per slot that says whether the slot is in use. An update writes the new item
 * to a free slot of the same bucket and changes two tokens with one store; where the bucket is full it goes in place
 * through a log. A bucket that is full may move one of its items to the item's other bucket.
 *
 * INSERT_TOKEN  the token is stored before the item is durable
 * UPDATE_TOKEN  so in the log-free update
 * MOVE_TOKEN    so when an item is moved
 * MOVE_TWICE    a move changes two tokens, and recovery does not look for an item that is in both places
 * UPDATE_TWO    the log-free update changes its two tokens by two stores, the old one first
 */
#include "peer.h"

enum { TOP = 2, BOTTOM = 1, SLOTS = 2, BUCKETS = TOP + BOTTOM };

struct bucket {
    LINE volatile u64 tokens; /* bit n: slot n is in use */
    struct item {
        LINE volatile u64 key;
        volatile u64 value;
    } slot[SLOTS];
};

struct root {
    struct bucket bucket[BUCKETS];
};

/* The `choice`-th bucket of `key`: 0 and 1 in the top level, 2 and 3 in the bottom level. */
static unsigned bucket_of(u64 key, unsigned choice) {
    unsigned top = choice & 1 ? key / TOP % TOP : key % TOP;
    return choice < 2 ? top : TOP + top / (TOP / BOTTOM);
}

static struct bucket *find(struct root *root, u64 key, unsigned *slot) {
    for (unsigned choice = 0; choice < 4; choice++) {
        struct bucket *bucket = &root->bucket[bucket_of(key, choice)];
        for (*slot = 0; *slot < SLOTS; ++*slot)
            if (bucket->tokens >> *slot & 1 && bucket->slot[*slot].key == key)
                return bucket;
    }
    return NULL;
}

static void structure_format(struct root *root) {
    memset(root, 0, sizeof *root);
    persist(*root);
}

/* The item of a move that was cut is in two places; the copy in the top level, or the first, is as good as the other. */
static void structure_recover(struct root *root) {
#ifndef MOVE_TWICE
    for (unsigned b = 0; b < BUCKETS; b++)
        for (unsigned slot = 0; slot < SLOTS; slot++) {
            struct bucket *bucket = &root->bucket[b];
            unsigned first_slot;
            if (!(bucket->tokens >> slot & 1))
                continue;
            struct bucket *first = find(root, bucket->slot[slot].key, &first_slot);
            if (first && (first != bucket || first_slot != slot)) {
                bucket->tokens &= ~(1UL << slot);
                persist(bucket->tokens);
            }
        }
#else
    (void)root;
#endif
}

static int free_slot(const struct bucket *bucket) {
    for (int slot = 0; slot < SLOTS; slot++)
        if (!(bucket->tokens >> slot & 1))
            return slot;
    return -1;
}

static void insert(struct bucket *bucket, int slot, u64 key, u64 value) {
    bucket->slot[slot].key = key;     /* blamed: INSERT_TOKEN */
    bucket->slot[slot].value = value; /* blamed: INSERT_TOKEN */
    flush(bucket->slot[slot]);
#ifndef INSERT_TOKEN
    pmem_drain();
#endif
    bucket->tokens |= 1UL << slot;
    persist(bucket->tokens);
}

/* Frees a slot of a full bucket by moving an item to the other bucket of its level. */
static int move_away(struct root *root, unsigned from, unsigned level) {
    struct bucket *bucket = &root->bucket[from];
    for (int slot = 0; slot < SLOTS; slot++) {
        u64 key = bucket->slot[slot].key, value = bucket->slot[slot].value;
        for (unsigned choice = 2 * level; choice < 2 * level + 2; choice++) {
            struct bucket *other = &root->bucket[bucket_of(key, choice)];
            int empty = free_slot(other);
            if (other == bucket || empty < 0)
                continue;
            other->slot[empty].key = key;     /* blamed: MOVE_TOKEN */
            other->slot[empty].value = value; /* blamed: MOVE_TOKEN */
            flush(other->slot[empty]);
#ifndef MOVE_TOKEN
            pmem_drain();
#endif
            other->tokens |= 1UL << empty; /* blamed: MOVE_TWICE */
            persist(other->tokens);
            bucket->tokens &= ~(1UL << slot); /* blamed: MOVE_TWICE */
            persist(bucket->tokens);
            return slot;
        }
    }
    return -1;
}

static int update(struct bucket *bucket, unsigned slot, u64 key, u64 value) {
    int empty = free_slot(bucket);
    if (empty < 0)
        return 0;
    bucket->slot[empty].key = key;     /* blamed: UPDATE_TOKEN */
    bucket->slot[empty].value = value; /* blamed: UPDATE_TOKEN */
    flush(bucket->slot[empty]);
#ifndef UPDATE_TOKEN
    pmem_drain();
#endif
#ifdef UPDATE_TWO
    bucket->tokens &= ~(1UL << slot); /* blamed: UPDATE_TWO */
    bucket->tokens |= 1UL << empty;   /* blamed: UPDATE_TWO */
#else
    bucket->tokens ^= 1UL << slot | 1UL << empty;
#endif
    persist(bucket->tokens);
    return 1;
}

static void structure_put(struct root *root, u64 key, u64 value) {
    unsigned slot;
    struct bucket *bucket = find(root, key, &slot);
    if (bucket) {
        if (!update(bucket, slot, key, value)) { /* one aligned store: atomic by itself */
            bucket->slot[slot].value = value;
            persist(bucket->slot[slot].value);
        }
        return;
    }
    for (unsigned choice = 0; choice < 4; choice++) {
        bucket = &root->bucket[bucket_of(key, choice)];
        int empty = free_slot(bucket);
        if (empty >= 0) {
            insert(bucket, empty, key, value);
            return;
        }
    }
    for (unsigned choice = 0; choice < 4; choice++) {
        unsigned from = bucket_of(key, choice);
        int empty = move_away(root, from, choice / 2);
        if (empty >= 0) {
            insert(&root->bucket[from], empty, key, value);
            return;
        }
    }
    printf("the table is full\n");
    exit(1);
}

static u64 structure_get(struct root *root, u64 key) {
    unsigned slot;
    struct bucket *bucket = find(root, key, &slot);
    return bucket ? bucket->slot[slot].value : 0;
}

static void structure_remove(struct root *root, u64 key) {
    unsigned slot;
    struct bucket *bucket = find(root, key, &slot);
    if (bucket) {
        bucket->tokens &= ~(1UL << slot);
        persist(bucket->tokens);
    }
}

/* Keys of 4n + 3 have one bucket in each level; 15 finds all of them full, so that 1 has to move, to where 2 was. */
STEPS({2, 20}, {2, 0}, {1, 10}, {1, 11}, {3, 30}, {7, 70}, {11, 110}, {15, 150}, {1, 12}, {7, 0}, {1, 0}, )
