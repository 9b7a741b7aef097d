/*
 * Port accesses: answered as they were before (known_ports.h), or by devices.
 *
 * Part of _hooks.csrc.c.
 */

/* Answer a port access as it was answered before. Where time passes, answers may depend on it. */
static bool answer_known(emu_engine *e, uint32_t port, int size, bool writes, uint32_t *value)
{
    const known_access *access = e->counting ? NULL : follow(&e->known, port, size, writes, value);
    if (access && access->ends) {
        atomic_store(&e->stop_requested, 1);
        leave_behind_block(e, 0);
    }
    return access;
}

static uint32_t on_in(void *uc, uint32_t port, int size, void *user)
{
    emu_engine *e = user;
    uint32_t value;
    (void)uc;
    return answer_known(e, port, size, false, &value) ? value : emu_port_read(e->owner, port, size);
}

static void on_out(void *uc, uint32_t port, int size, uint32_t value, void *user)
{
    emu_engine *e = user;
    (void)uc;
    if (!answer_known(e, port, size, true, &value))
        emu_port_write(e->owner, port, size, value);
}

/* A run begins, with no port accessed: at the moment of all runs before, or of none. */
int emu_engine_begin_known(emu_engine *e)
{
    return begin_known(&e->known) ? 0 : -ENOMEM;
}

int emu_engine_learn_access(emu_engine *e, uint32_t port, int size, int writes, uint32_t value, int ends)
{
    return learn_access(&e->known, port, size, writes, value, ends);
}

void emu_engine_end_known(emu_engine *e)
{
    e->known.at = KNOWN_NOWHERE;
}
