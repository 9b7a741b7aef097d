/* Error numbers, with the values of Linux. There is one CPU and one thread: errno is a plain variable. */
#ifndef EMU_ERRNO_H
#define EMU_ERRNO_H

#include <emu_c.h>

EMU_C_BEGIN
extern int errno;
EMU_C_END

#define ENOENT 2
#define EINTR 4
#define EIO 5
#define ENXIO 6
#define EBADF 9
#define EAGAIN 11
#define ENOMEM 12
#define EACCES 13
#define EFAULT 14
#define EBUSY 16
#define EEXIST 17
#define ENODEV 19
#define EINVAL 22
#define EFBIG 27
#define ENOSPC 28
#define EROFS 30
#define EDOM 33
#define ERANGE 34
#define ENOSYS 38
#define EOVERFLOW 75
#define ENOTSUP 95

#endif
