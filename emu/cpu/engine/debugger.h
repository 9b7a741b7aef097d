/*
 * For a debugger: each instruction is a block, and before each it is looked whether to stop.
 *
 * Part of _hooks.csrc.c.
 */

static bool is_breakpoint(const emu_engine *e, uint64_t address)
{
    size_t low = 0, high = e->breakpoint_count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (e->breakpoints[middle] < address)
            low = middle + 1;
        else
            high = middle;
    }
    return low < e->breakpoint_count && e->breakpoints[low] == address;
}

/* Remember the instruction that was announced last. */
static void pass_by(emu_engine *e, uint32_t reason)
{
    e->passed = e->instructions - 1;
    e->passed_reason = reason;
}

/* Whether a repeated string instruction is at this linear address. */
static bool is_rep(emu_engine *e, uint64_t address)
{
    bool repeated = false;
    for (unsigned n = 0; n < 15; n++) {
        attempt a = {.d = &e->delivery, .env = e->env};
        const uint8_t *code = linear_ram(&a, address + n, 1, false, false);
        uint8_t byte = code ? *code : 0;
        repeated |= byte == 0xf2 || byte == 0xf3;
        if (byte == 0xf2 || byte == 0xf3 || byte == 0x66 || byte == 0x67 || byte == 0x2e || byte == 0x36 || byte == 0x3e ||
            byte == 0x26 || byte == 0x64 || byte == 0x65 || ((byte & 0xf0) == 0x40 && in_code64(e->env)))
            continue;
        return repeated && ((byte >= 0xa4 && byte <= 0xaf && (byte & 0xfe) != 0xa8) || (byte >= 0x6c && byte <= 0x6f));
    }
    return false;
}

/* Whether an instruction goes on here, having begun before; once for each time that it was left. */
static bool goes_on_here(emu_engine *e, uint64_t address)
{
    for (unsigned n = 0; n < MOST_RETURNS; n++)
        if (e->returns[n].address == address && e->returns[n].cr3 == CONTROL(e->env, 3) &&
            e->returns[n].rsp == GENERAL(e->env, GENERAL_RSP) && e->returns[n].rsp) {
            e->returns[n].rsp = 0;
            return true;
        }
    return false;
}

/* Why a debugger stops before the instruction that is announced; 0 when it does not. */
static uint32_t debug_stop(emu_engine *e, uint64_t address)
{
    bool reached = e->instructions > e->until;
    if (!e->attention.debugging)
        return 0;
    if ((e->passing && reached) || !is_breakpoint(e, address) || (e->same && is_rep(e, address)) || goes_on_here(e, address))
        return reached ? EMU_STEP : 0;
    if (!e->passing)
        return EMU_BREAKPOINT;
    pass_by(e, EMU_BREAKPOINT);
    return 0;
}

/*
 * From now on each block is one instruction (the caller sees to that): count them, from `instructions` that have begun,
 * and stop when `until` have.
 */
void emu_engine_debug(emu_engine *e, uint64_t instructions, uint64_t until)
{
    e->wants_hook = 1;
    e->attention.debugging = 1;
    e->instructions = instructions + e->attention.again;
    e->until = until;
}

/* Stop before the instructions at these linear addresses, in rising order, which stay where they are. */
void emu_engine_set_breakpoints(emu_engine *e, const uint64_t *addresses, size_t count)
{
    e->breakpoints = addresses;
    e->breakpoint_count = count;
}

/* An instruction that cannot be fetched is never announced, but its breakpoint comes before that fault. */
int emu_engine_meets_breakpoint(emu_engine *e, uint64_t address)
{
    bool held = e->held;
    e->held = false;
    return e->attention.debugging && !held && !e->passing && is_breakpoint(e, address);
}

/* How many instructions have begun; one that raised a fault and is tried again counts twice, REP once for each turn. */
uint64_t emu_engine_instructions(emu_engine *e)
{
    return e->instructions - e->attention.again;
}

/*
 * Before an event is delivered: the instruction at linear `address`, which the handler returns to, has begun. An
 * interrupt from outside comes between instructions, or between two turns of one.
 */
void emu_engine_interrupts(emu_engine *e, uint64_t address, int from_outside)
{
    if (from_outside && (e->last_block != address || (e->attention.again && !e->same) || !is_rep(e, address)))
        return;
    e->returns[e->next_return].address = address;
    e->returns[e->next_return].cr3 = CONTROL(e->env, 3);
    e->returns[e->next_return].rsp = GENERAL(e->env, GENERAL_RSP);
    e->next_return = (e->next_return + 1) % MOST_RETURNS;
}

/* The guest was taken to another moment. */
void emu_engine_forget_interrupted(emu_engine *e)
{
    memset(e->returns, 0, sizeof e->returns);
}

/* The next instruction was announced, and nothing else was due then: it begins before anybody is asked again. */
void emu_engine_hold(emu_engine *e, int held)
{
    e->held = held;
}

int emu_engine_held(emu_engine *e)
{
    return e->held;
}

/* From within an instruction: it is given up and begins again, which is no second time. */
void emu_engine_restarts(void *engine)
{
    emu_engine *e = engine;
    e->attention.again = 1;
    e->held = true;
}

/* From within an instruction: it has met what a debugger watches, and is the last one before the stop. */
void emu_engine_watch_met(void *engine)
{
    emu_engine *e = engine;
    if (e->passing)
        pass_by(e, EMU_WATCH);
    else
        leave_behind_block(e, EMU_WATCH);
}

/* Begin, or end, to pass by what would stop; then emu_engine_passed says what was the last, 0 for nothing. */
void emu_engine_pass(emu_engine *e, int passing)
{
    e->passing = passing;
    if (passing)
        e->passed_reason = 0;
}

uint32_t emu_engine_passed(emu_engine *e, uint64_t *instructions)
{
    *instructions = e->passed;
    return e->passed_reason;
}
