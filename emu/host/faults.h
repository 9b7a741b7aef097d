/*
 * Faults of host memory that the machine's memory is made of: pages that their file lost, and pages that are tracked.
 *
 * Part of _kernel.csrc.c.
 *
 * One handler for SIGSEGV and SIGBUS over a table of address ranges. The handler takes no lock and allocates nothing;
 * it uses mprotect, mmap and madvise, which are system calls without state in the C library.
 *
 * A tracked range is write-protected; a fault makes its page writable and then sets its bit. In that order, because
 * then "writable" always means: the bit is set, or its handler is about to set it. collect() takes bits first and
 * protects second, so whatever a handler does in between ends either with the page protected or with the bit set, and
 * no store is lost.
 */

/* 256 NVDIMMs and RAM, each guarded and tracked, twice over: a process may hold both sides of a migration; and 253 files of
 * the source's at the destination. */
enum { RANGES = 1300, FREE = 0, GUARD = 1, DIRTY = 2 };

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
