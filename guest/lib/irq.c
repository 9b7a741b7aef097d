#include "irq.h"

#include "io.h"

enum { MASTER = 0x20, SLAVE = 0xA0, CASCADE_IRQ = 2, END_OF_INTERRUPT = 0x20 };
enum { PIT_COUNTER0 = 0x40, PIT_CONTROL = 0x43, RATE_GENERATOR = 0x34 };

void pic_init(void) {
    outb(MASTER, 0x11); /* ICW1: edge triggered, cascaded, ICW4 follows */
    outb(SLAVE, 0x11);
    outb(MASTER + 1, VECTOR_IRQ0);
    outb(SLAVE + 1, VECTOR_IRQ0 + 8);
    outb(MASTER + 1, 1 << CASCADE_IRQ);
    outb(SLAVE + 1, CASCADE_IRQ);
    outb(MASTER + 1, 1); /* ICW4: 8086 mode */
    outb(SLAVE + 1, 1);
    outb(MASTER + 1, 0xFF);
    outb(SLAVE + 1, 0xFF);
}

static void mask(unsigned irq, int masked) {
    u16 port = irq < 8 ? MASTER + 1 : SLAVE + 1;
    u8 bit = (u8)(1 << (irq & 7));
    u8 now = inb(port);
    outb(port, (u8)(masked ? now | bit : now & ~bit));
}

void irq_enable(unsigned irq, handler *handler) {
    idt_handle(VECTOR_IRQ0 + irq, handler);
    mask(irq, 0);
    if (irq >= 8)
        mask(CASCADE_IRQ, 0);
}

void irq_disable(unsigned irq) {
    mask(irq, 1);
}

void irq_done(unsigned irq) {
    if (irq >= 8)
        outb(SLAVE, END_OF_INTERRUPT);
    outb(MASTER, END_OF_INTERRUPT);
}

void pit_start(u16 divisor) {
    outb(PIT_CONTROL, RATE_GENERATOR);
    outb(PIT_COUNTER0, (u8)divisor);
    outb(PIT_COUNTER0, (u8)(divisor >> 8));
}
