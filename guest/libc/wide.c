/* Wide characters of the C locale: bytes. */
#include <stdlib.h>
#include <string.h>

int mblen(const char *text, size_t size) {
    return mbtowc(NULL, text, size);
}

int mbtowc(wchar_t *restrict to, const char *restrict from, size_t size) {
    if (!from)
        return 0;
    if (!size)
        return -1;
    if (to)
        *to = (unsigned char)*from;
    return *from != 0;
}

int wctomb(char *to, wchar_t c) {
    if (!to)
        return 0;
    *to = (char)c;
    return c >= 0 && c < 256 ? 1 : -1;
}

size_t mbstowcs(wchar_t *restrict to, const char *restrict from, size_t size) {
    size_t length = strlen(from);
    for (size_t i = 0; to && i < size && i <= length; i++)
        to[i] = (unsigned char)from[i];
    return to && length > size ? size : length;
}

size_t wcstombs(char *restrict to, const wchar_t *restrict from, size_t size) {
    size_t length = 0;
    while (from[length])
        length++;
    for (size_t i = 0; to && i < size && i <= length; i++)
        to[i] = (char)from[i];
    return to && length > size ? size : length;
}

int system(const char *command) {
    return command ? -1 : 0;
}
