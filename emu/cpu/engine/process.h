/*
 * Libraries and memory of this process.
 *
 * Part of _hooks.csrc.c.
 */

/* Lazily bound: a big library whose functions are mostly never called loads in half the time. */
void *emu_load_library(const char *path)
{
    return dlopen(path, RTLD_LAZY | RTLD_LOCAL);
}

/* Let libraries that are loaded from now on find the symbols of this one, which is loaded, before their own. */
void *emu_show_library(const char *path)
{
    return dlopen(path, RTLD_LAZY | RTLD_GLOBAL | RTLD_NOLOAD);
}

int emu_library_is_loaded(const char *path)
{
    void *handle = dlopen(path, RTLD_LAZY | RTLD_NOLOAD);
    return handle && !dlclose(handle);
}

const char *emu_load_error(void)
{
    return dlerror();
}

void *emu_symbol(void *handle, const char *name)
{
    return dlsym(handle, name);
}

size_t emu_allocation_size(void *pointer)
{
    return malloc_usable_size(pointer);
}

/* Read our own memory where nothing may be mapped: bytes read, 0 instead of a fault. */
size_t emu_peek(uint64_t address, void *buffer, size_t size)
{
    struct iovec local = {buffer, size}, remote = {(void *)(uintptr_t)address, size};
    ssize_t got = process_vm_readv(getpid(), &local, 1, &remote, 1, 0);
    int fds[2];
    if (got >= 0)
        return (size_t)got;
    if (errno == EFAULT || pipe2(fds, O_CLOEXEC | O_NONBLOCK))
        return 0;
    /* Some sandboxes forbid process_vm_readv; a pipe refuses unmapped memory as well. */
    got = write(fds[1], (const void *)(uintptr_t)address, size < 4096 ? size : 4096);
    if (got > 0)
        got = read(fds[0], buffer, (size_t)got);
    close(fds[0]);
    close(fds[1]);
    return got > 0 ? (size_t)got : 0;
}
