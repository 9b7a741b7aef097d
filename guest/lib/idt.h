/* Exceptions and interrupts: one C handler per vector; an exception without one is a panic that prints its frame. */
#ifndef IDT_H
#define IDT_H

#include "guest.h"

enum vector {
    VECTOR_DE = 0,
    VECTOR_BP = 3,
    VECTOR_UD = 6,
    VECTOR_DF = 8,
    VECTOR_GP = 13,
    VECTOR_PF = 14,
    VECTOR_IRQ0 = 32, /* where pic_init() puts IRQ 0-15 */
    VECTORS = 48,
};

/* What the stubs push, then what the CPU pushed (Intel SDM volume 3, 6.14.2). `error` is 0 where the CPU gives none. */
struct frame {
    u64 r15, r14, r13, r12, r11, r10, r9, r8, rbp, rdi, rsi, rdx, rcx, rbx, rax;
    u64 vector, error;
    u64 rip, cs, rflags, rsp, ss;
};

/* Runs with interrupts off; what it changes in `frame` is what the interrupted code goes on with. No SSE in here. */
typedef void handler(struct frame *frame);

void idt_init(void);
void idt_handle(unsigned vector, handler *handler);

static inline u64 read_cr2(void) {
    u64 value;
    __asm__ volatile("mov %%cr2, %0" : "=r"(value));
    return value;
}

static inline void interrupts_on(void) {
    __asm__ volatile("sti" ::: "memory");
}

static inline void interrupts_off(void) {
    __asm__ volatile("cli" ::: "memory");
}

/* Sleeps until an interrupt has been handled; none slips in between switching them on and sleeping (STI's shadow). */
static inline void wait_for_interrupt(void) {
    __asm__ volatile("sti; hlt; cli" ::: "memory");
}

#endif
