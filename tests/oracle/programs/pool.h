/* What the programs over libpmemobj share: a small, quick pool with the name of its layout, and a word that says what to do.
 *
 * Each is called as PROGRAM create, PROGRAM work and PROGRAM check: what is before the power may fail, what is recorded,
 * and what must hold afterwards. With -DBROKEN each has the bug that its first comment tells of. */
#ifndef POOL_H
#define POOL_H

#include <libpmemobj.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum word { CREATE, WORK, CHECK };

static inline enum word asked(int argc, char **argv)
{
    static const char *const words[] = {"create", "work", "check"};
    for (int n = 0; argc == 2 && n < 3; n++)
        if (strcmp(argv[1], words[n]) == 0)
            return (enum word)n;
    fprintf(stderr, "usage: %s create|work|check\n", argv[0]);
    exit(64);
}

static inline PMEMobjpool *open_pool(const char *layout, enum word word)
{
    int no = 0;
    char path[64];
    snprintf(path, sizeof path, "/pmem/%s", layout);
    setenv("PMEMOBJ_NLANES", "1", 1); /* one thread needs one lane, not 1024 */
    pmemobj_ctl_set(NULL, "sds.at_create", &no); /* the shutdown state asks the host's NVDIMMs */
    PMEMobjpool *pool = word == CREATE ? pmemobj_create(path, layout, PMEMOBJ_MIN_POOL, 0600)
                                       : pmemobj_open(path, layout);
    if (!pool) {
        fprintf(stderr, "no pool: %s\n", pmemobj_errormsg());
        exit(65);
    }
    return pool;
}

#endif
