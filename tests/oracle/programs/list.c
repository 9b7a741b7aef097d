/* A list that grows at its head, in transactions, with its length. BROKEN: the length is not part of them. */
#include "pool.h"

struct node {
    PMEMoid next;
    uint64_t value;
};

struct list {
    PMEMoid head;
    uint64_t length;
};

static void push(PMEMobjpool *pool, struct list *list, uint64_t value)
{
    TX_BEGIN(pool) {
        PMEMoid made = pmemobj_tx_alloc(sizeof(struct node), 1);
        struct node *node = pmemobj_direct(made);
        node->next = list->head;
        node->value = value;
#ifdef BROKEN
        pmemobj_tx_add_range_direct(&list->head, sizeof list->head);
#else
        pmemobj_tx_add_range_direct(list, sizeof *list);
#endif
        list->head = made;
        list->length++; /* the bug */
    } TX_END
}

int main(int argc, char **argv)
{
    enum word word = asked(argc, argv);
    PMEMobjpool *pool = open_pool("list", word);
    struct list *list = pmemobj_direct(pmemobj_root(pool, sizeof *list));
    if (word == WORK)
        push(pool, list, 10 + list->length);
    uint64_t seen = 0, wrong = 0;
    for (struct node *node = pmemobj_direct(list->head); node; node = pmemobj_direct(node->next))
        wrong += node->value != 10 + list->length - ++seen;
    printf("%lu of %lu nodes, %lu wrong\n", seen, list->length, wrong);
    wrong += seen != list->length;
    pmemobj_close(pool);
    return wrong != 0;
}
