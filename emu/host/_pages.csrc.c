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
#include <unistd.h>

#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>
#define X86 1
#else
#define X86 0
#endif

enum { PAGE = 4096, PIECE = 64 * PAGE }; /* a piece stays in the second-level cache between its copy and its sum */

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
 * Three stripes are a page less two words. */
enum { STRIPE = 1360 };
static uint32_t past_stripe[4][256];
static pthread_once_t past_stripe_once = PTHREAD_ONCE_INIT;

__attribute__((target("sse4.2"))) static void past_stripe_fill(void) {
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

static uint64_t word_at(const unsigned char *at) {
    uint64_t word;
    memcpy(&word, at, 8);
    return word;
}

__attribute__((target("sse4.2"))) static uint32_t crc_hardware(uint32_t crc, const unsigned char *at, size_t size) {
    uint64_t first = crc;
    pthread_once(&past_stripe_once, past_stripe_fill);
    for (; size >= 3 * STRIPE; at += 3 * STRIPE, size -= 3 * STRIPE) {
        uint64_t second = 0, third = 0;
        for (size_t n = 0; n < STRIPE; n += 8) {
            first = _mm_crc32_u64(first, word_at(at + n));
            second = _mm_crc32_u64(second, word_at(at + STRIPE + n));
            third = _mm_crc32_u64(third, word_at(at + 2 * STRIPE + n));
        }
        first = move_past_stripe(move_past_stripe((uint32_t)first) ^ (uint32_t)second) ^ third;
    }
    for (; size >= 8; at += 8, size -= 8)
        first = _mm_crc32_u64(first, word_at(at));
    crc = (uint32_t)first;
    for (; size; at++, size--)
        crc = _mm_crc32_u8(crc, *at);
    return crc;
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

/* Read pages of a file to `to`, and sum what is there then. */
static int emu_pages_read(int fd, int64_t offset, void *to, size_t pages, uint32_t *sums, int hardware) {
    for (size_t size = pages * PAGE, at = 0; at < size; at += PIECE) {
        size_t piece = size - at < PIECE ? size - at : PIECE;
        int error = read_all(fd, (char *)to + at, piece, offset + at);
        if (error)
            return error;
        emu_pages_sum((char *)to + at, piece / PAGE, sums + at / PAGE, hardware);
    }
    return 0;
}

/* Sum pages of a file. */
static int emu_pages_look(int fd, int64_t offset, size_t pages, uint32_t *sums, int hardware) {
    char *buffer = malloc(PIECE);
    int error = buffer ? 0 : -ENOMEM;
    for (size_t at = 0; at < pages && !error; at += PIECE / PAGE) {
        size_t piece = pages - at < PIECE / PAGE ? pages - at : PIECE / PAGE;
        error = emu_pages_read(fd, offset + at * PAGE, buffer, piece, sums + at, hardware);
    }
    free(buffer);
    return error;
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
    char *buffer = malloc(PIECE);
    int error = buffer ? 0 : -ENOMEM;
    for (size_t at = 0; at < pages && !error; at += PIECE / PAGE) {
        size_t piece = pages - at < PIECE / PAGE ? pages - at : PIECE / PAGE;
        *reading = 1;
        error = emu_pages_read(from, offset + at * PAGE, buffer, piece, sums + at, hardware);
        if (error)
            break;
        *reading = 0;
        error = write_data(to, buffer, to_offset + at * PAGE, piece, zero + at);
    }
    free(buffer);
    return error;
}
