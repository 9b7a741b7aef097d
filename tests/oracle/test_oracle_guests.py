"""The same image under QEMU and under emu: same serial text, same exit status, same backing files byte for byte."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from emu import guest
from tests.oracle.qemu_run import Nvdimm, Outcome, run_emu, run_qemu


@dataclass(frozen=True)
class Run:
    """One boot: the guest, its arguments, and what it must end with."""

    name: str
    append: str = ""
    status: int = 0


@dataclass(frozen=True)
class Case:
    """Boots one after the other on the same NVDIMMs; each NVDIMM is given as (size, label size, unarmed, slot)."""

    runs: tuple[Run, ...]
    nvdimms: tuple[tuple[str, str, bool, int | None], ...] = (("16M", "128K", False, None),)
    persistence: str | None = None


CRASH = [image.name for image in guest.images() if image.group == "crash"]
BARE = ("16M", "", False, None)
CASES = {
    "hello": Case((Run("hello"), Run("hello"), Run("hello"))),
    "hello-unarmed": Case((Run("hello"),), (("16M", "128K", True, None),)),
    "hello-nothing": Case((Run("hello", status=5),), ()),
    "nfit": Case((Run("nfit"),)),
    "nfit-nothing": Case((Run("nfit", status=5),), ()),
    "nfit-adr": Case((Run("nfit"),), (BARE,), "mem-ctrl"),
    "nfit-eadr": Case((Run("nfit"),), (BARE,), "cpu"),
    "nfit-three": Case(
        (Run("nfit"),), (("16M", "128K", False, None), ("8M", "", True, None), ("4M", "2M", False, None))
    ),
    "nfit-slot": Case((Run("nfit"),), (("16M", "128K", False, 2),)),
    "labels": Case((Run("labels"), Run("labels"))),
    "labels-none": Case((Run("labels"),), (BARE,)),
    "labels-two": Case((Run("labels"),), (BARE, ("8M", "256K", False, None))),
    "unarmed": Case((Run("unarmed", status=7),), (("16M", "128K", True, None),)),
    "armed": Case((Run("unarmed"),)),
    "armed-then-not": Case((Run("unarmed", status=7),), (BARE, ("16M", "128K", True, None))),
    "timer": Case((Run("timer"),), ()),
    "fault": Case((Run("fault"),), ()),
    "count": Case(
        (Run("verify", status=3), Run("count", "100 40"), Run("verify"), Run("count", "70000 20000"), Run("verify"))
    ),
    "count-usage": Case((Run("count", "many", status=9),)),
    "bench-store": Case((Run("bench-store", "1000"),)),
    "bench-copy": Case((Run("bench-copy", "1000"),)),
    "bench-alu": Case((Run("bench-alu", "1000"),), ()),
    "bench-call": Case((Run("bench-call", "15"),), ()),
    "bench-hash": Case((Run("bench-hash", "50"), Run("bench-hash", "50"))),
    # First the workload, then its recovery.
    **{name: Case((Run(name), Run(name))) for name in CRASH},
}


def image(name: str) -> Path:
    found = guest.find(name)
    assert found is not None
    return found.path


def nvdimms(case: Case, folder: Path) -> tuple[Nvdimm, ...]:
    folder.mkdir()
    return tuple(
        Nvdimm(folder / f"{number}.img", size, label_size, unarmed, slot)
        for number, (size, label_size, unarmed, slot) in enumerate(case.nvdimms)
    )


def compare(ours: Outcome, theirs: Outcome) -> None:
    assert ours.serial == theirs.serial
    assert ours.status == theirs.status
    for number, (left, right) in enumerate(zip(ours.files, theirs.files, strict=True)):
        # Not compared in the assertion itself: pytest would print megabytes.
        same = left == right
        assert same, f"backing file {number} differs"


@pytest.mark.parametrize("name", CASES)
def test_same_as_qemu(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    for_qemu, for_emu = nvdimms(case, tmp_path / "qemu"), nvdimms(case, tmp_path / "emu")
    for run in case.runs:
        theirs = run_qemu(image(run.name), for_qemu, append=run.append, persistence=case.persistence)
        assert theirs.status == run.status, theirs.serial
        compare(run_emu(image(run.name), for_emu, append=run.append, persistence=case.persistence), theirs)


def test_echo_under_qemu() -> None:
    """tests/integration has the same for emu, typed into the machine itself."""
    theirs = run_qemu(image("echo"), stdin=b"one\nand a line longer than the receive FIFO\n\x04")
    assert theirs.serial == "ready\necho: one\necho: and a line longer than the receive FIFO\nbye\n"
    assert theirs.status == 0


def test_pvh_entry_same_as_qemu(tmp_path: Path) -> None:
    """Without its Multiboot header the image boots by its PVH note, where arguments come without a name."""
    whole = image("count").read_bytes()
    header = whole.index((0x1BADB002).to_bytes(4, "little"))
    pvh = tmp_path / "pvh.elf"
    pvh.write_bytes(whole[:header] + bytes(4) + whole[header + 4 :])
    case = Case((Run("count"),))
    theirs = run_qemu(pvh, nvdimms(case, tmp_path / "qemu"), append="30 10")
    assert "stopped at 30" in theirs.serial
    compare(run_emu(pvh, nvdimms(case, tmp_path / "emu"), append="30 10"), theirs)


def test_qemu_with_all_flush_instructions(tmp_path: Path) -> None:
    """QEMU's default CPU has no CLWB; with every feature on, the guests take the other path to the same end."""
    plain = run_qemu(image("hello"), nvdimms(CASES["hello"], tmp_path / "plain"))
    rich = run_qemu(image("hello"), nvdimms(CASES["hello"], tmp_path / "rich"), cpu="max")
    compare(rich, plain)


def test_a_command_line_that_is_too_long_is_refused_by_the_guest() -> None:
    """emu refuses it before the guest runs."""
    theirs = run_qemu(image("hello"), append="x" * 5000)
    assert theirs.serial == "panic: the command line has more than 4095 bytes\n"
    assert theirs.status == 11
