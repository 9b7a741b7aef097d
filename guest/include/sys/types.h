/* Types that the other headers of POSIX name. */
#ifndef EMU_SYS_TYPES_H
#define EMU_SYS_TYPES_H

#include <stddef.h>

typedef long ssize_t;
typedef long off_t;
typedef unsigned mode_t;
typedef int pid_t;

#endif
