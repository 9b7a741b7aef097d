/* The record log that `count` writes and `verify` reads: record number n stands in slot (n - 1) % slots, as {n, ~n}. */
#ifndef LOG_H
#define LOG_H

#include "nvdimm.h"

#define LOG_MAGIC 0x30474f4c5f554d45ull /* "EMU_LOG0" */

enum { LOG_MOST_SLOTS = 65536 };

struct record {
    volatile u64 number, check;
};

struct log {
    volatile u64 magic, slots;
    u8 reserved[4080];
    struct record record[];
};

static inline struct log *log_at(const struct nvdimm *nvdimm) {
    return (struct log *)nvdimm->base;
}

/* How many slots fit. */
static inline u64 log_slots(const struct nvdimm *nvdimm) {
    u64 fit = nvdimm->size < sizeof(struct log) ? 0 : (nvdimm->size - sizeof(struct log)) / sizeof(struct record);
    return fit < LOG_MOST_SLOTS ? fit : LOG_MOST_SLOTS;
}

static inline int record_is_whole(const struct record *record) {
    return record->number && record->check == ~record->number;
}

/* The highest record number in the log; 0 when it is empty. */
static inline u64 log_last(const struct log *log) {
    u64 last = 0;
    for (u64 slot = 0; slot < log->slots; slot++)
        if (record_is_whole(&log->record[slot]) && log->record[slot].number > last)
            last = log->record[slot].number;
    return last;
}

#endif
