/* Jumps out of functions (C17 7.13): the registers that the System V ABI has a function keep. */
#ifndef EMU_SETJMP_H
#define EMU_SETJMP_H

#include <emu_c.h>

EMU_C_BEGIN
typedef unsigned long jmp_buf[8]; /* rbx, rbp, r12 to r15, rsp, rip */

__attribute__((returns_twice)) int setjmp(jmp_buf state);
EMU_NORETURN void longjmp(jmp_buf state, int value);
EMU_C_END

#endif
