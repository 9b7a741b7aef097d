/*
 * What the guest raises: exceptions, interrupts, SYSCALL and SYSENTER. What is plain is carried out here (delivery.h);
 * for all else the engine is left.
 *
 * Part of _hooks.csrc.c.
 */

static uint32_t flags_of(emu_engine *e)
{
    uint64_t flags = 0;
    library.read_register(e->uc, REG_RFLAGS, &flags);
    return ((uint32_t)flags & EFLAGS_BITS) | EFLAGS_ALWAYS;
}

static void set_flags(emu_engine *e, uint32_t value)
{
    uint64_t flags = value | EFLAGS_ALWAYS;
    library.write_register(e->uc, REG_RFLAGS, &flags);
}

/* Deliver what the guest raised, here and now; false when that is for others to do. */
static bool deliver_here(emu_engine *e, unsigned vector, bool known_to_engine)
{
    const uint64_t pushes_code = 1 << 8 | 1 << 10 | 1 << 11 | 1 << 12 | 1 << 13 | 1 << 14 | 1 << 17 | 1 << 21;
    uint64_t rip = FIELD64(e->env, RIP_OFFSET), code = NO_ERROR_CODE, time;
    interrupted here = where_it_is(e, linear_rip(e));
    bool software;
    uint32_t flags;
    if (!goes_on(e, EMU_DELIVERY_NS))
        return false;
    software = known_to_engine && FIELD32(e->env, delivery_at.is_software);
    if (!software && e->delivery.watched && !e->delivery.on_fault)
        return false;
    if (!software && vector < 64 && pushes_code >> vector & 1)
        code = known_to_engine ? FIELD32(e->env, delivery_at.error_code) : 0;
    if (vector == VECTOR_GP && !code && in_code64(e->env)) /* it may be #SS: emu.cpu.stack_fault */
        return false;
    if (vector == VECTOR_UD && !software && at_int1(&e->delivery, e->env))
        return false;
    if (vector == VECTOR_PF && e->attention.debugging && is_breakpoint(e, here.address)) /* which may not be fetched */
        return false;
    flags = flags_of(e);
    if (!deliver(&e->delivery, e->env, vector, code, software ? FROM_SOFTWARE : FROM_EXCEPTION, &flags))
        return false;
    set_flags(e, flags);
    FIELD32(e->env, delivery_at.latch) = UINT32_MAX;
    if (!software) {
        if (e->attention.debugging && vector != VECTOR_DB)
            remember(e, here);
        e->last_exception = (emu_delivery_record){.vector = (int32_t)vector, .rip = rip, .has_code = code != NO_ERROR_CODE,
                                                  .code = code, .has_address = vector == VECTOR_PF,
                                                  .address = CONTROL(e->env, 2)};
        if (e->delivery.on_fault)
            e->delivery.on_fault(e->delivery.on_fault_argument, rip);
    }
    time = emu_engine_now(e) + EMU_DELIVERY_NS;
    if (e->counting)
        e->time = time;
    return true;
}

/* An interrupt from outside, while the engine stands still; false when it is not delivered. */
int emu_engine_deliver_interrupt(emu_engine *e, unsigned vector)
{
    uint32_t flags = flags_of(e);
    if (!delivery_works || !e->fine ||
        !deliver(&e->delivery, e->env, vector, NO_ERROR_CODE, FROM_OUTSIDE, &flags))
        return 0;
    set_flags(e, flags);
    return 1;
}

/* An instruction that faults has done nothing: it will meet what is watched again. */
static void forget_watch(emu_engine *e, uint32_t vector)
{
    if (vector != VECTOR_DB)
        e->reason &= ~(uint32_t)EMU_WATCH;
}

static void on_interrupt(void *uc, uint32_t vector, void *user)
{
    emu_engine *e = user;
    (void)uc;
    forget_watch(e, vector);
    leave_block(e, linear_rip(e));
    if (deliver_here(e, vector, true))
        return;
    e->vector = vector;
    e->reason |= EMU_EXCEPTION;
    leave(e);
}

static bool on_invalid(void *uc, void *user)
{
    emu_engine *e = user;
    (void)uc;
    forget_watch(e, VECTOR_UD);
    leave_block(e, linear_rip(e));
    if (deliver_here(e, VECTOR_UD, false))
        return true;
    e->vector = VECTOR_UD;
    e->reason |= EMU_INVALID_OPCODE;
    leave(e);
    return true;
}

static uint64_t model_specific(emu_engine *e, uint32_t number)
{
    struct { uint32_t number; uint64_t value; } question = {number, 0};
    library.read_register(e->uc, REG_MSR, &question);
    return question.value;
}

/* The library adds the length of the instruction to RIP when the callback has returned. */
static bool syscall_here(emu_engine *e)
{
    uint32_t flags;
    if (!goes_on(e, 0) || !in_code64(e->env) || !(model_specific(e, MSR_EFER) & EFER_SCE) ||
        !plain_syscall(&e->delivery, e->env) || (flags = flags_of(e)) & FLAG_TF)
        return false;
    enter_by_syscall(e->env, (uint32_t)(model_specific(e, MSR_STAR) >> 32), flags);
    FIELD64(e->env, RIP_OFFSET) = model_specific(e, MSR_LSTAR) - 2;
    set_flags(e, flags & ~(uint32_t)model_specific(e, MSR_FMASK));
    return true;
}

/* SYSCALL and SYSENTER end their block, and what Unicorn takes for the next one must not be announced. */
static void on_syscall(void *uc, void *user)
{
    emu_engine *e = user;
    uint32_t *flags = (uint32_t *)(e->env + e->eflags_offset);
    (void)uc;
    e->block_size = 0;
    if (syscall_here(e))
        return;
    /* Unicorn would single-step by these flags; those that SYSCALL leaves decide. */
    e->trap_flag = *flags & FLAG_TF;
    *flags &= ~FLAG_TF;
    e->reason |= EMU_SYSCALL;
    leave(e);
}

static void on_sysenter(void *uc, void *user)
{
    emu_engine *e = user;
    (void)uc;
    e->block_size = 0;
    e->reason |= EMU_SYSENTER;
    leave(e);
}

/* Where the library keeps what delivery needs, and whether it was seen to work. */
void emu_delivery_know(const emu_delivery_layout *layout, int works)
{
    delivery_at = *layout;
    delivery_works = works;
}

/* Plain RAM, in which delivery may work. What is in too many pieces is left to others. */
void emu_engine_add_ram(emu_engine *e, uint64_t gpa, uint64_t size, void *host)
{
    emu_delivery *d = &e->delivery;
    if (d->ram_count == DELIVERY_REGIONS)
        return;
    d->ram[d->ram_count].gpa = gpa;
    d->ram[d->ram_count].size = size;
    d->ram[d->ram_count++].host = host;
}

void emu_engine_forget_ram(emu_engine *e)
{
    e->delivery.ram_count = 0;
}

void emu_engine_set_code_check(emu_engine *e, uintptr_t function, void *argument)
{
    e->delivery.has_code = (int (*)(void *, void *, size_t))function;
    e->delivery.has_code_argument = argument;
}

/* Who hears of exceptions; without a function, all of them are left to others, who tell. */
void emu_engine_watch_faults(emu_engine *e, uintptr_t function, uintptr_t argument)
{
    e->delivery.watched = 1;
    e->delivery.on_fault = (void (*)(void *, uint64_t))function;
    e->delivery.on_fault_argument = (void *)argument;
}
