#include "io.h"
#include "nvdimm.h"
#include <string.h>

enum { DSM_PORT = 0xA18, DSM_REVISION = 1, LABEL_SIZE = 4, LABEL_READ = 5, LABEL_WRITE = 6, LARGEST_TRANSFER = 4076 };

static union {
    struct {
        u32 handle, revision, function, offset, length;
        u8 data[LARGEST_TRANSFER];
    } request;
    struct {
        u32 length, status;
        union {
            u32 words[2];
            u8 data[4088];
        };
    } answer;
} page __attribute__((aligned(4096)));

static u32 call(u32 handle, u32 function) {
    page.request.handle = handle;
    page.request.revision = DSM_REVISION;
    page.request.function = function;
    outl(DSM_PORT, (u32)(u64)&page);
    return page.answer.status;
}

u32 nvdimm_functions(u32 handle) {
    return call(handle, 0); /* function 0 has no status: its mask stands there */
}

u32 nvdimm_label_size(u32 handle, u32 *size, u32 *max_transfer) {
    u32 status = call(handle, LABEL_SIZE);
    *size = status == DSM_SUCCESS ? page.answer.words[0] : 0;
    *max_transfer = status == DSM_SUCCESS ? page.answer.words[1] : 0;
    return status;
}

u32 nvdimm_label_read(u32 handle, u32 offset, void *data, u32 length) {
    if (!length || length > LARGEST_TRANSFER)
        return length ? DSM_INVALID : DSM_SUCCESS;
    page.request.offset = offset;
    page.request.length = length;
    u32 status = call(handle, LABEL_READ);
    if (status == DSM_SUCCESS)
        memcpy(data, page.answer.data, length);
    return status;
}

u32 nvdimm_label_write(u32 handle, u32 offset, const void *data, u32 length) {
    if (!length || length > LARGEST_TRANSFER)
        return length ? DSM_INVALID : DSM_SUCCESS;
    page.request.offset = offset;
    page.request.length = length;
    memcpy(page.request.data, data, length);
    return call(handle, LABEL_WRITE);
}
