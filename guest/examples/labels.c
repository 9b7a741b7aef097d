/* Reads and writes every NVDIMM's label storage area through its _DSM. An area that holds labels is only read. */
#include "nvdimm.h"
#include <string.h>

enum { MOST_NVDIMMS = 16, CHUNK = 4076, PATTERN_STEP = 0x9E3779B9 };

static u8 chunk[CHUNK], expected[CHUNK];

static void make_pattern(u32 offset, u32 length) {
    for (u32 i = 0; i < length; i++)
        expected[i] = (u8)((offset + i) * PATTERN_STEP >> 24);
}

static int is_zero(u32 length) {
    for (u32 i = 0; i < length; i++)
        if (chunk[i])
            return 0;
    return 1;
}

static void must_succeed(const char *what, u32 status) {
    if (status != DSM_SUCCESS) {
        printf("%s: _DSM status %u\n", what, status);
        guest_exit(EXIT_FAILED);
    }
}

static u32 piece(u32 offset, u32 size, u32 most) {
    u32 length = size - offset < most ? size - offset : most;
    return length < CHUNK ? length : CHUNK;
}

static int is_free(u32 handle, u32 size, u32 most) {
    for (u32 offset = 0, length; offset < size; offset += length) {
        length = piece(offset, size, most);
        make_pattern(offset, length);
        must_succeed("read", nvdimm_label_read(handle, offset, chunk, length));
        if (!is_zero(length) && memcmp(chunk, expected, length))
            return 0;
    }
    return 1;
}

static void exercise(u32 handle, u32 size, u32 most) {
    for (u32 offset = 0, length; offset < size; offset += length) {
        length = piece(offset, size, most);
        make_pattern(offset, length);
        must_succeed("write", nvdimm_label_write(handle, offset, expected, length));
    }
    for (u32 offset = 0, length; offset < size; offset += length) {
        length = piece(offset, size, most);
        make_pattern(offset, length);
        must_succeed("read", nvdimm_label_read(handle, offset, chunk, length));
        if (memcmp(chunk, expected, length)) {
            printf("pattern differs near offset %u\n", offset);
            guest_exit(EXIT_FAILED);
        }
    }
    printf("  wrote a pattern and read it back\n");
    printf("  behind the end: read status %u, write status %u\n", nvdimm_label_read(handle, size - 4, chunk, 8),
           nvdimm_label_write(handle, size, chunk, 1));
}

int main(int argc, char **argv) {
    struct nvdimm nvdimms[MOST_NVDIMMS];
    unsigned count = nvdimm_find(nvdimms, MOST_NVDIMMS);
    (void)argc, (void)argv;
    if (!count) {
        printf("no NVDIMM found\n");
        return EXIT_NO_NVDIMM;
    }
    for (unsigned i = 0; i < count; i++) {
        u32 size, most, handle = nvdimms[i].handle;
        printf("NVDIMM %u: functions 0x%x\n", handle, nvdimm_functions(handle));
        u32 status = nvdimm_label_size(handle, &size, &most);
        if (status != DSM_SUCCESS) {
            printf("  no label storage area (_DSM status %u)\n", status);
            continue;
        }
        printf("  label storage area of %u bytes, at most %u at once\n", size, most);
        if (!most)
            panic("a label area without a transfer size");
        if (is_free(handle, size, most))
            exercise(handle, size, most);
        else
            printf("  holds labels, left as it is\n");
    }
    return EXIT_OK;
}
