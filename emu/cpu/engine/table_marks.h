/*
 * For the log by hooks: the marks that the processor makes in page tables which lie in the NVDIMM, of which no hook tells, and
 * the stores whose bytes are not there yet when their hook is called.
 *
 * Part of _trace.csrc.c.
 */

/* `size` bytes at `gpa` are logged, so they are no news in a page table. */
static void know(emu_trace *t, uint64_t gpa, const void *bytes, size_t size)
{
    for (size_t n = 0; n < t->table_count; n++)
        if (gpa - t->tables[n].gpa < PAGE) /* no piece in the log crosses a page */
            memcpy(t->tables[n].known + (gpa - t->tables[n].gpa), bytes, size);
}

/*
 * The engine marks entries of page tables as accessed and dirty when it walks them, and tells nobody. Looked for before
 * anything else is logged, such marks come into the log in the right place.
 */
static void log_marks(emu_trace *t)
{
    for (size_t n = 0; n < t->table_count; n++) {
        table *of = &t->tables[n];
        if (!memcmp(of->known, of->host, PAGE))
            continue;
        for (unsigned at = 0; at < PAGE; at += 8) {
            emu_trace_entry *e;
            if (!memcmp(of->known + at, of->host + at, 8))
                continue;
            memcpy(of->known + at, of->host + at, 8);
            if (!(e = append(t, EMU_TRACE_STORE, reg(t, REG_RIP))))
                return;
            e->address = of->gpa + at;
            e->size = 8;
            memcpy(&e->value, of->known + at, 8);
            e->instance = --t->marks; /* the instruction under way goes on */
        }
    }
}

/*
 * What a store left is read back from memory. Its callback's value cannot be trusted for that: it is not yet swapped
 * for MOVBE, and the store may still fault.
 */
static void finish_stores(emu_trace *t)
{
    while (t->open_count) {
        unfinished *open = &t->open[--t->open_count];
        memcpy(&open->entry->value, open->host, open->entry->size);
        know(t, open->entry->address, &open->entry->value, open->entry->size);
    }
    if (t->table_count)
        log_marks(t);
}

/*
 * Take a page of the NVDIMM as a page table from now on. By now the engine has walked it, to fetch the code behind the
 * instruction that switched to it; so what it held before is made from the log.
 */
static void add_table(emu_trace *t, const region *r, uint64_t gpa)
{
    const uint8_t *host = r->host + (gpa - r->gpa);
    for (size_t n = 0; n < t->table_count; n++)
        if (t->tables[n].gpa == gpa)
            return;
    if (t->table_count == t->table_room) {
        size_t room = t->table_room ? 2 * t->table_room : 4;
        table *tables = realloc(t->tables, room * sizeof *tables);
        if (!tables)
            return; /* then the marks are missing in the log, which is found out at the end */
        t->tables = tables;
        t->table_room = room;
    }
    t->tables[t->table_count].gpa = gpa;
    t->tables[t->table_count].host = host;
    t->table_count++;
    if (!r->initial) {
        know(t, gpa, host, PAGE);
        return;
    }
    know(t, gpa, r->initial + (gpa - r->gpa), PAGE);
    for (uint64_t n = 0; n < t->count; n++) {
        const emu_trace_entry *e = emu_trace_at(t, n);
        if (e->kind == EMU_TRACE_STORE)
            know(t, e->address, &e->value, e->size);
    }
}

/* The tables in the NVDIMM below the one of `size` bytes at `gpa`, itself included: `levels` deep, `left` in all. */
static void find_tables(emu_trace *t, uint64_t gpa, unsigned size, unsigned levels, bool wide, unsigned *left)
{
    const region *r = region_of(t, gpa);
    const uint8_t *host;
    if (!r || !*left)
        return;
    --*left;
    host = r->host + (gpa - r->gpa);
    if (r->logged)
        add_table(t, r, gpa & ~(uint64_t)(PAGE - 1));
    for (unsigned at = 0; levels > 1 && at < size; at += wide ? 8 : 4) {
        uint64_t entry = 0;
        memcpy(&entry, host + at, wide ? 8 : 4);
        if ((entry & 0x81) == 1) /* present, not a large page */
            find_tables(t, entry & (wide ? 0x000ffffffffff000u : 0xfffff000u), PAGE, levels - 1, wide, left);
    }
}

/* After the guest may have changed its page tables' root: which of them are in the NVDIMM. */
static void look_for_tables(emu_trace *t)
{
    uint64_t cr3 = t->control[3], cr4 = t->control[4];
    bool is_long = is_long_mode(t), pae = cr4 & 0x20;
    unsigned levels = is_long ? (cr4 & 0x1000 ? 5 : 4) : pae ? 3 : 2, left = MOST_TABLES;
    t->look_for_tables = 0;
    t->table_count = 0;
    if (t->control[0] >> 31 & 1)
        find_tables(t, cr3 & (is_long ? 0x000ffffffffff000u : pae ? 0xffffffe0u : 0xfffff000u),
                    levels == 3 ? 32 : PAGE, levels, is_long || pae, &left);
    if (t->table_count)
        log_marks(t);
}
