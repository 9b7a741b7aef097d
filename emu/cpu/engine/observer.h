/*
 * What the log of stores (_trace, store_log.h) wants to be told about one engine. It is asked and told by _translate,
 * which stands between the CPU library and its code generator; without an observer that costs a comparison for each
 * instruction translated, and nothing while translated code runs.
 */
#ifndef EMU_OBSERVER_H
#define EMU_OBSERVER_H
#include "binding.h"

typedef void context;    /* the library's code generator */
typedef uintptr_t value; /* one of its variables: an offset in the generator */

/* The library's numbers of memory accesses: the size as a power of two, and whether bytes are swapped. */
enum { ACCESS_SIZE = 3, ACCESS_SWAP = 8 };

/*
 * The library hands the kind of an access on to its slow path in 32 bits, behind the MMU's index, and looks at the lower
 * seven bits of it only. The others carry the number of the store's site.
 */
enum { SITE_IN_ACCESS = 7, SITE_IN_ARGUMENT = 11 };

typedef struct emu_observer emu_observer;
struct emu_observer {
    void *cpu;
    environment *env;
    value environment, count; /* the CPU state's address, and RCX */
    /* Before the operations of the instruction at linear address `pc`; `first` of its block. */
    void (*instruction)(emu_observer *, context *, uint64_t pc, bool first);
    /* Before and after the operation for a store; `access` gets its site. A narrow value is a 32-bit variable. */
    int (*storing)(emu_observer *, int access);
    void (*stored)(emu_observer *, context *, value from, value address, int access, bool narrow);
    /* Translated code has stored across the end of a page, `argument` being what the library's slow path was given. */
    void (*crossed)(emu_observer *, uint64_t address, uint64_t data, unsigned size, uint32_t argument);
    /* A function of the library that executes an instruction has stored. */
    void (*helper_stored)(emu_observer *, uint64_t address, uint64_t data, unsigned size, uintptr_t caller);
    /* Before a linear page gets an entry in the TLB. */
    void (*mapping)(emu_observer *, uint64_t linear, uint64_t physical);
    /* The page walk has marked the entry at this physical address as accessed or dirty. */
    void (*marked)(emu_observer *, uint64_t physical);
};

#endif
