"""The host room: the only code that talks to the kernel, over the cffi modules `_kernel`, `_hooks`, `_system`, `_trace`."""
