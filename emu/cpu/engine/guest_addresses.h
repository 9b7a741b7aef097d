/*
 * The guest's addresses: linear ones of operands, and the walk from them to physical ones.
 *
 * Part of _trace.csrc.c.
 */

static bool is_long_mode(const emu_trace *t) { return *t->hflags & HF_LMA; }
static bool is_code64(const emu_trace *t) { return *t->hflags & HF_CS64; }

static uint64_t entry_at(emu_trace *t, uint64_t address, unsigned size)
{
    const region *r = region_of(t, address);
    uint64_t value = 0;
    if (r && address - r->gpa + size <= r->size)
        memcpy(&value, r->host + (address - r->gpa), size);
    else
        library.read_memory(t->uc, address, &value, size);
    return value;
}

/* Linear to physical (Intel SDM volume 3, chapter 4); false where nothing is mapped. */
static bool translate(emu_trace *t, uint64_t linear, uint64_t *physical)
{
    static const uint8_t shifts[3][5] = {{48, 39, 30, 21, 12}, {30, 21, 12}, {22, 12}};
    uint64_t cr0 = t->control[0], cr4 = t->control[4], table;
    bool is_long = is_long_mode(t), pae = cr4 & 0x20;
    unsigned mode = is_long ? 0 : pae ? 1 : 2, last = is_long ? 4 : pae ? 2 : 1;
    if (!is_long)
        linear &= 0xffffffffu;
    if (!(cr0 >> 31 & 1)) {
        *physical = linear;
        return true;
    }
    table = t->control[3] & (is_long ? 0x000ffffffffff000u : pae ? 0xffffffe0u : 0xfffff000u);
    for (unsigned level = is_long && !(cr4 & 0x1000); level <= last; level++) {
        unsigned shift = shifts[mode][level], size = mode == 2 ? 4 : 8;
        unsigned bits = mode == 2 ? 10 : mode == 1 && level == 0 ? 2 : 9;
        uint64_t entry = entry_at(t, table + (linear >> shift & ((1u << bits) - 1)) * size, size);
        bool large = entry & 0x80 && (shift == 21 || (shift == 30 && is_long) || (shift == 22 && cr4 & 0x10));
        if (!(entry & 1))
            return false;
        table = entry & (mode == 2 ? 0xfffff000u : 0x000ffffffffff000u);
        if (large || level == last) {
            uint64_t offset = ((uint64_t)1 << shift) - 1;
            if (large && mode == 2)
                table = (entry & 0xffc00000u) | (entry >> 13 & 0xff) << 32;
            *physical = (table & ~offset) | (linear & offset);
            return true;
        }
    }
    return false;
}

static uint64_t operand(emu_trace *t, int id, int slot)
{
    return slot < 0 ? reg(t, id) : t->general[slot];
}

static uint64_t linear_address(const emu_trace_site *s)
{
    uint64_t address = (uint64_t)s->displacement;
    if (s->base)
        address += operand(s->trace, s->base, s->base_slot);
    if (s->index)
        address += operand(s->trace, s->index, s->index_slot) * s->scale;
    address &= s->address_mask;
    if (s->segment)
        address += *s->trace->segment_bases[s->segment - 1];
    return address & s->linear_mask;
}

static bool effective_address(const emu_trace_site *s, uint64_t *physical)
{
    return translate(s->trace, linear_address(s), physical);
}

/* At most 8 bytes at a linear address; the next page may be anywhere. Where nothing is mapped, the guest will fault. */
static uint64_t read_linear(emu_trace *t, uint64_t linear, unsigned size)
{
    unsigned first = PAGE - (unsigned)(linear % PAGE);
    uint64_t low = 0, high = 0, physical;
    first = first < size ? first : size;
    if (translate(t, linear, &physical))
        low = entry_at(t, physical, first);
    if (first < size && translate(t, linear + first, &physical))
        high = entry_at(t, physical, size - first) << 8 * first;
    return low | high;
}
