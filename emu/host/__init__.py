"""The host room: what talks to the kernel, over cffi modules (`_kernel`, `_hooks`, `_system`, `_trace`)."""
