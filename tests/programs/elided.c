/* A record that is replaced in place: marked invalid, written, marked valid again, all in one cache line, whose stores
 * persist in the order in which they are made. Right as it is written.
 *
 * But C promises that order to nobody who only looks at memory afterwards: an optimizing compiler leaves the first mark
 * out, because the second one overwrites it. With -DORDERED the fields are volatile, and every store stays in its place.
 */
#include <libpmem.h>
#include <stdio.h>

#ifdef ORDERED
typedef volatile unsigned long field;
#else
typedef unsigned long field;
#endif

struct record {
    field valid, number, square;
};

static void replace(struct record *record, unsigned long number) {
    record->valid = 0;
    record->number = number;
    record->square = number * number;
    record->valid = 1;
    pmem_persist(record, sizeof *record);
}

int main(void) {
    struct record *record = pmem_map_file("/dev/pmem0", 4096, PMEM_FILE_CREATE, 0666, NULL, NULL);
    if (!record)
        return 2;
    if (record->valid) {
        if (record->square == record->number * record->number)
            return 0;
        printf("violated: %lu has the square %lu\n", record->number, record->square);
        return 1;
    }
    for (unsigned long number = 2; number < 5; number++)
        replace(record, number);
    return 0;
}
