/* count [RECORDS [EVERY]]: appends numbered records to a log in persistent memory, each durable before the next begins.
 *
 * Goes on where the log ends. Without RECORDS, or with 0, it counts until it is stopped; it prints after EVERY records.
 */
#include "log.h"
#include "pmem.h"

enum { DEFAULT_EVERY = 1000000 };

static void format(struct log *log, u64 slots) {
    if (log->magic) {
        printf("the NVDIMM holds something else, left as it is\n");
        guest_exit(EXIT_USAGE);
    }
    log->slots = slots;
    pmem_persist(log, sizeof *log);
    log->magic = LOG_MAGIC;
    pmem_persist(log, sizeof *log);
}

int main(int argc, char **argv) {
    struct nvdimm nvdimm = nvdimm_first();
    struct log *log = log_at(&nvdimm);
    u64 wanted = argc > 1 ? parse_number(argv[1], "RECORDS") : 0;
    u64 every = argc > 2 ? parse_number(argv[2], "EVERY") : DEFAULT_EVERY;

    if (log->magic != LOG_MAGIC)
        format(log, log_slots(&nvdimm));
    u64 slots = log->slots;
    if (!slots || slots > log_slots(&nvdimm))
        panic("the log's %lu slots do not fit the NVDIMM", slots);

    u64 number = log_last(log);
    u64 end = wanted ? number + wanted : ~0ull;
    printf("counting on from %lu\n", number);
    while (number < end) {
        number++;
        struct record *record = &log->record[(number - 1) % slots];
        record->number = number;
        record->check = ~number;
        pmem_flush_line(record);
        pmem_fence();
        if (every && number % every == 0)
            printf("count %lu\n", number);
    }
    printf("stopped at %lu\n", number);
    return EXIT_OK;
}
