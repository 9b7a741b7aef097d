/* Two accounts and a transfer between them in one transaction. BROKEN: only the first account is part of it. */
#include "pool.h"

enum { SUM = 1000 };

struct account {
    uint64_t balance;
    char unused[56];
};

struct bank {
    struct account from, to;
};

static void transfer(PMEMobjpool *pool, struct bank *bank, uint64_t amount)
{
    TX_BEGIN(pool) {
        pmemobj_tx_add_range_direct(&bank->from, sizeof bank->from);
#ifndef BROKEN
        pmemobj_tx_add_range_direct(&bank->to, sizeof bank->to);
#endif
        bank->from.balance -= amount;
        bank->to.balance += amount; /* the bug */
    } TX_END
}

int main(int argc, char **argv)
{
    enum word word = asked(argc, argv);
    PMEMobjpool *pool = open_pool("bank", word);
    struct bank *bank = pmemobj_direct(pmemobj_root(pool, sizeof *bank));
    if (word == CREATE) {
        bank->from.balance = SUM;
        pmemobj_persist(pool, bank, sizeof *bank);
    }
    if (word == WORK)
        transfer(pool, bank, 70);
    uint64_t sum = bank->from.balance + bank->to.balance;
    printf("%lu and %lu\n", bank->from.balance, bank->to.balance);
    pmemobj_close(pool);
    return sum != SUM;
}
