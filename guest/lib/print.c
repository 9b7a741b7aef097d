/* Text for COM1. */
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>

#include "format.h"
#include "serial.h"

static void to_serial(void *where, char c) {
    (void)where;
    serial_put(c);
}

int vprintf(const char *format, va_list list) {
    return format_text(to_serial, NULL, format, list);
}

int printf(const char *format, ...) {
    va_list list;
    va_start(list, format);
    int count = vprintf(format, list);
    va_end(list);
    return count;
}
