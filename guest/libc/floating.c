/* Numbers with a point. Compiled with SSE. */
#include <ctype.h>
#include <stdlib.h>

static double power_of_ten(int exponent) {
    double result = 1, base = 10;
    for (int rest = exponent < 0 ? -exponent : exponent; rest; rest >>= 1, base *= base)
        if (rest & 1)
            result *= base;
    return result;
}

double strtod(const char *restrict text, char **restrict end) {
    const char *at = text;
    double value = 0;
    int any = 0, shift = 0, exponent = 0;
    while (isspace((unsigned char)*at))
        at++;
    int negative = *at == '-';
    if (*at == '-' || *at == '+')
        at++;
    for (int point = 0; isdigit((unsigned char)*at) || (*at == '.' && !point); at++) {
        if (*at == '.') {
            point = 1;
            continue;
        }
        any = 1;
        value = value * 10 + (*at - '0');
        shift -= point;
    }
    if (any && (*at | 32) == 'e') {
        const char *digits = at + 1;
        int sign = *digits == '-' ? -1 : 1;
        if (*digits == '-' || *digits == '+')
            digits++;
        if (isdigit((unsigned char)*digits)) {
            for (; isdigit((unsigned char)*digits); digits++)
                exponent = exponent < 10000 ? exponent * 10 + (*digits - '0') : exponent;
            exponent *= sign;
            at = digits;
        }
    }
    if (end)
        *end = (char *)(any ? at : text);
    exponent += shift;
    value = exponent < 0 ? value / power_of_ten(exponent) : value * power_of_ten(exponent);
    return negative ? -value : value;
}

float strtof(const char *restrict text, char **restrict end) {
    return (float)strtod(text, end);
}

long double strtold(const char *restrict text, char **restrict end) {
    return strtod(text, end);
}

double atof(const char *text) {
    return strtod(text, NULL);
}
