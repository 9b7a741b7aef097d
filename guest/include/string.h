/* Memory and strings (C17 7.24, and what POSIX.1-2017 adds that programs use). */
#ifndef EMU_STRING_H
#define EMU_STRING_H

#include <emu_c.h>
#include <stddef.h>

EMU_C_BEGIN
/* The compiler calls the first four by itself. */
void *memcpy(void *EMU_RESTRICT to, const void *EMU_RESTRICT from, size_t size);
void *memmove(void *to, const void *from, size_t size);
void *memset(void *to, int value, size_t size);
int memcmp(const void *a, const void *b, size_t size);
void *memchr(const void *data, int value, size_t size);

size_t strlen(const char *text);
size_t strnlen(const char *text, size_t most);
int strcmp(const char *a, const char *b);
int strncmp(const char *a, const char *b, size_t most);
int strcoll(const char *a, const char *b);
size_t strxfrm(char *EMU_RESTRICT to, const char *EMU_RESTRICT from, size_t size);
char *strcpy(char *EMU_RESTRICT to, const char *EMU_RESTRICT from);
char *strncpy(char *EMU_RESTRICT to, const char *EMU_RESTRICT from, size_t size);
char *strcat(char *EMU_RESTRICT to, const char *EMU_RESTRICT from);
char *strncat(char *EMU_RESTRICT to, const char *EMU_RESTRICT from, size_t most);
char *strchr(const char *text, int value);
char *strrchr(const char *text, int value);
char *strstr(const char *text, const char *part);
size_t strspn(const char *text, const char *set);
size_t strcspn(const char *text, const char *set);
char *strpbrk(const char *text, const char *set);
char *strtok(char *EMU_RESTRICT text, const char *EMU_RESTRICT set);
char *strtok_r(char *EMU_RESTRICT text, const char *EMU_RESTRICT set, char **EMU_RESTRICT rest);
char *strdup(const char *text);
char *strndup(const char *text, size_t most);
char *strerror(int error);
EMU_C_END

#endif
