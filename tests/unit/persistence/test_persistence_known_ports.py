"""A recovery whose port accesses are known is the same run as one that asks the devices."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from emu.config import BackendConfig, BackendKind, MachineConfig, NvdimmConfig
from emu.devices.uart16550 import Uart16550
from emu.persistence.lab.explore import Run
from emu.persistence.lab.recovery import MachineRecovery
from emu.units import GIB, MIB

_BASE = 4 * GIB
_LOAD = b"\x48\xbf" + struct.pack("<Q", _BASE) + b"\x48\x8b\x07\x88\xc3"  # mov rdi, BASE; mov rax, [rdi]; mov bl, al
_PRINT = b"\x66\xba\xf8\x03\xee"  # mov dx, 0x3f8; out dx, al
_SCRATCH = b"\x66\xba\xff\x03"  # mov dx, 0x3ff
_OUT, _IN = b"\xee", b"\xec"
_EXIT = b"\xe6\xf4\xf4"  # out 0xf4, al; hlt
_TIMER = b"\x66\xba\x08\x06\xed"  # mov dx, 0x608; in eax, dx

_PROGRAMS = {
    "says what it read": _LOAD + _PRINT + _SCRATCH + _OUT + _IN + _EXIT,
    "halts": _LOAD + _PRINT + b"\xfa\xf4",
    # A register that was written before the run left what is known: mov al, 0x5a; ...; mov al, bl; ...; add al, bl
    "goes another way": _LOAD + b"\xb0\x5a" + _SCRATCH + _OUT + b"\x88\xd8" + _PRINT
    + _SCRATCH + _IN + b"\x00\xd8" + _EXIT,
    # mov r8d, eax; movzx ecx, bl; shl ecx, 14; inc ecx; dec ecx; jnz; ...; sub eax, r8d; shr eax, 4
    "looks at the clock": _LOAD + _TIMER + b"\x41\x89\xc0\x0f\xb6\xcb\xc1\xe1\x0e\xff\xc1\xff\xc9\x75\xfc"
    + _TIMER + b"\x44\x29\xc0\xc1\xe8\x04" + _EXIT,
    # mov al, 1; out 0x70, al ...: the time stamp starts the clock between two accesses to a port
    "reads the time stamp": _LOAD + _PRINT + b"\x0f\x31" + b"\x88\xd8" + _PRINT + _SCRATCH + _OUT + _IN + _EXIT,
    # IER: an interrupt whenever the transmitter is empty, which nobody takes (mov al, 2; mov dx, 0x3f9; out dx, al)
    "wants interrupts": _LOAD + b"\xb0\xef\xe6\x21\xb0\x02\x66\xba\xf9\x03\xee\x88\xd8" + _PRINT + _EXIT,
}  # fmt: skip


def _recovery(folder: Path, program: bytes) -> MachineRecovery:
    image = folder / "image.bin"
    image.write_bytes(program)
    backend = BackendConfig(id="m", kind=BackendKind.RAM, size=16 * MIB)
    return MachineRecovery(MachineConfig(image=str(image), slots=1, nvdimms=(NvdimmConfig(backend=backend),)))


def _runs(recovery: MachineRecovery, values: Sequence[int]) -> list[Run]:
    """A run for each value of the first word."""
    answers = iter(values)
    runs = [recovery.run(frozenset([_BASE]), lambda unit, mask: next(answers) & mask) for _ in values]
    return [replace(run, reads=tuple(run.reads)) for run in runs]


@pytest.mark.parametrize("name", _PROGRAMS)
def test_a_run_whose_accesses_are_known_is_the_run_of_a_new_machine(tmp_path: Path, name: str) -> None:
    values = (1, 1, 2, 1, 0, 0, 2, 3, 1)
    recovery = _recovery(tmp_path, _PROGRAMS[name])
    try:
        again = _runs(recovery, values)
    finally:
        recovery.close()
    first = {}
    for value in set(values):
        fresh = _recovery(tmp_path, _PROGRAMS[name])
        (first[value],) = _runs(fresh, [value])
        fresh.close()
    assert again == [first[value] for value in values]
    assert len({(run.verdict.code, run.verdict.output) for run in again}) == 4


def test_devices_do_not_hear_of_a_run_that_does_what_one_before_did(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[int] = []
    write = Uart16550.write

    def listen(uart: Uart16550, offset: int, size: int, value: int) -> None:
        heard.append(value)
        write(uart, offset, size, value)

    monkeypatch.setattr(Uart16550, "write", listen)
    recovery = _recovery(tmp_path, _PROGRAMS["says what it read"])
    try:
        _runs(recovery, [1])
        assert heard
        heard.clear()
        _runs(recovery, [1, 1, 1])
        assert not heard
    finally:
        recovery.close()
