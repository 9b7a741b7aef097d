/* The syscall core of emu: the only native code that talks to the kernel. See kernel.py and faults.py for the meaning.
 *
 * Calls return the result or -errno, so nothing depends on errno surviving until Python reads it.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <linux/mempolicy.h>
#include <linux/stat.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <ucontext.h>
#include <unistd.h>

/* The kernel's ABI fixes these numbers; an older header that lacks one says nothing about the running kernel. */
#ifdef MAP_SYNC
#define HAVE_MAP_SYNC 1
#elif defined(__alpha__) || defined(__mips__) || defined(__hppa__) || defined(__xtensa__)
#define HAVE_MAP_SYNC 0 /* these families never got a number for it */
#define MAP_SYNC 0
#else
#define HAVE_MAP_SYNC 1
#define MAP_SYNC 0x80000
#endif
#ifndef MAP_SHARED_VALIDATE
#define MAP_SHARED_VALIDATE 0x03
#endif
#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif
#ifndef STATX_ATTR_DAX
#define STATX_ATTR_DAX 0x00200000
#endif
#ifndef BUS_MCEERR_AR
#define BUS_MCEERR_AR 4
#endif

#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>
#define X86 1
#else
#define X86 0
#endif

static const int HAS_MAP_SYNC = HAVE_MAP_SYNC;
static const int HAS_CPU_FLUSH = X86;
enum { CPU_CLFLUSH = 1, CPU_CLFLUSHOPT = 2, CPU_CLWB = 4 };

typedef struct { long type; long block_size; } emu_fs;
typedef struct { uint64_t first; uint64_t count; } emu_run;
typedef struct { int64_t offset; int stored; int poisoned; int cut_off; } emu_loss;

/* ---------------------------------------------------------------------------------------------- system calls */

static size_t round_up(size_t value, size_t unit) { return (value + unit - 1) / unit * unit; }

static int emu_open(const char *path, int flags, unsigned mode) {
    int fd;
    do {
        fd = open(path, flags, mode);
    } while (fd < 0 && errno == EINTR);
    return fd < 0 ? -errno : fd;
}

/* Map at a multiple of `align`, with one inaccessible page behind. Memory past the mapping must not belong to anybody:
 * a run-away copy of ours should fault and not write to the neighbour. NULL and *error on failure. */
static void *emu_map(size_t size, size_t align, size_t page, int prot, int flags, int fd, int64_t offset, int *error) {
    size_t whole = round_up(size, page), reserve = whole + align + page;
    if (whole < size || reserve < whole) {
        *error = ENOMEM;
        return NULL;
    }
    char *start = mmap(NULL, reserve, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (start == MAP_FAILED) {
        *error = errno;
        return NULL;
    }
    char *at = (char *)round_up((uintptr_t)start, align);
    if (mmap(at, whole, prot, flags | MAP_FIXED, fd, offset) == MAP_FAILED) {
        *error = errno;
        munmap(start, reserve);
        return NULL;
    }
    if (at != start)
        munmap(start, at - start);
    char *behind = at + whole + page;
    if (behind != start + reserve)
        munmap(behind, start + reserve - behind);
    return at;
}

static int emu_unmap(void *address, size_t size, size_t page) {
    return munmap(address, round_up(size, page) + page) ? -errno : 0;
}

static int emu_msync(void *address, size_t size) { return msync(address, size, MS_SYNC) ? -errno : 0; }

static int emu_madvise(void *address, size_t size, int advice) { return madvise(address, size, advice) ? -errno : 0; }

/* Give every page its memory by an atomic store that changes nothing; for kernels without MADV_POPULATE_WRITE. */
static int emu_touch(void *address, size_t size, size_t page) {
    for (size_t at = 0; at < size; at += page)
        atomic_fetch_or((_Atomic unsigned char *)address + at, 0);
    return 0;
}

static int emu_mbind(void *address, size_t size, int mode, const unsigned long *nodes, unsigned long bits) {
#ifdef SYS_mbind
    /* The kernel reads one bit less than it is told. */
    long result = syscall(SYS_mbind, address, size, mode, nodes, bits + 1, MPOL_MF_STRICT | MPOL_MF_MOVE);
    return result ? -errno : 0;
#else
    return -ENOSYS;
#endif
}

/* Allocate blocks without changing content or length. */
static int emu_fallocate(int fd, int64_t offset, int64_t size) {
    int result;
    do {
        result = fallocate(fd, FALLOC_FL_KEEP_SIZE, offset, size);
    } while (result && errno == EINTR);
    return result ? -errno : 0;
}

static int emu_truncate(int fd, int64_t size) {
    int result;
    do {
        result = ftruncate(fd, size);
    } while (result && errno == EINTR);
    return result ? -errno : 0;
}

static int emu_lock(int fd, int type, int64_t start, int64_t length) {
    struct flock lock = {.l_type = type, .l_whence = SEEK_SET, .l_start = start, .l_len = length};
    return fcntl(fd, F_OFD_SETLK, &lock) ? -errno : 0;
}

/* 1 when somebody else holds a lock that `type` on this range would have to wait for. */
static int emu_lock_conflict(int fd, int type, int64_t start, int64_t length) {
    struct flock lock = {.l_type = type, .l_whence = SEEK_SET, .l_start = start, .l_len = length};
    return fcntl(fd, F_OFD_GETLK, &lock) ? -errno : lock.l_type != F_UNLCK;
}

/* 1 the kernel reaches this file by DAX, 0 it does not, -EOPNOTSUPP the file system cannot say. */
static int emu_statx_dax(int fd) {
    /* By number: glibc has a function for it from 2.28 on only, and a wheel should need as little as it can. */
    struct statx status;
    if (syscall(SYS_statx, fd, "", AT_EMPTY_PATH, STATX_BASIC_STATS, &status))
        return -errno;
    if (status.stx_attributes & STATX_ATTR_DAX)
        return 1;
    return status.stx_attributes_mask & STATX_ATTR_DAX ? 0 : -EOPNOTSUPP;
}

static int emu_fstatfs(int fd, emu_fs *result) {
    struct statfs status;
    if (fstatfs(fd, &status))
        return -errno;
    result->type = (long)status.f_type;
    result->block_size = (long)status.f_bsize;
    return 0;
}

static int emu_watch(void) {
    int result = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
    return result < 0 ? -errno : result;
}

static int emu_watch_writes(int watch, const char *path) {
    int result = inotify_add_watch(watch, path, IN_MODIFY);
    return result < 0 ? -errno : result;
}

/* ------------------------------------------------------------------------------------------------- processor */

static int emu_cpu_features(void) {
    int features = 0;
#if X86
    unsigned a, b, c, d;
    if (__get_cpuid(1, &a, &b, &c, &d))
        features |= d & (1u << 19) ? CPU_CLFLUSH : 0;
    if (__get_cpuid_count(7, 0, &a, &b, &c, &d)) {
        features |= b & (1u << 23) ? CPU_CLFLUSHOPT : 0;
        features |= b & (1u << 24) ? CPU_CLWB : 0;
    }
#endif
    return features;
}

#if X86
enum { LINE = 64 }; /* flushing at a smaller step than the real line is only slower; no x86-64 has smaller lines */
__attribute__((target("clwb"))) static void lines_clwb(char *at, char *end) {
    for (; at < end; at += LINE)
        _mm_clwb(at);
}
__attribute__((target("clflushopt"))) static void lines_clflushopt(char *at, char *end) {
    for (; at < end; at += LINE)
        _mm_clflushopt(at);
}
static void lines_clflush(char *at, char *end) {
    for (; at < end; at += LINE)
        _mm_clflush(at);
}
#endif

/* Write the lines of a range back from the CPU caches and wait until the memory system has taken them (ADR). */
static void emu_flush(const void *address, size_t size, int instruction) {
#if X86
    char *at = (char *)((uintptr_t)address & ~(uintptr_t)(LINE - 1)), *end = (char *)address + size;
    if (instruction == CPU_CLWB)
        lines_clwb(at, end);
    else if (instruction == CPU_CLFLUSHOPT)
        lines_clflushopt(at, end);
    else
        lines_clflush(at, end);
    _mm_sfence();
#else
    (void)address, (void)size, (void)instruction;
#endif
}

#include "faults.h"
#include "dirty_log.h"
