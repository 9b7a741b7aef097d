/* A list of the atomic list API: an element is allocated, constructed and linked as one. BROKEN: its constructor does
 * not persist what it stores, and nobody else does. */
#include "pool.h"

POBJ_LAYOUT_BEGIN(notes);
POBJ_LAYOUT_ROOT(notes, struct notes);
POBJ_LAYOUT_TOID(notes, struct note);
POBJ_LAYOUT_END(notes);

struct note {
    POBJ_LIST_ENTRY(struct note) place;
    uint64_t value, check;
};

struct notes {
    POBJ_LIST_HEAD(all, struct note) all;
};

static int construct(PMEMobjpool *pool, void *at, void *value)
{
    struct note *note = at;
    note->value = *(uint64_t *)value;
    note->check = ~note->value; /* the bug */
#ifdef BROKEN
    (void)pool;
#else
    pmemobj_persist(pool, &note->value, sizeof note->value + sizeof note->check);
#endif
    return 0;
}

int main(int argc, char **argv)
{
    enum word word = asked(argc, argv);
    PMEMobjpool *pool = open_pool(POBJ_LAYOUT_NAME(notes), word);
    TOID(struct notes) root = POBJ_ROOT(pool, struct notes);
    if (word == WORK) {
        uint64_t value = 42;
        POBJ_LIST_INSERT_NEW_HEAD(pool, &D_RW(root)->all, place, sizeof(struct note), construct, &value);
    }
    TOID(struct note) note;
    int count = 0, wrong = 0;
    POBJ_LIST_FOREACH(note, &D_RO(root)->all, place) {
        count++;
        wrong += D_RO(note)->check != ~D_RO(note)->value;
    }
    printf("%d notes, %d wrong\n", count, wrong);
    pmemobj_close(pool);
    return wrong != 0;
}
