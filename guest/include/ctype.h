/* Kinds of characters in the C locale (C17 7.4). */
#ifndef EMU_CTYPE_H
#define EMU_CTYPE_H

#include <emu_c.h>

EMU_C_BEGIN
int isalnum(int c);
int isalpha(int c);
int isblank(int c);
int iscntrl(int c);
int isdigit(int c);
int isgraph(int c);
int islower(int c);
int isprint(int c);
int ispunct(int c);
int isspace(int c);
int isupper(int c);
int isxdigit(int c);
int tolower(int c);
int toupper(int c);
EMU_C_END

#endif
