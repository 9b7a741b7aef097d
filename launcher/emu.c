/* The ``emu`` command: starts Python with SIGINT blocked.
 *
 * While Python itself starts, a Ctrl-C ends in its traceback, and nothing that Python runs is early enough to prevent
 * it. A blocked signal is neither acted upon nor lost: it waits, through execve(2), until ``emu-python`` unblocks it.
 *
 * ``emu-python`` lies beside this program, wherever links lead to it. Its first line names the interpreter: installers
 * write it there ("#!" and a path, which may contain spaces and be longer than the kernel takes).
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define STATUS_HOST 4 /* emu.errors.Status */
#define BESIDE "-python"
#define DESCRIPTORS 4 /* with fewer, Python does not get as far as to say so in our words; execve closes them */

/* Python does not start where one of its standard streams is a directory. Nothing can be read from or written to what
 * takes its place, either. */
static void replace_folders(void)
{
    struct stat found;
    for (int stream = 0; stream < 3; stream++)
        if (!fstat(stream, &found) && S_ISDIR(found.st_mode)) {
            close(stream);
            open("/dev/null", O_RDONLY); /* the lowest number that is free */
        }
}

static char script[PATH_MAX + sizeof BESIDE];
static char first_line[PATH_MAX + 4];

int main(int count, char **words)
{
    replace_folders();
    ssize_t length = readlink("/proc/self/exe", script, PATH_MAX);
    if (length > 0)
        strcpy(script + length, BESIDE);
    FILE *file = length > 0 ? fopen(script, "re") : NULL;
    if (!file || !fgets(first_line, sizeof first_line, file)) {
        fprintf(stderr, "emu: cannot read %s: %s\n     install emu again\n", length > 0 ? script : "/proc/self/exe",
                file ? "it is empty" : strerror(errno));
        return STATUS_HOST;
    }
    for (int number = 0; number < DESCRIPTORS; number++)
        if (fcntl(fileno(file), F_DUPFD_CLOEXEC, 0) < 0) {
            fprintf(stderr, "emu: the host lets emu open no more files\n     raise its limit ('ulimit -n')\n");
            return STATUS_HOST;
        }
    first_line[strcspn(first_line, "\r\n")] = '\0';
    char *interpreter = first_line + 2 + strspn(first_line + 2, " ");

    sigset_t interrupt;
    sigemptyset(&interrupt);
    sigaddset(&interrupt, SIGINT);
    sigprocmask(SIG_BLOCK, &interrupt, NULL);

    char *command[count + 3];
    char **next = command;
    *next++ = interpreter;
    *next++ = script;
    for (int number = 1; number < count; number++)
        *next++ = words[number];
    *next = NULL;
    execv(interpreter, command);
    fprintf(stderr, "emu: cannot start %s, which %s names: %s\n     install emu again\n", interpreter, script,
            strerror(errno));
    return STATUS_HOST;
}
