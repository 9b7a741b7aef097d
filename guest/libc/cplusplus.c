/* What a C++ compiler calls by itself, without exceptions and threads (Itanium C++ ABI, 3.2 and 3.3). The names are those
 * of operator new and delete in all their forms. */
#include <stdlib.h>

#include "guest.h"

void *new_object(size_t size) __asm__("_Znwm");
void *new_array(size_t size) __asm__("_Znam");
void *new_aligned(size_t size, size_t alignment) __asm__("_ZnwmSt11align_val_t");
void *new_array_aligned(size_t size, size_t alignment) __asm__("_ZnamSt11align_val_t");
void *new_or_null(size_t size, const void *nothrow) __asm__("_ZnwmRKSt9nothrow_t");
void *new_array_or_null(size_t size, const void *nothrow) __asm__("_ZnamRKSt9nothrow_t");
void delete_object(void *object) __asm__("_ZdlPv");
void delete_array(void *object) __asm__("_ZdaPv");
void delete_sized(void *object, size_t size) __asm__("_ZdlPvm");
void delete_array_sized(void *object, size_t size) __asm__("_ZdaPvm");
void delete_aligned(void *object, size_t alignment) __asm__("_ZdlPvSt11align_val_t");
void delete_sized_aligned(void *object, size_t size, size_t alignment) __asm__("_ZdlPvmSt11align_val_t");
void delete_array_aligned(void *object, size_t alignment) __asm__("_ZdaPvSt11align_val_t");
void delete_array_sized_aligned(void *object, size_t size, size_t alignment) __asm__("_ZdaPvmSt11align_val_t");
_Noreturn void __cxa_pure_virtual(void);
int __cxa_guard_acquire(char *guard);
void __cxa_guard_release(char *guard);

/* libstdc++'s containers end the program by these, where they would throw. */
_Noreturn void throw_length_error(const char *what) __asm__("_ZSt20__throw_length_errorPKc");
_Noreturn void throw_out_of_range(const char *format, ...) __asm__("_ZSt24__throw_out_of_range_fmtPKcz");
_Noreturn void throw_bad_alloc(void) __asm__("_ZSt17__throw_bad_allocv");
_Noreturn void throw_bad_new_length(void) __asm__("_ZSt28__throw_bad_array_new_lengthv");

/* The tables of the classes of type information (Itanium C++ ABI, 2.9.5): objects point to them, without dynamic_cast
 * nobody reads them. */
void *const class_type_info[16] __asm__("_ZTVN10__cxxabiv117__class_type_infoE") = {0};
void *const si_class_type_info[16] __asm__("_ZTVN10__cxxabiv120__si_class_type_infoE") = {0};
void *const vmi_class_type_info[16] __asm__("_ZTVN10__cxxabiv121__vmi_class_type_infoE") = {0};

void *__dso_handle;

/* The first byte of a guard says that its static object is made (3.3.3); there is one thread. */
int __cxa_guard_acquire(char *guard) {
    return !*guard;
}

void __cxa_guard_release(char *guard) {
    *guard = 1;
}

void throw_length_error(const char *what) {
    panic("length_error: %s", what);
}

void throw_out_of_range(const char *format, ...) {
    panic("out_of_range: %s", format);
}

void throw_bad_alloc(void) {
    panic("operator new: out of memory");
}

void throw_bad_new_length(void) {
    panic("operator new: an array of impossible length");
}

static void *must(void *memory) {
    if (!memory)
        panic("operator new: out of memory");
    return memory;
}

void *new_object(size_t size) {
    return must(malloc(size));
}

void *new_array(size_t size) {
    return must(malloc(size));
}

void *new_aligned(size_t size, size_t alignment) {
    return must(aligned_alloc(alignment, size));
}

void *new_array_aligned(size_t size, size_t alignment) {
    return must(aligned_alloc(alignment, size));
}

void *new_or_null(size_t size, const void *nothrow) {
    (void)nothrow;
    return malloc(size);
}

void *new_array_or_null(size_t size, const void *nothrow) {
    (void)nothrow;
    return malloc(size);
}

void delete_object(void *object) {
    free(object);
}

void delete_array(void *object) {
    free(object);
}

void delete_sized(void *object, size_t size) {
    (void)size;
    free(object);
}

void delete_array_sized(void *object, size_t size) {
    (void)size;
    free(object);
}

void delete_aligned(void *object, size_t alignment) {
    (void)alignment;
    free(object);
}

void delete_array_aligned(void *object, size_t alignment) {
    (void)alignment;
    free(object);
}

void delete_sized_aligned(void *object, size_t size, size_t alignment) {
    (void)size, (void)alignment;
    free(object);
}

void delete_array_sized_aligned(void *object, size_t size, size_t alignment) {
    (void)size, (void)alignment;
    free(object);
}

void __cxa_pure_virtual(void) {
    panic("a pure virtual function was called");
}
