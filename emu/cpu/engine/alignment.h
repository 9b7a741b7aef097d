/*
 * Loads and stores of translated code: what must be aligned is asked for as such, and refused where it is not; stores are
 * told to who watches.
 *
 * Part of _translate.csrc.c.
 */

/*
 * Asking for alignment costs nothing where the operand is aligned: the fast path's comparison of the page covers the low
 * bits as well. What is not aligned comes to the functions below.
 */
static int with_alignment(int access)
{
    if (now.align) {
        now.align = false;
        return access | ALIGN_16;
    }
    return block.check_alignment && access & ACCESS_SIZE ? access | ALIGN_NATURAL : access;
}

static int of_store(int access)
{
    access = with_alignment(access);
    return block.observer ? block.observer->storing(block.observer, access) : access;
}

void NAME(tcg_gen_qemu_ld_i64)(context *s, value result, value address, intptr_t index, int access)
{
    library.load64(s, result, address, index, with_alignment(access));
}

void NAME(tcg_gen_qemu_st_i64)(context *s, value from, value address, intptr_t index, int access)
{
    access = of_store(access);
    library.store64(s, from, address, index, access);
    if (block.observer)
        block.observer->stored(block.observer, s, from, address, access, false);
}

void NAME(tcg_gen_qemu_ld_i32)(context *s, value result, value address, intptr_t index, int access)
{
    library.load32(s, result, address, index, with_alignment(access));
}

void NAME(tcg_gen_qemu_st_i32)(context *s, value from, value address, intptr_t index, int access)
{
    access = of_store(access);
    library.store32(s, from, address, index, access);
    if (block.observer)
        block.observer->stored(block.observer, s, from, address, access, true);
}

/* The access without its demand; raises #GP or, where CR0.AM says so, #AC when that is not met. */
static uint32_t checked(environment *env, uint64_t address, uint32_t access, uintptr_t caller)
{
    uint32_t wanted = access >> ACCESS_SHIFT & ALIGN_NATURAL;
    unsigned bits = wanted == ALIGN_NATURAL ? access >> ACCESS_SHIFT & ACCESS_SIZE : wanted >> ACCESS_SHIFT;
    if (address & ((1u << bits) - 1)) {
        if (wanted == ALIGN_16)
            library.raise(env, VECTOR_GP, 0, caller);
        if (library.read_control(env, 0) & CR0_AM)
            library.raise(env, VECTOR_AC, 0, caller);
    }
    return access & ~((uint32_t)ALIGN_NATURAL << ACCESS_SHIFT);
}

#define READ(original, name)                                                                                          \
    uint64_t NAME(name)(environment *env, uint64_t address, uint32_t access, uintptr_t caller)                        \
    {                                                                                                                 \
        return library.original(env, address, checked(env, address, access, caller), caller);                       \
    }

#define WRITE(original, bits, name)                                                                                   \
    void NAME(name)(environment *env, uint64_t address, uint##bits##_t data, uint32_t access, uintptr_t caller)       \
    {                                                                                                                 \
        library.original(env, address, data, checked(env, address, access, caller), caller);                       \
        if (crosses_page(address, bits / 8) && observer_in(env))                                                      \
            emu_observed->crossed(emu_observed, address, data, bits / 8, access);                                     \
    }

READ(read16, helper_le_lduw_mmu)
READ(read32, helper_le_ldul_mmu)
READ(read64, helper_le_ldq_mmu)
READ(read_swapped16, helper_be_lduw_mmu)
READ(read_swapped32, helper_be_ldul_mmu)
READ(read_swapped64, helper_be_ldq_mmu)
WRITE(write16, 16, helper_le_stw_mmu)
WRITE(write32, 32, helper_le_stl_mmu)
WRITE(write64, 64, helper_le_stq_mmu)
WRITE(write_swapped16, 16, helper_be_stw_mmu)
WRITE(write_swapped32, 32, helper_be_stl_mmu)
WRITE(write_swapped64, 64, helper_be_stq_mmu)
