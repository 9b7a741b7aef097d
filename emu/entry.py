"""The states a guest can be entered in: what an image loader asks for and what the CPU sets up.

Two rooms that must not know each other share these: ``emu.boot`` makes them, ``emu.cpu`` loads them.
"""

from __future__ import annotations

from emu.record import NamedTuple


class Protected32(NamedTuple):
    """32-bit protected mode as Multiboot 1 (section 3.2) and the PVH boot protocol ask for it.

    Flat 4 GiB segments, CR0.PE set, paging off, interrupts off. ``eip``, ``eax`` and ``ebx`` are 32-bit values:
    Multiboot wants EAX = 2BADB002h and EBX = the information structure, PVH wants EBX = the start-info structure.
    """

    eip: int
    eax: int
    ebx: int


class Long64(NamedTuple):
    """64-bit mode with paging on (``cr3``), EFER.NXE set, SSE enabled and interrupts off.

    ``gdt`` is the guest-physical address and byte length of a descriptor table that has a 64-bit code segment at the
    selector ``code`` and a writable data segment behind it; the entry state uses both. Linux wants RSI = its boot
    parameters, other images RDI = the PVH start-info structure.
    """

    rip: int
    rsp: int
    rdi: int
    cr3: int
    gdt: tuple[int, int] = (0, 0)
    rsi: int = 0
    code: int = 8


Entry = Protected32 | Long64
