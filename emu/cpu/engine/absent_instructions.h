/*
 * Encodings that the decoder takes for others: VEX-encoded SSE would run as SSE with two operands, XOP as POP, XBEGIN as
 * MOV, SSE4A although CPUID does not name it, and LOCK is ignored before some that do not take it. The decoder is shown
 * UD2 in their place.
 *
 * Part of _system.csrc.c.
 */

static __thread uint64_t hidden_at;
static __thread bool hiding;
static operations ours;
static void (*translate)(disassembly *, void *cpu);

uint32_t NAME(cpu_ldub_code)(environment *env, uint64_t address)
{
    static const uint8_t ud2[] = {0x0f, 0x0b};
    if (hiding && address - hidden_at < sizeof ud2)
        return ud2[address - hidden_at];
    return library.fetch(env, address);
}

static bool is_prefix(uint8_t byte, bool code64)
{
    switch (byte) {
    case 0x26: case 0x2e: case 0x36: case 0x3e: case 0x64: case 0x65: case 0x66: case 0x67: case 0xf0: case 0xf2: case 0xf3:
        return true;
    default:
        return code64 && (byte & 0xf0) == 0x40;
    }
}

/*
 * How many bytes it took to see that the instruction at pc, whose opcode is at n, takes no LOCK (SDM volume 2, LOCK: what
 * reads and writes one operand in memory does); 0 if it takes it.
 */
static unsigned not_lockable(environment *env, uint64_t pc, unsigned n)
{
    enum { NONE = 0, ANY = 0xff }; /* values of ModRM.reg, one bit each */
    uint8_t opcode = (uint8_t)library.peek(env, pc + n++), modrm, allowed = NONE;
    if (opcode == 0x0f) {
        opcode = (uint8_t)library.peek(env, pc + n++);
        switch (opcode) {
        case 0xab: case 0xb3: case 0xbb: case 0xb0: case 0xb1: case 0xc0: case 0xc1: /* BTS, BTR, BTC, CMPXCHG, XADD */
            allowed = ANY;
            break;
        case 0xba: /* BTS, BTR, BTC */
            allowed = 0xe0;
            break;
        case 0xc7: /* CMPXCHG8B, CMPXCHG16B */
            allowed = 0x02;
            break;
        }
    } else if (opcode < 0x38 && (opcode & 6) == 0) /* ADD, OR, ADC, SBB, AND, SUB, XOR */
        allowed = ANY;
    else
        switch (opcode) {
        case 0x80: case 0x81: case 0x82: case 0x83: /* the same */
            allowed = 0x7f;
            break;
        case 0x86: case 0x87: /* XCHG */
            allowed = ANY;
            break;
        case 0xf6: case 0xf7: /* NOT, NEG */
            allowed = 0x0c;
            break;
        case 0xfe: case 0xff: /* INC, DEC */
            allowed = 0x03;
            break;
        }
    if (allowed == NONE)
        return n;
    modrm = (uint8_t)library.peek(env, pc + n++);
    return modrm < 0xc0 && allowed >> (modrm >> 3 & 7) & 1 ? 0 : n;
}

/*
 * How many bytes it took to see that the instruction at pc is none; 0 for any other instruction. Reads no byte that the
 * instruction does not have.
 */
static unsigned absent(environment *env, uint64_t pc, uint32_t flags)
{
    bool code64 = flags & HF_CS64;
    unsigned n = 0;
    uint8_t byte, second, opcode;
    bool repeat = false, locked = false;
    while (is_prefix(byte = (uint8_t)library.peek(env, pc + n), code64) && n < 14) {
        repeat |= byte == 0xf2 || byte == 0xf3;
        locked |= byte == 0xf0;
        n++;
    }
    if (locked)
        return not_lockable(env, pc, n);
    if (byte == 0x0f) { /* SSE4A: EXTRQ and INSERTQ, MOVNTSS and MOVNTSD */
        opcode = (uint8_t)library.peek(env, pc + n + 1);
        return opcode == 0x78 || opcode == 0x79 || (opcode == 0x2b && repeat) ? n + 2 : 0;
    }
    if (byte == 0x8f || byte == 0xc6 || byte == 0xc7) /* POP and MOV are /0; others are XOP, XABORT and XBEGIN */
        return (uint8_t)library.peek(env, pc + n + 1) & 0x38 ? n + 2 : 0;
    if ((byte != 0xc4 && byte != 0xc5) || !(flags & HF_CS32) || flags & FLAG_VM)
        return 0;
    second = (uint8_t)library.peek(env, pc + n + 1);
    if (!code64 && (second & 0xc0) != 0xc0) /* LES, LDS */
        return 0;
    if (byte == 0xc5)
        return n + 2;
    opcode = (uint8_t)library.peek(env, pc + n + 3);
    switch (second & 0x1f) {
    case 2: /* BMI1 and BMI2 are what has VEX without being AVX */
        return opcode == 0xf2 || opcode == 0xf3 || (opcode >= 0xf5 && opcode <= 0xf7) ? 0 : n + 4;
    case 3:
        return opcode == 0xf0 ? 0 : n + 4;
    default:
        return n + 4;
    }
}

static void translate_or_hide(disassembly *d, void *cpu)
{
    emu_system *s = by_cpu(cpu);
    uint64_t pc = d->next;
    unsigned length = s ? absent(s->env, pc, U32(d->block, 16)) : 0;
    hidden_at = pc;
    hiding = length > 0;
    translate(d, cpu);
    hiding = false;
    if (length) /* The block depends on all the bytes that were looked at. */
        d->next = pc + length;
}

void NAME(translator_loop)(const operations *theirs, disassembly *d, void *cpu, void *block, int max_instructions)
{
    emu_system *s = by_cpu(cpu);
    /* A fault while code was fetched has left through a jump. */
    hiding = false;
    if (!s) {
        library.loop(theirs, d, cpu, block, max_instructions);
        return;
    }
    translate = theirs->translate;
    ours = *theirs;
    ours.translate = translate_or_hide;
    library.loop(&ours, d, cpu, block, s->instruction_blocks ? 1 : max_instructions);
}
