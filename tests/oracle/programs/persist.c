/* libpmem: maps a file, and says whether it is persistent memory to it. */
#include <libpmem.h>
#include <stdio.h>
#include <string.h>

int main(void)
{
    size_t size;
    int is_pmem;
    char *at = pmem_map_file("/pmem/mapped", 4096, PMEM_FILE_CREATE, 0644, &size, &is_pmem);
    if (!at) {
        fprintf(stderr, "%s\n", pmem_errormsg());
        return 1;
    }
    pmem_memcpy_persist(at, "persisted", 9);
    printf("is_pmem %d\n", is_pmem);
    return 0;
}
