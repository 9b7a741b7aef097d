/*
 * Basic blocks: which are new, how many may begin, and the hook on them for the log by hooks.
 *
 * Part of _trace.csrc.c.
 */

static const uint8_t *host_of(emu_trace *t, uint64_t linear)
{
    uint64_t gpa;
    const region *r = translate(t, linear, &gpa) ? region_of(t, gpa) : NULL;
    return r ? r->host + (gpa - r->gpa) : NULL;
}

static bool same_code(const block *b)
{
    return (!b->host[0] || !memcmp(b->code, b->host[0], b->first)) &&
           (!b->host[1] || !memcmp(b->code + b->first, b->host[1], b->size - b->first));
}

/*
 * Whether the block has not been looked at as it is now. Comparing its bytes whenever it executes finds code that was
 * patched, loaded later, or put back by a rewind that Unicorn knows nothing of.
 */
static bool is_new(emu_trace *t, uint64_t address, uint32_t size)
{
    block **bucket = &t->blocks_seen[(address * 0x9E3779B97F4A7C15u) >> 50], *b;
    for (b = *bucket; b && (b->address != address || b->size != size);)
        b = b->next;
    if (b && same_code(b))
        return false;
    if (!b) {
        b = calloc(1, sizeof *b + size);
        if (!b)
            return true;
        b->address = address;
        b->size = size;
        b->first = PAGE - address % PAGE < size ? PAGE - (uint32_t)(address % PAGE) : size;
        b->next = *bucket;
        *bucket = b;
    }
    b->host[0] = host_of(t, address);
    b->host[1] = b->first < size ? host_of(t, address + b->first) : NULL;
    if (b->host[0])
        memcpy(b->code, b->host[0], b->first);
    if (b->host[1])
        memcpy(b->code + b->first, b->host[1], size - b->first);
    return true;
}

/* Whether somebody waits for the guest to come back to a block, and it does not yet. */
static bool is_awaiting(const emu_trace *t)
{
    return t->awaited != EMU_TRACE_NOWHERE && t->blocks < t->awaited_until &&
           (t->block != t->awaited || memcmp(t->general, t->awaited_general, sizeof t->awaited_general));
}

/* A block has begun, and there may be more to do than to count it. */
static void meet_block(emu_trace *t, uint64_t address)
{
    t->block = address;
    if (t->blocks == t->stop_block)
        emu_trace_stop(t->owner, EMU_TRACE_BLOCK);
    else if (t->blocks >= t->budget && !is_awaiting(t))
        emu_trace_stop(t->owner, EMU_TRACE_BUDGET);
}

/* Somebody else has counted the block, at least up to `next_look`. */
void emu_trace_at_block(void *trace, uint64_t address)
{
    meet_block(trace, address);
}

static void set_next_look(emu_trace *t)
{
    t->next_look = t->stop_block && t->stop_block < t->budget ? t->stop_block : t->budget;
}

/* Blocks from here on use up the budget. */
void emu_trace_set_budget(emu_trace *t, uint64_t blocks)
{
    t->budget = blocks;
    t->awaited = EMU_TRACE_NOWHERE;
    set_next_look(t);
}

/* emu_trace_stop is called for this block, too; 0 for none. */
void emu_trace_set_stop_block(emu_trace *t, uint64_t block)
{
    t->stop_block = block;
    set_next_look(t);
}

/*
 * The budget is used up, and the guest stands before a block: nobody wants to know of the next ones, until it comes back
 * to this one with the general registers as they are, or so many blocks were executed.
 */
void emu_trace_await(emu_trace *t, uint64_t until)
{
    t->awaited = t->block;
    t->awaited_until = until;
    memcpy(t->awaited_general, t->general, sizeof t->awaited_general);
}

/* From a block callback: drop the block's translation, which lacks new hooks or is of old code, and enter it again. */
int emu_trace_translate_again(emu_trace *t, uint64_t address, uint32_t size)
{
    int error = library.control(t->uc, CTL_REMOVE_CACHE, address, address + size);
    t->blocks--;
    return error ? error : library.write_register(t->uc, REG_RIP, &address);
}

/* Shows new code to Python, which puts hooks on the instructions that matter. */
static void on_block(void *uc, uint64_t address, uint32_t size, void *user)
{
    emu_trace *t = user;
    (void)uc;
    finish_stores(t);
    if (t->look_for_tables)
        look_for_tables(t);
    if (is_new(t, address, size))
        emu_trace_new_block(t->owner, address, size);
    t->blocks++;
    if (t->full) {
        t->full = 0;
        emu_trace_stop(t->owner, EMU_TRACE_FULL); /* which may raise the limit */
    }
    meet_block(t, address);
}
