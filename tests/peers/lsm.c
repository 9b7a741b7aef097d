/* The log of an LSM tree's memtable: records are appended, and the log's length, moved last, says which there are.
 * When the log is full, what it holds is written as a sorted run, the run is published, and the log begins anew; run and
 * log change hands by one store, of a manifest that names both.
 *
 * LENGTH_FIRST  the length moves before the record is durable
 * LENGTH_LOST   the length is not flushed: an append that was acknowledged is gone
 * RUN_EARLY     the manifest is published before the run is durable
 * RESET_FIRST   the log is emptied in place before the run is published
 */
#include "peer.h"

enum { LOG = 4, RUN = 6 };

struct entry {
    volatile u64 key;
    volatile u64 value; /* 0: removed */
};

struct log {
    LINE volatile u64 length;
    LINE struct entry entry[LOG];
};

struct run {
    LINE volatile u64 length;
    struct entry entry[RUN]; /* by key, the newest of each, nothing that was removed */
};

struct manifest {
    LINE struct log *log;
    struct run *run;
};

struct root {
    LINE struct manifest *volatile manifest;
};

static void publish(struct root *root, struct log *log, struct run *run) {
    struct manifest *manifest = allocate(sizeof *manifest);
    manifest->log = log;
    manifest->run = run;
    persist(*manifest);
    root->manifest = manifest; /* blamed: RESET_FIRST */
    persist(*root);
}

static void structure_format(struct root *root) {
    publish(root, allocate(sizeof(struct log)), allocate(sizeof(struct run)));
}

static void structure_recover(struct root *root) {
    (void)root;
}

static u64 structure_get(struct root *root, u64 key) {
    const struct log *log = root->manifest->log;
    const struct run *run = root->manifest->run;
    for (u64 number = log->length; number--;)
        if (log->entry[number].key == key)
            return log->entry[number].value;
    for (u64 number = 0; number < run->length; number++)
        if (run->entry[number].key == key)
            return run->entry[number].value;
    return 0;
}

static void compact(struct root *root) {
    struct log *log = root->manifest->log;
    struct run *run = allocate(sizeof *run);
    u64 length = 0;
    for (u64 key = 1; key < KEYS; key++) {
        u64 value = structure_get(root, key);
        if (value) {
            run->entry[length].key = key;       /* blamed: RUN_EARLY */
            run->entry[length++].value = value; /* blamed: RUN_EARLY */
        }
    }
    run->length = length; /* blamed: RUN_EARLY */
#ifndef RUN_EARLY
    persist(*run);
#endif
#ifdef RESET_FIRST
    log->length = 0; /* blamed: RESET_FIRST */
    persist(log->length);
#else
    log = allocate(sizeof *log);
#endif
    publish(root, log, run);
}

static void structure_put(struct root *root, u64 key, u64 value) {
    if (root->manifest->log->length == LOG)
        compact(root);
    struct log *log = root->manifest->log;
    u64 length = log->length;
    log->entry[length].key = key;     /* blamed: LENGTH_FIRST */
    log->entry[length].value = value; /* blamed: LENGTH_FIRST */
    flush(log->entry[length]);
#ifndef LENGTH_FIRST
    pmem_drain();
#endif
    log->length = length + 1; /* blamed: LENGTH_LOST */
#ifndef LENGTH_LOST
    persist(log->length);
#endif
}

static void structure_remove(struct root *root, u64 key) {
    structure_put(root, key, 0);
}

STEPS({1, 10}, {2, 20}, {1, 11}, {3, 30}, {4, 40}, {2, 0}, {3, 31}, {1, 0}, {5, 50}, {4, 41}, )
