/*
 * Prints each #DB of a program that uses breakpoints of all kinds. Left out is what QEMU 7.2 gets wrong itself: an
 * unaligned store to a watched page meets all breakpoints below it, a locked one is reported again with the next, and
 * single-stepping beside a data breakpoint ends QEMU with an assertion. It has no general detect.
 */
#include "idt.h"
#include "io.h"

#define DR(n, value) __asm__ volatile("mov %0, %%dr" #n ::"r"((u64)(value)) : "memory")
#define RF 0x10000

extern char step[];
static u8 bytes[64] __attribute__((aligned(64)));

static void on_debug(struct frame *frame) {
    u64 dr6, dr7;
    __asm__ volatile("mov %%dr6, %0; mov %%dr7, %1" : "=r"(dr6), "=r"(dr7));
    printf("#DB at %lx: DR6 %lx DR7 %lx flags %lx rcx %lx\n", frame->rip - (u64)step, dr6, dr7, frame->rflags,
           frame->rcx);
    DR(6, 0);
    frame->rflags |= RF;
}

static void on_ud(struct frame *frame) {
    printf("#UD at %lx\n", frame->rip - (u64)step);
    frame->rip = frame->rbx;
}

int main(int argc, char **argv) {
    (void)argc, (void)argv;
    idt_handle(1, on_debug);
    idt_handle(VECTOR_UD, on_ud);
    DR(0, step);
    DR(1, bytes);
    DR(2, bytes + 8);
    DR(3, bytes + 16);
    /* an instruction, a store of 4, a load or store of 8, a store of 1 */
    DR(7, 0x1bd00455 | 0x400);
    __asm__ volatile(".globl step\nstep: nop\n"
                     "mov %%eax, (%0); mov (%0), %%eax; mov 8(%0), %%rax; movb $1, 15(%0); movb $1, 16(%0)\n"
                     "mov 16(%0), %%al; pushq (%0); popq (%0);\n"
                     "mov $7, %%ecx; lea -4(%0), %%rdi; rep stosw; lea -8(%0), %%rsi; mov $4, %%ecx; rep lodsq\n" ::"r"(bytes)
                     : "rax", "rcx", "rsi", "rdi", "memory");
    /* DR4 without and with CR4.DE; a port */
    __asm__ volatile("mov %%dr4, %%rax" ::: "rax");
    __asm__ volatile("mov %%cr4, %%rax; or $8, %%rax; mov %%rax, %%cr4\n"
                     "lea 1f(%%rip), %%rbx; mov %%dr4, %%rax; 1:" ::: "rax", "rbx");
    DR(0, 0x80);
    DR(7, 0xe0401);
    outb(0x80, 1);
    outw(0x7f, 1);
    outb(0x84, 1);
    inb(0x83);
    DR(7, 0x400);
    __asm__ volatile("movl $1, (%0)" ::"r"(bytes) : "memory");
    printf("end\n");
    return EXIT_OK;
}
