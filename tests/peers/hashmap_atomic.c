/* A hash map without transactions, as PMDK's hashmap_atomic: an entry is made durable and linked by one store; the count
 * cannot change together with it, so a mark says that it is being changed, and recovery then counts anew.
 *
 * NO_DIRTY       the count changes without the mark
 * CREATE_ORDER   the map says that it was created before its fields are durable
 * ENTRY_EARLY    the entry is linked before it is durable
 * MARK_CLEARED   the mark is taken away before the count is durable
 */
#include "peer.h"

enum { BUCKETS = 2 };

struct entry {
    LINE volatile u64 key;
    volatile u64 value;
    struct entry *volatile next;
};

struct map {
    LINE volatile u64 seed;
    LINE volatile u64 count;
    LINE volatile u64 count_dirty;
    LINE struct entry *volatile head[BUCKETS];
};

struct root {
    LINE struct map *volatile map;
};

static void structure_format(struct root *root) {
    root->map = NULL;
    persist(root->map);
}

/* The map is made by the first operation, so that its making can be cut. */
static struct map *map_of(struct root *root) {
    if (!root->map) {
        struct map *map = allocate(sizeof *map);
        map->seed = 1; /* blamed: CREATE_ORDER */
#ifndef CREATE_ORDER
        persist(map->seed);
#endif
        root->map = map; /* blamed: CREATE_ORDER */
        persist(root->map);
#ifdef CREATE_ORDER
        persist(map->seed);
#endif
    }
    return root->map;
}

static struct entry *volatile *head_of(struct map *map, u64 key) {
    return &map->head[(key * map->seed) % BUCKETS];
}

static void structure_recover(struct root *root) {
    struct map *map = root->map;
    u64 entries = 0;
    if (!map)
        return;
    for (unsigned number = 0; number < BUCKETS; number++)
        for (struct entry *entry = map->head[number]; entry; entry = entry->next)
            entries++;
    if (map->count_dirty) {
        map->count = entries;
        persist(map->count);
        map->count_dirty = 0;
        persist(map->count_dirty);
    }
    if (!map->seed || map->count != entries) {
        printf("violated: seed %lu, %lu entries, the count says %lu\n", map->seed, entries, map->count);
        exit(1);
    }
}

static void mark(struct map *map) {
#ifdef NO_DIRTY
    (void)map;
#else
    map->count_dirty = 1;
    persist(map->count_dirty);
#endif
}

static void change_count(struct map *map, u64 by) {
    map->count += by; /* blamed: NO_DIRTY MARK_CLEARED */
    flush(map->count);
#ifndef MARK_CLEARED
    pmem_drain();
#endif
    map->count_dirty = 0;
    persist(map->count_dirty);
}

static struct entry *volatile *find(struct map *map, u64 key) {
    struct entry *volatile *link = head_of(map, key);
    while (*link && (*link)->key != key)
        link = &(*link)->next;
    return link;
}

static void structure_put(struct root *root, u64 key, u64 value) {
    struct map *map = map_of(root);
    struct entry *entry = *find(map, key);
    if (entry) {
        entry->value = value;
        persist(entry->value);
        return;
    }
    struct entry *volatile *head = head_of(map, key);
    entry = allocate(sizeof *entry);
    entry->key = key;     /* blamed: ENTRY_EARLY */
    entry->value = value; /* blamed: ENTRY_EARLY */
    entry->next = *head;  /* blamed: ENTRY_EARLY */
    mark(map);
#ifndef ENTRY_EARLY
    persist(*entry);
#endif
    *head = entry; /* blamed: NO_DIRTY */
    persist(*head);
#ifdef ENTRY_EARLY
    persist(*entry);
#endif
    change_count(map, 1);
}

static u64 structure_get(struct root *root, u64 key) {
    struct entry *entry = root->map ? *find(root->map, key) : NULL;
    return entry ? entry->value : 0;
}

static void structure_remove(struct root *root, u64 key) {
    struct map *map = map_of(root);
    struct entry *volatile *link = find(map, key);
    if (!*link)
        return;
    mark(map);
    *link = (*link)->next;
    persist(*link);
    change_count(map, -1UL);
}

STEPS({1, 10}, {3, 30}, {2, 20}, {1, 11}, {3, 0}, {4, 40}, )
