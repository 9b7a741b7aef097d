/*
 * Reads of unknown bytes without memory hooks: only accesses to pages that have such bytes are told of (accesses.h), and
 * the rest of the guest runs as fast as unwatched.
 *
 * They come with a linear address. A table says where pages are mapped, as long as the TLB has them: when a page must
 * give way there to another one, its entry in the TLB goes, too, so that the next access comes by here again.
 *
 * Part of _trace.csrc.c.
 */
#include "accesses.h"

enum { PLACES = 1 << 12 };

typedef struct { uint64_t page, physical; } place;

/* Where a region lies in the library's own numbering of RAM. */
typedef struct { uint64_t first, end; } ram_area;

typedef struct watch {
    emu_watcher watcher;
    emu_watched_slot *slot;
    emu_trace *trace;
    ram_area areas[MOST_REGIONS];
    unsigned area_count;
    bool executes;
    place places[PLACES];
} watch;

static struct { uint64_t (*ram_address)(void *uc, void *host); } for_watching;

/* A page that is never looked up at this place. */
static uint64_t no_page(size_t at) { return (uint64_t)(at ^ 1) << PAGE_BITS; }

static place *place_of(watch *w, uint64_t linear) { return &w->places[linear >> PAGE_BITS & (PLACES - 1)]; }

/* Whether any unit of this page is ever unknown. */
static bool has_unknown(const emu_trace *t, uint64_t page)
{
    const uint64_t *units = (const uint64_t *)(t->initial + (page - t->base) / 8);
    for (unsigned n = 0; n < PAGE / 64; n++)
        if (units[n])
            return true;
    return false;
}

/* Whether it is to be known what is read there, or that anything is. */
static bool is_watched(const emu_trace *t, uint64_t page)
{
    return is_tracked(t, page) && (!t->first_access || has_unknown(t, page));
}

/*
 * A page that is mapped anew may still have an entry in the TLB for another privilege, which leads to where it was mapped
 * before: that one goes.
 */
static bool on_watch_mapping(void *owner, uint64_t linear, uint64_t physical)
{
    watch *w = owner;
    place *p = place_of(w, linear), empty = {no_page((size_t)(p - w->places)), 0},
          wanted = {linear & -(uint64_t)PAGE, physical & -(uint64_t)PAGE};
    bool watched = is_watched(w->trace, wanted.physical), same = p->page == wanted.page;
    if (!watched && !same)
        return false;
    if (p->page != empty.page && (!same || p->physical != wanted.physical))
        generator.forget_address(w->watcher.cpu, p->page);
    *p = watched ? wanted : empty;
    return watched;
}

/*
 * Somebody must be asked what these bytes hold, and sees the guest stand at the instruction that reads them: translated
 * code does not keep RIP up to date.
 */
static void ask_for(watch *w, uint64_t unit, uint8_t bytes, uintptr_t caller)
{
    uint8_t kept[RESTORED], *restored = w->watcher.env + RIP_OFFSET;
    memcpy(kept, restored, sizeof kept);
    if (caller)
        generator.restore(w->watcher.cpu, caller, false);
    emu_trace_unknown_read(w->trace->owner, unit, bytes);
    memcpy(restored, kept, sizeof kept);
}

/* As note_physical, of a read that the instruction at linear address `pc`, if that is not 0, is about to make. */
static void note_coming_read(emu_trace *t, uint64_t pc, uint64_t physical, unsigned size)
{
    uint64_t *rip, kept;
    if (!t->watch)
        return;
    rip = (uint64_t *)(t->watch->watcher.env + RIP_OFFSET);
    kept = *rip;
    if (pc)
        *rip = is_code64(t) ? pc : pc - *t->segment_bases[SEGMENT_CS];
    note_physical(t, physical, size, false, 0);
    *rip = kept;
}

static void on_watched_access(void *owner, uint64_t linear, unsigned size, bool stores, uintptr_t caller)
{
    watch *w = owner;
    emu_trace *t = w->trace;
    const place *p = place_of(w, linear);
    uint64_t start = p->physical + (linear - p->page);
    if (linear - p->page >= PAGE)
        return; /* another watcher's page, such as a data breakpoint's */
    note_physical(t, start, size, stores, caller);
}

/*
 * Code is looked at once and executed often: what was translated from bytes that are unknown when the next run begins must be
 * gone by then (emu_trace_executes).
 */
static void on_fetch(void *owner, uint64_t linear, unsigned size)
{
    on_watched_access(owner, linear, size, false, 0);
}

static void on_walk(void *owner, uint64_t physical, unsigned size)
{
    note_physical(((watch *)owner)->trace, physical, size, false, 0);
}

/* Whether this address of RAM is one of a logged region. */
static bool is_logged_ram(void *owner, uint64_t ram)
{
    const watch *w = owner;
    for (unsigned n = 0; n < w->area_count; n++)
        if (ram - w->areas[n].first < w->areas[n].end - w->areas[n].first)
            return true;
    return false;
}

static void on_code(void *owner, uint64_t ram)
{
    watch *w = owner;
    if (is_logged_ram(w, ram)) {
        w->executes = true;
        emu_trace_note_access(w->trace);
    }
}

static const char *bind_watch(void *handle)
{
    static const struct wanted wanted[] = {{"qemu_ram_addr_from_host", &for_watching.ram_address}};
    return LOOK_UP(handle, wanted);
}

/*
 * Note reads of unknown bytes from now on; the engine stands still. -EBUSY if as many traces of this process do so as
 * can. `watched` is emu_watched.
 */
int emu_trace_watch(emu_trace *t, void *cpu, void *env, void *watched)
{
    watch *w = calloc(1, sizeof *w);
    if (!w)
        return -ENOMEM;
    w->watcher = (emu_watcher){.cpu = cpu, .uc = t->uc, .owner = w, .env = env, .mapping = on_watch_mapping,
                               .accessed = on_watched_access, .steps = is_logged_ram, .fetched = on_fetch, .walked = on_walk,
                               .has_code = on_code};
    w->trace = t;
    for (size_t n = 0; n < PLACES; n++)
        w->places[n].page = no_page(n);
    for (unsigned n = 0; n < t->region_count; n++) {
        const region *r = &t->regions[n];
        uint64_t ram = r->logged ? for_watching.ram_address(t->uc, (void *)r->host) : UINT64_MAX;
        if (ram != UINT64_MAX)
            w->areas[w->area_count++] = (ram_area){ram, ram + r->size};
    }
    if (!(w->slot = emu_begin_watching(watched, &w->watcher))) {
        free(w);
        return -EBUSY;
    }
    t->watch = w;
    generator.forget_addresses(cpu);
    return 0;
}

static void close_watch(watch *w)
{
    emu_end_watching(w->slot);
    free(w);
}

/* Other units are unknown now: their pages are others. */
static void watch_again(watch *w)
{
    generator.forget_addresses(w->watcher.cpu);
}

/* A run begins: what the one before had under way is over. */
static void begin_watch(watch *w)
{
    w->watcher.load.size = 0;
    w->executes = false;
}

/*
 * Whether code in logged memory was translated since the run began. What was translated before is still executed: drop
 * that before a run.
 */
int emu_trace_executes(const emu_trace *t)
{
    return t->watch && t->watch->executes;
}
