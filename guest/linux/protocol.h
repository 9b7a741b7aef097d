/* What init and emu say to each other. emu/linux/protocol.py is the other side and explains it. */
#ifndef PROTOCOL_H
#define PROTOCOL_H

enum port { PORT_OUTPUT = 0xE9, PORT_ERRORS = 0xEA, PORT_CONTROL = 0xEC, PORT_EXIT = 0xF4 };

/* Written to PORT_CONTROL, 32 bits: the letter, and above it 24 bits of argument. */
enum message {
    SNAPSHOT = 'S', MOUNTED = 'M', BEGIN = 'B', ENDED = 'E', FAILED = 'F', INPUT = 'I', TERMINAL = 'T',
};

/* Read from PORT_CONTROL behind SNAPSHOT. All ones, where nobody answers, is ROLE_EXEC. */
enum role { ROLE_EXEC = 'x', ROLE_SETUP = 's', ROLE_WORKLOAD = 'w', ROLE_RECOVERY = 'r' };

/* The argument of FAILED: what init could not do, and the error number from bit 8 on. */
enum stage { STAGE_PLAN = 'p', STAGE_MODULE = 'm', STAGE_DEVICE = 'd', STAGE_MOUNT = 'f', STAGE_EXEC = 'x' };

/* Exit statuses of init's own, as shells and containers use them. */
enum { STATUS_INIT_FAILED = 125, STATUS_NOT_EXECUTABLE = 126, STATUS_NOT_FOUND = 127, STATUS_SIGNAL = 128 };
enum { KILLED = 0x100 }; /* argument of ENDED: a signal, not an exit status */

static inline void out8(uint16_t port, uint8_t value) { __asm__ volatile("outb %0, %1" : : "a"(value), "Nd"(port)); }
static inline void out32(uint16_t port, uint32_t value) { __asm__ volatile("outl %0, %1" : : "a"(value), "Nd"(port)); }
/* A machine that emu stopped at the write before must not have read yet: it stops where a basic block ends. */
static inline uint32_t in32(uint16_t port)
{
    uint32_t value;
    __asm__ volatile("jmp 1f\n1:\tinl %1, %0" : "=a"(value) : "Nd"(port));
    return value;
}
static inline void out_bytes(uint16_t port, const void *bytes, size_t length)
{
    __asm__ volatile("rep outsb" : "+S"(bytes), "+c"(length) : "d"(port) : "memory");
}

#endif
