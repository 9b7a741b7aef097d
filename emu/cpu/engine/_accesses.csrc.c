/*
 * Tells of loads and stores of watched pages, and leaves all others as fast as they are.
 *
 * Unicorn's memory hooks send every access of the guest through a function. But translated code looks each address up in
 * the TLB anyway, and leaves for a function where the entry says so: as for a page with a data breakpoint, which the CPU
 * library still asks for and reports, though it has none itself. So what is watched is given such entries. As in
 * _system, the definitions take the place of the library's (binding.h) and hand on to the ones that they stand before.
 */
#include "accesses.h"

enum { MEM_READ = 1, MEM_WRITE = 2, LONGEST = 8 };

static struct {
    void (*set_page)(void *cpu, uint64_t linear, uint64_t physical, uint32_t attributes, int rights, int mmu, uint64_t size);
    void (*protect_code)(void *uc, uint64_t ram);
    int (*matches)(void *cpu, uint64_t address, uint64_t size);
    void (*check)(void *cpu, uint64_t address, uint64_t size, uint32_t attributes, int access, uintptr_t caller);
    uint64_t (*load2)(environment *, uint64_t, uint32_t, uintptr_t), (*load4)(environment *, uint64_t, uint32_t, uintptr_t),
        (*load8)(environment *, uint64_t, uint32_t, uintptr_t), (*swapped2)(environment *, uint64_t, uint32_t, uintptr_t),
        (*swapped4)(environment *, uint64_t, uint32_t, uintptr_t), (*swapped8)(environment *, uint64_t, uint32_t, uintptr_t);
} library;

/* At most one in the process: set and cleared by who watches, while its engine stands still. */
emu_watcher *emu_watched;

/* The page that is being mapped, and the access that is under way, which the library may tell of in parts. */
static __thread struct {
    uint64_t physical;
    uint64_t address;
    unsigned size;
    uintptr_t caller;
} now;

static emu_watcher *watcher_of(const void *cpu)
{
    emu_watcher *w = emu_watched;
    return w && w->cpu == cpu ? w : NULL;
}

void NAME(tlb_set_page_with_attrs)(void *cpu, uint64_t linear, uint64_t physical, uint32_t attributes, int rights,
                                   int mmu, uint64_t size)
{
    now.physical = physical;
    library.set_page(cpu, linear, physical, attributes, rights, mmu, size);
}

/* The library asks this for each page that it makes an entry for. */
int NAME(cpu_watchpoint_address_matches)(void *cpu, uint64_t address, uint64_t size)
{
    emu_watcher *w = watcher_of(cpu);
    int found = library.matches(cpu, address, size);
    return w && w->mapping(w->owner, address, now.physical) ? found | MEM_READ | MEM_WRITE : found;
}

/*
 * An unaligned load is announced as the two aligned ones that it is made of, which hold more than it reads. An unaligned
 * store is first announced as if it crossed into its own page, in sizes that no access has, and then byte by byte.
 */
void NAME(cpu_check_watchpoint)(void *cpu, uint64_t address, uint64_t size, uint32_t attributes, int access,
                                 uintptr_t caller)
{
    emu_watcher *w = watcher_of(cpu);
    if (w && size && size <= LONGEST && !(size & (size - 1)) && !(address & (size - 1))) {
        uint64_t first = address, end = address + size;
        if (!(access & MEM_WRITE) && now.size && now.caller == caller && now.address < end &&
            now.address + now.size > first) {
            first = now.address > first ? now.address : first;
            end = now.address + now.size < end ? now.address + now.size : end;
        }
        w->accessed(w->owner, first, (unsigned)(end - first), access & MEM_WRITE, caller);
    }
    library.check(cpu, address, size, attributes, access, caller);
}

#define LOAD(original, bytes, name)                                                                                   \
    uint64_t NAME(name)(environment *env, uint64_t address, uint32_t access, uintptr_t caller)                        \
    {                                                                                                                 \
        uint64_t data;                                                                                                \
        now.address = address;                                                                                        \
        now.size = address & (bytes - 1) ? bytes : 0;                                                                 \
        now.caller = caller;                                                                                          \
        data = library.original(env, address, access, caller);                                                        \
        now.size = 0;                                                                                                 \
        return data;                                                                                                  \
    }

LOAD(load2, 2, helper_le_lduw_mmu)
LOAD(load4, 4, helper_le_ldul_mmu)
LOAD(load8, 8, helper_le_ldq_mmu)
LOAD(swapped2, 2, helper_be_lduw_mmu)
LOAD(swapped4, 4, helper_be_ldul_mmu)
LOAD(swapped8, 8, helper_be_ldq_mmu)

void NAME(tlb_protect_code)(void *uc, uint64_t ram)
{
    emu_watcher *w = emu_watched;
    library.protect_code(uc, ram);
    if (w && w->uc == uc)
        w->has_code(w->owner, ram);
}

const char *emu_accesses_bind(void *handle, void *system, void *translation)
{
    static const struct wanted in_system[] = {
        {"tlb_set_page_with_attrs", &library.set_page},
        {"tlb_protect_code", &library.protect_code},
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
    const char *missing = LOOK_UP(system, in_system);
    if (!missing && LOOK_UP(translation, in_translation)) /* on some hosts it has none */
        missing = LOOK_UP(handle, in_translation);
    return missing;
}
