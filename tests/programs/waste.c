/* Right, but wasteful: every line marked "waste:" does something for nothing, as often as the comment says. */
#include <libpmem.h>

enum { LINE = 8, ROUNDS = 3 }; /* a cache line is 8 words */

#define flush(address) __asm__ volatile("clwb %0" : "+m"(*(address))::"memory")
#define fence() __asm__ volatile("sfence" ::: "memory")

int main(void) {
    volatile unsigned long *word = pmem_map_file("/dev/pmem0", 4096, PMEM_FILE_CREATE, 0666, NULL, NULL);
    if (!word || *word)
        return 0;
    for (unsigned long round = 1; round <= ROUNDS; round++) {
        word[0] = round;
        flush(&word[0]);
        flush(&word[0]); /* waste: 3 redundant flush */
        fence();
        fence(); /* waste: 3 redundant fence */
        flush(&word[LINE]); /* waste: 3 flush of clean line */
        fence();
        word[2 * LINE] = round;
        word[2 * LINE] = round + 1; /* waste: 3 overwrite before persist */
        flush(&word[2 * LINE]);
        fence();
    }
    word[3 * LINE] = 1; /* waste: 1 store not flushed at the end */
    word[4 * LINE] = 1; /* waste: 1 store not fenced at the end */
    flush(&word[4 * LINE]);
    return 0;
}
