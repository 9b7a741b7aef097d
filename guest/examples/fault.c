/* Takes exceptions on purpose, prints what the CPU said about each, and goes on behind the faulting instruction. */
#include "idt.h"

#define ABSENT 0x7F0000000000ull /* an address that nothing maps */

static u64 resume;
static int nest;

/* Runs `text`; an exception in it continues behind it. The handlers find that place in `resume`. */
#define attempt(text, ...)                                                                                             \
    __asm__ volatile("lea 1f(%%rip), %%rax\n\tmov %%rax, %0\n\t" text "\n1:"                                           \
                     : "=m"(resume)                                                                                    \
                     : __VA_ARGS__                                                                                     \
                     : "rax", "rcx", "rdx", "memory", "cc")

static void report(struct frame *frame) {
    u64 back_to = resume;
    printf("vector %lu, error code 0x%lx", frame->vector, frame->error);
    if (frame->vector == VECTOR_PF)
        printf(", cr2 0x%lx", read_cr2());
    printf("\n");
    if (nest) {
        nest = 0;
        printf("  inside its handler: ");
        attempt("mov (%1), %%rcx", "r"(ABSENT + 0x5000));
        printf("  back in the outer handler\n");
    }
    frame->rip = back_to;
}

int main(int argc, char **argv) {
    static const unsigned vectors[] = {VECTOR_DE, VECTOR_BP, VECTOR_UD, VECTOR_GP, VECTOR_PF};
    (void)argc, (void)argv;
    for (unsigned i = 0; i < sizeof vectors / sizeof *vectors; i++)
        idt_handle(vectors[i], report);

    printf("divide by zero: ");
    attempt("xor %%ecx, %%ecx; mov $1, %%eax; xor %%edx, %%edx; div %%ecx", "r"(0ull));
    printf("divide by zero again: ");
    attempt("xor %%ecx, %%ecx; mov $1, %%eax; xor %%edx, %%edx; div %%ecx", "r"(0ull));
    printf("invalid instruction: ");
    attempt("ud2", "r"(0ull));
    printf("breakpoint: ");
    attempt("int3", "r"(0ull));
    printf("read of an absent page: ");
    attempt("mov (%1), %%rcx", "r"(ABSENT));
    printf("write to an absent page: ");
    attempt("movb $1, 0x123(%1)", "r"(ABSENT));
    printf("null pointer: ");
    attempt("mov (%1), %%rcx", "r"(0ull));
    printf("write to code: ");
    attempt("movb $1, (%1)", "r"(0x100000ull));
    printf("jump into data: ");
    attempt("jmp *%1", "r"((u64)&resume));
    printf("address that is not canonical: ");
    attempt("mov (%1), %%rcx", "r"(1ull << 63));
    printf("divide error whose handler faults: ");
    nest = 1;
    attempt("xor %%ecx, %%ecx; mov $1, %%eax; xor %%edx, %%edx; div %%ecx", "r"(0ull));
    printf("still running\n");
    return EXIT_OK;
}
