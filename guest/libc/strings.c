/* Comparing without case, in the C locale. */
#include <ctype.h>
#include <stddef.h>
#include <strings.h>

int strcasecmp(const char *a, const char *b) {
    return strncasecmp(a, b, (size_t)-1);
}

int strncasecmp(const char *a, const char *b, size_t most) {
    for (; most && *a && tolower((unsigned char)*a) == tolower((unsigned char)*b); most--)
        a++, b++;
    return most ? tolower((unsigned char)*a) - tolower((unsigned char)*b) : 0;
}
