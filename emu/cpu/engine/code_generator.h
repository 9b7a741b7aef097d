/*
 * The library's code generator, as far as the log of stores uses it: its functions, and its numbers of operations, which are
 * looked up by their names.
 *
 * Part of _trace.csrc.c.
 */
#include "observer.h"

#include <malloc.h>
#include <sys/uio.h>

enum { OPCODE_NAMES = 6, LTU = 4, NOT_EQUAL = 9, TYPE_I64 = 1 };

/* The library's numbers of operations, by name. */
static const char *const opcode_names[OPCODE_NAMES] = {"ld_i64", "st_i64", "add_i64", "sub_i64", "and_i64", "set_label"};
static struct { bool found; int number[OPCODE_NAMES]; } operations;
enum { LOAD, STORE, ADD, SUBTRACT, AND, SET_LABEL };

static struct {
    value (*constant)(context *, int64_t);
    value (*constant32)(context *, int32_t);
    void *(*reserve)(context *, int, bool);
    void (*release)(context *, void *);
    void (*emit)(context *, int, uintptr_t, uintptr_t, uintptr_t);
    void (*emit_short)(context *, int, uintptr_t);
    void *(*new_label)(context *);
    void (*branch)(context *, int, value, value, void *label);
    void (*add)(context *, value, value, int64_t);
    void (*and)(context *, value, value, int64_t);
    void (*shift_left)(context *, value, value, int64_t);
    void (*shift_right)(context *, value, value, int64_t);
    void (*set_if)(context *, int, value, value, value);
    void (*extend32)(context *, value, value);
    void (*call)(void *uc, void *hook, void **arguments, int count);
    void (*forget_addresses)(void *cpu);
    void (*forget_address)(void *cpu, uint64_t address);
    bool (*restore)(void *cpu, uintptr_t caller, bool leaving);
} generator;

/* What the library takes for a hook whose callback is called straight from translated code. */
struct inline_hook { int type, instruction, references, op, op_flags; bool to_delete; uint64_t begin, end; void *callback, *user; };

static void *variable(context *s, value v) { return (uint8_t *)s + v; }
static value value_of(context *s, void *variable) { return (value)((uint8_t *)variable - (uint8_t *)s); }

static bool peek(const void *from, void *into, size_t size)
{
    struct iovec local = {into, size}, remote = {(void *)from, size};
    return process_vm_readv(getpid(), &local, 1, &remote, 1, 0) == (ssize_t)size;
}

static bool belongs_to(const void *uc, const void *generator_of_code)
{
    size_t words = malloc_usable_size((void *)uc) / sizeof(void *);
    for (size_t n = 0; n < words; n++)
        if (((const void *const *)uc)[n] == generator_of_code)
            return true;
    return false;
}

/*
 * The numbers of operations, from the table of their descriptions, which begin with their names: it is found in the code
 * generator by the first one's.
 */
int emu_trace_learn_generator(const emu_trace *t, const void *generator_of_code)
{
    enum { DESCRIPTION = 32, MOST = 512 };
    static const char first[] = "discard", second[] = "set_label";
    const uint8_t *s = generator_of_code;
    size_t size;
    if (!belongs_to(t->uc, s))
        return 0;
    size = malloc_usable_size((void *)generator_of_code);
    for (size_t at = 0; at + sizeof(void *) <= size; at += sizeof(void *)) {
        const uint8_t *table = *(const uint8_t *const *)(s + at);
        const char *name;
        char text[sizeof second];
        int found = 0;
        if ((uintptr_t)table < 4096 || (uintptr_t)table >> 47 || (uintptr_t)table % sizeof(void *) ||
            !peek(table, &name, sizeof name) || (uintptr_t)name < 4096 || !peek(name, text, sizeof first) ||
            memcmp(text, first, sizeof first) || !peek(table + DESCRIPTION, &name, sizeof name) ||
            !peek(name, text, sizeof second) || memcmp(text, second, sizeof second))
            continue;
        for (int n = 0; n < MOST && found < OPCODE_NAMES; n++) {
            if (!peek(table + (size_t)n * DESCRIPTION, &name, sizeof name) || !peek(name, text, sizeof text))
                break;
            text[sizeof text - 1] = 0;
            for (int wanted = 0; wanted < OPCODE_NAMES; wanted++)
                if (!strcmp(text, opcode_names[wanted])) {
                    operations.number[wanted] = n;
                    found++;
                }
        }
        return operations.found = found == OPCODE_NAMES;
    }
    return 0;
}

static const char *bind_log(void *handle)
{
    static const struct wanted wanted[] = {
        {"tcg_const_i64", &generator.constant},
        {"tcg_const_i32", &generator.constant32},
        {"tcg_temp_new_internal", &generator.reserve},
        {"tcg_temp_free_internal", &generator.release},
        {"tcg_gen_op3", &generator.emit},
        {"tcg_gen_op1", &generator.emit_short},
        {"gen_new_label", &generator.new_label},
        {"tcg_gen_brcond_i64", &generator.branch},
        {"tcg_gen_addi_i64", &generator.add},
        {"tcg_gen_andi_i64", &generator.and},
        {"tcg_gen_shli_i64", &generator.shift_left},
        {"tcg_gen_shri_i64", &generator.shift_right},
        {"tcg_gen_setcond_i64", &generator.set_if},
        {"tcg_gen_extu_i32_i64", &generator.extend32},
        {"uc_add_inline_hook", &generator.call},
        {"tlb_flush", &generator.forget_addresses},
        {"tlb_flush_page", &generator.forget_address},
        {"cpu_restore_state", &generator.restore},
    };
    return LOOK_UP(handle, wanted);
}
