/* A counter in a libpmemobj pool, raised in transactions; each run says where it began. */
#include <libpmemobj.h>
#include <stdio.h>

struct root {
    uint64_t count;
};

int main(int argc, char **argv)
{
    const char *path = argc > 1 ? argv[1] : "/pmem/pool";
    PMEMobjpool *pool = pmemobj_open(path, "counter");
    if (!pool)
        pool = pmemobj_create(path, "counter", PMEMOBJ_MIN_POOL, 0600);
    if (!pool) {
        fprintf(stderr, "%s\n", pmemobj_errormsg());
        return 1;
    }
    PMEMoid oid = pmemobj_root(pool, sizeof(struct root));
    struct root *root = pmemobj_direct(oid);
    printf("began at %lu, ", root->count);
    for (int n = 0; n < 3; n++) {
        TX_BEGIN(pool) {
            pmemobj_tx_add_range(oid, 0, sizeof *root);
            root->count++;
        } TX_END
    }
    printf("is at %lu\n", root->count);
    pmemobj_close(pool);
    return 0;
}
