/*
 * x87 instructions, carried out by the host's own unit.
 *
 * The CPU library computes floating point in software and loses most of what surrounds a result: sticky exception flags,
 * denormal operands, rounding direction (C1), stack faults, and the last digits of transcendental functions. These
 * definitions take the place of its own (binding.h). Each loads the guest's control word, executes the very instruction
 * with the guest's operands, and keeps what the host answers.
 *
 * Operands and results are exchanged through the library's CPU state, whose layout is measured (emu_x87_bind).
 */
#include "binding.h"

#if defined(__x86_64__)

/* x87 status word and control word (Intel SDM volume 1, section 8.1). */
enum { IE = 1, DE = 2, ZE = 4, OE = 8, UE = 0x10, PE = 0x20, EXCEPTIONS = 0x3f, STACK = 0x40, SUMMARY = 0x80, BUSY = 0x8000 };
enum { C0 = 0x100, C1 = 0x200, C2 = 0x400, C3 = 0x4000, TOP_SHIFT = 11 };
enum { CONTROL_BITS = 0x1f3f, CONTROL_ALWAYS = 0x40 };
enum { CARRY = 1, PARITY = 4, ZERO = 0x40 }; /* in EFLAGS */

static const uint16_t host_control = 0x37f;

static struct {
    size_t top, status, control, tags, registers, operand, flags;
} at;

static struct {
    void (*store8)(environment *, uint64_t address, uint64_t value, uintptr_t caller);
    void (*store4)(environment *, uint64_t address, uint32_t value, uintptr_t caller);
    void (*store2)(environment *, uint64_t address, uint32_t value, uintptr_t caller);
    uint64_t (*load8)(environment *, uint64_t address, uintptr_t caller);
    uint32_t (*load4)(environment *, uint64_t address, uintptr_t caller);
    uint32_t (*load2)(environment *, uint64_t address, uintptr_t caller);
    void (*store_environment16)(environment *, uint64_t address, int wide);
    void (*store_state16)(environment *, uint64_t address, int wide);
    void (*load_environment16)(environment *, uint64_t address, int wide);
    void (*load_state16)(environment *, uint64_t address, int wide);
    void (*initialize)(environment *);
    void (*push)(environment *);
    void (*load_one)(environment *);
    void (*load_operand)(environment *, uint32_t);
    void (*compare)(environment *, void *, void *);
} library;

typedef union {
    long double value;
    struct { uint64_t fraction; uint16_t exponent; };
} extended;

static const extended indefinite = {.fraction = 0xc000000000000000u, .exponent = 0xffff};

static uint32_t *top(environment *env) { return (uint32_t *)(env + at.top); }
static uint16_t *status(environment *env) { return (uint16_t *)(env + at.status); }
static uint16_t *control(environment *env) { return (uint16_t *)(env + at.control); }
static unsigned physical(environment *env, int n) { return (*top(env) + (unsigned)n) & 7; }
static extended *st(environment *env, int n) { return (extended *)(env + at.registers) + physical(env, n); }
static uint8_t *empty(environment *env, int n) { return env + at.tags + physical(env, n); }
static extended *operand(environment *env) { return (extended *)(env + at.operand); }

/* Between the library's calls for one instruction: about its operand, and what became of its push. */
static __thread bool operand_empty;
static __thread uint16_t operand_found; /* exceptions from converting the operand */
static __thread enum { NO_PUSH, PUSHED, OVERFLOWED, REFUSED } push_state;

/* Add what the host's status word says after an instruction. */
static void note(environment *env, uint16_t host)
{
    *status(env) = (uint16_t)((*status(env) & ~C1) | (host & (EXCEPTIONS | STACK | C1)));
    if (*status(env) & ~*control(env) & EXCEPTIONS)
        *status(env) |= SUMMARY | BUSY;
}

/* An exception that keeps the instruction from changing anything is pending and not masked. */
static bool blocked(environment *env)
{
    return *status(env) & ~*control(env) & (IE | DE | ZE);
}

/* Whether the instruction goes on, with the indefinite value. */
static bool stack_fault(environment *env, bool overflow)
{
    note(env, (uint16_t)(IE | STACK | (overflow ? C1 : 0)));
    return *control(env) & IE;
}

static void put(environment *env, int n, extended value)
{
    memcpy(st(env, n), &value, 10);
    *empty(env, n) = 0;
}

static void push(environment *env, extended value, uint16_t host)
{
    if (!*empty(env, -1)) {
        if (!stack_fault(env, true))
            return;
        value = indefinite;
    } else {
        note(env, host);
        if (host & IE && blocked(env)) /* a denormal is loaded even so, as CPUs do */
            return;
    }
    *top(env) = physical(env, -1);
    put(env, 0, value);
}

static bool is_nan(const extended *value)
{
    return (value->exponent & 0x7fff) == 0x7fff && value->fraction << 1;
}

/*
 * The host's status and what converting the operand found. A denormal counts only where nothing of higher priority was
 * found, and where it is not masked nothing is computed (SDM volume 1, section 8.5).
 */
static uint16_t with_operand(environment *env, uint16_t host, bool nan)
{
    uint16_t found = host & (IE | ZE) || nan ? operand_found & IE : operand_found;
    return found & ~*control(env) & DE ? (host & (IE | ZE)) | found : host | found;
}

/*
 * FNCLEX is slow, so what the host's unit remembers stays as long as it is no news to the guest. That is not enough for
 * exceptions that rank among each other, or stop the instruction.
 */
static void forget(environment *env)
{
    uint16_t host;
    __asm__ volatile("fnstsw %0" : "=a"(host));
    if (host & (EXCEPTIONS | STACK) & ~(*status(env) & (OE | UE | PE)))
        __asm__ volatile("fnclex");
}

/*
 * BODY on the host, with the guest's rounding, precision and masks; its status word goes to HOST before AFTER stores the
 * result. The host's x87 stack is empty before and after. With masks of its own the guest may leave an exception pending
 * on the host, which AFTER must not meet.
 */
#define ON_HOST(env, guest_control, body, after, host, outputs, inputs)                                               \
    do {                                                                                                              \
        if ((guest_control) == host_control) {                                                                        \
            forget(env);                                                                                              \
            __asm__ volatile(body "; fnstsw %[sw]; " after                                                            \
                             : [sw] "=&a"(host), OF outputs                                                           \
                             : [own] "m"(host_control) AND_OF inputs);                                                \
        } else                                                                                                        \
            __asm__ volatile("fnclex; fldcw %[guest]; " body "; fnstsw %[sw]; fnclex; " after "; fldcw %[own]"        \
                             : [sw] "=&a"(host), OF outputs                                                           \
                             : [guest] "m"(guest_control), [own] "m"(host_control) AND_OF inputs);                    \
    } while (0)
#define OF(...) __VA_ARGS__
#define AND_OF(...) , ##__VA_ARGS__

/* INSTRUCTION works on st = a and st(1) = b; the result is in st. */
#define COMPUTE(instruction, a, b, result, host)                                                                      \
    ON_HOST(env, *control(env), "fldt %[y]; fldt %[x]; " instruction, "fstpt %[to]; fstp %%st(0)", host,              \
            ([to] "=m"((result)->value)), ([x] "m"((a)->value), [y] "m"((b)->value)))

#define BINARY(name, instruction, reversed)                                                                           \
    void HELPER(f##name##_ST0_FT0)(environment *env)                                                           \
    {                                                                                                                 \
        extended result;                                                                                              \
        uint16_t host;                                                                                                \
        if (*empty(env, 0) || operand_empty) {                                                                        \
            if (stack_fault(env, false))                                                                              \
                put(env, 0, indefinite);                                                                              \
            return;                                                                                                   \
        }                                                                                                             \
        COMPUTE(instruction " %%st(1), %%st", st(env, 0), operand(env), &result, host);                               \
        note(env, with_operand(env, host, is_nan(&result)));                                                          \
        if (!blocked(env))                                                                                            \
            memcpy(st(env, 0), &result, 10);                                                                          \
    }                                                                                                                 \
    void HELPER(f##name##_STN_ST0)(environment * env, int n)                                                   \
    {                                                                                                                 \
        extended result;                                                                                              \
        uint16_t host;                                                                                                \
        if (*empty(env, 0) || *empty(env, n)) {                                                                       \
            if (stack_fault(env, false))                                                                              \
                put(env, n, indefinite);                                                                              \
            return;                                                                                                   \
        }                                                                                                             \
        COMPUTE(instruction " %%st(1), %%st", st(env, n), st(env, 0), &result, host);                                 \
        memcpy(st(env, n), &result, 10);                                                                              \
        note(env, host);                                                                                              \
    }

BINARY(add, "fadd", )
BINARY(mul, "fmul", )
BINARY(sub, "fsub", )
BINARY(subr, "fsubr", )
BINARY(div, "fdiv", )
BINARY(divr, "fdivr", )

#define UNARY(name)                                                                                                   \
    void HELPER(name)(environment *env)                                                                               \
    {                                                                                                                 \
        extended result;                                                                                              \
        uint16_t host;                                                                                                \
        if (*empty(env, 0)) {                                                                                         \
            if (stack_fault(env, false))                                                                              \
                put(env, 0, indefinite);                                                                              \
            return;                                                                                                   \
        }                                                                                                             \
        ON_HOST(env, *control(env), "fldt %[x]; " #name, "fstpt %[to]", host, ([to] "=m"(result.value)),              \
                ([x] "m"(st(env, 0)->value)));                                                                        \
        memcpy(st(env, 0), &result, 10);                                                                              \
        note(env, host);                                                                                              \
    }

UNARY(fsqrt)
UNARY(frndint)

/* Comparisons with the operand. FCOMI and FUCOMI leave their answer in the flags, the others in C3, C2 and C0. */
#define COMPARE(name, instruction, integer)                                                                                    \
    void HELPER(name##_ST0_FT0)(environment *env)                                                              \
    {                                                                                                                 \
        uint16_t host = C0 | C2 | C3;                                                                                 \
        bool carry = true, parity = true, zero = true;                                                                \
        if (*empty(env, 0) || operand_empty) {                                                                        \
            if (!stack_fault(env, false))                                                                             \
                return;                                                                                               \
        } else {                                                                                                      \
            ON_HOST(env, *control(env), "fldt %[y]; fldt %[x]; " instruction " %%st(1), %%st",                        \
                    "fstp %%st(0); fstp %%st(0)", host, ("=@ccc"(carry), "=@ccp"(parity), "=@ccz"(zero)),             \
                    ([x] "m"(st(env, 0)->value), [y] "m"(operand(env)->value)));                                      \
            note(env, with_operand(env, host, parity));                                                               \
        }                                                                                                             \
        if (integer)                                                                                                  \
            *(uint64_t *)(env + at.flags) = (carry ? CARRY : 0) | (parity ? PARITY : 0) | (zero ? ZERO : 0);          \
        else                                                                                                          \
            *status(env) = (uint16_t)((*status(env) & ~(C0 | C2 | C3)) | (carry ? C0 : 0) | (parity ? C2 : 0) |       \
                                      (zero ? C3 : 0));                                                               \
    }

/* The answers are the same bits in both places, so one instruction serves both. */
COMPARE(fcom, "fcomi", false)
COMPARE(fcomi, "fcomi", true)
COMPARE(fucom, "fucomi", false)
COMPARE(fucomi, "fucomi", true)

/* Loads. All exceptions are masked on the host: the guest's masks decide about the push, not about the conversion. */
#define CONVERT(instruction, from, result, host)                                                                      \
    ON_HOST(env, host_control, instruction " %[x]", "fstpt %[to]", host, ([to] "=m"((result)->value)), ([x] "m"(from)))

#define LOAD(suffix, type, instruction)                                                                               \
    void HELPER(f##suffix##_ST0)(environment *env, type from)                                                  \
    {                                                                                                                 \
        extended value;                                                                                               \
        uint16_t host;                                                                                                \
        CONVERT(instruction, from, &value, host);                                                                     \
        push(env, value, host);                                                                                       \
    }

#define LOAD_OPERAND(suffix, type, instruction)                                                                       \
    void HELPER(f##suffix##_FT0)(environment *env, type from)                                                  \
    {                                                                                                                 \
        uint16_t host;                                                                                                \
        CONVERT(instruction, from, operand(env), host);                                                               \
        operand_empty = false;                                                                                        \
        operand_found = host & (IE | DE);                                                                             \
    }

LOAD(lds, uint32_t, "flds")
LOAD(ldl, uint64_t, "fldl")
LOAD(ildl, int32_t, "fildl")
LOAD(ildll, int64_t, "fildll")
LOAD_OPERAND(lds, uint32_t, "flds")
LOAD_OPERAND(ldl, uint64_t, "fldl")
LOAD_OPERAND(ildl, int32_t, "fildl")

void HELPER(fmov_FT0_STN)(environment *env, int n)
{
    *operand(env) = *st(env, n);
    operand_empty = *empty(env, n);
    operand_found = 0;
}

void HELPER(fldz_FT0)(environment *env)
{
    static const extended zero;
    memcpy(operand(env), &zero, 10);
    operand_empty = false;
    operand_found = 0;
}

void HELPER(fldt_ST0)(environment *env, uint64_t address)
{
    extended value;
    value.fraction = library.load8(env, address, CALLER);
    value.exponent = (uint16_t)library.load2(env, address + 8, CALLER);
    push(env, value, 0);
}

void HELPER(fbld_ST0)(environment *env, uint64_t address)
{
    struct { uint64_t low; uint16_t high; } decimal;
    extended value;
    decimal.low = library.load8(env, address, CALLER);
    decimal.high = (uint16_t)library.load2(env, address + 8, CALLER);
    __asm__("fbld %[x]; fstpt %[to]" : [to] "=m"(value.value) : [x] "m"(decimal));
    push(env, value, 0);
}

/* FLD ST(n) and the constants: the library pushes first and fills the register with its next call. */
void HELPER(fpush)(environment *env)
{
    push_state = PUSHED;
    if (!*empty(env, -1))
        push_state = stack_fault(env, true) ? OVERFLOWED : REFUSED;
    else
        note(env, 0);
    *top(env) = physical(env, -1);
}

static void fill(environment *env, extended value)
{
    if (push_state == REFUSED)
        *top(env) = physical(env, 1);
    else
        put(env, 0, push_state == OVERFLOWED ? indefinite : value);
    push_state = NO_PUSH;
}

void HELPER(fmov_ST0_STN)(environment *env, int n)
{
    bool none = *empty(env, n) || (push_state == NO_PUSH && *empty(env, 0));
    extended value = *st(env, n);
    if (none && push_state != OVERFLOWED && push_state != REFUSED) {
        bool go_on = stack_fault(env, false);
        value = indefinite;
        if (!go_on && push_state == NO_PUSH)
            return;
        if (!go_on)
            push_state = REFUSED;
    }
    fill(env, value);
}

#define CONSTANT(name)                                                                                                \
    void HELPER(name##_ST0)(environment *env)                                                                         \
    {                                                                                                                 \
        extended value;                                                                                               \
        uint16_t host;                                                                                                \
        ON_HOST(env, *control(env), #name, "fstpt %[to]", host, ([to] "=m"(value.value)), ());                        \
        fill(env, value);                                                                                             \
    }

CONSTANT(fld1)
CONSTANT(fldl2t)
CONSTANT(fldl2e)
CONSTANT(fldpi)
CONSTANT(fldlg2)
CONSTANT(fldln2)
CONSTANT(fldz)

/* Moves and the stack. */

void HELPER(fmov_STN_ST0)(environment *env, int n)
{
    extended value = *st(env, 0);
    if (*empty(env, 0)) {
        if (!stack_fault(env, false))
            return;
        value = indefinite;
    } else
        note(env, 0);
    put(env, n, value);
}

void HELPER(fxchg_ST0_STN)(environment *env, int n)
{
    extended first = *st(env, 0), second = *st(env, n);
    if (*empty(env, 0) || *empty(env, n)) {
        if (!stack_fault(env, false))
            return;
        if (*empty(env, 0))
            first = indefinite;
        if (*empty(env, n))
            second = indefinite;
    } else
        note(env, 0);
    put(env, 0, second);
    put(env, n, first);
}

#define SIGN(name, change)                                                                                            \
    void HELPER(name##_ST0)(environment *env)                                                                         \
    {                                                                                                                 \
        extended value = *st(env, 0);                                                                                 \
        if (*empty(env, 0)) {                                                                                         \
            if (stack_fault(env, false))                                                                              \
                put(env, 0, indefinite);                                                                              \
            return;                                                                                                   \
        }                                                                                                             \
        value.exponent change 0x8000;                                                                                 \
        put(env, 0, value);                                                                                           \
        note(env, 0);                                                                                                 \
    }

SIGN(fchs, ^=)
SIGN(fabs, &= (uint16_t)~)

void HELPER(fpop)(environment *env)
{
    if (blocked(env))
        return;
    *empty(env, 0) = 1;
    *top(env) = physical(env, 1);
}

void HELPER(fdecstp)(environment *env)
{
    *top(env) = physical(env, -1);
    *status(env) &= (uint16_t)~C1;
}

void HELPER(fincstp)(environment *env)
{
    *top(env) = physical(env, 1);
    *status(env) &= (uint16_t)~C1;
}

/* Stores. The value is computed as if all exceptions were masked. */
#define STORE(name, returned, type, instruction, none)                                                                \
    returned HELPER(name##_ST0)(environment *env)                                                                     \
    {                                                                                                                 \
        uint16_t masked = *control(env) | EXCEPTIONS, host;                                                           \
        type value = (type)(none);                                                                                    \
        if (*empty(env, 0)) {                                                                                         \
            stack_fault(env, false);                                                                                  \
            return value;                                                                                             \
        }                                                                                                             \
        ON_HOST(env, masked, "fldt %[x]; " instruction " %[to]", "", host, ([to] "=m"(value)),                        \
                ([x] "m"(st(env, 0)->value)));                                                                        \
        note(env, host);                                                                                              \
        return value;                                                                                                 \
    }

STORE(fsts, uint32_t, uint32_t, "fstps", 0xffc00000u)
STORE(fstl, uint64_t, uint64_t, "fstpl", 0xfff8000000000000u)
STORE(fist, int32_t, int16_t, "fistps", INT16_MIN)
STORE(fistt, int32_t, int16_t, "fisttps", INT16_MIN)
STORE(fistl, int32_t, int32_t, "fistpl", INT32_MIN)
STORE(fistll, int64_t, int64_t, "fistpll", INT64_MIN)
STORE(fisttl, int32_t, int32_t, "fisttpl", INT32_MIN)
STORE(fisttll, int64_t, int64_t, "fisttpll", INT64_MIN)

void HELPER(fstt_ST0)(environment *env, uint64_t address)
{
    extended value = *st(env, 0);
    if (*empty(env, 0)) {
        stack_fault(env, false);
        value = indefinite;
    } else
        note(env, 0);
    library.store8(env, address, value.fraction, CALLER);
    library.store2(env, address + 8, value.exponent, CALLER);
}

void HELPER(fbst_ST0)(environment *env, uint64_t address)
{
    struct { uint64_t low; uint16_t high; } decimal = {0xc000000000000000u, 0xffff};
    uint16_t masked = *control(env) | EXCEPTIONS, host;
    if (*empty(env, 0))
        stack_fault(env, false);
    else {
        ON_HOST(env, masked, "fldt %[x]; fbstp %[to]", "", host, ([to] "=m"(decimal)), ([x] "m"(st(env, 0)->value)));
        note(env, host);
    }
    library.store8(env, address, decimal.low, CALLER);
    library.store2(env, address + 8, decimal.high, CALLER);
}

#include "x87_whole_state.h"

/* ---- Binding ---- */

static const char *measure(environment *state)
{
    const uint16_t control_word = 0x37f;
    const uint32_t five_halves = 0x40200000;
    const uint64_t equal = ZERO;
    const extended expected = {.fraction = 0xa000000000000000u, .exponent = 0x4000};
    const extended one = {.fraction = 1ull << 63, .exponent = 0x3fff};
    static const uint8_t tags[8] = {1, 1, 1, 1, 1, 1, 1, 0};
    uint32_t number[4] = {0};
    library.initialize(state);
    at.control = only_place(state, &control_word, 2, 2);
    at.status = at.control - 2;
    at.top = at.control - 6;
    at.tags = at.control + 2;
    at.registers = (at.tags + 8 + 15) & ~(size_t)15;
    if (!at.control || *top(state) != 0)
        return "the x87 control word";
    library.push(state);
    if (*top(state) != 7 || memcmp(state + at.tags, tags, 8))
        return "the x87 stack";
    library.load_one(state);
    if (memcmp(st(state, 0), &one, 10))
        return "the x87 registers";
    library.load_operand(state, five_halves);
    at.operand = only_place(state, &expected, 10, 8);
    if (!at.operand)
        return "the x87 operand";
    library.compare(state, number, number);
    at.flags = only_place(state, &equal, 8, 8);
    return at.flags ? NULL : "the arithmetic flags";
}

const char *emu_x87_bind(void *handle)
{
    static const struct wanted wanted[] = {
        {"cpu_stq_data_ra", &library.store8},
        {"cpu_stl_data_ra", &library.store4},
        {"cpu_stw_data_ra", &library.store2},
        {"cpu_ldq_data_ra", &library.load8},
        {"cpu_ldl_data_ra", &library.load4},
        {"cpu_lduw_data_ra", &library.load2},
        {"helper_fstenv", &library.store_environment16},
        {"helper_fsave", &library.store_state16},
        {"helper_fldenv", &library.load_environment16},
        {"helper_frstor", &library.load_state16},
        {"helper_fninit", &library.initialize},
        {"helper_fpush", &library.push},
        {"helper_fld1_ST0", &library.load_one},
        {"helper_flds_FT0", &library.load_operand},
        {"helper_comiss", &library.compare},
    };
    const char *missing = LOOK_UP(handle, wanted);
    return missing ? missing : on_scratch_state(measure);
}

#else

const char *emu_x87_bind(void *handle)
{
    (void)handle;
    return NULL;
}

#endif
