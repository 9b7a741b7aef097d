/* The heap: all RAM behind the image. Free blocks stand in one list, in the order of their addresses, so that neighbours
 * grow together again. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "guest.h"

enum { UNIT = 16 };

struct block {
    size_t size; /* of the whole block, this head included; a multiple of UNIT */
    struct block *next;
};

_Static_assert(sizeof(struct block) == UNIT, "what is behind a head is aligned like the head");

static struct block *free_blocks;
static int begun;

static struct block *behind(struct block *block) {
    return (struct block *)((char *)block + block->size);
}

static void begin(void) {
    u64 start = ram_behind_image.base, end = ram_behind_image.base + ram_behind_image.size;
    start = (start + UNIT - 1) & ~(u64)(UNIT - 1);
    begun = 1;
    if (start + UNIT > end)
        return;
    free_blocks = (struct block *)start;
    *free_blocks = (struct block){(end - start) & ~(u64)(UNIT - 1), NULL};
}

/* The size of the block that holds `size` bytes; 0 when there can be none. */
static size_t block_size(size_t size) {
    return size > ((size_t)-1 >> 1) ? 0 : (size + UNIT + UNIT - 1) & ~(size_t)(UNIT - 1);
}

static void *failed(void) {
    errno = ENOMEM;
    return NULL;
}

/* What `block` is longer than `size` becomes a free block. */
static void shorten(struct block *block, size_t size) {
    if (block->size < size + 2 * UNIT)
        return;
    struct block *rest = (struct block *)((char *)block + size);
    rest->size = block->size - size;
    block->size = size;
    free(rest + 1);
}

void *malloc(size_t size) {
    size_t needed = block_size(size);
    if (!begun)
        begin();
    if (!needed)
        return failed();
    for (struct block **link = &free_blocks; *link; link = &(*link)->next) {
        struct block *block = *link;
        if (block->size < needed)
            continue;
        *link = block->next;
        shorten(block, needed);
        return block + 1;
    }
    return failed();
}

void free(void *memory) {
    if (!memory)
        return;
    struct block *block = (struct block *)memory - 1, **link = &free_blocks, *before = NULL;
    while (*link && *link < block) {
        before = *link;
        link = &before->next;
    }
    if (*link == block || (before && behind(before) > block))
        panic("free(%p): that block is free already", memory);
    block->next = *link;
    *link = block;
    if (block->next && behind(block) == block->next) {
        block->size += block->next->size;
        block->next = block->next->next;
    }
    if (before && behind(before) == block) {
        before->size += block->size;
        before->next = block->next;
    }
}

void *calloc(size_t count, size_t size) {
    size_t bytes;
    if (__builtin_mul_overflow(count, size, &bytes))
        return failed();
    void *memory = malloc(bytes);
    return memory ? memset(memory, 0, bytes) : NULL;
}

void *realloc(void *memory, size_t size) {
    if (!memory)
        return malloc(size);
    size_t holds = ((struct block *)memory - 1)->size - UNIT;
    if (size <= holds)
        return memory;
    void *larger = malloc(size);
    if (larger) {
        memcpy(larger, memory, holds);
        free(memory);
    }
    return larger;
}

void *aligned_alloc(size_t alignment, size_t size) {
    if (alignment <= UNIT)
        return malloc(size);
    if ((alignment & (alignment - 1)) || size > ((size_t)-1 >> 1) || alignment > ((size_t)-1 >> 2))
        return failed();
    char *memory = malloc(size + alignment);
    if (!memory)
        return NULL;
    size_t skipped = -(size_t)memory & (alignment - 1);
    if (skipped) {
        struct block *front = (struct block *)memory - 1, *block = (struct block *)(memory + skipped) - 1;
        block->size = front->size - skipped;
        front->size = skipped;
        free(memory);
        memory += skipped;
    }
    shorten((struct block *)memory - 1, block_size(size));
    return memory;
}

int posix_memalign(void **block, size_t alignment, size_t size) {
    if (alignment < sizeof(void *) || (alignment & (alignment - 1)))
        return EINVAL;
    void *memory = aligned_alloc(alignment, size);
    if (!memory)
        return ENOMEM;
    *block = memory;
    return 0;
}
