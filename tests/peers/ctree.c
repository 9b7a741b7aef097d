/* A crit-bit tree in transactions, as PMDK's example ctree: an inner node names the highest bit in which its two halves
 * differ; a leaf is a key and its value.
 *
 * LINK_NOT_ADDED    the link to a new inner node changes without being added
 * REMOVE_NOT_ADDED  so when a leaf and its inner node leave
 * NEW_NOT_FLUSHED   the new inner node is not part of the transaction, and nothing makes it durable
 */
#include "transaction.h"

struct node {
    LINE u64 inner; /* 1: bit and child count; 0: key and value do */
    u64 bit;
    struct node *child[2];
    u64 key, value;
};

struct root {
    struct transaction tx;
    LINE struct node *top;
};

static void structure_format(struct root *root) {
    root->tx.entries = 0;
    root->top = NULL;
    persist(root->tx.entries);
    persist(root->top);
}

static void structure_recover(struct root *root) {
    (void)root;
    tx_recover();
}

static unsigned side(const struct node *inner, u64 key) {
    return key >> inner->bit & 1;
}

static struct node *nearest(struct root *root, u64 key) {
    struct node *node = root->top;
    while (node && node->inner)
        node = node->child[side(node, key)];
    return node;
}

static void structure_put(struct root *root, u64 key, u64 value) {
    struct node *leaf = nearest(root, key), **link = &root->top;
    if (leaf && leaf->key == key) {
        tx_add(leaf->value);
        leaf->value = value;
        tx_commit();
        return;
    }
    struct node *fresh = tx_new(sizeof *fresh), *linked = fresh;
    fresh->key = key;
    fresh->value = value;
    if (leaf) {
        u64 bit = 63 - (u64)__builtin_clzl(leaf->key ^ key);
        while ((*link)->inner && (*link)->bit > bit)
            link = &(*link)->child[side(*link, key)];
#ifdef NEW_NOT_FLUSHED
        linked = allocate(sizeof *linked);
#else
        linked = tx_new(sizeof *linked);
#endif
        linked->inner = 1; /* blamed: NEW_NOT_FLUSHED */
        linked->bit = bit; /* blamed: NEW_NOT_FLUSHED */
        linked->child[side(linked, key)] = fresh;  /* blamed: NEW_NOT_FLUSHED */
        linked->child[!side(linked, key)] = *link; /* blamed: NEW_NOT_FLUSHED */
    }
#ifndef LINK_NOT_ADDED
    tx_add(*link);
#endif
    *link = linked; /* blamed: LINK_NOT_ADDED */
    tx_commit();
}

static u64 structure_get(struct root *root, u64 key) {
    const struct node *leaf = nearest(root, key);
    return leaf && leaf->key == key ? leaf->value : 0;
}

static void structure_remove(struct root *root, u64 key) {
    struct node **link = &root->top, **above = NULL, *other = NULL;
    while (*link && (*link)->inner) {
        unsigned to = side(*link, key);
        other = (*link)->child[!to];
        above = link;
        link = &(*link)->child[to];
    }
    if (!*link || (*link)->key != key)
        return;
    link = above ? above : link;
#ifndef REMOVE_NOT_ADDED
    tx_add(*link);
#endif
    *link = other; /* blamed: REMOVE_NOT_ADDED */
    tx_commit();
}

STEPS({8, 80}, {12, 120}, {4, 40}, {12, 121}, {9, 90}, {8, 0}, {2, 20}, )
