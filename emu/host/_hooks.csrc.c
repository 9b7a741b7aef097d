/*
 * The C side of one Unicorn engine: the callbacks that fire too often for Python, the virtual clock, and stop
 * requests from other threads. Unicorn's functions come as addresses; nothing links against its library.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

/* Numbers of Unicorn's public interface (unicorn/unicorn.h and unicorn/x86.h, major version 2). */
enum { ARCH_X86 = 4, MODE_64 = 8, PROT_READ_EXEC = 5, PROT_ALL = 7 };
enum { HOOK_INTR = 1, HOOK_INSN = 2, HOOK_BLOCK = 8, HOOK_WRITE_PROT = 256, HOOK_INSN_INVALID = 16384 };
enum { INSN_IN = 218, INSN_OUT = 500, INSN_RDTSC = 608, INSN_RDTSCP = 609, INSN_SYSCALL = 699, INSN_SYSENTER = 700 };
enum { REG_RAX = 35, REG_RCX = 38, REG_RDX = 40 };
#define CTL_WRITE(type, arguments) ((type) | ((arguments) << 26) | (1 << 30))
enum { CTL_USE_EXITS = 4, CTL_CPU_MODEL = 7, CTL_TB_FLUSH = 10 };

#define EMU_EXCEPTION 1
#define EMU_INVALID_OPCODE 2
#define EMU_SYSCALL 4
#define EMU_SYSENTER 8
#define EMU_TIMER 16
#define EMU_WINDOW 32
#define EMU_SERVICE 64

#define RIP_OFFSET 128
#define FLAG_IF 0x200u
#define INHIBIT_IRQ 8u
#define MSR_TSC_AUX 0xC0000103u
/* Reading the host's clock costs more than a short block; in real time the deadline is looked at this often. */
#define BLOCKS_PER_CLOCK_READ 64

typedef struct {
    void *open, *close, *emu_start, *emu_stop, *mem_map_ptr, *mmio_map, *mem_protect;
    void *hook_add, *hook_del, *reg_read, *reg_write, *ctl;
} emu_uc_functions;

typedef struct {
    void *uc;
    void *owner;
    uint32_t reason;
    uint32_t vector;
    uint8_t *env;
    uint32_t eflags_offset;
    uint32_t hflags_offset;
    uint64_t time;
    uint64_t deadline;
    uint64_t last_block;
    int clock_installed;

    emu_uc_functions f;
    int cpu_model;
    pthread_mutex_t lock;
    atomic_int stop_requested;
    atomic_int running;
    atomic_int entered;
    atomic_int foreign_stop;
    pthread_t runner;
    uint64_t origin;
    unsigned blocks;
    /* Bytes that are looked at together: unless all are zero, the block hook has more to do than to count. */
    union {
        volatile uint64_t any;
        struct {
            volatile uint8_t real_time, charged, interrupt_pending, leaving, entering, stop_requested;
        };
    } attention;
} emu_engine;

typedef int (*open_fn)(int, int, void **);
typedef int (*engine_fn)(void *);
typedef int (*start_fn)(void *, uint64_t, uint64_t, uint64_t, size_t);
typedef int (*map_ptr_fn)(void *, uint64_t, size_t, uint32_t, void *);
typedef int (*mmio_fn)(void *, uint64_t, size_t, void *, void *, void *, void *);
typedef int (*protect_fn)(void *, uint64_t, size_t, uint32_t);
typedef int (*hook_add_fn)(void *, uintptr_t *, int, void *, void *, uint64_t, uint64_t, ...);
typedef int (*hook_del_fn)(void *, uintptr_t);
typedef int (*reg_read_fn)(void *, int, void *);
typedef int (*reg_write_fn)(void *, int, const void *);
typedef int (*ctl_fn)(void *, int, ...);

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

/* Called on the engine's own thread, inside a callback: the engine is certainly running, so the stop cannot be lost. */
static void stop_here(emu_engine *e, uint32_t reason)
{
    e->reason |= reason;
    e->attention.leaving = 1;
    ((engine_fn)e->f.emu_stop)(e->uc);
}

static void on_interrupt(void *uc, uint32_t vector, void *user)
{
    emu_engine *e = user;
    (void)uc;
    atomic_store(&e->entered, 1);
    e->vector = vector;
    stop_here(e, EMU_EXCEPTION);
}

static bool on_invalid(void *uc, void *user)
{
    emu_engine *e = user;
    (void)uc;
    atomic_store(&e->entered, 1);
    e->vector = 6;
    stop_here(e, EMU_INVALID_OPCODE);
    return true;
}

static void on_syscall(void *uc, void *user)
{
    (void)uc;
    stop_here(user, EMU_SYSCALL);
}

static void on_sysenter(void *uc, void *user)
{
    (void)uc;
    stop_here(user, EMU_SYSENTER);
}

static uint32_t on_in(void *uc, uint32_t port, int size, void *user)
{
    emu_engine *e = user;
    (void)uc;
    atomic_store(&e->entered, 1);
    return emu_port_read(e->owner, port, size);
}

static void on_out(void *uc, uint32_t port, int size, uint32_t value, void *user)
{
    emu_engine *e = user;
    (void)uc;
    atomic_store(&e->entered, 1);
    emu_port_write(e->owner, port, size, value);
}

/* Two reads in a row differ, so that a guest which divides by the difference survives. */
static int on_rdtsc(void *uc, void *user)
{
    emu_engine *e = user;
    uint64_t now, half;
    if (!e->attention.real_time)
        e->time++;
    now = emu_engine_now(e);
    half = now & 0xffffffffu;
    ((reg_write_fn)e->f.reg_write)(uc, REG_RAX, &half);
    half = now >> 32;
    ((reg_write_fn)e->f.reg_write)(uc, REG_RDX, &half);
    if (!e->clock_installed)
        stop_here(e, EMU_SERVICE);
    return 1;
}

static int on_rdtscp(void *uc, void *user)
{
    struct { uint32_t id; uint64_t value; } aux = {MSR_TSC_AUX, 0};
    emu_engine *e = user;
    uint64_t low;
    ((reg_read_fn)e->f.reg_read)(uc, 248 /* UC_X86_REG_MSR */, &aux);
    low = aux.value & 0xffffffffu;
    ((reg_write_fn)e->f.reg_write)(uc, REG_RCX, &low);
    return on_rdtsc(uc, user);
}

/*
 * One nanosecond for each byte of code in the blocks executed: about four per instruction, and the same on every run.
 * Unicorn calls this before the block's own check for a stop, so a block that is stopped here is announced again.
 */
static void on_block(void *uc, uint64_t address, uint32_t size, void *user)
{
    emu_engine *e = user;
    (void)uc;
    if (__builtin_expect(!e->attention.any, 1)) {
        e->last_block = address;
        e->time += size;
        if (__builtin_expect(e->time < e->deadline, 1))
            return;
    } else {
        bool charged = e->attention.charged && address == e->last_block;
        atomic_store(&e->entered, 1);
        e->attention.entering = 0;
        e->attention.charged = 0;
        e->last_block = address;
        if (e->attention.real_time) {
            if (++e->blocks % BLOCKS_PER_CLOCK_READ == 0)
                emu_engine_now(e);
        } else if (!charged)
            e->time += size;
    }
    if (e->time >= e->deadline)
        stop_here(e, EMU_TIMER);
    else if (e->attention.interrupt_pending && (*(uint32_t *)(e->env + e->eflags_offset) & FLAG_IF) &&
             !(*(uint32_t *)(e->env + e->hflags_offset) & INHIBIT_IRQ))
        stop_here(e, EMU_WINDOW);
    if (e->attention.leaving || e->attention.stop_requested)
        e->attention.charged = 1;
}

static uint64_t nothing_read(void *uc, uint64_t offset, unsigned size, void *user)
{
    (void)uc, (void)offset, (void)size, (void)user;
    return 0;
}

static void nothing_write(void *uc, uint64_t offset, unsigned size, uint64_t value, void *user)
{
    (void)uc, (void)offset, (void)size, (void)value, (void)user;
}

/* Unicorn drops a store whose write-protection hook says "handled": just what a read-only memory does. */
static bool on_rom_write(void *uc, int type, uint64_t address, int size, int64_t value, void *user)
{
    (void)uc, (void)type, (void)address, (void)size, (void)value, (void)user;
    return true;
}

static int hook(emu_engine *e, int type, void *function)
{
    uintptr_t handle;
    return ((hook_add_fn)e->f.hook_add)(e->uc, &handle, type, function, e, 1, 0);
}

static int hook_instruction(emu_engine *e, int instruction, void *function)
{
    uintptr_t handle;
    return ((hook_add_fn)e->f.hook_add)(e->uc, &handle, HOOK_INSN, function, e, 1, 0, instruction);
}

static void close_engine(emu_engine *e)
{
    if (e->uc)
        ((engine_fn)e->f.close)(e->uc);
    e->uc = NULL;
    e->env = NULL;
    e->clock_installed = 0;
}

static int open_engine(emu_engine *e)
{
    int error = ((open_fn)e->f.open)(ARCH_X86, MODE_64, &e->uc);
    if (error)
        return error;
    if ((error = ((ctl_fn)e->f.ctl)(e->uc, CTL_WRITE(CTL_CPU_MODEL, 1), e->cpu_model)) ||
        (error = ((ctl_fn)e->f.ctl)(e->uc, CTL_WRITE(CTL_USE_EXITS, 1), 1)) ||
        (error = hook(e, HOOK_INTR, on_interrupt)) || (error = hook(e, HOOK_INSN_INVALID, on_invalid)) ||
        (error = hook_instruction(e, INSN_IN, on_in)) || (error = hook_instruction(e, INSN_OUT, on_out)) ||
        (error = hook_instruction(e, INSN_RDTSC, on_rdtsc)) ||
        (error = hook_instruction(e, INSN_RDTSCP, on_rdtscp)) ||
        (error = hook_instruction(e, INSN_SYSCALL, on_syscall)) ||
        (error = hook_instruction(e, INSN_SYSENTER, on_sysenter)))
        close_engine(e);
    return error;
}

int emu_engine_open(emu_engine *e, const emu_uc_functions *f, int cpu_model)
{
    memset(e, 0, sizeof *e);
    e->f = *f;
    e->cpu_model = cpu_model;
    e->deadline = UINT64_MAX;
    pthread_mutex_init(&e->lock, NULL);
    return open_engine(e);
}

void emu_engine_close(emu_engine *e)
{
    pthread_mutex_lock(&e->lock);
    close_engine(e);
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

int emu_engine_map(emu_engine *e, uint64_t gpa, uint64_t size, void *host)
{
    return ((map_ptr_fn)e->f.mem_map_ptr)(e->uc, gpa, size, PROT_ALL, host);
}

int emu_engine_map_rom(emu_engine *e, uint64_t gpa, uint64_t size, void *host)
{
    uintptr_t handle;
    /* Only a later change of the permissions makes the engine's memory region read-only. */
    int error = ((map_ptr_fn)e->f.mem_map_ptr)(e->uc, gpa, size, PROT_ALL, host);
    if (!error)
        error = ((protect_fn)e->f.mem_protect)(e->uc, gpa, size, PROT_READ_EXEC);
    if (error)
        return error;
    return ((hook_add_fn)e->f.hook_add)(e->uc, &handle, HOOK_WRITE_PROT, on_rom_write, e, gpa, gpa + size - 1);
}

int emu_engine_map_nothing(emu_engine *e, uint64_t gpa, uint64_t size)
{
    return ((mmio_fn)e->f.mmio_map)(e->uc, gpa, size, nothing_read, NULL, nothing_write, NULL);
}

int emu_engine_run(emu_engine *e, uint64_t pc)
{
    int error = 0;
    e->reason = 0;
    e->attention.leaving = 0;
    e->attention.entering = 1;
    e->runner = pthread_self();
    atomic_store(&e->entered, 0);
    atomic_store(&e->running, 1);
    if (!atomic_load(&e->stop_requested))
        error = ((start_fn)e->f.emu_start)(e->uc, pc, 0, 0, 0);
    else
        e->reason = EMU_SERVICE;
    /*
     * A request from another thread can come between the announcement of a block and its own check. (One from this
     * thread cannot: the next announcement sees it.)
     */
    if (atomic_exchange(&e->foreign_stop, 0) && !e->reason && e->env && *(uint64_t *)(e->env + RIP_OFFSET) == e->last_block)
        e->attention.charged = 1;
    atomic_store(&e->running, 0);
    return error;
}

/*
 * Unicorn forgets a stop that comes before emu_start has really begun. So, unless a callback has been seen since (then
 * it has begun), the request is repeated until the engine has left. On the engine's own thread once is enough.
 */
void emu_engine_request_stop(emu_engine *e)
{
    const struct timespec pause = {0, 50000};
    bool again;
    do {
        pthread_mutex_lock(&e->lock);
        atomic_store(&e->stop_requested, 1);
        e->attention.stop_requested = 1;
        again = e->uc && atomic_load(&e->running);
        if (again) {
            bool own = pthread_equal(e->runner, pthread_self());
            if (!own)
                atomic_store(&e->foreign_stop, 1);
            if (own || atomic_load(&e->entered))
                again = false;
            ((engine_fn)e->f.emu_stop)(e->uc);
        }
        pthread_mutex_unlock(&e->lock);
        if (again)
            nanosleep(&pause, NULL);
    } while (again && atomic_load(&e->running));
}

/* From a callback: leave the engine so that the caller can do what needs it stopped, then go on. */
void emu_engine_service(emu_engine *e)
{
    if (atomic_load(&e->running))
        stop_here(e, EMU_SERVICE);
}

void emu_engine_set_real_time(emu_engine *e)
{
    e->attention.real_time = 1;
}

void emu_engine_set_interrupt_pending(emu_engine *e, int pending)
{
    e->attention.interrupt_pending = (uint8_t)pending;
}

/* Whether the block at last_block has been charged although it was not executed yet. */
int emu_engine_charged(emu_engine *e)
{
    return e->attention.charged;
}

void emu_engine_set_charged(emu_engine *e, int charged)
{
    e->attention.charged = (uint8_t)charged;
}

int emu_engine_take_stop(emu_engine *e)
{
    int was = atomic_exchange(&e->stop_requested, 0);
    e->attention.stop_requested = 0;
    return was;
}

int emu_engine_running(emu_engine *e)
{
    return atomic_load(&e->running);
}

int emu_engine_flush(emu_engine *e)
{
    return ((ctl_fn)e->f.ctl)(e->uc, CTL_WRITE(CTL_TB_FLUSH, 0));
}

int emu_engine_start_clock(emu_engine *e)
{
    int error;
    if (e->clock_installed)
        return 0;
    error = hook(e, HOOK_BLOCK, on_block);
    if (!error)
        error = emu_engine_flush(e);
    if (!error)
        e->clock_installed = 1;
    return error;
}

int emu_engine_read_register(emu_engine *e, int id, void *value)
{
    return ((reg_read_fn)e->f.reg_read)(e->uc, id, value);
}

int emu_engine_write_register(emu_engine *e, int id, const void *value)
{
    return ((reg_write_fn)e->f.reg_write)(e->uc, id, value);
}

int emu_engine_add_hook(emu_engine *e, uintptr_t *handle, int type, uintptr_t function, uintptr_t user_data,
                        uint64_t begin, uint64_t end)
{
    return ((hook_add_fn)e->f.hook_add)(e->uc, handle, type, (void *)function, (void *)user_data, begin, end);
}

int emu_engine_delete_hook(emu_engine *e, uintptr_t handle)
{
    return ((hook_del_fn)e->f.hook_del)(e->uc, handle);
}

/* Lazily bound: a big library whose functions are mostly never called loads in half the time. */
void *emu_load_library(const char *path)
{
    return dlopen(path, RTLD_LAZY | RTLD_LOCAL);
}

const char *emu_load_error(void)
{
    return dlerror();
}

void *emu_symbol(void *library, const char *name)
{
    return dlsym(library, name);
}

size_t emu_allocation_size(void *pointer)
{
    return malloc_usable_size(pointer);
}

/* Read our own memory where nothing may be mapped: bytes read, 0 instead of a fault. */
size_t emu_peek(uint64_t address, void *buffer, size_t size)
{
    struct iovec local = {buffer, size}, remote = {(void *)(uintptr_t)address, size};
    ssize_t got = process_vm_readv(getpid(), &local, 1, &remote, 1, 0);
    int fds[2];
    if (got >= 0)
        return (size_t)got;
    if (errno == EFAULT || pipe2(fds, O_CLOEXEC | O_NONBLOCK))
        return 0;
    /* Some sandboxes forbid process_vm_readv; a pipe refuses unmapped memory as well. */
    got = write(fds[1], (const void *)(uintptr_t)address, size < 4096 ? size : 4096);
    if (got > 0)
        got = read(fds[0], buffer, (size_t)got);
    close(fds[0]);
    close(fds[1]);
    return got > 0 ? (size_t)got : 0;
}
