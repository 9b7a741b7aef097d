/* COM1: a 16550 at 0x3F8, 115200 8N1. Output is polled; input can raise IRQ 4. */
#ifndef SERIAL_H
#define SERIAL_H

#include "guest.h"

enum { COM1 = 0x3F8, COM1_IRQ = 4 };

void serial_init(void);
void serial_put(char c);

/* The next received byte, or -1. */
int serial_get(void);

/* From now on a received byte raises IRQ 4. */
void serial_interrupt_on_input(void);

#endif
