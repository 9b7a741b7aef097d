/* What the boot loader handed over, and the way into main(). */
#include "guest.h"
#include "idt.h"
#include "pmem.h"
#include "serial.h"

enum { MULTIBOOT_LOADED = 0x2BADB002, MULTIBOOT_HAS_CMDLINE = 1 << 2, MOST_ARGUMENTS = 8, LONGEST_CMDLINE = 1024 };
#define PVH_MAGIC 0x336EC578u

/* Multiboot specification 0.6.96, 3.3: only what is read here. */
struct multiboot_info {
    u32 flags, mem_lower, mem_upper, boot_device, cmdline;
};

/* Xen, public/arch-x86/hvm/start_info.h: version 0 of the structure. */
struct pvh_info {
    u32 magic, version, flags, nr_modules;
    u64 modules, cmdline, rsdp;
};

extern u32 boot_magic, boot_pointer;

static char *arguments[MOST_ARGUMENTS + 1];
static char cmdline[LONGEST_CMDLINE];

u64 boot_rsdp(void) {
    return boot_magic == PVH_MAGIC ? ((const struct pvh_info *)(u64)boot_pointer)->rsdp : 0;
}

static const char *boot_cmdline(void) {
    u64 address = 0;
    if (boot_magic == MULTIBOOT_LOADED) {
        const struct multiboot_info *info = (const void *)(u64)boot_pointer;
        address = info->flags & MULTIBOOT_HAS_CMDLINE ? info->cmdline : 0;
    } else if (boot_magic == PVH_MAGIC) {
        address = ((const struct pvh_info *)(u64)boot_pointer)->cmdline;
    } else {
        panic("entered by an unknown boot loader (0x%x)", boot_magic);
    }
    return address ? (const char *)address : "";
}

/* By Multiboot convention the first word is the image's own name; PVH passes the arguments alone. */
static int split_arguments(void) {
    int count = 0;
    if (boot_magic == PVH_MAGIC)
        arguments[count++] = "guest";
    const char *from = boot_cmdline();
    char *to = cmdline, *end = cmdline + LONGEST_CMDLINE - 1;
    while (count < MOST_ARGUMENTS) {
        while (*from == ' ')
            from++;
        if (!*from || to >= end)
            break;
        arguments[count++] = to;
        while (*from && *from != ' ' && to < end)
            *to++ = *from++;
        to++;
    }
    return count;
}

_Noreturn void guest_start(void) {
    map_physical(0, 1ull << 32);
    serial_init();
    idt_init();
    pmem_init();
    int count = split_arguments();
    guest_exit((unsigned)main(count, arguments));
}
