/* Ten ticks of the programmable timer at 100 Hz, each an interrupt that wakes the sleeping CPU. */
#include "irq.h"

enum { TICKS = 10, HZ = 100 };

static volatile unsigned ticks;

static void on_tick(struct frame *frame) {
    (void)frame;
    ticks++;
    irq_done(TIMER_IRQ);
}

int main(int argc, char **argv) {
    (void)argc, (void)argv;
    pic_init();
    irq_enable(TIMER_IRQ, on_tick);
    pit_start(PIT_HZ / HZ);
    for (unsigned seen = 0; seen < TICKS;) {
        while (ticks == seen)
            wait_for_interrupt();
        printf("tick %u\n", ++seen);
    }
    irq_disable(TIMER_IRQ);
    return EXIT_OK;
}
