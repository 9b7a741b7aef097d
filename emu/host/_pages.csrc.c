/* Pages on their way from one machine to another: checksums, and copies that are summed while they are in the cache.
 *
 * See pages.py for the meaning. Calls return the result or -errno, like those of _kernel.
 */
#include <endian.h>
#include <errno.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>
#ifdef __clang__ /* has a name of its own for CRC32; gcc knows that one from 11 on only */
#define CRC_TARGET "sse4.2,crc32"
#else
#define CRC_TARGET "sse4.2"
#endif
#define X86 1
#else
#define X86 0
#endif

/* A piece stays in the second-level cache between its copy and its sum. Buffers begin where pages do: a copy between
 * addresses that differ a little in their last twelve bits takes four times as long. */
enum { PAGE = 4096, PIECE = 32 * PAGE, LINE = 64 };

/* ------------------------------------------------------------------------------------------------- checksums */

static uint32_t crc_table[256];
static pthread_once_t crc_table_once = PTHREAD_ONCE_INIT;

static void crc_table_fill(void) {
    for (uint32_t n = 0; n < 256; n++) {
        uint32_t crc = n;
        for (int bit = 0; bit < 8; bit++)
            crc = crc >> 1 ^ (crc & 1 ? 0x82F63B78u : 0); /* Castagnoli's polynomial, reflected */
        crc_table[n] = crc;
    }
}

static uint32_t crc_portable(uint32_t crc, const unsigned char *at, size_t size) {
    pthread_once(&crc_table_once, crc_table_fill);
    for (; size; at++, size--)
        crc = crc >> 8 ^ crc_table[(crc ^ *at) & 0xFF];
    return crc;
}

static int emu_has_crc32c(void) {
#if X86
    unsigned a, b, c, d;
    return __get_cpuid(1, &a, &b, &c, &d) && (c & (1u << 20));
#else
    return 0;
#endif
}

#if X86
/* The instruction takes three cycles and one can start in each, so three chains run side by side. A chain's CRC is moved
 * past the bytes of the next one by what so many zero bytes make of it, which is linear: four tables of its bytes.
 * Three stripes are a page less a line. */
enum { STRIPE = 1344, ROUND = 3 * STRIPE };
static uint32_t past_stripe[4][256];
static pthread_once_t past_stripe_once = PTHREAD_ONCE_INIT;

__attribute__((target(CRC_TARGET))) static void past_stripe_fill(void) {
    uint32_t of_bit[32];
    for (int bit = 0; bit < 32; bit++) {
        uint64_t crc = 1u << bit;
        for (int n = 0; n < STRIPE / 8; n++)
            crc = _mm_crc32_u64(crc, 0);
        of_bit[bit] = (uint32_t)crc;
    }
    for (int byte = 0; byte < 4; byte++)
        for (unsigned value = 0; value < 256; value++) {
            uint32_t crc = 0;
            for (int bit = 0; bit < 8; bit++)
                crc ^= value >> bit & 1 ? of_bit[8 * byte + bit] : 0;
            past_stripe[byte][value] = crc;
        }
}

static uint32_t move_past_stripe(uint32_t crc) {
    return past_stripe[0][crc & 0xFF] ^ past_stripe[1][crc >> 8 & 0xFF] ^ past_stripe[2][crc >> 16 & 0xFF] ^
           past_stripe[3][crc >> 24];
}

#define INLINE __attribute__((always_inline, target(CRC_TARGET))) static inline

/* The word at from[n], read once. Unless `to` is NULL it is stored there too, past the caches. */
INLINE uint64_t word_at(const unsigned char *from, char *to, size_t n) {
    uint64_t word;
    if (!to)
        return memcpy(&word, from + n, 8), word;
    word = *(const volatile uint64_t *)(from + n);
    _mm_stream_si64((long long *)(to + n), (long long)word);
    return word;
}

/* Go on from `crc` with the ROUND bytes at `from`. Those that are copied to `to` on the way begin where lines do, and what
 * is summed is what is stored, whoever else stores to them meanwhile. */
INLINE uint32_t sum_round(uint32_t crc, const unsigned char *from, char *to) {
    uint64_t first = crc, second = 0, third = 0;
    for (size_t n = 0; n < STRIPE; n += 8) {
        /* The processor's own look-ahead is lost among three places; without this, memory is waited for half of the
         * time. It may reach behind the data: that is no access. */
        if (n % LINE == 0)
            for (size_t line = 0; line < 3 * LINE; line += LINE)
                _mm_prefetch((const char *)((uintptr_t)from + ROUND + 3 * n + line), _MM_HINT_T0);
        first = _mm_crc32_u64(first, word_at(from, to, n));
        second = _mm_crc32_u64(second, word_at(from, to, n + STRIPE));
        third = _mm_crc32_u64(third, word_at(from, to, n + 2 * STRIPE));
    }
    return move_past_stripe(move_past_stripe((uint32_t)first) ^ (uint32_t)second) ^ (uint32_t)third;
}

__attribute__((target(CRC_TARGET))) static uint32_t crc_hardware(uint32_t crc, const unsigned char *at, size_t size) {
    pthread_once(&past_stripe_once, past_stripe_fill);
    for (; size >= ROUND; at += ROUND, size -= ROUND)
        crc = sum_round(crc, at, NULL);
    for (; size >= 8; at += 8, size -= 8)
        crc = (uint32_t)_mm_crc32_u64(crc, word_at(at, NULL, 0));
    for (; size; at++, size--)
        crc = _mm_crc32_u8(crc, *at);
    return crc;
}

__attribute__((target(CRC_TARGET))) static uint32_t stream_and_sum(char *to, const unsigned char *from) {
    pthread_once(&past_stripe_once, past_stripe_fill);
    uint32_t crc = sum_round(~0u, from, to);
    for (size_t n = ROUND; n < PAGE; n += 8)
        crc = (uint32_t)_mm_crc32_u64(crc, word_at(from, to, n));
    return ~crc;
}
#endif

static uint32_t emu_crc32c(uint32_t crc, const void *data, size_t size, int hardware) {
#if X86
    if (hardware)
        return ~crc_hardware(~crc, data, size);
#else
    (void)hardware;
#endif
    return ~crc_portable(~crc, data, size);
}

static void emu_pages_sum(const void *data, size_t pages, uint32_t *sums, int hardware) {
    for (size_t n = 0; n < pages; n++)
        sums[n] = htole32(emu_crc32c(0, (const char *)data + n * PAGE, PAGE, hardware));
}

static int emu_is_zero(const void *data, size_t size) {
    const unsigned char *at = data;
    /* Zero means: the first byte is, and every byte equals the next. The C library's compare is vectorised. */
    return size == 0 || (at[0] == 0 && memcmp(at, at + 1, size - 1) == 0);
}

/* ---------------------------------------------------------------------------------------------------- copies */

static int read_all(int fd, char *to, size_t size, int64_t offset) {
    while (size) {
        ssize_t count = pread(fd, to, size, offset);
        if (count < 0 && errno == EINTR)
            continue;
        if (count <= 0)
            return count ? -errno : -ENODATA;
        to += count, size -= count, offset += count;
    }
    return 0;
}

static int write_all(int fd, const char *from, size_t size, int64_t offset) {
    while (size) {
        ssize_t count = pwrite(fd, from, size, offset);
        if (count < 0 && errno == EINTR)
            continue;
        if (count <= 0)
            return count ? -errno : -ENOSPC;
        from += count, size -= count, offset += count;
    }
    return 0;
}

/* Copy pages of the file `fd`, or of `memory`, to `to`; note in `zero` which are zero, and go on in *crc with the others.
 * The places of zero pages in `to` may keep what they held. */
static int emu_pages_take(int fd, int64_t offset, const char *memory, size_t pages, char *to, uint8_t *zero,
                          uint32_t *crc, int hardware) {
    for (size_t at = 0; at < pages; at += PIECE / PAGE) {
        size_t count = pages - at < PIECE / PAGE ? pages - at : PIECE / PAGE;
        int error = memory ? 0 : read_all(fd, to + at * PAGE, count * PAGE, offset + at * PAGE);
        if (error)
            return error;
        for (size_t n = at; n < at + count; n++) {
            char *copy = to + n * PAGE;
            zero[n] = (uint8_t)emu_is_zero(memory ? memory + n * PAGE : copy, PAGE);
            if (zero[n])
                continue;
            if (memory) /* copied before it is summed: others may store there now */
                memcpy(copy, memory + n * PAGE, PAGE);
            *crc = emu_crc32c(*crc, copy, PAGE, hardware);
        }
    }
    return 0;
}

/* Receive what has come, at most `size` bytes, and go on in *crc with it. The number of bytes, 0 at the end of the stream;
 * -EAGAIN when nothing has come. */
static ssize_t emu_pages_receive(int fd, char *to, size_t size, uint32_t *crc, int hardware) {
    size_t done = 0;
    while (done < size) {
        size_t piece = size - done < PIECE ? size - done : PIECE;
        ssize_t count = recv(fd, to + done, piece, MSG_DONTWAIT);
        if (count < 0 && errno == EINTR)
            continue;
        if (count < 0)
            return done ? (ssize_t)done : -errno;
        if (!count)
            break;
        *crc = emu_crc32c(*crc, to + done, count, hardware);
        done += count;
    }
    return done;
}

/* Copy a page past the caches, and sum what was stored: its old content is not fetched, and what is in the caches stays. */
static uint32_t copy_page(char *to, const char *from, int hardware) {
#if X86
    if (hardware)
        return stream_and_sum(to, (const unsigned char *)from);
#endif
    memcpy(to, from, PAGE);
    return emu_crc32c(0, to, PAGE, hardware);
}

/* Read pages of the file `fd`, or of `memory` that is mapped from one, to the memory `to`, and sum what is stored there. */
static int read_pages(int fd, int64_t offset, const char *memory, char *to, size_t pages, uint32_t *sums, int hardware) {
    char *buffer = memory ? NULL : aligned_alloc(PAGE, PIECE);
    int error = memory || buffer ? 0 : -ENOMEM;
    for (size_t at = 0; at < pages && !error; at += PIECE / PAGE) {
        size_t count = pages - at < PIECE / PAGE ? pages - at : PIECE / PAGE;
        if (buffer)
            error = read_all(fd, buffer, count * PAGE, offset + at * PAGE);
        const char *from = memory ? memory + at * PAGE : buffer;
        /* The kernel maps sixteen pages at a fault. Before the copy, because no look-ahead reaches what is not mapped. */
        for (size_t n = 0; memory && n < count; n += 16)
            (void)*(const volatile char *)(from + n * PAGE);
        for (size_t n = 0; n < count && !error; n++)
            sums[at + n] = htole32(copy_page(to + (at + n) * PAGE, from + n * PAGE, hardware));
    }
#if X86
    _mm_sfence();
#endif
    free(buffer);
    return error;
}

typedef struct {
    int fd, hardware, error;
    int64_t offset;
    const char *memory;
    char *to;
    size_t pages;
    uint32_t *sums;
} reading;

static void *read_part(void *part) {
    reading *r = part;
    r->error = read_pages(r->fd, r->offset, r->memory, r->to, r->pages, r->sums, r->hardware);
    return NULL;
}

/* As above, in `threads` of about equal parts (1 or 2): one thread does not use up the memory's speed. */
static int emu_pages_read(int fd, int64_t offset, const void *memory, void *to, size_t pages, uint32_t *sums, int threads,
                          int hardware) {
    size_t half = threads > 1 && pages * PAGE >= 2 * PIECE ? pages / 2 : 0, bytes = half * PAGE;
    const char *from = memory;
    reading second = {fd, hardware, 0, offset + bytes, from ? from + bytes : NULL, (char *)to + bytes, pages - half,
                      sums + half};
    pthread_t thread;
    if (!half || pthread_create(&thread, NULL, read_part, &second))
        return read_pages(fd, offset, from, to, pages, sums, hardware);
    int error = read_pages(fd, offset, from, to, half, sums, hardware);
    pthread_join(thread, NULL);
    return error ? error : second.error;
}

/* Store the pages of `buffer` that are not zero, and note in `zero` which are. */
static int write_data(int fd, const char *buffer, int64_t offset, size_t pages, uint8_t *zero) {
    for (size_t n = 0; n < pages; n++)
        zero[n] = (uint8_t)emu_is_zero(buffer + n * PAGE, PAGE);
    for (size_t n = 0, end; n < pages; n = end) {
        for (end = n + 1; end < pages && zero[end] == zero[n]; end++)
            ;
        int error = zero[n] ? 0 : write_all(fd, buffer + n * PAGE, (end - n) * PAGE, offset + n * PAGE);
        if (error)
            return error;
    }
    return 0;
}

/* Copy pages from file to file and sum what was written. Zero pages are noted in `zero`, and not written. *reading says
 * which of the two an error is of. */
static int emu_pages_copy(int from, int64_t offset, int to, int64_t to_offset, size_t pages, uint32_t *sums,
                          uint8_t *zero, int *reading, int hardware) {
    char *buffer = aligned_alloc(PAGE, PIECE);
    int error = buffer ? 0 : -ENOMEM;
    for (size_t at = 0; at < pages && !error; at += PIECE / PAGE) {
        size_t piece = pages - at < PIECE / PAGE ? pages - at : PIECE / PAGE;
        *reading = 1;
        error = read_all(from, buffer, piece * PAGE, offset + at * PAGE);
        if (error)
            break;
        emu_pages_sum(buffer, piece, sums + at, hardware);
        *reading = 0;
        error = write_data(to, buffer, to_offset + at * PAGE, piece, zero + at);
    }
    free(buffer);
    return error;
}
