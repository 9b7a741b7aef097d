#include "acpi.h"

#include <string.h>

/* ACPI 6.4, 5.2.5.3; revision 0 ends after `rsdt`. */
struct __attribute__((packed)) rsdp {
    char signature[8];
    u8 checksum;
    char oem_id[6];
    u8 revision;
    u32 rsdt, length;
    u64 xsdt;
    u8 extended_checksum, reserved[3];
};

enum { BIOS_AREA = 0xE0000, BIOS_END = 0x100000, RSDP_V1_SIZE = 20, NFIT_HEADER = 40, LARGEST_TABLE = 1 << 24 };

static int sums_to_zero(const void *start, u32 size) {
    u8 sum = 0;
    for (const u8 *byte = start; size--; byte++)
        sum = (u8)(sum + *byte);
    return sum == 0;
}

static int is_rsdp(const struct rsdp *rsdp) {
    return *(const u64 *)rsdp == 0x2052545020445352 && sums_to_zero(rsdp, RSDP_V1_SIZE); /* "RSD PTR " */
}

static const struct rsdp *find_rsdp(void) {
    u64 hint = boot_rsdp();
    if (hint)
        return is_rsdp((const struct rsdp *)hint) ? (const struct rsdp *)hint : NULL;
    for (u64 address = BIOS_AREA; address < BIOS_END; address += 16)
        if (is_rsdp((const struct rsdp *)address))
            return (const struct rsdp *)address;
    return NULL;
}

static const struct acpi_header *mapped(u64 address) {
    const struct acpi_header *table = (const void *)address;
    map_physical(address, sizeof *table);
    if (table->length < sizeof *table || table->length > LARGEST_TABLE)
        return NULL;
    map_physical(address, table->length);
    return table;
}

const struct acpi_header *acpi_table(const char *signature) {
    const struct rsdp *rsdp = find_rsdp();
    if (!rsdp)
        return NULL;
    int wide = rsdp->revision >= 2 && rsdp->xsdt;
    const struct acpi_header *root = mapped(wide ? rsdp->xsdt : rsdp->rsdt);
    if (!root || !sums_to_zero(root, root->length))
        return NULL;
    u32 entry_size = wide ? 8 : 4;
    for (u32 at = sizeof *root; at + entry_size <= root->length; at += entry_size) {
        u64 address = 0;
        memcpy(&address, (const char *)root + at, entry_size);
        const struct acpi_header *table = mapped(address);
        if (table && !memcmp(table->signature, signature, 4) && sums_to_zero(table, table->length))
            return table;
    }
    return NULL;
}

const struct nfit_structure *nfit_next(const struct acpi_header *nfit, const struct nfit_structure *previous) {
    const char *end = (const char *)nfit + nfit->length;
    const char *at = previous ? (const char *)previous + previous->length : (const char *)nfit + NFIT_HEADER;
    const struct nfit_structure *next = (const void *)at;
    if (end - at < (s64)sizeof *next || next->length < sizeof *next || next->length > end - at)
        return NULL;
    return next;
}

int nfit_is_pmem(const struct nfit_spa *spa) {
    static const u8 pmem[16] = {0x79, 0xd3, 0xf0, 0x66, 0xf3, 0xb4, 0x74, 0x40,
                                0xac, 0x43, 0x0d, 0x33, 0x18, 0xb7, 0x8c, 0xdb};
    return !memcmp(spa->guid, pmem, sizeof pmem);
}
