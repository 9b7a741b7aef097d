/* Numbers and sorting. */
#include <stdlib.h>

#include <ctype.h>
#include <errno.h>
#include <limits.h>

#include "guest.h"

/* The digits of `text`, and whether they fit below `most`; `*end` is behind them, or `text` when there are none. */
static unsigned long long digits_of(const char *text, char **end, int base, int *negative, unsigned long long most,
                                    int *fits) {
    const char *at = text;
    unsigned long long value = 0;
    int any = 0;
    while (isspace((unsigned char)*at))
        at++;
    *negative = *at == '-';
    if (*at == '-' || *at == '+')
        at++;
    if ((base == 0 || base == 16) && at[0] == '0' && (at[1] | 32) == 'x' && isxdigit((unsigned char)at[2])) {
        at += 2;
        base = 16;
    } else if (base == 0) {
        base = *at == '0' ? 8 : 10;
    }
    for (*fits = 1; isalnum((unsigned char)*at); at++) {
        int digit = isdigit((unsigned char)*at) ? *at - '0' : (*at | 32) - 'a' + 10;
        if (digit >= base)
            break;
        any = 1;
        if (value > (most - (unsigned)digit) / (unsigned)base)
            *fits = 0;
        value = value * (unsigned)base + (unsigned)digit;
    }
    if (end)
        *end = (char *)(any ? at : text);
    if (!*fits)
        errno = ERANGE;
    return value;
}

unsigned long long strtoull(const char *restrict text, char **restrict end, int base) {
    int negative, fits;
    unsigned long long value = digits_of(text, end, base, &negative, ULLONG_MAX, &fits);
    return !fits ? ULLONG_MAX : negative ? -value : value;
}

long long strtoll(const char *restrict text, char **restrict end, int base) {
    int negative, fits;
    unsigned long long value = digits_of(text, end, base, &negative, ULLONG_MAX, &fits);
    unsigned long long most = (unsigned long long)LLONG_MAX + (negative ? 1 : 0);
    if (!fits || value > most) {
        errno = ERANGE;
        return negative ? LLONG_MIN : LLONG_MAX;
    }
    return (long long)(negative ? -value : value);
}

unsigned long strtoul(const char *restrict text, char **restrict end, int base) {
    return strtoull(text, end, base);
}

long strtol(const char *restrict text, char **restrict end, int base) {
    return strtoll(text, end, base);
}

int atoi(const char *text) {
    return (int)strtol(text, NULL, 10);
}

long atol(const char *text) {
    return strtol(text, NULL, 10);
}

long long atoll(const char *text) {
    return strtoll(text, NULL, 10);
}

int abs(int value) {
    return value < 0 ? -value : value;
}

long labs(long value) {
    return value < 0 ? -value : value;
}

long long llabs(long long value) {
    return value < 0 ? -value : value;
}

div_t div(int numerator, int denominator) {
    return (div_t){numerator / denominator, numerator % denominator};
}

ldiv_t ldiv(long numerator, long denominator) {
    return (ldiv_t){numerator / denominator, numerator % denominator};
}

lldiv_t lldiv(long long numerator, long long denominator) {
    return (lldiv_t){numerator / denominator, numerator % denominator};
}

static unsigned seed_of_rand = 1;

/* Park and Miller's minimal standard generator (1988): x' = 48271 x mod 2^31 - 1. */
int rand_r(unsigned *seed) {
    u64 state = *seed % RAND_MAX;
    *seed = (unsigned)((state ? state : 1) * 48271 % RAND_MAX);
    return (int)*seed;
}

int rand(void) {
    return rand_r(&seed_of_rand);
}

void srand(unsigned seed) {
    seed_of_rand = seed;
}

static void swap(char *a, char *b, size_t size) {
    while (size--) {
        char kept = *a;
        *a++ = *b;
        *b++ = kept;
    }
}

/* Heap sort: no recursion and no bad cases. */
void qsort(void *base, size_t count, size_t size, int (*compare)(const void *, const void *)) {
    char *items = base;
    for (size_t start = count / 2, end = count; end > 1;) {
        if (start)
            start--;
        else
            swap(items, items + --end * size, size);
        for (size_t root = start, child; (child = 2 * root + 1) < end; root = child) {
            if (child + 1 < end && compare(items + child * size, items + (child + 1) * size) < 0)
                child++;
            if (compare(items + root * size, items + child * size) >= 0)
                break;
            swap(items + root * size, items + child * size, size);
        }
    }
}

void *bsearch(const void *key, const void *base, size_t count, size_t size, int (*compare)(const void *, const void *)) {
    const char *items = base;
    while (count) {
        const char *middle = items + count / 2 * size;
        int order = compare(key, middle);
        if (!order)
            return (void *)middle;
        if (order > 0) {
            items = middle + size;
            count -= count / 2 + 1;
        } else {
            count /= 2;
        }
    }
    return NULL;
}
