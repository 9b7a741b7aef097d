/* The PC's interrupt controllers (two 8259A) and its timer (8254). */
#ifndef IRQ_H
#define IRQ_H

#include "guest.h"
#include "idt.h"

enum { TIMER_IRQ = 0, PIT_HZ = 1193182 };

/* Moves IRQ 0-15 to VECTOR_IRQ0 and masks them all. */
void pic_init(void);

/* Registers `handler` for `irq` and unmasks it; the handler ends with irq_done(irq). */
void irq_enable(unsigned irq, handler *handler);
void irq_disable(unsigned irq);
void irq_done(unsigned irq);

/* Counter 0 as a rate generator: an IRQ 0 every `divisor` periods of PIT_HZ. */
void pit_start(u16 divisor);

#endif
