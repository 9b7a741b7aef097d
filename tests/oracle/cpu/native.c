/* Runs a table of cases (harness.S) on the host CPU: native IMAGE COUNT <table >table. See cpu_machine.py.
 *
 * A signal becomes the exception's vector and error code, as the kernel passes them on. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <ucontext.h>
#include <unistd.h>

enum { BASE = 0x10000000, TABLE = 0x11000000, SPAN = 0x2010000, RECORD = 2048 };
enum { OUT = 1024, FLAGS = 128, RIP = 136, VECTOR = 144, ERROR = 152, FX = 192 };

struct header { uint64_t count, ending, run, caught, boot, current, host_rsp; };
static struct header *const header = (void *)(uintptr_t)BASE;

static const int order[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
                              REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};

static void on_signal(int number, siginfo_t *info, void *context)
{
    __asm__ volatile("pushfq; andq $~0x40000, (%%rsp); popfq" ::: "memory", "cc"); /* no alignment checks here */
    greg_t *registers = ((ucontext_t *)context)->uc_mcontext.gregs;
    uint8_t *out = (uint8_t *)header->current + OUT;
    (void)number, (void)info;
    for (int n = 0; n < 16; n++)
        memcpy(out + 8 * n, &registers[order[n]], 8);
    memcpy(out + FLAGS, &registers[REG_EFL], 8);
    memcpy(out + RIP, &registers[REG_RIP], 8);
    memcpy(out + VECTOR, &registers[REG_TRAPNO], 8);
    memcpy(out + ERROR, &registers[REG_ERR], 8);
    memcpy(out + FX, ((ucontext_t *)context)->uc_mcontext.fpregs, 512);
    registers[REG_RIP] = (greg_t)header->caught;
    registers[REG_RSP] = (greg_t)header->host_rsp;
    registers[REG_EFL] = 2;
    registers[REG_CSGSFS] = (registers[REG_CSGSFS] & ~0xffffLL) | 0x33;
}

static void transfer(ssize_t (*call)(int, void *, size_t), int fd, void *at, size_t size)
{
    for (size_t done = 0; done < size;) {
        ssize_t now = call(fd, (char *)at + done, size - done);
        if (now <= 0)
            _exit(3);
        done += (size_t)now;
    }
}

int main(int argc, char **argv)
{
    static const int signals[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGTRAP};
    struct sigaction action = {.sa_sigaction = on_signal, .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER};
    stack_t stack = {.ss_sp = malloc(1 << 16), .ss_size = 1 << 16};
    struct stat status;
    int image = argc == 3 ? open(argv[1], O_RDONLY) : -1;
    void *at = mmap((void *)(uintptr_t)BASE, SPAN, PROT_READ | PROT_WRITE | PROT_EXEC,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
    size_t size;
    if (image < 0 || fstat(image, &status) || at != (void *)(uintptr_t)BASE)
        return 2;
    transfer(read, image, at, (size_t)status.st_size);
    size = strtoul(argv[2], NULL, 10) * RECORD;
    transfer(read, 0, (void *)(uintptr_t)TABLE, size);
    sigaltstack(&stack, NULL);
    for (size_t n = 0; n < sizeof signals / sizeof *signals; n++)
        sigaction(signals[n], &action, NULL);
    header->count = size / RECORD;
    ((void (*)(void))(uintptr_t)header->run)();
    transfer((ssize_t(*)(int, void *, size_t))write, 1, (void *)(uintptr_t)TABLE, size);
    return 0;
}
