/* Reads of recoveries in chunks, each kept once: see chunks.py for the meaning. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>

typedef struct {
    uint64_t unit, mask, value;
} emu_read;

/* A unit is one of those behind which a chunk ends: about one in 33. No chunk is longer than LONGEST. */
enum { ENDS = 24, AMONG = 797, LONGEST = 128 };

/* Reads `begin` to `begin + count` of all. From crash point `first` on and before `last` it is known whether some of
 * them are in doubt. */
typedef struct {
    uint64_t begin, first, last;
    uint32_t count;
    int doubtful;
} chunk;

/* What a unit holds: `count` spans from `begin` on, each with the crash point from which on it is so. */
typedef struct {
    uint64_t unit, begin, count;
} settled;

typedef struct {
    uint64_t since, value;
    int known;
} span;

typedef struct {
    emu_read *reads;
    chunk *chunks;
    settled *settled;
    span *spans;
    uint64_t read_count, read_room, chunk_count, chunk_room, settled_count, settled_room, span_count, span_room;
    /* Numbers, plus 1, by hash. */
    uint32_t *by_reads, *by_unit;
    uint64_t reads_slots, unit_slots;
} emu_chunks;

emu_chunks *emu_chunks_new(void)
{
    return calloc(1, sizeof(emu_chunks));
}

void emu_chunks_free(emu_chunks *c)
{
    free(c->reads);
    free(c->chunks);
    free(c->settled);
    free(c->spans);
    free(c->by_reads);
    free(c->by_unit);
    free(c);
}

/* Make room for `more` items behind the `used` ones; 0, or -1 without memory. */
static int reserve(void **items, uint64_t *room, uint64_t used, uint64_t more, size_t size)
{
    if (used + more <= *room)
        return 0;
    uint64_t wanted = *room ? *room : 64;
    while (wanted < used + more)
        wanted += wanted / 2;
    void *moved = realloc(*items, wanted * size);
    if (!moved)
        return -1;
    *items = moved;
    *room = wanted;
    return 0;
}

static uint64_t mix(uint64_t hash, uint64_t word)
{
    hash = (hash ^ word) * 0x9E3779B97F4A7C15u;
    return hash ^ hash >> 32;
}

static uint64_t hash_of_reads(const emu_read *reads, size_t count)
{
    uint64_t hash = count;
    for (size_t n = 0; n < count; n++)
        hash = mix(mix(mix(hash, reads[n].unit), reads[n].mask), reads[n].value);
    return hash;
}

static uint64_t hash_of_chunk(const emu_chunks *c, uint32_t number)
{
    return hash_of_reads(c->reads + c->chunks[number].begin, c->chunks[number].count);
}

static uint64_t hash_of_settled(const emu_chunks *c, uint32_t number)
{
    return mix(0, c->settled[number].unit);
}

/* A table of twice as many slots, or the first one, where `count` items would fill more than half of it. */
static int widen(const emu_chunks *c, uint32_t **table, uint64_t *slots, uint64_t count,
                 uint64_t (*hash_of)(const emu_chunks *, uint32_t))
{
    if (2 * (count + 1) <= *slots)
        return 0;
    uint64_t wider = *slots ? 2 * *slots : 256;
    uint32_t *made = calloc(wider, sizeof *made);
    if (!made)
        return -1;
    for (uint32_t number = 0; number < count; number++) {
        uint64_t slot = hash_of(c, number) & (wider - 1);
        while (made[slot])
            slot = (slot + 1) & (wider - 1);
        made[slot] = number + 1;
    }
    free(*table);
    *table = made;
    *slots = wider;
    return 0;
}

/* The slot of `unit`, or the free one where it would be. */
static uint64_t slot_of_unit(const emu_chunks *c, uint64_t unit)
{
    uint64_t slot = mix(0, unit) & (c->unit_slots - 1);
    while (c->by_unit[slot] && c->settled[c->by_unit[slot] - 1].unit != unit)
        slot = (slot + 1) & (c->unit_slots - 1);
    return slot;
}

/*
 * What a unit of which that was not said yet holds: from crash point since[n] on values[n] where that is `known`, else
 * one of several; since[0] is 0. 0, or -1 without memory.
 */
int emu_chunks_settle(emu_chunks *c, uint64_t unit, const uint64_t *since, const uint64_t *values,
                      const uint8_t *known, size_t count)
{
    if (reserve((void **)&c->settled, &c->settled_room, c->settled_count, 1, sizeof *c->settled) ||
        reserve((void **)&c->spans, &c->span_room, c->span_count, count, sizeof *c->spans) ||
        widen(c, &c->by_unit, &c->unit_slots, c->settled_count, hash_of_settled))
        return -1;
    uint64_t slot = slot_of_unit(c, unit);
    c->settled[c->settled_count] = (settled){unit, c->span_count, count};
    c->by_unit[slot] = ++c->settled_count;
    for (size_t n = 0; n < count; n++)
        c->spans[c->span_count++] = (span){since[n], values[n], known[n]};
    return 0;
}

/* The number of the chunk of these reads; -1 without memory. */
static int64_t number_of(emu_chunks *c, const emu_read *reads, size_t count)
{
    if (widen(c, &c->by_reads, &c->reads_slots, c->chunk_count, hash_of_chunk))
        return -1;
    uint64_t slot = hash_of_reads(reads, count) & (c->reads_slots - 1);
    for (; c->by_reads[slot]; slot = (slot + 1) & (c->reads_slots - 1)) {
        const chunk *known = &c->chunks[c->by_reads[slot] - 1];
        if (known->count == count && !memcmp(c->reads + known->begin, reads, count * sizeof *reads))
            return c->by_reads[slot] - 1;
    }
    if (reserve((void **)&c->reads, &c->read_room, c->read_count, count, sizeof *reads) ||
        reserve((void **)&c->chunks, &c->chunk_room, c->chunk_count, 1, sizeof *c->chunks))
        return -1;
    memcpy(c->reads + c->read_count, reads, count * sizeof *reads);
    c->chunks[c->chunk_count] = (chunk){.begin = c->read_count, .count = count};
    c->read_count += count;
    c->by_reads[slot] = ++c->chunk_count;
    return c->chunk_count - 1;
}

/*
 * Cut reads into chunks and put their numbers in `numbers`, which has room for `count`; how many there are, or -1
 * without memory. A chunk ends where its last unit says so, whatever lies before it.
 */
ssize_t emu_chunks_add(emu_chunks *c, const emu_read *reads, size_t count, uint32_t *numbers)
{
    ssize_t found = 0;
    for (size_t begin = 0, n = 1; n <= count; n++) {
        if (n != count && n - begin != LONGEST && reads[n - 1].unit % AMONG >= ENDS)
            continue;
        int64_t number = number_of(c, reads + begin, n - begin);
        if (number < 0)
            return -1;
        numbers[found++] = number;
        begin = n;
    }
    return found;
}

/* How many reads these chunks have. */
uint64_t emu_chunks_size(const emu_chunks *c, const uint32_t *numbers, size_t count)
{
    uint64_t size = 0;
    for (size_t n = 0; n < count; n++)
        size += c->chunks[numbers[n]].count;
    return size;
}

/* The reads of a chunk, until chunks are added, and their count. */
const emu_read *emu_chunks_reads(const emu_chunks *c, uint32_t number, size_t *count)
{
    *count = c->chunks[number].count;
    return c->reads + c->chunks[number].begin;
}

/* Whether a read need not give its value at a crash point. From `first` on and before `last` that is the same. */
static int is_doubtful(const emu_chunks *c, const emu_read *read, uint64_t point, uint64_t *first, uint64_t *last)
{
    uint64_t slot = c->unit_slots ? slot_of_unit(c, read->unit) : 0;
    if (!c->unit_slots || !c->by_unit[slot])
        return 1;
    const settled *unit = &c->settled[c->by_unit[slot] - 1];
    const span *spans = c->spans + unit->begin;
    uint64_t low = 0, high = unit->count; /* the last span that begins at `point` or before */
    while (high - low > 1) {
        uint64_t middle = low + (high - low) / 2;
        if (spans[middle].since <= point)
            low = middle;
        else
            high = middle;
    }
    if (spans[low].since > *first)
        *first = spans[low].since;
    if (high < unit->count && spans[high].since < *last)
        *last = spans[high].since;
    return !spans[low].known || (spans[low].value & read->mask) != read->value;
}

/*
 * The first chunk of numbers[from..count) in which reads need not give their values at crash point `point`, and the
 * places of these in it: `found` of them, at most LONGEST. `count` where there is none.
 */
size_t emu_chunks_look(emu_chunks *c, const uint32_t *numbers, size_t from, size_t count, uint64_t point,
                       uint32_t *places, size_t *found)
{
    *found = 0;
    for (size_t at = from; at < count; at++) {
        chunk *here = &c->chunks[numbers[at]];
        if (here->first <= point && point < here->last && !here->doubtful)
            continue;
        here->first = 0;
        here->last = UINT64_MAX;
        for (uint32_t n = 0; n < here->count; n++)
            if (is_doubtful(c, c->reads + here->begin + n, point, &here->first, &here->last))
                places[(*found)++] = n;
        here->doubtful = *found != 0;
        if (*found)
            return at;
    }
    return count;
}
