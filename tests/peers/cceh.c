/* CCEH (Nam and others: FAST 2019): extendible hashing. A directory of 2^depth entries names segments; a segment knows
 * by how many leading bits of the hash its keys agree (its depth) and which (its pattern). A full segment is split in
 * two: the new one is made durable, the directory entries of its half are changed, from right to left, and only then
 * the old one takes its new depth. Directory doubling makes a new directory and swings one pointer.
 *
 * A key that the old segment still holds after a split is stale; inserting takes its slot (lazy deletion). Recovery
 * walks the directory and sets the depth of a segment from the entries that name it.
 *
 * DEPTH_FIRST  the old segment's depth and pattern change before the directory does, and recovery believes them
 * LOCK_SLOT    a slot is claimed by a sentinel, which recovery does not release: the slot is dead
 * DIRECTORY    the new directory is published unflushed
 * SEGMENT      the new segment is published unflushed
 */
#include "peer.h"

enum { SLOTS = 4, HASH_BITS = 5, MAX_DEPTH = 2, SENTINEL = 0xffff };

struct segment {
    LINE volatile u64 depth;
    volatile u64 pattern;
    struct slot {
        volatile u64 key;
        volatile u64 value;
    } slot[SLOTS];
};

struct directory {
    LINE volatile u64 depth;
    struct segment *volatile segment[];
};

struct root {
    LINE struct directory *volatile directory;
};

/* Keys are below 2^HASH_BITS: their leading bits are their hash. */
static u64 leading(u64 key, u64 depth) {
    return key >> (HASH_BITS - depth);
}

static struct directory *new_directory(u64 depth) {
    struct directory *directory = allocate(sizeof *directory + (sizeof directory->segment[0] << depth));
    directory->depth = depth;
    return directory;
}

static struct segment *new_segment(u64 depth, u64 pattern) {
    struct segment *segment = allocate(sizeof *segment);
    segment->depth = depth;
    segment->pattern = pattern;
    return segment;
}

static void flush_directory(struct directory *directory) {
    pmem_flush(directory, sizeof *directory + (sizeof directory->segment[0] << directory->depth));
}

static void structure_format(struct root *root) {
    struct directory *directory = new_directory(1);
    for (u64 half = 0; half < 2; half++) {
        directory->segment[half] = new_segment(1, half);
        flush(*directory->segment[half]);
    }
    flush_directory(directory);
    root->directory = directory;
    persist(*root);
}

static struct segment *segment_of(struct directory *directory, u64 key) {
    return directory->segment[leading(key, directory->depth)];
}

static struct slot *find(struct segment *segment, u64 key) {
    for (unsigned number = 0; number < SLOTS; number++)
        if (segment->slot[number].key == key)
            return &segment->slot[number];
    return NULL;
}

/* Whether the slot is free, or holds a key that a split has given to another segment. */
static int usable(const struct segment *segment, const struct slot *slot) {
    u64 key = slot->key;
    return !key || (key != SENTINEL && leading(key, segment->depth) != segment->pattern);
}

static void set_depth(struct segment *segment, u64 depth, u64 pattern) {
    segment->pattern = pattern; /* blamed: DEPTH_FIRST */
    segment->depth = depth;     /* blamed: DEPTH_FIRST */
    persist(*segment);
}

static void structure_recover(struct root *root) {
    struct directory *directory = root->directory;
    u64 entries = 1UL << directory->depth;
    for (u64 first = 0, next; first < entries; first = next) {
        struct segment *segment = directory->segment[first];
        u64 count, depth = directory->depth;
        for (next = first + 1; next < entries && directory->segment[next] == segment; next++)
            ;
#ifndef LOCK_SLOT
        for (unsigned number = 0; number < SLOTS; number++)
            if (segment->slot[number].key == SENTINEL) {
                segment->slot[number].key = 0;
                persist(segment->slot[number].key);
            }
#endif
#ifndef DEPTH_FIRST
        for (count = next - first; count > 1; count /= 2)
            depth--;
        if (segment->depth != depth || segment->pattern != first / (next - first))
            set_depth(segment, depth, first / (next - first));
#else
        (void)count, (void)depth;
#endif
    }
}

static void double_directory(struct root *root) {
    struct directory *old = root->directory, *fresh = new_directory(old->depth + 1);
    for (u64 entry = 0; entry < 2UL << old->depth; entry++)
        fresh->segment[entry] = old->segment[entry / 2]; /* blamed: DIRECTORY */
#ifndef DIRECTORY
    flush_directory(fresh);
    pmem_drain();
#endif
    root->directory = fresh;
    persist(*root);
}

static void split(struct root *root, struct segment *old) {
    u64 depth = old->depth + 1, low = 2 * old->pattern;
    struct segment *fresh = new_segment(depth, low + 1);
    for (unsigned number = 0, to = 0; number < SLOTS; number++)
        if (leading(old->slot[number].key, depth) == low + 1) {
            fresh->slot[to].value = old->slot[number].value; /* blamed: SEGMENT */
            fresh->slot[to++].key = old->slot[number].key;   /* blamed: SEGMENT */
        }
#ifndef SEGMENT
    flush(*fresh);
    pmem_drain();
#endif
#ifdef DEPTH_FIRST
    set_depth(old, depth, low);
#endif
    if (depth > root->directory->depth)
        double_directory(root);
    struct directory *directory = root->directory;
    u64 span = 1UL << (directory->depth - depth);
    for (u64 entry = (low + 2) * span; entry-- > (low + 1) * span;) {
        directory->segment[entry] = fresh;
        persist(directory->segment[entry]);
    }
#ifndef DEPTH_FIRST
    set_depth(old, depth, low);
#endif
}

static void structure_put(struct root *root, u64 key, u64 value) {
    for (;;) {
        struct segment *segment = segment_of(root->directory, key);
        struct slot *slot = find(segment, key);
        for (unsigned number = 0; !slot && number < SLOTS; number++)
            if (usable(segment, &segment->slot[number]))
                slot = &segment->slot[number];
        if (slot) {
            if (slot->key != key) {
                slot->key = SENTINEL; /* blamed: LOCK_SLOT */
                slot->value = value;
                slot->key = key;
            } else {
                slot->value = value;
            }
            persist(*slot);
            return;
        }
        if (segment->depth == MAX_DEPTH) {
            printf("a segment cannot be split further\n");
            exit(1);
        }
        split(root, segment);
    }
}

static u64 structure_get(struct root *root, u64 key) {
    struct slot *slot = find(segment_of(root->directory, key), key);
    return slot ? slot->value : 0;
}

static void structure_remove(struct root *root, u64 key) {
    struct slot *slot = find(segment_of(root->directory, key), key);
    if (slot) {
        slot->key = 0;
        persist(slot->key);
    }
}

/* The lower half fills up: a split with doubling; then the upper one: without. At last segment 0 has no slot to lose. */
STEPS({1, 10}, {9, 90}, {3, 30}, {10, 100}, {4, 40}, {3, 0}, {16, 160}, {24, 240}, {17, 170}, {25, 250}, {18, 180}, {5, 50},
      {6, 60}, )
