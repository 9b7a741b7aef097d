/* What is left of the old BSD string functions (POSIX.1-2017). */
#ifndef EMU_STRINGS_H
#define EMU_STRINGS_H

#include <emu_c.h>
#include <stddef.h>

EMU_C_BEGIN
int strcasecmp(const char *a, const char *b);
int strncasecmp(const char *a, const char *b, size_t most);
EMU_C_END

#endif
