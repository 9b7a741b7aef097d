/* libpmem: maps a file, or the device DAX that it is given, and says whether it is persistent memory to it. */
#include <libpmem.h>
#include <stdio.h>
#include <string.h>

int main(int argc, char **argv)
{
    size_t size;
    int is_pmem;
    char *at = argc > 1 ? pmem_map_file(argv[1], 0, 0, 0, &size, &is_pmem)
                        : pmem_map_file("/pmem/mapped", 4096, PMEM_FILE_CREATE, 0644, &size, &is_pmem);
    if (!at) {
        fprintf(stderr, "%s\n", pmem_errormsg());
        return 1;
    }
    printf("is_pmem %d, %zu bytes, \"%.9s\"\n", is_pmem, size, at);
    pmem_memcpy_persist(at, "persisted", 9);
    return 0;
}
