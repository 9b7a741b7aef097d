/*
 * What is decided when a block is announced.
 *
 * Part of _hooks.csrc.c.
 */

/* Whether something is due before the block that is announced; then it is left. */
static bool is_due(emu_engine *e, uint64_t address, bool within)
{
    uint32_t stop;
    if (e->reason & EMU_WATCH)
        leave_before_block(e, 0);
    else if (e->counting && e->time >= e->deadline)
        leave_before_block(e, EMU_TIMER);
    else if (e->attention.interrupt_pending && (*(uint32_t *)(e->env + e->eflags_offset) & FLAG_IF) &&
             !(*(uint32_t *)(e->env + e->hflags_offset) & INHIBIT_IRQ))
        leave_before_block(e, EMU_WINDOW);
    else if (e->attention.leaving)
        leave_before_block(e, 0);
    else if (e->attention.asked && (!within || e->deferred))
        leave_before_block(e, 0);
    else if (e->attention.debugging && (stop = debug_stop(e, address, true)))
        leave_before_block(e, stop);
    else {
        e->deferred = e->attention.asked;
        if (e->attention.testing && (e->tests++ < TESTED_WHOLLY || e->tests % TESTED_THEN == 0))
            e->attention.asked = 1;
        return false;
    }
    return true;
}

/*
 * What a block's announcement has to decide when more than counting is to be done; whether a block begins that has not
 * begun before. Stops that come of what the guest did (a deadline, an interrupt, a callback's wish) are taken here
 * exactly, whether blocks are chained or not: virtual time and the place of each stop are the same on every run. A stop
 * that another thread asks for may be taken anywhere; it lets pass a block that begins inside the one before, which may
 * be the rest of a block that overwrote itself.
 */
static __attribute__((noinline)) bool announce(emu_engine *e, uint64_t address, uint32_t size)
{
    bool again = e->attention.again && address == e->last_block, within;
    uint32_t length = size;
    if (e->single && !begins_whole(e, address, again, &size))
        return false;
    within = !again && address - e->last_block < e->last_size;
    if (!again)
        e->same = address == e->last_block || (within && address + size == e->last_block + e->last_size);
    e->attention.again = 0;
    e->last_block = address;
    e->last_size = size;
    e->length = length;
    if (e->attention.debugging && !again)
        count_block(e);
    if (e->attention.real_time) {
        if (++e->blocks % BLOCKS_PER_CLOCK_READ == 0)
            emu_engine_now(e);
    } else if (!again && e->counting)
        e->time += size;
    if (e->held || e->restarted)
        e->held = false;
    else if (is_due(e, address, within))
        return false;
    return !e->attention.debugging || choose_grain(e, address, size);
}

/*
 * One nanosecond for each byte of code in the blocks executed: about four per instruction, and the same on every run.
 * Unicorn calls this before the block's own check for a stop, so a block that is stopped here is announced again.
 */
static void on_block(void *uc, uint64_t address, uint32_t size, void *user)
{
    emu_engine *e = user;
    uint64_t attention = e->attention.any;
    bool begins = true;
    (void)uc;
    /* A recovery's blocks are counted, and nobody looks at the clock: that is no more than the plain case. */
    if (__builtin_expect(attention != 0, 0) && attention != ATTENTION_IDLE && !is_passed_quickly(e, address, size))
        begins = announce(e, address, size);
    else {
        e->last_block = address;
        e->last_size = size;
        if (!(attention & ATTENTION_IDLE) && __builtin_expect((e->time += size) >= e->deadline, 0)) {
            leave_before_block(e, EMU_TIMER);
            begins = false;
        }
    }
    if (e->block_count && begins && ++*e->block_count >= *e->block_limit)
        e->on_limit(e->on_limit_argument, address);
}
