/*
 * The C side of one Unicorn engine: the callbacks that fire too often for Python, the virtual clock, and stop
 * requests from anywhere. Unicorn's functions are looked up (emu_hooks_bind); nothing links against its library.
 *
 * Unicorn runs no callback while its own stop request is set, though the guest's basic block goes on to its end: what
 * the callbacks do (flushes, SYSCALL, time stamps) would be lost. So a stop is a flag of ours, and Unicorn's is set only
 * where no guest code follows: when a block is announced and not yet begun, or behind the execution loop, where two
 * function pointers in the CPU's class lead to us (cpu_exec_enter and cpu_exec_exit).
 */
#include "binding.h"
#include "code_span.h"

#define RIP_OFFSET 128
#include "delivery.h"
#include "known_ports.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/membarrier.h>
#include <malloc.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

/* Numbers of Unicorn's public interface (unicorn/unicorn.h and unicorn/x86.h, major version 2). */
enum { ERR_RESOURCE = 20 };
enum { ARCH_X86 = 4, MODE_64 = 8, PROT_READ_EXEC = 5, PROT_ALL = 7 };
enum { HOOK_INTR = 1, HOOK_INSN = 2, HOOK_BLOCK = 8, HOOK_WRITE_PROT = 256, HOOK_INSN_INVALID = 16384 };
enum { INSN_IN = 218, INSN_OUT = 500, INSN_RDTSC = 608, INSN_RDTSCP = 609, INSN_SYSCALL = 699, INSN_SYSENTER = 700 };
enum { REG_RAX = 35, REG_RCX = 38, REG_RDX = 40, REG_MSR = 248, REG_RFLAGS = 253 };
#define CTL_WRITE(type, arguments) ((type) | ((arguments) << 26) | (1 << 30))
enum { CTL_USE_EXITS = 4, CTL_CPU_MODEL = 7, CTL_TB_FLUSH = 10 };

#define EMU_EXCEPTION 1
#define EMU_INVALID_OPCODE 2
#define EMU_SYSCALL 4
#define EMU_SYSENTER 8
#define EMU_TIMER 16
#define EMU_WINDOW 32
#define EMU_SERVICE 64
#define EMU_HALT 128
#define EMU_BREAKPOINT 256
#define EMU_STEP 512
#define EMU_WATCH 1024
/* Not a reason to come back: the block at RIP is to be executed in the other grain (debugger.h). */
#define EMU_GRAIN 2048
#define EMU_KNOWN_NOWHERE KNOWN_NOWHERE

#define FLAG_TF 0x100u
#define FLAG_IF 0x200u
#define INHIBIT_IRQ 8u
#define MSR_TSC_AUX 0xC0000103u
#define MSR_EFER 0xC0000080u
#define MSR_STAR 0xC0000081u
#define MSR_LSTAR 0xC0000082u
#define MSR_FMASK 0xC0000084u
enum { EFER_SCE = 1, VECTOR_DB = 1, VECTOR_UD = 6, VECTOR_GP = 13, VECTOR_PF = 14 };
/* An exception or interrupt takes time too: a guest that faults for ever without executing code meets its deadline. */
#define EMU_DELIVERY_NS 64
/* Reading the host's clock costs more than a short block; in real time the deadline is looked at this often. */
enum { MOST_WINDOWS = 16, MOST_RETURNS = 64 };
#define BLOCKS_PER_CLOCK_READ 64
/* The self-test asks for a stop in each of so many blocks, and afterwards, that long guests end, in one of so many. */
#define TESTED_WHOLLY 50000
#define TESTED_THEN 64

static struct {
    int (*open)(int architecture, int mode, void **uc);
    int (*close)(void *uc);
    int (*start)(void *uc, uint64_t begin, uint64_t until, uint64_t timeout, size_t count);
    int (*stop)(void *uc);
    int (*map)(void *uc, uint64_t gpa, size_t size, uint32_t permissions, void *host);
    int (*map_mmio)(void *uc, uint64_t gpa, size_t size, void *read, void *for_read, void *write, void *for_write);
    int (*protect)(void *uc, uint64_t gpa, size_t size, uint32_t permissions);
    int (*add_hook)(void *uc, uintptr_t *handle, int type, void *function, void *user, uint64_t begin, uint64_t end, ...);
    int (*delete_hook)(void *uc, uintptr_t handle);
    int (*read_register)(void *uc, int id, void *value);
    int (*write_register)(void *uc, int id, const void *value);
    int (*control)(void *uc, int what, ...);
    const char *(*describe)(int error);
} library;

/*
 * Bytes that are looked at together: unless all are zero, the block hook has more to do than to count. `idle`: time
 * stands still. `again`: the block at last_block was announced and charged, but not executed. `leaving`: a callback
 * wants the engine left at the end of the block. `asked`: so does another thread. `testing`: ask in every block.
 * `debugging`: count blocks and look for where a debugger stops.
 */
typedef union {
    volatile uint64_t any;
    struct {
        volatile uint8_t real_time, idle, again, interrupt_pending, leaving, asked, testing, debugging;
    };
} emu_attention;

#define ATTENTION_IDLE ((uint64_t)1 << 8)
#define ATTENTION_DEBUGGING ((uint64_t)0xff << 56)

/* How long the block is that began at a linear address, with what decides how it is translated, and its code's sum. */
typedef struct { uint64_t address, mode, sum; uint32_t size; } known_block;

typedef struct { uint64_t address, cr3, rsp; } interrupted;

typedef struct emu_engine {
    void *uc;
    void *owner;
    uint32_t reason;
    uint32_t vector;
    uint8_t *env;
    uint32_t eflags_offset;
    uint32_t hflags_offset;
    const volatile uint32_t *halted;
    uint64_t time;
    uint64_t deadline;
    uint64_t last_block;
    int counting;
    uint32_t trap_flag;
    emu_delivery delivery;
    emu_delivery_record last_exception;
    known_ports known;

    /* Registers in guest memory; the library says only how far from the start an access is. */
    struct { struct emu_engine *engine; uint64_t gpa; } windows[MOST_WINDOWS];
    unsigned window_count;

    int cpu_model;
    void *cpu;
    void (*cpu_exit)(void *);
    void (*exec_enter)(void *);
    void (*exec_exit)(void *);
    pthread_mutex_t lock;
    atomic_int stop_requested;
    atomic_int running;
    atomic_int leave;
    pthread_t runner;
    int wants_hook, hooked;
    uint64_t origin;
    unsigned blocks;
    uint64_t tests;
    uint32_t last_size;
    bool deferred;
    /* Somebody counts the blocks that begin, and is told of each from `block_limit` on: quicker than a second hook. */
    uint64_t *block_count;
    const uint64_t *block_limit;
    void (*on_limit)(void *, uint64_t address);
    void *on_limit_argument;
    /*
     * For a debugger (debugger.h): the place of the instruction announced last, where it began first, and where the one
     * before it did; where to stop; from where on to go instruction by instruction; breakpoints, in rising order; and
     * that the instruction where it stopped begins now, whatever else is due.
     */
    uint64_t place, begun, before, until, fine;
    const uint64_t *breakpoints;
    size_t breakpoint_count;
    bool held;
    /*
     * Instructions are blocks: of the block that begins at `block_start`, or of none, which has no size. `length` is
     * that of the instruction announced last.
     */
    bool single;
    uint64_t block_start;
    uint32_t block_size, length;
    uint32_t *instruction_blocks;
    size_t universe;
    known_block *known_blocks;
    /* The instruction announced next begins again, as a block of its own. */
    bool restarted;
    /* The block announced last is one more turn of the REP instruction before, if it is one. */
    bool same;
    /*
     * Instructions that began and will go on: a fault or, between two turns of REP, an interrupt was delivered. They
     * may have a breakpoint later that they had before: gdb takes it away for a step. The processor has RF for this, in
     * the frame, where the guest would see it.
     */
    interrupted returns[MOST_RETURNS];
    unsigned next_return;
    /* Pass by what would stop, except for `until`, and remember the last such place, and which bits it would stop with. */
    bool passing;
    uint64_t passed, passed_before;
    uint32_t passed_reason, passed_before_reason;
    emu_attention attention;
} emu_engine;

uint64_t emu_register_read(void *owner, uint64_t gpa, int size);
void emu_register_write(void *owner, uint64_t gpa, int size, uint64_t value);
uint32_t emu_port_read(void *owner, uint32_t port, int size);
void emu_port_write(void *owner, uint32_t port, int size, uint32_t value);

static uint64_t host_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

uint64_t emu_engine_now(emu_engine *e)
{
    if (e->attention.real_time) {
        if (!e->origin)
            e->origin = host_ns() - e->time;
        e->time = host_ns() - e->origin;
    }
    return e->time;
}

#include "leaving.h"

/* The guest can go on behind a callback; nobody wants the engine left, or would when it is asked again. */
static bool goes_on(emu_engine *e, uint64_t later)
{
    return delivery_works && !e->attention.leaving && e->fine && !e->attention.asked && !e->attention.interrupt_pending &&
           !atomic_load(&e->leave) && !atomic_load(&e->stop_requested) &&
           (!e->counting || emu_engine_now(e) + later < e->deadline);
}

#include "debugger.h"

#include "exceptions.h"
#include "ports.h"
#include "clock.h"
#include "announcements.h"

typedef struct { emu_engine *engine; uint64_t gpa; } window;

#include "physical_map.h"

static int hook(emu_engine *e, int type, void *function)
{
    uintptr_t handle;
    return library.add_hook(e->uc, &handle, type, function, e, 1, 0);
}

static int hook_instruction(emu_engine *e, int instruction, void *function)
{
    uintptr_t handle;
    return library.add_hook(e->uc, &handle, HOOK_INSN, function, e, 1, 0, instruction);
}

static void close_engine(emu_engine *e)
{
    if (e->uc)
        library.close(e->uc);
    e->uc = NULL;
    e->cpu = NULL;
    e->window_count = 0;
    e->env = NULL;
    e->hooked = 0;
}

int emu_engine_flush(emu_engine *e)
{
    return library.control(e->uc, CTL_WRITE(CTL_TB_FLUSH, 0));
}

/* Install the block hook if it is wanted, first in Unicorn's list if nobody was before. Under the lock, not running. */
static int install_block_hook(emu_engine *e)
{
    int error;
    if (!e->wants_hook || e->hooked)
        return 0;
    if ((error = hook(e, HOOK_BLOCK, on_block)) || (error = emu_engine_flush(e)))
        return error;
    e->hooked = 1;
    e->attention.idle = !e->counting;
    return 0;
}

int emu_engine_prepare(emu_engine *e)
{
    int error;
    pthread_mutex_lock(&e->lock);
    error = install_block_hook(e);
    pthread_mutex_unlock(&e->lock);
    return error;
}

static int open_engine(emu_engine *e)
{
    int error = library.open(ARCH_X86, MODE_64, &e->uc);
    if (error)
        return error;
    if ((error = library.control(e->uc, CTL_WRITE(CTL_CPU_MODEL, 1), e->cpu_model)) ||
        (error = library.control(e->uc, CTL_WRITE(CTL_USE_EXITS, 1), 1)) ||
        (error = hook(e, HOOK_INTR, on_interrupt)) || (error = hook(e, HOOK_INSN_INVALID, on_invalid)) ||
        (error = hook_instruction(e, INSN_IN, on_in)) || (error = hook_instruction(e, INSN_OUT, on_out)) ||
        (error = hook_instruction(e, INSN_RDTSC, on_rdtsc)) ||
        (error = hook_instruction(e, INSN_RDTSCP, on_rdtscp)) ||
        (error = hook_instruction(e, INSN_SYSCALL, on_syscall)) ||
        (error = hook_instruction(e, INSN_SYSENTER, on_sysenter)) || (error = install_block_hook(e)))
        close_engine(e);
    return error;
}

int emu_engine_open(emu_engine *e, int cpu_model)
{
    memset(e, 0, sizeof *e);
    e->cpu_model = cpu_model;
    e->last_exception.vector = -1;
    forget_accesses(&e->known);
    e->deadline = e->until = e->fine = UINT64_MAX;
    pthread_mutex_init(&e->lock, NULL);
    return open_engine(e);
}

void emu_engine_close(emu_engine *e)
{
    pthread_mutex_lock(&e->lock);
    close_engine(e);
    forget_accesses(&e->known);
    free(e->known_blocks);
    e->known_blocks = NULL;
    pthread_mutex_unlock(&e->lock);
}

/* A fresh engine without memory; clock and stop requests stay. */
int emu_engine_reopen(emu_engine *e)
{
    int error;
    pthread_mutex_lock(&e->lock);
    close_engine(e);
    error = open_engine(e);
    pthread_mutex_unlock(&e->lock);
    return error;
}

/*
 * Take the place of the two functions at `slots`, a pair of pointers in the class of the CPU object `cpu`. The engine
 * must not run before.
 */
void emu_engine_attach(emu_engine *e, void *cpu, void *slots, void *cpu_exit)
{
    void (**pair)(void *) = slots;
    e->exec_enter = pair[0];
    e->exec_exit = pair[1];
    pair[0] = on_exec_enter;
    pair[1] = on_exec_exit;
    e->cpu_exit = (void (*)(void *))cpu_exit;
    e->cpu = cpu;
    if (e->universe)
        set_grain(e, e->single);
}

/* Execute from `pc` unless a stop is requested already. */
int emu_engine_run(emu_engine *e, uint64_t pc)
{
    emu_engine *outer = current;
    bool start;
    int error = 0;
    pthread_mutex_lock(&e->lock);
    e->reason = 0;
    e->attention.leaving = e->attention.asked = 0;
    e->deferred = false;
    atomic_store(&e->leave, 0);
    e->runner = pthread_self();
    start = !atomic_load(&e->stop_requested);
    atomic_store(&e->running, start);
    pthread_mutex_unlock(&e->lock);
    if (!start)
        return 0;
    current = e;
    error = execute(e, pc);
    current = outer;
    if (e->halted && *e->halted)
        e->reason |= EMU_HALT;
    pthread_mutex_lock(&e->lock);
    atomic_store(&e->running, 0);
    pthread_mutex_unlock(&e->lock);
    return error;
}

/* Have the block hook from now on, clock or not: with callbacks of others behind it, or to test stops in every block. */
void emu_engine_watch_blocks(emu_engine *e, int testing)
{
    e->wants_hook = 1;
    e->attention.testing |= (uint8_t)testing;
}

/* Count each block that begins in `count`, and call a function from `limit` on. The block hook must be there. */
void emu_engine_count_blocks(emu_engine *e, uintptr_t count, uintptr_t limit, uintptr_t function, uintptr_t argument)
{
    e->block_count = (uint64_t *)count;
    e->block_limit = (const uint64_t *)limit;
    e->on_limit = (void (*)(void *, uint64_t))function;
    e->on_limit_argument = (void *)argument;
}

void emu_engine_set_interrupt_pending(emu_engine *e, int pending)
{
    e->attention.interrupt_pending = (uint8_t)pending;
}

int emu_engine_running(emu_engine *e)
{
    return atomic_load(&e->running);
}

int emu_engine_read_register(emu_engine *e, int id, void *value)
{
    return library.read_register(e->uc, id, value);
}

int emu_engine_write_register(emu_engine *e, int id, const void *value)
{
    return library.write_register(e->uc, id, value);
}

int emu_engine_add_hook(emu_engine *e, uintptr_t *handle, int type, uintptr_t function, uintptr_t user_data,
                        uint64_t begin, uint64_t end)
{
    return library.add_hook(e->uc, handle, type, (void *)function, (void *)user_data, begin, end);
}

int emu_engine_delete_hook(emu_engine *e, uintptr_t handle)
{
    return library.delete_hook(e->uc, handle);
}

/* ---- Binding ---- */

const char *emu_hooks_bind(void *handle)
{
    static const struct wanted wanted[] = {
        {"uc_open", &library.open},
        {"uc_close", &library.close},
        {"uc_emu_start", &library.start},
        {"uc_emu_stop", &library.stop},
        {"uc_mem_map_ptr", &library.map},
        {"uc_mmio_map", &library.map_mmio},
        {"uc_mem_protect", &library.protect},
        {"uc_hook_add", &library.add_hook},
        {"uc_hook_del", &library.delete_hook},
        {"uc_reg_read", &library.read_register},
        {"uc_reg_write", &library.write_register},
        {"uc_ctl", &library.control},
        {"uc_strerror", &library.describe},
    };
    return LOOK_UP_PUBLIC(handle, wanted);
}

const char *emu_describe(int error)
{
    return library.describe(error);
}

#include "process.h"
