/* A B-tree in transactions, as PMDK's example btree: a full node is split on the way down, so that there is always room.
 *
 * SPLIT_NOT_ADDED   a node that is split gives half of its items away without being added to the transaction
 * INSERT_NOT_ADDED  a node takes an item without being added
 * ROOT_NOT_ADDED    the pointer to the root changes without being added
 */
#include "transaction.h"

enum { ITEMS = 3, MIDDLE = 1 };

struct node {
    LINE u64 count;
    struct item {
        u64 key, value;
    } item[ITEMS];
    LINE struct node *child[ITEMS + 1]; /* all NULL in a leaf */
};

struct root {
    struct transaction tx;
    LINE struct node *volatile top;
};

static void structure_format(struct root *root) {
    root->tx.entries = 0;
    root->top = allocate(sizeof *root->top);
    persist(root->tx.entries);
    persist(root->top);
}

static void structure_recover(struct root *root) {
    (void)root;
    tx_recover();
}

static struct item *find(struct root *root, u64 key) {
    struct node *node = root->top;
    while (node) {
        u64 number = 0;
        while (number < node->count && node->item[number].key < key)
            number++;
        if (number < node->count && node->item[number].key == key)
            return &node->item[number];
        node = node->child[number];
    }
    return NULL;
}

/* Makes room for an item at `number`, with a child on its right. The caller has added the node. */
static void insert(struct node *node, u64 number, struct item item, struct node *right) {
    for (u64 n = node->count; n > number; n--) {
        node->item[n] = node->item[n - 1]; /* blamed: INSERT_NOT_ADDED */
        node->child[n + 1] = node->child[n];
    }
    node->item[number] = item; /* blamed: INSERT_NOT_ADDED */
    node->child[number + 1] = right;
    node->count++; /* blamed: INSERT_NOT_ADDED */
}

/* Splits the full `number`-th child of a parent that has room. */
static void split(struct node *parent, u64 number) {
    struct node *left = parent->child[number], *right = tx_new(sizeof *right);
    struct item middle = left->item[MIDDLE];
#ifndef SPLIT_NOT_ADDED
    tx_add(*left);
#endif
    right->count = ITEMS - MIDDLE - 1;
    for (u64 n = 0; n < right->count; n++)
        right->item[n] = left->item[MIDDLE + 1 + n];
    for (u64 n = 0; n <= right->count; n++)
        right->child[n] = left->child[MIDDLE + 1 + n];
    left->count = MIDDLE; /* blamed: SPLIT_NOT_ADDED */
    tx_add(*parent);
    insert(parent, number, middle, right);
}

static void insert_below(struct node *node, struct item item) {
    for (;;) {
        u64 number = 0;
        while (number < node->count && node->item[number].key < item.key)
            number++;
        if (!node->child[0]) {
#ifndef INSERT_NOT_ADDED
            tx_add(*node);
#endif
            insert(node, number, item, NULL);
            return;
        }
        if (node->child[number]->count == ITEMS) {
            split(node, number);
            if (node->item[number].key < item.key)
                number++;
        }
        node = node->child[number];
    }
}

static void structure_put(struct root *root, u64 key, u64 value) {
    struct item *item = find(root, key);
    if (item) {
        tx_add(item->value);
        item->value = value;
    } else {
        if (root->top->count == ITEMS) {
            struct node *top = tx_new(sizeof *top);
            top->child[0] = root->top;
#ifndef ROOT_NOT_ADDED
            tx_add(root->top);
#endif
            root->top = top; /* blamed: ROOT_NOT_ADDED */
            split(top, 0);
        }
        insert_below(root->top, (struct item){key, value});
    }
    tx_commit();
}

static u64 structure_get(struct root *root, u64 key) {
    struct item *item = find(root, key);
    return item ? item->value : 0;
}

/* An item of value 0 counts as not there; joining nodes would add nothing to log. */
static void structure_remove(struct root *root, u64 key) {
    structure_put(root, key, 0);
}

STEPS({10, 100}, {20, 200}, {15, 150}, {5, 50}, {25, 250}, {30, 300}, {20, 0}, {27, 270}, )
