/*
 * SSE arithmetic, carried out by the host's own units, and the string comparisons of SSE4.2.
 *
 * The CPU library computes in software and loses all of MXCSR's flags, and with them the exceptions that are not masked.
 * These definitions take the place of its own (binding.h). Each loads the guest's MXCSR, executes the very instruction with
 * the guest's operands, and keeps what the host answers.
 *
 * The library hands over pointers to operands; the rest of its CPU state is measured (emu_sse_bind).
 */
#include "binding.h"

#include <pthread.h>
#include <signal.h>
#include <ucontext.h>

#if defined(__x86_64__)

/* MXCSR (Intel SDM volume 1, section 10.2.3). */
enum { IE = 1, DE = 2, ZE = 4, OE = 8, UE = 0x10, EXCEPTIONS = 0x3f };
enum { MXCSR_DEFAULT = 0x1f80, UNDERFLOW_MASK = 0x800, FLUSH_TO_ZERO = 0x8000, MASKS_SHIFT = 7, ROUNDING_SHIFT = 13 };
enum { VECTOR_UD = 6, VECTOR_GP = 13, VECTOR_XM = 19, CR4_OSFXSR = 0x200, CR4_OSXMMEXCPT = 0x400 };
enum { CR4_OSXSAVE = 1 << 18, STATE_SSE = 2, IMAGE_MXCSR = 24, IMAGE_HEADER = 512 };
enum { CARRY = 1, PARITY = 4, ZERO = 0x40, SIGN = 0x80, OVERFLOW = 0x800 }; /* in EFLAGS */

static const uint32_t host_mxcsr = MXCSR_DEFAULT;

static struct {
    size_t mxcsr, flags, xmm0;
} at;

static struct {
    void (*raise)(environment *, int vector, uintptr_t caller);
    void (*raise_with_code)(environment *, int vector, int code, uintptr_t caller);
    uint64_t (*read_control)(environment *, int number);
    void (*load_mxcsr)(environment *, uint32_t value);
    uint32_t (*load4)(environment *, uint64_t address, uintptr_t caller);
    uint64_t (*read_extended_control)(environment *, uint32_t number);
    void (*restore)(environment *, uint64_t address);
    void (*restore_extended)(environment *, uint64_t address, uint64_t requested);
    void (*compare)(environment *, void *, void *);
    void (*compare_to_mask)(environment *, void *, void *, uint32_t);
} library;

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

/*
 * FXRSTOR and XRSTOR refuse what LDMXCSR refuses (SDM volume 2). The library drops those bits; all else is its own work,
 * which the compiler has to jump to: the library looks at where it was called from.
 */
static void check_image(environment *env, uint64_t address, uintptr_t caller)
{
    if (library.load4(env, address + IMAGE_MXCSR, caller) >> 16)
        library.raise_with_code(env, VECTOR_GP, 0, caller);
}

void HELPER(fxrstor)(environment *env, uint64_t address)
{
    if (!(address & 15) && library.read_control(env, 4) & CR4_OSFXSR)
        check_image(env, address, CALLER);
    library.restore(env, address);
}

void HELPER(xrstor)(environment *env, uint64_t address, uint64_t requested)
{
    if (!(address & 63) && library.read_control(env, 4) & CR4_OSXSAVE &&
        requested & library.read_extended_control(env, 0) & STATE_SSE) {
        library.load4(env, address + IMAGE_HEADER, CALLER);
        check_image(env, address, CALLER);
    }
    library.restore_extended(env, address, requested);
}

/* Keep the flags; raise #XM when one is not masked, and then the caller's result is not stored. */
static void finish(environment *env, uint32_t after, uintptr_t caller)
{
    uint32_t flags = after & EXCEPTIONS, unmasked = flags & ~(*mxcsr(env) >> MASKS_SHIFT);
    if (unmasked & (IE | DE | ZE))
        flags &= IE | DE | ZE; /* found before computing, so nothing was computed */
    *mxcsr(env) |= flags;
    if (__builtin_expect(unmasked != 0, 0))
        library.raise(env, library.read_control(env, 4) & CR4_OSXMMEXCPT ? VECTOR_XM : VECTOR_UD, caller);
}

#define RUN(instruction, constraint, result, source_constraint, source)                                               \
    __asm__ volatile("ldmxcsr %[guest]; " instruction "; stmxcsr %[after]; ldmxcsr %[own]"                            \
                     : [d] constraint(result), [after] "=m"(after)                                                    \
                     : [s] source_constraint(source), [guest] "m"(guest), [own] "m"(host_mxcsr))

#define EXECUTE(...)                                                                                                  \
    uint32_t guest = working_mxcsr(env), after;                                                                       \
    RUN(__VA_ARGS__)

/*
 * With an overflow or underflow that is not masked, PE does not tell of the result but of one with an exponent of any
 * size (SDM volume 1, section 4.9.1), which no instruction gives. So such an instruction, whose guest is about to get
 * #XM anyway, is executed once more without those masks, and the host says it with the signal that it raises.
 */
static pthread_mutex_t trapping = PTHREAD_MUTEX_INITIALIZER;
static struct sigaction before_trapping;
static sigset_t mask_before;
static __thread volatile sig_atomic_t expected;
static __thread volatile uint32_t flags_found;

static void trapped(int number, siginfo_t *information, void *interrupted)
{
    ucontext_t *state = interrupted;
    (void)information;
    if (!expected) { /* another thread's: it comes again, to whom it belongs */
        sigaction(number, &before_trapping, NULL);
        return;
    }
    flags_found = state->uc_mcontext.fpregs->mxcsr;
    state->uc_mcontext.fpregs->mxcsr |= MXCSR_DEFAULT;
    expected = false;
}

/* The instruction left its result's range, and that is not masked; no exception of higher priority hides it. */
static bool must_trap(environment *env, uint32_t after)
{
    uint32_t unmasked = after & ~(*mxcsr(env) >> MASKS_SHIFT);
    return __builtin_expect(unmasked & (OE | UE), 0) && !(unmasked & (IE | DE | ZE));
}

/* The MXCSR to execute it with. */
static uint32_t begin_trapping(environment *env, uint32_t after)
{
    struct sigaction catching = {.sa_sigaction = trapped, .sa_flags = SA_SIGINFO};
    sigset_t only;
    pthread_mutex_lock(&trapping);
    sigemptyset(&only);
    sigaddset(&only, SIGFPE);
    pthread_sigmask(SIG_UNBLOCK, &only, &mask_before);
    sigaction(SIGFPE, &catching, &before_trapping);
    flags_found = after;
    expected = true;
    return *mxcsr(env) & ~(uint32_t)EXCEPTIONS;
}

static uint32_t end_trapping(void)
{
    expected = false;
    sigaction(SIGFPE, &before_trapping, NULL);
    pthread_sigmask(SIG_SETMASK, &mask_before, NULL);
    pthread_mutex_unlock(&trapping);
    return flags_found;
}

/* As EXECUTE, on RESULT as it was before; it is not stored. */
#define EXECUTE_TRAPPING(instruction, start, result, source)                                                          \
    if (must_trap(env, after)) {                                                                                      \
        result = start;                                                                                               \
        guest = begin_trapping(env, after);                                                                           \
        RUN(instruction, "+x", result, "x", source);                                                                  \
        after = end_trapping();                                                                                       \
    }

#define SSE(name, instruction)                                                                                        \
    void HELPER(name)(environment *env, void *d, const void *s)                                                       \
    {                                                                                                                 \
        vector result = get(d);                                                                                       \
        EXECUTE(instruction " %[s], %[d]", "+x", result, "x", get(s));                                                \
        EXECUTE_TRAPPING(instruction " %[s], %[d]", get(d), result, get(s));                                          \
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
/* An exception that is not masked ends it at the step that raises it. */
#define DOT_STEP(instruction, result, source)                                                                         \
    do {                                                                                                              \
        vector start = result;                                                                                        \
        EXECUTE(instruction, "+x", result, "x", source);                                                              \
        EXECUTE_TRAPPING(instruction, start, result, source);                                                         \
        finish(env, after, CALLER);                                                                                   \
    } while (0)
#define DOT(name, type, width, sums)                                                                                  \
    void HELPER(name##_xmm)(environment *env, void *d, const void *s, uint32_t mask)                                  \
    {                                                                                                                 \
        vector result = get(d), other = get(s);                                                                       \
        AND(result, lanes(mask >> 4, width));                                                                         \
        AND(other, lanes(mask >> 4, width));                                                                          \
        DOT_STEP("mul" type " %[s], %[d]", result, other);                                                            \
        for (int n = 0; n < (sums); n++)                                                                              \
            DOT_STEP("hadd" type " %[d], %[d]", result, other);                                                       \
        AND(result, lanes(mask, width));                                                                              \
        memcpy(d, &result, sizeof result);                                                                            \
    }

DOT(dpps, "ps", 4, 2)
DOT(dppd, "pd", 8, 1)

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

static const char *measure(environment *state)
{
    const uint32_t odd_mxcsr = 0x9f80, equal_each_as_mask = 0x48;
    const uint64_t equal = ZERO;
    uint32_t number[4] = {0};
    library.load_mxcsr(state, odd_mxcsr);
    at.mxcsr = only_place(state, &odd_mxcsr, 4, 4);
    if (!at.mxcsr)
        return "MXCSR";
    library.compare(state, number, number);
    at.flags = only_place(state, &equal, 8, 8);
    if (!at.flags)
        return "the arithmetic flags";
    library.compare_to_mask(state, number, number, equal_each_as_mask);
    memset(number, 0xff, sizeof number);
    at.xmm0 = only_place(state, number, sizeof number, 8);
    return at.xmm0 ? NULL : "the XMM registers";
}

const char *emu_sse_bind(void *handle)
{
    static const struct wanted wanted[] = {
        {"raise_exception_ra", &library.raise},
        {"raise_exception_err_ra", &library.raise_with_code},
        {"helper_read_crN", &library.read_control},
        {"helper_ldmxcsr", &library.load_mxcsr},
        {"cpu_ldl_data_ra", &library.load4},
        {"helper_xgetbv", &library.read_extended_control},
        {"helper_fxrstor", &library.restore},
        {"helper_xrstor", &library.restore_extended},
        {"helper_comiss", &library.compare},
        {"helper_pcmpistrm_xmm", &library.compare_to_mask},
    };
    const char *missing = LOOK_UP(handle, wanted);
    return missing ? missing : on_scratch_state(measure);
}

#else

const char *emu_sse_bind(void *handle)
{
    (void)handle;
    return NULL;
}

#endif
