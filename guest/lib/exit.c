/* The end of a program, and of the machine. */
#include <stdlib.h>
#include <unistd.h>

#include "guest.h"
#include "io.h"

/* QEMU q35 with its usual firmware: PM1a control at 0x604; SLP_TYP 0 is S5 there, SLP_EN is bit 13. */
enum { EXIT_PORT = 0xF4, PM1A_CONTROL = 0x604, SLEEP_ENABLE = 1 << 13 };

void guest_exit(unsigned verdict) {
    if (verdict != EXIT_OK) {
        outl(EXIT_PORT, verdict);
        printf("exit port 0x%x is not there, verdict %u is lost\n", EXIT_PORT, verdict);
    }
    outw(PM1A_CONTROL, SLEEP_ENABLE);
    for (;;)
        __asm__ volatile("cli; hlt");
}

enum { MOST_EXIT_FUNCTIONS = 32 };

static struct {
    void (*function)(void *);
    void *argument;
} at_exit[MOST_EXIT_FUNCTIONS];
static int exit_count;

/* Destructors of C++'s static objects come by this way (Itanium C++ ABI, 3.3.6). */
int __cxa_atexit(void (*function)(void *), void *argument, void *image);

int __cxa_atexit(void (*function)(void *), void *argument, void *image) {
    (void)image;
    if (exit_count == MOST_EXIT_FUNCTIONS)
        return -1;
    at_exit[exit_count].function = function;
    at_exit[exit_count++].argument = argument;
    return 0;
}

static void call(void *function) {
    ((void (*)(void))function)();
}

int atexit(void (*function)(void)) {
    return __cxa_atexit(call, (void *)function, NULL);
}

int at_quick_exit(void (*function)(void)) {
    return atexit(function);
}

void exit(int status) {
    while (exit_count) {
        exit_count--;
        at_exit[exit_count].function(at_exit[exit_count].argument);
    }
    _exit(status);
}

void quick_exit(int status) {
    exit(status);
}

void _exit(int status) {
    guest_exit((unsigned)status);
}

void _Exit(int status) {
    _exit(status);
}

void abort(void) {
    panic("aborted");
}

pid_t getpid(void) {
    return 1;
}

char *getenv(const char *name) {
    (void)name;
    return NULL;
}
