/* Prints every structure of the NFIT. */
#include "acpi.h"

int main(int argc, char **argv) {
    const struct acpi_header *nfit = acpi_table("NFIT");
    (void)argc, (void)argv;
    if (!nfit) {
        printf("no NFIT found\n");
        return EXIT_NO_NVDIMM;
    }
    printf("NFIT: %u bytes, revision %u\n", nfit->length, nfit->revision);
    for (const struct nfit_structure *item = NULL; (item = nfit_next(nfit, item));) {
        if (item->type == NFIT_SPA) {
            const struct nfit_spa *spa = (const void *)item;
            printf("SPA range %u: 0x%lx, %lu bytes, %s, flags 0x%x, proximity %u, attributes 0x%lx\n", spa->index,
                   spa->base, spa->length, nfit_is_pmem(spa) ? "persistent memory" : "other", spa->flags,
                   spa->proximity, spa->attributes);
        } else if (item->type == NFIT_MEMDEV) {
            const struct nfit_memdev *memdev = (const void *)item;
            printf("memory device 0x%x: SPA range %u, control region %u, %lu bytes, DPA 0x%lx, flags 0x%x%s\n",
                   memdev->handle, memdev->spa_index, memdev->dcr_index, memdev->region_size, memdev->dpa,
                   memdev->flags, memdev->flags & MEMDEV_NOT_ARMED ? " (not armed)" : "");
        } else if (item->type == NFIT_DCR) {
            const struct nfit_dcr *dcr = (const void *)item;
            printf("control region %u: vendor 0x%x, device 0x%x, serial 0x%x, interface 0x%x\n", dcr->index,
                   dcr->vendor, dcr->device, dcr->serial, dcr->interface_code);
        } else if (item->type == NFIT_CAPABILITIES) {
            const struct nfit_capabilities *caps = (const void *)item;
            printf("platform capabilities: highest bit %u, 0x%x\n", caps->highest, caps->capabilities);
        } else {
            printf("structure of type %u, %u bytes\n", item->type, item->length);
        }
    }
    return EXIT_OK;
}
