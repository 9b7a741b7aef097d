/* EMU_C_BEGIN and EMU_C_END around declarations: C names in C++ too. EMU_NORETURN in both languages. */
#ifndef EMU_EMU_C_H
#define EMU_EMU_C_H

#ifdef __cplusplus
#define EMU_C_BEGIN extern "C" {
#define EMU_C_END }
#define EMU_NORETURN [[noreturn]]
#define EMU_RESTRICT __restrict
#else
#define EMU_C_BEGIN
#define EMU_C_END
#define EMU_NORETURN _Noreturn
#define EMU_RESTRICT restrict
#endif

#endif
