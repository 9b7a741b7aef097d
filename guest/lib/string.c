#include <string.h>

void *memcpy(void *restrict to, const void *restrict from, size_t size) {
    void *start = to;
    __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(size)::"memory");
    return start;
}

void *memmove(void *to, const void *from, size_t size) {
    unsigned char *out = to;
    const unsigned char *in = from;
    if (out <= in || out >= in + size)
        return memcpy(to, from, size);
    while (size--)
        out[size] = in[size];
    return to;
}

void *memset(void *to, int value, size_t size) {
    void *start = to;
    __asm__ volatile("rep stosb" : "+D"(to), "+c"(size) : "a"(value) : "memory");
    return start;
}

int memcmp(const void *a, const void *b, size_t size) {
    const unsigned char *left = a, *right = b;
    for (size_t i = 0; i < size; i++)
        if (left[i] != right[i])
            return left[i] - right[i];
    return 0;
}

void *memchr(const void *data, int value, size_t size) {
    const unsigned char *bytes = data;
    for (size_t i = 0; i < size; i++)
        if (bytes[i] == (unsigned char)value)
            return (void *)(bytes + i);
    return NULL;
}

size_t strlen(const char *text) {
    size_t length = 0;
    while (text[length])
        length++;
    return length;
}

size_t strnlen(const char *text, size_t most) {
    size_t length = 0;
    while (length < most && text[length])
        length++;
    return length;
}

int strcmp(const char *a, const char *b) {
    while (*a && *a == *b)
        a++, b++;
    return (unsigned char)*a - (unsigned char)*b;
}

int strncmp(const char *a, const char *b, size_t most) {
    for (; most && *a && *a == *b; most--)
        a++, b++;
    return most ? (unsigned char)*a - (unsigned char)*b : 0;
}

/* There is one locale, C: its order is that of the bytes. */
int strcoll(const char *a, const char *b) {
    return strcmp(a, b);
}

size_t strxfrm(char *restrict to, const char *restrict from, size_t size) {
    size_t length = strlen(from);
    if (length < size)
        memcpy(to, from, length + 1);
    return length;
}

char *strcpy(char *restrict to, const char *restrict from) {
    memcpy(to, from, strlen(from) + 1);
    return to;
}

char *strncpy(char *restrict to, const char *restrict from, size_t size) {
    size_t length = strnlen(from, size);
    memcpy(to, from, length);
    memset(to + length, 0, size - length);
    return to;
}

char *strcat(char *restrict to, const char *restrict from) {
    strcpy(to + strlen(to), from);
    return to;
}

char *strncat(char *restrict to, const char *restrict from, size_t most) {
    size_t length = strnlen(from, most);
    char *end = to + strlen(to);
    memcpy(end, from, length);
    end[length] = 0;
    return to;
}

char *strchr(const char *text, int value) {
    return memchr(text, value, strlen(text) + 1);
}

char *strrchr(const char *text, int value) {
    for (size_t at = strlen(text) + 1; at--;)
        if (text[at] == (char)value)
            return (char *)(text + at);
    return NULL;
}

char *strstr(const char *text, const char *part) {
    size_t length = strlen(part);
    for (; *text || !length; text++)
        if (strncmp(text, part, length) == 0)
            return (char *)text;
    return NULL;
}

size_t strspn(const char *text, const char *set) {
    size_t length = 0;
    while (text[length] && strchr(set, text[length]))
        length++;
    return length;
}

size_t strcspn(const char *text, const char *set) {
    size_t length = 0;
    while (text[length] && !strchr(set, text[length]))
        length++;
    return length;
}

char *strpbrk(const char *text, const char *set) {
    text += strcspn(text, set);
    return *text ? (char *)text : NULL;
}

char *strtok_r(char *restrict text, const char *restrict set, char **restrict rest) {
    char *word = text ? text : *rest;
    word += strspn(word, set);
    if (!*word) {
        *rest = word;
        return NULL;
    }
    char *end = word + strcspn(word, set);
    *rest = end;
    if (*end) {
        *end = 0;
        *rest = end + 1;
    }
    return word;
}

char *strtok(char *restrict text, const char *restrict set) {
    static char *rest;
    return strtok_r(text, set, &rest);
}
