/* Prints what a guest can read of the CPU's state, changes all of it, resets the machine and prints it once more. */
#include "guest.h"
#include "io.h"
#include "nvdimm.h"

#define CR4_USED 0x440600 /* OSXSAVE, PKE, OSFXSR, OSXMMEXCPT */

static const struct {
    const char *name;
    u32 number;
    u64 other; /* a value that every processor takes */
} msrs[] = {
    {"SYSENTER_CS", 0x174, 0x10},     {"SYSENTER_ESP", 0x175, 0x1234},  {"SYSENTER_EIP", 0x176, 0x5678},
    {"MCG_STATUS", 0x17a, 4},         {"MCG_CTL", 0x17b, 0},            {"MISC_ENABLE", 0x1a0, 0},
    {"PAT", 0x277, 0x0606060606060606}, {"MC0_CTL", 0x400, ~0ull},      {"MC0_STATUS", 0x401, 0},
    {"MC9_MISC", 0x427, 9},           {"STAR", 0xc0000081, 0x1000000000}, {"LSTAR", 0xc0000082, 0x1111},
    {"CSTAR", 0xc0000083, 0x2222},    {"FMASK", 0xc0000084, 0x200},     {"KERNEL_GS_BASE", 0xc0000102, 0x3333},
    {"TSC_AUX", 0xc0000103, 5},
};

static u64 rdmsr(u32 number) {
    u32 low, high;
    __asm__ volatile("rdmsr" : "=a"(low), "=d"(high) : "c"(number));
    return (u64)high << 32 | low;
}

static void wrmsr(u32 number, u64 value) {
    __asm__ volatile("wrmsr" ::"c"(number), "a"((u32)value), "d"((u32)(value >> 32)));
}

#define GET(register) ({ u64 value; __asm__ volatile("mov %%" register ", %0" : "=r"(value)); value; })
#define SET(register, value) __asm__ volatile("mov %0, %%" register ::"r"((u64)(value)) : "memory")

static u8 area[512] __attribute__((aligned(16)));

static u64 field(unsigned offset, unsigned size) {
    u64 value = 0;
    for (unsigned n = 0; n < size; n++)
        value |= (u64)area[offset + n] << 8 * n;
    return value;
}

static void show(u64 boot) {
    u32 low, high;
    u64 sum = 0;
    SET("cr4", GET("cr4") | CR4_USED);
    __asm__ volatile("fxsave64 %0" : "=m"(area));
    for (unsigned n = 32; n < 416; n++)
        sum += area[n];
    printf("boot %lu: DR %lx %lx %lx %lx %lx %lx\n", boot, GET("dr0"), GET("dr1"), GET("dr2"), GET("dr3"), GET("dr6"),
           GET("dr7"));
    printf("boot %lu: FCW %lx FSW %lx FTW %lx FOP %lx FIP %lx FDP %lx MXCSR %lx ST and XMM %s\n", boot, field(0, 2),
           field(2, 2), field(4, 1), field(6, 2), field(8, 8), field(16, 8), field(24, 4), sum ? "changed" : "zero");
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    printf("boot %lu: XCR0 %x", boot, low);
    __asm__ volatile("rdpkru" : "=a"(low), "=d"(high) : "c"(0));
    printf(" PKRU %x CR8 %lx\n", low, GET("cr8"));
    for (unsigned n = 0; n < sizeof msrs / sizeof *msrs; n++)
        printf("boot %lu: %s %lx\n", boot, msrs[n].name, rdmsr(msrs[n].number));
}

static void change(void) {
    static u32 mxcsr = 0x3f80;
    SET("dr0", 0x1000);
    SET("dr1", 0x2000);
    SET("dr2", 0x3000);
    SET("dr3", 0x4000);
    SET("dr6", 0xffff0ff3);
    SET("dr7", 0xd0600); /* a data breakpoint that is not enabled */
    __asm__ volatile("fninit; fldpi; fld1; fldcw %1; ldmxcsr %0; movq %2, %%xmm3" ::"m"(mxcsr), "m"((u16){0x27f}),
                     "r"(0x1234567890abcdefull));
    __asm__ volatile("xsetbv" ::"c"(0), "a"(3), "d"(0));
    __asm__ volatile("wrpkru" ::"c"(0), "a"(0x54), "d"(0));
    SET("cr8", 9);
    for (unsigned n = 0; n < sizeof msrs / sizeof *msrs; n++)
        wrmsr(msrs[n].number, msrs[n].other);
}

int main(int argc, char **argv) {
    volatile u64 *boots = (volatile u64 *)nvdimm_first().base;
    u64 boot = (*boots)++;
    (void)argc, (void)argv;
    show(boot);
    if (boot)
        return EXIT_OK;
    change();
    show(9);
    outb(0xcf9, 6);
    for (;;)
        halt();
}
