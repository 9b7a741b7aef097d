/*
 * What somebody who watches pages of one engine is told (by _accesses). Without one, that costs a comparison for each
 * address that gets an entry in the TLB, and nothing while translated code runs: only accesses to watched pages leave it.
 */
#ifndef EMU_ACCESSES_H
#define EMU_ACCESSES_H
#include "binding.h"

typedef struct {
    void *cpu, *uc, *owner;
    /* A linear page is about to get an entry in the TLB: whether accesses through it are to be told. */
    bool (*mapping)(void *owner, uint64_t linear, uint64_t physical);
    /*
     * Before an access to such a page, at most 8 bytes within it, by the instruction that translated code called from
     * `caller` for.
     */
    void (*accessed)(void *owner, uint64_t linear, unsigned size, bool stores, uintptr_t caller);
    /* A page of RAM, in the engine's own numbering, has code from now on. */
    void (*has_code)(void *owner, uint64_t ram);
} emu_watcher;

#endif
