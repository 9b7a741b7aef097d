/* Stores to a file of /pmem through MAP_SYNC; says whether Linux granted it, and that without DAX it does not. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static void try(const char *path)
{
    int fd = open(path, O_CREAT | O_RDWR, 0644);
    if (fd < 0 || ftruncate(fd, 4096)) {
        printf("%s: %s\n", path, strerror(errno));
        return;
    }
    char *at = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED_VALIDATE | MAP_SYNC, fd, 0);
    if (at == MAP_FAILED) {
        printf("%s: MAP_SYNC %s\n", path, strerror(errno));
        return;
    }
    strcpy(at, "stored");
    __builtin_ia32_clflush(at);
    __builtin_ia32_sfence();
    printf("%s: MAP_SYNC granted\n", path);
}

int main(void)
{
    try("/pmem/synced");
    try("/tmp/not");
    return 0;
}
