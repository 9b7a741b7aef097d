/*
 * From the entries that translated code appended to those of the trace.
 *
 * Part of _trace.csrc.c.
 */

static void decode_store(store_log *log, const origin *o, uint64_t data, uint64_t offset, unsigned size, bool continued)
{
    emu_trace *t = log->trace;
    uint8_t kind = o->site ? o->site->site : 0;
    emu_trace_entry *e;
    if (offset % PAGE + size > PAGE) /* its parts were logged on the slow path */
        return;
    if (kind & EMU_SITE_REP) {
        if (t->site_pc != o->pc || t->instance != t->rep_instance)
            t->rep_instance = ++t->instance;
        t->site_pc = o->pc;
        t->site = kind;
        t->site_entry = EMU_TRACE_NOWHERE;
    } else if (o->site && !continued && !(kind & (EMU_SITE_FENCE | EMU_SITE_LOCKED | EMU_SITE_SPECIAL)) &&
               !(log->last_pc == o->pc && log->last_piece < o->piece)) {
        t->site_pc = o->pc;
        t->site = kind;
        t->site_entry = EMU_TRACE_NOWHERE;
        t->instance++;
    } else if (t->site_pc != o->pc && !continued) {
        t->site_pc = 0;
        t->instance++;
    }
    log->last_pc = o->pc;
    log->last_piece = o->piece;
    if (!(e = append(t, EMU_TRACE_STORE, o->pc)))
        return;
    if (o->swapped)
        data = __builtin_bswap64(data) >> (64 - 8 * size);
    e->address = t->base + offset;
    e->size = (uint8_t)size;
    e->value = size < 8 ? data & (((uint64_t)1 << 8 * size) - 1) : data;
    e->instance = t->instance;
    if (t->site_pc)
        e->site = t->site;
}

static void decode_other(store_log *log, const origin *o, uint64_t data, uint64_t offset, unsigned size)
{
    emu_trace *t = log->trace;
    emu_trace_entry *e = NULL;
    switch (o->role) {
    case BEGINS:
        t->rep_instance = ++t->instance;
        t->site_pc = o->pc;
        t->site = o->site->site;
        t->site_entry = EMU_TRACE_NOWHERE;
        break;
    case AT_SITE:
        t->site_pc = o->pc;
        t->site = o->site->site;
        t->instance++;
        if (!(e = append(t, kind_of_site(o->site), o->pc)))
            return;
        e->instance = t->instance;
        e->site = o->site->site;
        e->detail = o->site->detail;
        e->value = data;
        e->address = e->kind == EMU_TRACE_FLUSH ? t->base + offset : 0;
        t->site_entry = t->count - 1;
        break;
    case FAULTED:
        void_entry_at(t, o->pc);
        break;
    case MARKED:
        if (!(e = append(t, EMU_TRACE_STORE, o->pc)))
            return;
        e->instance = --t->marks;
        break;
    default:
        t->site_pc = 0;
        t->site_entry = EMU_TRACE_NOWHERE;
        if (o->role != NOTED_ON)
            t->instance++;
        if (!(e = append(t, o->role == DEVICE ? EMU_TRACE_DEVICE : EMU_TRACE_STORE, o->pc)))
            return;
        e->instance = t->instance;
    }
    if (e && e->kind != EMU_TRACE_FLUSH && o->role != AT_SITE) {
        e->address = o->role == DEVICE ? 0 : t->base + offset;
        e->size = o->role == DEVICE ? 0 : (uint8_t)size;
        e->value = data;
    }
}

static void decode_one(store_log *log, packed p)
{
    const origin *o = &log->origins[p.meta >> ORIGIN_AT];
    uint64_t offset = p.meta & (((uint64_t)1 << OFFSET_BITS) - 1);
    unsigned size = (p.meta >> SIZE_AT & 7) + 1;
    if (o->role == BY_CODE || o->role == BY_HELPER) {
        decode_store(log, o, p.value, offset, size, p.meta >> CONTINUED_BIT & 1);
        return;
    }
    if (o->role != MARKED)
        log->last_pc = EMU_TRACE_NOWHERE;
    decode_other(log, o, p.value, offset, size);
}

/* Everything that was logged so far becomes entries of the trace, and the chunks but the last go. */
static void decode(store_log *log)
{
    for (size_t n = 0; n < log->chunk_count; n++) {
        bool is_last = n + 1 == log->chunk_count;
        packed *end = is_last ? log->next : log->chunks[n].end;
        for (packed *p = n ? log->chunks[n].first : log->decoded; p < end; p++)
            decode_one(log, *p);
        if (!is_last)
            give_chunk(log->chunks[n].first);
        else
            log->chunks[0] = log->chunks[n];
    }
    log->chunk_count = 1;
    log->decoded = log->next;
}
