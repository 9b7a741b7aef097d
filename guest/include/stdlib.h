/* Memory, numbers, sorting, the end of the program (C17 7.22). */
#ifndef EMU_STDLIB_H
#define EMU_STDLIB_H

#include <emu_c.h>
#include <stddef.h>

#define EXIT_SUCCESS 0
#define EXIT_FAILURE 1
#define RAND_MAX 0x7fffffff

typedef struct {
    int quot, rem;
} div_t;
typedef struct {
    long quot, rem;
} ldiv_t;
typedef struct {
    long long quot, rem;
} lldiv_t;

EMU_C_BEGIN
/* From the RAM behind the image, aligned to 16 bytes. */
void *malloc(size_t size);
void *calloc(size_t count, size_t size);
void *realloc(void *block, size_t size);
void *aligned_alloc(size_t alignment, size_t size);
int posix_memalign(void **block, size_t alignment, size_t size);
void free(void *block);

/* exit: the emulator's status is 0 for 0, (status << 1) | 1 for 1 to 127. abort: a panic, status 11. */
EMU_NORETURN void exit(int status);
EMU_NORETURN void _Exit(int status);
EMU_NORETURN void quick_exit(int status);
EMU_NORETURN void abort(void);
int atexit(void (*function)(void));
int at_quick_exit(void (*function)(void));
char *getenv(const char *name); /* there is no environment: NULL */

int atoi(const char *text);
long atol(const char *text);
long long atoll(const char *text);
long strtol(const char *EMU_RESTRICT text, char **EMU_RESTRICT end, int base);
long long strtoll(const char *EMU_RESTRICT text, char **EMU_RESTRICT end, int base);
unsigned long strtoul(const char *EMU_RESTRICT text, char **EMU_RESTRICT end, int base);
unsigned long long strtoull(const char *EMU_RESTRICT text, char **EMU_RESTRICT end, int base);

double atof(const char *text);
double strtod(const char *EMU_RESTRICT text, char **EMU_RESTRICT end); /* decimal, to about 15 digits */
float strtof(const char *EMU_RESTRICT text, char **EMU_RESTRICT end);
long double strtold(const char *EMU_RESTRICT text, char **EMU_RESTRICT end);

/* There is one locale, C, in which a character is a byte; and no shell. */
#define MB_CUR_MAX 1
int mblen(const char *text, size_t size);
int mbtowc(wchar_t *EMU_RESTRICT to, const char *EMU_RESTRICT from, size_t size);
int wctomb(char *to, wchar_t c);
size_t mbstowcs(wchar_t *EMU_RESTRICT to, const char *EMU_RESTRICT from, size_t size);
size_t wcstombs(char *EMU_RESTRICT to, const wchar_t *EMU_RESTRICT from, size_t size);
int system(const char *command);

int abs(int value);
long labs(long value);
long long llabs(long long value);
div_t div(int numerator, int denominator);
ldiv_t ldiv(long numerator, long denominator);
lldiv_t lldiv(long long numerator, long long denominator);

/* The same sequence in every run. */
int rand(void);
int rand_r(unsigned *seed);
void srand(unsigned seed);

void qsort(void *base, size_t count, size_t size, int (*compare)(const void *, const void *));
void *bsearch(const void *key, const void *base, size_t count, size_t size,
              int (*compare)(const void *, const void *));
EMU_C_END

#endif
