/* FAST and FAIR (Hwang and others: FAST 2018): a B+ tree that shifts. A leaf's entries are sorted; inserting moves the
 * larger ones up, one by one, each with its value before its key. An entry counts only when its value differs from its
 * left neighbour's, so that a shift that was cut hides one of two copies and loses nothing (values are pointers, and
 * differ). A line is flushed when the shift leaves it. A split makes the sibling durable, links it, and only then cuts
 * the old node short; readers follow the link until the parent knows the sibling (FAIR).
 *
 * Here: leaves and one root above them, which is replaced whole.
 *
 * REMOVE_FLUSH  shifting down, a line is flushed when it is entered instead of when it is left
 * NO_RECOVERY   nothing repairs a shift that was cut, and what follows trips over the copy
 * SPLIT_ROOT    recovery does not see that the only leaf was split and its parent not yet made
 * SPLIT_EARLY   the sibling is linked before it is durable
 * KEY_FIRST     shifting up moves the key before the value
 */
#include "peer.h"

enum { ENTRIES = 6, HALF = ENTRIES / 2, CHILDREN = 4 };
static const u64 LEFT_OF_FIRST = ~0UL;

/* The first entry of value 0 ends the leaf. Four entries to a line. */
struct leaf {
    LINE struct leaf *volatile sibling;
    LINE struct entry {
        volatile u64 value;
        volatile u64 key;
    } entry[ENTRIES + 2];
};

/* child[n] holds the keys from low[n] on. */
struct inner {
    LINE volatile u64 low[CHILDREN];
    struct leaf *volatile child[CHILDREN];
};

struct root {
    LINE struct leaf *volatile first;
    LINE struct inner *volatile inner; /* NULL while the first leaf is the only one */
};

static int starts_line(const void *address) {
    return (u64)address % LINE_SIZE == 0;
}

static unsigned count(const struct leaf *leaf) {
    unsigned number = 0;
    while (leaf->entry[number].value)
        number++;
    return number;
}

static u64 left_value(const struct leaf *leaf, unsigned number) {
    return number ? leaf->entry[number - 1].value : LEFT_OF_FIRST;
}

static void structure_format(struct root *root) {
    root->first = allocate(sizeof *root->first);
    root->inner = NULL;
    persist(*root);
}

static struct leaf *leaf_of(struct root *root, u64 key) {
    struct leaf *leaf = root->first;
    if (root->inner)
        for (unsigned n = 0; n < CHILDREN && root->inner->child[n] && root->inner->low[n] <= key; n++)
            leaf = root->inner->child[n];
    while (leaf->sibling && leaf->sibling->entry[0].key <= key)
        leaf = leaf->sibling;
    return leaf;
}

static int find(const struct leaf *leaf, u64 key) {
    for (unsigned number = 0; leaf->entry[number].value; number++)
        if (leaf->entry[number].key == key && leaf->entry[number].value != left_value(leaf, number))
            return (int)number;
    return -1;
}

/* Moves what is behind `number` down by one, each key before its value. */
static void shift_down(struct leaf *leaf, unsigned number) {
    unsigned end = count(leaf);
    for (; number < end; number++) {
        leaf->entry[number].key = leaf->entry[number + 1].key;     /* blamed: REMOVE_FLUSH */
        leaf->entry[number].value = leaf->entry[number + 1].value; /* blamed: REMOVE_FLUSH */
#ifdef REMOVE_FLUSH
        if (starts_line(&leaf->entry[number]))
#else
        if (starts_line(&leaf->entry[number + 1]))
#endif
            persist(leaf->entry[number]);
    }
    persist(leaf->entry[end - 1]);
}

static void insert(struct leaf *leaf, u64 key, u64 value) {
    unsigned number = count(leaf);
    leaf->entry[number + 1].value = 0; /* a split leaves old values there */
    persist(leaf->entry[number + 1]);
    for (; number && leaf->entry[number - 1].key > key; number--) {
#ifdef KEY_FIRST
        leaf->entry[number].key = leaf->entry[number - 1].key;     /* blamed: KEY_FIRST */
        leaf->entry[number].value = leaf->entry[number - 1].value; /* blamed: KEY_FIRST */
#else
        leaf->entry[number].value = leaf->entry[number - 1].value; /* blamed: NO_RECOVERY */
        leaf->entry[number].key = leaf->entry[number - 1].key;     /* blamed: NO_RECOVERY */
#endif
        if (starts_line(&leaf->entry[number]))
            persist(leaf->entry[number]);
    }
    leaf->entry[number].value = left_value(leaf, number); /* blamed: NO_RECOVERY */
    leaf->entry[number].key = key;                        /* blamed: NO_RECOVERY */
    leaf->entry[number].value = value;                    /* blamed: NO_RECOVERY */
    persist(leaf->entry[number]);
}

static void new_root(struct root *root) {
    struct inner *inner = allocate(sizeof *inner);
    unsigned number = 0;
    for (struct leaf *leaf = root->first; leaf; leaf = leaf->sibling, number++) {
        inner->low[number] = number ? leaf->entry[0].key : 0;
        inner->child[number] = leaf;
    }
    persist(*inner);
    root->inner = inner; /* blamed: SPLIT_ROOT */
    persist(root->inner);
}

static void cut_short(struct leaf *leaf, unsigned number) {
    leaf->entry[number].value = 0;
    persist(leaf->entry[number]);
}

static void split(struct root *root, struct leaf *leaf) {
    struct leaf *sibling = allocate(sizeof *sibling);
    for (unsigned number = HALF; number < ENTRIES; number++) {
        sibling->entry[number - HALF].key = leaf->entry[number].key;     /* blamed: SPLIT_EARLY */
        sibling->entry[number - HALF].value = leaf->entry[number].value; /* blamed: SPLIT_EARLY */
    }
    sibling->sibling = leaf->sibling;
    flush(*sibling);
#ifndef SPLIT_EARLY
    pmem_drain();
#endif
    leaf->sibling = sibling; /* blamed: SPLIT_ROOT */
    persist(leaf->sibling);
    cut_short(leaf, HALF);
    if (!root->inner && leaf != root->first) {
        printf("violated: a node without a parent cannot be split\n");
        exit(1);
    }
    new_root(root);
}

static void structure_recover(struct root *root) {
    unsigned leaves = 0, known = 0;
    for (struct leaf *leaf = root->first; leaf; leaf = leaf->sibling, leaves++) {
#ifndef NO_RECOVERY
        for (unsigned number = 0; leaf->entry[number].value; number++)
            if (leaf->entry[number].value == left_value(leaf, number))
                shift_down(leaf, number--);
#endif
        for (unsigned number = 0; leaf->sibling && leaf->entry[number].value; number++)
            if (leaf->entry[number].key >= leaf->sibling->entry[0].key)
                cut_short(leaf, number);
    }
    while (root->inner && known < CHILDREN && root->inner->child[known])
        known++;
#ifndef SPLIT_ROOT
    if (leaves > 1 && leaves != known)
        new_root(root);
#endif
}

static void structure_put(struct root *root, u64 key, u64 value) {
    struct leaf *leaf = leaf_of(root, key);
    int number = find(leaf, key);
    if (number >= 0) {
        leaf->entry[number].value = value;
        persist(leaf->entry[number].value);
        return;
    }
    if (count(leaf) == ENTRIES) {
        split(root, leaf);
        leaf = leaf_of(root, key);
    }
    insert(leaf, key, value);
}

static u64 structure_get(struct root *root, u64 key) {
    struct leaf *leaf = leaf_of(root, key);
    int number = find(leaf, key);
    return number >= 0 ? leaf->entry[number].value : 0;
}

static void structure_remove(struct root *root, u64 key) {
    struct leaf *leaf = leaf_of(root, key);
    int number = find(leaf, key);
    if (number >= 0) {
        leaf->entry[number].value = left_value(leaf, (unsigned)number);
        shift_down(leaf, (unsigned)number);
    }
}

/* 3 goes to the front of a full leaf and 6 to one that is split; then the sibling is split. */
STEPS({4, 40}, {8, 80}, {12, 120}, {16, 160}, {20, 200}, {3, 30}, {8, 0}, {9, 90}, {24, 240}, {28, 280}, {30, 300},
      {26, 260}, {27, 270}, {4, 0}, )
