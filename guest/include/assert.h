/* Checks that end the guest (C17 7.2): a failed one prints where it stands and panics, status 11. */
#ifndef EMU_ASSERT_H
#define EMU_ASSERT_H

#include <emu_c.h>

EMU_C_BEGIN
EMU_NORETURN void emu_assert_failed(const char *condition, const char *file, int line, const char *function);
EMU_C_END

#ifndef __cplusplus
#define static_assert _Static_assert
#endif

#endif

/* NDEBUG may change between two inclusions of this header. */
#undef assert
#ifdef NDEBUG
#define assert(condition) ((void)0)
#else
#define assert(condition) ((condition) ? (void)0 : emu_assert_failed(#condition, __FILE__, __LINE__, __func__))
#endif
