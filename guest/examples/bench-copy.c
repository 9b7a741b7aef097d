/* bench-copy [ROUNDS]: copies 4 KiB per round by `rep movsq`, to the NVDIMM if there is one, else within RAM. */
#include "bench.h"
#include "nvdimm.h"

enum { PAGE = 4096, WORDS = PAGE / 8 };

static u64 from[WORDS] __attribute__((aligned(PAGE))), ram[WORDS] __attribute__((aligned(PAGE)));

int main(int argc, char **argv) {
    struct nvdimm nvdimm;
    u64 rounds = bench_rounds(argc, argv, 800000);
    u64 *to = nvdimm_find(&nvdimm, 1) ? (u64 *)nvdimm.base : ram;
    for (u64 i = 0; i < rounds; i++) {
        from[i % WORDS] += i;
        void *out = to;
        const void *in = from;
        u64 count = WORDS;
        __asm__ volatile("rep movsq" : "+D"(out), "+S"(in), "+c"(count)::"memory");
    }
    u64 checksum = 0;
    for (unsigned i = 0; i < WORDS; i++)
        checksum = checksum * 31 + to[i];
    return bench_result(checksum);
}
