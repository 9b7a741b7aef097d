/*
 * System-level behaviour that Unicorn leaves out: I/O permission, debug registers, CR8, reserved bits of control
 * registers, a repeatable RDRAND, #UD for encodings of extensions that the processor has not, and code that is changed
 * through another mapping of its page.
 *
 * libunicorn exports its internal functions and calls them through its symbol table, so a library that was made global
 * before it was loaded may define them too and stand before them. Each function here does its own part and hands on to
 * the one it stands before, and does nothing else for engines that were not attached. Signatures and meaning are those of
 * release 2.1.3; emu.cpu.engine.interposed sees at start that they hold.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <dlfcn.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    void *helper_inb, *helper_inw, *helper_inl, *helper_outb, *helper_outw, *helper_outl;
    void *helper_read_crN, *helper_write_crN, *helper_set_dr, *helper_get_dr;
    void *helper_single_step, *helper_rechecking_single_step, *helper_rdrand;
    void *translator_loop, *cpu_ldub_code, *cpu_x86_cpuid;
    void *tlb_protect_code, *tlb_unprotect_code, *tlb_set_dirty, *tb_invalidate_phys_page_fast;
    void *raise_exception, *raise_exception_err_ra, *cpu_lduw_mmuidx_ra, *cpu_restore_state, *cpu_loop_exit_noexc;
    void *cpu_x86_update_dr7, *tlb_flush, *tb_invalidate_phys_range, *qemu_ram_addr_from_host;
    void *peek_code;
} emu_system_functions;

typedef struct {
    uint32_t eflags, hflags, task_register, control, debug, task_priority;
} emu_system_layout;

typedef struct emu_system {
    void *uc;
    void *cpu;
    uint8_t *env;
    uint64_t random;
    uint32_t cr4_bits;

    struct emu_system *next;
    uint32_t watch_hits;
    bool unaligned;
    uint64_t unaligned_at;
    uint64_t written_page;
    /* One bit for each page of RAM, in the engine's own numbering, that code was translated from. */
    uint8_t *code_pages;
    size_t code_pages_size;
} emu_system;

/* Exceptions, and bits of EFLAGS, of Unicorn's derived flags, of CR0, DR6 and DR7 (Intel SDM volume 3). */
enum { DB = 1, UD = 6, GP = 13 };
enum { FLAG_TF = 1 << 8, FLAG_VM = 1 << 17, IOPL_SHIFT = 12 };
enum { HF_CPL = 3, HF_CS32 = 1 << 4, HF_PE = 1 << 7, HF_TF = 1 << 8, HF_CS64 = 1 << 15 };
enum { CR0_PE = 1, CR0_NW = 1 << 29, CR0_CD = 1 << 30, CR4_DE = 8, CR4_PAE = 1 << 5, HF_LMA = 1 << 14 };
enum { DR6_BD = 1 << 13, DR6_BS = 1 << 14, DR6_NEVER = 1 << 12, DR7_GD = 1 << 13, DR7_NEVER = 0xd800, DR7_ALWAYS = 0x400 };
enum { ON_WRITE = 1, ON_ACCESS = 3, MEM_READ = 1, MEM_WRITE = 2 };
enum { PAGE_SHIFT = 12, KERNEL_MMU = 2 };
#define CR0_PG 0x80000000u

static emu_system_functions real;
static emu_system_layout at;
static emu_system *engines;
static pthread_rwlock_t engines_lock = PTHREAD_RWLOCK_INITIALIZER;

#define CALLER ((uintptr_t)__builtin_return_address(0))
#define U32(env, offset) (*(uint32_t *)((uint8_t *)(env) + (offset)))
#define U64(env, offset) (*(uint64_t *)((uint8_t *)(env) + (offset)))
#define DR(env, n) U64(env, at.debug + 8 * (n))

typedef void (*raise_fn)(void *, int);
typedef void (*raise_ra_fn)(void *, int, int, uintptr_t);
typedef uint32_t (*lduw_fn)(void *, uint64_t, int, uintptr_t);
typedef uint64_t (*in_fn)(void *, uint32_t);
typedef void (*out_fn)(void *, uint32_t, uint32_t);
typedef uint64_t (*get_fn)(void *, int);
typedef void (*set_fn)(void *, int, uint64_t);
typedef uint64_t (*env_value_fn)(void *);
typedef void (*env_fn)(void *);
typedef bool (*restore_fn)(void *, uintptr_t, bool);
typedef void (*dr7_fn)(void *, uint32_t);
typedef uint32_t (*ldub_fn)(void *, uint64_t);
typedef void (*ram_fn)(void *, uint64_t);
typedef void (*invalidate_fn)(void *, uint64_t, uint64_t);
typedef void (*invalidate_page_fn)(void *, void *, uint64_t, int, uintptr_t);
typedef void (*cpuid_fn)(void *, uint32_t, uint32_t, uint32_t *, uint32_t *, uint32_t *, uint32_t *);
typedef uint64_t (*ram_addr_fn)(void *, void *);

#define FIND(field, value)                                                                                             \
    emu_system *s;                                                                                                     \
    pthread_rwlock_rdlock(&engines_lock);                                                                              \
    for (s = engines; s && s->field != (value); s = s->next)                                                           \
        ;                                                                                                              \
    pthread_rwlock_unlock(&engines_lock)

static emu_system *by_env(void *env)
{
    FIND(env, (uint8_t *)env);
    return s;
}

static emu_system *by_cpu(void *cpu)
{
    FIND(cpu, cpu);
    return s;
}

static emu_system *by_engine(void *uc)
{
    FIND(uc, uc);
    return s;
}

static void raise_with_code(void *env, int vector, uintptr_t ra)
{
    ((raise_ra_fn)real.raise_exception_err_ra)(env, vector, 0, ra);
}

/* I/O permission (Intel SDM volume 1, section 19.5.2): #GP(0) unless CPL <= IOPL or the map in the TSS allows it. */

static void check_port(void *env, uint32_t port, int size, uintptr_t ra)
{
    uint32_t flags, hidden, limit, attributes, map;
    uint64_t base;
    if (!by_env(env))
        return;
    flags = U32(env, at.eflags);
    hidden = U32(env, at.hflags);
    if (!(hidden & HF_PE) || (!(flags & FLAG_VM) && (hidden & HF_CPL) <= (flags >> IOPL_SHIFT & 3)))
        return;
    base = U64(env, at.task_register + 8);
    limit = U32(env, at.task_register + 16);
    attributes = U32(env, at.task_register + 20);
    /* A present 32-bit or 64-bit TSS, busy or not, that is long enough to have a map. */
    if (attributes & 1 << 15 && (attributes >> 8 & 0x1d) == 9 && limit >= 103) {
        lduw_fn load = (lduw_fn)real.cpu_lduw_mmuidx_ra;
        map = (load(env, base + 0x66, KERNEL_MMU, ra) & 0xffff) + port / 8;
        /* The processor always reads two bytes. */
        if (map + 1 <= limit && !(load(env, base + map, KERNEL_MMU, ra) >> port % 8 & ((1u << size) - 1)))
            return;
    }
    raise_with_code(env, GP, ra);
}

#define IN(name, size)                                                                                                 \
    uint64_t helper_##name##_x86_64(void *env, uint32_t port)                                                          \
    {                                                                                                                  \
        check_port(env, port & 0xffff, size, CALLER);                                                                  \
        return ((in_fn)real.helper_##name)(env, port);                                                                 \
    }
#define OUT(name, size)                                                                                                \
    void helper_##name##_x86_64(void *env, uint32_t port, uint32_t value)                                              \
    {                                                                                                                  \
        check_port(env, port & 0xffff, size, CALLER);                                                                  \
        ((out_fn)real.helper_##name)(env, port, value);                                                                \
    }
IN(inb, 1)
IN(inw, 2)
IN(inl, 4)
OUT(outb, 1)
OUT(outw, 2)
OUT(outl, 4)

/* Control registers. */

uint64_t helper_read_crN_x86_64(void *env, int number)
{
    if (number == 8 && by_env(env))
        return ((uint8_t *)env)[at.task_priority];
    return ((get_fn)real.helper_read_crN)(env, number);
}

/* What MOV to a control register refuses (Intel SDM volume 2, "MOV - Move to/from Control Registers"). */
static bool reserved_bits(emu_system *s, int number, uint64_t value)
{
    bool long_mode = U32(s->env, at.hflags) & HF_LMA;
    switch (number) {
    case 0:
        return value >> 32 || (value & CR0_PG && !(value & CR0_PE)) || (value & CR0_NW && !(value & CR0_CD)) ||
               (long_mode && !(value & CR0_PG) && U32(s->env, at.hflags) & HF_CS64);
    case 4:
        return value & ~(uint64_t)s->cr4_bits || (long_mode && !(value & CR4_PAE));
    case 8:
        return value >> 4;
    default:
        return false;
    }
}

void helper_write_crN_x86_64(void *env, int number, uint64_t value)
{
    uintptr_t ra = CALLER;
    emu_system *s = by_env(env);
    if (s && reserved_bits(s, number, value))
        raise_with_code(env, GP, ra);
    ((set_fn)real.helper_write_crN)(env, number, value);
}

/*
 * Debug registers (Intel SDM volume 3, chapter 18). Unicorn's generated code still looks for watched pages, but the
 * functions it asks are empty. A data breakpoint is a trap, reported behind its instruction: when an access meets one,
 * the instruction is started again on its own, as in single stepping. The step flag is set in the derived flags only,
 * where the guest cannot see it.
 */

static bool enabled(uint64_t dr7, int n)
{
    return dr7 >> 2 * n & 3;
}

static int kind(uint64_t dr7, int n)
{
    return dr7 >> (16 + 4 * n) & 3;
}

static uint64_t length(uint64_t dr7, int n)
{
    static const uint8_t lengths[] = {1, 2, 8, 4};
    return lengths[dr7 >> (18 + 4 * n) & 3];
}

/* The breakpoints that an access of this kind meets, as bits of DR6. */
static uint32_t hits(const uint8_t *env, uint64_t address, uint64_t size, int access)
{
    uint64_t dr7 = DR(env, 7);
    uint32_t found = 0;
    int n;
    for (n = 0; n < 4; n++) {
        uint64_t first = DR(env, n) & ~(length(dr7, n) - 1);
        bool watched = kind(dr7, n) == ON_ACCESS || (kind(dr7, n) == ON_WRITE && access & MEM_WRITE);
        /* Differences, so that a range at the end of the address space is a range too. */
        if (enabled(dr7, n) && watched && (address - first < length(dr7, n) || first - address < size))
            found |= 1u << n;
    }
    return found;
}

static bool watches_data(const uint8_t *env)
{
    uint64_t dr7 = DR(env, 7);
    int n;
    for (n = 0; n < 4; n++)
        if (enabled(dr7, n) && (kind(dr7, n) == ON_WRITE || kind(dr7, n) == ON_ACCESS))
            return true;
    return false;
}

int cpu_watchpoint_address_matches_x86_64(void *cpu, uint64_t address, uint64_t size)
{
    emu_system *s = by_cpu(cpu);
    if (!s || !watches_data(s->env))
        return 0;
    return (hits(s->env, address, size, MEM_READ) ? MEM_READ : 0) |
           (hits(s->env, address, size, MEM_WRITE) ? MEM_WRITE : 0);
}

void cpu_check_watchpoint_x86_64(void *cpu, uint64_t address, uint64_t size, uint32_t attributes, int access,
                                 uintptr_t ra)
{
    emu_system *s = by_cpu(cpu);
    uint32_t found;
    (void)attributes;
    if (!s)
        return;
    /* An unaligned store within a page is announced as if it crossed into that page: first its address with a negative
       size, then from the start of the page to its end. */
    if ((int64_t)size < 0) {
        s->unaligned = true;
        s->unaligned_at = address;
        return;
    }
    if (s->unaligned) {
        size = address + size - s->unaligned_at;
        address = s->unaligned_at;
        s->unaligned = false;
    }
    if (!(found = hits(s->env, address, size, access)))
        return;
    if (U32(s->env, at.eflags) & FLAG_TF || U32(s->env, at.hflags) & HF_TF) {
        s->watch_hits |= found;
        return;
    }
    s->watch_hits = 0;
    U32(s->env, at.hflags) |= HF_TF;
    ((restore_fn)real.cpu_restore_state)(cpu, ra, true);
    ((env_fn)real.cpu_loop_exit_noexc)(cpu);
}

static void report_step(emu_system *s)
{
    void *env = s->env;
    uint64_t dr6 = (DR(env, 6) & ~(uint64_t)15) | s->watch_hits;
    if (U32(env, at.eflags) & FLAG_TF)
        dr6 |= DR6_BS;
    else if (!s->watch_hits)
        ((env_fn)real.cpu_loop_exit_noexc)(s->cpu);
    s->watch_hits = 0;
    DR(env, 6) = dr6;
    ((raise_fn)real.raise_exception)(env, DB);
}

void helper_single_step_x86_64(void *env)
{
    emu_system *s = by_env(env);
    if (s && (U32(env, at.hflags) & HF_TF || s->watch_hits)) {
        U32(env, at.hflags) &= ~HF_TF;
        report_step(s);
    }
    ((env_fn)real.helper_single_step)(env);
}

/* Behind instructions that load TF: POPF, IRET. */
void helper_rechecking_single_step_x86_64(void *env)
{
    if (by_env(env) && U32(env, at.hflags) & HF_TF)
        helper_single_step_x86_64(env);
    else
        ((env_fn)real.helper_rechecking_single_step)(env);
}

/* General detect, and DR4 and DR5, which are DR6 and DR7 unless CR4.DE is set. */
static int check_debug(void *env, int number, uintptr_t ra)
{
    if (DR(env, 7) & DR7_GD) {
        DR(env, 7) &= ~(uint64_t)DR7_GD;
        DR(env, 6) |= DR6_BD;
        raise_with_code(env, DB, ra);
    }
    if (number != 4 && number != 5)
        return number;
    if (U64(env, at.control + 32) & CR4_DE)
        raise_with_code(env, UD, ra);
    return number + 2;
}

void helper_set_dr_x86_64(void *env, int number, uint64_t value)
{
    uintptr_t ra = CALLER;
    emu_system *s = by_env(env);
    bool watched;
    if (!s) {
        ((set_fn)real.helper_set_dr)(env, number, value);
        return;
    }
    number = check_debug(env, number, ra);
    if (number > 4 && value >> 32)
        raise_with_code(env, GP, ra);
    if (number > 4)
        value &= ~(uint64_t)(number == 6 ? DR6_NEVER : DR7_NEVER);
    watched = watches_data(env);
    ((set_fn)real.helper_set_dr)(env, number, value);
    if (watched || watches_data(env))
        ((env_fn)real.tlb_flush)(s->cpu);
}

uint64_t helper_get_dr_x86_64(void *env, int number)
{
    if (by_env(env))
        number = check_debug(env, number, CALLER);
    return ((get_fn)real.helper_get_dr)(env, number);
}

/*
 * Around a change of the debug registers from outside. Unicorn keeps instruction breakpoints in a list beside the
 * registers; what it writes into them, or restores from a context, it does not tell the list.
 */
void emu_system_debug_off(emu_system *s)
{
    if (DR(s->env, 7) & 0xff)
        ((dr7_fn)real.cpu_x86_update_dr7)(s->env, DR7_ALWAYS);
}

void emu_system_debug_on(emu_system *s)
{
    uint64_t dr7 = DR(s->env, 7);
    s->watch_hits = 0;
    if (!(dr7 & 0xff))
        return;
    /* The four references behind DR7 may be another time's. */
    memset(s->env + at.debug + 64, 0, 32);
    DR(s->env, 7) = DR7_ALWAYS;
    ((dr7_fn)real.cpu_x86_update_dr7)(s->env, (uint32_t)dr7);
    ((env_fn)real.tlb_flush)(s->cpu);
}

/* Leaf 5 describes MONITOR and MWAIT, which are hidden (Intel SDM volume 2, CPUID). */
void cpu_x86_cpuid_x86_64(void *env, uint32_t leaf, uint32_t subleaf, uint32_t *eax, uint32_t *ebx, uint32_t *ecx,
                          uint32_t *edx)
{
    ((cpuid_fn)real.cpu_x86_cpuid)(env, leaf, subleaf, eax, ebx, ecx, edx);
    if (leaf == 5 && by_env(env))
        *eax = *ebx = *ecx = *edx = 0;
}

/* RDRAND and RDSEED: Unicorn's function succeeds and says so in the flags; the number is ours (splitmix64). */
uint64_t helper_rdrand_x86_64(void *env)
{
    emu_system *s = by_env(env);
    uint64_t value = ((env_value_fn)real.helper_rdrand)(env);
    if (s) {
        value = s->random += 0x9e3779b97f4a7c15u;
        value = (value ^ value >> 30) * 0xbf58476d1ce4e5b9u;
        value = (value ^ value >> 27) * 0x94d049bb133111ebu;
        value ^= value >> 31;
    }
    return value;
}

/*
 * Encodings that the decoder takes for others: VEX-encoded SSE would run as SSE with two operands, XOP as POP, XBEGIN as
 * MOV, SSE4A although CPUID does not name it. The decoder is shown UD2 in their place.
 */

typedef struct {
    uint8_t *block;
    uint64_t first, next;
} disassembly; /* DisasContextBase; in the block: PC, CS base (64 bits each), flags (32 bits) */

typedef struct {
    void *init, *block_start, *instruction_start, *breakpoint;
    void (*translate)(disassembly *, void *cpu);
    void *block_stop, *pc_sync;
} operations; /* TranslatorOps */

typedef void (*loop_fn)(const operations *, disassembly *, void *, void *, int);

static __thread uint64_t hidden_at;
static __thread bool hiding;
static operations ours;
static void (*translate)(disassembly *, void *cpu);

uint32_t cpu_ldub_code_x86_64(void *env, uint64_t address)
{
    static const uint8_t ud2[] = {0x0f, 0x0b};
    if (hiding && address - hidden_at < sizeof ud2)
        return ud2[address - hidden_at];
    return ((ldub_fn)real.cpu_ldub_code)(env, address);
}

static bool is_prefix(uint8_t byte, bool code64)
{
    switch (byte) {
    case 0x26: case 0x2e: case 0x36: case 0x3e: case 0x64: case 0x65: case 0x66: case 0x67: case 0xf0: case 0xf2: case 0xf3:
        return true;
    default:
        return code64 && (byte & 0xf0) == 0x40;
    }
}

/* How many bytes it took to see that the instruction at pc is none; 0 for any other instruction. Reads no byte that the
   instruction does not have. */
static unsigned absent(void *env, uint64_t pc, uint32_t flags)
{
    ldub_fn load = (ldub_fn)real.peek_code;
    bool code64 = flags & HF_CS64;
    unsigned n = 0;
    uint8_t byte, second, opcode;
    bool repeat = false;
    while (is_prefix(byte = (uint8_t)load(env, pc + n), code64) && n < 14) {
        repeat |= byte == 0xf2 || byte == 0xf3;
        n++;
    }
    if (byte == 0x0f) { /* SSE4A: EXTRQ and INSERTQ, MOVNTSS and MOVNTSD */
        opcode = (uint8_t)load(env, pc + n + 1);
        return opcode == 0x78 || opcode == 0x79 || (opcode == 0x2b && repeat) ? n + 2 : 0;
    }
    if (byte == 0x8f || byte == 0xc6 || byte == 0xc7) /* POP and MOV are /0; others are XOP, XABORT and XBEGIN */
        return (uint8_t)load(env, pc + n + 1) & 0x38 ? n + 2 : 0;
    if ((byte != 0xc4 && byte != 0xc5) || !(flags & HF_CS32) || flags & FLAG_VM)
        return 0;
    second = (uint8_t)load(env, pc + n + 1);
    if (!code64 && (second & 0xc0) != 0xc0) /* LES, LDS */
        return 0;
    if (byte == 0xc5)
        return n + 2;
    opcode = (uint8_t)load(env, pc + n + 3);
    switch (second & 0x1f) {
    case 2: /* BMI1 and BMI2 are what has VEX without being AVX */
        return opcode == 0xf2 || opcode == 0xf3 || (opcode >= 0xf5 && opcode <= 0xf7) ? 0 : n + 4;
    case 3:
        return opcode == 0xf0 ? 0 : n + 4;
    default:
        return n + 4;
    }
}

static void translate_or_hide(disassembly *d, void *cpu)
{
    emu_system *s = by_cpu(cpu);
    uint64_t pc = d->next;
    unsigned length = s ? absent(s->env, pc, U32(d->block, 16)) : 0;
    hidden_at = pc;
    hiding = length > 0;
    translate(d, cpu);
    hiding = false;
    if (length) /* The block depends on all the bytes that were looked at. */
        d->next = pc + length;
}

void translator_loop_x86_64(const operations *theirs, disassembly *d, void *cpu, void *block, int max_instructions)
{
    /* A fault while code was fetched has left through a jump. */
    hiding = false;
    if (!by_cpu(cpu)) {
        ((loop_fn)real.translator_loop)(theirs, d, cpu, block, max_instructions);
        return;
    }
    translate = theirs->translate;
    ours = *theirs;
    ours.translate = translate_or_hide;
    ((loop_fn)real.translator_loop)(&ours, d, cpu, block, max_instructions);
}

/*
 * Self-modifying code. Unicorn notices stores to a page of translated code through the linear address that the code was
 * fetched from; through another one it stops looking after the first store, or never begins. So: whenever a page gets its
 * first code, all cached translations of addresses go, that the next store through any of them is looked at; and as long
 * as the page has code, they stay so.
 */

static bool has_code(emu_system *s, uint64_t page)
{
    return page / 8 < s->code_pages_size && s->code_pages[page / 8] >> page % 8 & 1;
}

void tlb_protect_code_x86_64(void *uc, uint64_t ram)
{
    emu_system *s = by_engine(uc);
    uint64_t page = ram >> PAGE_SHIFT;
    ((ram_fn)real.tlb_protect_code)(uc, ram);
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
    ((env_fn)real.tlb_flush)(s->cpu);
}

void tlb_unprotect_code_x86_64(void *uc, uint64_t ram)
{
    emu_system *s = by_engine(uc);
    uint64_t page = ram >> PAGE_SHIFT;
    if (s && has_code(s, page))
        s->code_pages[page / 8] &= (uint8_t)~(1 << page % 8);
    ((ram_fn)real.tlb_unprotect_code)(uc, ram);
}

/* Before tlb_set_dirty, for the same store. */
void tb_invalidate_phys_page_fast_x86_64(void *uc, void *pages, uint64_t ram, int size, uintptr_t ra)
{
    emu_system *s = by_engine(uc);
    if (s)
        s->written_page = ram >> PAGE_SHIFT;
    ((invalidate_page_fn)real.tb_invalidate_phys_page_fast)(uc, pages, ram, size, ra);
}

/* "Stores through this address need not be looked at any more." */
void tlb_set_dirty_x86_64(void *cpu, uint64_t address)
{
    emu_system *s = by_cpu(cpu);
    if (!s || !has_code(s, s->written_page))
        ((ram_fn)real.tlb_set_dirty)(cpu, address);
}

/* Whether code was translated from one of the pages that these bytes of guest memory lie in. */
int emu_system_has_code(emu_system *s, void *host, size_t size)
{
    uintptr_t page = (uintptr_t)host >> PAGE_SHIFT, last = ((uintptr_t)host + size - 1) >> PAGE_SHIFT;
    for (; size && page <= last; page++) {
        uint64_t ram = ((ram_addr_fn)real.qemu_ram_addr_from_host)(s->uc, (void *)(page << PAGE_SHIFT));
        if (ram != UINT64_MAX && has_code(s, ram >> PAGE_SHIFT))
            return 1;
    }
    return 0;
}

/* The host changed guest memory, within one page, while the engine stands still. */
void emu_system_host_wrote(emu_system *s, void *host, size_t size)
{
    uint64_t ram = ((ram_addr_fn)real.qemu_ram_addr_from_host)(s->uc, host);
    if (ram != UINT64_MAX && has_code(s, ram >> PAGE_SHIFT))
        ((invalidate_fn)real.tb_invalidate_phys_range)(s->uc, ram, ram + size);
}

/* Set-up. */

/* Let libraries that are loaded from now on find the functions above; whether that worked. */
int emu_system_publish(void)
{
    Dl_info info;
    return dladdr((void *)emu_system_publish, &info) && dlopen(info.dli_fname, RTLD_LAZY | RTLD_GLOBAL | RTLD_NOLOAD);
}

void emu_system_bind(const emu_system_functions *functions)
{
    real = *functions;
}

void emu_system_know(const emu_system_layout *layout)
{
    at = *layout;
}

void emu_system_attach(emu_system *s, void *uc, void *cpu, void *env)
{
    s->uc = uc;
    s->cpu = cpu;
    s->env = env;
    pthread_rwlock_wrlock(&engines_lock);
    s->next = engines;
    engines = s;
    pthread_rwlock_unlock(&engines_lock);
}

void emu_system_detach(emu_system *s)
{
    emu_system **link;
    pthread_rwlock_wrlock(&engines_lock);
    for (link = &engines; *link && *link != s; link = &(*link)->next)
        ;
    if (*link)
        *link = s->next;
    pthread_rwlock_unlock(&engines_lock);
    free(s->code_pages);
    s->code_pages = NULL;
    s->code_pages_size = 0;
    s->watch_hits = 0;
}
