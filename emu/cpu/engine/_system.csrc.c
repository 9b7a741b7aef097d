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
#include "code_span.h"

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
     * is given up and begins again at once; `spans` says where the code of a block lies. All get the argument.
     */
    uint32_t instruction_blocks;
    emu_watch watches[EMU_WATCHES];
    uint32_t watch_count;
    uintptr_t met, restarts, spans, argument;
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
    void (*enter_system)(environment *, int length);
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

#include "debug_registers.h"

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

/* SYSENTER may raise #GP, and the library does not say where it stands. */
void HELPER(sysenter)(environment *env, int length)
{
    uintptr_t caller = CALLER;
    emu_system *s = by_env(env);
    if (s)
        library.restore(s->cpu, caller, false);
    library.enter_system(env, length);
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

#include "absent_instructions.h"
#include "changed_code.h"

/* ---- Binding ---- */

/*
 * `translation` has functions (_translate) that go on to the library's: ours stand before these. `accesses` (_accesses) stands
 * before ours, and tells of code that we look at.
 */
const char *emu_system_bind(void *handle, void *translation, void *accesses)
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
        {"helper_sysenter", &library.enter_system},
        {"cpu_restore_state", &library.restore},
        {"cpu_loop_exit_noexc", &library.leave},
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
    static const struct wanted in_accesses[] = {{"emu_peek_code", &library.peek}};
    const char *missing = LOOK_UP(handle, wanted);
    if (!missing && LOOK_UP(translation, between)) /* on some hosts it has none */
        missing = LOOK_UP(handle, between);
    return missing ? missing : LOOK_UP_PUBLIC(accesses, in_accesses);
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
