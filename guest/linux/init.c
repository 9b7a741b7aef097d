/* The first process of `emu run linux`: prepares the machine, runs one command and ends with its status.
 *
 * What to do is in /emu/plan: records of one letter and a text, each ended by a zero byte (emu/linux/initramfs.py writes
 * it). No C library: the binary is small, and starts at once. */
#include "system.h"

#include "protocol.h"

enum { MOST_ARGUMENTS = 1024, PLAN_SIZE = 256 * 1024, MOST_MOUNTS = 64, PIECE = 4096, FRAME = 2048 };

enum record {
    MODULE = 'm', DEVICE = 'd', FILE_SYSTEM = 'f', DIRECTORY = 'w', ENVIRONMENT = 'e', STANDARD_INPUT = 'i',
    /* arguments of the commands have their role as letter */
};
enum input { NO_INPUT = 'n', FRAMED = 'f', FRAMED_FOR_RECOVERY = 'r', AT_TERMINAL = 't' };

static char plan[PLAN_SIZE];
static size_t plan_size;
static const char *mounted[MOST_MOUNTS];
static int mounts;

static size_t length_of(const char *text)
{
    size_t n = 0;
    while (text[n])
        n++;
    return n;
}

static void say(const char *text) { out_bytes(PORT_ERRORS, text, length_of(text)); }

static void say_number(long value)
{
    char digits[20];
    size_t n = sizeof digits;
    do
        digits[--n] = '0' + value % 10;
    while (value /= 10);
    out_bytes(PORT_ERRORS, digits + n, sizeof digits - n);
}

static void tell(enum message message, uint32_t argument) { out32(PORT_CONTROL, message | argument << 8); }

/* End the machine: with status 0 by turning it off, else by the exit port. */
__attribute__((noreturn)) static void end(int status)
{
    if (status == 0)
        CALL3(REBOOT, 0xfee1dead, 672274793, 0x4321fedc);
    for (;;) {
        out32(PORT_EXIT, status);
        CALL1(PAUSE, 0);
    }
}

__attribute__((noreturn)) static void fail(enum stage stage, const char *what, const char *which, long error)
{
    say("emu: init: ");
    say(what);
    say(which);
    say(": error ");
    say_number(-error);
    say("\n");
    tell(FAILED, stage | (uint32_t)-error << 8);
    end(STATUS_INIT_FAILED);
}

/* The next record of the plan behind `at`, NULL at the end. */
static const char *next(const char *at)
{
    const char *record = at ? at + length_of(at) + 1 : plan;
    return record < plan + plan_size ? record : NULL;
}

static const char *find(enum record letter)
{
    for (const char *record = next(NULL); record; record = next(record))
        if (*record == (char)letter)
            return record + 1;
    return NULL;
}

/* Collect the texts of all records with this letter. */
static void collect(char letter, const char **list)
{
    int n = 0;
    for (const char *record = next(NULL); record; record = next(record))
        if (*record == letter && n < MOST_ARGUMENTS)
            list[n++] = record + 1;
    list[n] = NULL;
}

static void read_plan(void)
{
    long fd = CALL2(OPEN, "/emu/plan", O_RDONLY), got;
    if (fd < 0)
        fail(STAGE_PLAN, "cannot open ", "/emu/plan", fd);
    while ((got = CALL3(READ, fd, plan + plan_size, PLAN_SIZE - 1 - plan_size)) > 0)
        plan_size += got;
    CALL1(CLOSE, fd);
}

static void mount_system(void)
{
    static const char *const places[][2] = {
        {"proc", "/proc"}, {"sysfs", "/sys"}, {"devtmpfs", "/dev"}, {"devpts", "/dev/pts"}, {"tmpfs", "/dev/shm"},
    };
    /* A small kernel may lack some of them; what needs them says so. /tmp and /run are in memory already, and may hold
     * the user's programs. */
    for (size_t n = 0; n < sizeof places / sizeof *places; n++) {
        CALL2(MKDIR, places[n][1], 0755);
        CALL5(MOUNT, places[n][0], places[n][1], places[n][0], MS_NOSUID, "");
    }
}

static void load_modules(void)
{
    for (const char *record = next(NULL); record; record = next(record)) {
        if (*record != MODULE)
            continue;
        long fd = CALL2(OPEN, record + 1, O_RDONLY | O_CLOEXEC);
        long error = fd < 0 ? fd : CALL3(FINIT_MODULE, fd, "", 0);
        if (error < 0 && error != -EEXIST)
            fail(STAGE_MODULE, "cannot load the kernel module ", record + 1, error);
        CALL1(CLOSE, fd);
    }
}

/* NVDIMMs are probed by kernel threads; reading this file waits for them. */
static void wait_for_devices(void)
{
    char answer[16];
    long fd = CALL2(OPEN, "/sys/bus/nd/devices/ndbus0/wait_probe", O_RDONLY | O_CLOEXEC);
    if (fd >= 0) {
        CALL3(READ, fd, answer, sizeof answer);
        CALL1(CLOSE, fd);
    }
    for (const char *record = next(NULL); record; record = next(record)) {
        if (*record != DEVICE)
            continue;
        fd = CALL2(OPEN, record + 1, O_RDONLY | O_CLOEXEC);
        if (fd < 0)
            fail(STAGE_DEVICE, "the kernel shows no ", record + 1, fd);
        CALL1(CLOSE, fd);
    }
}

/* A record has four words: device, mount point, file system, options; zero bytes replace the spaces. */
static void mount_file_systems(void)
{
    for (char *record = (char *)next(NULL); record; record = (char *)next(record)) {
        if (*record != FILE_SYSTEM)
            continue;
        char words[4][64] = {{0}};
        size_t word = 0, n = 0;
        for (const char *at = record + 1; *at; at++) {
            if (*at == ' ')
                word++, n = 0;
            else if (word < 4 && n < sizeof words[0] - 1)
                words[word][n++] = *at;
        }
        long error = CALL5(MOUNT, words[0], words[1], words[2], 0, words[3]);
        if (error < 0)
            fail(STAGE_MOUNT, "cannot mount ", record + 1, error);
        if (mounts < MOST_MOUNTS)
            mounted[mounts++] = record + 1;
    }
    tell(MOUNTED, 0);
}

/* Everybody else ends; then what was mounted is put away in order. */
static void unmount_file_systems(void)
{
    CALL2(KILL, -1, SIGKILL);
    while (CALL4(WAIT4, -1, NULL, 0, NULL) >= 0)
        ;
    CALL1(CHDIR, "/");
    while (mounts > 0) {
        char place[64];
        size_t n = 0;
        const char *at = mounted[--mounts];
        while (*at != ' ')
            at++;
        for (at++; *at != ' ' && n < sizeof place - 1; at++)
            place[n++] = *at;
        place[n] = 0;
        CALL2(UMOUNT2, place, 0);
    }
    CALL1(SYNC, 0);
}

static void set_signals(int how)
{
    uint64_t signals = 1ull << (SIGCHLD - 1) | 1ull << (SIGPIPE - 1);
    CALL4(SIGPROCMASK, how, &signals, NULL, sizeof signals);
}

__attribute__((noreturn)) static void become(enum role letter)
{
    static const char *arguments[MOST_ARGUMENTS + 1], *environment[MOST_ARGUMENTS + 1];
    collect((char)letter, arguments);
    collect(ENVIRONMENT, environment);
    const char *directory = find(DIRECTORY);
    if (directory)
        CALL1(CHDIR, directory);
    set_signals(SIG_UNBLOCK);
    if (letter == ROLE_EXEC)
        tell(BEGIN, 0);
    CALL1(IOPL, 0); /* the command gets no ports */
    long error = arguments[0] ? CALL3(EXECVE, arguments[0], arguments, environment) : -2;
    CALL1(IOPL, 3);
    say("emu: init: cannot execute ");
    say(arguments[0] ? arguments[0] : "nothing");
    say(": error ");
    say_number(-error);
    say("\n");
    CALL1(EXIT, error == -2 ? STATUS_NOT_FOUND : STATUS_NOT_EXECUTABLE);
    __builtin_unreachable();
}

/* What goes on while the command runs: three pipes, the line that standard input comes on, and who has ended. */
struct streams {
    int output, errors, input; /* our ends of the command's pipes; -1: closed */
    int line, children;
    uint8_t frame[2 + FRAME]; /* what came on the line, first its length */
    size_t got, given;
};

/* Pass on what is there; whether the pipe is still open. */
static int forward(int fd, enum port port)
{
    static uint8_t bytes[PIECE];
    long got;
    while ((got = CALL3(READ, fd, bytes, sizeof bytes)) > 0)
        out_bytes(port, bytes, got);
    return got == -EAGAIN || got == -EINTR;
}

static void close_input(struct streams *s)
{
    CALL1(CLOSE, s->input);
    s->input = -1;
}

static void ask_for_frame(struct streams *s)
{
    s->got = s->given = 0;
    tell(INPUT, 0);
}

static size_t frame_length(const struct streams *s) { return s->frame[0] | s->frame[1] << 8; }

static int frame_is_whole(const struct streams *s) { return s->got >= 2 && s->got == 2 + frame_length(s); }

static void take_from_line(struct streams *s)
{
    size_t want = s->got < 2 ? 2 - s->got : 2 + frame_length(s) - s->got;
    long got = CALL3(READ, s->line, s->frame + s->got, want < sizeof s->frame - s->got ? want : sizeof s->frame - s->got);
    if (got > 0)
        s->got += got;
    if (frame_is_whole(s) && frame_length(s) == 0)
        close_input(s);
}

static void give_to_command(struct streams *s)
{
    long given = CALL3(WRITE, s->input, s->frame + 2 + s->given, frame_length(s) - s->given);
    if (given > 0)
        s->given += given;
    else if (given != -EAGAIN && given != -EINTR)
        close_input(s); /* nobody reads any more */
    if (s->input >= 0 && s->given == frame_length(s))
        ask_for_frame(s);
}

/* Reap who has ended; whether the command has, and then its wait status. */
static int reap(const struct streams *s, long command, int *status)
{
    uint8_t signal[128];
    long pid;
    int found = 0, one;
    CALL3(READ, s->children, signal, sizeof signal);
    while ((pid = CALL4(WAIT4, -1, &one, WNOHANG, NULL)) > 0)
        if (pid == command)
            found = 1, *status = one;
    return found;
}

static int watch(struct streams *s, long command)
{
    int status = 0;
    for (;;) {
        int giving = s->input >= 0 && frame_is_whole(s);
        struct pollfd fds[5] = {
            {s->children, POLLIN, 0}, {s->output, POLLIN, 0}, {s->errors, POLLIN, 0},
            {s->input, giving ? POLLOUT : 0, 0}, {s->input >= 0 && !giving ? s->line : -1, POLLIN, 0},
        };
        if (CALL3(POLL, fds, 5, -1) < 0)
            continue;
        if (fds[1].revents && !forward(s->output, PORT_OUTPUT))
            CALL1(CLOSE, s->output), s->output = -1;
        if (fds[2].revents && !forward(s->errors, PORT_ERRORS))
            CALL1(CLOSE, s->errors), s->errors = -1;
        if (fds[3].revents & POLLERR)
            close_input(s);
        else if (fds[3].revents & POLLOUT)
            give_to_command(s);
        else if (fds[4].revents)
            take_from_line(s);
        if (fds[0].revents && reap(s, command, &status))
            break;
    }
    /* What it has written before its end; somebody else may hold the pipes open. */
    if (s->output >= 0)
        forward(s->output, PORT_OUTPUT);
    if (s->errors >= 0)
        forward(s->errors, PORT_ERRORS);
    return status;
}

static int open_raw_line(void)
{
    struct termios settings;
    long fd = CALL2(OPEN, "/dev/ttyS0", O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
    if (fd >= 0 && CALL3(IOCTL, fd, TCGETS, &settings) == 0) {
        settings.input = settings.local = 0;
        settings.output = 0;
        CALL3(IOCTL, fd, TCSETS, &settings);
    }
    return fd < 0 ? -1 : (int)fd;
}

static int child_ends(void)
{
    uint64_t signals = 1ull << (SIGCHLD - 1);
    return (int)CALL4(SIGNALFD4, -1, &signals, sizeof signals, O_NONBLOCK | O_CLOEXEC);
}

/* What the command writes is out before it goes on: whoever waits for its pipes in real time comes first. */
static void forward_at_once(void)
{
    static const int priority = 1; /* struct sched_param */
    CALL3(SCHED_SETSCHEDULER, 0, SCHED_FIFO | SCHED_RESET_ON_FORK, &priority);
}

/* Run the command on pipes and pass its streams on; its wait status. */
static int run_on_pipes(enum role letter, int framed)
{
    struct streams s = {.input = -1, .line = -1};
    int output[2], errors[2], input[2] = {-1, -1};
    CALL2(PIPE2, output, O_CLOEXEC);
    CALL2(PIPE2, errors, O_CLOEXEC);
    if (framed) {
        CALL2(PIPE2, input, O_CLOEXEC);
        s.line = open_raw_line();
    }
    s.children = child_ends();
    long command = CALL1(FORK, 0);
    if (command == 0) {
        CALL1(SETSID, 0);
        CALL2(DUP2, framed ? input[0] : CALL2(OPEN, "/dev/null", O_RDONLY), 0);
        CALL2(DUP2, output[1], 1);
        CALL2(DUP2, errors[1], 2);
        become(letter);
    }
    CALL1(CLOSE, output[1]);
    CALL1(CLOSE, errors[1]);
    s.output = output[0];
    s.errors = errors[0];
    CALL3(FCNTL, s.output, F_SETFL, O_NONBLOCK);
    CALL3(FCNTL, s.errors, F_SETFL, O_NONBLOCK);
    if (framed) {
        CALL1(CLOSE, input[0]);
        s.input = input[1];
        CALL3(FCNTL, s.input, F_SETFL, O_NONBLOCK);
        ask_for_frame(&s);
    }
    return watch(&s, command);
}

/* Run the command on COM1 as its terminal; its wait status. */
static int run_at_terminal(enum role letter)
{
    int status = 0;
    CALL3(SYSLOG, SYSLOG_CONSOLE_LEVEL, NULL, 1); /* the kernel speaks up in emergencies only */
    tell(TERMINAL, 0);
    long command = CALL1(FORK, 0), pid;
    if (command == 0) {
        CALL1(SETSID, 0);
        long terminal = CALL2(OPEN, "/dev/ttyS0", O_RDWR);
        CALL3(IOCTL, terminal, TIOCSCTTY, 0);
        for (int fd = 0; fd < 3; fd++)
            CALL2(DUP2, terminal, fd);
        become(letter);
    }
    do
        pid = CALL4(WAIT4, -1, &status, 0, NULL);
    while (pid != command); /* others are orphans, which it left behind */
    return status;
}

/* An end by a signal is told apart from an exit status. */
static int report(int status)
{
    int signal = status & 0x7f;
    if (signal) {
        tell(ENDED, KILLED | signal);
        return STATUS_SIGNAL + signal;
    }
    tell(ENDED, status >> 8 & 0xff);
    return status >> 8 & 0xff;
}

__attribute__((noreturn, used)) void init(void)
{
    CALL1(IOPL, 3);
    mount_system();
    CALL2(SETHOSTNAME, "emu", 3);
    set_signals(SIG_BLOCK);
    read_plan();
    load_modules();
    wait_for_devices();
    tell(SNAPSHOT, 0);
    uint32_t role = in32(PORT_CONTROL);
    mount_file_systems();
    enum role letter = role == ROLE_SETUP ? ROLE_SETUP : role == ROLE_RECOVERY ? ROLE_RECOVERY : ROLE_EXEC;
    const char *record = find(STANDARD_INPUT);
    char input = record ? *record : NO_INPUT;
    int framed = input == FRAMED || (input == FRAMED_FOR_RECOVERY && letter == ROLE_RECOVERY);
    if (role == ROLE_WORKLOAD)
        forward_at_once();
    int status = report(input == AT_TERMINAL ? run_at_terminal(letter) : run_on_pipes(letter, framed));
    /* Of a recorded run and of a recovery only what they did counts, not what comes after. */
    if (role != ROLE_WORKLOAD && role != ROLE_RECOVERY)
        unmount_file_systems();
    end(status);
}

__asm__(".globl _start\n_start:\n\txor %ebp, %ebp\n\tand $-16, %rsp\n\tcall init\n");

/* The compiler may call these. */
void *memset(void *to, int value, size_t length)
{
    for (size_t n = 0; n < length; n++)
        ((volatile uint8_t *)to)[n] = value;
    return to;
}

void *memcpy(void *to, const void *from, size_t length)
{
    for (size_t n = 0; n < length; n++)
        ((volatile uint8_t *)to)[n] = ((const uint8_t *)from)[n];
    return to;
}
