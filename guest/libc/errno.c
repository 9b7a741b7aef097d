/* Error numbers and their texts. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

int errno;

char *strerror(int error) {
    static const struct {
        int number;
        const char *text;
    } texts[] = {{0, "no error"},
                 {ENOENT, "there is no such thing"},
                 {EIO, "input/output error"},
                 {ENXIO, "no such device or address"},
                 {EBADF, "not an open descriptor"},
                 {ENOMEM, "out of memory"},
                 {EACCES, "not permitted"},
                 {EBUSY, "busy"},
                 {EEXIST, "exists already"},
                 {ENODEV, "no such device"},
                 {EINVAL, "invalid argument"},
                 {EFBIG, "too large"},
                 {ENOSPC, "no room left"},
                 {EROFS, "read-only"},
                 {EDOM, "argument out of its domain"},
                 {ERANGE, "result out of range"},
                 {ENOSYS, "not implemented"},
                 {ENOTSUP, "not supported"}};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        if (texts[i].number == error)
            return (char *)texts[i].text;
    return (char *)"unknown error";
}

void perror(const char *text) {
    printf("%s%s%s\n", text && *text ? text : "", text && *text ? ": " : "", strerror(errno));
}
