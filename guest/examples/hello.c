/* Counts its boots in persistent memory and leaves a message there. */
#include "nvdimm.h"
#include "pmem.h"
#include <string.h>

#define MAGIC 0x6f6c6c6568756d65ull /* "emuhello" */

struct page {
    u64 magic, boots;
    char message[48];
};

int main(int argc, char **argv) {
    struct nvdimm nvdimm = nvdimm_first();
    struct page *page = (struct page *)nvdimm.base;
    (void)argc, (void)argv;

    printf("NVDIMM at 0x%lx, %lu bytes%s\n", nvdimm.base, nvdimm.size, nvdimm.armed ? "" : ", not armed");
    if (page->magic && page->magic != MAGIC) {
        printf("it holds something else, left as it is\n");
        return EXIT_USAGE;
    }
    if (!page->magic) {
        memset(page, 0, sizeof *page);
        memcpy(page->message, "hello, persistent world", 24);
        pmem_persist(page, sizeof *page);
        page->magic = MAGIC;
    }
    page->boots++;
    pmem_persist(page, sizeof *page);
    printf("boot %lu: %s\n", page->boots, page->message);
    return EXIT_OK;
}
