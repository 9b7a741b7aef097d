/* libpmem's interface on what pmem.h offers. */
#include <libpmem.h>

#include <errno.h>
#include <string.h>

#include "acpi.h"
#include "nvdimm.h"
#include "pmem.h"

/* From this length on copies go past the cache, as libpmem's own do (libpmem(7), PMEM_MOVNT_THRESHOLD). */
enum { MOVNT_THRESHOLD = 256, MOST_NVDIMMS = 64, CAPABILITY_CACHE_FLUSH = 1 };

static struct nvdimm nvdimms[MOST_NVDIMMS];
static unsigned count;
static const char *message = "";

static void find(void) {
    if (!count)
        count = nvdimm_find(nvdimms, MOST_NVDIMMS);
}

/* "/dev/pmem1" and "/dev/dax1.0" are the second NVDIMM; every other name is the first. */
static unsigned number_in(const char *path) {
    static const char *const prefixes[] = {"/dev/pmem", "/dev/dax"};
    for (unsigned i = 0; i < 2; i++) {
        size_t length = strlen(prefixes[i]);
        if (strncmp(path, prefixes[i], length) == 0) {
            unsigned number = 0;
            for (path += length; *path >= '0' && *path <= '9' && number < MOST_NVDIMMS; path++)
                number = number * 10 + (unsigned)(*path - '0');
            return number;
        }
    }
    return 0;
}

static void *failed(int error, const char *why) {
    errno = error;
    message = why;
    return NULL;
}

void *pmem_map_file(const char *path, size_t length, int flags, mode_t mode, size_t *mapped, int *is_pmem) {
    (void)mode;
    find();
    unsigned number = number_in(path);
    if (number >= count)
        return failed(ENOENT, "there is no such NVDIMM");
    const struct nvdimm *nvdimm = &nvdimms[number];
    int known = PMEM_FILE_CREATE | PMEM_FILE_EXCL | PMEM_FILE_SPARSE;
    if (flags & ~known)
        return failed(EINVAL, "a flag is not supported: an NVDIMM is no temporary file");
    if (!(flags & PMEM_FILE_CREATE) && (length || flags))
        return failed(EINVAL, "a length or another flag needs PMEM_FILE_CREATE");
    if ((flags & PMEM_FILE_CREATE) && !length)
        return failed(EINVAL, "PMEM_FILE_CREATE needs a length");
    if (length > nvdimm->size)
        return failed(ENOSPC, "the NVDIMM is smaller than that");
    if ((flags & PMEM_FILE_EXCL) && *(const volatile u64 *)nvdimm->base)
        return failed(EEXIST, "the NVDIMM does not begin with zero: it is in use");
    if (mapped)
        *mapped = length ? length : nvdimm->size;
    if (is_pmem)
        *is_pmem = 1;
    return (void *)nvdimm->base;
}

int pmem_unmap(void *address, size_t length) {
    (void)address, (void)length;
    return 0;
}

int pmem_is_pmem(const void *address, size_t length) {
    u64 start = (u64)address;
    find();
    for (unsigned i = 0; i < count; i++)
        if (start >= nvdimms[i].base && length <= nvdimms[i].size && start - nvdimms[i].base <= nvdimms[i].size - length)
            return 1;
    return 0;
}

void pmem_drain(void) {
    pmem_fence();
}

int pmem_msync(const void *address, size_t length) {
    pmem_persist(address, length);
    return 0;
}

int pmem_has_auto_flush(void) {
    const struct acpi_header *nfit = acpi_table("NFIT");
    if (!nfit)
        return 0;
    for (const struct nfit_structure *item = NULL; (item = nfit_next(nfit, item));) {
        const struct nfit_capabilities *platform = (const void *)item;
        if (item->type == NFIT_CAPABILITIES && item->length >= sizeof *platform)
            return (int)(platform->capabilities & CAPABILITY_CACHE_FLUSH);
    }
    return 0;
}

int pmem_has_hw_drain(void) {
    return 0;
}

int pmem_deep_persist(const void *address, size_t length) {
    pmem_persist(address, length);
    return 0;
}

void pmem_deep_flush(const void *address, size_t length) {
    pmem_flush(address, length);
}

int pmem_deep_drain(const void *address, size_t length) {
    (void)address, (void)length;
    pmem_drain();
    return 0;
}

/* How stores are made: 8 bytes at a time where `to` is aligned for it, in the direction that overlap asks for. */
struct copy {
    char *to;
    const char *from; /* NULL: every byte is `value` */
    u64 value;        /* the byte, eight times */
    int past_cache;
};

static void copy_unit(const struct copy *copy, size_t at) {
    u64 unit = copy->value;
    if (copy->from)
        __builtin_memcpy(&unit, copy->from + at, sizeof unit);
    if (copy->past_cache)
        pmem_store_nt((volatile u64 *)(copy->to + at), unit);
    else
        *(volatile u64 *)(copy->to + at) = unit;
}

static void copy_byte(const struct copy *copy, size_t at) {
    *(volatile char *)(copy->to + at) = copy->from ? copy->from[at] : (char)copy->value;
}

/* Lines that were not stored past the cache are written back unless `flags` say that the caller does it. */
static void *store(struct copy copy, size_t length, unsigned flags) {
    copy.past_cache = flags & (PMEM_F_MEM_NONTEMPORAL | PMEM_F_MEM_WC) ? 1
                      : flags & (PMEM_F_MEM_TEMPORAL | PMEM_F_MEM_WB | PMEM_F_MEM_NOFLUSH)
                          ? 0
                          : length >= MOVNT_THRESHOLD;
    size_t head = -(u64)copy.to & 7;
    head = head < length ? head : length;
    size_t units = head + ((length - head) & ~(size_t)7);
    if (copy.from && copy.from < copy.to && copy.to < copy.from + length) {
        for (size_t at = length; at > units; at--)
            copy_byte(&copy, at - 1);
        for (size_t at = units; at > head; at -= 8)
            copy_unit(&copy, at - 8);
        for (size_t at = head; at; at--)
            copy_byte(&copy, at - 1);
    } else {
        for (size_t at = 0; at < head; at++)
            copy_byte(&copy, at);
        for (size_t at = head; at < units; at += 8)
            copy_unit(&copy, at);
        for (size_t at = units; at < length; at++)
            copy_byte(&copy, at);
    }
    if (!(flags & PMEM_F_MEM_NOFLUSH)) {
        if (!copy.past_cache) {
            pmem_flush(copy.to, length);
        } else {
            pmem_flush(copy.to, head);
            pmem_flush(copy.to + units, length - units);
        }
        if (!(flags & PMEM_F_MEM_NODRAIN))
            pmem_drain();
    }
    return copy.to;
}

void *pmem_memmove(void *to, const void *from, size_t length, unsigned flags) {
    return store((struct copy){.to = to, .from = from}, length, flags);
}

void *pmem_memcpy(void *to, const void *from, size_t length, unsigned flags) {
    return pmem_memmove(to, from, length, flags);
}

void *pmem_memset(void *to, int value, size_t length, unsigned flags) {
    return store((struct copy){.to = to, .value = (u8)value * 0x0101010101010101ull}, length, flags);
}

void *pmem_memmove_persist(void *to, const void *from, size_t length) {
    return pmem_memmove(to, from, length, 0);
}

void *pmem_memcpy_persist(void *to, const void *from, size_t length) {
    return pmem_memmove(to, from, length, 0);
}

void *pmem_memset_persist(void *to, int value, size_t length) {
    return pmem_memset(to, value, length, 0);
}

void *pmem_memmove_nodrain(void *to, const void *from, size_t length) {
    return pmem_memmove(to, from, length, PMEM_F_MEM_NODRAIN);
}

void *pmem_memcpy_nodrain(void *to, const void *from, size_t length) {
    return pmem_memmove(to, from, length, PMEM_F_MEM_NODRAIN);
}

void *pmem_memset_nodrain(void *to, int value, size_t length) {
    return pmem_memset(to, value, length, PMEM_F_MEM_NODRAIN);
}

const char *pmem_check_version(unsigned major, unsigned minor) {
    return major == PMEM_MAJOR_VERSION && minor <= PMEM_MINOR_VERSION ? NULL : "emu's libpmem has interface version 1.1";
}

const char *pmem_errormsg(void) {
    return message;
}
