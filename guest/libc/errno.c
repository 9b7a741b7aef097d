/* Error numbers and their texts: those that a program prints on Linux, too. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

int errno;

char *strerror(int error) {
    static const struct {
        int number;
        const char *text;
    } texts[] = {{0, "Success"},
                 {ENOENT, "No such file or directory"},
                 {EIO, "Input/output error"},
                 {ENXIO, "No such device or address"},
                 {EBADF, "Bad file descriptor"},
                 {ENOMEM, "Cannot allocate memory"},
                 {EACCES, "Permission denied"},
                 {EBUSY, "Device or resource busy"},
                 {EEXIST, "File exists"},
                 {ENODEV, "No such device"},
                 {EINVAL, "Invalid argument"},
                 {EFBIG, "File too large"},
                 {ENOSPC, "No space left on device"},
                 {EROFS, "Read-only file system"},
                 {EDOM, "Numerical argument out of domain"},
                 {ERANGE, "Numerical result out of range"},
                 {ENOSYS, "Function not implemented"},
                 {ENOTSUP, "Operation not supported"}};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        if (texts[i].number == error)
            return (char *)texts[i].text;
    return (char *)"Unknown error";
}

void perror(const char *text) {
    printf("%s%s%s\n", text && *text ? text : "", text && *text ? ": " : "", strerror(errno));
}
