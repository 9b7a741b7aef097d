/* A red-black tree in transactions, as PMDK's example rbtree: insertion recolours and rotates on the way up.
 *
 * Whatever is not added here is made durable where it stands, so that a transaction that was cut keeps it:
 *
 * ROTATE_NOT_ADDED  a rotation changes the link above it without adding it to the transaction
 * PARENT_NOT_ADDED  a rotation gives a subtree a new parent without adding the subtree
 */
#include "transaction.h"

enum { RED = 1, BLACK = 0 };

struct node {
    LINE u64 key;
    u64 value, colour;
    struct node *parent, *child[2];
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

/* Every node must be its children's parent, and no red one has a red child. */
static void check_below(const struct node *node, const struct node *parent) {
    if (!node)
        return;
    if (node->parent != parent || (node->colour == RED && (!parent || parent->colour == RED))) {
        printf("violated: node %lu does not fit below its parent\n", node->key);
        exit(1);
    }
    check_below(node->child[0], node);
    check_below(node->child[1], node);
}

static void structure_recover(struct root *root) {
    tx_recover();
    check_below(root->top, NULL);
}

static struct node *find(struct root *root, u64 key) {
    struct node *node = root->top;
    while (node && node->key != key)
        node = node->child[key > node->key];
    return node;
}

static struct node **link_to(struct root *root, struct node *node) {
    return node->parent ? &node->parent->child[node->parent->child[1] == node] : &root->top;
}

/* The child on the other side comes up, `node` goes down to `side`. */
static void rotate(struct root *root, struct node *node, unsigned side) {
    struct node *up = node->child[!side], *between = up->child[side], **link = link_to(root, node);
    tx_add(*node);
    tx_add(*up);
#ifndef ROTATE_NOT_ADDED
    tx_add(*link);
#endif
    *link = up; /* blamed: ROTATE_NOT_ADDED */
#ifdef ROTATE_NOT_ADDED
    persist(*link);
#endif
    up->parent = node->parent;
    up->child[side] = node;
    node->parent = up;
    node->child[!side] = between;
    if (between) {
#ifndef PARENT_NOT_ADDED
        tx_add(between->parent);
#endif
        between->parent = node; /* blamed: PARENT_NOT_ADDED */
#ifdef PARENT_NOT_ADDED
        persist(between->parent);
#endif
    }
}

static void set_colour(struct node *node, u64 colour) {
    tx_add(node->colour);
    node->colour = colour;
}

static void rebalance(struct root *root, struct node *node) {
    while (node->parent && node->parent->colour == RED) {
        struct node *parent = node->parent, *above = parent->parent;
        unsigned side = above->child[1] == parent;
        struct node *uncle = above->child[!side];
        if (uncle && uncle->colour == RED) {
            set_colour(parent, BLACK);
            set_colour(uncle, BLACK);
            set_colour(above, RED);
            node = above;
            continue;
        }
        if (parent->child[!side] == node) {
            rotate(root, parent, side);
            node = parent;
            parent = node->parent;
        }
        set_colour(parent, BLACK);
        set_colour(above, RED);
        rotate(root, above, !side);
    }
    if (root->top->colour == RED)
        set_colour(root->top, BLACK);
}

static void structure_put(struct root *root, u64 key, u64 value) {
    struct node *parent = NULL, **link = &root->top;
    while (*link && (*link)->key != key) {
        parent = *link;
        link = &parent->child[key > parent->key];
    }
    if (*link) {
        tx_add((*link)->value);
        (*link)->value = value;
    } else {
        struct node *node = tx_new(sizeof *node);
        node->key = key;
        node->value = value;
        node->colour = RED;
        node->parent = parent;
        tx_add(*link);
        *link = node;
        rebalance(root, node);
    }
    tx_commit();
}

static u64 structure_get(struct root *root, u64 key) {
    const struct node *node = find(root, key);
    return node ? node->value : 0;
}

/* A node of value 0 counts as not there. */
static void structure_remove(struct root *root, u64 key) {
    structure_put(root, key, 0);
}

/* Ascending keys: at last a rotation of inner nodes. */
STEPS({1, 10}, {2, 20}, {3, 30}, {4, 40}, {5, 50}, {6, 60}, {7, 70}, {8, 80}, )
