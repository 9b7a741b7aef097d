"""Where Unicorn keeps the CPU state that its interface does not show, found by experiment.

Unicorn's register interface cannot read an exception's error code, clear the exception latch (without which the second
divide error arrives as a double fault), change the privilege level, or tell HLT from a stop request. All of these are
plain words of its CPU state. Their places are measured on a scratch engine: values written through the public
interface are searched for, and small programs that fault in a known way are run. Each place must be the only one that
fits all observations; otherwise emu refuses to run rather than to guess.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Callable, Iterator
from functools import cache

from emu.cpu.engine import hooks, in_place, interposed, library, offsets, stops
from emu.cpu.engine.whole_blocks import find as find_whole_blocks
from emu.cpu.registers import (
    CR0,
    CR0_TS,
    GENERAL,
    ICELAKE_SERVER,
    RFLAGS,
    RIP,
    SEGMENTS,
)
from emu.errors import HostError
from emu.record import NamedTuple

SEGMENT_SIZE = 24
"""Selector (32 bits at 0), base (64 bits at 8), limit (32 bits at 16), descriptor flags (32 bits at 20)."""
RFLAGS_OFFSET = 17 * 8
"""RFLAGS, in the architectural state: behind 16 general registers and RIP."""
_SEARCH = 1 << 16
_STATE = 1 << 13
_TASK_REGISTER = 7
"""Behind the six segment registers and LDTR."""
_CODE = 0x1000
_POINTER_HINT = 53
_HF_TS = 0x800
_HF_LONG = 0xC000


class Layout(NamedTuple):
    """Offsets in bytes.

    ``cpu_pointer`` and ``whole_blocks`` are in the engine structure; ``self_pointer``, ``halted``, ``stop_slots`` and
    ``state`` in the CPU object it points to; the others in the architectural state, which starts with the 16 general
    registers, RIP and RFLAGS. ``guest`` are the words that only a guest can reach.
    """

    cpu_pointer: int
    self_pointer: int
    state: int
    halted: int
    hflags: int
    segments: int
    latch: int
    error_code: int
    is_software: int
    whole_blocks: int
    stop_slots: int
    guest: offsets.Offsets


class _StopAtPort:
    """Every OUT asks for a stop."""

    engine: hooks.Engine

    def port_read(self, port: int, size: int) -> int:
        return 0

    def port_write(self, port: int, size: int, value: int) -> None:
        self.engine.request_stop()


def _unknown(what: str) -> HostError:
    return HostError(
        f"this build of Unicorn keeps its CPU state in a way emu does not know ({what})",
        "install the release of unicorn that emu pins; only on x86-64 hosts does emu run guests",
    )


def _words(data: bytes) -> list[int]:
    return [value for (value,) in struct.iter_unpack("<Q", data[: len(data) // 8 * 8])]


def _only(what: str, places: list[int]) -> int:
    if len(places) != 1:
        raise _unknown(f"{what}: {len(places)} places fit")
    return places[0]


@cache
def layout() -> Layout:
    """The layout of the loaded library; measured once per process, in a few milliseconds."""
    ports = _StopAtPort()
    engine = ports.engine = library.open_engine(ICELAKE_SERVER, ports)
    memory = mmap.mmap(-1, 2 * mmap.PAGESIZE)
    try:
        engine.map(0, len(memory), hooks.address_of(memory))
        return _measure(engine, memory)
    finally:
        engine.close()
        memory.close()


def _measure(engine: hooks.Engine, memory: mmap.mmap) -> Layout:
    cpu_pointer, self_pointer, owner, state = _locate(engine)
    cpu = _words(engine.own_memory())[cpu_pointer // 8]
    start = cpu + state

    def observe() -> bytes:
        data = hooks.peek(start, _STATE)
        if len(data) != _STATE:
            raise _unknown("the CPU state is too short")
        return data

    hflags, segments = _static_places(engine, observe)
    engine.watch_state(start, RFLAGS_OFFSET, hflags)
    stop_slots = stops.find(cpu, state)
    stops.take_over(engine, cpu, stop_slots)
    halted = _halted(engine, memory, cpu, owner)
    latch, error_code, is_software = _exception_places(engine, memory, observe, start)
    whole_blocks = find_whole_blocks(engine, memory)
    hooks.view(engine.handle + whole_blocks, 1)[0] = 1
    stops.check(engine, memory)
    # Behind the CPU object the heap may hold copies of what was observed.
    inside = hooks.allocation(cpu) - state

    def observe_object() -> bytes:
        return observe()[:inside]

    guest = offsets.measure(engine, memory, _CODE, observe_object)
    interposed.know(hflags, segments + _TASK_REGISTER * SEGMENT_SIZE, guest)
    interposed.examine(engine, memory, _CODE, observe, (cpu, start))
    places = {
        "eflags": RFLAGS_OFFSET,
        "hflags": hflags,
        "segments": segments,
        "control": guest.control,
        "latch": latch,
        "error_code": error_code,
        "is_software": is_software,
    }
    in_place.examine(engine, memory, observe, places, SEGMENT_SIZE)
    return Layout(
        cpu_pointer=cpu_pointer,
        self_pointer=self_pointer,
        state=state,
        halted=halted,
        hflags=hflags,
        segments=segments,
        latch=latch,
        error_code=error_code,
        is_software=is_software,
        whole_blocks=whole_blocks,
        stop_slots=stop_slots,
        guest=guest,
    )


def _locate(engine: hooks.Engine) -> tuple[int, int, int, int]:
    values = [0x1122_3344_5566_7788 * (2 * n + 1) & (1 << 64) - 1 for n in range(16)]
    for register, value in zip(GENERAL.values(), values, strict=True):
        engine.write(register, value)
    engine.write(RIP, 0x0123_4567_89AB_CDEF)
    sentinel = struct.pack("<16QQ", *values, 0x0123_4567_89AB_CDEF)
    pointers = _words(engine.own_memory())
    # Where the pointer is in the release that emu pins is looked at first; elsewhere it takes a little longer.
    for pointer in (*pointers[_POINTER_HINT : _POINTER_HINT + 1], *pointers):
        if not 0x10000 < pointer < 1 << 47:
            continue
        at = hooks.peek(pointer, _SEARCH).find(sentinel)
        if at >= 0:
            break
    else:
        raise _unknown("the registers")
    state = pointer + at
    # The structure may hold pointers to other objects that happen to lie below the state: the CPU's own is the nearest.
    below = [pointer for pointer in pointers if 0 < state - pointer < _SEARCH]
    for pointer in sorted(below, reverse=True):
        inside = hooks.peek(pointer, state - pointer)
        itself, owner = (inside.find(struct.pack("<Q", word)) for word in (state, engine.handle))
        if itself >= 0 and owner >= 0:
            return 8 * pointers.index(pointer), itself, owner, state - pointer
    raise _unknown("the CPU object")


def _static_places(engine: hooks.Engine, observe: Callable[[], bytes]) -> tuple[int, int]:
    """Offsets of the derived flags and of the segment registers, by changing one thing at a time."""
    for number, register in enumerate(list(SEGMENTS.values())[:4]):
        engine.write(register, 0x7AB0 + number)
    state = observe()
    first, *others = (struct.pack("<I", 0x7AB0 + number) for number in range(4))
    segments = [
        at
        for at in _places(state, first, 8)
        if 144 <= at < 1024 and all(state.startswith(other, at + SEGMENT_SIZE * n) for n, other in enumerate(others, 1))
    ]
    before = observe()
    cr0 = engine.read(CR0)
    engine.write(CR0, cr0 | CR0_TS)
    after = observe()
    engine.write(CR0, cr0)
    words = (struct.unpack_from("<220I", data, 144) for data in (before, after))
    hflags = [
        144 + 4 * n
        for n, (old, new) in enumerate(zip(*words, strict=True))
        if old != new and old ^ new == _HF_TS and old & _HF_LONG == _HF_LONG
    ]
    if engine.read(RFLAGS) | 2 != struct.unpack_from("<Q", before, RFLAGS_OFFSET)[0] | 2:
        raise _unknown("the flags")
    for register in list(SEGMENTS.values())[:4]:
        engine.write(register, 0)
    return _only("derived flags", hflags), _only("segments", segments)


def _halted(engine: hooks.Engine, memory: mmap.mmap, cpu: int, owner: int) -> int:
    """The flag that HLT sets: one of the words just before the CPU object's pointer to its engine."""

    def observe(code: bytes) -> tuple[int, ...]:
        memory[_CODE : _CODE + len(code)] = code
        engine.flush()
        engine.run(_CODE)
        return struct.unpack("<16I", hooks.peek(cpu + owner - 64, 64))

    runs = [observe(code) for code in (b"\xcd\x21", b"\xf4", b"\xcd\x21", b"\x90\xf4")]
    return owner - 64 + 4 * _only("halted", [n for n in range(16) if [run[n] for run in runs] == [0, 1, 0, 1]])


def _exception_places(
    engine: hooks.Engine, memory: mmap.mmap, observe: Callable[[], bytes], start: int
) -> tuple[int, int, int]:
    latch_words = hooks.words(start, "int32_t")

    def run(code: bytes, vector: int, clear: int | None) -> bytes:
        memory[_CODE : _CODE + len(code)] = code
        engine.flush()
        if clear is not None:
            latch_words[clear // 4] = -1
        engine.run(_CODE)
        if not engine.reason & hooks.EXCEPTION or engine.vector != vector:
            raise _unknown("exceptions")
        return observe()

    load_ds = b"\xb8%b\x00\x00\x8e\xd8"  # mov eax, selector; mov ds, eax: beyond the empty descriptor table
    quiet = observe()
    software = run(b"\xcd\x21", 0x21, None)
    fault = run(load_ds % b"\x34\x12", 13, None)
    latch = _only("exception latch", _fitting((quiet, -1), (software, -1), (fault, 13)))
    second = run(load_ds % b"\x78\x56", 13, latch)
    third = run(b"\x31\xc9\xf7\xf1", 0, latch)  # xor ecx, ecx; div ecx
    latch_words[latch // 4] = -1
    software = run(b"\xcd\x22", 0x22, None)
    if latch not in _fitting((second, 13), (third, 0)):
        raise _unknown("exception latch")
    # Values that the program loaded are in registers too; Unicorn's own bookkeeping lies around the latch.
    near = range(latch - 512, latch + 512)
    codes = [at for at in _fitting((fault, 0x1234), (second, 0x5678), (third, 0)) if at in near]
    flags = [at for at in _fitting((software, 1), (fault, 0), (third, 0)) if at in near]
    return latch, _only("error code", codes), _only("software interrupt", flags)


def _fitting(*observations: tuple[bytes, int]) -> list[int]:
    """Offsets of the 32-bit words that have the given value in each observation."""
    patterns = [(state, struct.pack("<i", value)) for state, value in observations]
    # The last value is the rarest: -1 and 0 are everywhere.
    *others, (state, pattern) = sorted(patterns, key=lambda item: item[1] not in (bytes(4), b"\xff" * 4))
    return [at for at in _places(state, pattern, 4) if all(other.startswith(value, at) for other, value in others)]


def _places(state: bytes, pattern: bytes, step: int) -> Iterator[int]:
    """Where ``pattern`` is, at multiples of ``step``."""
    at = state.find(pattern)
    while at >= 0:
        if at % step == 0:
            yield at
        at = state.find(pattern, at + 1)
