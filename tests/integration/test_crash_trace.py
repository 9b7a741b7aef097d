"""What a guest's instructions become in the log, from machine code to events."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path

import pytest

from emu.config import BackendConfig, BackendKind, MachineConfig, NvdimmConfig
from emu.persistence.lab.workload import Workload, record
from emu.persistence.model.events import Event, Fence, FenceKind, Flush, FlushKind, Store
from emu.units import GIB, MIB

BASE = 4 * GIB
START = b"\x48\xbf" + struct.pack("<Q", BASE) + b"\x48\xb8" + struct.pack("<Q", 0x1122334455667788)  # rdi, rax
CODE = 0x100000 + len(START)
HALT = b"\xf4"
RAX = struct.pack("<Q", 0x1122334455667788)


def run(tmp_path: Path, code: bytes, **options: object) -> Workload:
    image = tmp_path / "guest.bin"
    image.write_bytes(START + code)
    backend = BackendConfig(id="m", kind=BackendKind.RAM, size=2 * MIB)
    config = MachineConfig(image=str(image), slots=1, nvdimms=(NvdimmConfig(backend=backend),), ram_size=16 * MIB)
    return record(config, **options)  # type: ignore[arg-type]


Shape = tuple[object, ...]


def shape(events: Sequence[Event]) -> list[Shape]:
    """Events without their program counters."""
    result: list[Shape] = []
    for event in events:
        match event:
            case Store():
                kind = "nt" if event.nt else "locked" if event.locked else "store"
                result.append((kind, event.address - BASE, event.data))
            case Flush():
                result.append((str(event.kind), event.address - BASE))
            case Fence():
                result.append((str(event.kind), event.failed))
    return result


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (b"\x48\x89\x07", [("store", 0, RAX)]),
        (b"\x89\x47\x04", [("store", 4, RAX[:4])]),
        (b"\x88\x47\x3f", [("store", 63, RAX[:1])]),
        (b"\x48\x89\x47\x3c", [("store", 60, RAX)]),
        (b"\x48\x89\x87\xfc\x0f\x00\x00", [("store", 4092, RAX)]),  # over a page
        (b"\x0f\x29\x47\x10", [("store", 16, bytes(16))]),  # movaps
        (b"\x0f\x11\x47\x09", [("store", 9, bytes(16))]),  # movups
        (b"\x48\x0f\xc3\x07", [("nt", 0, RAX)]),  # movnti
        (b"\x66\x0f\xe7\x47\x40", [("nt", 64, bytes(16))]),  # movntdq
        (b"\x0f\xae\x3f", [("clflush", 0)]),
        (b"\x66\x0f\xae\xbf\x40\x01\x00\x00", [("clflushopt", 320)]),
        (b"\x66\x0f\xae\x77\x41", [("clwb", 65)]),
        (b"\x31\xc9\x0f\xae\x7c\x4f\x40", [("clflush", 64)]),  # clflush [rdi + rcx * 2 + 64]
        (b"\x0f\xae\xf8\x0f\xae\xf0\x0f\xae\xe8", [("sfence", False), ("mfence", False)]),  # lfence is none
        (b"\x48\x87\x07", [("locked", False), ("locked", 0, RAX)]),  # xchg
        (b"\xf0\x48\x01\x47\x08", [("locked", False), ("locked", 8, RAX)]),  # lock add
        (b"\x48\x01\x47\x08", [("store", 8, RAX)]),  # add without lock
        # cmpxchg: rax is not what is there, so it fails, takes what is there (0), and succeeds the second time
        (2 * b"\xf0\x48\x0f\xb1\x0f", [("locked", True), ("locked", False), ("locked", 0, bytes(8))]),
        (b"\x31\xc0\x31\xd2\xf0\x48\x0f\xc7\x0f", [("locked", False), ("locked", 0, bytes(16))]),  # cmpxchg16b
        (b"\x31\xd2\xf0\x48\x0f\xc7\x0f", [("locked", True)]),  # it fails in its low half
        (b"\x31\xc0\xba\x01\x00\x00\x00\xf0\x48\x0f\xc7\x0f", [("locked", True)]),  # and in its high half alone
        (b"\xb9\x14\x00\x00\x00\xf3\xaa", [("store", 0, RAX[:1] * 20)]),  # rep stosb
        (b"\xb9\x03\x00\x00\x00\xf3\x48\xab", [("store", 0, RAX * 3)]),  # rep stosq
        (b"\x48\x83\xc7\x10\xfd\xb9\x02\x00\x00\x00\xf3\x48\xab\xfc", [("store", 8, RAX * 2)]),  # downwards
        (2 * b"\xb9\x02\x00\x00\x00\xf3\xaa", [("store", 0, RAX[:1] * 2), ("store", 2, RAX[:1] * 2)]),
        # the same one twice, in a loop
        (
            b"\xba\x02\x00\x00\x00" + b"\xb9\x02\x00\x00\x00\xf3\xaa\xff\xca\x75\xf5",
            [("store", 0, RAX[:1] * 2), ("store", 2, RAX[:1] * 2)],
        ),
        (b"\xd9\xe8\xdb\x3f", [("store", 0, bytes(7) + b"\x80\xff\x3f")]),  # fld1; fstp tword
        (b"\x0f\xae\x3c\x25\x00\x00\x10\x00", []),  # a flush of RAM does not matter
    ],
)
def test_instruction(tmp_path: Path, code: bytes, expected: list[Shape]) -> None:
    workload = run(tmp_path, code + HALT)
    assert workload.ended.reason == "halt"
    assert shape(workload.events) == expected


def test_each_store_of_a_loop_is_its_own(tmp_path: Path) -> None:
    loop = b"\xb9\x03\x00\x00\x00" + b"\x0f\x29\x07" + b"\xff\xc9" + b"\x75\xf9"  # movaps; dec ecx; jnz
    assert shape(run(tmp_path, loop + HALT).events) == [("store", 0, bytes(16))] * 3


def test_program_counters_and_instruction_texts(tmp_path: Path) -> None:
    workload = run(tmp_path, b"\x48\x89\x07\x0f\xae\x3f\x48\x87\x07" + HALT)
    assert [event.pc - CODE for event in workload.events] == [0, 3, 6, 6]
    assert workload.instructions[CODE + 3] == "clflush byte ptr [rdi]"


def test_patched_code_is_seen(tmp_path: Path) -> None:
    # Two rounds over one instruction: mov [rdi], rax becomes movnti [rdi], rax in between.
    patch = b"\xc7\x05" + struct.pack("<i", -3 - 5 - 10) + b"\x48\x0f\xc3\x07"
    body = b"\x48\x89\x07\x90\x90\x90\x90\x90" + patch + b"\xff\xc9"
    code = b"\xb9\x02\x00\x00\x00" + body + b"\x75" + struct.pack("<b", -len(body) - 2)
    assert shape(run(tmp_path, code + HALT).events) == [("store", 0, RAX), ("nt", 0, RAX)]


def test_the_log_is_bounded(tmp_path: Path) -> None:
    workload = run(tmp_path, b"\x48\x89\x07\xeb\xfb", event_limit=1000)
    assert workload.ended.reason == "trace-full"
    assert len(workload.events) == 1000
    assert "1000" in workload.cut_short


def test_an_endless_guest_is_cut_short(tmp_path: Path) -> None:
    workload = run(tmp_path, b"\x48\x89\x07\xeb\xfe", timeout=0.3)
    assert workload.ended.reason == "timeout"
    assert shape(workload.events) == [("store", 0, RAX)]
    assert workload.cut_short


@pytest.mark.parametrize("upto", [0, 1, 2, 3])
def test_recording_ends_at_an_event(tmp_path: Path, upto: int) -> None:
    code = b"\xb9\x14\x00\x00\x00\xf3\xaa" + b"\x0f\xae\x3f" + b"\x0f\xae\xf8" + b"\xeb\xfe"
    workload = run(tmp_path, code.replace(b"\xeb\xfe", b"\x48\x89\x07\xeb\xfb"), upto=upto)
    assert workload.ended.reason == "power-failure"
    whole = [("store", 0, RAX[:1] * 20), ("clflush", 20), ("sfence", False)]
    assert shape(workload.events) == whole[:upto]


def test_flush_kinds_have_the_order_that_the_log_uses() -> None:
    assert list(FlushKind) == ["clflush", "clflushopt", "clwb"]
    assert list(FenceKind) == ["sfence", "mfence", "locked"]
