/* Flags of open(2), with the values of Linux, for programs that pass them on. There are no files. */
#ifndef EMU_FCNTL_H
#define EMU_FCNTL_H

#include <sys/types.h>

#define O_RDONLY 0
#define O_WRONLY 1
#define O_RDWR 2
#define O_CREAT 0100
#define O_EXCL 0200
#define O_TRUNC 01000

#endif
