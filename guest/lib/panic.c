/* Ends that say why, and numbers from the command line. */
#include <assert.h>
#include <stdarg.h>
#include <stdio.h>

#include "guest.h"

void panic(const char *format, ...) {
    va_list list;
    va_start(list, format);
    printf("panic: ");
    vprintf(format, list);
    printf("\n");
    va_end(list);
    guest_exit(EXIT_PANIC);
}

void emu_assert_failed(const char *condition, const char *file, int line, const char *function) {
    panic("%s:%d: %s: assertion '%s' failed", file, line, function, condition);
}

u64 parse_number(const char *text, const char *what) {
    unsigned base = 10;
    const char *digit = text;
    u64 value = 0;
    if (digit[0] == '0' && digit[1] == 'x') {
        base = 16;
        digit += 2;
    }
    int valid = *digit != 0;
    for (; *digit && valid; digit++) {
        unsigned number = 99;
        if (*digit >= '0' && *digit <= '9')
            number = (unsigned)(*digit - '0');
        else if (*digit >= 'a' && *digit <= 'f')
            number = (unsigned)(*digit - 'a' + 10);
        valid = number < base && value <= (~(u64)0 - number) / base;
        value = value * base + number;
    }
    if (!valid) {
        printf("%s: '%s' is not a number\n", what, text);
        guest_exit(EXIT_USAGE);
    }
    return value;
}
