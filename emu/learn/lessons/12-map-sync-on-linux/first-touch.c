/* Two new files on ext4 with DAX, each stored to and flushed for the first time: one mapped with MAP_SYNC, one without.
 * A third, older file says which of them are done. "check" looks whether what is done is there. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { SIZE = 4096, WITH = 1, WITHOUT = 2 };
static const uint64_t value = 0x600D;

static uint64_t *map(const char *path, int flags)
{
    int file = open(path, O_RDWR | O_CREAT, 0600);
    void *at = MAP_FAILED;
    if (file >= 0 && posix_fallocate(file, 0, SIZE) == 0)
        at = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, flags, file, 0);
    if (at == MAP_FAILED) {
        perror(path);
        _exit(2);
    }
    close(file);
    return at;
}

static void store(uint64_t *at, uint64_t what)
{
    *at = what;
    __asm__ volatile("clwb (%0)\n\tsfence" : : "r"(at) : "memory");
}

static int check(const char *name, int is_done)
{
    char path[64];
    uint64_t found = 0;
    snprintf(path, sizeof path, "/pmem/%s", name);
    int file = open(path, O_RDONLY);
    if (is_done && (file < 0 || read(file, &found, sizeof found) != sizeof found || found != value)) {
        printf("%s: lost\n", name);
        return 1;
    }
    printf("%s: %s\n", name, is_done ? "kept" : "not yet done");
    return 0;
}

int main(int argc, char **argv)
{
    uint64_t *done = map("/pmem/done", MAP_SHARED_VALIDATE | MAP_SYNC);
    if (argc > 1 && strcmp(argv[1], "check") == 0)
        return check("with-MAP_SYNC", *done & WITH) + check("without", *done & WITHOUT);
    store(done, 0);
    if (argc > 1 && strcmp(argv[1], "create") == 0)
        return 0;
    store(map("/pmem/with-MAP_SYNC", MAP_SHARED_VALIDATE | MAP_SYNC), value);
    store(done, WITH);
    store(map("/pmem/without", MAP_SHARED), value);
    store(done, WITH | WITHOUT);
    return 0;
}
