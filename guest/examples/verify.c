/* Checks the log that `count` wrote: every record is whole and in its place; only the one being written may be torn. */
#include "log.h"

int main(int argc, char **argv) {
    struct nvdimm nvdimm = nvdimm_first();
    const struct log *log = log_at(&nvdimm);
    (void)argc, (void)argv;
    if (log->magic != LOG_MAGIC) {
        printf("no log in the NVDIMM\n");
        return EXIT_FAILED;
    }
    if (!log->slots || log->slots > log_slots(&nvdimm)) {
        printf("the log's %lu slots do not fit the NVDIMM\n", log->slots);
        return EXIT_FAILED;
    }
    u64 last = log_last(log), slots = log->slots, wrong = 0;
    u64 oldest = last > slots ? last - slots + 1 : 1;
    for (u64 number = oldest; number <= last; number++) {
        const struct record *record = &log->record[(number - 1) % slots];
        /* The oldest record's slot is where the next one was being written. */
        int being_overwritten = number == oldest && last >= slots;
        if ((record->number != number || record->check != ~number) && !being_overwritten && wrong++ < 10)
            printf("record %lu reads %lu, 0x%lx\n", number, record->number, record->check);
    }
    if (wrong) {
        printf("%lu record%s wrong up to %lu\n", wrong, wrong == 1 ? "" : "s", last);
        return EXIT_FAILED;
    }
    printf("%lu record%s, no gap\n", last, last == 1 ? "" : "s");
    return EXIT_OK;
}
