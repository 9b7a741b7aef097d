/*
 * System-level behaviour that Unicorn leaves out: I/O permission, debug registers, CR8, reserved bits of control
 * registers, a repeatable RDRAND, #UD for encodings of extensions that the processor has not, and code that is changed
 * through another mapping of its page.
 *
 * The definitions take the place of the CPU library's (binding.h). Each does its own part and hands on to the one it
 * stands before, and does nothing else for engines that were not attached. Signatures and meaning are those of release
 * 2.1.3; emu.cpu.engine.interposed sees at start that they hold.
 */
#include "binding.h"

#include <pthread.h>

typedef struct {
    uint32_t eflags, hflags, task_register, control, debug, task_priority;
} emu_system_layout;

/* What a debugger watches: `size` bytes at a linear address; reads (1), stores (2) or both. */
enum { EMU_WATCHES = 32 };
typedef struct {
    uint64_t address, size;
    uint32_t access;
} emu_watch;

typedef struct emu_system {
    void *uc;
    void *cpu;
    environment *env;
    uint64_t random;
    uint32_t cr4_bits;
    /*
     * For a debugger: each instruction is a block; `met` hears of what is watched, and `restarts` of an instruction that
     * is given up and begins again at once. Both get the argument.
     */
    uint32_t instruction_blocks;
    emu_watch watches[EMU_WATCHES];
    uint32_t watch_count;
    uintptr_t met, restarts, argument;
    uint64_t met_address;
    uint32_t met_access;
    /* Code was translated from a page that had none, or a page with code stored to; cleared by who asks. */
    uint32_t code_changed;

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
enum { FLAG_TF = 1 << 8, FLAG_NT = 1 << 14, FLAG_RF = 1 << 16, FLAG_VM = 1 << 17, IOPL_SHIFT = 12 };
enum { HF_CPL = 3, HF_CS32 = 1 << 4, HF_PE = 1 << 7, HF_TF = 1 << 8, HF_CS64 = 1 << 15 };
enum { CR0_PE = 1, CR0_NW = 1 << 29, CR0_CD = 1 << 30, CR4_DE = 8, CR4_PAE = 1 << 5, HF_LMA = 1 << 14 };
enum { DR6_BD = 1 << 13, DR6_BS = 1 << 14, DR6_NEVER = 1 << 12, DR7_GD = 1 << 13, DR7_NEVER = 0xd800, DR7_ALWAYS = 0x400 };
enum { ON_WRITE = 1, ON_ACCESS = 3, MEM_READ = 1, MEM_WRITE = 2 };
enum { PAGE_SHIFT = 12, KERNEL_MMU = 2, PAGE_WRITE = 2, PAGE_EXEC = 4, FETCH = 2 };
#define CR0_PG 0x80000000u

static emu_system_layout at;
static emu_system *engines;
static pthread_rwlock_t engines_lock = PTHREAD_RWLOCK_INITIALIZER;

typedef struct {
    uint8_t *block;
    uint64_t first, next;
} disassembly; /* DisasContextBase; in the block: PC, CS base (64 bits each), flags (32 bits) */

typedef struct {
    void *init, *block_start, *instruction_start, *breakpoint;
    void (*translate)(disassembly *, void *cpu);
    void *block_stop, *pc_sync;
} operations; /* TranslatorOps */

static struct {
    uint64_t (*inb)(environment *, uint32_t port), (*inw)(environment *, uint32_t), (*inl)(environment *, uint32_t);
    void (*outb)(environment *, uint32_t port, uint32_t value);
    void (*outw)(environment *, uint32_t, uint32_t), (*outl)(environment *, uint32_t, uint32_t);
    uint64_t (*read_control)(environment *, int number);
    void (*write_control)(environment *, int number, uint64_t value);
    uint64_t (*read_debug)(environment *, int number);
    void (*write_debug)(environment *, int number, uint64_t value);
    void (*update_dr7)(environment *, uint32_t value);
    void (*single_step)(environment *), (*rechecking_single_step)(environment *);
    void (*cpuid)(environment *, uint32_t, uint32_t, uint32_t *, uint32_t *, uint32_t *, uint32_t *);
    uint64_t (*random)(environment *);
    void (*raise)(environment *, int vector);
    void (*raise_with_code)(environment *, int vector, int code, uintptr_t caller);
    uint32_t (*load2)(environment *, uint64_t address, int mmu, uintptr_t caller);
    uint64_t (*load8)(environment *, uint64_t address, uintptr_t caller);
    void (*return_from_interrupt)(environment *, int size, int next);
    bool (*restore)(void *cpu, uintptr_t caller, bool leaving);
    void (*leave)(void *cpu);
    void (*loop)(const operations *, disassembly *, void *cpu, void *block, int most);
    uint32_t (*fetch)(environment *, uint64_t address), (*peek)(environment *, uint64_t address);
    void (*forget_addresses)(void *cpu);
    void (*protect_code)(void *uc, uint64_t ram), (*unprotect_code)(void *uc, uint64_t ram);
    void (*set_dirty)(void *cpu, uint64_t address);
    void (*set_page)(void *cpu, uint64_t address, uint64_t physical, uint32_t attributes, int rights, int mmu, uint64_t size);
    void *(*host_address)(environment *, uint64_t address, int access, int mmu);
    void (*forget_page)(void *uc, void *pages, uint64_t ram, int size, uintptr_t caller);
    void (*forget_range)(void *uc, uint64_t first, uint64_t end);
    uint64_t (*ram_address)(void *uc, void *host);
} library;

#define U32(env, offset) (*(uint32_t *)((env) + (offset)))
#define U64(env, offset) (*(uint64_t *)((env) + (offset)))
#define DR(env, n) U64(env, at.debug + 8 * (n))

#define FIND(field, value)                                                                                            \
    emu_system *s;                                                                                                    \
    pthread_rwlock_rdlock(&engines_lock);                                                                             \
    for (s = engines; s && s->field != (value); s = s->next)                                                          \
        ;                                                                                                             \
    pthread_rwlock_unlock(&engines_lock)

static emu_system *by_env(const environment *env)
{
    FIND(env, env);
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

static void raise_with_code(environment *env, int vector, uintptr_t caller)
{
    library.raise_with_code(env, vector, 0, caller);
}

/* ---- I/O permission ---- */

/* #GP(0) unless CPL <= IOPL or the map in the TSS allows it (Intel SDM volume 1, section 19.5.2). */
static void check_port(environment *env, uint32_t port, int size, uintptr_t caller)
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
        map = (library.load2(env, base + 0x66, KERNEL_MMU, caller) & 0xffff) + port / 8;
        /* The processor always reads two bytes. */
        if (map + 1 <= limit && !(library.load2(env, base + map, KERNEL_MMU, caller) >> port % 8 & ((1u << size) - 1)))
            return;
    }
    raise_with_code(env, GP, caller);
}

#define IN(name, size)                                                                                                \
    uint64_t HELPER(name)(environment *env, uint32_t port)                                                            \
    {                                                                                                                 \
        check_port(env, port & 0xffff, size, CALLER);                                                                 \
        return library.name(env, port);                                                                               \
    }
#define OUT(name, size)                                                                                               \
    void HELPER(name)(environment *env, uint32_t port, uint32_t value)                                                \
    {                                                                                                                 \
        check_port(env, port & 0xffff, size, CALLER);                                                                 \
        library.name(env, port, value);                                                                               \
    }
IN(inb, 1)
IN(inw, 2)
IN(inl, 4)
OUT(outb, 1)
OUT(outw, 2)
OUT(outl, 4)

/* ---- Control registers ---- */

uint64_t HELPER(read_crN)(environment *env, int number)
{
    if (number == 8 && by_env(env))
        return env[at.task_priority];
    return library.read_control(env, number);
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

void HELPER(write_crN)(environment *env, int number, uint64_t value)
{
    uintptr_t caller = CALLER;
    emu_system *s = by_env(env);
    if (s && reserved_bits(s, number, value))
        raise_with_code(env, GP, caller);
    library.write_control(env, number, value);
}

/* ---- Debug registers ---- */

/*
 * Intel SDM volume 3, chapter 18. Unicorn's generated code still looks for watched pages, but the
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

static bool overlap(uint64_t address, uint64_t size, uint64_t first, uint64_t length)
{
    /* Differences, so that a range at the end of the address space is a range too. */
    return address - first < length || first - address < size;
}

/* The breakpoints that an access of this kind meets, as bits of DR6. */
static uint32_t hits(const environment *env, uint64_t address, uint64_t size, int access)
{
    uint64_t dr7 = DR(env, 7);
    uint32_t found = 0;
    for (int n = 0; n < 4; n++) {
        uint64_t first = DR(env, n) & ~(length(dr7, n) - 1);
        bool watched = kind(dr7, n) == ON_ACCESS || (kind(dr7, n) == ON_WRITE && access & MEM_WRITE);
        if (enabled(dr7, n) && watched && overlap(address, size, first, length(dr7, n)))
            found |= 1u << n;
    }
    return found;
}

static bool watches_data(const environment *env)
{
    uint64_t dr7 = DR(env, 7);
    for (int n = 0; n < 4; n++)
        if (enabled(dr7, n) && (kind(dr7, n) == ON_WRITE || kind(dr7, n) == ON_ACCESS))
            return true;
    return false;
}

int NAME(cpu_watchpoint_address_matches)(void *cpu, uint64_t address, uint64_t size)
{
    emu_system *s = by_cpu(cpu);
    int found = 0;
    if (!s)
        return 0;
    for (uint32_t n = 0; n < s->watch_count; n++)
        if (overlap(address, size, s->watches[n].address, s->watches[n].size))
            found |= (int)s->watches[n].access;
    if (watches_data(s->env))
        found |= (hits(s->env, address, size, MEM_READ) ? MEM_READ : 0) |
                 (hits(s->env, address, size, MEM_WRITE) ? MEM_WRITE : 0);
    return found;
}

/* Tell the debugger of an access that it watches. The instruction goes on. */
void emu_system_accessed(emu_system *s, uint64_t address, uint64_t size, uint32_t access)
{
    for (uint32_t n = 0; n < s->watch_count; n++) {
        const emu_watch *watch = &s->watches[n];
        if (watch->access & access && overlap(address, size, watch->address, watch->size)) {
            s->met_address = address - watch->address < watch->size ? address : watch->address;
            s->met_access = access;
            ((void (*)(void *))s->met)((void *)s->argument);
            return;
        }
    }
}

static void tell_of_restart(const emu_system *s)
{
    if (s->instruction_blocks)
        ((void (*)(void *))s->restarts)((void *)s->argument);
}

/* The library begins an instruction again that has changed its own code. */
void NAME(cpu_loop_exit_noexc)(void *cpu)
{
    emu_system *s = by_cpu(cpu);
    if (s)
        tell_of_restart(s);
    library.leave(cpu);
}

void NAME(cpu_check_watchpoint)(void *cpu, uint64_t address, uint64_t size, uint32_t attributes, int access,
                                 uintptr_t caller)
{
    emu_system *s = by_cpu(cpu);
    uint32_t found;
    (void)attributes;
    if (!s)
        return;
    /*
     * An unaligned store within a page is announced as if it crossed into that page: first its address with a negative
     * size, then from the start of the page to its end.
     */
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
    emu_system_accessed(s, address, size, (uint32_t)access & (MEM_READ | MEM_WRITE));
    if (!(found = hits(s->env, address, size, access)))
        return;
    if (U32(s->env, at.eflags) & FLAG_TF || U32(s->env, at.hflags) & HF_TF) {
        s->watch_hits |= found;
        return;
    }
    s->watch_hits = 0;
    U32(s->env, at.hflags) |= HF_TF;
    library.restore(cpu, caller, true);
    tell_of_restart(s);
    library.leave(cpu);
}

static void report_step(emu_system *s)
{
    environment *env = s->env;
    uint64_t dr6 = (DR(env, 6) & ~(uint64_t)15) | s->watch_hits;
    if (U32(env, at.eflags) & FLAG_TF)
        dr6 |= DR6_BS;
    else if (!s->watch_hits)
        library.leave(s->cpu);
    s->watch_hits = 0;
    DR(env, 6) = dr6;
    library.raise(env, DB);
}

void HELPER(single_step)(environment *env)
{
    emu_system *s = by_env(env);
    if (s && (U32(env, at.hflags) & HF_TF || s->watch_hits)) {
        U32(env, at.hflags) &= ~HF_TF;
        report_step(s);
    }
    library.single_step(env);
}

/* Behind instructions that load TF: POPF, IRET. */
void HELPER(rechecking_single_step)(environment *env)
{
    if (by_env(env) && U32(env, at.hflags) & HF_TF)
        HELPER(single_step)(env);
    else
        library.rechecking_single_step(env);
}

/* General detect, and DR4 and DR5, which are DR6 and DR7 unless CR4.DE is set. */
static int check_debug(environment *env, int number, uintptr_t caller)
{
    if (DR(env, 7) & DR7_GD) {
        DR(env, 7) &= ~(uint64_t)DR7_GD;
        DR(env, 6) |= DR6_BD;
        raise_with_code(env, DB, caller);
    }
    if (number != 4 && number != 5)
        return number;
    if (U64(env, at.control + 32) & CR4_DE)
        raise_with_code(env, UD, caller);
    return number + 2;
}

void HELPER(set_dr)(environment *env, int number, uint64_t value)
{
    uintptr_t caller = CALLER;
    emu_system *s = by_env(env);
    bool watched;
    if (!s) {
        library.write_debug(env, number, value);
        return;
    }
    number = check_debug(env, number, caller);
    if (number > 4 && value >> 32)
        raise_with_code(env, GP, caller);
    if (number > 4)
        value &= ~(uint64_t)(number == 6 ? DR6_NEVER : DR7_NEVER);
    watched = watches_data(env);
    library.write_debug(env, number, value);
    if (watched || watches_data(env))
        library.forget_addresses(s->cpu);
}

uint64_t HELPER(get_dr)(environment *env, int number)
{
    if (by_env(env))
        number = check_debug(env, number, CALLER);
    return library.read_debug(env, number);
}

/*
 * Around a change of the debug registers from outside. Unicorn keeps instruction breakpoints in a list beside the
 * registers; what it writes into them, or restores from a context, it does not tell the list.
 */
void emu_system_debug_off(emu_system *s)
{
    if (DR(s->env, 7) & 0xff)
        library.update_dr7(s->env, DR7_ALWAYS);
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
    library.update_dr7(s->env, (uint32_t)dr7);
    library.forget_addresses(s->cpu);
}

/* Watch these and no others; at most EMU_WATCHES, while the engine stands still. */
void emu_system_set_watches(emu_system *s, const emu_watch *watches, uint32_t count)
{
    memcpy(s->watches, watches, count * sizeof *watches);
    s->watch_count = count;
    library.forget_addresses(s->cpu);
}

/*
 * IRET from a fault loads RF, which the instruction behind it clears, and only breakpoints ask for it in between. The
 * library would translate what follows once more, for code with RF: where there is no breakpoint, RF is cleared at once.
 * As it says where it stands by its caller, that is looked up before it is called from here.
 */
void HELPER(iret_protected)(environment *env, int size, int next)
{
    enum { QUAD = 2, FLAGS_IN_FRAME = 16, STACK_POINTER = 4 };
    uintptr_t caller = CALLER;
    emu_system *s = by_env(env);
    if (s && !(DR(env, 7) & 0xff) && !(U32(env, at.eflags) & FLAG_NT)) {
        uint64_t frame = U64(env, 8 * STACK_POINTER);
        bool keeps = size == QUAD;
        if (keeps) {
            library.load8(env, frame, caller);
            keeps = !(library.load8(env, frame + FLAGS_IN_FRAME, caller) & FLAG_RF);
        }
        if (!keeps) {
            library.restore(s->cpu, caller, false);
            library.return_from_interrupt(env, size, next);
            U32(env, at.eflags) &= ~(uint32_t)FLAG_RF;
            return;
        }
    }
    library.return_from_interrupt(env, size, next);
}

/* ---- CPUID and RDRAND ---- */

/* Leaf 5 describes MONITOR and MWAIT, which are hidden (Intel SDM volume 2, CPUID). */
void NAME(cpu_x86_cpuid)(environment *env, uint32_t leaf, uint32_t subleaf, uint32_t *eax, uint32_t *ebx, uint32_t *ecx,
                         uint32_t *edx)
{
    library.cpuid(env, leaf, subleaf, eax, ebx, ecx, edx);
    if (leaf == 5 && by_env(env))
        *eax = *ebx = *ecx = *edx = 0;
}

/* RDRAND and RDSEED: Unicorn's function succeeds and says so in the flags; the number is ours (splitmix64). */
uint64_t HELPER(rdrand)(environment *env)
{
    emu_system *s = by_env(env);
    uint64_t value = library.random(env);
    if (s) {
        value = s->random += 0x9e3779b97f4a7c15u;
        value = (value ^ value >> 30) * 0xbf58476d1ce4e5b9u;
        value = (value ^ value >> 27) * 0x94d049bb133111ebu;
        value ^= value >> 31;
    }
    return value;
}

/* ---- Absent instructions ---- */

/*
 * Encodings that the decoder takes for others: VEX-encoded SSE would run as SSE with two operands, XOP as POP, XBEGIN as
 * MOV, SSE4A although CPUID does not name it, and LOCK is ignored before some that do not take it. The decoder is shown
 * UD2 in their place.
 */

static __thread uint64_t hidden_at;
static __thread bool hiding;
static operations ours;
static void (*translate)(disassembly *, void *cpu);

uint32_t NAME(cpu_ldub_code)(environment *env, uint64_t address)
{
    static const uint8_t ud2[] = {0x0f, 0x0b};
    if (hiding && address - hidden_at < sizeof ud2)
        return ud2[address - hidden_at];
    return library.fetch(env, address);
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

/*
 * How many bytes it took to see that the instruction at pc, whose opcode is at n, takes no LOCK (SDM volume 2, LOCK: what
 * reads and writes one operand in memory does); 0 if it takes it.
 */
static unsigned not_lockable(environment *env, uint64_t pc, unsigned n)
{
    enum { NONE = 0, ANY = 0xff }; /* values of ModRM.reg, one bit each */
    uint8_t opcode = (uint8_t)library.peek(env, pc + n++), modrm, allowed = NONE;
    if (opcode == 0x0f) {
        opcode = (uint8_t)library.peek(env, pc + n++);
        switch (opcode) {
        case 0xab: case 0xb3: case 0xbb: case 0xb0: case 0xb1: case 0xc0: case 0xc1: /* BTS, BTR, BTC, CMPXCHG, XADD */
            allowed = ANY;
            break;
        case 0xba: /* BTS, BTR, BTC */
            allowed = 0xe0;
            break;
        case 0xc7: /* CMPXCHG8B, CMPXCHG16B */
            allowed = 0x02;
            break;
        }
    } else if (opcode < 0x38 && (opcode & 6) == 0) /* ADD, OR, ADC, SBB, AND, SUB, XOR */
        allowed = ANY;
    else
        switch (opcode) {
        case 0x80: case 0x81: case 0x82: case 0x83: /* the same */
            allowed = 0x7f;
            break;
        case 0x86: case 0x87: /* XCHG */
            allowed = ANY;
            break;
        case 0xf6: case 0xf7: /* NOT, NEG */
            allowed = 0x0c;
            break;
        case 0xfe: case 0xff: /* INC, DEC */
            allowed = 0x03;
            break;
        }
    if (allowed == NONE)
        return n;
    modrm = (uint8_t)library.peek(env, pc + n++);
    return modrm < 0xc0 && allowed >> (modrm >> 3 & 7) & 1 ? 0 : n;
}

/*
 * How many bytes it took to see that the instruction at pc is none; 0 for any other instruction. Reads no byte that the
 * instruction does not have.
 */
static unsigned absent(environment *env, uint64_t pc, uint32_t flags)
{
    bool code64 = flags & HF_CS64;
    unsigned n = 0;
    uint8_t byte, second, opcode;
    bool repeat = false, locked = false;
    while (is_prefix(byte = (uint8_t)library.peek(env, pc + n), code64) && n < 14) {
        repeat |= byte == 0xf2 || byte == 0xf3;
        locked |= byte == 0xf0;
        n++;
    }
    if (locked)
        return not_lockable(env, pc, n);
    if (byte == 0x0f) { /* SSE4A: EXTRQ and INSERTQ, MOVNTSS and MOVNTSD */
        opcode = (uint8_t)library.peek(env, pc + n + 1);
        return opcode == 0x78 || opcode == 0x79 || (opcode == 0x2b && repeat) ? n + 2 : 0;
    }
    if (byte == 0x8f || byte == 0xc6 || byte == 0xc7) /* POP and MOV are /0; others are XOP, XABORT and XBEGIN */
        return (uint8_t)library.peek(env, pc + n + 1) & 0x38 ? n + 2 : 0;
    if ((byte != 0xc4 && byte != 0xc5) || !(flags & HF_CS32) || flags & FLAG_VM)
        return 0;
    second = (uint8_t)library.peek(env, pc + n + 1);
    if (!code64 && (second & 0xc0) != 0xc0) /* LES, LDS */
        return 0;
    if (byte == 0xc5)
        return n + 2;
    opcode = (uint8_t)library.peek(env, pc + n + 3);
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

void NAME(translator_loop)(const operations *theirs, disassembly *d, void *cpu, void *block, int max_instructions)
{
    emu_system *s = by_cpu(cpu);
    /* A fault while code was fetched has left through a jump. */
    hiding = false;
    if (!s) {
        library.loop(theirs, d, cpu, block, max_instructions);
        return;
    }
    translate = theirs->translate;
    ours = *theirs;
    ours.translate = translate_or_hide;
    library.loop(&ours, d, cpu, block, s->instruction_blocks ? 1 : max_instructions);
}

/* ---- Self-modifying code ---- */

/*
 * Unicorn notices stores to a page of translated code through the linear address that the code was
 * fetched from; through another one it stops looking after the first store, or never begins. So: whenever a page gets its
 * first code, all cached translations of addresses go, that the next store through any of them is looked at; and as long
 * as the page has code, they stay so.
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

/* Before tlb_set_dirty, for the same store. */
void NAME(tb_invalidate_phys_page_fast)(void *uc, void *pages, uint64_t ram, int size, uintptr_t caller)
{
    emu_system *s = by_engine(uc);
    if (s) {
        s->written_page = ram >> PAGE_SHIFT;
        s->code_changed |= has_code(s, s->written_page);
    }
    library.forget_page(uc, pages, ram, size, caller);
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

/* ---- Binding ---- */

/* `translation` has functions (_translate) that go on to the library's: ours stand before these. */
const char *emu_system_bind(void *handle, void *translation)
{
    static const struct wanted wanted[] = {
        {"helper_inb", &library.inb},
        {"helper_inw", &library.inw},
        {"helper_inl", &library.inl},
        {"helper_outb", &library.outb},
        {"helper_outw", &library.outw},
        {"helper_outl", &library.outl},
        {"helper_read_crN", &library.read_control},
        {"helper_write_crN", &library.write_control},
        {"helper_get_dr", &library.read_debug},
        {"helper_set_dr", &library.write_debug},
        {"cpu_x86_update_dr7", &library.update_dr7},
        {"helper_single_step", &library.single_step},
        {"helper_rechecking_single_step", &library.rechecking_single_step},
        {"cpu_x86_cpuid", &library.cpuid},
        {"helper_rdrand", &library.random},
        {"raise_exception", &library.raise},
        {"raise_exception_err_ra", &library.raise_with_code},
        {"cpu_lduw_mmuidx_ra", &library.load2},
        {"cpu_ldq_data_ra", &library.load8},
        {"helper_iret_protected", &library.return_from_interrupt},
        {"cpu_restore_state", &library.restore},
        {"cpu_loop_exit_noexc", &library.leave},
        {"cpu_ldub_code", &library.peek},
        {"tlb_flush", &library.forget_addresses},
        {"tlb_protect_code", &library.protect_code},
        {"tlb_unprotect_code", &library.unprotect_code},
        {"tlb_set_dirty", &library.set_dirty},
        {"tlb_vaddr_to_host", &library.host_address},
        {"tb_invalidate_phys_page_fast", &library.forget_page},
        {"tb_invalidate_phys_range", &library.forget_range},
        {"qemu_ram_addr_from_host", &library.ram_address},
    };
    static const struct wanted between[] = {
        {"translator_loop", &library.loop},
        {"cpu_ldub_code", &library.fetch},
        {"tlb_set_page_with_attrs", &library.set_page},
    };
    const char *missing = LOOK_UP(handle, wanted);
    if (!missing && LOOK_UP(translation, between)) /* on some hosts it has none */
        missing = LOOK_UP(handle, between);
    return missing;
}

void emu_system_know(const emu_system_layout *layout)
{
    at = *layout;
}

void emu_system_attach(emu_system *s, void *uc, void *cpu, environment *env)
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
