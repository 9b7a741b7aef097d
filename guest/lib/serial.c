#include "serial.h"

#include "io.h"

enum { DATA = COM1, IER = COM1 + 1, FCR = COM1 + 2, LCR = COM1 + 3, MCR = COM1 + 4, LSR = COM1 + 5 };
enum { DIVISOR_LATCH = 0x80, EIGHT_BITS = 3, RECEIVED = 1, TRANSMIT_EMPTY = 0x20 };

void serial_init(void) {
    outb(IER, 0);
    outb(LCR, DIVISOR_LATCH | EIGHT_BITS);
    outb(DATA, 1);
    outb(IER, 0);
    outb(LCR, EIGHT_BITS);
    outb(FCR, 0x07);
    outb(MCR, 0x0B);
}

void serial_put(char c) {
    while (!(inb(LSR) & TRANSMIT_EMPTY))
        ;
    outb(DATA, (u8)c);
}

int serial_get(void) {
    return inb(LSR) & RECEIVED ? inb(DATA) : -1;
}

void serial_interrupt_on_input(void) {
    outb(IER, 1);
}
