/*
 * x87 and SSE arithmetic, carried out by the host's own units.
 *
 * The CPU library computes floating point in software and loses most of what surrounds a result: sticky exception flags,
 * denormal operands, rounding direction (C1), stack faults, all of MXCSR's flags, and the last digits of transcendental
 * functions. It calls its arithmetic through global symbols; this module defines the same ones and is loaded before, so
 * by the rules of ELF its definitions are used. Each loads the guest's control word, executes the very instruction with
 * the guest's operands, and keeps what the host answers.
 *
 * Operands and results are exchanged through the library's CPU state, whose layout is measured (emu_float_bind).
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <dlfcn.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#if defined(__x86_64__)

#define HELPER(name) helper_##name##_x86_64
#define CALLER ((uintptr_t)__builtin_return_address(0))

typedef uint8_t environment; /* the library's CPU state, in bytes */

/* x87 status word and control word (Intel SDM volume 1, section 8.1). */
enum { IE = 1, DE = 2, ZE = 4, EXCEPTIONS = 0x3f, STACK = 0x40, SUMMARY = 0x80, BUSY = 0x8000 };
enum { C0 = 0x100, C1 = 0x200, C2 = 0x400, C3 = 0x4000, TOP_SHIFT = 11 };
enum { MXCSR_DEFAULT = 0x1f80, UNDERFLOW_MASK = 0x800, FLUSH_TO_ZERO = 0x8000, MXCSR_MASKS_SHIFT = 7, ROUNDING_SHIFT = 13 };
enum { VECTOR_UD = 6, VECTOR_GP = 13, VECTOR_XM = 19, CR4_OSXMMEXCPT = 0x400 };
enum { CARRY = 1, PARITY = 4, ZERO = 0x40 };

static const uint16_t host_control = 0x37f;
static const uint32_t host_mxcsr = MXCSR_DEFAULT;

static struct {
    size_t top, status, control, tags, registers, operand, mxcsr, flags, xmm0;
} at;

static struct {
    void (*raise)(environment *, int vector, uintptr_t caller);
    uint64_t (*read_control)(environment *, int number);
    void (*store8)(environment *, uint64_t address, uint64_t value, uintptr_t caller);
    void (*store2)(environment *, uint64_t address, uint32_t value, uintptr_t caller);
    uint64_t (*load8)(environment *, uint64_t address, uintptr_t caller);
    uint32_t (*load2)(environment *, uint64_t address, uintptr_t caller);
    void (*store4)(environment *, uint64_t address, uint32_t value, uintptr_t caller);
    uint32_t (*load4)(environment *, uint64_t address, uintptr_t caller);
    void (*store_environment16)(environment *, uint64_t address, int wide);
    void (*store_state16)(environment *, uint64_t address, int wide);
    void (*load_environment16)(environment *, uint64_t address, int wide);
    void (*load_state16)(environment *, uint64_t address, int wide);
    void (*initialize)(environment *);
    void (*load_mxcsr)(environment *, uint32_t value);
    void (*raise_with_code)(environment *, int vector, int code, uintptr_t caller);
} library;

/* ---- x87 ---- */

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

/* INSTRUCTION works on st = a and st(1) = b; the result is in st. The host's x87 stack is empty before and after. */
#define COMPUTE(instruction, a, b, result, host)                                                                      \
    __asm__ volatile("fnclex; fldcw %[guest]; fldt %[y]; fldt %[x]; " instruction                                     \
                     "; fnstsw %[sw]; fnclex; fstpt %[to]; fstp %%st(0); fldcw %[own]"                                \
                     : [to] "=m"((result)->value), [sw] "=a"(host)                                                    \
                     : [x] "m"((a)->value), [y] "m"((b)->value), [guest] "m"(*control(env)), [own] "m"(host_control)  \
                     : "cc")

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
            __asm__ volatile("fnclex; fldcw %[guest]; fldt %[y]; fldt %[x]; " instruction                             \
                             " %%st(1), %%st; fnstsw %[sw]; fnclex; fstp %%st(0); fstp %%st(0); fldcw %[own]"         \
                             : [sw] "=a"(host), "=@ccc"(carry), "=@ccp"(parity), "=@ccz"(zero)                        \
                             : [x] "m"(st(env, 0)->value), [y] "m"(operand(env)->value), [guest] "m"(*control(env)),  \
                               [own] "m"(host_control));                                                              \
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
    __asm__ volatile("fnclex; " instruction " %[x]; fnstsw %[sw]; fnclex; fstpt %[to]"                                \
                     : [to] "=m"((result)->value), [sw] "=a"(host)                                                    \
                     : [x] "m"(from))

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
    void HELPER(name##_ST0)(environment *env)                                                                  \
    {                                                                                                                 \
        extended value;                                                                                               \
        __asm__ volatile("fldcw %[guest]; " #name "; fstpt %[to]; fldcw %[own]"                                       \
                         : [to] "=m"(value.value)                                                                     \
                         : [guest] "m"(*control(env)), [own] "m"(host_control));                                      \
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
        __asm__ volatile("fnclex; fldcw %[guest]; fldt %[x]; " instruction " %[to]; fnstsw %[sw]; fnclex; fldcw %[own]" \
                         : [to] "=m"(value), [sw] "=a"(host)                                                          \
                         : [x] "m"(st(env, 0)->value), [guest] "m"(masked), [own] "m"(host_control));                 \
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
        __asm__ volatile("fnclex; fldcw %[guest]; fldt %[x]; fbstp %[to]; fnstsw %[sw]; fnclex; fldcw %[own]"
                         : [to] "=m"(decimal), [sw] "=a"(host)
                         : [x] "m"(st(env, 0)->value), [guest] "m"(masked), [own] "m"(host_control));
        note(env, host);
    }
    library.store8(env, address, decimal.low, CALLER);
    library.store2(env, address + 8, decimal.high, CALLER);
}

/* Everything else runs with the whole x87 state of the guest on the host (FRSTOR, FNSAVE: SDM volume 1, figure 8-9). */
struct __attribute__((packed)) image {
    uint32_t control, status, tags, ip, selector, address, data_selector;
    struct __attribute__((packed)) { uint64_t fraction; uint16_t exponent; } st[8];
};

static void load_image(environment *env, struct image *image)
{
    memset(image, 0, sizeof *image);
    image->control = *control(env);
    image->status = (*status(env) & ~(7u << TOP_SHIFT)) | *top(env) << TOP_SHIFT;
    for (int n = 0; n < 8; n++) {
        image->tags |= (env[at.tags + (size_t)n] ? 3u : 0u) << 2 * n;
        memcpy(&image->st[n], st(env, n), 10);
    }
}

static void store_environment(environment *env, const struct image *image)
{
    *status(env) = (uint16_t)(image->status & ~(7u << TOP_SHIFT));
    *top(env) = image->status >> TOP_SHIFT & 7;
    for (int n = 0; n < 8; n++)
        env[at.tags + (size_t)n] = (image->tags >> 2 * n & 3) == 3;
}

static void store_image(environment *env, const struct image *image)
{
    store_environment(env, image);
    for (int n = 0; n < 8; n++)
        memcpy(st(env, n), &image->st[n], 10);
}

#define WHOLE(helper, instruction)                                                                                    \
    void HELPER(helper)(environment *env)                                                                             \
    {                                                                                                                 \
        struct image image;                                                                                           \
        if (*status(env) & ~*control(env) & EXCEPTIONS) /* the host would raise what the guest has pending */         \
            return;                                                                                                   \
        load_image(env, &image);                                                                                      \
        __asm__ volatile("frstor %0; " instruction "; fnsave %0" : "+m"(image));                                      \
        store_image(env, &image);                                                                                     \
    }

WHOLE(fxam_ST0, "fxam")
WHOLE(f2xm1, "f2xm1")
WHOLE(fyl2x, "fyl2x")
WHOLE(fyl2xp1, "fyl2xp1")
WHOLE(fptan, "fptan")
WHOLE(fpatan, "fpatan")
WHOLE(fxtract, "fxtract")
WHOLE(fprem, "fprem")
WHOLE(fprem1, "fprem1")
WHOLE(fsqrt, "fsqrt")
WHOLE(fsin, "fsin")
WHOLE(fcos, "fcos")
WHOLE(fsincos, "fsincos")
WHOLE(frndint, "frndint")
WHOLE(fscale, "fscale")

/* A new control word can make a pending exception count, or no longer count; its reserved bits stay as they are. */
void HELPER(fldcw)(environment *env, uint32_t value)
{
    *control(env) = (value & 0x1f3f) | 0x40;
    *status(env) &= (uint16_t)~(SUMMARY | BUSY);
    if (*status(env) & ~*control(env) & EXCEPTIONS)
        *status(env) |= SUMMARY | BUSY;
}

/* The environment is the first part of an image, the state all of it. Forms with 16 bits are left to the library. */
enum { ENVIRONMENT_SIZE = 28 };

static void transfer_out(environment *env, const struct image *image, uint64_t address, size_t size, uintptr_t caller)
{
    for (size_t n = 0; n + 4 <= size; n += 4) {
        uint32_t word;
        memcpy(&word, (const uint8_t *)image + n, 4);
        library.store4(env, address + n, word, caller);
    }
}

static void transfer_in(environment *env, struct image *image, uint64_t address, size_t size, uintptr_t caller)
{
    for (size_t n = 0; n + 4 <= size; n += 4) {
        uint32_t word = library.load4(env, address + n, caller);
        memcpy((uint8_t *)image + n, &word, 4);
    }
}

void HELPER(fstenv)(environment *env, uint64_t address, int wide)
{
    struct image image;
    if (!wide) {
        library.store_environment16(env, address, 0);
        return;
    }
    load_image(env, &image);
    __asm__ volatile("frstor %0; fnsave %0" : "+m"(image));
    transfer_out(env, &image, address, ENVIRONMENT_SIZE, CALLER);
    HELPER(fldcw)(env, *control(env) | EXCEPTIONS);
}

void HELPER(fsave)(environment *env, uint64_t address, int wide)
{
    struct image image;
    if (!wide) {
        library.store_state16(env, address, 0);
        return;
    }
    load_image(env, &image);
    __asm__ volatile("frstor %0; fnsave %0" : "+m"(image));
    transfer_out(env, &image, address, sizeof image, CALLER);
    library.initialize(env);
}

void HELPER(fldenv)(environment *env, uint64_t address, int wide)
{
    struct image image;
    if (!wide) {
        library.load_environment16(env, address, 0);
        return;
    }
    transfer_in(env, &image, address, ENVIRONMENT_SIZE, CALLER);
    store_environment(env, &image);
    HELPER(fldcw)(env, image.control);
}

void HELPER(frstor)(environment *env, uint64_t address, int wide)
{
    struct image image;
    if (!wide) {
        library.load_state16(env, address, 0);
        return;
    }
    transfer_in(env, &image, address, sizeof image, CALLER);
    store_image(env, &image);
    HELPER(fldcw)(env, image.control);
}

/* ---- SSE ---- */

typedef float vector __attribute__((vector_size(16)));

static vector get(const void *from)
{
    vector value;
    memcpy(&value, from, sizeof value);
    return value;
}

static uint32_t *mxcsr(environment *env) { return (uint32_t *)(env + at.mxcsr); }

/*
 * The guest's rounding and denormal control, with every exception masked. An underflow that is not masked is raised for
 * exact results too; flushing to zero makes the host report these (SDM volume 1, section 4.9.1.5).
 */
static uint32_t working_mxcsr(environment *env)
{
    uint32_t flush = *mxcsr(env) & UNDERFLOW_MASK ? 0 : FLUSH_TO_ZERO;
    return (*mxcsr(env) & ~(uint32_t)EXCEPTIONS) | MXCSR_DEFAULT | flush;
}

void HELPER(ldmxcsr)(environment *env, uint32_t value)
{
    if (value >> 16)
        library.raise_with_code(env, VECTOR_GP, 0, CALLER);
    library.load_mxcsr(env, value);
}

/* Keep the flags; raise #XM when one is not masked, and then the caller's result is not stored. */
static void finish(environment *env, uint32_t after, uintptr_t caller)
{
    uint32_t flags = after & EXCEPTIONS, unmasked = flags & ~(*mxcsr(env) >> MXCSR_MASKS_SHIFT);
    if (unmasked & (IE | DE | ZE))
        flags &= IE | DE | ZE; /* found before computing, so nothing was computed */
    *mxcsr(env) |= flags;
    if (__builtin_expect(unmasked != 0, 0))
        library.raise(env, library.read_control(env, 4) & CR4_OSXMMEXCPT ? VECTOR_XM : VECTOR_UD, caller);
}

#define EXECUTE(instruction, constraint, result, source_constraint, source)                                           \
    uint32_t guest = working_mxcsr(env), after;                                                                       \
    __asm__ volatile("ldmxcsr %[guest]; " instruction "; stmxcsr %[after]; ldmxcsr %[own]"                            \
                     : [d] constraint(result), [after] "=m"(after)                                                    \
                     : [s] source_constraint(source), [guest] "m"(guest), [own] "m"(host_mxcsr))

#define SSE(name, instruction)                                                                                        \
    void HELPER(name)(environment *env, void *d, const void *s)                                                       \
    {                                                                                                                 \
        vector result = get(d);                                                                                       \
        EXECUTE(instruction " %[s], %[d]", "+x", result, "x", get(s));                                                \
        finish(env, after, CALLER);                                                                                   \
        memcpy(d, &result, sizeof result);                                                                            \
    }

#define SSE_FOUR(name, prefix)                                                                                        \
    SSE(name##ps, prefix("ps"))                                                                                       \
    SSE(name##ss, prefix("ss"))                                                                                       \
    SSE(name##pd, prefix("pd"))                                                                                       \
    SSE(name##sd, prefix("sd"))

#define ADD(type) "add" type
#define SUB(type) "sub" type
#define MUL(type) "mul" type
#define DIV(type) "div" type
#define MIN(type) "min" type
#define MAX(type) "max" type
#define SQRT(type) "sqrt" type
#define CMPEQ(type) "cmp" type " $0,"
#define CMPLT(type) "cmp" type " $1,"
#define CMPLE(type) "cmp" type " $2,"
#define CMPUNORD(type) "cmp" type " $3,"
#define CMPNEQ(type) "cmp" type " $4,"
#define CMPNLT(type) "cmp" type " $5,"
#define CMPNLE(type) "cmp" type " $6,"
#define CMPORD(type) "cmp" type " $7,"

SSE_FOUR(add, ADD)
SSE_FOUR(sub, SUB)
SSE_FOUR(mul, MUL)
SSE_FOUR(div, DIV)
SSE_FOUR(min, MIN)
SSE_FOUR(max, MAX)
SSE_FOUR(sqrt, SQRT)
SSE_FOUR(cmpeq, CMPEQ)
SSE_FOUR(cmplt, CMPLT)
SSE_FOUR(cmple, CMPLE)
SSE_FOUR(cmpunord, CMPUNORD)
SSE_FOUR(cmpneq, CMPNEQ)
SSE_FOUR(cmpnlt, CMPNLT)
SSE_FOUR(cmpnle, CMPNLE)
SSE_FOUR(cmpord, CMPORD)
SSE(cvtps2pd, "cvtps2pd")
SSE(cvtpd2ps, "cvtpd2ps")
SSE(cvtss2sd, "cvtss2sd")
SSE(cvtsd2ss, "cvtsd2ss")
SSE(cvtdq2ps, "cvtdq2ps")
SSE(cvtdq2pd, "cvtdq2pd")
SSE(cvtps2dq, "cvtps2dq")
SSE(cvtpd2dq, "cvtpd2dq")
SSE(cvttps2dq, "cvttps2dq")
SSE(cvttpd2dq, "cvttpd2dq")
SSE(haddps, "haddps")
SSE(haddpd, "haddpd")
SSE(hsubps, "hsubps")
SSE(hsubpd, "hsubpd")
SSE(addsubps, "addsubps")
SSE(addsubpd, "addsubpd")

/* Conversions between MMX and XMM registers, by instructions that leave the host's MMX state alone. */
#define SSE_MMX(name, instruction, kept)                                                                              \
    void HELPER(name)(environment *env, void *d, const void *s)                                                       \
    {                                                                                                                 \
        vector source = {0}, result;                                                                                  \
        memcpy(&source, s, kept);                                                                                     \
        EXECUTE(instruction " %[s], %[d]", "=x", result, "x", source);                                                \
        finish(env, after, CALLER);                                                                                   \
        memcpy(d, &result, 8);                                                                                        \
    }

SSE_MMX(cvtpi2ps, "cvtdq2ps", 8)
SSE_MMX(cvtps2pi, "cvtps2dq", 8)
SSE_MMX(cvttps2pi, "cvttps2dq", 8)
SSE_MMX(cvtpd2pi, "cvtpd2dq", 16)
SSE_MMX(cvttpd2pi, "cvttpd2dq", 16)

#define FROM_INTEGER(name, type, instruction)                                                                         \
    void HELPER(name)(environment *env, void *d, type value)                                                          \
    {                                                                                                                 \
        vector result = get(d);                                                                                       \
        EXECUTE(instruction " %[s], %[d]", "+x", result, "r", value);                                                 \
        finish(env, after, CALLER);                                                                                   \
        memcpy(d, &result, sizeof result);                                                                            \
    }

FROM_INTEGER(cvtsi2ss, uint32_t, "cvtsi2ssl")
FROM_INTEGER(cvtsi2sd, uint32_t, "cvtsi2sdl")
FROM_INTEGER(cvtsq2ss, uint64_t, "cvtsi2ssq")
FROM_INTEGER(cvtsq2sd, uint64_t, "cvtsi2sdq")

#define TO_INTEGER(name, type, instruction)                                                                           \
    type HELPER(name)(environment *env, const void *s)                                                                \
    {                                                                                                                 \
        type result;                                                                                                  \
        EXECUTE(instruction " %[s], %[d]", "=r", result, "x", get(s));                                                \
        finish(env, after, CALLER);                                                                                   \
        return result;                                                                                                \
    }

TO_INTEGER(cvtss2si, int32_t, "cvtss2si")
TO_INTEGER(cvtsd2si, int32_t, "cvtsd2si")
TO_INTEGER(cvtss2sq, int64_t, "cvtss2si")
TO_INTEGER(cvtsd2sq, int64_t, "cvtsd2si")
TO_INTEGER(cvttss2si, int32_t, "cvttss2si")
TO_INTEGER(cvttsd2si, int32_t, "cvttsd2si")
TO_INTEGER(cvttss2sq, int64_t, "cvttss2si")
TO_INTEGER(cvttsd2sq, int64_t, "cvttsd2si")

#define COMPARE_SCALAR(name)                                                                                          \
    void HELPER(name)(environment *env, const void *d, const void *s)                                                 \
    {                                                                                                                 \
        uint32_t guest = working_mxcsr(env), after;                                                                   \
        bool carry, parity, zero;                                                                                     \
        __asm__ volatile("ldmxcsr %[guest]; " #name " %[s], %[d]; stmxcsr %[after]; ldmxcsr %[own]"                   \
                         : [after] "=m"(after), "=@ccc"(carry), "=@ccp"(parity), "=@ccz"(zero)                        \
                         : [d] "x"(get(d)), [s] "x"(get(s)), [guest] "m"(guest), [own] "m"(host_mxcsr));              \
        finish(env, after, CALLER);                                                                                   \
        *(uint64_t *)(env + at.flags) = (carry ? CARRY : 0) | (parity ? PARITY : 0) | (zero ? ZERO : 0);              \
    }

COMPARE_SCALAR(comiss)
COMPARE_SCALAR(ucomiss)
COMPARE_SCALAR(comisd)
COMPARE_SCALAR(ucomisd)

/* ROUNDxx: bits 0 and 1 of the immediate say how to round unless bit 2 says MXCSR does; bit 3 suppresses PE. */
#define ROUND(name)                                                                                                   \
    void HELPER(name##_xmm)(environment *env, void *d, const void *s, uint32_t how)                                   \
    {                                                                                                                 \
        vector result = get(d);                                                                                       \
        uint32_t guest = working_mxcsr(env), after;                                                                   \
        if (!(how & 4))                                                                                               \
            guest = (guest & ~(3u << ROUNDING_SHIFT)) | (how & 3) << ROUNDING_SHIFT;                                  \
        if (how & 8)                                                                                                  \
            __asm__ volatile("ldmxcsr %[guest]; " #name " $12, %[s], %[d]; stmxcsr %[after]; ldmxcsr %[own]"          \
                             : [d] "+x"(result), [after] "=m"(after)                                                  \
                             : [s] "x"(get(s)), [guest] "m"(guest), [own] "m"(host_mxcsr));                           \
        else                                                                                                          \
            __asm__ volatile("ldmxcsr %[guest]; " #name " $4, %[s], %[d]; stmxcsr %[after]; ldmxcsr %[own]"           \
                             : [d] "+x"(result), [after] "=m"(after)                                                  \
                             : [s] "x"(get(s)), [guest] "m"(guest), [own] "m"(host_mxcsr));                           \
        finish(env, after, CALLER);                                                                                   \
        memcpy(d, &result, sizeof result);                                                                            \
    }

ROUND(roundps)
ROUND(roundpd)
ROUND(roundss)
ROUND(roundsd)

/* Dot products: the masked products, their sum by two horizontal additions, and the sum where the immediate wants it. */
static vector lanes(uint32_t mask, unsigned width)
{
    vector value;
    for (unsigned n = 0; n < 16 / width; n++)
        memset((uint8_t *)&value + n * width, mask >> n & 1 ? 0xff : 0, width);
    return value;
}

#define AND(a, b) __asm__("andps %1, %0" : "+x"(a) : "x"(b))
#define DOT(name, type, width, sums)                                                                                  \
    void HELPER(name##_xmm)(environment *env, void *d, const void *s, uint32_t mask)                                  \
    {                                                                                                                 \
        vector result = get(d), other = get(s);                                                                       \
        AND(result, lanes(mask >> 4, width));                                                                         \
        AND(other, lanes(mask >> 4, width));                                                                          \
        EXECUTE("mul" type " %[s], %[d]; " sums, "+x", result, "x", other);                                           \
        finish(env, after, CALLER);                                                                                   \
        AND(result, lanes(mask, width));                                                                              \
        memcpy(d, &result, sizeof result);                                                                            \
    }

DOT(dpps, "ps", 4, "haddps %[d], %[d]; haddps %[d], %[d]")
DOT(dppd, "pd", 8, "haddpd %[d], %[d]")

/*
 * Reciprocals: the rounded exact value, which is within the SDM's bound and the same on every host, where CPUs differ.
 * No flags; denormal operands count as zero, results too small for a normal number are zero (SDM volume 2, RCPPS).
 */
enum { SIGN_BIT = 0x80000000u, INFINITE = 0x7f800000, QUIET = 0x400000, SINGLE_INDEFINITE = 0xffc00000u };

static uint32_t reciprocal(uint32_t bits, bool root)
{
    uint32_t sign = bits & SIGN_BIT, magnitude = bits & ~(uint32_t)SIGN_BIT;
    double value;
    float single;
    if (magnitude > INFINITE)
        return bits | QUIET;
    if (magnitude < QUIET << 1)
        return sign | INFINITE;
    if (root && sign)
        return SINGLE_INDEFINITE;
    memcpy(&single, &magnitude, 4);
    value = single;
    if (root)
        __asm__("sqrtsd %0, %0" : "+x"(value));
    single = (float)(1 / value);
    memcpy(&magnitude, &single, 4);
    return magnitude < QUIET << 1 ? sign : sign | magnitude;
}

#define RECIPROCAL(name, count, root)                                                                                 \
    void HELPER(name)(environment *env, uint32_t *d, const uint32_t *s)                                               \
    {                                                                                                                 \
        (void)env;                                                                                                    \
        for (int n = 0; n < (count); n++)                                                                             \
            d[n] = reciprocal(s[n], root);                                                                            \
    }

RECIPROCAL(rcpps, 4, false)
RECIPROCAL(rcpss, 1, false)
RECIPROCAL(rsqrtps, 4, true)
RECIPROCAL(rsqrtss, 1, true)

/* Horizontal additions of integers, which go wrong in the library when both operands are one register. */
#define HORIZONTAL(name)                                                                                              \
    void HELPER(name##_xmm)(environment *env, void *d, const void *s)                                                 \
    {                                                                                                                 \
        vector result = get(d);                                                                                       \
        (void)env;                                                                                                    \
        __asm__(#name " %1, %0" : "+x"(result) : "x"(get(s)));                                                        \
        memcpy(d, &result, sizeof result);                                                                            \
    }                                                                                                                 \
    void HELPER(name##_mmx)(environment *env, void *d, const void *s)                                                 \
    {                                                                                                                 \
        vector both;                                                                                                  \
        (void)env;                                                                                                    \
        memcpy(&both, d, 8);                                                                                          \
        memcpy((uint8_t *)&both + 8, s, 8);                                                                           \
        __asm__(#name " %0, %0" : "+x"(both));                                                                        \
        memcpy(d, &both, 8);                                                                                          \
    }

HORIZONTAL(phaddw)
HORIZONTAL(phaddd)
HORIZONTAL(phaddsw)
HORIZONTAL(phsubw)
HORIZONTAL(phsubd)
HORIZONTAL(phsubsw)

/*
 * String comparisons of SSE4.2 (SDM volume 2, section 4.1); the library reads beyond its arrays with some lengths.
 * The immediate: bit 0 words, bit 1 signed, bits 2 and 3 how to aggregate, 4 and 5 how to negate, 6 the form of output.
 */
enum { EQUAL_ANY, RANGES, EQUAL_EACH, EQUAL_ORDERED };
enum { REGISTER_RAX, REGISTER_RCX, REGISTER_RDX };
enum { WIDE_LENGTHS = 1 << 8 }; /* the library's own bit: lengths are in 64-bit registers */
enum { SIGN = 0x80, OVERFLOW = 0x800 };

static int element(const void *string, uint32_t how, int n)
{
    if (how & 1)
        return how & 2 ? ((const int16_t *)string)[n] : ((const uint16_t *)string)[n];
    return how & 2 ? ((const int8_t *)string)[n] : ((const uint8_t *)string)[n];
}

/* The length up to the first zero element. */
static int implicit_length(const void *string, uint32_t how)
{
    int n = 0, most = how & 1 ? 8 : 16;
    while (n < most && element(string, how, n))
        n++;
    return n;
}

/* The magnitude of a register, at most the number of elements. */
static int explicit_length(environment *env, int number, uint32_t how)
{
    int64_t value = ((int64_t *)env)[number];
    int most = how & 1 ? 8 : 16;
    if (!(how & WIDE_LENGTHS))
        value = (int32_t)value;
    return value > most || value < -most ? most : (int)(value < 0 ? -value : value);
}

/* Bit n of the answer: does element n of B (of length MANY) match A (of length FEW), as HOW says? */
static uint32_t match(const void *a, int few, const void *b, int many, uint32_t how)
{
    int most = how & 1 ? 8 : 16;
    uint32_t answer = 0;
    for (int n = 0; n < most; n++) {
        int aggregation = how >> 2 & 3;
        bool found = aggregation == EQUAL_ORDERED;
        switch (aggregation) {
        case EQUAL_ANY:
            for (int k = 0; k < few && n < many; k++)
                found |= element(a, how, k) == element(b, how, n);
            break;
        case RANGES:
            for (int k = 0; k + 1 < few && n < many; k += 2)
                found |= element(a, how, k) <= element(b, how, n) && element(b, how, n) <= element(a, how, k + 1);
            break;
        case EQUAL_EACH:
            found = n < few && n < many ? element(a, how, n) == element(b, how, n) : n >= few && n >= many;
            break;
        case EQUAL_ORDERED:
            for (int k = 0; k < few && n + k < most; k++)
                found &= n + k < many && element(a, how, k) == element(b, how, n + k);
            break;
        }
        answer |= (uint32_t)found << n;
    }
    if (how & 0x10)
        answer ^= how & 0x20 ? (1u << many) - 1 : (1u << most) - 1;
    return answer;
}

static uint32_t compare_strings(environment *env, const void *a, int few, const void *b, int many, uint32_t how)
{
    int most = how & 1 ? 8 : 16;
    uint32_t answer = match(a, few, b, many, how);
    *(uint64_t *)(env + at.flags) = (answer ? CARRY : 0) | (many < most ? ZERO : 0) | (few < most ? SIGN : 0) |
                                    (answer & 1 ? OVERFLOW : 0);
    return answer;
}

static void index_to_rcx(environment *env, uint32_t answer, uint32_t how)
{
    uint64_t none = how & 1 ? 8 : 16;
    uint64_t last = 31 - (uint64_t)__builtin_clz(answer | 1), first = (uint64_t)__builtin_ctz(answer | 1u << 31);
    ((uint64_t *)env)[REGISTER_RCX] = !answer ? none : how & 0x40 ? last : first;
}

static void mask_to_xmm0(environment *env, uint32_t answer, uint32_t how)
{
    vector mask = how & 0x40 ? lanes(answer, how & 1 ? 2 : 1) : (vector){0};
    if (!(how & 0x40))
        memcpy(&mask, &answer, sizeof answer);
    memcpy(env + at.xmm0, &mask, sizeof mask);
}

#define STRINGS(letter, output)                                                                                       \
    void HELPER(pcmpestr##letter##_xmm)(environment *env, const void *a, const void *b, uint32_t how)                 \
    {                                                                                                                 \
        int few = explicit_length(env, REGISTER_RAX, how), many = explicit_length(env, REGISTER_RDX, how);            \
        output(env, compare_strings(env, a, few, b, many, how), how);                                                 \
    }                                                                                                                 \
    void HELPER(pcmpistr##letter##_xmm)(environment *env, const void *a, const void *b, uint32_t how)                 \
    {                                                                                                                 \
        int few = implicit_length(a, how), many = implicit_length(b, how);                                            \
        output(env, compare_strings(env, a, few, b, many, how), how);                                                 \
    }

STRINGS(i, index_to_rcx)
STRINGS(m, mask_to_xmm0)

/* ---- Binding ---- */

static environment *scratch;
enum { SCRATCH = 1 << 16 };

static size_t find(const void *what, size_t size, size_t step)
{
    size_t place = 0;
    for (size_t n = step; n + size <= SCRATCH; n += step)
        if (!memcmp(scratch + n, what, size)) {
            if (place)
                return 0;
            place = n;
        }
    return place;
}

/* On a scratch state, by the library's own helpers: each place must be the only one that fits. */
static const char *measure(void *handle)
{
    void (*init)(environment *) = dlsym(handle, "helper_fninit_x86_64");
    void (*first)(environment *) = dlsym(handle, "helper_fpush_x86_64");
    void (*one)(environment *) = dlsym(handle, "helper_fld1_ST0_x86_64");
    void (*load_operand)(environment *, uint32_t) = dlsym(handle, "helper_flds_FT0_x86_64");
    void (*load_mxcsr)(environment *, uint32_t) = dlsym(handle, "helper_ldmxcsr_x86_64");
    void (*compare)(environment *, void *, void *) = dlsym(handle, "helper_comiss_x86_64");
    void (*compare_to_mask)(environment *, void *, void *, uint32_t) = dlsym(handle, "helper_pcmpistrm_xmm_x86_64");
    const uint16_t control_word = 0x37f;
    const uint32_t odd_mxcsr = 0x9f80, five_halves = 0x40200000;
    const uint64_t equal = ZERO;
    const extended expected = {.fraction = 0xa000000000000000u, .exponent = 0x4000};
    const extended one_value = {.fraction = 1ull << 63, .exponent = 0x3fff};
    static const uint8_t tags[8] = {1, 1, 1, 1, 1, 1, 1, 0};
    uint32_t number[4] = {0};
    if (!init || !first || !one || !load_operand || !load_mxcsr || !compare || !compare_to_mask)
        return "its arithmetic";
    init(scratch);
    at.control = find(&control_word, 2, 2);
    at.status = at.control - 2;
    at.top = at.control - 6;
    at.tags = at.control + 2;
    at.registers = (at.tags + 8 + 15) & ~(size_t)15;
    if (!at.control || *top(scratch) != 0)
        return "the x87 control word";
    first(scratch);
    if (*top(scratch) != 7 || memcmp(scratch + at.tags, tags, 8))
        return "the x87 stack";
    one(scratch);
    if (memcmp(st(scratch, 0), &one_value, 10))
        return "the x87 registers";
    load_operand(scratch, five_halves);
    at.operand = find(&expected, 10, 8);
    load_mxcsr(scratch, odd_mxcsr);
    at.mxcsr = find(&odd_mxcsr, 4, 4);
    if (!at.operand || !at.mxcsr)
        return "the x87 operand or MXCSR";
    compare(scratch, number, number);
    at.flags = find(&equal, 8, 8);
    if (!at.flags)
        return "the arithmetic flags";
    compare_to_mask(scratch, number, number, 0x48); /* equal each, as a mask: all ones */
    memset(number, 0xff, sizeof number);
    at.xmm0 = find(number, sizeof number, 8);
    return at.xmm0 ? NULL : "the XMM registers";
}

const char *emu_float_bind(void *handle)
{
    static const struct { const char *name; void *into; } wanted[] = {
        {"raise_exception_ra", &library.raise},
        {"raise_exception_err_ra", &library.raise_with_code},
        {"helper_read_crN", &library.read_control},
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
        {"helper_ldmxcsr", &library.load_mxcsr},
    };
    const char *missing;
    char name[64];
    for (size_t n = 0; n < sizeof wanted / sizeof *wanted; n++) {
        void *found;
        snprintf(name, sizeof name, "%s_x86_64", wanted[n].name);
        found = dlsym(handle, name);
        if (!found)
            return wanted[n].name;
        memcpy(wanted[n].into, &found, sizeof found);
    }
    scratch = aligned_alloc(64, SCRATCH);
    if (!scratch)
        return "memory";
    memset(scratch, 0, SCRATCH);
    missing = measure(handle);
    free(scratch);
    return missing;
}

int emu_float_offer(void)
{
    Dl_info own;
    return dladdr((void *)emu_float_bind, &own) && dlopen(own.dli_fname, RTLD_NOW | RTLD_NOLOAD | RTLD_GLOBAL);
}

#else

const char *emu_float_bind(void *handle)
{
    (void)handle;
    return NULL;
}

int emu_float_offer(void)
{
    return 1;
}

#endif
