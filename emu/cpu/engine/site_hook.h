/*
 * For both logs, instructions that matter; and the hook on them.
 *
 * Part of _trace.csrc.c.
 */

/* Whether a compare-and-swap is about to fail. */
static bool cas_fails(emu_trace *t, const emu_trace_site *s)
{
    uint64_t linear = linear_address(s);
    uint64_t found[2] = {0, 0}, expected[2] = {reg(t, REG_RAX), reg(t, REG_RDX)};
    unsigned half = s->site & EMU_SITE_CAS_PAIR ? s->size / 2u : s->size;
    uint64_t mask = half < 8 ? ((uint64_t)1 << 8 * half) - 1 : UINT64_MAX;
    found[0] = read_linear(t, linear, half);
    if (((found[0] ^ expected[0]) & mask) || !(s->site & EMU_SITE_CAS_PAIR))
        return (found[0] ^ expected[0]) & mask;
    found[1] = read_linear(t, linear + half, half);
    return (found[1] ^ expected[1]) & mask;
}

/* An instruction that matters is about to execute; a REP instruction announces itself before each iteration. */
static void on_site(void *uc, uint64_t address, uint32_t size, void *user)
{
    emu_trace_site *s = user;
    emu_trace *t = s->trace;
    emu_trace_entry *e = NULL;
    uint64_t physical = 0;
    (void)uc, (void)address, (void)size;
    finish_stores(t);
    t->site_pc = s->pc;
    t->site = s->site;
    t->site_entry = EMU_TRACE_NOWHERE;
    if (s->site & EMU_SITE_REP) {
        uint64_t left = reg(t, REG_RCX) & s->address_mask;
        if (t->rep_pc != s->pc || left + 1 != t->rep_count || t->rep_instance != t->instance)
            t->rep_instance = ++t->instance;
        t->rep_pc = s->pc;
        t->rep_count = left;
        return;
    }
    t->instance++;
    if (s->site & EMU_SITE_FLUSH) {
        if (effective_address(s, &physical) && physical - t->base < t->units * 8 &&
            (e = append(t, EMU_TRACE_FLUSH, s->pc)))
            e->address = physical;
    } else if (s->site & EMU_SITE_SPECIAL && s->detail == EMU_SPECIAL_PAGING) {
        t->look_for_tables = 1;
    } else if (s->site & EMU_SITE_SPECIAL) {
        e = append(t, EMU_TRACE_SPECIAL, s->pc);
    } else if (s->site & (EMU_SITE_FENCE | EMU_SITE_LOCKED)) {
        bool failed = false;
        if (s->site & (EMU_SITE_CAS | EMU_SITE_CAS_PAIR))
            failed = cas_fails(t, s);
        if ((e = append(t, EMU_TRACE_FENCE, s->pc)))
            e->value = failed;
    }
    if (e) {
        e->instance = t->instance;
        e->site = s->site;
        e->detail = s->detail;
        t->site_entry = t->count - 1;
    }
}

/* The instruction at `pc` raised a fault, so that a flush or fence that it announced did not happen. */
static void void_entry_at(emu_trace *t, uint64_t pc)
{
    if (t->site_pc == pc && t->site_entry < t->count)
        t->chunks[t->site_entry / EMU_TRACE_CHUNK][t->site_entry % EMU_TRACE_CHUNK].kind = EMU_TRACE_VOID;
    t->site_entry = EMU_TRACE_NOWHERE;
    t->rep_instance = 0; /* what goes on afterwards is another store */
}

static uint8_t kind_of_site(const emu_trace_site *s)
{
    return s->site & EMU_SITE_FLUSH ? EMU_TRACE_FLUSH : s->site & EMU_SITE_SPECIAL ? EMU_TRACE_SPECIAL : EMU_TRACE_FENCE;
}
