/* What a guest has of POSIX: the serial port as descriptors 0, 1 and 2, and the end. */
#ifndef EMU_UNISTD_H
#define EMU_UNISTD_H

#include <emu_c.h>
#include <sys/types.h>

#define STDIN_FILENO 0
#define STDOUT_FILENO 1
#define STDERR_FILENO 2

EMU_C_BEGIN
ssize_t write(int descriptor, const void *data, size_t size);
ssize_t read(int descriptor, void *data, size_t size);
pid_t getpid(void);
EMU_NORETURN void _exit(int status);
EMU_C_END

#endif
