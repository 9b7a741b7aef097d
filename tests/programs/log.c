/* An append log over libpmem, as anybody would write it for Linux. NO_PERSIST leaves out what makes an entry durable
 * before the count names it. Arguments are appended; without any the entries are listed. */
#include <errno.h>
#include <inttypes.h>
#include <libpmem.h>
#include <stdio.h>
#include <string.h>

enum { MOST = 64 };

struct entry {
    char text[56];
    uint64_t sum;
};

struct log {
    uint64_t count;
    char unused[56];
    struct entry entries[MOST];
};

static uint64_t sum_of(const char *text) {
    uint64_t sum = 1;
    while (*text)
        sum = sum * 31 + (unsigned char)*text++;
    return sum;
}

static int append(struct log *log, const char *text) {
    struct entry *entry = &log->entries[log->count];
    struct entry made = {.sum = sum_of(text)};
    if (log->count == MOST || strlen(text) >= sizeof made.text)
        return -1;
    strcpy(made.text, text);
#ifdef NO_PERSIST
    memcpy(entry, &made, sizeof made);
#else
    pmem_memcpy_persist(entry, &made, sizeof made);
#endif
    log->count++;
    pmem_persist(&log->count, sizeof log->count);
    return 0;
}

int main(int argc, char **argv) {
    size_t mapped;
    int is_pmem;
    struct log *log = pmem_map_file("/pmem/log", sizeof *log, PMEM_FILE_CREATE, 0600, &mapped, &is_pmem);
    if (!log) {
        fprintf(stderr, "cannot map the log: %s\n", pmem_errormsg());
        return 1;
    }
    for (uint64_t i = 0; i < log->count; i++)
        if (log->entries[i].sum != sum_of(log->entries[i].text)) {
            printf("entry %" PRIu64 " is damaged\n", i);
            return 1;
        }
    for (int i = 1; i < argc; i++)
        if (append(log, argv[i]))
            return 2;
    if (argc == 1) {
        printf("%" PRIu64 " entries:", log->count);
        for (uint64_t i = 0; i < log->count; i++)
            printf(" %s", log->entries[i].text);
        putchar('\n');
    }
    pmem_unmap(log, mapped);
    return 0;
}
