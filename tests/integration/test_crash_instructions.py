"""Instructions with a meaning for persistence, executed: what each leaves in the trace, and what that is worth."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from emu.config import BackendConfig, BackendKind, MachineConfig, NvdimmConfig
from emu.cpu import instructions
from emu.persistence.events import Event, Fence, Flush, Store, WriteBack
from emu.persistence.laboratory import Question, investigate
from emu.persistence.workload import Workload, record
from emu.units import GIB, MIB

BASE, CODE = 4 * GIB, 0x100000
HANDLER, IDT, POINTER = CODE + 0x800, CODE + 0x1000, CODE + 0x2000
START = b"\x48\xb8" + struct.pack("<Q", BASE) + b"\x0f\x01\x1c\x25" + struct.pack("<I", POINTER)  # rax; lidt
EXIT = b"\x66\xba\xf4\x00\xef"  # mov dx, 0xf4; out dx, eax

UNDEFINED = {
    "movdiri": "0f38f908", "movdir64b": "660f38f808", "clzero": "0f01fc", "xend": "0f01d5", "monitor": "0f01c8",
    "monitorx": "0f01fa", "mwait": "0f01c9", "mwaitx": "0f01fb", "invept": "660f388000", "invvpid": "660f388100",
    "invpcid": "660f388200", "invlpga": "0f01df", "skinit": "0f01de", "clrssbsy": "f30fae30", "wrssd": "0f38f608",
    "wrssq": "480f38f608", "wrussd": "660f38f508", "wrussq": "66480f38f508", "encls": "0f01cf", "enclu": "0f01d7",
    "enclv": "0f01c0", "rsm": "0faa", "sysexit": "0f35", "sysexitq": "480f35", "ptwrite": "f30fae20", "clgi": "0f01dd",
    "stgi": "0f01dc", "vmaskmovps": "c4e2712e00", "vmaskmovpd": "c4e2712f00", "vpmaskmovd": "c4e2718e00",
    "vpmaskmovq": "c4e2f18e00", "pcommit": "660faef8", "serialize": "0f01e8", "enqcmd": "f20f38f800",
    "enqcmds": "f30f38f800", "movntss": "f30f2b00", "movntsd": "f20f2b00", "vmovntdq": "c5f9e700",
    "vmovntps": "c5f82b00", "vmovntpd": "c5f92b00", "vmaskmovdqu": "c5f9f7c1", "vmovntdqa": "c4e2792a00",
    "xbegin": "c7f800000000", "xabort": "c6f800",
}  # fmt: skip
HARMLESS = {
    "cldemote": "0f1c00", "prefetch": "0f0d00", "prefetchnta": "0f1800", "prefetcht0": "0f1808", "prefetcht1": "0f1810",
    "prefetcht2": "0f1818", "prefetchw": "0f0d08", "prefetchwt1": "0f0d10", "pause": "f390", "movntdqa": "660f382a00",
    "lfence": "0faee8", "cpuid": "50530fa25b58", "invlpg": "0f0138",
    "umonitor": "f30faef0", "umwait": "f20faef0", "tpause": "660faef0", "in": "50e48058", "out": "e680",
    "mov cr3": "0f20d90f22d9",
}  # fmt: skip
NON_TEMPORAL = {
    "movnti": "0fc308", "movntdq": "660fe700", "movntps": "0f2b00", "movntpd": "660f2b00", "movntq": "0fe700",
    "maskmovdqu": "4889c7660f76c9660ff7c1", "maskmovq": "4889c70f76c90ff7c1",
}  # fmt: skip


def config(tmp_path: Path, code: bytes) -> MachineConfig:
    """A machine whose exceptions end it with 7 at the exit port."""
    gate = struct.pack("<HHBBHII", HANDLER & 0xFFFF, 8, 0, 0x8E, HANDLER >> 16, 0, 0)
    image = tmp_path / "guest.bin"
    handler = b"\xb8\x07\x00\x00\x00" + EXIT
    image.write_bytes(
        code.ljust(0x800, b"\x90") + handler.ljust(0x800, b"\x90") + gate * 256 + struct.pack("<HQ", 0xFFF, IDT)
    )
    dimm = NvdimmConfig(backend=BackendConfig(id="m", kind=BackendKind.RAM, size=2 * MIB))
    return MachineConfig(image=str(image), slots=1, nvdimms=(dimm,), ram_size=16 * MIB)


def run(tmp_path: Path, code: str) -> Workload:
    return record(config(tmp_path, START + bytes.fromhex(code) + b"\x31\xc0" + EXIT))


def test_every_class_is_executed() -> None:
    assert set(UNDEFINED) == instructions.UNDEFINED
    assert set(HARMLESS) & instructions.HINTS == instructions.HINTS
    assert set(NON_TEMPORAL) == instructions.NON_TEMPORAL


@pytest.mark.parametrize("name", UNDEFINED)
def test_what_the_cpu_does_not_have_raises_an_exception(tmp_path: Path, name: str) -> None:
    workload = run(tmp_path, UNDEFINED[name])
    assert (workload.ended.code, workload.events, workload.doubts) == (7, (), ())


@pytest.mark.parametrize("name", HARMLESS)
def test_what_orders_nothing_is_no_event(tmp_path: Path, name: str) -> None:
    workload = run(tmp_path, HARMLESS[name])
    assert (workload.ended.code, workload.events, workload.doubts) == (0, (), ())


@pytest.mark.parametrize("name", NON_TEMPORAL)
def test_non_temporal_stores(tmp_path: Path, name: str) -> None:
    (store,) = run(tmp_path, NON_TEMPORAL[name]).events
    assert isinstance(store, Store)
    assert (store.address, store.nt) == (BASE, True)


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("0f09", [WriteBack]),
        ("f30f09", [WriteBack]),
        ("660f09", [WriteBack]),
        ("400fae38", [Flush]),
        ("480fae38", [Flush]),
        ("66480fae30", [Flush]),
        ("67660fae38", []),  # eax, which is 0, is an address in RAM
        ("2e0fae38", [Flush]),
        ("0faefa", [Fence]),
        ("480faef3", [Fence]),
        ("f0480100", [Fence, Store]),
        ("f00fba2803", [Fence, Store]),  # lock bts
        ("4887082e4887082e660fae30", [Fence, Store, Fence, Store, Flush]),
        ("f2f0010883000000", [Fence, Store, Store]),  # xacquire lock add; add
    ],
)
def test_prefixes_and_encodings(tmp_path: Path, code: str, expected: list[type[Event]]) -> None:
    workload = run(tmp_path, code)
    assert [type(event) for event in workload.events] == expected
    assert not workload.doubts


@pytest.mark.parametrize(
    ("code", "why"),
    [("0f08", "INVD at 0x100012"), ("66f30fae38", "cannot be decoded"), ("f3660fae30", "cannot be decoded")],
)
def test_what_makes_a_trace_doubtful(tmp_path: Path, code: str, why: str) -> None:
    workload = run(tmp_path, code)
    assert workload.ended.code == 0
    assert why in workload.doubts[0]


# End to end: a value, made durable by ``step``, then a flag that says so. Recovery wants the value if it sees the flag.
RECOVERY = b"\x48\x83\x38\x00\x75\x0c" + b"\xb8\x01\x00\x00\x00" + EXIT + b"\x90\x90" + b"\xf4"


@pytest.mark.parametrize(
    ("step", "fails"),
    [
        ("0f09", False),
        ("f30f09", False),
        ("660fae300faefb", False),
        ("660fae300fa2", True),  # CPUID is no fence for CLWB
        ("660fae30660faef0", True),  # nor is TPAUSE, which the engine takes for MFENCE
        ("0f1c000faef8", True),
    ],
)
@pytest.mark.parametrize("store", ["48c70007000000", "480f38f108", "480fc308"])  # mov; movbe; movnti
def test_what_makes_a_value_durable(tmp_path: Path, step: str, fails: bool, store: str) -> None:
    if "0faef" in step and store == "480fc308":
        fails = "0faefb" not in step and "0faef8" not in step  # a fence is all that it needs
    work = b"\xb9\x07\x00\x00\x00" + bytes.fromhex(store) + b"\x50" + bytes.fromhex(step) + b"\x58"
    work += b"\x48\xc7\x40\x40\x01\x00\x00\x00" + b"\x0f\x09" + b"\xf4"
    branch = b"\x48\x83\x78\x40\x00\x0f\x85" + struct.pack("<i", len(work))
    machine = config(tmp_path, START + branch + work + RECOVERY)
    answer = investigate(Question(machine, machine))
    assert (answer.complete, answer.failed) == (True, fails)
