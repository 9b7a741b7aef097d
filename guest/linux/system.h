/* What init asks of Linux: its system calls (x86-64), without a C library. A negative result is an error number. */
#ifndef SYSTEM_H
#define SYSTEM_H

#include <stddef.h>
#include <stdint.h>

enum call {
    READ = 0, WRITE = 1, OPEN = 2, CLOSE = 3, POLL = 7, IOCTL = 16, DUP2 = 33, PAUSE = 34, FORK = 57, EXECVE = 59,
    EXIT = 60, WAIT4 = 61, KILL = 62, FCNTL = 72, CHDIR = 80, MKDIR = 83, SYSLOG = 103, SETSID = 112, SIGPROCMASK = 14,
    SCHED_SETSCHEDULER = 144, SYNC = 162, MOUNT = 165, UMOUNT2 = 166, REBOOT = 169, SETHOSTNAME = 170, IOPL = 172,
    SIGNALFD4 = 289, PIPE2 = 293,
    FINIT_MODULE = 313,
};

static inline long call(enum call number, long a, long b, long c, long d, long e)
{
    long result;
    register long r10 __asm__("r10") = d;
    register long r8 __asm__("r8") = e;
    __asm__ volatile("syscall" : "=a"(result) : "a"((long)number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8)
                     : "rcx", "r11", "memory");
    return result;
}

#define CALL1(n, a) call(n, (long)(a), 0, 0, 0, 0)
#define CALL2(n, a, b) call(n, (long)(a), (long)(b), 0, 0, 0)
#define CALL3(n, a, b, c) call(n, (long)(a), (long)(b), (long)(c), 0, 0)
#define CALL4(n, a, b, c, d) call(n, (long)(a), (long)(b), (long)(c), (long)(d), 0)
#define CALL5(n, a, b, c, d, e) call(n, (long)(a), (long)(b), (long)(c), (long)(d), (long)(e))

enum { O_RDONLY = 0, O_WRONLY = 1, O_RDWR = 2, O_NOCTTY = 0400, O_NONBLOCK = 04000, O_CLOEXEC = 02000000 };
enum { EINTR = 4, EAGAIN = 11, EBUSY = 16, EEXIST = 17 };
enum { POLLIN = 1, POLLOUT = 4, POLLERR = 8, POLLHUP = 16 };
enum { SIGKILL = 9, SIGPIPE = 13, SIGCHLD = 17, SIG_BLOCK = 0, SIG_UNBLOCK = 1 };
enum { F_SETFL = 4, WNOHANG = 1, MNT_DETACH = 2, TIOCSCTTY = 0x540E, TCGETS = 0x5401, TCSETS = 0x5402 };
enum { SCHED_FIFO = 1, SCHED_RESET_ON_FORK = 0x40000000 };
enum { SYSLOG_CONSOLE_LEVEL = 8, MS_NOSUID = 2 };

struct pollfd {
    int fd;
    short events, revents;
};

/* The kernel's struct termios (asm-generic/termbits.h). */
struct termios {
    uint32_t input, output, control, local;
    uint8_t line, characters[19];
};

#endif
