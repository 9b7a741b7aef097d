/* The interface of libpmem (libpmem(7), version 1.1) on the NVDIMMs of the machine. */
#ifndef EMU_LIBPMEM_H
#define EMU_LIBPMEM_H

#include <emu_c.h>
#include <sys/types.h>

#define PMEM_MAJOR_VERSION 1
#define PMEM_MINOR_VERSION 1

#define PMEM_FILE_CREATE (1 << 0)
#define PMEM_FILE_EXCL (1 << 1)
#define PMEM_FILE_SPARSE (1 << 2)
#define PMEM_FILE_TMPFILE (1 << 3)

#define PMEM_F_MEM_NODRAIN (1U << 0)
#define PMEM_F_MEM_NONTEMPORAL (1U << 1)
#define PMEM_F_MEM_TEMPORAL (1U << 2)
#define PMEM_F_MEM_WC (1U << 3)
#define PMEM_F_MEM_WB (1U << 4)
#define PMEM_F_MEM_NOFLUSH (1U << 5)
#define PMEM_F_MEM_VALID_FLAGS 0x3fU

EMU_C_BEGIN
/* Maps a whole NVDIMM: the one whose number stands at the end of `path` ("/dev/pmem1", "/dev/dax1.0"), the first one for
 * every other name. `length` may not be more than it holds; 0 without PMEM_FILE_CREATE is all of it. NULL and errno
 * (ENOENT: there is no such NVDIMM; EINVAL; ENOSPC) on failure. Its bytes are what the file held: zero when it is new. */
void *pmem_map_file(const char *path, size_t length, int flags, mode_t mode, size_t *mapped, int *is_pmem);
int pmem_unmap(void *address, size_t length);

/* 1 when all of the range lies in one NVDIMM. */
int pmem_is_pmem(const void *address, size_t length);

/* Durable when it returns: what was stored in the range before. */
void pmem_persist(const volatile void *address, size_t length);
int pmem_msync(const void *address, size_t length);

/* Starts writing back. Durable when pmem_drain() has followed. */
void pmem_flush(const volatile void *address, size_t length);
void pmem_drain(void);
int pmem_has_auto_flush(void); /* 1 when the platform says that its caches survive (ACPI 6.4, 5.2.25.9) */
int pmem_has_hw_drain(void);

/* To the medium itself where the platform can; here, as on Linux without deep flush, the same as persist and drain. */
int pmem_deep_persist(const void *address, size_t length);
void pmem_deep_flush(const void *address, size_t length);
int pmem_deep_drain(const void *address, size_t length);

/* Copies and fills. Durable when they return, or, with _nodrain or PMEM_F_MEM_NODRAIN, when pmem_drain() has followed;
 * with PMEM_F_MEM_NOFLUSH, when pmem_persist() has. 256 bytes and more go past the cache, unless a flag says otherwise. */
void *pmem_memmove_persist(void *to, const void *from, size_t length);
void *pmem_memcpy_persist(void *to, const void *from, size_t length);
void *pmem_memset_persist(void *to, int value, size_t length);
void *pmem_memmove_nodrain(void *to, const void *from, size_t length);
void *pmem_memcpy_nodrain(void *to, const void *from, size_t length);
void *pmem_memset_nodrain(void *to, int value, size_t length);
void *pmem_memmove(void *to, const void *from, size_t length, unsigned flags);
void *pmem_memcpy(void *to, const void *from, size_t length, unsigned flags);
void *pmem_memset(void *to, int value, size_t length, unsigned flags);

const char *pmem_check_version(unsigned major, unsigned minor); /* NULL when it fits, else why not */
const char *pmem_errormsg(void);                                /* what the last failed call says */
EMU_C_END

#endif
