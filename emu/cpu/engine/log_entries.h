/*
 * The entries that translated code and the library's functions append to the log: room for them, and what they do not say
 * themselves, their origins.
 *
 * Part of _trace.csrc.c.
 */

/* ---- Room ---- */

static uint64_t undecoded(const store_log *log)
{
    uint64_t count = 0;
    for (size_t n = 0; n < log->chunk_count; n++) {
        const packed *first = n ? log->chunks[n].first : log->decoded;
        const packed *end = n + 1 == log->chunk_count ? log->next : log->chunks[n].end;
        count += (uint64_t)(end - first);
    }
    return count;
}

/* Where room must be looked for again: a block may append `most` entries, and the trace may be full then. */
static void set_soft_end(store_log *log)
{
    const emu_trace *t = log->trace;
    uint64_t made = t->count + undecoded(log), left = made <= t->limit ? t->limit - made + 1 : 1;
    log->soft = log->chunks[log->chunk_count - 1].end - log->most - HELPERS_ROOM;
    if (log->next < log->soft && left < (uint64_t)(log->soft - log->next))
        log->soft = log->next + left;
}

/*
 * Memory of the process's last log, for the next one: the kernel's zeroing of fresh pages costs as much as the entries.
 * It belongs to whom emu_observed belongs to.
 */
static struct { void *chunk[SPARE_CHUNKS]; size_t count; } spare;

static void *take_chunk(void)
{
    void *memory;
    if (spare.count)
        return spare.chunk[--spare.count];
    if (posix_memalign(&memory, PACKED_CHUNK, PACKED_CHUNK))
        return NULL;
    /* One page fault for a huge page, or all at once. */
    madvise(memory, PACKED_CHUNK, MADV_HUGEPAGE);
#ifdef MADV_POPULATE_WRITE
    madvise(memory, PACKED_CHUNK, MADV_POPULATE_WRITE);
#endif
    return memory;
}

static void give_chunk(void *memory)
{
    if (spare.count < SPARE_CHUNKS)
        spare.chunk[spare.count++] = memory;
    else
        free(memory);
}

static bool add_packed_chunk(store_log *log)
{
    packed_chunk *chunks = realloc(log->chunks, (log->chunk_count + 1) * sizeof *chunks);
    void *memory;
    if (!chunks)
        return false;
    log->chunks = chunks;
    if (!(memory = take_chunk()))
        return false;
    if (log->chunk_count)
        chunks[log->chunk_count - 1].end = log->next;
    chunks[log->chunk_count].first = memory;
    chunks[log->chunk_count].end = (packed *)((uint8_t *)memory + PACKED_CHUNK);
    log->chunk_count++;
    log->next = memory;
    return true;
}

static void make_room(store_log *log);

static void put(store_log *log, uint64_t data, uint64_t offset, unsigned size, bool continued, uint32_t number)
{
    if (log->next == log->chunks[log->chunk_count - 1].end)
        make_room(log);
    *log->next++ = (packed){data, offset | (uint64_t)continued << CONTINUED_BIT | (uint64_t)(size - 1) << SIZE_AT |
                                      (uint64_t)number << ORIGIN_AT};
}

/* ---- Origins ---- */

static uint32_t origin_of(store_log *log, uint64_t pc, const emu_trace_site *site, enum role role, uint8_t piece,
                          bool swapped)
{
    uint32_t *bucket = &log->buckets[((pc + role) * 0x9E3779B97F4A7C15u) >> 50], n;
    for (n = *bucket; n; n = log->origins[n].next) {
        const origin *o = &log->origins[n];
        if (o->pc == pc && o->site == site && o->role == role && o->piece == piece && o->swapped == swapped)
            return n;
    }
    n = log->origin_count + 1;
    if (n >= log->origin_room) {
        uint32_t room = log->origin_room ? 2 * log->origin_room : 1024;
        origin *origins = room > (uint32_t)1 << ORIGIN_BITS ? NULL : realloc(log->origins, room * sizeof *origins);
        if (!origins) {
            log->trace->starved = log->trace->full = 1;
            return 0;
        }
        log->origins = origins;
        log->origin_room = room;
        memset(&origins[0], 0, sizeof *origins);
    }
    log->origin_count = n;
    log->origins[n] = (origin){pc, site, (uint8_t)role, piece, swapped, *bucket};
    *bucket = n;
    return n;
}
