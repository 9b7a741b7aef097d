/*
 * Corrections to how the CPU library translates instructions.
 *
 * Its translator reads an instruction byte by byte and emits operations, both through global symbols. This module defines
 * the same ones and is loaded before, so by the rules of ELF it sits between: it watches the bytes go by, and where the
 * library is known to go wrong it changes an operation, or adds one before or after those of the instruction. What is
 * wrong was found by comparing with a CPU (tests/oracle/test_oracle_cpu.py); each case says what it is.
 *
 * Translation happens once per block, so none of this costs the running guest anything but the operations added.
 */
#include "observer.h"

#if defined(__x86_64__)

typedef void (*step)(void *block, void *cpu);

/* The library's numbers for types of variables, conditions and kinds of memory access. */
enum { TYPE_I64 = 1 };
enum { LT = 2, EQ = 8, LE = 10, LEU = 12, GTU = 13 };
enum { ACCESS_SHIFT = 4, ALIGN_16 = 4 << 4, ALIGN_NATURAL = 7 << 4 };
/* Flags of a block: bits of its own, and some of EFLAGS. */
enum { FLAGS_CPL = 3, FLAG_CODE64 = 1 << 15, FLAG_AC = 1 << 18 };
enum { VECTOR_GP = 13, VECTOR_AC = 17, CR0_AM = 1 << 18 };

static struct {
    uint32_t (*fetch)(environment *, uint64_t);
    void (*loop)(const step *, void *, void *, void *, int);
    void *(*announce)(context *, int, value, intptr_t, const char *);
    void *(*emit)(context *, int);
    void (*load64)(context *, value, value, intptr_t, int);
    void (*store64)(context *, value, value, intptr_t, int);
    void (*load32)(context *, value, value, intptr_t, int);
    void (*store32)(context *, value, value, intptr_t, int);
    void (*extend32)(context *, value, value);
    void (*set_if)(context *, int, value, value, value);
    void (*choose)(context *, int, value, value, value, value, value);
    void (*subtract)(context *, value, value, int64_t);
    void (*subtract_from)(context *, value, int64_t, value);
    void (*clear_bits)(context *, value, value, value);
    value (*constant)(context *, int64_t);
    void *(*reserve)(context *, int, bool);
    void (*release)(context *, void *);
    void (*call)(context *, void *, void *, int, void **);
    void (*wait)(environment *);
    void (*raise)(environment *, int, int, uintptr_t);
    uint64_t (*read_control)(environment *, int);
    uint64_t (*read16)(environment *, uint64_t, uint32_t, uintptr_t);
    uint64_t (*read32)(environment *, uint64_t, uint32_t, uintptr_t);
    uint64_t (*read64)(environment *, uint64_t, uint32_t, uintptr_t);
    uint64_t (*read_swapped16)(environment *, uint64_t, uint32_t, uintptr_t);
    uint64_t (*read_swapped32)(environment *, uint64_t, uint32_t, uintptr_t);
    uint64_t (*read_swapped64)(environment *, uint64_t, uint32_t, uintptr_t);
    void (*write16)(environment *, uint64_t, uint16_t, uint32_t, uintptr_t);
    void (*write32)(environment *, uint64_t, uint32_t, uint32_t, uintptr_t);
    void (*write64)(environment *, uint64_t, uint64_t, uint32_t, uintptr_t);
    void (*write_swapped16)(environment *, uint64_t, uint16_t, uint32_t, uintptr_t);
    void (*write_swapped32)(environment *, uint64_t, uint32_t, uint32_t, uintptr_t);
    void (*write_swapped64)(environment *, uint64_t, uint64_t, uint32_t, uintptr_t);
    bool (*restore)(void *, uintptr_t, bool);
    void (*store_for_helper8)(environment *, uint64_t, uint32_t, int, uintptr_t);
    void (*store_for_helper16)(environment *, uint64_t, uint32_t, int, uintptr_t);
    void (*store_for_helper32)(environment *, uint64_t, uint32_t, int, uintptr_t);
    void (*store_for_helper64)(environment *, uint64_t, uint64_t, int, uintptr_t);
    void (*map_page)(void *, uint64_t, uint64_t, uint32_t, int, int, uint64_t);
    void (*mark)(void *, uint64_t, uint32_t);
    void (*exchange8)(environment *, uint64_t), (*exchange16)(environment *, uint64_t);
} library;

/* What the library begins its blocks of translated code with. */
struct block { uint64_t pc, cs_base; uint32_t flags; };

/* ---- The instruction and the block being translated ---- */

enum { COMPLETE, PREFIXES, VEX_2, VEX_3, VEX_LAST, OPCODE, OPCODE_0F, OPCODE_38, OPCODE_3A, MODRM };
enum { MAP_ONE, MAP_0F, MAP_38, MAP_3A };
enum { PLAIN, WITH_66, WITH_F3, WITH_F2 }; /* which prefix selects among instructions, numbered as in VEX */
enum { RIGHT, BLSI, BZHI, BEXTR, PDEP, CMPXCHG, LOCK_NEG };
enum { MOST_TEMPORARIES = 4 };

static __thread struct {
    int state, kind, prefix, temporaries;
    bool vex, wide, lock, align;
    uint8_t map, opcode, modrm, high_register;
    void *temporary[MOST_TEMPORARIES];
    value amount, accumulator, found;
} now;

/* Of the block being translated. */
static __thread struct {
    context *generator;
    step translate;
    bool code64, check_alignment;
    void *cpu;
    emu_observer *observer;
} block;

static value environment_variable, registers[16], flags_source, flags_result;
static int announced;
static ptrdiff_t state_offset; /* of the CPU's state in the CPU */

static void *pointer(context *s, value variable) { return (uint8_t *)s + variable; }

static value temporary(context *s)
{
    void *made = library.reserve(s, TYPE_I64, false);
    if (now.temporaries < MOST_TEMPORARIES)
        now.temporary[now.temporaries++] = made;
    return (value)((uint8_t *)made - (uint8_t *)s);
}

#include "instruction_bytes.h"

/* ---- Who watches ---- */

/* At most one in the process: set and cleared by who watches, while its engine stands still. */
emu_observer *emu_observed;

/* The code generator of the engine that was opened last. */
context *emu_last_generator;

static emu_observer *observer_of(const void *cpu)
{
    emu_observer *o = emu_observed;
    return o && o->cpu == cpu ? o : NULL;
}

static emu_observer *observer_in(const environment *env)
{
    emu_observer *o = emu_observed;
    return o && o->env == env ? o : NULL;
}

static bool crosses_page(uint64_t address, unsigned size)
{
    return (address & 4095) + size > 4096;
}

/* ---- Between the translator and its loop ---- */

uint32_t NAME(cpu_ldub_code)(environment *env, uint64_t pc)
{
    uint32_t byte = library.fetch(env, pc);
    state_offset = env - (uint8_t *)block.cpu;
    if (now.state != COMPLETE)
        read_byte((uint8_t)byte);
    return byte;
}

void *NAME(tcg_emit_op)(context *s, int operation)
{
    block.generator = s;
    return library.emit(s, operation);
}

void *NAME(tcg_global_mem_new_internal)(context *s, int type, value base, intptr_t offset, const char *name)
{
    static const char *const names[16] = {"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
                                          "r8",  "r9",  "r10", "r11", "r12", "r13", "r14", "r15"};
    void *made = library.announce(s, type, base, offset, name);
    value variable = (value)((uint8_t *)made - (uint8_t *)s);
    emu_last_generator = s;
    environment_variable = base;
    for (int n = 0; n < 16; n++)
        if (!strcmp(name, names[n])) {
            registers[n] = variable;
            announced |= 1 << n;
        }
    if (!strcmp(name, "cc_src")) {
        flags_source = variable;
        announced |= 1 << 16;
    }
    if (!strcmp(name, "cc_dst")) {
        flags_result = variable;
        announced |= 1 << 17;
    }
    return made;
}

static void after(context *s)
{
    switch (now.kind) {
    case BLSI: /* CF says that the source is not zero, and the library, which keeps the source, says the opposite */
        if (!now.wide)
            library.extend32(s, flags_source, flags_source);
        library.set_if(s, EQ, flags_source, flags_source, library.constant(s, 0));
        break;
    case PDEP: /* bits of the mask above 32 were used */
        if (!now.wide) {
            value result = registers[(now.modrm >> 3 & 7) | (block.code64 ? now.high_register : 0)];
            library.extend32(s, result, result);
        }
        break;
    case LOCK_NEG: /* the flags were computed from the operand, not from the result */
        library.subtract_from(s, flags_result, 0, flags_result);
        library.subtract_from(s, flags_source, 0, flags_source);
        break;
    }
}

/* How the library describes the block that it translates, and where in it. */
struct progress { void *block; uint64_t first, next; };

static void translate(void *db, void *cpu)
{
    const struct progress *at = db;
    if (block.observer)
        block.observer->instruction(block.observer, block.generator, at->next, at->next == at->first);
    now.state = PREFIXES;
    block.translate(db, cpu);
    after(block.generator);
    while (now.temporaries)
        library.release(block.generator, now.temporary[--now.temporaries]);
    memset(&now, 0, sizeof now);
}

/* The fifth of the steps translates one instruction. */
enum { STEPS = 7, TRANSLATE = 4 };

void NAME(translator_loop)(const step *steps, void *db, void *cpu, void *tb, int most)
{
    const struct block *head = tb;
    step ours[STEPS];
    memset(&now, 0, sizeof now); /* a page fault may have ended the last translation */
    memcpy(ours, steps, sizeof ours);
    block.cpu = cpu;
    block.observer = observer_of(cpu);
    if (block.observer) {
        block.observer->environment = environment_variable;
        block.observer->count = registers[1];
    }
    block.translate = ours[TRANSLATE];
    block.code64 = head->flags & FLAG_CODE64;
    block.check_alignment = head->flags & FLAG_AC && (head->flags & FLAGS_CPL) == 3;
    ours[TRANSLATE] = translate;
    library.loop(ours, db, cpu, tb, most);
}

/* ---- Operations that are changed ---- */

void NAME(tcg_gen_ext32u_i64)(context *s, value result, value from)
{
    /* CMPXCHG r/m32: what is not written keeps its upper half, too. */
    if (now.kind == CMPXCHG && result == registers[0] && !now.accumulator) {
        now.accumulator = temporary(s);
        now.found = temporary(s);
        library.extend32(s, now.accumulator, result);
        library.extend32(s, now.found, from);
        library.choose(s, EQ, result, now.accumulator, now.found, result, now.found);
    } else if (now.kind == CMPXCHG && now.accumulator && now.modrm >= 0xc0) {
        value written = temporary(s);
        library.extend32(s, written, from);
        library.choose(s, EQ, result, now.accumulator, now.found, written, result);
    } else
        library.extend32(s, result, from);
}

void NAME(tcg_gen_setcond_i64)(context *s, int condition, value result, value a, value b)
{
    /* BZHI: CF also where the index is the width less one. */
    library.set_if(s, now.kind == BZHI && condition == LT ? LE : condition, result, a, b);
}

void NAME(tcg_gen_movcond_i64)(context *s, int condition, value result, value a, value b, value yes, value no)
{
    if (now.kind == BZHI) { /* the library would clear a bit with every index that is too large */
        now.amount = a;
        return;
    }
    if (now.kind == BEXTR && !now.amount) { /* the first: START too large. It is kept for the second. */
        library.choose(s, condition, result, a, b, yes, no);
        now.amount = temporary(s);
        library.extend32(s, now.amount, a);
        return;
    }
    if (now.kind == BEXTR) { /* the second: no more than the bits above START, of which the library lost one */
        value most = temporary(s);
        library.subtract_from(s, most, now.wide ? 64 : 32, now.amount);
        library.choose(s, LEU, result, a, most, a, most);
        now.amount = result;
        return;
    }
    library.choose(s, condition, result, a, b, yes, no);
}

void NAME(tcg_gen_subi_i64)(context *s, value result, value from, int64_t amount)
{
    library.subtract(s, result, from, amount);
    if (now.kind == BEXTR) /* the mask of 64 bits is 1 << 64 less one */
        library.choose(s, GTU, result, now.amount, library.constant(s, 63), library.constant(s, -1), result);
}

void NAME(tcg_gen_andc_i64)(context *s, value result, value from, value bits)
{
    if (now.kind == BZHI)
        library.choose(s, GTU, bits, now.amount, library.constant(s, now.wide ? 63 : 31), library.constant(s, 0), bits);
    library.clear_bits(s, result, from, bits);
}

#include "alignment.h"

/* ---- CMPXCHG8B and CMPXCHG16B ---- */

/*
 * They keep the flags but ZF, which are evaluated lazily; how is known where the code was translated, but the library does
 * not write it down before the call. So it is looked up, as for an exception.
 */
#define EXCHANGE(name, original)                                                                                      \
    void NAME(name)(environment *env, uint64_t address)                                                               \
    {                                                                                                                 \
        library.restore(env - state_offset, CALLER, false);                           \
        library.original(env, address);                                                                               \
    }

EXCHANGE(helper_cmpxchg8b, exchange8)
EXCHANGE(helper_cmpxchg8b_unlocked, exchange8)
EXCHANGE(helper_cmpxchg16b, exchange16)
EXCHANGE(helper_cmpxchg16b_unlocked, exchange16)

/* ---- Stores and page walks of the library's own functions ---- */

#define STORE(original, type, size, name)                                                                             \
    void NAME(name)(environment *env, uint64_t address, type data, int mmu, uintptr_t caller)                         \
    {                                                                                                                 \
        library.original(env, address, data, mmu, caller);                                                            \
        if (observer_in(env))                                                                                         \
            emu_observed->helper_stored(emu_observed, address, data, size, caller);                                   \
    }

STORE(store_for_helper8, uint32_t, 1, cpu_stb_mmuidx_ra)
STORE(store_for_helper16, uint32_t, 2, cpu_stw_mmuidx_ra)
STORE(store_for_helper32, uint32_t, 4, cpu_stl_mmuidx_ra)
STORE(store_for_helper64, uint64_t, 8, cpu_stq_mmuidx_ra)

void NAME(tlb_set_page_with_attrs)(void *cpu, uint64_t linear, uint64_t physical, uint32_t attributes, int allowed,
                                   int mmu, uint64_t size)
{
    if (observer_of(cpu))
        emu_observed->mapping(emu_observed, linear, physical);
    library.map_page(cpu, linear, physical, attributes, allowed, mmu, size);
}

void NAME(x86_stl_phys_notdirty)(void *cpu, uint64_t physical, uint32_t entry)
{
    library.mark(cpu, physical, entry);
    if (observer_of(cpu))
        emu_observed->marked(emu_observed, physical);
}

/* ---- Binding ---- */

const char *emu_translate_bind(void *handle)
{
    static const struct wanted wanted[] = {
        {"cpu_ldub_code", &library.fetch},
        {"translator_loop", &library.loop},
        {"tcg_global_mem_new_internal", &library.announce},
        {"tcg_emit_op", &library.emit},
        {"tcg_gen_qemu_ld_i64", &library.load64},
        {"tcg_gen_qemu_st_i64", &library.store64},
        {"tcg_gen_qemu_ld_i32", &library.load32},
        {"tcg_gen_qemu_st_i32", &library.store32},
        {"tcg_gen_ext32u_i64", &library.extend32},
        {"tcg_gen_setcond_i64", &library.set_if},
        {"tcg_gen_movcond_i64", &library.choose},
        {"tcg_gen_subi_i64", &library.subtract},
        {"tcg_gen_subfi_i64", &library.subtract_from},
        {"tcg_gen_andc_i64", &library.clear_bits},
        {"tcg_const_i64", &library.constant},
        {"tcg_temp_new_internal", &library.reserve},
        {"tcg_temp_free_internal", &library.release},
        {"tcg_gen_callN", &library.call},
        {"helper_fwait", &library.wait},
        {"raise_exception_err_ra", &library.raise},
        {"helper_read_crN", &library.read_control},
        {"helper_le_lduw_mmu", &library.read16},
        {"helper_le_ldul_mmu", &library.read32},
        {"helper_le_ldq_mmu", &library.read64},
        {"helper_be_lduw_mmu", &library.read_swapped16},
        {"helper_be_ldul_mmu", &library.read_swapped32},
        {"helper_be_ldq_mmu", &library.read_swapped64},
        {"helper_be_stw_mmu", &library.write_swapped16},
        {"helper_be_stl_mmu", &library.write_swapped32},
        {"helper_be_stq_mmu", &library.write_swapped64},
        {"helper_le_stw_mmu", &library.write16},
        {"helper_le_stl_mmu", &library.write32},
        {"helper_le_stq_mmu", &library.write64},
        {"cpu_restore_state", &library.restore},
        {"cpu_stb_mmuidx_ra", &library.store_for_helper8},
        {"cpu_stw_mmuidx_ra", &library.store_for_helper16},
        {"cpu_stl_mmuidx_ra", &library.store_for_helper32},
        {"cpu_stq_mmuidx_ra", &library.store_for_helper64},
        {"tlb_set_page_with_attrs", &library.map_page},
        {"x86_stl_phys_notdirty", &library.mark},
        {"helper_cmpxchg8b_unlocked", &library.exchange8},
        {"helper_cmpxchg16b_unlocked", &library.exchange16},
    };
    return LOOK_UP(handle, wanted);
}

int emu_translate_active(void)
{
    return announced == (1 << 18) - 1;
}

#else

const char *emu_translate_bind(void *handle)
{
    (void)handle;
    return NULL;
}

int emu_translate_active(void)
{
    return 1;
}

#endif
