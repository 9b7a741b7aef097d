/* A ring of messages without transactions: a message is durable before the counter names it. BROKEN: the counter first. */
#include "pool.h"

enum { MOST = 4 };

struct message {
    uint64_t number, check;
    char unused[48];
};

struct queue {
    uint64_t in, out;
    char unused[48];
    struct message ring[MOST];
};

static void put(PMEMobjpool *pool, struct queue *queue)
{
    struct message *message = &queue->ring[queue->in % MOST];
#ifdef BROKEN
    queue->in++; /* the bug */
    pmemobj_persist(pool, &queue->in, sizeof queue->in);
    message->number = queue->in - 1;
    message->check = ~message->number;
    pmemobj_persist(pool, message, sizeof *message);
#else
    message->number = queue->in;
    message->check = ~message->number;
    pmemobj_persist(pool, message, sizeof *message);
    queue->in++;
    pmemobj_persist(pool, &queue->in, sizeof queue->in);
#endif
}

static void take(PMEMobjpool *pool, struct queue *queue)
{
    queue->out++;
    pmemobj_persist(pool, &queue->out, sizeof queue->out);
}

int main(int argc, char **argv)
{
    enum word word = asked(argc, argv);
    PMEMobjpool *pool = open_pool("queue", word);
    struct queue *queue = pmemobj_direct(pmemobj_root(pool, sizeof *queue));
    if (word == WORK) {
        put(pool, queue);
        put(pool, queue);
        take(pool, queue);
    }
    int wrong = queue->out > queue->in || queue->in - queue->out > MOST;
    for (uint64_t n = queue->out; !wrong && n < queue->in; n++)
        wrong = queue->ring[n % MOST].number != n || queue->ring[n % MOST].check != ~n;
    printf("%lu in, %lu out, %s\n", queue->in, queue->out, wrong ? "wrong" : "right");
    pmemobj_close(pool);
    return wrong;
}
