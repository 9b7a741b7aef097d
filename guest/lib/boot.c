/* What the boot loader handed over, and the way into main(). */
#include <stdlib.h>
#include <string.h>

#include "guest.h"
#include "idt.h"
#include "pmem.h"
#include "serial.h"

enum { MULTIBOOT_LOADED = 0x2BADB002, MULTIBOOT_HAS_CMDLINE = 1 << 2, MULTIBOOT_HAS_MAP = 1 << 6, USABLE = 1, PRESENT = 1 };
/* What Linux takes on x86. Each word needs two bytes there, which bounds their number; PVH adds a name in front. */
enum { CMDLINE_SIZE = 4096, MOST_ARGUMENTS = CMDLINE_SIZE / 2 + 1 };
#define PVH_MAGIC 0x336EC578u

/* Multiboot specification 0.6.96, 3.3: only what is read here. */
struct multiboot_info {
    u32 flags, mem_lower, mem_upper, boot_device, cmdline, modules_count, modules, symbols[4], map_length, map;
};

/* `size` does not count itself. */
struct __attribute__((packed)) multiboot_range {
    u32 size;
    u64 base, length;
    u32 type;
};

/* Xen, public/arch-x86/hvm/start_info.h: the memory map is there from version 1 on. */
struct pvh_info {
    u32 magic, version, flags, nr_modules;
    u64 modules, cmdline, rsdp, map;
    u32 map_entries, reserved;
};

struct pvh_range {
    u64 base, length;
    u32 type, reserved;
};

extern u32 boot_magic, boot_pointer;
extern char image_end[];
extern u64 page_pt[];
extern void (*const init_array_begin[])(void), (*const init_array_end[])(void);

struct memory_range ram_behind_image;

static char *arguments[MOST_ARGUMENTS + 1];
static char cmdline[CMDLINE_SIZE];

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
    if (strnlen(from, CMDLINE_SIZE) == CMDLINE_SIZE)
        panic("the command line has more than %d bytes", CMDLINE_SIZE - 1);
    strcpy(cmdline, from);
    for (char *at = cmdline; *at;) {
        if (*at == ' ') {
            *at++ = 0;
            continue;
        }
        arguments[count++] = at;
        while (*at && *at != ' ')
            at++;
    }
    return count;
}

static void take_range(u64 base, u64 length, u32 type) {
    u64 end = base + length, image = (u64)image_end;
    if (type == USABLE && base <= image && image < end)
        ram_behind_image = (struct memory_range){image, end - image};
}

static void find_ram(void) {
    if (boot_magic == MULTIBOOT_LOADED) {
        const struct multiboot_info *info = (const void *)(u64)boot_pointer;
        if (!(info->flags & MULTIBOOT_HAS_MAP))
            return;
        const struct multiboot_range *range = (const void *)(u64)info->map;
        while ((u64)range < (u64)info->map + info->map_length) {
            take_range(range->base, range->length, range->type);
            range = (const void *)((u64)range + sizeof range->size + range->size);
        }
    } else {
        const struct pvh_info *info = (const void *)(u64)boot_pointer;
        const struct pvh_range *range = (const void *)info->map;
        /* QEMU puts the map into page 0, which start.S leaves out. */
        page_pt[0] = PRESENT;
        for (u32 i = 0; info->version && i < info->map_entries; i++)
            take_range(range[i].base, range[i].length, range[i].type);
        page_pt[0] = 0;
        __asm__ volatile("invlpg 0" ::: "memory");
    }
}

_Noreturn void guest_start(void) {
    map_physical(0, 1ull << 32);
    find_ram();
    serial_init();
    idt_init();
    pmem_init();
    int count = split_arguments();
    for (void (*const *constructor)(void) = init_array_begin; constructor < init_array_end; constructor++)
        (*constructor)();
    exit(main(count, arguments));
}
