"""The host room: what talks to the kernel, over the cffi module `_kernel`."""
