"""Label writes (_DSM) in a recorded run: events that are durable when the device answers; traced, replayed, cut."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from emu import board
from emu.config import BackendConfig, MachineConfig, NvdimmConfig, PersistenceDomain
from emu.devices.nvdimm import nfit
from emu.devices.nvdimm.dsm import GET_LABEL_DATA, REVISION, SET_LABEL_DATA
from emu.devices.nvdimm.dsm_layouts import DsmInput, DsmTransfer
from emu.persistence.lab.explore import Limits
from emu.persistence.lab.findings import MISSING_FENCE, MISSING_FLUSH, ORDERING
from emu.persistence.lab.investigation import Answer, Question, investigate
from emu.persistence.lab.powerfail import PowerCut, run_with_power_cut
from emu.persistence.lab.workload import record
from emu.persistence.model.events import Event, LabelWrite, Store, label_address
from emu.persistence.model.rules import Media, Order, Rules
from emu.persistence.report.document import document
from emu.persistence.report.export import export
from emu.persistence.report.page import report_html
from emu.persistence.report.symbols import Symbols, load_symbols
from emu.persistence.report.terminal import report_lines
from emu.persistence.report.terminal_timeline import timeline_lines
from emu.units import GIB, KIB, MIB, PAGE

BASE, CODE, LABELS, AT = 4 * GIB, 0x100000, 128 * KIB, 4096
WRITE_PAGE, READ_PAGE = CODE + PAGE, CODE + 2 * PAGE
FLUSH_0, FLUSH_1, FLUSH_2 = (
    b"\x66\x0f\xae\x33",
    b"\x66\x0f\xae\x73\x40",
    b"\x66\x0f\xae\xb3\x80\0\0\0",
)  # clwb [rbx + ..]
SFENCE = b"\x0f\xae\xf8"
STORE_0, STORE_1, STORE_2 = b"\x48\xc7\x03\1\0\0\0", b"\x48\xc7\x43\x40\1\0\0\0", b"\x48\xc7\x83\x80\0\0\0\1\0\0\0"


def dsm(page: int) -> bytes:
    """mov eax, page; mov dx, 0xa18; out dx, eax"""
    return b"\xb8" + struct.pack("<I", page) + b"\x66\xba\x18\x0a\xef"


def call(function: int, data: bytes = b"") -> bytes:
    words = DsmInput(handle=nfit.handle(0), revision=REVISION, function=function).pack()
    return (words + DsmTransfer(offset=AT, length=1).pack() + data).ljust(PAGE, b"\0")


# Flag 1, the label byte, flag 2, each durable before the next. Recovery, on a memory in which the start was noted:
# flag 2 needs the label, the label needs flag 1; else it writes 1 to the exit port.
ORDERED = [STORE_0 + FLUSH_0 + SFENCE, dsm(WRITE_PAGE), STORE_1 + FLUSH_1 + SFENCE]
RECOVER = (
    dsm(READ_PAGE)
    + b"\x0f\xb6\x0c\x25" + struct.pack("<I", READ_PAGE + 8)  # movzx ecx, byte of the answer
    + b"\x48\x83\x7b\x40\0\x74\x05"  # cmp qword ptr [rbx + 64], 0; je
    + b"\x80\xf9\x07\x75\x0b"  # cmp cl, 7; jne bad
    + b"\x80\xf9\x07\x75\x10"  # cmp cl, 7; jne good
    + b"\x48\x83\x3b\0\x75\x0a"  # cmp qword ptr [rbx], 0; jne good
    + b"\xb8\1\0\0\0\x66\xba\xf4\0\xef"  # bad: exit port
    + b"\xf4"  # good
)  # fmt: skip


def guest(tmp_path: Path, steps: list[bytes] = ORDERED) -> MachineConfig:
    work = STORE_2 + FLUSH_2 + SFENCE + b"".join(steps) + b"\xf4"
    start = b"\x48\xbb" + struct.pack("<Q", BASE) + b"\x48\x83\xbb\x80\0\0\0\0\x0f\x85" + struct.pack("<i", len(work))
    image, pool = tmp_path / "labels.bin", tmp_path / "pool.img"
    code = (start + work + RECOVER).ljust(PAGE, b"\x90")
    image.write_bytes(code + call(SET_LABEL_DATA, b"\x07") + call(GET_LABEL_DATA))
    pool.write_bytes(bytes(4 * MIB))
    backend = BackendConfig(id="m", path=str(pool), size=4 * MIB, share=True)
    dimm = NvdimmConfig(backend=backend, label_size=LABELS)
    return MachineConfig(image=str(image), slots=1, nvdimms=(dimm,), ram_size=16 * MIB)


def ask(config: MachineConfig, rules: Rules | None = None, depth: int = 1) -> Answer:
    return investigate(Question(config, config, rules or Rules(), limits=Limits(depth=depth)))


def test_a_label_write_is_an_event(tmp_path: Path) -> None:
    workload = record(guest(tmp_path))
    assert workload.ended.reason == "halt"
    (number,) = [number for number, event in enumerate(workload.events) if isinstance(event, LabelWrite)]
    written = workload.events[number]
    assert isinstance(written, LabelWrite)
    assert (number, written[:2]) == (6, (label_address(0, AT), b"\x07"))
    assert workload.label(written.address) == (workload.dimms[0], AT)
    assert workload.label(BASE) is None
    assert workload.instructions[written.pc] == "out dx, eax"


@pytest.mark.parametrize("domain", list(PersistenceDomain))
@pytest.mark.parametrize("order", list(Order))
@pytest.mark.parametrize("depth", [1, 2])
def test_recoveries_see_the_label_of_their_crash_point(
    tmp_path: Path, domain: PersistenceDomain, order: Order, depth: int
) -> None:
    answer = ask(guest(tmp_path), Rules(domain, order), depth)
    assert (answer.complete, answer.failed) == (True, False)
    assert answer.counts == {"stores": 3, "nt_stores": 0, "flushes": 3, "fences": 3, "label_writes": 1}
    labels = {
        value & 0xFF
        for result in answer.exploration.results
        for unit, _, value in result.leaf.path()
        if unit == label_address(0, AT)
    }
    assert labels == {0, 7}


def test_a_label_write_is_there_wholly_or_not_at_all(tmp_path: Path) -> None:
    """A limit that the docs name: no power failure in the middle of one is tried, also where it has several words."""
    config = guest(tmp_path)
    image = Path(config.image or "")
    content = image.read_bytes()
    words = DsmInput(handle=nfit.handle(0), revision=REVISION, function=SET_LABEL_DATA).pack()
    write = (words + DsmTransfer(offset=AT, length=32).pack() + b"\x07" * 32).ljust(PAGE, b"\0")
    read = content[2 * PAGE :].replace(
        DsmTransfer(offset=AT, length=1).pack(), DsmTransfer(offset=AT, length=32).pack()
    )
    image.write_bytes(content[:PAGE] + write + read)
    answer = ask(config)
    assert (answer.complete, answer.failed) == (True, False)
    units = [label_address(0, AT) + 8 * number for number in range(4)]
    seen = {
        tuple(value for unit in units for asked, _, value in result.leaf.path() if asked == unit)
        for result in answer.exploration.results
    }
    whole = int.from_bytes(b"\x07" * 8, "little")
    assert {(whole,) * 4, (0,) * 4} <= seen <= {(whole,) * 4, (0,) * 4, ()}


@pytest.mark.parametrize(
    ("steps", "domain", "fails"),
    [
        ([STORE_0, dsm(WRITE_PAGE)], PersistenceDomain.ADR, True),
        ([STORE_0 + FLUSH_0, dsm(WRITE_PAGE)], PersistenceDomain.ADR, True),  # the write is no fence
        ([STORE_0, dsm(WRITE_PAGE), SFENCE], PersistenceDomain.EADR, True),  # and does not empty the store buffer
        ([STORE_0 + SFENCE, dsm(WRITE_PAGE)], PersistenceDomain.EADR, False),
        ([STORE_0 + FLUSH_0 + SFENCE, STORE_1 + FLUSH_1 + SFENCE, dsm(WRITE_PAGE)], PersistenceDomain.ADR, True),
    ],
)
def test_a_label_write_is_durable_at_once_and_orders_nothing(
    tmp_path: Path, steps: list[bytes], domain: PersistenceDomain, fails: bool
) -> None:
    answer = ask(guest(tmp_path, steps), Rules(domain))
    assert (answer.complete, answer.failed) == (True, fails)


@pytest.mark.parametrize(
    ("steps", "domain", "cause"),
    [
        ([STORE_0, dsm(WRITE_PAGE)], PersistenceDomain.ADR, (MISSING_FLUSH, Store, LabelWrite)),
        ([STORE_0 + FLUSH_0, dsm(WRITE_PAGE)], PersistenceDomain.ADR, (MISSING_FENCE, Store, LabelWrite)),
        ([STORE_0, dsm(WRITE_PAGE), SFENCE], PersistenceDomain.EADR, (MISSING_FENCE, Store, LabelWrite)),
        ([STORE_0 + FLUSH_0 + SFENCE, STORE_1 + FLUSH_1 + SFENCE, dsm(WRITE_PAGE)], PersistenceDomain.ADR,
         (ORDERING, LabelWrite, Store)),
    ],
)  # fmt: skip
def test_a_label_write_takes_part_in_causes(
    tmp_path: Path, steps: list[bytes], domain: PersistenceDomain, cause: tuple[str, type[Event], type[Event]]
) -> None:
    answer = ask(guest(tmp_path, steps), Rules(domain))
    events = answer.workload.events
    (failure,) = answer.failures
    assert failure.persisted is not None
    assert (failure.kind, type(events[failure.lost[0]]), type(events[failure.persisted])) == cause


def test_a_run_that_only_writes_labels_is_judged(tmp_path: Path) -> None:
    assert not ask(guest(tmp_path)).empty
    image, pool = tmp_path / "labels.bin", tmp_path / "pool.img"
    config = guest(tmp_path)
    image.write_bytes((dsm(WRITE_PAGE) + b"\xf4").ljust(PAGE, b"\x90") + call(SET_LABEL_DATA, b"\x07"))
    pool.write_bytes(bytes(4 * MIB))
    assert not ask(config).empty


def test_an_exported_memory_has_its_labels(tmp_path: Path) -> None:
    answer = ask(guest(tmp_path, [STORE_0, dsm(WRITE_PAGE)]))
    exported = export(answer, str(tmp_path / "out"))
    (path,) = exported[0]["files"]
    content = Path(path).read_bytes()
    assert (content[0], content[4 * MIB - LABELS + AT]) == (0, 7)
    assert f"label-size={LABELS}" in exported[0]["command"]


def test_a_label_write_in_a_finding_is_said_on_the_terminal(tmp_path: Path) -> None:
    """It has no offset in the memory, and once ended the report with an internal error."""
    answer = ask(guest(tmp_path, [STORE_0, dsm(WRITE_PAGE)]))
    lines = list(report_lines(document(answer, Symbols())))
    (persisted,) = [line for line in lines if line.startswith("   persisted ")]
    assert f": 1 byte at offset {AT:#x} of the label area, " in persisted
    (trace,) = [line for line in lines if line.startswith("trace: ")]
    assert trace.endswith(" 1 label write, 3 crash points")


def test_labels_are_not_in_the_page_cache(tmp_path: Path) -> None:
    """The device makes its write durable, also where the guest's flushes mean nothing."""
    answer = ask(guest(tmp_path), Rules(media=Media.PAGE_CACHE))
    assert answer.complete
    assert answer.failed
    assert all(LabelWrite not in {type(answer.workload.events[number]) for number in failure.lost}
               for failure in answer.failures)  # fmt: skip


@pytest.mark.parametrize("state", ["none", "all", None])
def test_a_power_cut_leaves_no_label_from_the_future(tmp_path: Path, state: str | None) -> None:
    config = guest(tmp_path)
    pool = Path(config.nvdimms[0].backend.path or "")
    seen = set()
    for event in range(11):
        pool.write_bytes(bytes(4 * MIB))
        run_with_power_cut(config, PowerCut(event, 0, state, event), board.Outputs())
        content = pool.read_bytes()
        flag_1, flag_2, label = content[0], content[64], content[4 * MIB - LABELS + AT]
        assert label == (7 if event > 6 else 0), event
        assert flag_1 or not label, event
        assert label or not flag_2, event
        seen.add((flag_1, label, flag_2))
    assert {(0, 0, 0), (1, 7, 1)} <= seen


def test_reports_show_it(tmp_path: Path) -> None:
    answer = ask(guest(tmp_path))
    symbols = load_symbols(answer.question.workload.image)
    result = document(answer, symbols)
    shown = result["timeline"]["events"][6]
    assert {key: shown[key] for key in ("kind", "nvdimm", "label_offset", "size", "data")} == {
        "kind": "label-write", "nvdimm": "nvdimm0", "label_offset": AT, "size": 1, "data": "07",
    }  # fmt: skip
    lines = timeline_lines(answer)
    (row,) = [line for line in lines if "nvdimm0 label+0x1000" in line]
    assert row.split("label+0x1000")[1].strip() == "|  |l--|"
    page = report_html(result, answer, symbols)
    assert "label-write of 1 byte at offset 0x1000 of the label area = 07" in page
    assert "1 label write" in page
    assert not any(isinstance(event, Store) and event.address > 1 << 59 for event in answer.workload.events)
