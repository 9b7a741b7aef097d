/*
 * What our modules that call the CPU library share: how they look up its functions.
 *
 * Some take the place of functions of the library, which calls them through global symbols: such a module defines the
 * same symbols and is made visible before the library is loaded (emu.cpu.engine.loader). Then it looks up the functions
 * that it calls itself, and measures where the library keeps things.
 */
#ifndef EMU_BINDING_H
#define EMU_BINDING_H
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <dlfcn.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The library appends the architecture to its internal names. */
#define NAME(name) name##_x86_64
#define HELPER(name) helper_##name##_x86_64
/* Where translated code called from: the library finds the guest's instruction by it. */
#define CALLER ((uintptr_t)__builtin_return_address(0))

typedef uint8_t environment; /* the library's CPU state, in bytes */

struct wanted { const char *name; void *into; };

/* Fill in the functions; NULL, or the name of one that the library does not have. */
static inline const char *look_up(void *library, const char *suffix, const struct wanted *wanted, size_t count)
{
    for (size_t n = 0; n < count; n++) {
        char name[64];
        void *found;
        snprintf(name, sizeof name, "%s%s", wanted[n].name, suffix);
        found = dlsym(library, name);
        if (!found)
            return wanted[n].name;
        memcpy(wanted[n].into, &found, sizeof found);
    }
    return NULL;
}
/* Internal functions, and those of the public interface. */
#define LOOK_UP(library, wanted) look_up(library, "_x86_64", wanted, sizeof(wanted) / sizeof *(wanted))
#define LOOK_UP_PUBLIC(library, wanted) look_up(library, "", wanted, sizeof(wanted) / sizeof *(wanted))

/* What `measure` finds out by letting the library's helpers work on an empty CPU state: NULL, or what was not found. */
enum { SCRATCH = 1 << 16 };

static inline const char *on_scratch_state(const char *(*measure)(environment *))
{
    environment *state = aligned_alloc(64, SCRATCH);
    const char *missing = state ? measure(memset(state, 0, SCRATCH)) : "memory";
    free(state);
    return missing;
}

/* The only place where the bytes are; 0 when there is none, or more than one. */
static inline size_t only_place(const environment *state, const void *bytes, size_t size, size_t step)
{
    size_t place = 0;
    for (size_t n = step; n + size <= SCRATCH; n += step)
        if (!memcmp(state + n, bytes, size)) {
            if (place)
                return 0;
            place = n;
        }
    return place;
}

#endif
