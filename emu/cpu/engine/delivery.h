/*
 * Exceptions, interrupts and SYSCALL carried out without leaving the engine, in the plain case: IA-32e mode, a first
 * fault, nothing that the guest's tables forbid, and everything that is looked at or stored to in plain RAM without
 * translated code. All or nothing: what is not plain is declined with the state as it was, and is done by
 * emu.cpu.delivery and emu.cpu.system_calls, which have the whole rules (Intel SDM volume 3, chapters 4 to 6) and with
 * which this has to agree in every case that it takes.
 */
#ifndef EMU_DELIVERY_H
#define EMU_DELIVERY_H
#include "binding.h"

typedef struct {
    uint32_t eflags, hflags, segments, control, latch, error_code, is_software;
} emu_delivery_layout;

/* The last exception that the guest raised; `vector` is negative when there was none. */
typedef struct {
    int32_t vector;
    uint32_t has_code, has_address;
    uint64_t rip, code, address;
} emu_delivery_record;

enum { DELIVERY_REGIONS = 8, DELIVERY_MARKS = 32 };

typedef struct {
    /* Plain RAM. */
    struct { uint64_t gpa, size; uint8_t *host; } ram[DELIVERY_REGIONS];
    unsigned ram_count;
    /* Whether these bytes of RAM have translated code; without a function, they never have. */
    int (*has_code)(void *argument, void *host, size_t size);
    void *has_code_argument;
    /* Hears where an exception was raised. `watched` without it: somebody else has to hear of it. */
    void (*on_fault)(void *argument, uint64_t rip);
    void *on_fault_argument;
    int watched;
} emu_delivery;

enum { FROM_EXCEPTION, FROM_SOFTWARE, FROM_OUTSIDE };

/* Registers by number: segments in encoding order, then LDTR, TR, GDTR, IDTR. */
enum { SEG_CS = 1, SEG_SS = 2, SEG_TR = 7, SEG_GDT = 8, SEG_IDT = 9, SEG_SIZE = 24, GENERAL_RSP = 4 };
enum { DESC_CONFORMING = 1 << 10, DESC_CODE = 1 << 11, DESC_S = 1 << 12, DESC_DPL_SHIFT = 13, DESC_P = 1 << 15 };
enum { DESC_L = 1 << 21, DESC_B = 1 << 22, DESC_G = 1 << 23, DESC_ACCESSED_WRITABLE = 0x300 };
enum { EFLAGS_TF = 0x100, EFLAGS_IF = 0x200, EFLAGS_NT = 0x4000, EFLAGS_RF = 0x10000, EFLAGS_VM = 0x20000 };
enum { EFLAGS_BITS = 0x3fffff, EFLAGS_ALWAYS = 2, CR4_LA57_BIT = 1 << 12, CR0_WP_BIT = 1 << 16 };
/* Of the flags that the engine derives: privilege, interrupt shadow, 32-bit and 64-bit code, step, IA-32e mode. */
enum { HF_CPL_BITS = 3, HF_SHADOW = 8, HF_CODE32 = 0x10, HF_STACK32 = 0x20, HF_BASES = 0x40, HF_PROTECTED = 0x80 };
enum { HF_STEP = 0x100, HF_LONG = 0x4000, HF_CODE64 = 0x8000 };
enum { PTE_PRESENT = 1, PTE_WRITABLE = 2, PTE_USER = 4, PTE_ACCESSED = 0x20, PTE_DIRTY = 0x40, PTE_LARGE = 0x80 };
#define PTE_ADDRESS 0x000ffffffffff000u
#define NO_ERROR_CODE UINT64_MAX
/* Vectors of faults (SDM volume 3, table 6-1); #DB is one only sometimes, and then does not count here. */
#define FAULTS (1u << 0 | 1u << 5 | 1u << 6 | 1u << 7 | 0x1fu << 10 | 1u << 16 | 1u << 17 | 3u << 19 | 1u << 21)

static emu_delivery_layout delivery_at;
/* Seen to work with this build of the library. */
static bool delivery_works;

/* What a page walk would mark, until it is known that nothing is declined. */
typedef struct {
    const emu_delivery *d;
    uint8_t *env;
    struct { uint64_t *entry; uint64_t bits; } marks[DELIVERY_MARKS];
    unsigned mark_count;
} attempt;

#define FIELD32(env, offset) (*(uint32_t *)((env) + (offset)))
#define FIELD64(env, offset) (*(uint64_t *)((env) + (offset)))
#define SEGMENT(env, n) ((env) + delivery_at.segments + SEG_SIZE * (n))
#define SEGMENT_BASE(env, n) FIELD64(SEGMENT(env, n), 8)
#define SEGMENT_LIMIT(env, n) FIELD32(SEGMENT(env, n), 16)
#define SEGMENT_FLAGS(env, n) FIELD32(SEGMENT(env, n), 20)
#define CONTROL(env, n) FIELD64(env, delivery_at.control + 8 * (n))
#define GENERAL(env, n) FIELD64(env, 8 * (n))

static void set_segment(uint8_t *env, int number, uint32_t selector, uint64_t base, uint32_t limit, uint32_t flags)
{
    FIELD32(SEGMENT(env, number), 0) = selector;
    SEGMENT_BASE(env, number) = base;
    SEGMENT_LIMIT(env, number) = limit;
    SEGMENT_FLAGS(env, number) = flags;
}

/* Into 64-bit code at this privilege. */
static void enter_code64(uint8_t *env, uint32_t privilege)
{
    uint32_t *hidden = &FIELD32(env, delivery_at.hflags);
    *hidden &= ~(uint32_t)(HF_CPL_BITS | HF_SHADOW | HF_BASES | HF_STEP);
    *hidden |= privilege | HF_CODE32 | HF_STACK32 | HF_CODE64;
}

static bool in_code64(const uint8_t *env)
{
    return FIELD32(env, delivery_at.hflags) & HF_CODE64;
}

/* Plain RAM at a physical address, `size` bytes of it; NULL where there is none. */
static uint8_t *plain_ram(const emu_delivery *d, uint64_t gpa, unsigned size)
{
    for (unsigned n = 0; n < d->ram_count; n++)
        if (gpa - d->ram[n].gpa < d->ram[n].size && d->ram[n].size - (gpa - d->ram[n].gpa) >= size)
            return d->ram[n].host + (gpa - d->ram[n].gpa);
    return NULL;
}

static bool holds_code(const emu_delivery *d, void *host, unsigned size)
{
    return d->has_code && d->has_code(d->has_code_argument, host, size);
}

/* The memory behind `size` bytes at a linear address, all on one page, that may be used so; NULL: decline. */
static uint8_t *linear_ram(attempt *a, uint64_t address, unsigned size, bool write, bool user)
{
    uint64_t allowed = PTE_WRITABLE | PTE_USER, entry, table, bits;
    int shift = CONTROL(a->env, 4) & CR4_LA57_BIT ? 48 : 39;
    if ((address & 4095) + size > 4096)
        return NULL;
    if (!(CONTROL(a->env, 0) >> 31 & 1))
        return plain_ram(a->d, address, size);
    table = CONTROL(a->env, 3) & PTE_ADDRESS;
    for (;; shift -= 9) {
        uint64_t *at = (uint64_t *)plain_ram(a->d, table + (address >> shift & 511) * 8, 8);
        bool last;
        if (!at || !((entry = *at) & PTE_PRESENT))
            return NULL;
        allowed &= entry;
        last = shift == 12 || (entry & PTE_LARGE && (shift == 21 || shift == 30));
        if (last && ((user && !(allowed & PTE_USER)) ||
                     (write && !(allowed & PTE_WRITABLE) && (user || CONTROL(a->env, 0) & CR0_WP_BIT))))
            return NULL;
        bits = PTE_ACCESSED | (last && write ? PTE_DIRTY : 0);
        if ((entry & bits) != bits) {
            if (a->mark_count == DELIVERY_MARKS || holds_code(a->d, at, 8))
                return NULL;
            a->marks[a->mark_count].entry = at;
            a->marks[a->mark_count++].bits = bits;
        }
        if (last)
            return plain_ram(a->d, (entry & PTE_ADDRESS & ~((1ull << shift) - 1)) | (address & ((1ull << shift) - 1)), size);
        table = entry & PTE_ADDRESS;
    }
}

static void set_marks(const attempt *a)
{
    for (unsigned n = 0; n < a->mark_count; n++)
        *a->marks[n].entry |= a->marks[n].bits;
}

static bool canonical(const uint8_t *env, uint64_t address)
{
    int top = CONTROL(env, 4) & CR4_LA57_BIT ? 56 : 47;
    uint64_t high = address >> top;
    return !high || high == UINT64_MAX >> top;
}

/* An inner stack: a pointer in the TSS. */
static bool task_stack(attempt *a, uint32_t offset, uint64_t *rsp)
{
    uint8_t *at;
    if (offset + 7 > SEGMENT_LIMIT(a->env, SEG_TR) ||
        !(at = linear_ram(a, SEGMENT_BASE(a->env, SEG_TR) + offset, 8, false, false)))
        return false;
    memcpy(rsp, at, 8);
    return canonical(a->env, *rsp);
}

/*
 * Enter the handler of `vector`. `flags` are the guest's, and become the handler's; `code` may be NO_ERROR_CODE. False:
 * declined, and nothing has changed.
 */
static bool deliver(const emu_delivery *d, uint8_t *env, unsigned vector, uint64_t code, int source, uint32_t *flags)
{
    attempt a = {.d = d, .env = env};
    uint32_t hidden = FIELD32(env, delivery_at.hflags), cpl = hidden & HF_CPL_BITS, to, kind, low, high, limit, selector;
    uint64_t offset, rsp, frame[6];
    uint8_t *gate, *descriptor, *stack;
    unsigned words = 0, ist;
    if (!(CONTROL(env, 0) & 1) || *flags & EFLAGS_VM || !(hidden & HF_LONG) || vector > 255)
        return false;
    if (vector * 16 + 15 > SEGMENT_LIMIT(env, SEG_IDT) ||
        !(gate = linear_ram(&a, SEGMENT_BASE(env, SEG_IDT) + vector * 16, 16, false, false)))
        return false;
    low = FIELD32(gate, 0);
    high = FIELD32(gate, 4);
    offset = (low & 0xffff) | (high & 0xffff0000u) | (uint64_t)FIELD32(gate, 8) << 32;
    selector = low >> 16;
    ist = high & 7;
    kind = high >> 8 & 0x1f;
    if ((kind != 0xe && kind != 0xf) || !(high & DESC_P) || (source == FROM_SOFTWARE && (high >> 13 & 3) < cpl))
        return false;
    if (!(selector & 0xfffc) || selector & 4 || (selector | 7) > SEGMENT_LIMIT(env, SEG_GDT) ||
        !(descriptor = linear_ram(&a, SEGMENT_BASE(env, SEG_GDT) + (selector & ~7u), 8, false, false)))
        return false;
    low = FIELD32(descriptor, 0);
    high = FIELD32(descriptor, 4);
    to = high >> DESC_DPL_SHIFT & 3;
    if ((high & (DESC_S | DESC_CODE | DESC_P | DESC_L | DESC_B)) != (DESC_S | DESC_CODE | DESC_P | DESC_L) || to > cpl)
        return false;
    if (high & DESC_CONFORMING)
        to = cpl;
    rsp = GENERAL(env, GENERAL_RSP);
    if ((ist && !task_stack(&a, 0x24 + 8 * (ist - 1), &rsp)) || (!ist && to < cpl && !task_stack(&a, 4 + 8 * to, &rsp)))
        return false;
    if (code != NO_ERROR_CODE)
        frame[words++] = code;
    frame[words++] = FIELD64(env, RIP_OFFSET);
    frame[words++] = FIELD32(SEGMENT(env, SEG_CS), 0);
    frame[words++] = *flags | (source == FROM_EXCEPTION && vector < 32 && FAULTS >> vector & 1 ? EFLAGS_RF : 0);
    frame[words++] = GENERAL(env, GENERAL_RSP);
    frame[words++] = FIELD32(SEGMENT(env, SEG_SS), 0);
    rsp = (rsp & ~15ull) - 8 * words;
    if (!canonical(env, rsp) || !canonical(env, rsp + 8 * words - 1) || !canonical(env, offset) ||
        !(stack = linear_ram(&a, rsp, 8 * words, true, to == 3)) || holds_code(d, stack, 8 * words))
        return false;

    set_marks(&a);
    memcpy(stack, frame, 8 * words);
    if (to < cpl)
        set_segment(env, SEG_SS, to, 0, 0, to << DESC_DPL_SHIFT);
    limit = (low & 0xffff) | (high & 0xf0000);
    set_segment(env, SEG_CS, (selector & ~3u) | to, low >> 16 | (high & 0xff) << 16 | (high & 0xff000000u),
                high & DESC_G ? limit << 12 | 0xfff : limit, high);
    GENERAL(env, GENERAL_RSP) = rsp;
    FIELD64(env, RIP_OFFSET) = offset;
    *flags &= ~(uint32_t)(EFLAGS_TF | EFLAGS_NT | EFLAGS_RF | EFLAGS_VM | (kind & 1 ? 0 : EFLAGS_IF));
    enter_code64(env, SEGMENT_FLAGS(env, SEG_SS) >> DESC_DPL_SHIFT & 3);
    return true;
}

/* Whether INT1 may be at RIP, which the library takes for no instruction. */
static bool at_int1(const emu_delivery *d, uint8_t *env)
{
    attempt a = {.d = d, .env = env};
    const uint8_t *code = linear_ram(&a, FIELD64(env, RIP_OFFSET), 1, false, false);
    return !code || *code == 0xf1;
}

/* Whether SYSCALL without prefixes is at RIP, so that two bytes further its successor is. */
static bool plain_syscall(const emu_delivery *d, uint8_t *env)
{
    attempt a = {.d = d, .env = env};
    const uint8_t *code = linear_ram(&a, FIELD64(env, RIP_OFFSET), 2, false, false);
    return code && code[0] == 0x0f && code[1] == 0x05;
}

/* SYSCALL's change of RCX, R11 and the segments; the caller has RIP and the flags (Intel SDM volume 2, "SYSCALL"). */
static void enter_by_syscall(uint8_t *env, uint32_t selector, uint32_t flags)
{
    uint32_t common = DESC_S | DESC_P | DESC_G | DESC_ACCESSED_WRITABLE;
    GENERAL(env, 1) = FIELD64(env, RIP_OFFSET) + 2;
    GENERAL(env, 11) = flags & ~(uint32_t)EFLAGS_RF;
    set_segment(env, SEG_CS, selector & 0xfffc, 0, UINT32_MAX, common | DESC_CODE | DESC_L);
    set_segment(env, SEG_SS, (selector & 0xfffc) + 8, 0, UINT32_MAX, common | DESC_B);
    enter_code64(env, 0);
}

#endif
