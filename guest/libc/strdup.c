/* Strings in memory of their own. */
#include <stdlib.h>
#include <string.h>

char *strdup(const char *text) {
    return strndup(text, strlen(text));
}

char *strndup(const char *text, size_t most) {
    size_t length = strnlen(text, most);
    char *copy = malloc(length + 1);
    if (copy) {
        memcpy(copy, text, length);
        copy[length] = 0;
    }
    return copy;
}
