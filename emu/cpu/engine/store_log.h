/*
 * The log that translated code writes itself: for each store a few operations behind the library's own, none of which
 * leaves the translated code, and the same log from the library's functions that store for an instruction.
 *
 * What is the NVDIMM is decided by physical page. A table of windows says of linear pages where in the NVDIMM they lie;
 * translated code looks a store's address up there after the store. That is exact because no store is made but through
 * the TLB: when a linear page gets an entry there, its window is set or closed; when a window must give way to another
 * one, or changes, the page it was for loses its entries in the TLB, so that the next access comes by here again. (A TLB
 * may always forget.) So it does not matter where, how often or in which address spaces the guest maps the NVDIMM.
 *
 * The code's entries are of 16 bytes and are appended without a branch: written always, kept if there is a window. What
 * an entry does not say, its origin does: a number for each store, flush or fence instruction that was translated. The
 * entries become those of emu_trace later (decode), by the same rules as the callbacks that log otherwise.
 *
 * Part of _trace.csrc.c.
 */
#include "code_generator.h"

typedef struct { uint64_t value, meta; } packed;
/* In meta: offset in the NVDIMM range, second part of a store across pages, size less one, number of the origin. */
enum { OFFSET_BITS = 39, CONTINUED_BIT = 39, SIZE_AT = 40, ORIGIN_AT = 43, ORIGIN_BITS = 21 };
enum { LONGEST = 15, SEGMENT_CS = 1, RCX = 1 };
enum { PACKED_CHUNK = 1 << 21, SPARE_CHUNKS = 8, PAGE_BITS = 12, PACKED_BITS = 4, WINDOWS = 1 << 16, WINDOW_BITS = 4, RIP_OFFSET = 128 };
/* Entries that the library's functions may append between two looks for room, on top of those of translated code. */
enum { HELPERS_ROOM = 4096 };
/* How much of the CPU state, RIP and the lazily evaluated flags, is brought up to date when RIP is looked for. */
enum { RESTORED = 64 };

enum role { BY_CODE, BY_HELPER, BEGINS, AT_SITE, NOTED, NOTED_ON, DEVICE, MARKED, FAULTED };

/* Who made an entry. `piece`: which store of its instruction, from 0. */
typedef struct {
    uint64_t pc;
    const emu_trace_site *site;
    uint8_t role, piece;
    bool swapped;
    uint32_t next;
} origin;

typedef struct { packed *first, *end; } packed_chunk;

/* A linear page, and where in the NVDIMM range it is mapped. */
typedef struct { uint64_t page, offset; } window;

typedef struct store_log {
    emu_observer observer;
    emu_trace *trace;
    emu_observer **observed;
    packed *next, *soft;
    uint64_t rep_next, announced;
    packed_chunk *chunks;
    size_t chunk_count;
    packed *decoded; /* up to here, in the first chunk */
    ptrdiff_t displacement; /* from the CPU state, where translated code can reach the log from there; or 0 */
    uint32_t most, here; /* entries that a block appends: of all blocks the most; of the one being translated */
    /* The instruction being translated. */
    uint64_t pc, code_page, code_gpa; /* the page that is being translated from, linear and physical */
    const uint8_t *code;
    emu_trace_site *site;
    uint8_t piece;
    uint32_t origin;
    /* The last store that was decoded, if its instruction may go on. */
    uint64_t last_pc;
    int last_piece;
    origin *origins;
    uint32_t origin_count, origin_room;
    uint32_t buckets[1 << 14];
    window windows[WINDOWS];
} store_log;

#include "log_entries.h"

/* ---- Windows ---- */

/* The last page that is not a window's own, so that no address that is looked up there lies in it. */
static uint64_t closed(size_t at) { return (uint64_t)(at ^ 1) << PAGE_BITS; }

static bool offset_of(const store_log *log, uint64_t linear, uint64_t *offset)
{
    const window *w = &log->windows[linear >> PAGE_BITS & (WINDOWS - 1)];
    *offset = linear - w->page + w->offset;
    return linear - w->page < PAGE;
}

static void on_mapping(emu_observer *observer, uint64_t linear, uint64_t physical)
{
    store_log *log = (store_log *)observer;
    size_t at = linear >> PAGE_BITS & (WINDOWS - 1);
    window *w = &log->windows[at], fresh = {linear & -(uint64_t)PAGE, (physical & -(uint64_t)PAGE) - log->trace->base};
    const region *r = region_of(log->trace, physical);
    bool is_open = w->page != closed(at), same = w->page == fresh.page;
    if (!r || !r->logged) {
        if (!is_open || !same)
            return;
        fresh = (window){closed(at), 0};
    }
    if (is_open && (!same || w->offset != fresh.offset))
        generator.forget_address(log->observer.cpu, w->page);
    if (!same && fresh.page != closed(at)) /* for another privilege it may still be where it was before, in RAM */
        generator.forget_address(log->observer.cpu, fresh.page);
    *w = fresh;
}

/* ---- Entries that are not made by translated code ---- */

static uint64_t linear_rip(store_log *log)
{
    uint64_t rip = *(const uint64_t *)(log->observer.env + RIP_OFFSET);
    return is_code64(log->trace) ? rip : rip + *log->trace->segment_bases[SEGMENT_CS];
}

/* A store that was made, cut at the end of a page; what lies in no window is not logged. */
static bool put_store(store_log *log, uint64_t linear, uint64_t data, unsigned size, uint32_t number)
{
    unsigned first = PAGE - (unsigned)(linear % PAGE);
    uint64_t offset;
    bool begun = false;
    first = first < size ? first : size;
    if ((begun = offset_of(log, linear, &offset)))
        put(log, data, offset, first, false, number);
    if (first < size && offset_of(log, linear + first, &offset)) {
        put(log, data >> 8 * first, offset, size - first, begun, number);
        begun = true;
    }
    return begun;
}

/* Of a REP instruction, the first store of an iteration; INS stores zeros before it reads the port. */
static bool begins_rep(const emu_trace_site *site, uint8_t piece)
{
    return site && site->site & EMU_SITE_REP && !piece;
}

static void on_crossed(emu_observer *observer, uint64_t address, uint64_t data, unsigned size, uint32_t argument)
{
    store_log *log = (store_log *)observer;
    uint32_t number = argument >> SITE_IN_ARGUMENT;
    origin o = log->origins[number]; /* they may move */
    if (begins_rep(o.site, o.piece)) {
        /* As emit_beginning, which then finds that this has been done. */
        uint32_t beginning = origin_of(log, o.pc, o.site, BEGINS, 0, false);
        uint64_t left = ((const uint64_t *)log->observer.env)[RCX] & o.site->address_mask;
        left += (uint64_t)beginning << ORIGIN_AT;
        if (left != log->rep_next)
            put(log, 0, 0, 1, false, beginning);
        log->rep_next = left;
    }
    if (o.swapped) { /* the parts are logged as they are in memory */
        number = origin_of(log, o.pc, o.site, BY_CODE, o.piece, false);
        data = __builtin_bswap64(data) >> (64 - 8 * size);
    }
    put_store(log, address, data, size, number);
}

static void on_helper_stored(emu_observer *observer, uint64_t address, uint64_t data, unsigned size, uintptr_t caller)
{
    store_log *log = (store_log *)observer;
    uint8_t kept[RESTORED], *restored = log->observer.env + RIP_OFFSET;
    uint64_t offset, pc;
    if (!offset_of(log, address, &offset) && !offset_of(log, address + size - 1, &offset))
        return;
    memcpy(kept, restored, sizeof kept);
    if (caller)
        generator.restore(log->observer.cpu, caller, false);
    pc = linear_rip(log);
    memcpy(restored, kept, sizeof kept);
    if (log->announced && log->origins[log->announced].pc == pc)
        put(log, 0, 0, 1, false, (uint32_t)log->announced);
    log->announced = 0;
    put_store(log, address, data, size, origin_of(log, pc, NULL, BY_HELPER, 0, false));
}

/* The processor has marked an entry of a page table: as the page walk left it, in all its 8 bytes. */
static void on_marked(emu_observer *observer, uint64_t physical)
{
    store_log *log = (store_log *)observer;
    const region *r = region_of(log->trace, physical);
    uint64_t entry;
    physical &= ~(uint64_t)7;
    if (!r || !r->logged)
        return;
    memcpy(&entry, r->host + (physical - r->gpa), sizeof entry);
    put(log, entry, physical - log->trace->base, 8, false, origin_of(log, linear_rip(log), NULL, MARKED, 0, false));
}

/* As emu_trace_note and emu_trace_retract. */
static void log_note(store_log *log, int kind, uint64_t pc, uint64_t address, uint64_t data, uint32_t size, int begins)
{
    enum role role = kind == EMU_TRACE_DEVICE ? DEVICE : begins ? NOTED : NOTED_ON;
    put(log, data, kind == EMU_TRACE_DEVICE ? 0 : address - log->trace->base, size ? size : 1, false,
        origin_of(log, pc, NULL, role, 0, false));
}

static void log_fault(store_log *log, uint64_t pc)
{
    put(log, 0, 0, 1, false, origin_of(log, pc, NULL, FAULTED, 0, false));
}

/* ---- Called by translated code ---- */

/* A flush, a compare-and-swap or an instruction that is special is about to execute. */
static void at_site(void *uc, uint64_t pc, uint32_t size, void *user)
{
    const emu_trace_site *s = user;
    store_log *log = s->trace->log;
    uint64_t physical = 0, result = 0, offset = 0;
    (void)uc, (void)pc, (void)size;
    if (s->site & EMU_SITE_FLUSH) {
        if (!effective_address(s, &physical) || physical - s->trace->base >= s->trace->units * 8)
            return;
        offset = physical - s->trace->base;
    } else if (s->site & (EMU_SITE_CAS | EMU_SITE_CAS_PAIR))
        result = cas_fails(s->trace, s);
    put(log, result, offset, 1, false, origin_of(log, s->pc, s, AT_SITE, 0, false));
}

static void decode(store_log *log);

static void make_room(store_log *log)
{
    emu_trace *t = log->trace;
    const packed_chunk *chunk = &log->chunks[log->chunk_count - 1];
    if (log->next + log->most + HELPERS_ROOM >= chunk->end && !add_packed_chunk(log)) {
        t->starved = t->full = 1;
        log->next = chunk->first;
    }
    if (t->count + undecoded(log) > t->limit)
        decode(log); /* which finds out whether the trace is full */
    set_soft_end(log);
}

/* At the begin of a block: the log is full, or full enough. */
static void at_soft_end(void *uc, uint64_t pc, uint32_t size, void *user)
{
    emu_trace *t = ((store_log *)user)->trace;
    (void)uc, (void)pc, (void)size;
    make_room(user);
    if (t->full) {
        t->full = 0;
        emu_trace_stop(t->owner, EMU_TRACE_FULL); /* which may raise the limit */
        set_soft_end(user);
    }
}

#include "log_emitted.h"
#include "log_decoded.h"

/* ---- Beginning and end ---- */

/* Near the CPU state if there is room, so that translated code, which has that in a register, reaches it from there. */
static store_log *new_log(const uint8_t *env)
{
    enum { STEP = 1 << 26, STEPS = 31 }; /* less than 2 GiB */
    const int how = MAP_PRIVATE | MAP_ANONYMOUS;
    uintptr_t page = (uintptr_t)env & -(uintptr_t)STEP;
    void *found;
#ifdef MAP_FIXED_NOREPLACE
    for (uintptr_t n = 1; n < STEPS; n++)
        for (int below = 0; below < 2; below++) {
            void *wanted = (void *)(below ? page - n * STEP : page + n * STEP);
            found = mmap(wanted, sizeof(store_log), PROT_READ | PROT_WRITE, how | MAP_FIXED_NOREPLACE, -1, 0);
            if (found == wanted) {
                ((store_log *)found)->displacement = (const uint8_t *)found - env;
                return found;
            }
            if (found != MAP_FAILED) /* an old kernel takes it for a hint */
                munmap(found, sizeof(store_log));
        }
#endif
    found = mmap(NULL, sizeof(store_log), PROT_READ | PROT_WRITE, how, -1, 0);
    return found == MAP_FAILED ? NULL : found;
}

/*
 * Log from now on, by translated code; the engine stands still. -EBUSY if another trace of this process does so, -ENOTSUP
 * if the range is too large or the library is not as it is known here.
 */
int emu_trace_start_log(emu_trace *t, void *cpu, void *env, void *observed)
{
    emu_observer **slot = observed;
    store_log *log;
    if (*slot)
        return -EBUSY;
    if (t->units * 8 > (uint64_t)1 << OFFSET_BITS || !operations.found)
        return -ENOTSUP;
    if (!(log = new_log(env)))
        return -ENOMEM;
    log->observer = (emu_observer){cpu, env, 0, 0, on_instruction, on_storing, on_stored, on_crossed, on_helper_stored,
                                   on_mapping, on_marked};
    log->trace = t;
    log->observed = slot;
    log->last_pc = EMU_TRACE_NOWHERE;
    for (size_t n = 0; n < WINDOWS; n++)
        log->windows[n].page = closed(n);
    if (!add_packed_chunk(log)) {
        munmap(log, sizeof *log);
        return -ENOMEM;
    }
    log->decoded = log->next;
    t->log = log;
    set_soft_end(log);
    *slot = &log->observer;
    generator.forget_addresses(cpu);
    return library.control(t->uc, CTL_REMOVE_ALL);
}

static void clear_log(store_log *log)
{
    log->next = log->decoded = log->chunks[log->chunk_count - 1].first;
    log->rep_next = 0;
    log->last_pc = EMU_TRACE_NOWHERE;
    set_soft_end(log);
}

static void close_log(store_log *log)
{
    emu_observer **observed = log->observed;
    while (log->chunk_count)
        give_chunk(log->chunks[--log->chunk_count].first);
    free(log->chunks);
    free(log->origins);
    munmap(log, sizeof *log);
    *observed = NULL;
}
