/*
 * Virtual and real time, and who looks at it.
 *
 * Part of _hooks.csrc.c.
 */

/* Let virtual time pass, from the next block that is announced. */
void emu_engine_start_clock(emu_engine *e)
{
    if (e->counting)
        return;
    e->counting = e->wants_hook = 1;
    e->attention.idle = 0;
    if (e->attention.again && !stands_inside(e)) { /* it is announced once more, and charged */
        if (e->attention.debugging)
            e->place -= BLOCK;
        e->attention.again = 0;
    }
    if (atomic_load(&e->running) && !e->hooked)
        leave_behind_block(e, EMU_SERVICE);
}

/* Somebody looks at the clock: while the guest runs, that starts it. */
uint64_t emu_engine_look_at_clock(emu_engine *e)
{
    if (atomic_load(&e->running))
        emu_engine_start_clock(e);
    return emu_engine_now(e);
}

/* Two reads in a row differ, so that a guest which divides by the difference survives. */
static int on_rdtsc(void *uc, void *user)
{
    emu_engine *e = user;
    uint64_t now, half;
    if (!e->attention.real_time)
        e->time++;
    now = emu_engine_now(e);
    half = now & 0xffffffffu;
    library.write_register(uc, REG_RAX, &half);
    half = now >> 32;
    library.write_register(uc, REG_RDX, &half);
    emu_engine_start_clock(e);
    return 1;
}

static int on_rdtscp(void *uc, void *user)
{
    struct { uint32_t id; uint64_t value; } aux = {MSR_TSC_AUX, 0};
    uint64_t low;
    library.read_register(uc, REG_MSR, &aux);
    low = aux.value & 0xffffffffu;
    library.write_register(uc, REG_RCX, &low);
    return on_rdtsc(uc, user);
}

void emu_engine_set_real_time(emu_engine *e)
{
    e->attention.real_time = 1;
}

/* Whether the block at last_block has been announced, and charged if time passes, although it was not executed yet. */
int emu_engine_announced(emu_engine *e)
{
    return e->attention.again;
}

void emu_engine_set_clock(emu_engine *e, int counting, uint64_t time, int announced, uint64_t last_block)
{
    e->counting = counting;
    e->wants_hook |= counting;
    e->time = time;
    e->attention.idle = e->hooked && !counting;
    e->attention.again = (uint8_t)announced;
    e->last_block = last_block;
    e->last_size = 0;
}
