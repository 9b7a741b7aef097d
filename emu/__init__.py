"""emu: a mini x86-64 machine with a virtual NVDIMM, and a crash-consistency laboratory."""

__version__ = "0.1.0"
