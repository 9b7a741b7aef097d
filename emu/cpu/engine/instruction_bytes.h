/*
 * The instruction that is being translated, as far as its bytes have been read: which of those it is that the library
 * gets wrong, and what it demands.
 *
 * Part of _translate.csrc.c.
 */

static bool in(const uint8_t *ranges, uint8_t opcode)
{
    for (; ranges[1]; ranges += 2)
        if (opcode >= ranges[0] && opcode <= ranges[1])
            return true;
    return false;
}

/*
 * Whether a memory operand of 16 bytes must be aligned (SDM volume 2, exception type 1, 2 and 4 of the legacy forms):
 * ranges of opcodes by map and prefix.
 */
static bool must_be_aligned(void)
{
    static const uint8_t plain[] = {0x14, 0x15, 0x28, 0x29, 0x2b, 0x2b, 0x51, 0x59, 0x5b, 0x5f, 0xc2, 0xc2, 0xc6, 0xc6, 0, 0};
    static const uint8_t with_66[] = {0x14, 0x15, 0x28, 0x29, 0x2b, 0x2d, 0x51, 0x51, 0x54, 0x6d, 0x6f, 0x70, 0x74, 0x76,
                                      0x7c, 0x7d, 0x7f, 0x7f, 0xc2, 0xc2, 0xc6, 0xc6, 0xd0, 0xd5, 0xd8, 0xef, 0xf1, 0xf6,
                                      0xf8, 0xfe, 0, 0};
    static const uint8_t with_f3[] = {0x12, 0x12, 0x16, 0x16, 0x5b, 0x5b, 0x70, 0x70, 0, 0};
    static const uint8_t with_f2[] = {0x70, 0x70, 0x7c, 0x7d, 0xd0, 0xd0, 0xe6, 0xe6, 0, 0};
    static const uint8_t map_38[] = {0x00, 0x17, 0x1c, 0x1e, 0x28, 0x2b, 0x37, 0x41, 0xdb, 0xdf, 0, 0};
    static const uint8_t map_3a[] = {0x08, 0x09, 0x0c, 0x0f, 0x40, 0x44, 0xdf, 0xdf, 0, 0};
    static const uint8_t *const map_0f[] = {plain, with_66, with_f3, with_f2};
    if (now.vex)
        return false;
    switch (now.map) {
    case MAP_0F:
        return in(map_0f[now.prefix], now.opcode);
    case MAP_38:
        return now.prefix == WITH_66 && in(map_38, now.opcode);
    case MAP_3A:
        return now.prefix == WITH_66 && in(map_3a, now.opcode);
    default:
        return false;
    }
}

/* Whether a pending x87 exception comes before this instruction (SDM volume 1, section 8.6). */
static bool waits(void)
{
    static const uint8_t mmx[] = {0x60, 0x6b, 0x6e, 0x77, 0x7e, 0x7f, 0xd1, 0xd5, 0xd7, 0xe5, 0xe7, 0xef, 0xf1, 0xfe, 0, 0};
    bool memory = now.modrm < 0xc0;
    unsigned reg = now.modrm >> 3 & 7;
    if (now.map == MAP_0F)
        return now.prefix == PLAIN && !now.vex && in(mmx, now.opcode);
    if (now.map != MAP_ONE || (now.opcode & 0xf8) != 0xd8)
        return false;
    if (memory)
        return !((now.opcode == 0xd9 || now.opcode == 0xdd) && reg >= 6); /* FNSTENV, FNSTCW, FNSAVE, FNSTSW */
    return !(now.opcode == 0xdb && reg == 4) && !(now.opcode == 0xdf && now.modrm == 0xe0); /* FNCLEX, FNINIT, FNSTSW */
}

static int kind_of(void)
{
    unsigned reg = now.modrm >> 3 & 7;
    if (now.vex && now.map == MAP_38) {
        if (now.opcode == 0xf3 && now.prefix == PLAIN && reg == 3)
            return BLSI;
        if (now.opcode == 0xf5)
            return now.prefix == PLAIN ? BZHI : now.prefix == WITH_F2 ? PDEP : RIGHT;
        if (now.opcode == 0xf7 && now.prefix == PLAIN)
            return BEXTR;
    }
    if (now.map == MAP_0F && now.opcode == 0xb1 && block.code64 && !now.wide && now.prefix != WITH_66)
        return CMPXCHG;
    if (now.map == MAP_ONE && (now.opcode & 0xfe) == 0xf6 && reg == 3 && now.lock)
        return LOCK_NEG;
    return RIGHT;
}

static void call_wait(void)
{
    void *arguments[] = {pointer(block.generator, environment_variable)};
    library.call(block.generator, (void *)library.wait, NULL, 1, arguments);
}

static void complete(void)
{
    now.state = COMPLETE;
    now.kind = kind_of();
    now.align = now.modrm < 0xc0 && must_be_aligned();
    if (now.map == MAP_ONE && waits())
        call_wait();
}

static void opcode_read(uint8_t byte, uint8_t map)
{
    static const uint8_t with_modrm[] = {0xd8, 0xdf, 0xf6, 0xf7, 0, 0};
    now.map = map;
    now.opcode = byte;
    now.state = map == MAP_ONE && !in(with_modrm, byte) ? COMPLETE : MODRM;
    if (map == MAP_0F && waits()) /* the library enters MMX mode before it reads on */
        call_wait();
}

static void prefix_or_opcode(uint8_t byte)
{
    switch (byte) {
    case 0x66:
        if (now.prefix == PLAIN)
            now.prefix = WITH_66;
        return;
    case 0xf2:
        now.prefix = WITH_F2;
        return;
    case 0xf3:
        now.prefix = WITH_F3;
        return;
    case 0xf0:
        now.lock = true;
        return;
    case 0x26: case 0x2e: case 0x36: case 0x3e: case 0x64: case 0x65: case 0x67:
        return;
    case 0x0f:
        now.state = OPCODE_0F;
        return;
    case 0xc4:
        now.state = VEX_3;
        return;
    case 0xc5:
        now.state = VEX_2;
        return;
    }
    if (block.code64 && (byte & 0xf0) == 0x40)
        now.wide = byte & 8;
    else
        opcode_read(byte, MAP_ONE);
}

static void read_byte(uint8_t byte)
{
    switch (now.state) {
    case PREFIXES:
        prefix_or_opcode(byte);
        break;
    case VEX_2:
    case VEX_3:
        if (!block.code64 && byte < 0xc0) { /* LDS, LES */
            now.state = COMPLETE;
            break;
        }
        now.vex = true;
        now.high_register = byte & 0x80 ? 0 : 8;
        now.map = now.state == VEX_2 ? MAP_0F : byte & 0x1f;
        if (now.state == VEX_3) {
            now.state = VEX_LAST;
            break;
        }
        now.prefix = byte & 3;
        now.state = OPCODE;
        break;
    case VEX_LAST:
        now.wide = block.code64 && byte & 0x80;
        now.prefix = byte & 3;
        now.state = OPCODE;
        break;
    case OPCODE:
        opcode_read(byte, now.map);
        break;
    case OPCODE_0F:
        if (byte == 0x38 || byte == 0x3a)
            now.state = byte == 0x38 ? OPCODE_38 : OPCODE_3A;
        else
            opcode_read(byte, MAP_0F);
        break;
    case OPCODE_38:
    case OPCODE_3A:
        opcode_read(byte, now.state == OPCODE_38 ? MAP_38 : MAP_3A);
        break;
    case MODRM:
        now.modrm = byte;
        complete();
        break;
    }
}
