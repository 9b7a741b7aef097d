"""Every bundled guest under ``emu run``: its text, its exit status, and what it leaves in the NVDIMM."""

from __future__ import annotations

import functools
import struct
import subprocess
import threading
from pathlib import Path

import pytest

from emu import board, guest
from emu.config import MachineConfig
from emu.devices.uart16550 import Uart16550
from emu.testing.commands import EMU

TIMEOUT_S = 120
SIZE, LABELS = 1 << 20, 128 << 10


def run(name: str, *options: str, append: str = "") -> tuple[str, int]:
    """Serial text and exit status of ``emu run NAME OPTIONS``."""
    command = [*EMU, "run", name, *options, "--timeout", str(TIMEOUT_S)]
    done = subprocess.run(
        command + (["--append", append] if append else []),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=2 * TIMEOUT_S,
    )
    return done.stdout.decode(), done.returncode


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "pmem.img"


def nvdimm(file: Path, more: str = "") -> tuple[str, str]:
    return "--nvdimm", f"file={file},size={SIZE},label-size={LABELS}{more}"


def test_hello_counts_boots_in_the_file(file: Path) -> None:
    for boot in (1, 2, 3):
        text, status = run("hello", *nvdimm(file))
        assert text == f"NVDIMM at 0x100000000, {SIZE - LABELS} bytes\nboot {boot}: hello, persistent world\n"
        assert status == 0
        magic, boots, message = struct.unpack_from("<8sQ48s", file.read_bytes())
        assert (magic, boots, message.rstrip(b"\0")) == (b"emuhello", boot, b"hello, persistent world")


@pytest.mark.parametrize(
    "name", [image.name for image in guest.images() if image.needs_nvdimm and image.kind != "flat"]
)
def test_without_an_nvdimm_a_guest_that_needs_one_says_so(name: str) -> None:
    text, status = run(name)
    assert text in ("no NVDIMM found\n", "no NFIT found\n")
    assert status == 5


def test_nfit(file: Path) -> None:
    text, status = run("nfit", *nvdimm(file, ",unarmed=on"))
    assert status == 0
    assert f"SPA range 2: 0x100000000, {SIZE - LABELS} bytes, persistent memory" in text
    assert "memory device 0x1: SPA range 2, control region 3" in text
    assert "flags 0x8 (not armed)" in text


def test_labels_go_to_the_end_of_the_file_and_foreign_ones_stay(file: Path) -> None:
    for _ in range(2):
        text, status = run("labels", *nvdimm(file))
        assert status == 0
        assert f"label storage area of {LABELS} bytes, at most 4076 at once\n  wrote a pattern and read it back" in text
    data = file.read_bytes()
    assert data[: SIZE - LABELS] == bytes(SIZE - LABELS)
    assert data[SIZE - LABELS :] == bytes((n * 0x9E3779B9 & 0xFFFFFFFF) >> 24 for n in range(LABELS))
    foreign = bytes(SIZE - LABELS) + b"NAMESPACE_INDEX\0" + bytes(LABELS - 16)
    file.write_bytes(foreign)
    text, status = run("labels", *nvdimm(file))
    assert status == 0
    assert "holds labels, left as it is" in text
    assert file.read_bytes() == foreign


def test_unarmed_refuses_to_write(file: Path) -> None:
    text, status = run("unarmed", *nvdimm(file, ",unarmed=on"))
    assert status == 7
    assert "is not armed" in text
    assert file.read_bytes() == bytes(SIZE)
    text, status = run("unarmed", *nvdimm(file))
    assert status == 0
    assert file.read_bytes()[:8] == b"armed\0\0\0"


def test_timer_wakes_the_cpu_ten_times() -> None:
    assert run("timer") == ("".join(f"tick {n}\n" for n in range(1, 11)), 0)


def test_fault_goes_on_after_every_exception() -> None:
    text, status = run("fault")
    assert status == 0
    assert text.splitlines() == [
        "divide by zero: vector 0, error code 0x0",
        "divide by zero again: vector 0, error code 0x0",
        "invalid instruction: vector 6, error code 0x0",
        "breakpoint: vector 3, error code 0x0",
        "read of an absent page: vector 14, error code 0x0, cr2 0x7f0000000000",
        "write to an absent page: vector 14, error code 0x2, cr2 0x7f0000000123",
        "null pointer: vector 14, error code 0x0, cr2 0x0",
        "write to code: vector 14, error code 0x3, cr2 0x100000",
        f"jump into data: vector 14, error code 0x11, cr2 {text.split('cr2 ')[5].split()[0]}",
        "address that is not canonical: vector 13, error code 0x0",
        "divide error whose handler faults: vector 0, error code 0x0",
        "  inside its handler: vector 14, error code 0x0, cr2 0x7f0000005000",
        "  back in the outer handler",
        "still running",
    ]


def test_count_leaves_a_log_that_verify_accepts_and_a_gap_it_finds(file: Path) -> None:
    assert run("count", *nvdimm(file), append="100 50") == (
        "counting on from 0\ncount 50\ncount 100\nstopped at 100\n",
        0,
    )
    assert run("count", *nvdimm(file), append="7") == ("counting on from 100\nstopped at 107\n", 0)
    assert run("verify", *nvdimm(file)) == ("107 records, no gap\n", 0)
    data = bytearray(file.read_bytes())
    data[4096 + 16 * 41 : 4096 + 16 * 42] = bytes(16)
    file.write_bytes(data)
    assert run("verify", *nvdimm(file)) == ("record 42 reads 0, 0x0\n1 record wrong up to 107\n", 3)


def test_a_log_that_went_round_may_miss_only_the_record_being_overwritten(file: Path) -> None:
    slots = (SIZE - LABELS - 4096) // 16
    total = slots + 5
    assert run("count", *nvdimm(file), append=f"{total} 0")[1] == 0
    data = bytearray(file.read_bytes())
    for record, wrong in ((total - slots + 1, False), (total - slots + 2, True)):
        at = 4096 + 16 * ((record - 1) % slots)
        data[at : at + 8] = struct.pack("<Q", 1 << 40 if wrong else 0)
        file.write_bytes(data)
        text, status = run("verify", *nvdimm(file))
        assert status == (3 if wrong else 0), text


def test_wrong_argument() -> None:
    assert run("bench-alu", append="12x") == ("ROUNDS: '12x' is not a number\n", 9)


@pytest.mark.parametrize(
    ("name", "rounds", "checksum"),
    [
        ("bench-alu", 0, 0x9E3779B97F4A7C15),
        ("bench-store", 3, sum(2 * 31**n for n in range(8)) & (1 << 64) - 1),
        ("bench-call", 20, 6765),
    ],
)
def test_bench_loops_do_their_work(name: str, rounds: int, checksum: int) -> None:
    assert run(name, append=str(rounds)) == (f"checksum 0x{checksum:016x}\n", 0)


def test_bench_copy_does_the_same_to_ram_and_to_the_nvdimm(file: Path) -> None:
    to_ram = run("bench-copy", append="600")
    assert to_ram[1] == 0
    assert run("bench-copy", *nvdimm(file), append="600") == to_ram
    assert file.read_bytes()[:8] == struct.pack("<Q", 512)


def test_echo_answers_by_interrupt() -> None:
    typed = b"one\nand a line longer than the receive FIFO\n\x04"
    serial = bytearray()
    ready = threading.Event()

    def sink(data: bytes) -> None:
        serial.extend(data)
        if serial == b"ready\n":
            ready.set()

    image = guest.find("echo")
    assert image is not None
    with board.build(MachineConfig(image=str(image.path)), board.Outputs(serial=sink)) as machine:
        com1 = machine.devices["com1"]
        assert isinstance(com1, Uart16550)

        def type_it() -> None:
            ready.wait(TIMEOUT_S)
            left = typed
            while left and machine.exit is None:
                left = left[machine.call(functools.partial(com1.receive, left)) :]

        typist = threading.Thread(target=type_it)
        typist.start()
        ended = machine.run(TIMEOUT_S)
        ready.set()
        typist.join()
    assert (ended.reason, ended.status) == ("power-off", 0)
    assert serial == b"ready\necho: one\necho: and a line longer than the receive FIFO\nbye\n"


def test_the_flat_guest_of_the_readme(file: Path) -> None:
    assert run("first", *nvdimm(file)) == ("hi\n", 0)
    assert file.read_bytes()[:8] == b"hello\0\0\0"
