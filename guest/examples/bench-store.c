/* bench-store [ROUNDS]: eight 8-byte stores per round, to the NVDIMM if there is one, else to RAM. */
#include "bench.h"
#include "nvdimm.h"

enum { WORDS = 8 };

static u64 ram[WORDS];

int main(int argc, char **argv) {
    struct nvdimm nvdimm;
    u64 rounds = bench_rounds(argc, argv, 100000000);
    volatile u64 *to = nvdimm_find(&nvdimm, 1) ? (volatile u64 *)nvdimm.base : ram;
    for (u64 i = 0; i < rounds; i++) {
        to[0] = i;
        to[1] = i;
        to[2] = i;
        to[3] = i;
        to[4] = i;
        to[5] = i;
        to[6] = i;
        to[7] = i;
    }
    u64 checksum = 0;
    for (unsigned i = 0; i < WORDS; i++)
        checksum = checksum * 31 + to[i];
    return bench_result(checksum);
}
