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
    struct statx status;
    if (statx(fd, "", AT_EMPTY_PATH, STATX_BASIC_STATS, &status))
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

/* ---------------------------------------------------------------------------------------------------- faults
 *
 * One handler for SIGSEGV and SIGBUS over a table of address ranges. The handler takes no lock and allocates nothing;
 * it uses mprotect, mmap and madvise, which are system calls without state in the C library.
 *
 * A tracked range is write-protected; a fault makes its page writable and then sets its bit. In that order, because
 * then "writable" always means: the bit is set, or its handler is about to set it. collect() takes bits first and
 * protects second, so whatever a handler does in between ends either with the page protected or with the bit set, and
 * no store is lost.
 */

/* 256 NVDIMMs and RAM, each guarded and tracked, twice over: a process may hold both sides of a migration. */
enum { RANGES = 1040, FREE = 0, GUARD = 1, DIRTY = 2 };

typedef struct {
    _Atomic int kind; /* written last when a slot is filled, first when it is emptied */
    uintptr_t start, end;
    size_t page;
    _Atomic uint64_t *bits;   /* DIRTY: one bit per page */
    uint64_t cursor;          /* DIRTY: where the next collect goes on */
    uintptr_t before;         /* DIRTY: where pages are copied before they are first stored to, or 0 */
    uint8_t *unchanged;       /* DIRTY: how many times in a row emu_dirty_undo found the page as it was */
    int fd;                   /* GUARD: the file that stores reach, or -1 */
    int64_t file_offset;      /* GUARD: where the mapping begins in it */
    _Atomic int group;        /* GUARD: ranges of one number are cut off together; 0: alone */
    _Atomic int cut_off;      /* GUARD: stores do not reach the file any more */
    _Atomic int64_t lost;     /* GUARD: offset of the access that first met a lost page, or -1 */
    _Atomic int stored;       /* GUARD: that access was a store */
    _Atomic int poisoned;     /* GUARD: the memory itself failed (machine check) */
} range;

static range ranges[RANGES];
static _Atomic int slots; /* so many, from the first, have ever been filled: nobody needs to look further */
static pthread_mutex_t table_lock = PTHREAD_MUTEX_INITIALIZER;
static _Atomic int handlers_running;
static struct sigaction earlier[2]; /* SIGSEGV, SIGBUS */

/* Initial-exec: other models may allocate on first use, which a handler must not do. */
#define THREAD_LOCAL static __thread __attribute__((tls_model("initial-exec")))
THREAD_LOCAL int chaining;
THREAD_LOCAL uintptr_t unknown_fault; /* see is_stale */
THREAD_LOCAL void (*stop_function)(uintptr_t);
THREAD_LOCAL uintptr_t stop_argument;
THREAD_LOCAL int stopped;

static range *find(uintptr_t at, int kind) {
    for (int n = 0; n < atomic_load(&slots); n++)
        if (atomic_load(&ranges[n].kind) == kind && at >= ranges[n].start && at < ranges[n].end)
            return &ranges[n];
    return NULL;
}

static int is_store(const void *context) {
#if X86
    return (((const ucontext_t *)context)->uc_mcontext.gregs[REG_ERR] & 2) != 0;
#else
    (void)context;
    return 1;
#endif
}

static void set_bits(range *r, uint64_t first, uint64_t count) {
    for (uint64_t page = first; page < first + count; page++)
        atomic_fetch_or(&r->bits[page / 64], 1ull << page % 64);
}

static int is_dirty(const range *r, uint64_t page) { return atomic_load(&r->bits[page / 64]) >> page % 64 & 1; }

static int mark_dirty(uintptr_t at) {
    range *r = find(at, DIRTY);
    if (!r)
        return 0;
    uint64_t pages = (r->end - r->start) / r->page, page = (at - r->start) / r->page;
    /* Every hole in the protection costs the kernel a mapping of its own, and it allows 65,530 of them. When they run
     * out, open a larger piece: more pages than stored to are then reported, but none is forgotten. */
    for (uint64_t piece = 1;; piece *= 64) {
        uint64_t first = page / piece * piece, count = piece < pages - first ? piece : pages - first;
        for (uint64_t n = first; r->before && n < first + count; n++)
            if (!is_dirty(r, n))
                memcpy((void *)(r->before + n * r->page), (void *)(r->start + n * r->page), r->page);
        if (mprotect((void *)(r->start + first * r->page), count * r->page, PROT_READ | PROT_WRITE) == 0) {
            set_bits(r, first, count);
            return 1;
        }
        if (errno != ENOMEM || count == pages)
            return 0;
    }
}

/* Whether tracking of the page ended, or ended and began again, between the fault and now: then the store only has to be
 * repeated. The kernel says if the page can be written; before Linux 5.14 it cannot be asked, so there the same address
 * is given a second chance, but no third one. */
static int is_stale(uintptr_t at) {
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    for (int tries = 0; tries < 16; tries++)
        if (madvise((void *)(at / page * page), page, MADV_POPULATE_WRITE) == 0 || mark_dirty(at))
            return 1;
    int second = unknown_fault == at;
    unknown_fault = at;
    return !second;
}

/* The protection that keeps a dirty log over the range complete: what it tracks must fault before it is stored to. */
static int protection(const range *r) {
    for (int n = 0; n < atomic_load(&slots); n++)
        if (atomic_load(&ranges[n].kind) == DIRTY && ranges[n].start < r->end && r->start < ranges[n].end)
            return PROT_READ;
    return PROT_READ | PROT_WRITE;
}

/* Let no later store reach the file: the mapping becomes a private one of the same bytes, in the same place. Where there
 * is none to be had, zeros; the machine that stores there is about to end. */
static void cut_off(range *r) {
    if (atomic_exchange(&r->cut_off, 1) || r->fd < 0)
        return;
    size_t size = r->end - r->start;
    int flags = MAP_PRIVATE | MAP_FIXED | MAP_NORESERVE, allowed = protection(r);
    if (mmap((void *)r->start, size, allowed, flags, r->fd, r->file_offset) == MAP_FAILED)
        mmap((void *)r->start, size, allowed, flags | MAP_ANONYMOUS, -1, 0);
}

static void record_loss(range *r, uintptr_t at, int store, int poisoned) {
    int64_t none = -1;
    atomic_store(&r->stored, store);
    atomic_store(&r->poisoned, poisoned);
    atomic_compare_exchange_strong(&r->lost, &none, (int64_t)(at - r->start));
}

/* A page that its file does not back. Program order is a promise: once a store is lost, those after it must not be in any
 * file of the machine. So at the first lost page all its mappings are cut off from their files, before this thread can
 * store anything else, and the access is repeated. Where it fails again, the page is replaced by zeros. */
static int survive_lost_page(uintptr_t at, int code, int store) {
    range *r = find(at, GUARD);
    if (!r)
        return 0;
    int repeat = 0;
    if (!atomic_load(&r->cut_off)) {
        record_loss(r, at, store, code == BUS_MCEERR_AR);
        repeat = r->fd >= 0;
        cut_off(r);
        int group = atomic_load(&r->group);
        for (int n = 0; group && n < atomic_load(&slots); n++)
            if (atomic_load(&ranges[n].kind) == GUARD && atomic_load(&ranges[n].group) == group)
                cut_off(&ranges[n]);
    }
    uintptr_t page = at - (at - r->start) % r->page;
    if (!repeat && mmap((void *)page, r->page, protection(r), MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED,
                        -1, 0) == MAP_FAILED)
        return 0;
    if (stop_function) {
        stopped = 1;
        stop_function(stop_argument);
    }
    return 1;
}

static void die_of(int sig) {
    struct sigaction standard = {.sa_handler = SIG_DFL};
    sigaction(sig, &standard, NULL);
    raise(sig); /* pending until the handler returns, unless the fault itself comes first: both end the process */
}

/* Somebody else's fault: hand it to whoever was there before us. Two handlers that each believe the other came first
 * (ours and Python's faulthandler, when both were installed twice) would call each other for ever; the second time round
 * is fatal. */
static void chain(int sig, siginfo_t *info, void *context) {
    struct sigaction *before = &earlier[sig == SIGBUS];
    if (chaining++) {
        die_of(sig);
    } else if (before->sa_flags & SA_SIGINFO) {
        before->sa_sigaction(sig, info, context);
    } else if (before->sa_handler == SIG_IGN && info->si_code <= 0) {
        /* sent by somebody with kill, and they want it ignored */
    } else if (before->sa_handler == SIG_DFL || before->sa_handler == SIG_IGN) {
        die_of(sig);
    } else {
        before->sa_handler(sig);
    }
    chaining--;
}

static void on_fault(int sig, siginfo_t *info, void *context) {
    int saved = errno, handled = 0;
    uintptr_t at = (uintptr_t)info->si_addr;
    if (info->si_code > 0) { /* from the kernel: only then is there an address */
        atomic_fetch_add(&handlers_running, 1);
        if (sig == SIGBUS)
            handled = survive_lost_page(at, info->si_code, is_store(context));
        else if (info->si_code == SEGV_ACCERR && is_store(context))
            handled = mark_dirty(at) || is_stale(at);
        atomic_fetch_sub(&handlers_running, 1);
    }
    if (!handled)
        chain(sig, info, context);
    errno = saved;
}

/* Others may have installed theirs since; a fault of ours must reach us before it frightens them. */
static int install(void) {
    static const int signals[2] = {SIGSEGV, SIGBUS};
    for (int n = 0; n < 2; n++) {
        struct sigaction now, ours = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER};
        if (sigaction(signals[n], NULL, &now))
            return -errno;
        if ((now.sa_flags & SA_SIGINFO) && now.sa_sigaction == on_fault)
            continue;
        earlier[n] = now; /* before ours is active, so a fault never finds it empty */
        sigemptyset(&ours.sa_mask);
        if (sigaction(signals[n], &ours, NULL))
            return -errno;
    }
    return 0;
}

static int add_range(uintptr_t address, size_t size, size_t page, int kind, _Atomic uint64_t *bits, int fd,
                     int64_t file_offset) {
    int slot = -ENOSPC;
    pthread_mutex_lock(&table_lock);
    int error = install();
    for (int n = 0; !error && n < RANGES; n++) {
        range *r = &ranges[n];
        int used = atomic_load(&r->kind);
        if (used == FREE && slot == -ENOSPC)
            slot = n;
        else if (used == kind && address < r->end && r->start < address + size)
            error = -EBUSY;
    }
    slot = error ? error : slot;
    if (slot >= 0) {
        if (slot >= atomic_load(&slots))
            atomic_store(&slots, slot + 1);
        range *r = &ranges[slot];
        r->start = address;
        r->end = address + round_up(size, page);
        r->page = page;
        r->bits = bits;
        r->cursor = 0;
        r->before = 0;
        r->unchanged = NULL;
        r->fd = fd;
        r->file_offset = file_offset;
        atomic_store(&r->group, 0);
        atomic_store(&r->cut_off, 0);
        atomic_store(&r->lost, -1);
        atomic_store(&r->stored, 0);
        atomic_store(&r->poisoned, 0);
        atomic_store(&r->kind, kind);
    }
    pthread_mutex_unlock(&table_lock);
    return slot;
}

static void remove_range(int slot) {
    pthread_mutex_lock(&table_lock);
    atomic_store(&ranges[slot].kind, FREE);
    while (atomic_load(&handlers_running)) /* one of them may still use the range */
        sched_yield();
    free((void *)ranges[slot].bits);
    free(ranges[slot].unchanged);
    ranges[slot].bits = NULL;
    ranges[slot].unchanged = NULL;
    pthread_mutex_unlock(&table_lock);
}

static int emu_guard_add(uintptr_t address, size_t size, size_t page, int fd, int64_t file_offset) {
    return add_range(address, size, page, GUARD, NULL, fd, file_offset);
}

static void emu_guard_join(int slot, int group) { atomic_store(&ranges[slot].group, group); }

static void emu_guard_remove(int slot) { remove_range(slot); }

static emu_loss emu_guard_loss(int slot) {
    range *r = &ranges[slot];
    emu_loss loss = {.offset = atomic_load(&r->lost), .cut_off = atomic_load(&r->cut_off)};
    loss.stored = atomic_load(&r->stored);
    loss.poisoned = atomic_load(&r->poisoned);
    return loss;
}

/* For the calling thread only: the one whose run loop must end is the one that faults. */
static void emu_set_stop(uintptr_t function, uintptr_t argument) {
    stopped = 0;
    stop_argument = argument;
    stop_function = (void (*)(uintptr_t))function;
}

static int emu_stopped(void) { return stopped; }

static int emu_dirty_start(uintptr_t address, size_t size, size_t page) {
    size_t whole = round_up(size, page);
    _Atomic uint64_t *bits = calloc(whole / page / 64 + 1, sizeof *bits);
    if (!bits)
        return -ENOMEM;
    int slot = add_range(address, size, page, DIRTY, bits, -1, 0);
    if (slot < 0) {
        free((void *)bits);
        return slot;
    }
    if (mprotect((void *)address, whole, PROT_READ)) {
        int error = -errno;
        mprotect((void *)address, whole, PROT_READ | PROT_WRITE);
        remove_range(slot);
        return error;
    }
    return slot;
}

static void take_run(range *r, uint64_t first, uint64_t count) {
    if (mprotect((void *)(r->start + first * r->page), count * r->page, PROT_READ))
        set_bits(r, first, count); /* still open to stores we would not see: so still dirty for the next round */
}

/* Take dirty pages, protected again, as runs in rising order; with *more set, call again and it goes on from there. */
static int64_t emu_dirty_collect(int slot, emu_run *runs, size_t capacity, int *more) {
    pthread_mutex_lock(&table_lock);
    range *r = &ranges[slot];
    uint64_t pages = (r->end - r->start) / r->page, words = (pages + 63) / 64, word = r->cursor;
    size_t used = 0;
    emu_run open = {0, 0};
    /* A word yields at most 32 runs and one that was still open. */
    for (; word < words && used + 33 <= capacity; word++) {
        if (!atomic_load_explicit(&r->bits[word], memory_order_relaxed))
            continue;
        uint64_t bits = atomic_exchange(&r->bits[word], 0);
        while (bits) {
            unsigned low = __builtin_ctzll(bits);
            uint64_t rest = ~(bits >> low);
            unsigned length = rest ? __builtin_ctzll(rest) : 64;
            uint64_t first = word * 64 + low;
            if (open.count && open.first + open.count == first) {
                open.count += length;
            } else {
                if (open.count) {
                    take_run(r, open.first, open.count);
                    runs[used++] = open;
                }
                open = (emu_run){first, length};
            }
            bits = low + length >= 64 ? 0 : bits & (~0ull << (low + length));
        }
    }
    if (open.count) {
        take_run(r, open.first, open.count);
        runs[used++] = open;
    }
    r->cursor = word < words ? word : 0;
    *more = word < words;
    pthread_mutex_unlock(&table_lock);
    return (int64_t)used;
}

static int emu_dirty_stop(int slot) {
    range *r = &ranges[slot];
    int error = mprotect((void *)r->start, r->end - r->start, PROT_READ | PROT_WRITE) ? -errno : 0;
    remove_range(slot);
    return error;
}

/* From now on copy each page to the same offset of `before`, an area of the range's size, ahead of its first store. */
static int emu_dirty_keep(int slot, uintptr_t before) {
    range *r = &ranges[slot];
    r->unchanged = calloc((r->end - r->start) / r->page, 1);
    if (!r->unchanged)
        return -ENOMEM;
    r->before = before;
    return 0;
}

/*
 * Copy the pages that are not what they were to `copies`, one behind the other, and their numbers, rising, to `pages`.
 * How many; there must be room for all that were stored to.
 */
static size_t emu_dirty_save(int slot, uint64_t *pages, uintptr_t copies) {
    const range *r = &ranges[slot];
    uint64_t words = ((r->end - r->start) / r->page + 63) / 64;
    size_t count = 0;
    for (uint64_t word = 0; word < words; word++)
        for (uint64_t bits = atomic_load_explicit(&r->bits[word], memory_order_relaxed); bits; bits &= bits - 1) {
            uint64_t page = word * 64 + __builtin_ctzll(bits);
            const void *now = (const void *)(r->start + page * r->page);
            if (memcmp(now, (const void *)(r->before + page * r->page), r->page)) {
                memcpy((void *)(copies + count * r->page), now, r->page);
                pages[count++] = page;
            }
        }
    return count;
}

/* Let a page hold `copy`, but where `taken` has bits what it held before. */
static void put_back(uint64_t *now, const uint64_t *before, const uint64_t *copy, const uint64_t *taken, size_t page) {
    for (size_t n = 0; n < page / sizeof *now; n++) {
        uint64_t then = taken ? (copy[n] & ~taken[n]) | (before[n] & taken[n]) : copy[n];
        if (now[n] != then)
            now[n] = then;
    }
}

/*
 * Put back every page that was stored to. They stay writable, for whoever stores to them again; a page that was found
 * unchanged this many times in a row is protected again.
 *
 * The `count` pages that were saved get their copies, but for the bits that `taken` names, if it is given.
 */
static void emu_dirty_undo(int slot, unsigned patience, const uint64_t *pages, size_t count, uintptr_t copies,
                           uintptr_t taken) {
    range *r = &ranges[slot];
    uint64_t words = ((r->end - r->start) / r->page + 63) / 64;
    size_t saved = 0;
    for (size_t n = 0; n < count; n++) {
        uintptr_t at = pages[n] * r->page;
        put_back((uint64_t *)(r->start + at), (const uint64_t *)(r->before + at), (const uint64_t *)(copies + n * r->page),
                 taken ? (const uint64_t *)(taken + n * r->page) : NULL, r->page);
    }
    for (uint64_t word = 0; word < words; word++) {
        uint64_t bits = atomic_load_explicit(&r->bits[word], memory_order_relaxed);
        for (; bits; bits &= bits - 1) {
            uint64_t page = word * 64 + __builtin_ctzll(bits);
            void *now = (void *)(r->start + page * r->page);
            const void *then = (const void *)(r->before + page * r->page);
            while (saved < count && pages[saved] < page)
                saved++;
            if (saved < count && pages[saved] == page)
                r->unchanged[page] = 0;
            else if (memcmp(now, then, r->page)) {
                memcpy(now, then, r->page);
                r->unchanged[page] = 0;
            } else if (++r->unchanged[page] >= patience) {
                r->unchanged[page] = 0;
                if (mprotect(now, r->page, PROT_READ) == 0)
                    atomic_fetch_and(&r->bits[word], ~(1ull << page % 64));
            }
        }
    }
}

/* The next run of pages from `from` on that were stored to, which stay so; its count is 0 when there is none. */
static emu_run emu_dirty_next(int slot, uint64_t from) {
    const range *r = &ranges[slot];
    uint64_t pages = (r->end - r->start) / r->page;
    emu_run found = {from, 0};
    while (found.first < pages && !is_dirty(r, found.first))
        found.first += atomic_load(&r->bits[found.first / 64]) ? 1 : 64 - found.first % 64;
    while (found.first + found.count < pages && is_dirty(r, found.first + found.count))
        found.count++;
    return found;
}
