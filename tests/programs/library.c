/* Uses the C library; the test compares what it prints under emu with what the host's own library prints. */
#include <assert.h>
#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <pthread.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/types.h>

static void formats(void) {
    static const int numbers[] = {0, 1, -1, 42, -1234567, INT_MAX, INT_MIN};
    static const double doubles[] = {0.0, -0.0, 1.5, -2.25, 0.125, 2.5, 3.5, 1234567.875, 99.995, 0.0625, 1e15};
    char text[64];
    int count;
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        int n = numbers[i];
        printf("[%d][%5d][%-8d][%08d][%+d][% d][%.3d][%10.4d][%-10.4d][%i]\n", n, n, n, n, n, n, n, n, n, n);
        printf("[%u][%x][%X][%#x][%#X][%o][%#o][%08x][%#010x][%.0x]\n", (unsigned)n, (unsigned)n, (unsigned)n, (unsigned)n,
               (unsigned)n, (unsigned)n, (unsigned)n, (unsigned)n, (unsigned)n, (unsigned)n);
        printf("[%hhd][%hd][%ld][%lld][%zd][%jd][%td][%hhx][%hx]\n", (signed char)n, (short)n, (long)n, (long long)n,
               (ssize_t)n, (intmax_t)n, (ptrdiff_t)n, (unsigned char)n, (unsigned short)n);
        printf("[%*d][%-*d][%.*d]\n", 7, n, 7, n, 4, n);
    }
    for (size_t i = 0; i < sizeof doubles / sizeof *doubles; i++) {
        double d = doubles[i];
        printf("[%f][%.0f][%.1f][%.2f][%10.3f][%-10.3f][%010.3f][%+.2f][% .2f][%#.0f]\n", d, d, d, d, d, d, d, d, d, d);
    }
    printf("[%f][%5.1f][%F]\n", 1.0 / 0.0 * 1, -1.0 / 0.0, 1.0 / 0.0);
    printf("[%s][%10s][%-10s][%.2s][%c][%3c][%-3c]|[%%][%5s]\n", "text", "text", "text", "text", 'c', 'c', 'c', "");
    printf("%" PRId64 " %" PRIu64 " %" PRIx64 "\n", INT64_MIN, UINT64_MAX, UINT64_C(0xFEDCBA9876543210));
    printf("abc%nde", &count);
    printf(" %d\n", count);
    printf("%d ", snprintf(text, sizeof text, "%d-%s", 12, "abc"));
    printf("%s ", text);
    printf("%d ", snprintf(text, 4, "%s", "longer than that"));
    printf("%s %d\n", text, snprintf(NULL, 0, "%05d", 7));
    sprintf(text, "%p", (void *)0x1234);
    puts(text);
    fprintf(stdout, "%s\n", "to a stream");
    fputs("fputs\n", stdout);
    fwrite("fwrite\n", 1, 7, stdout);
    putchar('p'), fputc('q', stdout), putc('\n', stdout);
}

static void strings(void) {
    char text[64] = "one", other[64];
    printf("%zu %zu %d %d %d\n", strlen("hello"), strnlen("hello", 3), strcmp("a", "b") < 0, strncmp("abc", "abd", 2),
           strcasecmp("HeLLo", "hEllO"));
    strcat(strcat(text, ", two"), ", three");
    strncat(text, "four", 2);
    puts(text);
    strncpy(other, text, 5);
    other[5] = 0;
    puts(other);
    printf("%s %s %s %d\n", strchr(text, 't'), strrchr(text, 't'), strstr(text, "two"), strstr(text, "ten") == NULL);
    printf("%zu %zu %s\n", strspn("aabbc", "ab"), strcspn("aabbc", "c"), strpbrk("key=value", "=:"));
    for (char *rest, *word = strtok_r(text, ", ", &rest); word; word = strtok_r(NULL, ", ", &rest))
        printf("<%s>", word);
    putchar('\n');
    memmove(other + 1, other, 4);
    printf("%.5s %d %d\n", other, memcmp("abc", "abd", 3) < 0, (char *)memchr("abc", 'c', 3) != NULL);
    memmove(other, other + 1, 4);
    printf("%.5s\n", other);
    for (int c = 0; c < 128; c++)
        printf("%d", !!isalnum(c) + !!isalpha(c) * 2 + !!isdigit(c) + !!isspace(c) + !!isupper(c) + !!islower(c) +
                         !!ispunct(c) + !!isprint(c) + !!isxdigit(c) + !!iscntrl(c) + !!isgraph(c) + !!isblank(c));
    printf("\n%c%c\n", toupper('x'), tolower('Y'));
}

static void number(const char *text, int base) {
    char *end;
    errno = 0;
    long value = strtol(text, &end, base);
    printf("%ld '%s' %d, ", value, end, errno == ERANGE);
    errno = 0;
    unsigned long positive = strtoul(text, &end, base);
    printf("%lu '%s' %d\n", positive, end, errno == ERANGE);
}

static int by_value(const void *a, const void *b) {
    int left = *(const int *)a, right = *(const int *)b;
    return (left > right) - (left < right);
}

static void numbers(void) {
    number("0", 10), number("  -12x", 10), number("0x1fG", 16), number("0x1f", 0), number("0755", 0), number("zz", 36);
    number("", 10), number("-", 10), number("0x", 16), number("9223372036854775807", 10);
    number("9223372036854775808", 10), number("-9223372036854775808", 10), number("-9223372036854775809", 10);
    number("18446744073709551615", 10), number("18446744073709551616", 10), number("+7", 10);
    printf("%d %ld %d %f %f %f\n", atoi("12a"), atol("-7"), abs(-3), atof("2.5"), strtod("-1e3x", NULL), atof(".5e-1"));
    div_t parts = div(-7, 2);
    printf("%d %d\n", parts.quot, parts.rem);
    int items[100];
    unsigned state = 7;
    for (int i = 0; i < 100; i++) {
        state = state * 1103515245u + 12345;
        items[i] = (int)(state >> 16 & 63);
    }
    qsort(items, 100, sizeof *items, by_value);
    for (int i = 0; i < 100; i++)
        printf("%d ", items[i]);
    int wanted = items[40], absent = 1000;
    printf("%d %d\n", *(int *)bsearch(&wanted, items, 100, sizeof *items, by_value),
           bsearch(&absent, items, 100, sizeof *items, by_value) == NULL);
}

static void heap(void) {
    unsigned char *blocks[64] = {0};
    size_t sizes[64] = {0};
    unsigned state = 3;
    int wrong = 0;
    for (int step = 0; step < 20000; step++) {
        state = state * 1103515245u + 12345;
        int which = state >> 16 & 63;
        size_t size = state >> 8 & 0xFFF;
        for (size_t i = 0; i < sizes[which]; i++)
            wrong += blocks[which][i] != (unsigned char)which;
        switch (step % 4) {
        case 0:
            free(blocks[which]);
            blocks[which] = malloc(size);
            break;
        case 1:
            blocks[which] = realloc(blocks[which], size + 1);
            for (size_t i = 0; i < sizes[which] && i < size + 1; i++)
                wrong += blocks[which][i] != (unsigned char)which;
            size++;
            break;
        case 2:
            free(blocks[which]);
            blocks[which] = aligned_alloc(256, size & ~(size_t)255);
            size &= ~(size_t)255;
            wrong += ((uintptr_t)blocks[which] & 255) != 0;
            break;
        default:
            free(blocks[which]);
            blocks[which] = calloc(size, 1);
            for (size_t i = 0; i < size; i++)
                wrong += blocks[which][i] != 0;
        }
        sizes[which] = size;
        memset(blocks[which], which, size);
    }
    for (int i = 0; i < 64; i++)
        free(blocks[i]);
    char *copy = strdup("copied");
    printf("%d wrong, %s, %d\n", wrong, copy, malloc((size_t)-1 >> 1) == NULL && errno == ENOMEM);
    free(copy);
}

static jmp_buf back;

static void deep(int n) {
    if (!n)
        longjmp(back, 7);
    deep(n - 1);
}

static void jumps(void) {
    volatile int tries = 0;
    int value = setjmp(back);
    tries++;
    printf("%d %d\n", value, tries);
    if (!value)
        deep(5);
    else if (value == 7)
        longjmp(back, 0);
}

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void first(void) {
    puts("once");
}

static void last(void) {
    puts("at exit");
}

int main(int argc, char **argv) {
    formats();
    strings();
    numbers();
    heap();
    jumps();
    printf("%d ", pthread_mutex_lock(&mutex));
    printf("%d ", pthread_mutex_trylock(&mutex) == EBUSY);
    printf("%d\n", pthread_mutex_unlock(&mutex));
    pthread_once(&once, first), pthread_once(&once, first);
    for (int i = 1; i < argc; i++)
        printf("argument %s\n", argv[i]);
    assert(argc >= 1);
    atexit(last);
}
