/* A linked list that grows at its head: a node is written in full, then one 8-byte store of its position publishes it.
 *
 * HALF_FLUSHED  a node is larger than a cache line, but only its first line is flushed: its link can be lost.
 */
#include "pool.h"

enum { NODES = 5, PAYLOAD = 8 };

/* Positions count nodes from 1; 0 ends the list. */
struct node {
    LINE volatile u64 payload[PAYLOAD];
    volatile u64 next;
};

struct pool {
    LINE volatile u64 magic;
    LINE volatile u64 head;
    struct node node[NODES];
};

static u64 payload_of(u64 position) {
    return position << 32 | 0x6e6f6465;
}

static void pool_format(struct pool *pool) {
    pool->head = 0;
    pmem_flush_line(&pool->head);
    pmem_fence();
}

static void pool_work(struct pool *pool) {
    for (u64 position = 1; position <= NODES; position++) {
        struct node *node = &pool->node[position - 1];
        node->payload[0] = payload_of(position);
        node->next = position - 1;
        pmem_flush_line(&node->payload);
#ifndef HALF_FLUSHED
        pmem_flush_line(&node->next);
#endif
        pmem_fence();
        pool->head = position;
        pmem_flush_line(&pool->head);
        pmem_fence();
    }
}

/* Node p was linked in when p - 1 was the head, so the way from the head passes every position down to 1. */
static void pool_recover(struct pool *pool) {
    u64 position = pool->head;
    must_hold(position <= NODES, "the head is node %lu", position);
    while (position) {
        struct node *node = &pool->node[position - 1];
        must_hold(node->payload[0] == payload_of(position), "node %lu holds 0x%lx", position, node->payload[0]);
        must_hold(node->next == position - 1, "node %lu links to %lu", position, node->next);
        position = node->next;
    }
}

POOL_GUEST("pmlnklst")
