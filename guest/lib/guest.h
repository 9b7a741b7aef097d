/* What every guest needs: types, arguments, output, and the end. */
#ifndef GUEST_H
#define GUEST_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;
typedef int64_t s64;

/* A guest's verdict. The emulator's exit status is 0 for EXIT_OK (power-off) and (verdict << 1) | 1 for the others. */
enum verdict {
    EXIT_OK = 0,
    EXIT_FAILED = 1,    /* status 3 */
    EXIT_NO_NVDIMM = 2, /* status 5 */
    EXIT_UNARMED = 3,   /* status 7 */
    EXIT_USAGE = 4,     /* status 9 */
    EXIT_PANIC = 5,     /* status 11 */
};

/* The guest itself. `argv[0]` is the image's name where the loader gives one; what it returns is the verdict. */
int main(int argc, char **argv);

/* Ends the machine at once: power-off for EXIT_OK, the exit port (0xF4) for everything else. */
_Noreturn void guest_exit(unsigned verdict);

/* Prints `panic: ` and the text, then ends with EXIT_PANIC. */
_Noreturn __attribute__((format(printf, 1, 2))) void panic(const char *format, ...);

/* The decimal or 0x number in `text`; ends with EXIT_USAGE, naming `what`, when it is none. */
u64 parse_number(const char *text, const char *what);

/* Makes [base, base + size) readable and writable at its own address, never executable. Mapped at start: 4 GiB. */
void map_physical(u64 base, u64 size);

/* Where the boot loader says the RSDP is (PVH), or 0 (Multiboot 1 cannot say). */
u64 boot_rsdp(void);

/* The usable RAM behind the image, which is malloc's. */
extern struct memory_range {
    u64 base, size;
} ram_behind_image;

static inline void halt(void) {
    __asm__ volatile("hlt" ::: "memory");
}

#endif
