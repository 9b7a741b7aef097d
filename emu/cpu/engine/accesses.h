/*
 * What somebody who watches pages of one engine is told (by _accesses). Without one, that costs a comparison for each
 * address that gets an entry in the TLB, and nothing while translated code runs: only accesses to watched pages leave it.
 *
 * An engine has at most one watcher; several engines of a process can have one each.
 */
#ifndef EMU_ACCESSES_H
#define EMU_ACCESSES_H
#include "binding.h"

#include <stdatomic.h>

enum { MOST_WATCHERS = 32 };

typedef struct {
    void *cpu, *uc, *owner;
    environment *env;
    /* A linear page is about to get an entry in the TLB: whether accesses through it are to be told. */
    bool (*mapping)(void *owner, uint64_t linear, uint64_t physical);
    /*
     * Before an access to such a page, at most 8 bytes within it, by the instruction that translated code called from
     * `caller` for.
     */
    void (*accessed)(void *owner, uint64_t linear, unsigned size, bool stores, uintptr_t caller);
    /*
     * Code at this address of RAM, in the engine's own numbering, is about to be translated: whether one instruction at a
     * time, so that no code is looked at which is not executed.
     */
    bool (*steps)(void *owner, uint64_t ram);
    /*
     * The translator is about to look at at most 8 bytes of code, within a page that has an entry in the TLB. It looks once:
     * what it made of them is executed as often as it stays.
     */
    void (*fetched)(void *owner, uint64_t linear, unsigned size);
    /* Before a page walk reads an entry of `size` bytes at a physical address, within a page. */
    void (*walked)(void *owner, uint64_t physical, unsigned size);
    /* A page of RAM, in the engine's own numbering, has code from now on. */
    void (*has_code)(void *owner, uint64_t ram);
    /* The unaligned load that is under way; one that faulted is left here. */
    struct { uint64_t address; unsigned size; uintptr_t caller, frame; } load;
} emu_watcher;

/* Set and cleared while the engine stands still. Who looks for its own watcher looks at no other's, which may end. */
typedef struct {
    const void *_Atomic cpu, *_Atomic uc;
    const environment *_Atomic env;
    emu_watcher *watcher;
} emu_watched_slot;

typedef struct {
    _Atomic unsigned count; /* slots beyond are empty */
    emu_watched_slot slot[MOST_WATCHERS];
} emu_watched_slots;

/* NULL when all slots are taken. */
static inline emu_watched_slot *emu_begin_watching(emu_watched_slots *slots, emu_watcher *watcher)
{
    for (unsigned n = 0; n < MOST_WATCHERS; n++) {
        emu_watched_slot *slot = &slots->slot[n];
        const void *nobody = NULL;
        unsigned count = slots->count;
        if (!atomic_compare_exchange_strong(&slot->cpu, &nobody, watcher->cpu))
            continue;
        slot->watcher = watcher;
        slot->uc = watcher->uc;
        slot->env = watcher->env;
        while (count < n + 1 && !atomic_compare_exchange_weak(&slots->count, &count, n + 1))
            ;
        return slot;
    }
    return NULL;
}

static inline void emu_end_watching(emu_watched_slot *slot)
{
    slot->uc = NULL;
    slot->env = NULL;
    slot->cpu = NULL; /* free from now on */
}

#endif
