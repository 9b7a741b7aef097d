/* printf's conversions (C17 7.21.6.1). Without SSE (-mgeneral-regs-only) nobody can pass a double, and none is known. */
#include "format.h"

#include <stddef.h>
#include <stdint.h>
#include <string.h>

struct output {
    put_byte *put;
    void *where;
    int count;
};

/* One conversion: flags, least width, precision (-1: none given). */
struct spec {
    int left, plus, space, alternative, zero, width, precision;
};

static void put(struct output *out, char c) {
    out->put(out->where, c);
    out->count++;
}

static void put_many(struct output *out, char c, int count) {
    while (count-- > 0)
        put(out, c);
}

/* `body` behind `prefix` (a sign, 0x), filled up to the width; `zeros` stand between them whatever the width is. */
static void put_field(struct output *out, const struct spec *spec, const char *prefix, int zeros, const char *body,
                      size_t size) {
    int length = (int)strlen(prefix) + zeros + (int)size;
    int fill = spec->width > length ? spec->width - length : 0;
    if (!spec->left && !spec->zero)
        put_many(out, ' ', fill);
    for (; *prefix; prefix++)
        put(out, *prefix);
    put_many(out, '0', zeros + (spec->zero && !spec->left ? fill : 0));
    for (size_t i = 0; i < size; i++)
        put(out, body[i]);
    if (spec->left)
        put_many(out, ' ', fill);
}

static const char *sign_of(const struct spec *spec, int negative) {
    return negative ? "-" : spec->plus ? "+" : spec->space ? " " : "";
}

/* Writes the digits of `value` so that they end at `end`; returns where they begin. */
static char *digits_before(char *end, uint64_t value, unsigned base, const char *digits) {
    do {
        *--end = digits[value % base];
        value /= base;
    } while (value);
    return end;
}

static void put_integer(struct output *out, struct spec *spec, uint64_t value, unsigned base, const char *digits,
                        const char *prefix) {
    char text[24], *end = text + sizeof text;
    char *first = spec->precision == 0 && !value ? end : digits_before(end, value, base, digits);
    int size = (int)(end - first);
    if (spec->precision >= 0)
        spec->zero = 0;
    put_field(out, spec, prefix, spec->precision > size ? spec->precision - size : 0, first, (size_t)size);
}

#ifdef __SSE2__
static void put_double(struct output *out, struct spec *spec, double value, int capital) {
    enum { MOST_DIGITS = 18 };
    int negative = __builtin_signbit(value) != 0;
    double size = negative ? -value : value;
    if (!(size < 18446744073709551616.0)) { /* 2^64; also infinity and NaN */
        static const char *const names[2][3] = {{"nan", "inf", "huge"}, {"NAN", "INF", "HUGE"}};
        const char *text = names[capital][size != size ? 0 : size > 1.7976931348623157e308 ? 1 : 2];
        spec->zero = 0;
        put_field(out, spec, sign_of(spec, negative), 0, text, strlen(text));
        return;
    }
    int precision = spec->precision < 0 ? 6 : spec->precision;
    int exact = precision < MOST_DIGITS ? precision : MOST_DIGITS;
    uint64_t whole = (uint64_t)size, scale = 1;
    for (int i = 0; i < exact; i++)
        scale *= 10;
    double scaled = (size - (double)whole) * (double)scale;
    uint64_t part = (uint64_t)scaled;
    double rest = scaled - (double)part;
    /* Halfway goes to the even digit, as the C library's default rounding has it. */
    if (rest > 0.5 || (rest == 0.5 && ((exact ? part : whole) & 1)))
        part++;
    if (part >= scale) {
        part -= scale;
        whole++;
    }
    char text[64], *end = text + sizeof text, *first = end;
    if (exact) {
        first = digits_before(end, part, 10, "0123456789");
        while (end - first < exact)
            *--first = '0';
    }
    if (precision || spec->alternative)
        *--first = '.';
    first = digits_before(first, whole, 10, "0123456789");
    put_field(out, spec, sign_of(spec, negative), 0, first, (size_t)(end - first));
    put_many(out, '0', precision - exact);
}
#endif

static int number_in(const char **at, int value) {
    for (; **at >= '0' && **at <= '9'; ++*at)
        value = value < 100000 ? value * 10 + (**at - '0') : value;
    return value;
}

static const char *read_spec(struct spec *spec, const char *at, va_list *list) {
    *spec = (struct spec){.precision = -1};
    for (;; at++) {
        if (*at == '-')
            spec->left = 1;
        else if (*at == '+')
            spec->plus = 1;
        else if (*at == ' ')
            spec->space = 1;
        else if (*at == '#')
            spec->alternative = 1;
        else if (*at == '0')
            spec->zero = 1;
        else
            break;
    }
    if (*at == '*') {
        spec->width = va_arg(*list, int);
        if (spec->width < 0) {
            spec->left = 1;
            spec->width = -spec->width;
        }
        at++;
    } else {
        spec->width = number_in(&at, 0);
    }
    if (*at == '.') {
        at++;
        if (*at == '*') {
            spec->precision = va_arg(*list, int);
            at++;
        } else {
            spec->precision = number_in(&at, 0);
        }
    }
    return at;
}

/* The bytes of the integer that follows: what the length letters say. */
static int read_length(const char **at) {
    int size = sizeof(int);
    for (;; ++*at) {
        if (**at == 'h')
            size /= 2;
        else if (**at == 'l' || **at == 'z' || **at == 'j' || **at == 't')
            size = sizeof(long);
        else
            return size;
    }
}

static uint64_t unsigned_of(int size, va_list *list) {
    if (size == sizeof(long))
        return va_arg(*list, unsigned long);
    unsigned value = va_arg(*list, unsigned);
    return size == 1 ? (unsigned char)value : size == 2 ? (unsigned short)value : value;
}

static int64_t signed_of(int size, va_list *list) {
    if (size == sizeof(long))
        return va_arg(*list, long);
    int value = va_arg(*list, int);
    return size == 1 ? (signed char)value : size == 2 ? (short)value : value;
}

static void store_count(int size, va_list *list, int count) {
    void *to = va_arg(*list, void *);
    if (size == sizeof(long))
        *(long *)to = count;
    else if (size == sizeof(int))
        *(int *)to = count;
    else if (size == sizeof(short))
        *(short *)to = (short)count;
    else
        *(signed char *)to = (signed char)count;
}

/* Does the conversion `letter`; 0 when there is no such one. */
static int convert(struct output *out, struct spec *spec, char letter, int size, va_list *list) {
    const char *text;
    char single;
    int64_t number;
    uint64_t value;
    switch (letter) {
    case 'd':
    case 'i':
        number = signed_of(size, list);
        value = number < 0 ? -(uint64_t)number : (uint64_t)number;
        put_integer(out, spec, value, 10, "0123456789", sign_of(spec, number < 0));
        return 1;
    case 'u':
        put_integer(out, spec, unsigned_of(size, list), 10, "0123456789", "");
        return 1;
    case 'o':
        value = unsigned_of(size, list);
        put_integer(out, spec, value, 8, "01234567", spec->alternative && value ? "0" : "");
        return 1;
    case 'x':
        value = unsigned_of(size, list);
        put_integer(out, spec, value, 16, "0123456789abcdef", spec->alternative && value ? "0x" : "");
        return 1;
    case 'X':
        value = unsigned_of(size, list);
        put_integer(out, spec, value, 16, "0123456789ABCDEF", spec->alternative && value ? "0X" : "");
        return 1;
    case 'p':
        put_integer(out, spec, (uintptr_t)va_arg(*list, void *), 16, "0123456789abcdef", "0x");
        return 1;
#ifdef __SSE2__
    case 'f':
    case 'F':
        put_double(out, spec, va_arg(*list, double), letter == 'F');
        return 1;
#endif
    case 'c':
        single = (char)va_arg(*list, int);
        spec->zero = 0;
        put_field(out, spec, "", 0, &single, 1);
        return 1;
    case 's':
        text = va_arg(*list, const char *);
        text = text ? text : "(null)";
        spec->zero = 0;
        put_field(out, spec, "", 0, text, spec->precision < 0 ? strlen(text) : strnlen(text, (size_t)spec->precision));
        return 1;
    case 'n':
        store_count(size, list, out->count);
        return 1;
    case '%':
        put(out, '%');
        return 1;
    default:
        return 0;
    }
}

int format_text(put_byte *to, void *where, const char *format, va_list arguments) {
    struct output out = {to, where, 0};
    va_list list;
    va_copy(list, arguments);
    while (*format) {
        const char *start = format;
        if (*format++ != '%') {
            put(&out, *start);
            continue;
        }
        struct spec spec;
        const char *at = read_spec(&spec, format, &list);
        int size = read_length(&at);
        if (*at && convert(&out, &spec, *at, size, &list))
            format = at + 1;
        else
            put(&out, *start);
    }
    va_end(list);
    return out.count;
}
