/* Sends every line back that comes in over COM1, by interrupt, until Ctrl-D. */
#include "irq.h"
#include "serial.h"

enum { LINE = 256, CTRL_D = 4 };

static volatile u8 ring[LINE];
static volatile unsigned head, tail;

static void on_input(struct frame *frame) {
    (void)frame;
    for (int c; (c = serial_get()) >= 0;)
        if (head - tail < LINE)
            ring[head++ % LINE] = (u8)c;
    irq_done(COM1_IRQ);
}

static u8 next_byte(void) {
    while (head == tail)
        wait_for_interrupt();
    return ring[tail++ % LINE];
}

int main(int argc, char **argv) {
    char line[LINE];
    unsigned length = 0;
    (void)argc, (void)argv;
    pic_init();
    irq_enable(COM1_IRQ, on_input);
    serial_interrupt_on_input();
    printf("ready\n");
    for (u8 c; (c = next_byte()) != CTRL_D;) {
        if (c != '\n' && c != '\r') {
            if (length < LINE - 1)
                line[length++] = (char)c;
            continue;
        }
        line[length] = 0;
        printf("echo: %s\n", line);
        length = 0;
    }
    printf("bye\n");
    return EXIT_OK;
}
