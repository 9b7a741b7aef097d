/*
 * The bytes of the NVDIMM that a power failure left in doubt: which they are, which a run has read or stored to since it
 * began, and what it read.
 *
 * Part of _trace.csrc.c.
 */

/* Remember to restore what is known of the unit; false when memory ran out. */
static bool touch(emu_trace *t, uint64_t at)
{
    if (t->touches == t->touch_room) {
        size_t room = t->touch_room ? 2 * t->touch_room : 256;
        uint64_t *touched = realloc(t->touched, room * sizeof *touched);
        if (!touched)
            return false;
        t->touched = touched;
        t->touch_room = room;
    }
    t->touched[t->touches++] = at;
    return true;
}

/* The number of a unit among those that can be unknown; they are not so many when it is none of them. */
static uint64_t number_of(const emu_trace *t, uint64_t unit)
{
    return unit < t->base ? UINT64_MAX : (unit - t->base) / 8;
}

static uint8_t learn(emu_trace *t, uint64_t unit, uint8_t bytes)
{
    uint64_t at = number_of(t, unit);
    uint8_t before;
    if (at >= t->units)
        return 0;
    before = t->unknown[at] & bytes;
    if (!before || !touch(t, at))
        return 0;
    t->unknown[at] &= (uint8_t)~bytes;
    return before;
}

/* Reads of these units, when they are unknown, are to be answered (or no more) by emu_trace_unknown_read. */
void emu_trace_ask(emu_trace *t, uint64_t unit, int ask)
{
    uint64_t at = number_of(t, unit);
    if (at < t->units)
        t->asked[at] = ask ? 0xff : 0;
}

/* In this run, nobody need be asked for these bytes: their values are in memory. */
void emu_trace_give(emu_trace *t, uint64_t unit, uint8_t bytes)
{
    uint64_t at = number_of(t, unit);
    if (at < t->units && touch(t, at))
        t->given[at] |= bytes;
}

static uint64_t mask_of(uint8_t bytes)
{
    uint64_t mask = 0;
    for (unsigned byte = 0; byte < 8; byte++)
        mask |= (uint64_t)(bytes >> byte & 1 ? 0xff : 0) << 8 * byte;
    return mask;
}

void emu_trace_note_read(emu_trace *t, uint64_t unit, uint64_t mask, uint64_t value)
{
    if (t->log)
        decode(t->log); /* how long the log is now */
    if (t->read_count == t->read_room) {
        size_t room = t->read_room ? 2 * t->read_room : 256;
        emu_trace_read *reads = realloc(t->reads, room * sizeof *reads);
        uint64_t *entries = reads ? realloc(t->read_entries, room * sizeof *entries) : NULL;
        uint64_t *blocks = entries ? realloc(t->read_blocks, room * sizeof *blocks) : NULL;
        t->reads = reads ? reads : t->reads;
        t->read_entries = entries ? entries : t->read_entries;
        if (!blocks) {
            t->starved = 1;
            return;
        }
        t->read_blocks = blocks;
        t->read_room = room;
    }
    t->read_entries[t->read_count] = t->count;
    t->read_blocks[t->read_count] = t->blocks;
    t->reads[t->read_count++] = (emu_trace_read){unit, mask, value & mask};
}

/*
 * The reads with at least so many blocks between theirs and that of the one before, the first time `from`, which are the
 * first in their block: their numbers and blocks, for which there is room. How many.
 */
size_t emu_trace_pauses(const emu_trace *t, uint64_t from, uint64_t distance, uint64_t *numbers, uint64_t *blocks)
{
    size_t found = 0;
    for (size_t n = 0; n < t->read_count; n++)
        if (t->read_blocks[n] - from >= distance && (!n || t->read_blocks[n - 1] != t->read_blocks[n])) {
            numbers[found] = n;
            blocks[found++] = from = t->read_blocks[n];
        }
    return found;
}

/* The bytes of `unit` that an access touches, as bits. */
static uint8_t bytes_in(uint64_t unit, uint64_t address, uint64_t size)
{
    uint64_t from = address > unit ? address - unit : 0;
    uint64_t upto = address + size - unit < 8 ? address + size - unit : 8;
    return (uint8_t)(((1u << upto) - 1) & ~((1u << from) - 1));
}

/* These bytes of a unit are being read: note those that are unknown, when it is known what they hold. */
static void note_unknown(emu_trace *t, uint64_t unit, uint8_t bytes, uintptr_t caller)
{
    uint64_t at = number_of(t, unit), mask;
    const region *r;
    bytes = at < t->units ? t->unknown[at] & bytes : 0;
    r = bytes ? region_of(t, unit) : NULL;
    if (!r)
        return;
    if (bytes & t->asked[at] & ~t->given[at]) /* which puts them into memory */
        ask_for(t->watch, unit, bytes, caller);
    learn(t, unit, bytes);
    mask = mask_of(bytes);
    emu_trace_note_read(t, unit, mask, *(const uint64_t *)(r->host + (unit - r->gpa)));
}

/* Whether a physical address is one where bytes can be unknown. */
static bool is_tracked(const emu_trace *t, uint64_t address) { return address - t->base < t->units * 8; }

/* An access to physical memory, within a page: what is stored is known from now on. */
static void note_physical(emu_trace *t, uint64_t start, uint64_t size, bool stores, uintptr_t caller)
{
    if (!is_tracked(t, start))
        return;
    emu_trace_note_access(t);
    for (uint64_t unit = start & ~(uint64_t)7; unit < start + size; unit += 8) {
        uint8_t bytes = bytes_in(unit, start, size);
        if (stores)
            learn(t, unit, bytes);
        else
            note_unknown(t, unit, bytes, caller);
    }
}

/* Something other than an instruction's own access reads guest memory or has stored to it, within a page. */
void emu_trace_accessed(emu_trace *t, uint64_t address, uint64_t size, int stores)
{
    if (t->watch)
        note_physical(t, address, size, stores, 0);
}

static uint8_t *sparse_bytes(uint64_t size)
{
    void *bytes = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return bytes == MAP_FAILED ? NULL : bytes;
}

/* The NVDIMM range: only flushes in it are logged, only reads in it can be of unknown bytes. */
int emu_trace_track(emu_trace *t, uint64_t base, uint64_t size)
{
    t->base = base;
    t->units = size / 8;
    t->unknown = sparse_bytes(t->units);
    t->initial = sparse_bytes(t->units);
    t->asked = sparse_bytes(t->units);
    t->given = sparse_bytes(t->units);
    return t->unknown && t->initial && t->asked && t->given ? 0 : -ENOMEM;
}

/* All bytes of these units are unknown until they are read or stored to, and to be asked for; no others are. */
int emu_trace_set_unknown(emu_trace *t, const uint64_t *units, size_t count)
{
    if (madvise(t->unknown, t->units, MADV_DONTNEED) || madvise(t->initial, t->units, MADV_DONTNEED) ||
        madvise(t->asked, t->units, MADV_DONTNEED) || madvise(t->given, t->units, MADV_DONTNEED))
        return -errno;
    t->touches = t->read_count = 0;
    if (t->watch)
        watch_again(t->watch);
    for (size_t n = 0; n < count; n++) {
        uint64_t at = number_of(t, units[n]);
        if (at < t->units)
            t->unknown[at] = t->initial[at] = t->asked[at] = 0xff;
    }
    return 0;
}

/* The units of which something is known in this run, perhaps several times; how many, with no place for them. */
size_t emu_trace_known(const emu_trace *t, emu_trace_unit *units)
{
    for (size_t n = 0; units && n < t->touches; n++)
        units[n] = (emu_trace_unit){t->base + 8 * t->touched[n], t->unknown[t->touched[n]]};
    return t->touches;
}

/* A run goes on from where this was known, of another one; -ENOMEM when memory ran out. */
int emu_trace_know(emu_trace *t, const emu_trace_unit *units, size_t count)
{
    for (size_t n = 0; n < count; n++) {
        uint64_t at = number_of(t, units[n].unit);
        if (!touch(t, at))
            return -ENOMEM;
        t->unknown[at] = (uint8_t)units[n].unknown;
    }
    return 0;
}

/* A run begins: nothing was read or stored to yet, and nothing given. */
void emu_trace_restore_unknown(emu_trace *t)
{
    if (t->watch)
        begin_watch(t->watch);
    while (t->touches) {
        uint64_t at = t->touched[--t->touches];
        t->unknown[at] = t->initial[at];
        t->given[at] = 0;
    }
    t->read_count = 0;
}
