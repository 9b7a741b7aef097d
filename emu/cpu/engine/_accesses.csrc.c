/*
 * Tells of loads and stores of watched pages, and of code that is fetched, and leaves all others as fast as they are.
 *
 * Unicorn's memory hooks send every access of the guest through a function. But translated code looks each address up in
 * the TLB anyway, and leaves for a function where the entry says so: as for a page with a data breakpoint, which the CPU
 * library still asks for and reports, though it has none itself. So what is watched is given such entries. As in
 * _system, the definitions take the place of the library's (binding.h) and hand on to the ones that they stand before.
 */
#include "accesses.h"

enum { MEM_READ = 1, MEM_WRITE = 2, LONGEST = 8, PAGE = 4096 };

static struct {
    void (*forget_addresses)(void *cpu);
    void (*set_page)(void *cpu, uint64_t linear, uint64_t physical, uint32_t attributes, int rights, int mmu, uint64_t size);
    void (*protect_code)(void *uc, uint64_t ram);
    int (*matches)(void *cpu, uint64_t address, uint64_t size);
    void (*check)(void *cpu, uint64_t address, uint64_t size, uint32_t attributes, int access, uintptr_t caller);
    uint64_t (*load2)(environment *, uint64_t, uint32_t, uintptr_t), (*load4)(environment *, uint64_t, uint32_t, uintptr_t),
        (*load8)(environment *, uint64_t, uint32_t, uintptr_t), (*swapped2)(environment *, uint64_t, uint32_t, uintptr_t),
        (*swapped4)(environment *, uint64_t, uint32_t, uintptr_t), (*swapped8)(environment *, uint64_t, uint32_t, uintptr_t);
    uint32_t (*peek)(environment *, uint64_t), (*fetch1)(environment *, uint64_t), (*fetch2)(environment *, uint64_t),
        (*fetch4)(environment *, uint64_t);
    uint64_t (*fetch8)(environment *, uint64_t);
    void (*loop)(const void *steps, void *progress, void *cpu, const uint64_t *block, int most);
    uint64_t (*code_page)(environment *, uint64_t);
    uint32_t (*walk4)(void *cpu, uint64_t physical);
    uint64_t (*walk8)(void *cpu, uint64_t physical);
    uint32_t (*for_function2)(environment *, uint64_t, int, uintptr_t), (*for_function4)(environment *, uint64_t, int, uintptr_t);
    uint64_t (*for_function8)(environment *, uint64_t, int, uintptr_t);
} library;

/* Filled by who watches (_trace). */
emu_watched_slots emu_watched;

static __thread uint64_t mapped; /* the physical page that is getting an entry in the TLB */

#define WATCHER(key, value)                                                                                           \
    for (unsigned n = 0, count = emu_watched.count; n < count; n++)                                                   \
        if (emu_watched.slot[n].key == (value))                                                                       \
            return emu_watched.slot[n].watcher;                                                                       \
    return NULL

static emu_watcher *by_cpu(const void *cpu) { WATCHER(cpu, cpu); }
static emu_watcher *by_env(const environment *env) { WATCHER(env, env); }
static emu_watcher *by_engine(const void *uc) { WATCHER(uc, uc); }

void NAME(tlb_set_page_with_attrs)(void *cpu, uint64_t linear, uint64_t physical, uint32_t attributes, int rights,
                                   int mmu, uint64_t size)
{
    mapped = physical;
    library.set_page(cpu, linear, physical, attributes, rights, mmu, size);
}

/* The library asks this for each page that it makes an entry for. */
int NAME(cpu_watchpoint_address_matches)(void *cpu, uint64_t address, uint64_t size)
{
    emu_watcher *w = by_cpu(cpu);
    int found = library.matches(cpu, address, size);
    return w && w->mapping(w->owner, address, mapped) ? found | MEM_READ | MEM_WRITE : found;
}

/*
 * What is read when this aligned part of a load is announced: all of the load with its first part, unless it goes on in
 * another page, and nothing with the second.
 */
static void whole_load(const emu_watcher *w, uint64_t *first, uint64_t *end, uintptr_t caller)
{
    uint64_t start = w->load.address, stop = start + w->load.size;
    if (!w->load.size || w->load.caller != caller || start >= *end || stop <= *first)
        return;
    if (start / PAGE != (stop - 1) / PAGE) {
        *first = start > *first ? start : *first;
        *end = stop < *end ? stop : *end;
    } else {
        *end = *first <= start ? stop : start;
        *first = start;
    }
}

/*
 * An unaligned load is announced as the two aligned ones that it is made of, which hold more than it reads. An unaligned
 * store is first announced as if it crossed into its own page, in sizes that no access has, and then byte by byte.
 */
void NAME(cpu_check_watchpoint)(void *cpu, uint64_t address, uint64_t size, uint32_t attributes, int access,
                                 uintptr_t caller)
{
    emu_watcher *w = by_cpu(cpu);
    if (w && size && size <= LONGEST && !(size & (size - 1)) && !(address & (size - 1))) {
        uint64_t first = address, end = address + size;
        if (!(access & MEM_WRITE))
            whole_load(w, &first, &end, caller);
        if (end > first)
            w->accessed(w->owner, first, (unsigned)(end - first), access & MEM_WRITE, caller);
    }
    library.check(cpu, address, size, attributes, access, caller);
}

/*
 * Translated code loads, or a function of the library for it; or the library the parts of what these load, from further
 * down the stack. Whether it is the whole of a load: then it is over when the load returns.
 */
static bool begin_load(emu_watcher *w, uint64_t address, unsigned size, uintptr_t caller, uintptr_t frame)
{
    if (!w || (w->load.size && frame < w->load.frame))
        return false;
    w->load.address = address;
    w->load.size = address & (size - 1) ? size : 0;
    w->load.caller = caller;
    w->load.frame = frame;
    return true;
}

#define LOAD(original, type, bytes, kind, name)                                                                       \
    type NAME(name)(environment *env, uint64_t address, kind how, uintptr_t caller)                                   \
    {                                                                                                                 \
        emu_watcher *w = by_env(env);                                                                                 \
        bool whole = begin_load(w, address, bytes, caller, (uintptr_t)__builtin_frame_address(0));                    \
        type data = library.original(env, address, how, caller);                                                      \
        if (whole)                                                                                                    \
            w->load.size = 0;                                                                                         \
        return data;                                                                                                  \
    }

LOAD(load2, uint64_t, 2, uint32_t, helper_le_lduw_mmu)
LOAD(load4, uint64_t, 4, uint32_t, helper_le_ldul_mmu)
LOAD(load8, uint64_t, 8, uint32_t, helper_le_ldq_mmu)
LOAD(swapped2, uint64_t, 2, uint32_t, helper_be_lduw_mmu)
LOAD(swapped4, uint64_t, 4, uint32_t, helper_be_ldul_mmu)
LOAD(swapped8, uint64_t, 8, uint32_t, helper_be_ldq_mmu)
LOAD(for_function2, uint32_t, 2, int, cpu_lduw_mmuidx_ra)
LOAD(for_function4, uint32_t, 4, int, cpu_ldl_mmuidx_ra)
LOAD(for_function8, uint64_t, 8, int, cpu_ldq_mmuidx_ra)

#define WALK(original, type, bytes, name)                                                                             \
    type NAME(name)(void *cpu, uint64_t physical)                                                                     \
    {                                                                                                                 \
        emu_watcher *w = by_cpu(cpu);                                                                                 \
        if (w)                                                                                                        \
            w->walked(w->owner, physical, bytes);                                                                     \
        return library.original(cpu, physical);                                                                       \
    }

WALK(walk4, uint32_t, 4, x86_ldl_phys)
WALK(walk8, uint64_t, 8, x86_ldq_phys)

/*
 * Bytes of code are about to be looked at, perhaps on two pages. Each gets its entry in the TLB before: looking there ends
 * the translation where nothing can be fetched.
 */
static void announce_fetch(environment *env, uint64_t address, unsigned size)
{
    emu_watcher *w = by_env(env);
    unsigned first = PAGE - (unsigned)(address % PAGE);
    if (!w)
        return;
    first = first < size ? first : size;
    library.peek(env, address);
    w->fetched(w->owner, address, first);
    if (first < size) {
        library.peek(env, address + first);
        w->fetched(w->owner, address + first, size - first);
    }
}

#define FETCH(original, type, bytes, name)                                                                            \
    type NAME(name)(environment *env, uint64_t address)                                                               \
    {                                                                                                                 \
        announce_fetch(env, address, bytes);                                                                          \
        return library.original(env, address);                                                                        \
    }

FETCH(fetch1, uint32_t, 1, cpu_ldub_code)
FETCH(fetch2, uint32_t, 2, cpu_lduw_code)
FETCH(fetch4, uint32_t, 4, cpu_ldl_code)
FETCH(fetch8, uint64_t, 8, cpu_ldq_code)

/* A byte of code for who looks at it before the translator does. */
uint32_t emu_peek_code(environment *env, uint64_t address)
{
    announce_fetch(env, address, 1);
    return library.peek(env, address);
}

/* `block` begins with its linear address. */
void NAME(translator_loop)(const void *steps, void *progress, void *cpu, const uint64_t *block, int most)
{
    emu_watcher *w = by_cpu(cpu);
    library.loop(steps, progress, cpu, block, w && w->steps(w->owner, library.code_page(w->env, *block)) ? 1 : most);
}

void NAME(tlb_protect_code)(void *uc, uint64_t ram)
{
    emu_watcher *w = by_engine(uc);
    library.protect_code(uc, ram);
    if (w)
        w->has_code(w->owner, ram);
}

/* ---- Seen at start ---- */

/* A load of 8 bytes at an odd place of a page that everything is told of, and how much of it was. */
static struct {
    emu_watcher watcher;
    emu_watched_slot *slot;
    uint64_t address;
    bool mapped, has_code, fetched, steps;
    unsigned loads, others;
} trial;

static bool on_trial_mapping(void *owner, uint64_t linear, uint64_t physical)
{
    (void)owner;
    trial.mapped |= linear == physical;
    return true;
}

static void on_trial_access(void *owner, uint64_t linear, unsigned size, bool stores, uintptr_t caller)
{
    (void)owner, (void)caller;
    if (linear == trial.address && size == LONGEST && !stores)
        trial.loads++;
    else
        trial.others++;
}

static bool on_trial_steps(void *owner, uint64_t ram)
{
    (void)owner, (void)ram;
    trial.steps = true;
    return false;
}

static void on_trial_fetch(void *owner, uint64_t linear, unsigned size)
{
    (void)owner, (void)linear, (void)size;
    trial.fetched = true;
}

static void on_trial_walk(void *owner, uint64_t physical, unsigned size) { (void)owner, (void)physical, (void)size; }

static void on_trial_code(void *owner, uint64_t ram)
{
    (void)owner, (void)ram;
    trial.has_code = true;
}

/* Before the only engine of the process, without paging, executes such a load and no other access; false: cannot try. */
int emu_accesses_try(void *uc, void *cpu, void *env, uint64_t address)
{
    memset(&trial, 0, sizeof trial);
    trial.watcher = (emu_watcher){.cpu = cpu, .uc = uc, .env = env, .mapping = on_trial_mapping,
                                  .accessed = on_trial_access, .steps = on_trial_steps, .fetched = on_trial_fetch,
                                  .walked = on_trial_walk, .has_code = on_trial_code};
    trial.address = address;
    trial.slot = emu_begin_watching(&emu_watched, &trial.watcher);
    if (trial.slot)
        library.forget_addresses(cpu);
    return trial.slot != NULL;
}

/* Afterwards: whether all was told, once. */
int emu_accesses_tried(void)
{
    emu_end_watching(trial.slot);
    library.forget_addresses(trial.watcher.cpu);
    return trial.mapped && trial.has_code && trial.fetched && trial.steps && trial.loads == 1 && !trial.others;
}

/* ---- Binding ---- */

const char *emu_accesses_bind(void *handle, void *system, void *translation)
{
    static const struct wanted in_system[] = {
        {"tlb_set_page_with_attrs", &library.set_page},
        {"tlb_protect_code", &library.protect_code},
        {"cpu_ldub_code", &library.fetch1},
        {"translator_loop", &library.loop},
        {"cpu_watchpoint_address_matches", &library.matches},
        {"cpu_check_watchpoint", &library.check},
    };
    static const struct wanted in_translation[] = {
        {"helper_le_lduw_mmu", &library.load2},
        {"helper_le_ldul_mmu", &library.load4},
        {"helper_le_ldq_mmu", &library.load8},
        {"helper_be_lduw_mmu", &library.swapped2},
        {"helper_be_ldul_mmu", &library.swapped4},
        {"helper_be_ldq_mmu", &library.swapped8},
    };
    static const struct wanted in_library[] = {
        {"tlb_flush", &library.forget_addresses},
        {"get_page_addr_code", &library.code_page},
        {"cpu_ldub_code", &library.peek},
        {"cpu_lduw_code", &library.fetch2},
        {"cpu_ldl_code", &library.fetch4},
        {"cpu_ldq_code", &library.fetch8},
        {"x86_ldl_phys", &library.walk4},
        {"x86_ldq_phys", &library.walk8},
        {"cpu_lduw_mmuidx_ra", &library.for_function2},
        {"cpu_ldl_mmuidx_ra", &library.for_function4},
        {"cpu_ldq_mmuidx_ra", &library.for_function8},
    };
    const char *missing = LOOK_UP(handle, in_library);
    if (!missing)
        missing = LOOK_UP(system, in_system);
    if (!missing && LOOK_UP(translation, in_translation)) /* on some hosts it has none */
        missing = LOOK_UP(handle, in_translation);
    return missing;
}
