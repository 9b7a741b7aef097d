/*
 * For a debugger. The guest runs in whole blocks, as without one, so that time, interrupts and stops come at the same
 * places. A block in which somebody may want to stand is executed instruction by instruction instead: its code is
 * translated once more, each instruction as a block, and what these announce is neither charged nor interrupted, since
 * that belongs to the whole block. Both translations are kept, in two universes of the library's cache.
 *
 * A place is a number that says where in the run an instruction begins, the same on every run: how many blocks had been
 * announced, times BLOCK, and how far into its block the instruction is, in bytes.
 *
 * Part of _hooks.csrc.c.
 */

#define BLOCK 0x10000u
#define SINGLE_UNIVERSE 1u
#define WHOLE_UNIVERSE UINT32_MAX /* that of a CPU to which none was given */
/* Of what is looked at together: time stands still, perhaps, and a debugger is there. */
#define DEBUGGED_QUIETLY (ATTENTION_IDLE | ATTENTION_DEBUGGING)
enum { KNOWN_BLOCKS = 4096, HOW_TRANSLATED = 0x73100 /* TF, IOPL, RF, VM, AC */ };

static uint64_t linear_rip(emu_engine *e)
{
    return FIELD64(e->env, RIP_OFFSET) + SEGMENT_BASE(e->env, SEG_CS);
}

/* ---- Two grains ---- */

/* Have the next translations be of whole blocks or of single instructions; not while code is executed. */
static int set_grain(emu_engine *e, bool single)
{
    e->single = single;
    *e->instruction_blocks = single;
    if (!e->universe) /* no place for both */
        return library.control(e->uc, CTL_WRITE(CTL_TB_FLUSH, 0));
    *(uint32_t *)((uint8_t *)e->cpu + e->universe) = single ? SINGLE_UNIVERSE : WHOLE_UNIVERSE;
    return 0;
}

/* The guest stands before the instruction that was announced last. If not, a block begins next. */
static bool is_announced(emu_engine *e)
{
    return e->attention.again && linear_rip(e) == e->last_block;
}

/* It is one behind the first of the block that is executed instruction by instruction. */
static bool stands_inside(emu_engine *e)
{
    return e->single && e->block_size && e->last_block != e->block_start && is_announced(e);
}

/* The engine goes on, perhaps from where somebody has put the guest. */
static void go_on_from_here(emu_engine *e)
{
    if (!is_announced(e)) {
        e->attention.again = 0;
        e->block_size = 0;
    }
}

/* Whether this instruction comes right behind the one before, in the same block: one that jumps ends its block. */
static bool is_inside(const emu_engine *e, uint64_t address, bool again)
{
    return address - e->block_start < e->block_size && !e->restarted &&
           (again ? address != e->block_start : address == e->last_block + e->length);
}

/* Where code lies, as far as that is in RAM. */
static code_span span_of(emu_engine *e, uint64_t address, uint32_t size)
{
    attempt a = {.d = &e->delivery, .env = e->env};
    uint32_t left = 4096 - (uint32_t)(address & 4095), first = size < left ? size : left;
    code_span span = {{linear_ram(&a, address, first, false, false), NULL}, {first, size - first}};
    if (size > first)
        span.host[1] = linear_ram(&a, address + first, size - first, false, false);
    for (unsigned n = 0; n < 2; n++)
        if (!span.host[n])
            span.size[n] = 0;
    return span;
}

/* Its code, and what else decides where the block ends; false for code elsewhere than in RAM. */
static bool describe_block(emu_engine *e, uint64_t address, uint32_t size, known_block *b)
{
    code_span code = span_of(e, address, size);
    uint64_t sum = 0xcbf29ce484222325u; /* FNV-1a */
    if (code.size[0] + code.size[1] < size)
        return false;
    for (unsigned part = 0; part < 2; part++)
        for (uint32_t n = 0; n < code.size[part]; n++)
            sum = (sum ^ code.host[part][n]) * 0x100000001b3u;
    *b = (known_block){.address = address, .sum = sum, .size = size,
                       .mode = FIELD32(e->env, e->hflags_offset) |
                               (uint64_t)(FIELD32(e->env, e->eflags_offset) & HOW_TRANSLATED) << 32};
    return true;
}

static known_block *slot_of(emu_engine *e, uint64_t address)
{
    return &e->known_blocks[(address * 0x9E3779B97F4A7C15u) >> 52];
}

/* How long the whole block here is; 0 if that must be seen. */
static uint32_t known_size(emu_engine *e, uint64_t address)
{
    const known_block *known = slot_of(e, address);
    known_block now;
    if (known->address != address || !known->size || !describe_block(e, address, known->size, &now) ||
        now.sum != known->sum || now.mode != known->mode)
        return 0;
    return known->size;
}

static void learn_size(emu_engine *e, uint64_t address, uint32_t size)
{
    known_block b;
    if (describe_block(e, address, size, &b))
        *slot_of(e, address) = b;
}

/* Leave before a block of whose size nothing is known, to come back to all of it: nothing has been announced. */
static void leave_unannounced(emu_engine *e)
{
    e->reason |= EMU_GRAIN;
    e->attention.again = 0;
    atomic_store(&e->leave, 1);
    library.stop(e->uc);
}

/* ---- Breakpoints ---- */

/* The number of breakpoints below this address. */
static size_t breakpoints_below(const emu_engine *e, uint64_t address)
{
    size_t low = 0, high = e->breakpoint_count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (e->breakpoints[middle] < address)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static bool is_breakpoint(const emu_engine *e, uint64_t address)
{
    size_t n = breakpoints_below(e, address);
    return n < e->breakpoint_count && e->breakpoints[n] == address;
}

/* Whether there is a breakpoint from `address` on and below `end`; `last` is then the last such one. */
static bool breakpoint_between(const emu_engine *e, uint64_t address, uint64_t end, uint64_t *last)
{
    size_t n = breakpoints_below(e, end);
    if (!n || e->breakpoints[n - 1] < address)
        return false;
    *last = e->breakpoints[n - 1];
    return true;
}

/* Remember where it would have stopped. */
static void pass_by(emu_engine *e, uint32_t reason, uint64_t place)
{
    e->passed = place;
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

/* ---- Instructions that go on ---- */

static interrupted where_it_is(emu_engine *e, uint64_t address)
{
    return (interrupted){.address = address, .cr3 = CONTROL(e->env, 3), .rsp = GENERAL(e->env, GENERAL_RSP)};
}

static void remember(emu_engine *e, interrupted where)
{
    e->returns[e->next_return] = where;
    e->next_return = (e->next_return + 1) % MOST_RETURNS;
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

/*
 * Before an event is delivered: the instruction at linear `address`, which the handler returns to, has begun. An
 * interrupt from outside comes between blocks, or between two turns of one instruction.
 */
void emu_engine_interrupts(emu_engine *e, uint64_t address, int from_outside)
{
    e->block_size = 0;
    if (!from_outside || (e->last_block == address && (!e->attention.again || e->same) && is_rep(e, address)))
        remember(e, where_it_is(e, address));
}

/* The guest was taken to another moment. */
static void forget_interrupted(emu_engine *e)
{
    memset(e->returns, 0, sizeof e->returns);
    e->restarted = false;
}

/* ---- Announcements ---- */

/* The place of the block that is announced next. */
static uint64_t next_block(const emu_engine *e)
{
    return (e->place / BLOCK + 1) * BLOCK;
}

static void count_block(emu_engine *e)
{
    e->place = next_block(e);
    if (e->restarted)
        return;
    e->before = e->begun;
    e->begun = e->place;
}

/* Why a debugger stops before the instruction that is announced, which begins a block or not; 0 when it does not. */
static uint32_t debug_stop(emu_engine *e, uint64_t address, bool begins)
{
    bool reached = e->place >= e->until;
    if ((e->passing && reached) || !is_breakpoint(e, address) ||
        (begins && ((e->same && is_rep(e, address)) || goes_on_here(e, address))))
        return reached ? EMU_STEP : 0;
    if (!e->passing)
        return EMU_BREAKPOINT;
    pass_by(e, EMU_BREAKPOINT, e->place);
    return 0;
}

static void announce_inside(emu_engine *e, uint64_t address, uint32_t size, bool again)
{
    uint32_t stop;
    if (!again) {
        e->before = e->begun;
        e->begun = e->place = e->place / BLOCK * BLOCK + (address - e->block_start);
    }
    e->attention.again = 0;
    e->last_block = address;
    e->last_size = 0;
    e->length = size;
    if (e->held)
        e->held = false;
    else if (e->reason & EMU_WATCH)
        leave_before_block(e, 0);
    else if ((stop = debug_stop(e, address, false)))
        leave_before_block(e, stop);
}

/* Instructions are blocks: whether a whole one is to be announced at this one, and then its size. */
static bool begins_whole(emu_engine *e, uint64_t address, bool again, uint32_t *size)
{
    if (is_inside(e, address, again)) {
        announce_inside(e, address, *size, again);
        return false;
    }
    if (again)
        *size = e->last_size;
    else if (!e->restarted && !(*size = known_size(e, address))) {
        leave_unannounced(e);
        return false;
    }
    return true;
}

/*
 * Nothing stops the guest before this block: whether it is executed at all, since it has to be left if it is translated
 * for the other grain. Where breakpoints are only passed by, those inside a whole block are noted as it begins.
 */
static bool choose_grain(emu_engine *e, uint64_t address, uint32_t size)
{
    uint64_t last;
    bool breaks = breakpoint_between(e, address + 1, address + size, &last),
         single = e->place >= e->fine || (e->until > e->place && e->until - e->place < size) || (breaks && !e->passing);
    if (e->restarted)
        single = e->single;
    else if (single && !e->single)
        learn_size(e, address, size);
    e->restarted = false;
    e->block_start = address;
    e->block_size = single ? size : 0;
    if (single != e->single) {
        e->held = true; /* what is due was looked at */
        leave_before_block(e, EMU_GRAIN);
        return false;
    }
    if (breaks && !single) {
        e->passed_before = e->passed;
        e->passed_before_reason = e->passed_reason;
        pass_by(e, EMU_BREAKPOINT, e->place + (last - address));
    }
    return true;
}

/* Count a block that no debugger has to do with and before which nothing is due; false of others, which are announced. */
static inline bool is_passed_quickly(emu_engine *e, uint64_t address, uint32_t size)
{
    const uint64_t next = next_block(e);
    uint64_t last;
    if (e->attention.any & ~DEBUGGED_QUIETLY || e->single || e->held || e->restarted || e->reason || next >= e->fine ||
        e->until < next + BLOCK || (e->counting && e->time + size >= e->deadline) ||
        breakpoint_between(e, address, address + size, &last))
        return false;
    count_block(e);
    return true;
}

/* The block ends at this address, in the middle: breakpoints behind it were not passed. */
static void leave_block(emu_engine *e, uint64_t address)
{
    uint64_t last;
    e->block_size = 0;
    if (e->single || !e->passing || e->passed / BLOCK != e->place / BLOCK || e->passed % BLOCK == 0 ||
        e->passed - e->place <= address - e->last_block)
        return;
    if (breakpoint_between(e, e->last_block + 1, address + 1, &last))
        pass_by(e, EMU_BREAKPOINT, e->place + (last - e->last_block));
    else
        pass_by(e, e->passed_before_reason, e->passed_before);
}

/*
 * From within an instruction: it is given up and begins again, in a block of its own, which is no second time. Nobody may
 * stop there: it would be given up once more.
 */
void emu_engine_restarts(void *engine)
{
    emu_engine *e = engine;
    leave_block(e, linear_rip(e));
    e->restarted = true;
}

/* From within an instruction: where the code lies of its block, unless that is given up already, and its own. */
void emu_engine_spans(void *engine, code_span *block, code_span *instruction)
{
    emu_engine *e = engine;
    if (e->block_size > e->length) {
        *block = span_of(e, e->block_start, e->block_size);
        *instruction = span_of(e, e->last_block, e->length);
    }
}

/* From within an instruction: it has met what a debugger watches, and is the last one before the stop. */
void emu_engine_watch_met(void *engine)
{
    emu_engine *e = engine;
    if (e->passing)
        pass_by(e, EMU_WATCH, e->place);
    else
        leave_behind_block(e, EMU_WATCH);
}

/* Execute from `pc` until the engine is to be left for more than the other grain. */
static int execute(emu_engine *e, uint64_t pc)
{
    int error;
    if (e->attention.debugging)
        go_on_from_here(e);
    while (!(error = library.start(e->uc, pc, 0, 0, 0)) && e->reason & EMU_GRAIN) {
        e->reason &= ~(uint32_t)EMU_GRAIN;
        atomic_store(&e->leave, 0);
        if ((error = set_grain(e, !e->single)))
            break;
        pc = FIELD64(e->env, RIP_OFFSET);
    }
    return error;
}

/* ---- What a debugger asks for ---- */

/*
 * From now on, count blocks. `instruction_blocks` is where it is said how code is translated; `universe` the offset in
 * the CPU object of the number that tells two translations of the same code apart, 0 if it has none.
 */
int emu_engine_debug(emu_engine *e, uintptr_t instruction_blocks, size_t universe)
{
    if (!e->known_blocks && !(e->known_blocks = calloc(KNOWN_BLOCKS, sizeof *e->known_blocks)))
        return ENOMEM;
    e->wants_hook = 1;
    e->attention.debugging = 1;
    e->instruction_blocks = (uint32_t *)instruction_blocks;
    e->universe = universe;
    return 0;
}

/* Stop at this place, or the first one behind it. From callbacks, too. */
void emu_engine_stop_at(emu_engine *e, uint64_t until)
{
    e->until = until;
}

/* From this place on, execute all blocks instruction by instruction. From 0 on somebody watches what is pushed, too. */
void emu_engine_be_fine(emu_engine *e, uint64_t place)
{
    e->fine = place;
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

/* The place of the instruction that begins next, while the guest stands still. */
uint64_t emu_engine_place(emu_engine *e)
{
    return is_announced(e) ? e->place : next_block(e);
}

/* The whole block in which the guest stands at an instruction that is not its first one; its size, or 0. */
uint32_t emu_engine_block(emu_engine *e, uint64_t *start)
{
    *start = e->block_start;
    return stands_inside(e) ? e->block_size : 0;
}

/* The guest was taken to another moment, where the two functions above said this, and CPU and clock stand there. */
int emu_engine_stand(emu_engine *e, uint64_t place, uint64_t start, uint32_t size)
{
    e->place = e->before = e->begun = is_announced(e) ? place : place - BLOCK;
    e->block_start = start;
    e->block_size = size;
    forget_interrupted(e);
    return e->single == (size != 0) ? 0 : set_grain(e, size != 0);
}

/* The next instruction was announced, and nothing else was due then: it begins before anybody is asked again. */
void emu_engine_hold(emu_engine *e, int held)
{
    e->held = held;
}

/* Begin, or end, to pass by what would stop; then emu_engine_passed says what was the last, 0 for nothing. */
void emu_engine_pass(emu_engine *e, int passing)
{
    e->passing = passing;
    if (passing)
        e->passed_reason = 0;
}

uint32_t emu_engine_passed(emu_engine *e, uint64_t *place)
{
    *place = e->passed;
    return e->passed_reason;
}
