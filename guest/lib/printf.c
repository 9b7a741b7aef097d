#include <stdarg.h>

#include "guest.h"
#include "serial.h"

static void put_number(u64 value, unsigned base, int negative, unsigned width, char pad) {
    char digits[24];
    unsigned count = 0;
    do {
        digits[count++] = "0123456789abcdef"[value % base];
        value /= base;
    } while (value);
    unsigned length = count + (negative ? 1 : 0);
    if (negative && pad == '0')
        serial_put('-');
    for (; length < width; width--)
        serial_put(pad);
    if (negative && pad != '0')
        serial_put('-');
    while (count)
        serial_put(digits[--count]);
}

static void vprintf(const char *format, va_list list) {
    for (; *format; format++) {
        if (*format != '%') {
            serial_put(*format);
            continue;
        }
        char pad = ' ';
        unsigned width = 0;
        int is_long = 0;
        if (*++format == '0')
            pad = '0';
        for (; *format >= '0' && *format <= '9'; format++)
            width = width * 10 + (unsigned)(*format - '0');
        for (; *format == 'l' || *format == 'z'; format++)
            is_long = 1;
        switch (*format) {
        case 'd': {
            s64 value = is_long ? va_arg(list, s64) : va_arg(list, int);
            put_number(value < 0 ? -(u64)value : (u64)value, 10, value < 0, width, pad);
            break;
        }
        case 'u':
            put_number(is_long ? va_arg(list, u64) : va_arg(list, unsigned), 10, 0, width, pad);
            break;
        case 'x':
            put_number(is_long ? va_arg(list, u64) : va_arg(list, unsigned), 16, 0, width, pad);
            break;
        case 'p':
            serial_put('0');
            serial_put('x');
            put_number((u64)va_arg(list, void *), 16, 0, width, pad);
            break;
        case 's':
            for (const char *text = va_arg(list, const char *); *text; text++)
                serial_put(*text);
            break;
        case 'c':
            serial_put((char)va_arg(list, int));
            break;
        case '%':
            serial_put('%');
            break;
        default:
            return;
        }
    }
}

void printf(const char *format, ...) {
    va_list list;
    va_start(list, format);
    vprintf(format, list);
    va_end(list);
}

void panic(const char *format, ...) {
    va_list list;
    va_start(list, format);
    printf("panic: ");
    vprintf(format, list);
    printf("\n");
    va_end(list);
    guest_exit(EXIT_PANIC);
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
