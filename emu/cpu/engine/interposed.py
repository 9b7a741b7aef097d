"""Sees at start that ``system`` and ``_accesses`` stand before Unicorn, by what a scratch engine does then."""

from __future__ import annotations

import mmap
from collections.abc import Callable

from emu.cpu.engine import hooks, system
from emu.cpu.engine._accesses import ffi, lib
from emu.cpu.engine.offsets import Offsets, Probe
from emu.cpu.features import CR4_BITS
from emu.cpu.registers import GENERAL
from emu.errors import HostError

_EFLAGS = 17 * 8
_VADDPS = b"\xc5\xf8\x58\xc0"  # vaddps xmm0, xmm0, xmm0
_RDRAND = b"\x48\x0f\xc7\xf0"  # rdrand rax
_LOADED = 5
_LOAD = b"\x48\x8b\x04\x25\x05\x00\x00\x00"  # mov rax, [5]
_FIRST_RANDOM = 0xE220A8397B1DCDAF
"""Splitmix64's first number from state 0."""


def know(hflags: int, task_register: int, guest: Offsets) -> None:
    """Hand over what was measured."""
    system.know(
        {
            "eflags": _EFLAGS,
            "hflags": hflags,
            "task_register": task_register,
            "control": guest.control,
            "debug": guest.debug,
            "task_priority": guest.task_priority,
        }
    )


def examine(
    engine: hooks.Engine,
    memory: mmap.mmap,
    code: int,
    observe: Callable[[], bytes],
    addresses: tuple[int, int],
) -> None:
    """HostError unless a helper, the decoder, the search for changed code and loads from a watched page behave as ours.

    ``addresses`` of the scratch engine's CPU object and CPU state; the rest as for ``offsets.measure``.
    """
    cpu, state = addresses
    ours = system.System()
    ours.attach(engine.handle, cpu, state, cr4_bits=CR4_BITS)
    probe = Probe(engine, memory, code, observe)
    try:
        probe.run(_RDRAND)
        ours_first = engine.read(GENERAL["rax"]) == _FIRST_RANDOM and _is_watched(probe, engine, addresses)
        memory[code : code + len(_VADDPS)] = _VADDPS
        engine.flush()
        engine.run(code)
    finally:
        ours.detach()
    if not ours_first or not engine.reason & hooks.INVALID_OPCODE:
        raise HostError(
            "this build of Unicorn does not let emu stand before its functions",
            "install the release of unicorn that emu pins",
        )


def _is_watched(probe: Probe, engine: hooks.Engine, addresses: tuple[int, int]) -> bool:
    """Whether ``_accesses`` is told of a load, whole, of the page that it is in, and of pages of code."""
    uc, cpu, state = (ffi.cast("void *", address) for address in (engine.handle, *addresses))
    if not lib.emu_accesses_try(uc, cpu, state, _LOADED):
        return False
    try:
        probe.run(_LOAD)
    finally:
        told = bool(lib.emu_accesses_tried())
    return told
