/*
 * Leaving the engine between basic blocks: by callbacks, and by requests from anywhere, none of which is lost.
 *
 * Part of _hooks.csrc.c.
 */

static _Thread_local emu_engine *current;

/* Leave the engine at the next place between blocks. On its own thread, or under the lock. */
static void leave(emu_engine *e)
{
    atomic_store(&e->leave, 1);
    e->cpu_exit(e->cpu);
}

/* Inside a callback: leave the engine when the block has been executed. */
static void leave_behind_block(emu_engine *e, uint32_t reason)
{
    e->reason |= reason;
    if (e->hooked)
        e->attention.leaving = 1;
    else
        leave(e);
}

/* While a block is announced, by us, to those who come behind us in Unicorn's list, too: leave without executing it. */
static void leave_before_block(emu_engine *e, uint32_t reason)
{
    e->reason |= reason;
    e->attention.again = 1;
    atomic_store(&e->leave, 1);
    library.stop(e->uc);
}

/* Unicorn begins, or goes on, to execute: a request that came before it was ready must not be lost. */
static void on_exec_enter(void *cpu)
{
    current->exec_enter(cpu);
    if (atomic_load(&current->leave))
        current->cpu_exit(cpu);
}

/* No block is being executed. Whoever wrote RIP from a block's announcement has that block announced again. */
static void on_exec_exit(void *cpu)
{
    emu_engine *e = current;
    e->exec_exit(cpu);
    if (atomic_load(&e->leave))
        library.stop(e->uc);
    else if (e->hooked && *(uint64_t *)(e->env + RIP_OFFSET) == e->last_block)
        e->attention.again = 1;
}

/*
 * Without the block hook, Unicorn's own flags are set from outside. It clears the one that ends a chain of blocks and
 * then reads the one that says why, without a barrier between, so the first flag is set again when the engine's thread
 * is known to have passed one: by the kernel's word, or since time enough has gone by.
 */
static void leave_from_outside(emu_engine *e)
{
    const struct timespec pause = {0, 50000};
    leave(e);
    if (syscall(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED, 0, 0) &&
        (syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED, 0, 0) ||
         syscall(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED, 0, 0)))
        nanosleep(&pause, NULL);
    leave(e);
}

/* Takes no lock on the engine's own thread, where it may be called by a signal handler. */
void emu_engine_request_stop(emu_engine *e)
{
    if (atomic_load(&e->running) && pthread_equal(e->runner, pthread_self())) {
        atomic_store(&e->stop_requested, 1);
        leave_behind_block(e, 0);
        return;
    }
    pthread_mutex_lock(&e->lock);
    atomic_store(&e->stop_requested, 1);
    if (atomic_load(&e->running)) {
        if (e->hooked)
            e->attention.asked = 1;
        else
            leave_from_outside(e);
    }
    pthread_mutex_unlock(&e->lock);
}

/* From a block callback behind ours: as a stop request, but the block that is announced is not executed. */
void emu_engine_stop_before_block(emu_engine *e)
{
    atomic_store(&e->stop_requested, 1);
    leave_before_block(e, 0);
}

/* From a callback: leave the engine so that the caller can do what needs it stopped, then go on. */
void emu_engine_service(emu_engine *e)
{
    if (atomic_load(&e->running))
        leave_behind_block(e, EMU_SERVICE);
}

int emu_engine_take_stop(emu_engine *e)
{
    return atomic_exchange(&e->stop_requested, 0);
}

int emu_engine_stop_asked(emu_engine *e)
{
    return atomic_load(&e->stop_requested);
}
