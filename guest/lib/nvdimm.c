#include "nvdimm.h"

#include "acpi.h"

static const struct nfit_spa *find_spa(const struct acpi_header *nfit, u16 index) {
    for (const struct nfit_structure *item = NULL; (item = nfit_next(nfit, item));) {
        const struct nfit_spa *spa = (const void *)item;
        if (item->type == NFIT_SPA && item->length >= sizeof *spa && spa->index == index && nfit_is_pmem(spa))
            return spa;
    }
    return NULL;
}

unsigned nvdimm_find(struct nvdimm *found, unsigned most) {
    unsigned count = 0;
    const struct acpi_header *nfit = acpi_table("NFIT");
    if (!nfit)
        return 0;
    for (const struct nfit_structure *item = NULL; count < most && (item = nfit_next(nfit, item));) {
        const struct nfit_memdev *memdev = (const void *)item;
        if (item->type != NFIT_MEMDEV || item->length < sizeof *memdev)
            continue;
        const struct nfit_spa *spa = find_spa(nfit, memdev->spa_index);
        if (!spa || !spa->length)
            continue;
        map_physical(spa->base, spa->length);
        found[count++] = (struct nvdimm){.handle = memdev->handle,
                                         .base = spa->base,
                                         .size = spa->length,
                                         .armed = !(memdev->flags & MEMDEV_NOT_ARMED)};
    }
    return count;
}

struct nvdimm nvdimm_first(void) {
    struct nvdimm nvdimm;
    if (!nvdimm_find(&nvdimm, 1)) {
        printf("no NVDIMM found\n");
        guest_exit(EXIT_NO_NVDIMM);
    }
    return nvdimm;
}
