/* NVDIMMs as the NFIT describes them, and their label storage areas through the _DSM mailbox.
 *
 * A guest without an AML interpreter talks to the mailbox directly: it fills a page of its own memory and writes the
 * page's address to port 0xA18; the answer stands in the same page (QEMU, docs/specs/acpi_nvdimm.rst).
 */
#ifndef NVDIMM_H
#define NVDIMM_H

#include "guest.h"

struct nvdimm {
    u32 handle;
    u64 base, size;
    int armed;
};

/* Fills `found` with at most `most` NVDIMMs in NFIT order, maps their memory, and returns how many it filled in. */
unsigned nvdimm_find(struct nvdimm *found, unsigned most);

/* The first NVDIMM; without one it says so and ends with EXIT_NO_NVDIMM. */
struct nvdimm nvdimm_first(void);

enum dsm_status { DSM_SUCCESS = 0, DSM_NOT_SUPPORTED = 1, DSM_NO_DEVICE = 2, DSM_INVALID = 3 };

/* Bit mask of the _DSM functions of that NVDIMM; 0 when it has none. */
u32 nvdimm_functions(u32 handle);

/* All three return a dsm_status. One call moves at most `*max_transfer` bytes; a length of 0 is never sent. */
u32 nvdimm_label_size(u32 handle, u32 *size, u32 *max_transfer);
u32 nvdimm_label_read(u32 handle, u32 offset, void *data, u32 length);
u32 nvdimm_label_write(u32 handle, u32 offset, const void *data, u32 length);

#endif
