/* Locks of a machine with one thread. Interrupt handlers must not use them. */
#include <errno.h>
#include <pthread.h>

#include "guest.h"

int pthread_mutex_init(pthread_mutex_t *mutex, const pthread_mutexattr_t *attributes) {
    *mutex = (pthread_mutex_t){0, attributes ? attributes->kind : PTHREAD_MUTEX_DEFAULT};
    return 0;
}

int pthread_mutex_destroy(pthread_mutex_t *mutex) {
    return mutex->locked ? EBUSY : 0;
}

int pthread_mutex_trylock(pthread_mutex_t *mutex) {
    if (mutex->locked && mutex->kind != PTHREAD_MUTEX_RECURSIVE)
        return EBUSY;
    mutex->locked++;
    return 0;
}

int pthread_mutex_lock(pthread_mutex_t *mutex) {
    if (pthread_mutex_trylock(mutex))
        panic("a mutex is locked again by the only thread, which would wait for ever");
    return 0;
}

int pthread_mutex_unlock(pthread_mutex_t *mutex) {
    if (mutex->locked)
        mutex->locked--;
    return 0;
}

int pthread_mutexattr_init(pthread_mutexattr_t *attributes) {
    attributes->kind = PTHREAD_MUTEX_DEFAULT;
    return 0;
}

int pthread_mutexattr_destroy(pthread_mutexattr_t *attributes) {
    (void)attributes;
    return 0;
}

int pthread_mutexattr_settype(pthread_mutexattr_t *attributes, int kind) {
    attributes->kind = kind;
    return 0;
}

int pthread_rwlock_init(pthread_rwlock_t *lock, const pthread_rwlockattr_t *attributes) {
    (void)attributes;
    *lock = (pthread_rwlock_t)PTHREAD_RWLOCK_INITIALIZER;
    return 0;
}

int pthread_rwlock_destroy(pthread_rwlock_t *lock) {
    return lock->readers || lock->writer ? EBUSY : 0;
}

int pthread_rwlock_rdlock(pthread_rwlock_t *lock) {
    if (lock->writer)
        panic("a lock that is held for writing is asked for by the only thread");
    lock->readers++;
    return 0;
}

int pthread_rwlock_wrlock(pthread_rwlock_t *lock) {
    if (lock->writer || lock->readers)
        panic("a lock that is held is asked for by the only thread");
    lock->writer = 1;
    return 0;
}

int pthread_rwlock_unlock(pthread_rwlock_t *lock) {
    if (lock->writer)
        lock->writer = 0;
    else if (lock->readers)
        lock->readers--;
    return 0;
}

int pthread_spin_init(pthread_spinlock_t *lock, int shared) {
    (void)shared;
    *lock = 0;
    return 0;
}

int pthread_spin_destroy(pthread_spinlock_t *lock) {
    (void)lock;
    return 0;
}

int pthread_spin_lock(pthread_spinlock_t *lock) {
    if (*lock)
        panic("a spin lock is locked again by the only thread, which would spin for ever");
    *lock = 1;
    return 0;
}

int pthread_spin_unlock(pthread_spinlock_t *lock) {
    *lock = 0;
    return 0;
}

int pthread_once(pthread_once_t *once, void (*function)(void)) {
    if (*once == PTHREAD_ONCE_INIT) {
        *once = 1;
        function();
    }
    return 0;
}

pthread_t pthread_self(void) {
    return 1;
}
