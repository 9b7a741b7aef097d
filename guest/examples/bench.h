/* What the bench loops share: the number of rounds from the command line, and the checksum that proves the work. */
#ifndef BENCH_H
#define BENCH_H

#include "guest.h"

static inline u64 bench_rounds(int argc, char **argv, u64 standard) {
    return argc > 1 ? parse_number(argv[1], "ROUNDS") : standard;
}

static inline int bench_result(u64 checksum) {
    printf("checksum 0x%016lx\n", checksum);
    return EXIT_OK;
}

#endif
