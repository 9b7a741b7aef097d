/*
 * Unicorn notices stores to a page of translated code through the linear address that the code was
 * fetched from; through another one it stops looking after the first store, or never begins. So: whenever a page gets its
 * first code, all cached translations of addresses go, that the next store through any of them is looked at; and as long
 * as the page has code, they stay so.
 *
 * Part of _system.csrc.c.
 */

static bool has_code(emu_system *s, uint64_t page)
{
    return page / 8 < s->code_pages_size && s->code_pages[page / 8] >> page % 8 & 1;
}

void NAME(tlb_protect_code)(void *uc, uint64_t ram)
{
    emu_system *s = by_engine(uc);
    uint64_t page = ram >> PAGE_SHIFT;
    library.protect_code(uc, ram);
    if (!s)
        return;
    if (page / 8 >= s->code_pages_size) {
        size_t size = page / 8 * 2 + 64;
        uint8_t *more = realloc(s->code_pages, size);
        if (!more)
            abort();
        memset(more + s->code_pages_size, 0, size - s->code_pages_size);
        s->code_pages = more;
        s->code_pages_size = size;
    }
    s->code_pages[page / 8] |= (uint8_t)(1 << page % 8);
    s->code_changed = 1;
    library.forget_addresses(s->cpu);
}

void NAME(tlb_unprotect_code)(void *uc, uint64_t ram)
{
    emu_system *s = by_engine(uc);
    uint64_t page = ram >> PAGE_SHIFT;
    if (s && has_code(s, page))
        s->code_pages[page / 8] &= (uint8_t)~(1 << page % 8);
    library.unprotect_code(uc, ram);
}

static bool overlaps_span(emu_system *s, const code_span *span, uint64_t ram, uint64_t size)
{
    for (unsigned n = 0; n < 2; n++) {
        uint64_t first = span->size[n] ? library.ram_address(s->uc, (void *)span->host[n]) : UINT64_MAX;
        if (first != UINT64_MAX && overlap(ram, size, first, span->size[n]))
            return true;
    }
    return false;
}

/*
 * A store to code of the block that is executed instruction by instruction for a debugger. As a whole block it would be
 * given up there; that of the instruction itself the library sees.
 */
static bool changes_block(emu_system *s, uint64_t ram, uint64_t size)
{
    code_span block = {{NULL}, {0}}, instruction = block;
    ((void (*)(void *, code_span *, code_span *))s->spans)((void *)s->argument, &block, &instruction);
    return overlaps_span(s, &block, ram, size) && !overlaps_span(s, &instruction, ram, size);
}

/* Before tlb_set_dirty, for the same store. */
void NAME(tb_invalidate_phys_page_fast)(void *uc, void *pages, uint64_t ram, int size, uintptr_t caller)
{
    emu_system *s = by_engine(uc);
    if (s) {
        s->written_page = ram >> PAGE_SHIFT;
        s->code_changed |= has_code(s, s->written_page);
    }
    library.forget_page(uc, pages, ram, size, caller);
    if (s && s->instruction_blocks && changes_block(s, ram, (uint64_t)size)) {
        library.restore(s->cpu, caller, true);
        tell_of_restart(s);
        library.leave(s->cpu);
    }
}

/* "Stores through this address need not be looked at any more." */
void NAME(tlb_set_dirty)(void *cpu, uint64_t address)
{
    emu_system *s = by_cpu(cpu);
    if (!s || !has_code(s, s->written_page))
        library.set_dirty(cpu, address);
}

int emu_system_has_code(emu_system *s, void *host, size_t size);

/*
 * A translation of an address is cached. Unicorn looks at every store through one that code could be fetched through,
 * for ever and at ten times the price: that is all of a kernel's data until it marks it as no code. As the first code
 * of a page makes all translations go, stores to a page without any need not be looked at.
 */
void NAME(tlb_set_page_with_attrs)(void *cpu, uint64_t address, uint64_t physical, uint32_t attributes, int rights,
                                   int mmu, uint64_t size)
{
    emu_system *s = by_cpu(cpu);
    void *host;
    library.set_page(cpu, address, physical, attributes, rights, mmu, size);
    if (!s || (rights & (PAGE_WRITE | PAGE_EXEC)) != (PAGE_WRITE | PAGE_EXEC))
        return;
    host = library.host_address(s->env, address, FETCH, mmu);
    if (host && !emu_system_has_code(s, host, 1))
        library.set_dirty(cpu, address);
}

/* Whether code was translated from one of the pages that these bytes of guest memory lie in. */
int emu_system_has_code(emu_system *s, void *host, size_t size)
{
    uintptr_t page = (uintptr_t)host >> PAGE_SHIFT, last = ((uintptr_t)host + size - 1) >> PAGE_SHIFT;
    for (; size && page <= last; page++) {
        uint64_t ram = library.ram_address(s->uc, (void *)(page << PAGE_SHIFT));
        if (ram != UINT64_MAX && has_code(s, ram >> PAGE_SHIFT))
            return 1;
    }
    return 0;
}

/* The host changed guest memory, within one page, while the engine stands still. */
void emu_system_host_wrote(emu_system *s, void *host, size_t size)
{
    uint64_t ram = library.ram_address(s->uc, host);
    if (ram != UINT64_MAX && has_code(s, ram >> PAGE_SHIFT))
        library.forget_range(s->uc, ram, ram + size);
}
