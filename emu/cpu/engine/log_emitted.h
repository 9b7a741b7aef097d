/*
 * What is added to the guest's code while it is translated, so that it writes the log.
 *
 * Part of _trace.csrc.c.
 */

static void emit_call(store_log *log, context *s, void *function, uint64_t pc, void *user)
{
    value constants[] = {generator.constant(s, (int64_t)(uintptr_t)log->trace->uc), generator.constant(s, (int64_t)pc),
                         generator.constant32(s, 0), generator.constant(s, (int64_t)(uintptr_t)user)};
    struct inline_hook hook = {.type = HOOK_CODE, .callback = function, .user = user};
    void *arguments[4];
    for (int n = 0; n < 4; n++)
        arguments[n] = variable(s, constants[n]);
    generator.call(log->trace->uc, &hook, arguments, 4);
    for (int n = 0; n < 4; n++)
        generator.release(s, arguments[n]);
}

static void load(context *s, void *into, void *base, ptrdiff_t at)
{
    generator.emit(s, operations.number[LOAD], (uintptr_t)into, (uintptr_t)base, (uintptr_t)at);
}

static void store(context *s, value from, void *base, ptrdiff_t at)
{
    generator.emit(s, operations.number[STORE], (uintptr_t)variable(s, from), (uintptr_t)base, (uintptr_t)at);
}

/* What the log is at `displacement` from. */
static void *log_base(const store_log *log, context *s)
{
    return variable(s, log->displacement ? log->observer.environment : generator.constant(s, (int64_t)(uintptr_t)log));
}

static void release_base(const store_log *log, context *s, void *base)
{
    if (!log->displacement)
        generator.release(s, base);
}

static void load_field(const store_log *log, context *s, void *into, void *base, size_t field)
{
    load(s, into, base, log->displacement + (ptrdiff_t)field);
}

static void store_field(const store_log *log, context *s, value from, void *base, size_t field)
{
    store(s, from, base, log->displacement + (ptrdiff_t)field);
}

/* into = a (operation) b */
static void compute(context *s, int operation, void *into, void *a, void *b)
{
    generator.emit(s, operations.number[operation], (uintptr_t)into, (uintptr_t)a, (uintptr_t)b);
}

/* At the begin of a block, which may have labels yet: no variable is in use. */
static void emit_look_for_room(store_log *log, context *s, uint64_t pc)
{
    void *base = log_base(log, s), *next = generator.reserve(s, TYPE_I64, false),
         *soft = generator.reserve(s, TYPE_I64, false), *enough = generator.new_label(s);
    load_field(log, s, next, base, offsetof(store_log, next));
    load_field(log, s, soft, base, offsetof(store_log, soft));
    generator.branch(s, LTU, value_of(s, next), value_of(s, soft), enough);
    release_base(log, s, base);
    generator.release(s, next);
    generator.release(s, soft);
    emit_call(log, s, (void *)at_soft_end, pc, log);
    generator.emit_short(s, operations.number[SET_LABEL], (uintptr_t)enough);
}

/* Append an entry without data. */
static void emit_entry(store_log *log, context *s, uint32_t number)
{
    value meta = generator.constant(s, (int64_t)((uint64_t)number << ORIGIN_AT)), zero = generator.constant(s, 0);
    void *base = log_base(log, s), *place = generator.reserve(s, TYPE_I64, false);
    load_field(log, s, place, base, offsetof(store_log, next));
    store(s, zero, place, offsetof(packed, value));
    store(s, meta, place, offsetof(packed, meta));
    generator.add(s, value_of(s, place), value_of(s, place), sizeof(packed));
    store_field(log, s, value_of(s, place), base, offsetof(store_log, next));
    generator.release(s, place);
    release_base(log, s, base);
    generator.release(s, variable(s, zero));
    generator.release(s, variable(s, meta));
    log->here++;
}

/* Instructions that may store in functions of the library tell them what they are. */
static void emit_announcement(store_log *log, context *s, uint32_t number)
{
    value announced = generator.constant(s, number);
    void *base = log_base(log, s);
    store_field(log, s, announced, base, offsetof(store_log, announced));
    release_base(log, s, base);
    generator.release(s, variable(s, announced));
}

/* `ranges` of opcodes, each its first and its last. */
static bool in_ranges(const uint8_t *ranges, uint8_t opcode)
{
    for (; ranges[1]; ranges += 2)
        if (opcode >= ranges[0] && opcode <= ranges[1])
            return true;
    return false;
}

/*
 * Whether Capstone has to be asked about the instruction whose first bytes these are: all but the common ones that do
 * nothing more than compute, jump, load, or store once.
 */
static bool may_matter(const uint8_t *code, unsigned size)
{
    static const uint8_t plain[] = {
        0x00, 0x05, 0x08, 0x0d, 0x10, 0x15, 0x18, 0x1d, 0x20, 0x25, 0x28, 0x2d, 0x30, 0x35, 0x38, 0x3d, 0x50, 0x5f,
        0x63, 0x63, 0x68, 0x6b, 0x70, 0x7f, 0x80, 0x81, 0x83, 0x85, 0x88, 0x8b, 0x8d, 0x8d, 0x90, 0x99, 0x9c, 0xaf,
        0xb0, 0xbf, 0xc2, 0xc3, 0xc9, 0xc9, 0xcc, 0xcd, 0xe0, 0xe9, 0xeb, 0xef, 0xf4, 0xf5, 0xf8, 0xfd, 0, 0};
    static const uint8_t plain_0f[] = {0x1f, 0x1f, 0x40, 0x4f, 0x80, 0x9f, 0xa0, 0xa0, 0xa2, 0xa3, 0xa8, 0xa8,
                                       0xaf, 0xaf, 0xb6, 0xb7, 0xbe, 0xbf, 0xc8, 0xcf, 0, 0};
    unsigned n = 0, reg;
    while (n < size && (code[n] == 0x66 || code[n] == 0x64 || code[n] == 0x65))
        n++;
    if (n < size && (code[n] & 0xf0) == 0x40)
        n++;
    if (n + 2 > size)
        return true;
    reg = code[n + 1] >> 3 & 7;
    switch (code[n]) {
    case 0x0f:
        return !in_ranges(plain_0f, code[n + 1]);
    case 0x8f: case 0xc6: case 0xc7:
        return reg != 0;
    case 0xc0: case 0xc1: case 0xd0: case 0xd1: case 0xd2: case 0xd3:
        return reg == 6;
    case 0xf6: case 0xf7:
        return reg == 1;
    case 0xfe:
        return reg > 1;
    case 0xff:
        return reg == 3 || reg == 5 || reg == 7;
    default:
        return !in_ranges(plain, code[n]);
    }
}

static bool is_called_for(const emu_trace_site *s)
{
    return s->site & (EMU_SITE_FLUSH | EMU_SITE_CAS | EMU_SITE_CAS_PAIR);
}

/* Where the page of code lies; its walk is one of what the guest reads. */
static void find_code(store_log *log)
{
    emu_trace *t = log->trace;
    const region *r = translate(t, log->code_page, &log->code_gpa) ? region_of(t, log->code_gpa) : NULL;
    log->code = r ? r->host + (log->code_gpa - r->gpa) : NULL;
}

/*
 * Where reads are watched: more than the instruction may have, as a processor fetches more. `here` of it is on its own
 * page, whose place is known.
 */
static void note_fetch(store_log *log, unsigned here)
{
    if (log->code)
        note_coming_read(log->trace, 0, log->code_gpa + log->pc % PAGE, here);
    for (unsigned n = here; n < LONGEST; n += 8)
        read_linear(log->trace, 0, log->pc + n, LONGEST - n < 8 ? LONGEST - n : 8);
}

/* Addresses below are those of programs. */
#define LOWER_HALF (1ull << 47)

static void on_instruction(emu_observer *observer, context *s, uint64_t pc, bool first)
{
    store_log *log = (store_log *)observer;
    emu_trace *t = log->trace;
    unsigned left = PAGE - (unsigned)(pc % PAGE);
    if (first) {
        log->here = 0;
        log->code_page = EMU_TRACE_NOWHERE;
        emit_look_for_room(log, s, pc);
    }
    if (log->here > log->most) {
        log->most = log->here;
        set_soft_end(log);
    }
    if (log->code_page != (pc & -(uint64_t)PAGE)) {
        log->code_page = pc & -(uint64_t)PAGE;
        find_code(log);
        if (t->sees_pages && pc < LOWER_HALF)
            emu_trace_new_page(t->owner, pc);
    }
    log->pc = pc;
    log->piece = 0;
    log->site = NULL;
    if (t->watch)
        note_fetch(log, left < LONGEST ? left : LONGEST);
    if (!log->code || may_matter(log->code + pc % PAGE, left < LONGEST ? left : LONGEST))
        log->site = emu_trace_new_instruction(t->owner, pc);
    if (!log->site || (log->site->site & EMU_SITE_SPECIAL && log->site->detail == EMU_SPECIAL_PAGING))
        return;
    if (is_called_for(log->site)) {
        log->here++;
        emit_call(log, s, (void *)at_site, pc, log->site);
    } else if (log->site->site & (EMU_SITE_FENCE | EMU_SITE_LOCKED | EMU_SITE_SPECIAL))
        emit_entry(log, s, origin_of(log, pc, log->site, AT_SITE, 0, false));
    else if (!(log->site->site & EMU_SITE_REP)) /* it may store in a function of the library */
        emit_announcement(log, s, origin_of(log, pc, log->site, BEGINS, 0, false));
}

static int on_storing(emu_observer *observer, int access)
{
    store_log *log = (store_log *)observer;
    log->origin = origin_of(log, log->pc, log->site, BY_CODE, log->piece, access & ACCESS_SWAP);
    if (log->piece < UINT8_MAX)
        log->piece++;
    return access | (int)(log->origin << SITE_IN_ACCESS);
}

/*
 * Before the entry for an iteration of a REP instruction, one that says that the instruction begins: unless the iteration
 * before was one of the same instruction, and had one more to go. `inside` is what `place` grows by if there is a window.
 */
static void emit_beginning(store_log *log, context *s, void *base, void *place, void *inside)
{
    /* An instruction's number above all counts that are ever reached. */
    uint64_t mark = (uint64_t)origin_of(log, log->pc, log->site, BEGINS, 0, false) << ORIGIN_AT;
    value meta = generator.constant(s, (int64_t)mark);
    void *count = generator.reserve(s, TYPE_I64, false), *begins = generator.reserve(s, TYPE_I64, false);
    generator.and(s, value_of(s, count), log->observer.count, (int64_t)log->site->address_mask);
    compute(s, ADD, count, count, variable(s, meta));
    load_field(log, s, begins, base, offsetof(store_log, rep_next));
    generator.set_if(s, NOT_EQUAL, value_of(s, begins), value_of(s, begins), value_of(s, count));
    generator.shift_left(s, value_of(s, begins), value_of(s, begins), PACKED_BITS);
    compute(s, AND, begins, begins, inside);
    generator.add(s, value_of(s, count), value_of(s, count), -1);
    store_field(log, s, value_of(s, count), base, offsetof(store_log, rep_next));
    store(s, meta, place, offsetof(packed, meta));
    compute(s, ADD, place, place, begins);
    generator.release(s, begins);
    generator.release(s, count);
    generator.release(s, variable(s, meta));
    log->here++;
}

static void on_stored(emu_observer *observer, context *s, value from, value address, int access, bool narrow)
{
    store_log *log = (store_log *)observer;
    uint64_t last = (1u << (access & ACCESS_SIZE)) - 1;
    value page_size = generator.constant(s, PAGE),
          meta = generator.constant(s, (int64_t)(last << SIZE_AT | (uint64_t)log->origin << ORIGIN_AT));
    void *base = log_base(log, s), *place = generator.reserve(s, TYPE_I64, false), *at = generator.reserve(s, TYPE_I64, false),
         *inside = generator.reserve(s, TYPE_I64, false), *wide = NULL;
    if (narrow) {
        wide = generator.reserve(s, TYPE_I64, false);
        generator.extend32(s, value_of(s, wide), from);
        from = value_of(s, wide);
    }
    load_field(log, s, place, base, offsetof(store_log, next));
    generator.shift_right(s, value_of(s, at), address, PAGE_BITS - WINDOW_BITS);
    generator.and(s, value_of(s, at), value_of(s, at), (WINDOWS - 1) << WINDOW_BITS);
    compute(s, ADD, at, at, base);
    load_field(log, s, inside, at, offsetof(store_log, windows) + offsetof(window, page));
    load_field(log, s, at, at, offsetof(store_log, windows) + offsetof(window, offset));
    compute(s, SUBTRACT, inside, variable(s, address), inside);
    compute(s, ADD, at, at, inside);
    compute(s, ADD, at, at, variable(s, meta));
    generator.set_if(s, LTU, value_of(s, inside), value_of(s, inside), page_size);
    generator.shift_left(s, value_of(s, inside), value_of(s, inside), PACKED_BITS);
    if (begins_rep(log->site, log->origins[log->origin].piece))
        emit_beginning(log, s, base, place, inside);
    store(s, from, place, offsetof(packed, value));
    store(s, value_of(s, at), place, offsetof(packed, meta));
    compute(s, ADD, place, place, inside);
    store_field(log, s, value_of(s, place), base, offsetof(store_log, next));
    if (wide)
        generator.release(s, wide);
    generator.release(s, inside);
    generator.release(s, at);
    generator.release(s, place);
    generator.release(s, variable(s, meta));
    generator.release(s, variable(s, page_size));
    release_base(log, s, base);
    log->here++;
}
