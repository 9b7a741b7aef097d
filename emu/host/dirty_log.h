/*
 * Which pages were stored to, their copies from before that, and going back to them: over the ranges of faults.h.
 *
 * Part of _kernel.csrc.c.
 */

static int emu_dirty_start(uintptr_t address, size_t size, size_t page) {
    size_t whole = round_up(size, page);
    _Atomic uint64_t *bits = calloc(whole / page / 64 + 1, sizeof *bits);
    if (!bits)
        return -ENOMEM;
    int slot = add_range(address, size, page, DIRTY, bits, -1, 0);
    if (slot < 0) {
        free((void *)bits);
        return slot;
    }
    if (mprotect((void *)address, whole, PROT_READ)) {
        int error = -errno;
        mprotect((void *)address, whole, PROT_READ | PROT_WRITE);
        remove_range(slot);
        return error;
    }
    return slot;
}

static void take_run(range *r, uint64_t first, uint64_t count) {
    if (mprotect((void *)(r->start + first * r->page), count * r->page, PROT_READ))
        set_bits(r, first, count); /* still open to stores we would not see: so still dirty for the next round */
}

/* Take dirty pages, protected again, as runs in rising order; with *more set, call again and it goes on from there. */
static int64_t emu_dirty_collect(int slot, emu_run *runs, size_t capacity, int *more) {
    pthread_mutex_lock(&table_lock);
    range *r = &ranges[slot];
    uint64_t pages = (r->end - r->start) / r->page, words = (pages + 63) / 64, word = r->cursor;
    size_t used = 0;
    emu_run open = {0, 0};
    /* A word yields at most 32 runs and one that was still open. */
    for (; word < words && used + 33 <= capacity; word++) {
        if (!atomic_load_explicit(&r->bits[word], memory_order_relaxed))
            continue;
        uint64_t bits = atomic_exchange(&r->bits[word], 0);
        while (bits) {
            unsigned low = __builtin_ctzll(bits);
            uint64_t rest = ~(bits >> low);
            unsigned length = rest ? __builtin_ctzll(rest) : 64;
            uint64_t first = word * 64 + low;
            if (open.count && open.first + open.count == first) {
                open.count += length;
            } else {
                if (open.count) {
                    take_run(r, open.first, open.count);
                    runs[used++] = open;
                }
                open = (emu_run){first, length};
            }
            bits = low + length >= 64 ? 0 : bits & (~0ull << (low + length));
        }
    }
    if (open.count) {
        take_run(r, open.first, open.count);
        runs[used++] = open;
    }
    r->cursor = word < words ? word : 0;
    *more = word < words;
    pthread_mutex_unlock(&table_lock);
    return (int64_t)used;
}

static int emu_dirty_stop(int slot) {
    range *r = &ranges[slot];
    int error = mprotect((void *)r->start, r->end - r->start, PROT_READ | PROT_WRITE) ? -errno : 0;
    remove_range(slot);
    return error;
}

/* From now on copy each page to the same offset of `before`, an area of the range's size, ahead of its first store. */
static int emu_dirty_keep(int slot, uintptr_t before) {
    range *r = &ranges[slot];
    r->unchanged = calloc((r->end - r->start) / r->page, 1);
    if (!r->unchanged)
        return -ENOMEM;
    r->before = before;
    return 0;
}

/*
 * Copy the pages that are not what they were to `copies`, one behind the other, and their numbers, rising, to `pages`.
 * How many; there must be room for all that were stored to.
 */
static size_t emu_dirty_save(int slot, uint64_t *pages, uintptr_t copies) {
    const range *r = &ranges[slot];
    uint64_t words = ((r->end - r->start) / r->page + 63) / 64;
    size_t count = 0;
    for (uint64_t word = 0; word < words; word++)
        for (uint64_t bits = atomic_load_explicit(&r->bits[word], memory_order_relaxed); bits; bits &= bits - 1) {
            uint64_t page = word * 64 + __builtin_ctzll(bits);
            const void *now = (const void *)(r->start + page * r->page);
            if (memcmp(now, (const void *)(r->before + page * r->page), r->page)) {
                memcpy((void *)(copies + count * r->page), now, r->page);
                pages[count++] = page;
            }
        }
    return count;
}

/* Let a page hold `copy`, but where `taken` has bits what it held before. */
static void put_back(uint64_t *now, const uint64_t *before, const uint64_t *copy, const uint64_t *taken, size_t page) {
    for (size_t n = 0; n < page / sizeof *now; n++) {
        uint64_t then = taken ? (copy[n] & ~taken[n]) | (before[n] & taken[n]) : copy[n];
        if (now[n] != then)
            now[n] = then;
    }
}

/*
 * Put back every page that was stored to. They stay writable, for whoever stores to them again; a page that was found
 * unchanged this many times in a row is protected again.
 *
 * The `count` pages that were saved get their copies, but for the bits that `taken` names, if it is given.
 */
static void emu_dirty_undo(int slot, unsigned patience, const uint64_t *pages, size_t count, uintptr_t copies,
                           uintptr_t taken) {
    range *r = &ranges[slot];
    uint64_t words = ((r->end - r->start) / r->page + 63) / 64;
    size_t saved = 0;
    for (size_t n = 0; n < count; n++) {
        uintptr_t at = pages[n] * r->page;
        put_back((uint64_t *)(r->start + at), (const uint64_t *)(r->before + at), (const uint64_t *)(copies + n * r->page),
                 taken ? (const uint64_t *)(taken + n * r->page) : NULL, r->page);
    }
    for (uint64_t word = 0; word < words; word++) {
        uint64_t bits = atomic_load_explicit(&r->bits[word], memory_order_relaxed);
        for (; bits; bits &= bits - 1) {
            uint64_t page = word * 64 + __builtin_ctzll(bits);
            void *now = (void *)(r->start + page * r->page);
            const void *then = (const void *)(r->before + page * r->page);
            while (saved < count && pages[saved] < page)
                saved++;
            if (saved < count && pages[saved] == page)
                r->unchanged[page] = 0;
            else if (memcmp(now, then, r->page)) {
                memcpy(now, then, r->page);
                r->unchanged[page] = 0;
            } else if (++r->unchanged[page] >= patience) {
                r->unchanged[page] = 0;
                if (mprotect(now, r->page, PROT_READ) == 0)
                    atomic_fetch_and(&r->bits[word], ~(1ull << page % 64));
            }
        }
    }
}

/* The next run of pages from `from` on that were stored to, which stay so; its count is 0 when there is none. */
static emu_run emu_dirty_next(int slot, uint64_t from) {
    const range *r = &ranges[slot];
    uint64_t pages = (r->end - r->start) / r->page;
    emu_run found = {from, 0};
    while (found.first < pages && !is_dirty(r, found.first))
        found.first += atomic_load(&r->bits[found.first / 64]) ? 1 : 64 - found.first % 64;
    while (found.first + found.count < pages && is_dirty(r, found.first + found.count))
        found.count++;
    return found;
}
