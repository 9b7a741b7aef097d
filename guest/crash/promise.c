/* A promise to somebody outside: "kept 2" on the serial line says that value 2 will survive whatever happens.
 *
 * Recovery reads what was promised on COM1 (emu crash --feed-printed) and looks whether it is there. Without input, as
 * in an ordinary run, nothing is known to have been promised.
 *
 * TOO_EARLY   the promise is made before the fence that waits for the value's write-back
 */
#include <string.h>

#include "pool.h"
#include "serial.h"

enum { VALUES = 4, PROMISE = 16 };

struct pool {
    LINE volatile u64 magic;
    struct {
        LINE volatile u64 value;
    } slot[VALUES];
};

static u64 expected(u64 number) {
    return 1000 + number;
}

static void pool_format(struct pool *pool) {
    for (u64 number = 0; number < VALUES; number++) {
        pool->slot[number].value = 0;
        pmem_flush_line(&pool->slot[number].value);
    }
    pmem_fence();
}

static void pool_work(struct pool *pool) {
    for (u64 number = 0; number < VALUES; number++) {
        volatile u64 *value = &pool->slot[number].value;
        *value = expected(number);
        pmem_flush_line(value);
#ifndef TOO_EARLY
        pmem_fence();
#endif
        printf("kept %lu\n", number);
#ifdef TOO_EARLY
        pmem_fence();
#endif
    }
}

static void pool_recover(struct pool *pool) {
    char line[PROMISE];
    unsigned used = 0;
    for (int c; (c = serial_get()) >= 0;) {
        if (c != '\n') {
            if (used < PROMISE)
                line[used++] = (char)c;
            continue;
        }
        if (used == 6 && !memcmp(line, "kept ", 5)) {
            u64 number = (u64)(line[5] - '0');
            must_hold(number < VALUES && pool->slot[number].value == expected(number),
                      "value %lu was promised, but it is gone", number);
        }
        used = 0;
    }
}

POOL_GUEST("pmpromis")
