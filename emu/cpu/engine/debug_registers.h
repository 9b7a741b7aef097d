/*
 * Intel SDM volume 3, chapter 18. Unicorn's generated code still looks for watched pages, but the
 * functions it asks are empty. A data breakpoint is a trap, reported behind its instruction: when an access meets one,
 * the instruction is started again on its own, as in single stepping. The step flag is set in the derived flags only,
 * where the guest cannot see it.
 *
 * Part of _system.csrc.c.
 */

static bool enabled(uint64_t dr7, int n)
{
    return dr7 >> 2 * n & 3;
}

static int kind(uint64_t dr7, int n)
{
    return dr7 >> (16 + 4 * n) & 3;
}

static uint64_t length(uint64_t dr7, int n)
{
    static const uint8_t lengths[] = {1, 2, 8, 4};
    return lengths[dr7 >> (18 + 4 * n) & 3];
}

static bool overlap(uint64_t address, uint64_t size, uint64_t first, uint64_t length)
{
    /* Differences, so that a range at the end of the address space is a range too. */
    return address - first < length || first - address < size;
}

/* The breakpoints that an access of this kind meets, as bits of DR6. */
static uint32_t hits(const environment *env, uint64_t address, uint64_t size, int access)
{
    uint64_t dr7 = DR(env, 7);
    uint32_t found = 0;
    for (int n = 0; n < 4; n++) {
        uint64_t first = DR(env, n) & ~(length(dr7, n) - 1);
        bool watched = kind(dr7, n) == ON_ACCESS || (kind(dr7, n) == ON_WRITE && access & MEM_WRITE);
        if (enabled(dr7, n) && watched && overlap(address, size, first, length(dr7, n)))
            found |= 1u << n;
    }
    return found;
}

static bool watches_data(const environment *env)
{
    uint64_t dr7 = DR(env, 7);
    for (int n = 0; n < 4; n++)
        if (enabled(dr7, n) && (kind(dr7, n) == ON_WRITE || kind(dr7, n) == ON_ACCESS))
            return true;
    return false;
}

int NAME(cpu_watchpoint_address_matches)(void *cpu, uint64_t address, uint64_t size)
{
    emu_system *s = by_cpu(cpu);
    int found = 0;
    if (!s)
        return 0;
    for (uint32_t n = 0; n < s->watch_count; n++)
        if (overlap(address, size, s->watches[n].address, s->watches[n].size))
            found |= (int)s->watches[n].access;
    if (watches_data(s->env))
        found |= (hits(s->env, address, size, MEM_READ) ? MEM_READ : 0) |
                 (hits(s->env, address, size, MEM_WRITE) ? MEM_WRITE : 0);
    return found;
}

/* Tell the debugger of an access that it watches. The instruction goes on. */
void emu_system_accessed(emu_system *s, uint64_t address, uint64_t size, uint32_t access)
{
    for (uint32_t n = 0; n < s->watch_count; n++) {
        const emu_watch *watch = &s->watches[n];
        if (watch->access & access && overlap(address, size, watch->address, watch->size)) {
            s->met_address = address - watch->address < watch->size ? address : watch->address;
            s->met_access = access;
            ((void (*)(void *))s->met)((void *)s->argument);
            return;
        }
    }
}

static void tell_of_restart(const emu_system *s)
{
    if (s->restarts)
        ((void (*)(void *))s->restarts)((void *)s->argument);
}

/* The library begins an instruction again that has changed its own code. */
void NAME(cpu_loop_exit_noexc)(void *cpu)
{
    emu_system *s = by_cpu(cpu);
    if (s)
        tell_of_restart(s);
    library.leave(cpu);
}

void NAME(cpu_check_watchpoint)(void *cpu, uint64_t address, uint64_t size, uint32_t attributes, int access,
                                 uintptr_t caller)
{
    emu_system *s = by_cpu(cpu);
    uint32_t found;
    (void)attributes;
    if (!s)
        return;
    /*
     * An unaligned store within a page is announced as if it crossed into that page: first its address with a negative
     * size, then from the start of the page to its end.
     */
    if ((int64_t)size < 0) {
        s->unaligned = true;
        s->unaligned_at = address;
        return;
    }
    if (s->unaligned) {
        size = address + size - s->unaligned_at;
        address = s->unaligned_at;
        s->unaligned = false;
    }
    emu_system_accessed(s, address, size, (uint32_t)access & (MEM_READ | MEM_WRITE));
    if (!(found = hits(s->env, address, size, access)))
        return;
    if (U32(s->env, at.eflags) & FLAG_TF || U32(s->env, at.hflags) & HF_TF) {
        s->watch_hits |= found;
        return;
    }
    s->watch_hits = 0;
    U32(s->env, at.hflags) |= HF_TF;
    library.restore(cpu, caller, true);
    tell_of_restart(s);
    library.leave(cpu);
}

static void report_step(emu_system *s)
{
    environment *env = s->env;
    uint64_t dr6 = (DR(env, 6) & ~(uint64_t)15) | s->watch_hits;
    if (U32(env, at.eflags) & FLAG_TF)
        dr6 |= DR6_BS;
    else if (!s->watch_hits)
        library.leave(s->cpu);
    s->watch_hits = 0;
    DR(env, 6) = dr6;
    library.raise(env, DB);
}

void HELPER(single_step)(environment *env)
{
    emu_system *s = by_env(env);
    if (s && (U32(env, at.hflags) & HF_TF || s->watch_hits)) {
        U32(env, at.hflags) &= ~HF_TF;
        report_step(s);
    }
    library.single_step(env);
}

/* Behind instructions that load TF: POPF, IRET. */
void HELPER(rechecking_single_step)(environment *env)
{
    if (by_env(env) && U32(env, at.hflags) & HF_TF)
        HELPER(single_step)(env);
    else
        library.rechecking_single_step(env);
}

/* General detect, and DR4 and DR5, which are DR6 and DR7 unless CR4.DE is set. */
static int check_debug(environment *env, int number, uintptr_t caller)
{
    if (DR(env, 7) & DR7_GD) {
        DR(env, 7) &= ~(uint64_t)DR7_GD;
        DR(env, 6) |= DR6_BD;
        raise_with_code(env, DB, caller);
    }
    if (number != 4 && number != 5)
        return number;
    if (U64(env, at.control + 32) & CR4_DE)
        raise_with_code(env, UD, caller);
    return number + 2;
}

void HELPER(set_dr)(environment *env, int number, uint64_t value)
{
    uintptr_t caller = CALLER;
    emu_system *s = by_env(env);
    bool watched;
    if (!s) {
        library.write_debug(env, number, value);
        return;
    }
    number = check_debug(env, number, caller);
    if (number > 4 && value >> 32)
        raise_with_code(env, GP, caller);
    if (number > 4)
        value &= ~(uint64_t)(number == 6 ? DR6_NEVER : DR7_NEVER);
    watched = watches_data(env);
    library.write_debug(env, number, value);
    if (watched || watches_data(env))
        library.forget_addresses(s->cpu);
}

uint64_t HELPER(get_dr)(environment *env, int number)
{
    if (by_env(env))
        number = check_debug(env, number, CALLER);
    return library.read_debug(env, number);
}

/*
 * Around a change of the debug registers from outside. Unicorn keeps instruction breakpoints in a list beside the
 * registers; what it writes into them, or restores from a context, it does not tell the list.
 */
void emu_system_debug_off(emu_system *s)
{
    if (DR(s->env, 7) & 0xff)
        library.update_dr7(s->env, DR7_ALWAYS);
}

void emu_system_debug_on(emu_system *s)
{
    uint64_t dr7 = DR(s->env, 7);
    s->watch_hits = 0;
    if (!(dr7 & 0xff))
        return;
    /* The four references behind DR7 may be another time's. */
    memset(s->env + at.debug + 64, 0, 32);
    DR(s->env, 7) = DR7_ALWAYS;
    library.update_dr7(s->env, (uint32_t)dr7);
    library.forget_addresses(s->cpu);
}
