/*
 * The crash laboratory's callbacks for Unicorn: a log of what the guest does to its NVDIMM, and the reads of bytes
 * that a power failure left in doubt. Unicorn's functions are looked up (emu_trace_bind); nothing links against its
 * library.
 */
#include "binding.h"

#include <errno.h>
#include <sys/mman.h>

/* Numbers of Unicorn's public interface (unicorn/unicorn.h and unicorn/x86.h, major version 2). */
enum { REG_RAX = 35, REG_RCX = 38, REG_RDX = 40, REG_RIP = 41 };
enum { HOOK_CODE = 4 };
#define CTL_REMOVE_CACHE (9 | (2 << 26) | (1 << 30))
#define CTL_REMOVE_ALL (10 | (1 << 30))
/* Of the flags that the engine derives: long mode, and 64-bit code. */
enum { HF_LMA = 1 << 14, HF_CS64 = 1 << 15 };

#define EMU_TRACE_VOID 0
#define EMU_TRACE_STORE 1
#define EMU_TRACE_FLUSH 2
#define EMU_TRACE_FENCE 3
#define EMU_TRACE_SPECIAL 4
#define EMU_TRACE_DEVICE 5

#define EMU_SITE_FLUSH 1
#define EMU_SITE_FENCE 2
#define EMU_SITE_LOCKED 4
#define EMU_SITE_NT 8
#define EMU_SITE_REP 16
#define EMU_SITE_CAS 32
#define EMU_SITE_CAS_PAIR 64
#define EMU_SITE_SPECIAL 128

/* Detail of a special site: it changes which page tables are in use. */
#define EMU_SPECIAL_PAGING 4

#define EMU_TRACE_FULL 1
#define EMU_TRACE_BUDGET 2
#define EMU_TRACE_BLOCK 3
#define EMU_TRACE_ACCESS 4

#define EMU_TRACE_NOWHERE UINT64_MAX
#define SEGMENTS 6
#define GENERAL 16

#define PAGE 4096u
#define BUCKETS (1u << 14)
/* Entries of one piece of the log: 2 MiB, one huge page, since page faults cost more than the entries. */
#define EMU_TRACE_CHUNK (1u << 16)
#define CHUNK_BYTES (EMU_TRACE_CHUNK * sizeof(emu_trace_entry))
#define MOST_REGIONS 260
/* Page tables that are looked through for ones in the NVDIMM: a guest can make a tree that never ends. */
#define MOST_TABLES (1u << 16)

static struct {
    int (*add_hook)(void *uc, uintptr_t *handle, int type, void *function, void *user, uint64_t begin, uint64_t end, ...);
    int (*delete_hook)(void *uc, uintptr_t handle);
    int (*read_register)(void *uc, int id, void *value);
    int (*write_register)(void *uc, int id, const void *value);
    int (*read_memory)(void *uc, uint64_t gpa, void *bytes, uint64_t size);
    int (*control)(void *uc, int what, ...);
} library;

typedef struct {
    uint64_t pc;
    uint64_t address;
    uint64_t value;
    uint32_t instance;
    uint8_t size;
    uint8_t kind;
    uint8_t site;
    uint8_t detail;
} emu_trace_entry;

/* A basic block as it was when it was last looked at; its bytes lie on one or two pages of the host. */
typedef struct block {
    struct block *next;
    uint64_t address;
    uint32_t size, first;
    const uint8_t *host[2];
    uint8_t code[];
} block;

typedef struct {
    uint64_t gpa, size;
    const uint8_t *host;
    int logged;
    const uint8_t *initial;
} region;

/* A page table in the NVDIMM, and what is known to be in it. */
typedef struct {
    uint64_t gpa;
    const uint8_t *host;
    uint8_t known[PAGE];
} table;

/* A store whose callback came, as always, before its bytes were in memory. */
typedef struct {
    emu_trace_entry *entry;
    const uint8_t *host;
} unfinished;

/* The bytes of `unit` under `mask`, read before anything of this run had read or stored them. */
typedef struct {
    uint64_t unit, mask, value;
} emu_trace_read;

/* Which bytes of `unit` are unknown, as bits. */
typedef struct {
    uint64_t unit, unknown;
} emu_trace_unit;

typedef struct {
    void *owner;
    emu_trace_entry **chunks;
    uint64_t count;
    uint64_t limit;
    uint64_t blocks;
    uint64_t budget;
    uint64_t stop_block;
    uint64_t next_look; /* the first of these two blocks */
    uint64_t first_access;

    void *uc;
    uint64_t block; /* where the last one begins that was announced */
    uint64_t awaited, awaited_until, awaited_general[GENERAL]; /* see emu_trace_await */
    uint64_t chunk_count;
    uint32_t instance, marks, rep_instance;
    uint64_t site_pc;
    uint64_t site_entry;
    uint8_t site;
    int full, starved;
    uint64_t rep_pc, rep_count;
    unfinished open[2];
    unsigned open_count;
    const uint64_t *segment_bases[SEGMENTS];
    const uint64_t *general; /* the 16 registers, in the order of their numbers in encodings */
    const uint64_t *control; /* CR0 to CR4 */
    const uint32_t *hflags;
    struct store_log *log;
    struct watch *watch;
    int look_for_tables, sees_pages;
    table *tables;
    size_t table_count, table_room;
    block **blocks_seen;
    region regions[MOST_REGIONS];
    unsigned region_count;

    uint64_t base, units;
    uint8_t *unknown, *initial; /* bytes of each unit, as bits: not yet read or stored to, now and when a run begins */
    uint8_t *asked, *given;     /* those that somebody must be asked for; and of these, those that this run was told */
    uint64_t *touched;
    size_t touches, touch_room;
    emu_trace_read *reads;
    uint64_t *read_entries; /* for each of `reads`, the log's length then */
    uint64_t *read_blocks;  /* and the number of the block */
    size_t read_count, read_room;
} emu_trace;

typedef struct {
    emu_trace *trace;
    uint64_t pc;
    int64_t displacement;
    uint64_t address_mask, linear_mask;
    int32_t base, index, segment;
    int8_t base_slot, index_slot;
    uint8_t scale, size, site, detail;
} emu_trace_site;

void emu_trace_new_block(void *owner, uint64_t address, uint32_t size);
void emu_trace_unknown_read(void *owner, uint64_t unit, uint32_t bytes);
uint64_t emu_trace_next_page(void *owner, uint64_t pc, uint64_t address);
emu_trace_site *emu_trace_new_instruction(void *owner, uint64_t pc);
void emu_trace_new_page(void *owner, uint64_t pc);
void emu_trace_stop(void *owner, int why);

struct watch;
static void begin_watch(struct watch *w);
static void watch_again(struct watch *w);
static void ask_for(struct watch *w, uint64_t unit, uint8_t bytes, uintptr_t caller);
static void note_coming_read(emu_trace *t, uint64_t pc, uint64_t physical, unsigned size);

static uint64_t reg(emu_trace *t, int id)
{
    uint64_t value = 0;
    library.read_register(t->uc, id, &value);
    return value;
}

static const region *region_of(const emu_trace *t, uint64_t gpa)
{
    for (unsigned n = 0; n < t->region_count; n++)
        if (gpa - t->regions[n].gpa < t->regions[n].size)
            return &t->regions[n];
    return NULL;
}

#include "guest_addresses.h"

static bool add_chunk(emu_trace *t)
{
    emu_trace_entry **chunks = realloc(t->chunks, (t->chunk_count + 1) * sizeof *chunks);
    void *chunk;
    if (!chunks)
        return false;
    t->chunks = chunks;
    if (posix_memalign(&chunk, CHUNK_BYTES, CHUNK_BYTES))
        return false;
    madvise(chunk, CHUNK_BYTES, MADV_HUGEPAGE);
    t->chunks[t->chunk_count++] = chunk;
    return true;
}

/*
 * A full log only asks for the end of the run at the next block: until then everything is still logged, so that the
 * log explains the memory that the run leaves. NULL when there is no memory for it.
 */
static emu_trace_entry *append(emu_trace *t, uint8_t kind, uint64_t pc)
{
    emu_trace_entry *e;
    if (t->count >= t->limit)
        t->full = 1;
    if (t->count == t->chunk_count * EMU_TRACE_CHUNK && !add_chunk(t)) {
        t->starved = 1;
        return NULL;
    }
    e = &t->chunks[t->count / EMU_TRACE_CHUNK][t->count % EMU_TRACE_CHUNK];
    t->count++;
    memset(e, 0, sizeof *e);
    e->kind = kind;
    e->pc = pc;
    return e;
}

const emu_trace_entry *emu_trace_at(const emu_trace *t, uint64_t number)
{
    return &t->chunks[number / EMU_TRACE_CHUNK][number % EMU_TRACE_CHUNK];
}

#include "table_marks.h"
#include "site_hook.h"
#include "store_log.h"

void emu_trace_retract(emu_trace *t, uint64_t pc)
{
    if (t->log)
        log_fault(t->log, pc);
    else
        void_entry_at(t, pc);
}

void emu_trace_note_access(emu_trace *t)
{
    if (!t->first_access) {
        t->first_access = t->blocks ? t->blocks : 1;
        emu_trace_stop(t->owner, EMU_TRACE_ACCESS);
    }
}

/* `size` bytes of a store that lie on one page. */
static void log_piece(emu_trace *t, uint64_t pc, uint64_t gpa, unsigned size)
{
    const region *r = region_of(t, gpa);
    emu_trace_entry *e;
    if (!r || !r->logged || !(e = append(t, EMU_TRACE_STORE, pc)))
        return;
    e->address = gpa;
    e->size = (uint8_t)size;
    e->instance = t->instance;
    if (t->site_pc)
        e->site = t->site;
    t->open[t->open_count++] = (unfinished){e, r->host + (gpa - r->gpa)};
}

/*
 * Sees every store, in RAM too: a store that crosses a page is announced with the address of its first page only, and
 * either page can be one of the NVDIMM.
 */
static void on_store(void *uc, int type, uint64_t address, int size, int64_t value, void *user)
{
    emu_trace *t = user;
    unsigned first = PAGE - (unsigned)(address % PAGE);
    uint64_t pc, next = 0;
    (void)uc, (void)type, (void)value;
    finish_stores(t);
    if (first >= (unsigned)size) {
        if (address - t->base >= t->units * 8)
            return;
        first = (unsigned)size;
    }
    pc = reg(t, REG_RIP);
    if (pc != t->site_pc) {
        t->site_pc = 0;
        t->instance++;
    }
    if (first < (unsigned)size)
        next = emu_trace_next_page(t->owner, pc, address);
    log_piece(t, pc, address, first);
    if (first < (unsigned)size && next != EMU_TRACE_NOWHERE)
        log_piece(t, pc, next, (unsigned)size - first);
}

/*
 * `size` bytes (at most 8) that somebody else than an instruction stored, just before this call: the delivery of an
 * exception, a device. Or, as EMU_TRACE_DEVICE, something that a device did outside of guest memory.
 */
void emu_trace_note(emu_trace *t, int kind, uint64_t pc, uint64_t address, uint64_t value, uint32_t size, int begins)
{
    emu_trace_entry *e;
    if (t->log) {
        log_note(t->log, kind, pc, address, value, size, begins);
        return;
    }
    if (kind == EMU_TRACE_STORE)
        know(t, address, &value, size);
    finish_stores(t);
    t->site_pc = 0;
    t->site_entry = EMU_TRACE_NOWHERE;
    if (begins)
        t->instance++;
    if (!(e = append(t, (uint8_t)kind, pc)))
        return;
    e->address = address;
    e->value = value;
    e->size = (uint8_t)size;
    e->instance = t->instance;
}

#include "blocks.h"

#include "unknown_bytes.h"
#include "watched.h"

/* Install callback number `which` for Unicorn's hook `type`; user data is the trace, or `site` if given. */
int emu_trace_hook(emu_trace *t, uintptr_t *handle, int which, int type, emu_trace_site *site, uint64_t begin,
                   uint64_t end)
{
    void *const callbacks[] = {on_site, on_store, on_block};
    return library.add_hook(t->uc, handle, type, callbacks[which], site ? (void *)site : t, begin, end);
}

int emu_trace_unhook(emu_trace *t, uintptr_t handle)
{
    return library.delete_hook(t->uc, handle);
}

const char *emu_trace_bind(void *handle)
{
    static const struct wanted wanted[] = {
        {"uc_hook_add", &library.add_hook},
        {"uc_hook_del", &library.delete_hook},
        {"uc_reg_read", &library.read_register},
        {"uc_reg_write", &library.write_register},
        {"uc_mem_read", &library.read_memory},
        {"uc_ctl", &library.control},
    };
    const char *missing = LOOK_UP_PUBLIC(handle, wanted);
    missing = missing ? missing : bind_log(handle);
    return missing ? missing : bind_watch(handle);
}

int emu_trace_open(emu_trace *t, void *uc)
{
    void *owner = t->owner;
    memset(t, 0, sizeof *t);
    t->owner = owner;
    t->uc = uc;
    emu_trace_set_budget(t, UINT64_MAX);
    t->look_for_tables = 1;
    t->blocks_seen = calloc(BUCKETS, sizeof *t->blocks_seen);
    return t->blocks_seen ? 0 : -ENOMEM;
}

void emu_trace_close(emu_trace *t)
{
    if (t->log)
        close_log(t->log);
    if (t->watch)
        close_watch(t->watch);
    for (unsigned n = 0; t->blocks_seen && n < BUCKETS; n++)
        while (t->blocks_seen[n]) {
            block *next = t->blocks_seen[n]->next;
            free(t->blocks_seen[n]);
            t->blocks_seen[n] = next;
        }
    if (t->unknown)
        munmap(t->unknown, t->units);
    if (t->initial)
        munmap(t->initial, t->units);
    if (t->asked)
        munmap(t->asked, t->units);
    if (t->given)
        munmap(t->given, t->units);
    while (t->chunk_count)
        free(t->chunks[--t->chunk_count]);
    free(t->chunks);
    free(t->blocks_seen);
    free(t->touched);
    free(t->reads);
    free(t->read_entries);
    free(t->read_blocks);
    free(t->tables);
    memset(t, 0, sizeof *t);
}

/* Start a new log, from the same memory. */
void emu_trace_clear(emu_trace *t)
{
    if (t->log)
        clear_log(t->log);
    t->count = 0;
    t->instance = t->marks = 0;
    t->open_count = 0;
    t->table_count = 0;
    t->look_for_tables = 1;
    t->full = 0;
    t->site_entry = EMU_TRACE_NOWHERE;
    t->site_pc = 0;
    t->site = 0;
    t->rep_pc = 0;
    t->rep_instance = 0;
}

/* Where guest memory lies in this process, for looking at code and stores; those to `logged` ones are logged. */
int emu_trace_add_region(emu_trace *t, uint64_t gpa, uint64_t size, const void *host, int logged)
{
    if (t->region_count == MOST_REGIONS)
        return -ENOSPC;
    t->regions[t->region_count++] = (region){gpa, size, host, logged, NULL};
    return 0;
}

/* What the region at `gpa` held when the log was empty. */
void emu_trace_set_initial(emu_trace *t, uint64_t gpa, const void *initial)
{
    for (unsigned n = 0; n < t->region_count; n++)
        if (t->regions[n].gpa == gpa)
            t->regions[n].initial = initial;
}

/* Where the engine keeps the base of segment `number` (ES, CS, SS, DS, FS, GS), a number of 64 bits. */
void emu_trace_set_segment(emu_trace *t, int number, const void *base)
{
    t->segment_bases[number] = base;
}

/* Where the engine keeps the general registers and CR0 to CR4, each of 64 bits, and the flags that it derives, of 32. */
void emu_trace_set_state(emu_trace *t, const void *general, const void *control, const void *hflags)
{
    t->general = general;
    t->control = control;
    t->hflags = hflags;
}

void emu_trace_finish(emu_trace *t)
{
    if (t->log)
        decode(t->log);
    finish_stores(t);
}

