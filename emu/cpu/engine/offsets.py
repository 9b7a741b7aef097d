"""Words of Unicorn's CPU state that only the guest can reach, found by experiment: the guest is let change them.

Unicorn's interface shows neither XCR0, PKRU and the task priority (CR8) nor the words CPUID answers from, and it writes
the debug registers past the breakpoints they stand for. As in ``layout``, each place must be the only one that fits.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Callable

from emu.cpu.engine import hooks
from emu.cpu.features import WORDS
from emu.cpu.registers import (
    CR2,
    CR3,
    CR4,
    CR4_PKE,
    DR0,
    GENERAL,
    MACHINE_CHECK_BANKS,
    MSR,
    MTRR_FIXED,
    MTRR_VARIABLE,
    RIP,
)
from emu.errors import HostError
from emu.record import NamedTuple

# Instructions that store EAX, or the low half of it, in the word looked for; ECX and EDX are 0.
_XSETBV, _WRPKRU, _MOV_CR8 = b"\x0f\x01\xd1", b"\x0f\x01\xef", b"\x44\x0f\x22\xc0"
_OSXSAVE, _OSPKE = 1 << 27, 1 << 4


class Offsets(NamedTuple):
    """Offsets in bytes from the start of the CPU state.

    ``xcr0``: 64 bits. ``pkru``: 32 bits. ``task_priority``: 8 bits. ``features``: an array of 64-bit words, which CPUID
    and the decoder look at; ``emu.cpu.features`` knows their order. ``debug``: DR0 to DR7, 64 bits each.
    ``control``: CR0 to CR4, 64 bits each. ``not_in_context``: from the first to behind the last register (MTRRs,
    machine check) that Unicorn's own contexts leave out.
    """

    xcr0: int
    pkru: int
    task_priority: int
    features: int
    debug: int
    control: int
    not_in_context: tuple[int, int]


class Probe:
    """Runs a few instructions on a scratch engine and looks at its CPU state."""

    def __init__(self, engine: hooks.Engine, memory: mmap.mmap, code: int, observe: Callable[[], bytes]) -> None:
        self._engine = engine
        self._memory = memory
        self._code = code
        self.observe = observe

    def run(self, code: bytes, eax: int = 0, ecx: int = 0) -> None:
        """``code`` with EDX = 0, then EAX = 0 and HLT; HostError when it does not get there."""
        engine = self._engine
        program = code + b"\xf4"
        self._memory[self._code : self._code + len(program)] = program
        for name, value in (("rax", eax), ("rcx", ecx), ("rdx", 0)):
            engine.write(GENERAL[name], value)
        engine.flush()
        engine.run(self._code)
        if engine.reason or engine.read(RIP) != self._code + len(program):
            raise _unknown(f"it does not execute {code.hex()}")

    def cpuid(self, leaf: int, subleaf: int = 0) -> dict[str, int]:
        self.run(b"\x0f\xa2", leaf, subleaf)
        return {f"e{name[1:]}": self._engine.read(GENERAL[name]) for name in ("rax", "rbx", "rcx", "rdx")}

    def word(self, what: str, store: bytes, values: tuple[int, ...], form: str) -> int:
        """Where ``store`` puts EAX, seen with each of ``values``."""
        places: set[int] | None = None
        for value in values:
            self.run(store + b"\x31\xc0", value)  # xor eax, eax: the value is in no register any more
            found = _places(self.observe(), struct.pack(form, value))
            places = found if places is None else places & found
        return _only(what, places or set())


def _unknown(what: str) -> HostError:
    return HostError(
        f"this build of Unicorn keeps its CPU state in a way emu does not know ({what})",
        "install the release of unicorn that emu pins; only on x86-64 hosts does emu run guests",
    )


def _places(state: bytes, pattern: bytes) -> set[int]:
    places, at = set(), state.find(pattern)
    while at >= 0:
        if at % len(pattern) == 0 or len(pattern) > 8:
            places.add(at)
        at = state.find(pattern, at + 1)
    return places


def _only(what: str, places: set[int]) -> int:
    if len(places) != 1:
        raise _unknown(f"{what}: {len(places)} places fit")
    return places.pop()


def measure(engine: hooks.Engine, memory: mmap.mmap, code: int, observe: Callable[[], bytes]) -> Offsets:
    """Where ``engine`` keeps these words. It is a scratch engine; ``memory`` is its RAM from address 0 on."""
    probe = Probe(engine, memory, code, observe)
    engine.write(CR4, engine.read(CR4) | CR4_PKE)
    xcr0 = probe.word("XCR0", _XSETBV, (1, 3, 0x203), "<Q")
    pkru = probe.word("PKRU", _WRPKRU, (0x12345678, 0x9ABCDEF0), "<I")
    task_priority = probe.word("CR8", _MOV_CR8, (5, 9, 3, 14), "<B")
    features = _features(probe)
    addresses = tuple(0x1111_0000 + n for n in range(4))
    for n, address in enumerate(addresses):
        engine.write(DR0 + n, address)
    debug = _only("debug registers", _places(observe(), struct.pack("<4Q", *addresses)))
    for n in range(4):
        engine.write(DR0 + n, 0)
    for register, value in ((CR2, 0x2222_2000), (CR3, 0x3333_3000)):
        engine.write(register, value)
    control = _only("control registers", _places(observe(), struct.pack("<QQ", 0x2222_2000, 0x3333_3000))) - 16
    return Offsets(xcr0, pkru, task_priority, features, debug, control, _not_in_context(engine, observe))


def _not_in_context(engine: hooks.Engine, observe: Callable[[], bytes]) -> tuple[int, int]:
    lists = (MTRR_VARIABLE, MTRR_FIXED, MACHINE_CHECK_BANKS[1:])  # a bank's first register does not take any value
    registers = {number for numbers in lists for number in (numbers[0], numbers[-1])}
    values = {number: 0x5AFE_0000_0000_0000 + number for number in registers}
    for number, value in values.items():
        engine.write_bytes(MSR, struct.pack("<I4xQ", number, value))
    state = observe()
    places = [_only(f"MSR {number:#x}", _places(state, struct.pack("<Q", value))) for number, value in values.items()]
    for number in values:
        engine.write_bytes(MSR, struct.pack("<I4xQ", number, 0))
    return min(places), max(places) + 8


def _features(probe: Probe) -> int:
    answers = {leaf: probe.cpuid(*leaf) for leaf in {(leaf, subleaf) for leaf, subleaf, _ in WORDS}}
    answers[1, 0]["ecx"] &= ~_OSXSAVE
    answers[7, 0]["ecx"] &= ~_OSPKE
    words = {number: answers[leaf, subleaf][register] for (leaf, subleaf, register), number in WORDS.items()}
    state = probe.observe()
    place = _only("features", _places(state, struct.pack("<5Q", *(words[n] for n in range(5)))))
    if any(struct.unpack_from("<Q", state, place + 8 * number)[0] != word for number, word in words.items()):
        raise _unknown("features in another order")
    return place
