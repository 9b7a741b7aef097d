/*
 * Port accesses whose answers are known: a tree of them, from one moment of the devices on. A guest that runs from that
 * moment again and again is answered from it, and devices, which are in Python, hear of nothing, until it does what it
 * never did before. Whether an access belongs in here is for others to know (emu/persistence/lab/ports.py).
 *
 * Included by _hooks.csrc.c.
 */
#define KNOWN_NOWHERE UINT32_MAX
#define KNOWN_ROOM (1u << 14)

/* An access behind its parent's; `value` is what was written, or what a read gives. Number 0 is the beginning. */
typedef struct {
    uint32_t value, child, sibling;
    uint16_t port;
    uint8_t size, writes, ends;
} known_access;

/* `at`: the last access of the present run; KNOWN_NOWHERE where devices are asked. */
typedef struct {
    known_access *accesses;
    uint32_t count, room, at;
} known_ports;

/* Go on with this access, when it is known; the value of a read is put in `value`. */
static known_access *follow(known_ports *k, uint32_t port, int size, bool writes, uint32_t *value)
{
    if (k->at == KNOWN_NOWHERE)
        return NULL;
    for (uint32_t n = k->accesses[k->at].child; n; n = k->accesses[n].sibling) {
        known_access *access = &k->accesses[n];
        if (access->port == port && access->size == size && access->writes == writes &&
            (!writes || access->value == *value)) {
            *value = access->value;
            k->at = n;
            return access;
        }
    }
    return NULL;
}

/* A run begins; false when there is no memory for its accesses. */
static bool begin_known(known_ports *k)
{
    if (!k->room) {
        if (!(k->accesses = calloc(KNOWN_ROOM, sizeof *k->accesses)))
            return false;
        k->room = KNOWN_ROOM;
        k->count = 1;
    }
    k->at = 0;
    return true;
}

/* Know an access behind the last one, which it is now; false when there are too many. */
static bool learn_access(known_ports *k, uint32_t port, int size, bool writes, uint32_t value, bool ends)
{
    known_access *parent = &k->accesses[k->at];
    if (k->count == k->room)
        return false;
    k->accesses[k->count] = (known_access){value, 0, parent->child, (uint16_t)port, (uint8_t)size, writes, ends};
    parent->child = k->at = k->count++;
    return true;
}

/* Forget all accesses: they belong to another moment. */
static void forget_accesses(known_ports *k)
{
    free(k->accesses);
    *k = (known_ports){.at = KNOWN_NOWHERE};
}
