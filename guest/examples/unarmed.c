/* Writes a mark to every NVDIMM, but refuses as soon as the NFIT says that one is not armed. */
#include "nvdimm.h"
#include "pmem.h"

enum { MOST_NVDIMMS = 16 };
#define MARK 0x64656d7261ull /* "armed" */

int main(int argc, char **argv) {
    struct nvdimm nvdimms[MOST_NVDIMMS];
    unsigned count = nvdimm_find(nvdimms, MOST_NVDIMMS);
    (void)argc, (void)argv;
    if (!count) {
        printf("no NVDIMM found\n");
        return EXIT_NO_NVDIMM;
    }
    for (unsigned i = 0; i < count; i++) {
        if (!nvdimms[i].armed) {
            printf("NVDIMM %u is not armed: what is written there may not survive, nothing written\n",
                   nvdimms[i].handle);
            return EXIT_UNARMED;
        }
        volatile u64 *mark = (volatile u64 *)nvdimms[i].base;
        if (*mark && *mark != MARK) {
            printf("NVDIMM %u holds something else, left as it is\n", nvdimms[i].handle);
            return EXIT_USAGE;
        }
        *mark = MARK;
        pmem_persist(mark, sizeof *mark);
        printf("NVDIMM %u is armed: mark written\n", nvdimms[i].handle);
    }
    return EXIT_OK;
}
