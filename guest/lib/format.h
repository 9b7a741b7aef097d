/* Formatted output to wherever `put` takes it; returns how many bytes that were. */
#ifndef FORMAT_H
#define FORMAT_H

#include <stdarg.h>

typedef void put_byte(void *where, char c);

int format_text(put_byte *put, void *where, const char *format, va_list list);

#endif
