/*
 * The whole x87 state of the guest at once: instructions that are executed with all of it on the host (FRSTOR, FNSAVE:
 * SDM volume 1, figure 8-9), and those that keep it in memory.
 *
 * Part of _x87.csrc.c.
 */

struct __attribute__((packed)) image {
    uint32_t control, status, tags, ip, selector, address, data_selector;
    struct __attribute__((packed)) { uint64_t fraction; uint16_t exponent; } st[8];
};

static void load_image(environment *env, struct image *image)
{
    memset(image, 0, sizeof *image);
    image->control = *control(env);
    image->status = (*status(env) & ~(7u << TOP_SHIFT)) | *top(env) << TOP_SHIFT;
    for (int n = 0; n < 8; n++) {
        image->tags |= (env[at.tags + (size_t)n] ? 3u : 0u) << 2 * n;
        memcpy(&image->st[n], st(env, n), 10);
    }
}

static void store_environment(environment *env, const struct image *image)
{
    *status(env) = (uint16_t)(image->status & ~(7u << TOP_SHIFT));
    *top(env) = image->status >> TOP_SHIFT & 7;
    for (int n = 0; n < 8; n++)
        env[at.tags + (size_t)n] = (image->tags >> 2 * n & 3) == 3;
}

static void store_image(environment *env, const struct image *image)
{
    store_environment(env, image);
    for (int n = 0; n < 8; n++)
        memcpy(st(env, n), &image->st[n], 10);
}

#define WHOLE(helper, instruction)                                                                                    \
    void HELPER(helper)(environment *env)                                                                             \
    {                                                                                                                 \
        struct image image;                                                                                           \
        if (*status(env) & ~*control(env) & EXCEPTIONS) /* the host would raise what the guest has pending */         \
            return;                                                                                                   \
        load_image(env, &image);                                                                                      \
        __asm__ volatile("frstor %0; " instruction "; fnsave %0" : "+m"(image));                                      \
        store_image(env, &image);                                                                                     \
    }

WHOLE(fxam_ST0, "fxam")
WHOLE(f2xm1, "f2xm1")
WHOLE(fyl2x, "fyl2x")
WHOLE(fyl2xp1, "fyl2xp1")
WHOLE(fptan, "fptan")
WHOLE(fpatan, "fpatan")
WHOLE(fxtract, "fxtract")
WHOLE(fprem, "fprem")
WHOLE(fprem1, "fprem1")
WHOLE(fsin, "fsin")
WHOLE(fcos, "fcos")
WHOLE(fsincos, "fsincos")
WHOLE(fscale, "fscale")

/* A new control word can make a pending exception count, or no longer count; its reserved bits stay as they are. */
void HELPER(fldcw)(environment *env, uint32_t value)
{
    *control(env) = (value & CONTROL_BITS) | CONTROL_ALWAYS;
    *status(env) &= (uint16_t)~(SUMMARY | BUSY);
    if (*status(env) & ~*control(env) & EXCEPTIONS)
        *status(env) |= SUMMARY | BUSY;
}

/* The environment is the first part of an image, the state all of it. Forms with 16 bits are left to the library. */
enum { ENVIRONMENT_SIZE = 28 };

static void transfer_out(environment *env, const struct image *image, uint64_t address, size_t size, uintptr_t caller)
{
    for (size_t n = 0; n + 4 <= size; n += 4) {
        uint32_t word;
        memcpy(&word, (const uint8_t *)image + n, 4);
        library.store4(env, address + n, word, caller);
    }
}

static void transfer_in(environment *env, struct image *image, uint64_t address, size_t size, uintptr_t caller)
{
    for (size_t n = 0; n + 4 <= size; n += 4) {
        uint32_t word = library.load4(env, address + n, caller);
        memcpy((uint8_t *)image + n, &word, 4);
    }
}

void HELPER(fstenv)(environment *env, uint64_t address, int wide)
{
    struct image image;
    if (!wide) {
        library.store_environment16(env, address, 0);
        return;
    }
    load_image(env, &image);
    __asm__ volatile("frstor %0; fnsave %0" : "+m"(image));
    transfer_out(env, &image, address, ENVIRONMENT_SIZE, CALLER);
    HELPER(fldcw)(env, *control(env) | EXCEPTIONS);
}

void HELPER(fsave)(environment *env, uint64_t address, int wide)
{
    struct image image;
    if (!wide) {
        library.store_state16(env, address, 0);
        return;
    }
    load_image(env, &image);
    __asm__ volatile("frstor %0; fnsave %0" : "+m"(image));
    transfer_out(env, &image, address, sizeof image, CALLER);
    library.initialize(env);
}

void HELPER(fldenv)(environment *env, uint64_t address, int wide)
{
    struct image image;
    if (!wide) {
        library.load_environment16(env, address, 0);
        return;
    }
    transfer_in(env, &image, address, ENVIRONMENT_SIZE, CALLER);
    store_environment(env, &image);
    HELPER(fldcw)(env, image.control);
}

void HELPER(frstor)(environment *env, uint64_t address, int wide)
{
    struct image image;
    if (!wide) {
        library.load_state16(env, address, 0);
        return;
    }
    transfer_in(env, &image, address, sizeof image, CALLER);
    store_image(env, &image);
    HELPER(fldcw)(env, image.control);
}
