/*
 * What is mapped into guest-physical memory, and the callbacks of what is not plain RAM.
 *
 * Part of _hooks.csrc.c.
 */

static uint64_t nothing_read(void *uc, uint64_t offset, unsigned size, void *user)
{
    (void)uc, (void)offset, (void)size, (void)user;
    return 0;
}

static void nothing_write(void *uc, uint64_t offset, unsigned size, uint64_t value, void *user)
{
    (void)uc, (void)offset, (void)size, (void)value, (void)user;
}

static uint64_t register_read(void *uc, uint64_t offset, unsigned size, void *user)
{
    const window *w = user;
    (void)uc;
    return emu_register_read(w->engine->owner, w->gpa + offset, (int)size);
}

static void register_write(void *uc, uint64_t offset, unsigned size, uint64_t value, void *user)
{
    const window *w = user;
    (void)uc;
    emu_register_write(w->engine->owner, w->gpa + offset, (int)size, value);
}

/* Unicorn drops a store whose write-protection hook says "handled": just what a read-only memory does. */
static bool on_rom_write(void *uc, int type, uint64_t address, int size, int64_t value, void *user)
{
    (void)uc, (void)type, (void)address, (void)size, (void)value, (void)user;
    return true;
}

int emu_engine_map(emu_engine *e, uint64_t gpa, uint64_t size, void *host)
{
    return library.map(e->uc, gpa, size, PROT_ALL, host);
}

int emu_engine_map_rom(emu_engine *e, uint64_t gpa, uint64_t size, void *host)
{
    uintptr_t handle;
    /* Only a later change of the permissions makes the engine's memory region read-only. */
    int error = library.map(e->uc, gpa, size, PROT_ALL, host);
    if (!error)
        error = library.protect(e->uc, gpa, size, PROT_READ_EXEC);
    if (error)
        return error;
    return library.add_hook(e->uc, &handle, HOOK_WRITE_PROT, on_rom_write, e, gpa, gpa + size - 1);
}

int emu_engine_map_registers(emu_engine *e, uint64_t gpa, uint64_t size)
{
    void *user;
    if (e->window_count == MOST_WINDOWS)
        return ERR_RESOURCE;
    user = &e->windows[e->window_count];
    e->windows[e->window_count].engine = e;
    e->windows[e->window_count++].gpa = gpa;
    return library.map_mmio(e->uc, gpa, size, register_read, user, register_write, user);
}

int emu_engine_map_nothing(emu_engine *e, uint64_t gpa, uint64_t size)
{
    return library.map_mmio(e->uc, gpa, size, nothing_read, NULL, nothing_write, NULL);
}
