/* Operation marks: the guest says what it is doing, so that a crash report can name the operation in flight, and a
 * part of the run can be chosen by it (emu crash --from begin:7 --to done:7).
 *
 * Ports 0xE10 (begin) and 0xE14 (done), 32 bits each. Only emu has something there; elsewhere the write goes nowhere.
 * A program of an operating system needs the right to use the ports (Linux: ioperm(2)).
 */
#ifndef OPERATION_H
#define OPERATION_H

#include <stdint.h>

enum { OPERATION_BEGIN_PORT = 0xE10, OPERATION_DONE_PORT = 0xE14 };

/* Operation number `id` begins. */
static inline void emu_begin(uint32_t id) {
    __asm__ volatile("outl %0, %1" ::"a"(id), "Nd"((uint16_t)OPERATION_BEGIN_PORT) : "memory");
}

/* Operation number `id` is done. With --durable-when-done all that was stored since its begin must be durable here. */
static inline void emu_done(uint32_t id) {
    __asm__ volatile("outl %0, %1" ::"a"(id), "Nd"((uint16_t)OPERATION_DONE_PORT) : "memory");
}

#endif
