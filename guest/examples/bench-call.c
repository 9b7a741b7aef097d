/* bench-call [DEPTH]: naive Fibonacci numbers: calls, returns and little else. */
#include "bench.h"

static __attribute__((noinline)) u64 fibonacci(u64 n) {
    __asm__ volatile("" : "+r"(n)); /* keeps the compiler from unrolling the recursion */
    return n < 2 ? n : fibonacci(n - 1) + fibonacci(n - 2);
}

int main(int argc, char **argv) {
    return bench_result(fibonacci(bench_rounds(argc, argv, 38)));
}
