/* Standard output and input on COM1. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "format.h"
#include "serial.h"

enum { CTRL_D = 4 };

struct emu_stream {
    int descriptor, at_end;
};

static struct emu_stream streams[] = {{0, 0}, {1, 0}, {2, 0}};
FILE *const stdin = &streams[0], *const stdout = &streams[1], *const stderr = &streams[2];

struct buffer {
    char *to;
    size_t size, used;
};

static void to_buffer(void *where, char c) {
    struct buffer *buffer = where;
    if (buffer->used + 1 < buffer->size)
        buffer->to[buffer->used] = c;
    buffer->used++;
}

int vfprintf(FILE *stream, const char *format, va_list list) {
    (void)stream;
    return vprintf(format, list);
}

int vsnprintf(char *to, size_t size, const char *format, va_list list) {
    struct buffer buffer = {to, size, 0};
    int count = format_text(to_buffer, &buffer, format, list);
    if (size)
        to[buffer.used < size ? buffer.used : size - 1] = 0;
    return count;
}

int vsprintf(char *to, const char *format, va_list list) {
    return vsnprintf(to, (size_t)1 << 62, format, list);
}

#define PASS_ON(call)                                                                                                  \
    va_list list;                                                                                                      \
    va_start(list, format);                                                                                            \
    int count = call;                                                                                                  \
    va_end(list);                                                                                                      \
    return count

int fprintf(FILE *stream, const char *format, ...) {
    PASS_ON(vfprintf(stream, format, list));
}

int dprintf(int descriptor, const char *format, ...) {
    (void)descriptor;
    PASS_ON(vprintf(format, list));
}

int sprintf(char *to, const char *format, ...) {
    PASS_ON(vsprintf(to, format, list));
}

int snprintf(char *to, size_t size, const char *format, ...) {
    PASS_ON(vsnprintf(to, size, format, list));
}

int fputc(int c, FILE *stream) {
    (void)stream;
    serial_put((char)c);
    return (unsigned char)c;
}

int putc(int c, FILE *stream) {
    return fputc(c, stream);
}

int putchar(int c) {
    return fputc(c, stdout);
}

int fputs(const char *text, FILE *stream) {
    fwrite(text, 1, strlen(text), stream);
    return 0;
}

int puts(const char *text) {
    fputs(text, stdout);
    putchar('\n');
    return 0;
}

size_t fwrite(const void *data, size_t size, size_t count, FILE *stream) {
    const char *bytes = data;
    for (size_t i = 0; i < size * count; i++)
        fputc(bytes[i], stream);
    return count;
}

int fflush(FILE *stream) {
    (void)stream;
    return 0;
}

int ferror(FILE *stream) {
    (void)stream;
    return 0;
}

int fgetc(FILE *stream) {
    if (stream->at_end)
        return EOF;
    int c;
    while ((c = serial_get()) < 0)
        __asm__ volatile("pause");
    stream->at_end = c == CTRL_D;
    return stream->at_end ? EOF : c;
}

int getc(FILE *stream) {
    return fgetc(stream);
}

int getchar(void) {
    return fgetc(stdin);
}

char *fgets(char *to, int size, FILE *stream) {
    int used = 0;
    while (used + 1 < size) {
        int c = fgetc(stream);
        if (c == EOF)
            break;
        to[used++] = (char)c;
        if (c == '\n')
            break;
    }
    if (size > 0)
        to[used] = 0;
    return used ? to : NULL;
}

int feof(FILE *stream) {
    return stream->at_end;
}

ssize_t write(int descriptor, const void *data, size_t size) {
    if (descriptor != STDOUT_FILENO && descriptor != STDERR_FILENO) {
        errno = EBADF;
        return -1;
    }
    return (ssize_t)fwrite(data, 1, size, stdout);
}

ssize_t read(int descriptor, void *data, size_t size) {
    char *to = data;
    size_t used = 0;
    if (descriptor != STDIN_FILENO) {
        errno = EBADF;
        return -1;
    }
    while (used < size) {
        int c = getchar();
        if (c == EOF)
            break;
        to[used++] = (char)c;
        if (c == '\n')
            break;
    }
    return (ssize_t)used;
}
