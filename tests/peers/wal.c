/* A write-ahead log in front of a table that changes in place: an operation appends a redo record, makes it durable,
 * changes the table, makes that durable, and moves the log's head. Recovery replays the records that are whole. A
 * sequence number keeps a record of an earlier lap of the log from being taken for a new one; a checksum a torn one.
 *
 * NO_FENCE    the record is flushed, but nothing waits before the table changes
 * HEAD_EARLY  the log's head moves before the table is durable
 * TORN        no checksum: the sequence number alone says that a record is whole
 * LAP         no sequence number: a record of an earlier lap is replayed again
 */
#include "peer.h"

enum { RECORDS = 2, CELLS = 4 };

struct root {
    LINE volatile u64 head; /* the first record that may not be in the table; from 1 on */
    struct record {
        LINE volatile u64 sequence;
        volatile u64 key;
        LINE volatile u64 value; /* a record is longer than a line */
        volatile u64 checksum;
    } record[RECORDS];
    struct cell {
        LINE volatile u64 value;
        LINE volatile u64 copy; /* a cell is more than one store */
    } cell[CELLS];
};

static u64 checksum_of(u64 sequence, u64 key, u64 value) {
    return ((sequence * 31 + key) * 31 + value) * 31 + 17;
}

static int whole(const struct record *record, u64 sequence) {
#ifdef LAP
    sequence = record->sequence;
#endif
    if (!record->sequence || record->sequence != sequence)
        return 0;
#ifdef TORN
    return 1;
#else
    return record->checksum == checksum_of(sequence, record->key, record->value);
#endif
}

static void structure_format(struct root *root) {
    memset(root, 0, sizeof *root);
    root->head = 1;
    persist(*root);
}

static void apply(struct root *root, u64 key, u64 value) {
    struct cell *cell = &root->cell[key];
    cell->value = value; /* blamed: NO_FENCE HEAD_EARLY */
    cell->copy = value;  /* blamed: NO_FENCE HEAD_EARLY */
    flush(*cell);
#ifndef HEAD_EARLY
    pmem_drain();
#endif
}

static void move_head(struct root *root, u64 head) {
    root->head = head;
    persist(root->head);
}

static void structure_recover(struct root *root) {
    u64 head = root->head;
    const struct record *record = &root->record[head % RECORDS];
    if (whole(record, head)) {
        apply(root, record->key, record->value);
        move_head(root, head + 1);
    }
}

static void structure_put(struct root *root, u64 key, u64 value) {
    u64 head = root->head;
    struct record *record = &root->record[head % RECORDS];
    record->sequence = head; /* blamed: NO_FENCE TORN LAP */
    record->key = key; /* blamed: NO_FENCE TORN */
    record->value = value; /* blamed: NO_FENCE TORN */
    record->checksum = checksum_of(head, key, value); /* blamed: NO_FENCE */
    flush(*record);
#ifndef NO_FENCE
    pmem_drain();
#endif
    apply(root, key, value);
    move_head(root, head + 1);
}

static void structure_remove(struct root *root, u64 key) {
    structure_put(root, key, 0);
}

static u64 structure_get(struct root *root, u64 key) {
    const struct cell *cell = &root->cell[key];
    return cell->value == cell->copy ? cell->value : ~0UL;
}

STEPS({1, 10}, {2, 20}, {1, 11}, {1, 12}, {3, 30}, {2, 0}, )
