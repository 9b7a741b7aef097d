/* ACPI tables by signature, and the structures of the NFIT (ACPI 6.4, 5.2.5-5.2.8 and 5.2.25). */
#ifndef ACPI_H
#define ACPI_H

#include "guest.h"

struct __attribute__((packed)) acpi_header {
    char signature[4];
    u32 length;
    u8 revision, checksum;
    char oem_id[6], oem_table_id[8];
    u32 oem_revision;
    char creator_id[4];
    u32 creator_revision;
};

/* The table with that signature, checksum verified and mapped; NULL when there is none. */
const struct acpi_header *acpi_table(const char *signature);

enum nfit_type { NFIT_SPA = 0, NFIT_MEMDEV = 1, NFIT_DCR = 4, NFIT_CAPABILITIES = 7 };

struct __attribute__((packed)) nfit_structure {
    u16 type, length;
};

struct __attribute__((packed)) nfit_spa {
    struct nfit_structure head;
    u16 index, flags;
    u32 reserved, proximity;
    u8 guid[16];
    u64 base, length, attributes;
};

struct __attribute__((packed)) nfit_memdev {
    struct nfit_structure head;
    u32 handle;
    u16 physical_id, region_id, spa_index, dcr_index;
    u64 region_size, region_offset, dpa;
    u16 interleave_index, interleave_ways, flags, reserved;
};

enum { MEMDEV_NOT_ARMED = 1 << 3 };

struct __attribute__((packed)) nfit_dcr {
    struct nfit_structure head;
    u16 index, vendor, device, revision, subsystem_vendor, subsystem_device, subsystem_revision;
    u8 valid, manufacturing_location;
    u16 manufacturing_date, reserved;
    u32 serial;
    u16 interface_code, windows;
};

struct __attribute__((packed)) nfit_capabilities {
    struct nfit_structure head;
    u8 highest, reserved[3];
    u32 capabilities, reserved2;
};

/* The structure after `previous` (NULL: the first); NULL at the end, or where a length makes no sense. */
const struct nfit_structure *nfit_next(const struct acpi_header *nfit, const struct nfit_structure *previous);

/* Whether `spa` is of the range type "persistent memory". */
int nfit_is_pmem(const struct nfit_spa *spa);

#endif
