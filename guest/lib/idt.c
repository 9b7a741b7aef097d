#include "idt.h"

/* A 64-bit interrupt gate (Intel SDM volume 3, 6.14.1). */
struct gate {
    u16 offset_low, selector;
    u8 stack, type;
    u16 offset_middle;
    u32 offset_high, reserved;
};

struct __attribute__((packed)) table_pointer {
    u16 limit;
    u64 base;
};

enum { STUB_SIZE = 16, CODE_SELECTOR = 0x08, INTERRUPT_GATE = 0x8E };

extern const char idt_stubs[];

static struct gate idt[VECTORS];
static handler *handlers[VECTORS];

static const char *const names[] = {"#DE", "#DB", "NMI", "#BP", "#OF", "#BR", "#UD", "#NM", "#DF", "vector 9",
                                    "#TS", "#NP", "#SS", "#GP", "#PF", "vector 15", "#MF", "#AC", "#MC", "#XM"};

void idt_init(void) {
    for (unsigned vector = 0; vector < VECTORS; vector++) {
        u64 stub = (u64)idt_stubs + vector * STUB_SIZE;
        idt[vector] = (struct gate){.offset_low = (u16)stub,
                                    .selector = CODE_SELECTOR,
                                    .stack = vector == VECTOR_DF,
                                    .type = INTERRUPT_GATE,
                                    .offset_middle = (u16)(stub >> 16),
                                    .offset_high = (u32)(stub >> 32)};
    }
    struct table_pointer pointer = {.limit = sizeof idt - 1, .base = (u64)idt};
    __asm__ volatile("lidt %0" ::"m"(pointer));
}

void idt_handle(unsigned vector, handler *handler) {
    handlers[vector] = handler;
}

/* Called by the stubs. */
void idt_dispatch(struct frame *frame) {
    handler *handler = handlers[frame->vector];
    if (handler) {
        handler(frame);
        return;
    }
    if (frame->vector >= sizeof names / sizeof *names)
        panic("interrupt vector %lu without a handler", frame->vector);
    printf("rip 0x%lx rsp 0x%lx rflags 0x%lx cr2 0x%lx\n", frame->rip, frame->rsp, frame->rflags, read_cr2());
    printf("rax 0x%lx rbx 0x%lx rcx 0x%lx rdx 0x%lx\n", frame->rax, frame->rbx, frame->rcx, frame->rdx);
    printf("rsi 0x%lx rdi 0x%lx rbp 0x%lx\n", frame->rsi, frame->rdi, frame->rbp);
    panic("%s at 0x%lx, error code 0x%lx", names[frame->vector], frame->rip, frame->error);
}
