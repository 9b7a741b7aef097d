/* Output to COM1 and input from it (C17 7.21). There are no files: stdin, stdout and stderr are the serial port. */
#ifndef EMU_STDIO_H
#define EMU_STDIO_H

#include <emu_c.h>
#include <stdarg.h>
#include <stddef.h>

#define EOF (-1)
#define BUFSIZ 1024

EMU_C_BEGIN
typedef struct emu_stream FILE;

extern FILE *const stdin, *const stdout, *const stderr;

/* Conversions: d i u x X o c s p f F n and %, with flags, width, precision and lengths (hh h l ll z j t). f is exact to 15
 * digits and knows values below 2^64; there is no e, g, a. Anything else is printed as it stands. */
#define EMU_PRINTF(text, first) __attribute__((__format__(__printf__, text, first)))
EMU_PRINTF(1, 2) int printf(const char *EMU_RESTRICT format, ...);
EMU_PRINTF(2, 3) int fprintf(FILE *EMU_RESTRICT stream, const char *EMU_RESTRICT format, ...);
EMU_PRINTF(2, 3) int dprintf(int descriptor, const char *EMU_RESTRICT format, ...);
EMU_PRINTF(2, 3) int sprintf(char *EMU_RESTRICT to, const char *EMU_RESTRICT format, ...);
EMU_PRINTF(3, 4) int snprintf(char *EMU_RESTRICT to, size_t size, const char *EMU_RESTRICT format, ...);
EMU_PRINTF(1, 0) int vprintf(const char *EMU_RESTRICT format, va_list list);
EMU_PRINTF(2, 0) int vfprintf(FILE *EMU_RESTRICT stream, const char *EMU_RESTRICT format, va_list list);
EMU_PRINTF(2, 0) int vsprintf(char *EMU_RESTRICT to, const char *EMU_RESTRICT format, va_list list);
EMU_PRINTF(3, 0) int vsnprintf(char *EMU_RESTRICT to, size_t size, const char *EMU_RESTRICT format, va_list list);
int putchar(int c);
int putc(int c, FILE *stream);
int fputc(int c, FILE *stream);
int puts(const char *text);
int fputs(const char *EMU_RESTRICT text, FILE *EMU_RESTRICT stream);
size_t fwrite(const void *EMU_RESTRICT data, size_t size, size_t count, FILE *EMU_RESTRICT stream);
int fflush(FILE *stream);
int ferror(FILE *stream);
void perror(const char *text);

/* Reading waits for the next byte; Ctrl-D (4) ends the input. */
int getchar(void);
int getc(FILE *stream);
int fgetc(FILE *stream);
char *fgets(char *EMU_RESTRICT to, int size, FILE *EMU_RESTRICT stream);
int feof(FILE *stream);
EMU_C_END

#endif
