/* bench-alu [ROUNDS]: a chain of shifts, additions and multiplications in registers. */
#include "bench.h"

int main(int argc, char **argv) {
    u64 rounds = bench_rounds(argc, argv, 400000000);
    u64 x = 0x9E3779B97F4A7C15;
    for (u64 i = 0; i < rounds; i++) {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        x += i;
    }
    return bench_result(x);
}
