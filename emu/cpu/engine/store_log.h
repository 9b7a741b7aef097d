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
#include "observer.h"

#include <malloc.h>
#include <sys/uio.h>

typedef struct { uint64_t value, meta; } packed;
/* In meta: offset in the NVDIMM range, second part of a store across pages, size less one, number of the origin. */
enum { OFFSET_BITS = 39, CONTINUED_BIT = 39, SIZE_AT = 40, ORIGIN_AT = 43, ORIGIN_BITS = 21 };
enum { LONGEST = 15, SEGMENT_CS = 1, RCX = 1 };
enum { PACKED_CHUNK = 1 << 21, SPARE_CHUNKS = 8, PAGE_BITS = 12, PACKED_BITS = 4, WINDOWS = 1 << 16, WINDOW_BITS = 4, RIP_OFFSET = 128 };
/* Entries that the library's functions may append between two looks for room, on top of those of translated code. */
enum { HELPERS_ROOM = 4096 };
/* How much of the CPU state, RIP and the lazily evaluated flags, is brought up to date when RIP is looked for. */
enum { RESTORED = 64 };
enum { OPCODE_NAMES = 6, LTU = 4, NOT_EQUAL = 9, TYPE_I64 = 1 };

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
    uint64_t pc, code_page;
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

/* The library's numbers of operations, by name. */
static const char *const opcode_names[OPCODE_NAMES] = {"ld_i64", "st_i64", "add_i64", "sub_i64", "and_i64", "set_label"};
static struct { bool found; int number[OPCODE_NAMES]; } operations;
enum { LOAD, STORE, ADD, SUBTRACT, AND, SET_LABEL };

static struct {
    value (*constant)(context *, int64_t);
    value (*constant32)(context *, int32_t);
    void *(*reserve)(context *, int, bool);
    void (*release)(context *, void *);
    void (*emit)(context *, int, uintptr_t, uintptr_t, uintptr_t);
    void (*emit_short)(context *, int, uintptr_t);
    void *(*new_label)(context *);
    void (*branch)(context *, int, value, value, void *label);
    void (*add)(context *, value, value, int64_t);
    void (*and)(context *, value, value, int64_t);
    void (*shift_left)(context *, value, value, int64_t);
    void (*shift_right)(context *, value, value, int64_t);
    void (*set_if)(context *, int, value, value, value);
    void (*extend32)(context *, value, value);
    void (*call)(void *uc, void *hook, void **arguments, int count);
    void (*forget_addresses)(void *cpu);
    void (*forget_address)(void *cpu, uint64_t address);
    bool (*restore)(void *cpu, uintptr_t caller, bool leaving);
} generator;

/* What the library takes for a hook whose callback is called straight from translated code. */
struct inline_hook { int type, instruction, references, op, op_flags; bool to_delete; uint64_t begin, end; void *callback, *user; };

static void *variable(context *s, value v) { return (uint8_t *)s + v; }
static value value_of(context *s, void *variable) { return (value)((uint8_t *)variable - (uint8_t *)s); }

static emu_trace_entry *append(emu_trace *t, uint8_t kind, uint64_t pc);
static const uint8_t *host_of(emu_trace *t, uint64_t linear);
static const region *region_of(const emu_trace *t, uint64_t gpa);
static bool effective_address(const emu_trace_site *s, uint64_t *physical);
static bool cas_fails(emu_trace *t, const emu_trace_site *s);

/* ---- Room ---- */

static uint64_t undecoded(const store_log *log)
{
    uint64_t count = 0;
    for (size_t n = 0; n < log->chunk_count; n++) {
        const packed *first = n ? log->chunks[n].first : log->decoded;
        const packed *end = n + 1 == log->chunk_count ? log->next : log->chunks[n].end;
        count += (uint64_t)(end - first);
    }
    return count;
}

/* Where room must be looked for again: a block may append `most` entries, and the trace may be full then. */
static void set_soft_end(store_log *log)
{
    const emu_trace *t = log->trace;
    uint64_t made = t->count + undecoded(log), left = made <= t->limit ? t->limit - made + 1 : 1;
    log->soft = log->chunks[log->chunk_count - 1].end - log->most - HELPERS_ROOM;
    if (log->next < log->soft && left < (uint64_t)(log->soft - log->next))
        log->soft = log->next + left;
}

/*
 * Memory of the process's last log, for the next one: the kernel's zeroing of fresh pages costs as much as the entries.
 * It belongs to whom emu_observed belongs to.
 */
static struct { void *chunk[SPARE_CHUNKS]; size_t count; } spare;

static void *take_chunk(void)
{
    void *memory;
    if (spare.count)
        return spare.chunk[--spare.count];
    if (posix_memalign(&memory, PACKED_CHUNK, PACKED_CHUNK))
        return NULL;
    /* One page fault for a huge page, or all at once. */
    madvise(memory, PACKED_CHUNK, MADV_HUGEPAGE);
#ifdef MADV_POPULATE_WRITE
    madvise(memory, PACKED_CHUNK, MADV_POPULATE_WRITE);
#endif
    return memory;
}

static void give_chunk(void *memory)
{
    if (spare.count < SPARE_CHUNKS)
        spare.chunk[spare.count++] = memory;
    else
        free(memory);
}

static bool add_packed_chunk(store_log *log)
{
    packed_chunk *chunks = realloc(log->chunks, (log->chunk_count + 1) * sizeof *chunks);
    void *memory;
    if (!chunks)
        return false;
    log->chunks = chunks;
    if (!(memory = take_chunk()))
        return false;
    if (log->chunk_count)
        chunks[log->chunk_count - 1].end = log->next;
    chunks[log->chunk_count].first = memory;
    chunks[log->chunk_count].end = (packed *)((uint8_t *)memory + PACKED_CHUNK);
    log->chunk_count++;
    log->next = memory;
    return true;
}

static void make_room(store_log *log);

static void put(store_log *log, uint64_t data, uint64_t offset, unsigned size, bool continued, uint32_t number)
{
    if (log->next == log->chunks[log->chunk_count - 1].end)
        make_room(log);
    *log->next++ = (packed){data, offset | (uint64_t)continued << CONTINUED_BIT | (uint64_t)(size - 1) << SIZE_AT |
                                      (uint64_t)number << ORIGIN_AT};
}

/* ---- Origins ---- */

static uint32_t origin_of(store_log *log, uint64_t pc, const emu_trace_site *site, enum role role, uint8_t piece,
                          bool swapped)
{
    uint32_t *bucket = &log->buckets[((pc + role) * 0x9E3779B97F4A7C15u) >> 50], n;
    for (n = *bucket; n; n = log->origins[n].next) {
        const origin *o = &log->origins[n];
        if (o->pc == pc && o->site == site && o->role == role && o->piece == piece && o->swapped == swapped)
            return n;
    }
    n = log->origin_count + 1;
    if (n >= log->origin_room) {
        uint32_t room = log->origin_room ? 2 * log->origin_room : 1024;
        origin *origins = room > (uint32_t)1 << ORIGIN_BITS ? NULL : realloc(log->origins, room * sizeof *origins);
        if (!origins) {
            log->trace->starved = log->trace->full = 1;
            return 0;
        }
        log->origins = origins;
        log->origin_room = room;
        memset(&origins[0], 0, sizeof *origins);
    }
    log->origin_count = n;
    log->origins[n] = (origin){pc, site, (uint8_t)role, piece, swapped, *bucket};
    *bucket = n;
    return n;
}

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

/* ---- While code is translated ---- */

static void emit_call(store_log *log, context *s, void *function, uint64_t pc, void *user)
{
    value constants[] = {generator.constant(s, (int64_t)(uintptr_t)log->trace->uc), generator.constant(s, (int64_t)pc),
                         generator.constant32(s, 0), generator.constant(s, (int64_t)(uintptr_t)user)};
    struct inline_hook hook = {.type = HOOK_CODE, .callback = function, .user = user};
    void *arguments[4];
    for (int n = 0; n < 4; n++)
        arguments[n] = variable(s, constants[n]);
    generator.call(log->trace->uc, &hook, arguments, 4);
    for (int n = 0; n < 4; n++)
        generator.release(s, arguments[n]);
}

static void load(context *s, void *into, void *base, ptrdiff_t at)
{
    generator.emit(s, operations.number[LOAD], (uintptr_t)into, (uintptr_t)base, (uintptr_t)at);
}

static void store(context *s, value from, void *base, ptrdiff_t at)
{
    generator.emit(s, operations.number[STORE], (uintptr_t)variable(s, from), (uintptr_t)base, (uintptr_t)at);
}

/* What the log is at `displacement` from. */
static void *log_base(const store_log *log, context *s)
{
    return variable(s, log->displacement ? log->observer.environment : generator.constant(s, (int64_t)(uintptr_t)log));
}

static void release_base(const store_log *log, context *s, void *base)
{
    if (!log->displacement)
        generator.release(s, base);
}

static void load_field(const store_log *log, context *s, void *into, void *base, size_t field)
{
    load(s, into, base, log->displacement + (ptrdiff_t)field);
}

static void store_field(const store_log *log, context *s, value from, void *base, size_t field)
{
    store(s, from, base, log->displacement + (ptrdiff_t)field);
}

/* into = a (operation) b */
static void compute(context *s, int operation, void *into, void *a, void *b)
{
    generator.emit(s, operations.number[operation], (uintptr_t)into, (uintptr_t)a, (uintptr_t)b);
}

/* At the begin of a block, which may have labels yet: no variable is in use. */
static void emit_look_for_room(store_log *log, context *s, uint64_t pc)
{
    void *base = log_base(log, s), *next = generator.reserve(s, TYPE_I64, false),
         *soft = generator.reserve(s, TYPE_I64, false), *enough = generator.new_label(s);
    load_field(log, s, next, base, offsetof(store_log, next));
    load_field(log, s, soft, base, offsetof(store_log, soft));
    generator.branch(s, LTU, value_of(s, next), value_of(s, soft), enough);
    release_base(log, s, base);
    generator.release(s, next);
    generator.release(s, soft);
    emit_call(log, s, (void *)at_soft_end, pc, log);
    generator.emit_short(s, operations.number[SET_LABEL], (uintptr_t)enough);
}

/* Append an entry without data. */
static void emit_entry(store_log *log, context *s, uint32_t number)
{
    value meta = generator.constant(s, (int64_t)((uint64_t)number << ORIGIN_AT)), zero = generator.constant(s, 0);
    void *base = log_base(log, s), *place = generator.reserve(s, TYPE_I64, false);
    load_field(log, s, place, base, offsetof(store_log, next));
    store(s, zero, place, offsetof(packed, value));
    store(s, meta, place, offsetof(packed, meta));
    generator.add(s, value_of(s, place), value_of(s, place), sizeof(packed));
    store_field(log, s, value_of(s, place), base, offsetof(store_log, next));
    generator.release(s, place);
    release_base(log, s, base);
    generator.release(s, variable(s, zero));
    generator.release(s, variable(s, meta));
    log->here++;
}

/* Instructions that may store in functions of the library tell them what they are. */
static void emit_announcement(store_log *log, context *s, uint32_t number)
{
    value announced = generator.constant(s, number);
    void *base = log_base(log, s);
    store_field(log, s, announced, base, offsetof(store_log, announced));
    release_base(log, s, base);
    generator.release(s, variable(s, announced));
}

/* `ranges` of opcodes, each its first and its last. */
static bool in_ranges(const uint8_t *ranges, uint8_t opcode)
{
    for (; ranges[1]; ranges += 2)
        if (opcode >= ranges[0] && opcode <= ranges[1])
            return true;
    return false;
}

/*
 * Whether Capstone has to be asked about the instruction whose first bytes these are: all but the common ones that do
 * nothing more than compute, jump, load, or store once.
 */
static bool may_matter(const uint8_t *code, unsigned size)
{
    static const uint8_t plain[] = {
        0x00, 0x05, 0x08, 0x0d, 0x10, 0x15, 0x18, 0x1d, 0x20, 0x25, 0x28, 0x2d, 0x30, 0x35, 0x38, 0x3d, 0x50, 0x5f,
        0x63, 0x63, 0x68, 0x6b, 0x70, 0x7f, 0x80, 0x81, 0x83, 0x85, 0x88, 0x8b, 0x8d, 0x8d, 0x90, 0x99, 0x9c, 0xaf,
        0xb0, 0xbf, 0xc2, 0xc3, 0xc9, 0xc9, 0xcc, 0xcd, 0xe0, 0xe9, 0xeb, 0xef, 0xf4, 0xf5, 0xf8, 0xfd, 0, 0};
    static const uint8_t plain_0f[] = {0x1f, 0x1f, 0x40, 0x4f, 0x80, 0x9f, 0xa0, 0xa0, 0xa2, 0xa3, 0xa8, 0xa8,
                                       0xaf, 0xaf, 0xb6, 0xb7, 0xbe, 0xbf, 0xc8, 0xcf, 0, 0};
    unsigned n = 0, reg;
    while (n < size && (code[n] == 0x66 || code[n] == 0x64 || code[n] == 0x65))
        n++;
    if (n < size && (code[n] & 0xf0) == 0x40)
        n++;
    if (n + 2 > size)
        return true;
    reg = code[n + 1] >> 3 & 7;
    switch (code[n]) {
    case 0x0f:
        return !in_ranges(plain_0f, code[n + 1]);
    case 0x8f: case 0xc6: case 0xc7:
        return reg != 0;
    case 0xc0: case 0xc1: case 0xd0: case 0xd1: case 0xd2: case 0xd3:
        return reg == 6;
    case 0xf6: case 0xf7:
        return reg == 1;
    case 0xfe:
        return reg > 1;
    case 0xff:
        return reg == 3 || reg == 5 || reg == 7;
    default:
        return !in_ranges(plain, code[n]);
    }
}

static bool is_called_for(const emu_trace_site *s)
{
    return s->site & (EMU_SITE_FLUSH | EMU_SITE_CAS | EMU_SITE_CAS_PAIR);
}

static void on_instruction(emu_observer *observer, context *s, uint64_t pc, bool first)
{
    store_log *log = (store_log *)observer;
    emu_trace *t = log->trace;
    unsigned left = PAGE - (unsigned)(pc % PAGE);
    if (first) {
        log->here = 0;
        log->code_page = EMU_TRACE_NOWHERE;
        emit_look_for_room(log, s, pc);
    }
    if (log->here > log->most) {
        log->most = log->here;
        set_soft_end(log);
    }
    if (log->code_page != (pc & -(uint64_t)PAGE)) {
        log->code_page = pc & -(uint64_t)PAGE;
        log->code = host_of(t, log->code_page);
    }
    log->pc = pc;
    log->piece = 0;
    log->site = NULL;
    if (!log->code || may_matter(log->code + pc % PAGE, left < LONGEST ? left : LONGEST))
        log->site = emu_trace_new_instruction(t->owner, pc);
    if (!log->site || (log->site->site & EMU_SITE_SPECIAL && log->site->detail == EMU_SPECIAL_PAGING))
        return;
    if (is_called_for(log->site)) {
        log->here++;
        emit_call(log, s, (void *)at_site, pc, log->site);
    } else if (log->site->site & (EMU_SITE_FENCE | EMU_SITE_LOCKED | EMU_SITE_SPECIAL))
        emit_entry(log, s, origin_of(log, pc, log->site, AT_SITE, 0, false));
    else if (!(log->site->site & EMU_SITE_REP)) /* it may store in a function of the library */
        emit_announcement(log, s, origin_of(log, pc, log->site, BEGINS, 0, false));
}

static int on_storing(emu_observer *observer, int access)
{
    store_log *log = (store_log *)observer;
    log->origin = origin_of(log, log->pc, log->site, BY_CODE, log->piece, access & ACCESS_SWAP);
    if (log->piece < UINT8_MAX)
        log->piece++;
    return access | (int)(log->origin << SITE_IN_ACCESS);
}


/*
 * Before the entry for an iteration of a REP instruction, one that says that the instruction begins: unless the iteration
 * before was one of the same instruction, and had one more to go. `inside` is what `place` grows by if there is a window.
 */
static void emit_beginning(store_log *log, context *s, void *base, void *place, void *inside)
{
    /* An instruction's number above all counts that are ever reached. */
    uint64_t mark = (uint64_t)origin_of(log, log->pc, log->site, BEGINS, 0, false) << ORIGIN_AT;
    value meta = generator.constant(s, (int64_t)mark);
    void *count = generator.reserve(s, TYPE_I64, false), *begins = generator.reserve(s, TYPE_I64, false);
    generator.and(s, value_of(s, count), log->observer.count, (int64_t)log->site->address_mask);
    compute(s, ADD, count, count, variable(s, meta));
    load_field(log, s, begins, base, offsetof(store_log, rep_next));
    generator.set_if(s, NOT_EQUAL, value_of(s, begins), value_of(s, begins), value_of(s, count));
    generator.shift_left(s, value_of(s, begins), value_of(s, begins), PACKED_BITS);
    compute(s, AND, begins, begins, inside);
    generator.add(s, value_of(s, count), value_of(s, count), -1);
    store_field(log, s, value_of(s, count), base, offsetof(store_log, rep_next));
    store(s, meta, place, offsetof(packed, meta));
    compute(s, ADD, place, place, begins);
    generator.release(s, begins);
    generator.release(s, count);
    generator.release(s, variable(s, meta));
    log->here++;
}

static void on_stored(emu_observer *observer, context *s, value from, value address, int access, bool narrow)
{
    store_log *log = (store_log *)observer;
    uint64_t last = (1u << (access & ACCESS_SIZE)) - 1;
    value page_size = generator.constant(s, PAGE),
          meta = generator.constant(s, (int64_t)(last << SIZE_AT | (uint64_t)log->origin << ORIGIN_AT));
    void *base = log_base(log, s), *place = generator.reserve(s, TYPE_I64, false), *at = generator.reserve(s, TYPE_I64, false),
         *inside = generator.reserve(s, TYPE_I64, false), *wide = NULL;
    if (narrow) {
        wide = generator.reserve(s, TYPE_I64, false);
        generator.extend32(s, value_of(s, wide), from);
        from = value_of(s, wide);
    }
    load_field(log, s, place, base, offsetof(store_log, next));
    generator.shift_right(s, value_of(s, at), address, PAGE_BITS - WINDOW_BITS);
    generator.and(s, value_of(s, at), value_of(s, at), (WINDOWS - 1) << WINDOW_BITS);
    compute(s, ADD, at, at, base);
    load_field(log, s, inside, at, offsetof(store_log, windows) + offsetof(window, page));
    load_field(log, s, at, at, offsetof(store_log, windows) + offsetof(window, offset));
    compute(s, SUBTRACT, inside, variable(s, address), inside);
    compute(s, ADD, at, at, inside);
    compute(s, ADD, at, at, variable(s, meta));
    generator.set_if(s, LTU, value_of(s, inside), value_of(s, inside), page_size);
    generator.shift_left(s, value_of(s, inside), value_of(s, inside), PACKED_BITS);
    if (begins_rep(log->site, log->origins[log->origin].piece))
        emit_beginning(log, s, base, place, inside);
    store(s, from, place, offsetof(packed, value));
    store(s, value_of(s, at), place, offsetof(packed, meta));
    compute(s, ADD, place, place, inside);
    store_field(log, s, value_of(s, place), base, offsetof(store_log, next));
    if (wide)
        generator.release(s, wide);
    generator.release(s, inside);
    generator.release(s, at);
    generator.release(s, place);
    generator.release(s, variable(s, meta));
    generator.release(s, variable(s, page_size));
    release_base(log, s, base);
    log->here++;
}

/* ---- From these entries to those of the trace ---- */

static void decode_store(store_log *log, const origin *o, uint64_t data, uint64_t offset, unsigned size, bool continued)
{
    emu_trace *t = log->trace;
    uint8_t kind = o->site ? o->site->site : 0;
    emu_trace_entry *e;
    if (offset % PAGE + size > PAGE) /* its parts were logged on the slow path */
        return;
    if (kind & EMU_SITE_REP) {
        if (t->site_pc != o->pc || t->instance != t->rep_instance)
            t->rep_instance = ++t->instance;
        t->site_pc = o->pc;
        t->site = kind;
        t->site_entry = EMU_TRACE_NOWHERE;
    } else if (o->site && !continued && !(kind & (EMU_SITE_FENCE | EMU_SITE_LOCKED | EMU_SITE_SPECIAL)) &&
               !(log->last_pc == o->pc && log->last_piece < o->piece)) {
        t->site_pc = o->pc;
        t->site = kind;
        t->site_entry = EMU_TRACE_NOWHERE;
        t->instance++;
    } else if (t->site_pc != o->pc && !continued) {
        t->site_pc = 0;
        t->instance++;
    }
    log->last_pc = o->pc;
    log->last_piece = o->piece;
    if (!(e = append(t, EMU_TRACE_STORE, o->pc)))
        return;
    if (o->swapped)
        data = __builtin_bswap64(data) >> (64 - 8 * size);
    e->address = t->base + offset;
    e->size = (uint8_t)size;
    e->value = size < 8 ? data & (((uint64_t)1 << 8 * size) - 1) : data;
    e->instance = t->instance;
    if (t->site_pc)
        e->site = t->site;
}

static void decode_other(store_log *log, const origin *o, uint64_t data, uint64_t offset, unsigned size)
{
    emu_trace *t = log->trace;
    emu_trace_entry *e = NULL;
    switch (o->role) {
    case BEGINS:
        t->rep_instance = ++t->instance;
        t->site_pc = o->pc;
        t->site = o->site->site;
        t->site_entry = EMU_TRACE_NOWHERE;
        break;
    case AT_SITE:
        t->site_pc = o->pc;
        t->site = o->site->site;
        t->instance++;
        if (!(e = append(t, kind_of_site(o->site), o->pc)))
            return;
        e->instance = t->instance;
        e->site = o->site->site;
        e->detail = o->site->detail;
        e->value = data;
        e->address = e->kind == EMU_TRACE_FLUSH ? t->base + offset : 0;
        t->site_entry = t->count - 1;
        break;
    case FAULTED:
        void_entry_at(t, o->pc);
        break;
    case MARKED:
        if (!(e = append(t, EMU_TRACE_STORE, o->pc)))
            return;
        e->instance = --t->marks;
        break;
    default:
        t->site_pc = 0;
        t->site_entry = EMU_TRACE_NOWHERE;
        if (o->role != NOTED_ON)
            t->instance++;
        if (!(e = append(t, o->role == DEVICE ? EMU_TRACE_DEVICE : EMU_TRACE_STORE, o->pc)))
            return;
        e->instance = t->instance;
    }
    if (e && e->kind != EMU_TRACE_FLUSH && o->role != AT_SITE) {
        e->address = o->role == DEVICE ? 0 : t->base + offset;
        e->size = o->role == DEVICE ? 0 : (uint8_t)size;
        e->value = data;
    }
}

static void decode_one(store_log *log, packed p)
{
    const origin *o = &log->origins[p.meta >> ORIGIN_AT];
    uint64_t offset = p.meta & (((uint64_t)1 << OFFSET_BITS) - 1);
    unsigned size = (p.meta >> SIZE_AT & 7) + 1;
    if (o->role == BY_CODE || o->role == BY_HELPER) {
        decode_store(log, o, p.value, offset, size, p.meta >> CONTINUED_BIT & 1);
        return;
    }
    if (o->role != MARKED)
        log->last_pc = EMU_TRACE_NOWHERE;
    decode_other(log, o, p.value, offset, size);
}

/* Everything that was logged so far becomes entries of the trace, and the chunks but the last go. */
static void decode(store_log *log)
{
    for (size_t n = 0; n < log->chunk_count; n++) {
        bool is_last = n + 1 == log->chunk_count;
        packed *end = is_last ? log->next : log->chunks[n].end;
        for (packed *p = n ? log->chunks[n].first : log->decoded; p < end; p++)
            decode_one(log, *p);
        if (!is_last)
            give_chunk(log->chunks[n].first);
        else
            log->chunks[0] = log->chunks[n];
    }
    log->chunk_count = 1;
    log->decoded = log->next;
}

/* ---- Beginning and end ---- */

static bool peek(const void *from, void *into, size_t size)
{
    struct iovec local = {into, size}, remote = {(void *)from, size};
    return process_vm_readv(getpid(), &local, 1, &remote, 1, 0) == (ssize_t)size;
}

static bool belongs_to(const void *uc, const void *generator_of_code)
{
    size_t words = malloc_usable_size((void *)uc) / sizeof(void *);
    for (size_t n = 0; n < words; n++)
        if (((const void *const *)uc)[n] == generator_of_code)
            return true;
    return false;
}

/*
 * The numbers of operations, from the table of their descriptions, which begin with their names: it is found in the code
 * generator by the first one's.
 */
int emu_trace_learn_generator(const emu_trace *t, const void *generator_of_code)
{
    enum { DESCRIPTION = 32, MOST = 512 };
    static const char first[] = "discard", second[] = "set_label";
    const uint8_t *s = generator_of_code;
    size_t size;
    if (!belongs_to(t->uc, s))
        return 0;
    size = malloc_usable_size((void *)generator_of_code);
    for (size_t at = 0; at + sizeof(void *) <= size; at += sizeof(void *)) {
        const uint8_t *table = *(const uint8_t *const *)(s + at);
        const char *name;
        char text[sizeof second];
        int found = 0;
        if ((uintptr_t)table < 4096 || (uintptr_t)table >> 47 || (uintptr_t)table % sizeof(void *) ||
            !peek(table, &name, sizeof name) || (uintptr_t)name < 4096 || !peek(name, text, sizeof first) ||
            memcmp(text, first, sizeof first) || !peek(table + DESCRIPTION, &name, sizeof name) ||
            !peek(name, text, sizeof second) || memcmp(text, second, sizeof second))
            continue;
        for (int n = 0; n < MOST && found < OPCODE_NAMES; n++) {
            if (!peek(table + (size_t)n * DESCRIPTION, &name, sizeof name) || !peek(name, text, sizeof text))
                break;
            text[sizeof text - 1] = 0;
            for (int wanted = 0; wanted < OPCODE_NAMES; wanted++)
                if (!strcmp(text, opcode_names[wanted])) {
                    operations.number[wanted] = n;
                    found++;
                }
        }
        return operations.found = found == OPCODE_NAMES;
    }
    return 0;
}

static const char *bind_log(void *handle)
{
    static const struct wanted wanted[] = {
        {"tcg_const_i64", &generator.constant},
        {"tcg_const_i32", &generator.constant32},
        {"tcg_temp_new_internal", &generator.reserve},
        {"tcg_temp_free_internal", &generator.release},
        {"tcg_gen_op3", &generator.emit},
        {"tcg_gen_op1", &generator.emit_short},
        {"gen_new_label", &generator.new_label},
        {"tcg_gen_brcond_i64", &generator.branch},
        {"tcg_gen_addi_i64", &generator.add},
        {"tcg_gen_andi_i64", &generator.and},
        {"tcg_gen_shli_i64", &generator.shift_left},
        {"tcg_gen_shri_i64", &generator.shift_right},
        {"tcg_gen_setcond_i64", &generator.set_if},
        {"tcg_gen_extu_i32_i64", &generator.extend32},
        {"uc_add_inline_hook", &generator.call},
        {"tlb_flush", &generator.forget_addresses},
        {"tlb_flush_page", &generator.forget_address},
        {"cpu_restore_state", &generator.restore},
    };
    return LOOK_UP(handle, wanted);
}

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
