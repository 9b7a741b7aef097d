"""Is it durable, what does it wait for, and what is left when the power is cut here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from emu.config import BackendConfig, BackendKind, NvdimmConfig
from emu.errors import EmuError
from emu.gdb import power, travel
from emu.memory import open_backend
from tests.gdb_client import CODE, PMEM, Client
from tests.unit.gdb.debugged import Debugged, debugged

# mov rbx, PMEM; mov eax, 7; mov [rbx], rax; clwb [rbx]; sfence; mov [rbx+64], rax; clwb [rbx+64];
# movnti [rbx+128], rax; mov [rbx+192], rax; hlt
CODE_BYTES = bytes.fromhex(
    "48bb0000000001000000b807000000488903660fae330faef848894340660fae7340480fc38380000000"
    "488983c0000000f4"
)  # fmt: skip
END = CODE + len(CODE_BYTES) - 1

# The same in blocks: the last flush, MOVNTI and the last store begin one each.
BLOCKS = (
    CODE_BYTES[:29] + b"\xeb\x00" + CODE_BYTES[29:34] + b"\xeb\x00" + CODE_BYTES[34:42] + b"\xeb\x00" + CODE_BYTES[42:]
)

Start = Callable[..., tuple[Debugged, Client]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    with ExitStack() as stack:

        def begin(code: bytes = CODE_BYTES) -> tuple[Debugged, Client]:
            machine = stack.enter_context(debugged(tmp_path, code))
            client = machine.connect()
            stack.callback(client.close)
            client.ask(b"Z0,%x,1" % (CODE + len(code) - 1))
            assert client.ask(b"c") == b"T05swbreak:;thread:01;"
            return machine, client

        yield begin


def test_what_each_store_waits_for(start: Start) -> None:
    _, gdb = start()
    assert (
        gdb.monitor(f"durable {PMEM:#x} 8") == f"8 bytes at {PMEM:#x} (nvdimm0+0x0): durable, 07 00 00 00 00 00 00 00\n"
    )
    flushed = gdb.monitor(f"durable {PMEM + 64:#x}").splitlines()
    assert flushed[0] == f"{PMEM + 64:#x} (nvdimm0+0x40): NOT durable, 07 in the caches"
    assert flushed[1].startswith(f"  event 3: stored by {CODE + 25:#x}: mov qword ptr [rbx + 0x40], rax")
    assert flushed[2] == "  waits for a fence behind the flush of its cache line"
    assert flushed[3].startswith(f"  flushed by {CODE + 29:#x}: clwb")
    assert flushed[4] == f"  if the power fails now, the 8 bytes at {PMEM + 64:#x} hold one of: 0x0, 0x7"
    assert "waits for a fence: it bypassed the caches" in gdb.monitor(f"durable {PMEM + 128:#x}")
    assert "waits for a flush of its cache line, then a fence" in gdb.monitor(f"durable {PMEM + 192:#x}")


def test_addresses_that_cannot_be_durable(start: Start) -> None:
    _, gdb = start()
    assert "is no persistent memory" in gdb.monitor("durable 0x1000")
    assert "maps nothing" in gdb.monitor("durable 0xffff800000000000")
    assert "needs an address" in gdb.monitor("durable")
    assert "durable ADDRESS" in gdb.monitor("durable here")


def test_the_power_is_cut_the_file_keeps_what_was_durable_and_the_guest_boots_again(
    start: Start, tmp_path: Path
) -> None:
    _, gdb = start()
    said = gdb.monitor("crash").splitlines()
    assert said[0] == "the power failed before event 7: 3 stores are lost"
    assert [line.split(":")[0] for line in said[1:4]] == ["  event 3", "  event 5", "  event 6"]
    assert gdb.rip == CODE
    kept = (tmp_path / "pmem.img").read_bytes()
    assert kept == (7).to_bytes(8, "little").ljust(len(kept), b"\0")
    assert gdb.ask(b"bs") == b"T05replaylog:begin;thread:01;"
    assert gdb.ask(b"c") == b"T05swbreak:;thread:01;"
    assert "event 3" in gdb.monitor(f"durable {PMEM + 64:#x}")


def test_a_second_cut_falls_back_to_what_the_first_one_left(start: Start, tmp_path: Path) -> None:
    _, gdb = start()
    gdb.monitor("crash")
    gdb.ask(b"Z0,%x,1" % (CODE + 18))  # the first store is made and not flushed; it stores what is there already
    assert gdb.ask(b"c") == b"T05swbreak:;thread:01;"
    assert "hold one of: 0x7\n" in gdb.monitor(f"durable {PMEM:#x}")
    assert "1 store is lost" in gdb.monitor("crash")
    kept = (tmp_path / "pmem.img").read_bytes()
    assert kept == (7).to_bytes(8, "little").ljust(len(kept), b"\0")


def test_durability_goes_back_in_time_too(start: Start) -> None:
    _, gdb = start()
    gdb.ask(b"Z0,%x,1" % (CODE + 25))
    assert gdb.ask(b"bc") == b"T05swbreak:;thread:01;"
    assert "durable, 00" in gdb.monitor(f"durable {PMEM + 64:#x}")
    for _ in range(3):
        gdb.ask(b"bs")
    assert "NOT durable" not in gdb.monitor(f"durable {PMEM:#x}")  # not stored yet
    gdb.ask(b"s")
    assert "waits for a flush" in gdb.monitor(f"durable {PMEM:#x}")
    gdb.ask(b"s")
    assert "waits for a fence" in gdb.monitor(f"durable {PMEM:#x}")
    gdb.ask(b"s")
    assert "): durable, 07" in gdb.monitor(f"durable {PMEM:#x}")


def test_what_the_debugger_stores_is_not_durable(start: Start) -> None:
    _, gdb = start()
    gdb.ask(b"M%x,1:55" % (PMEM + 0x200))
    assert "NOT durable, 55" in gdb.monitor(f"durable {PMEM + 0x200:#x}")


def test_of_too_many_events_the_oldest_are_kept_as_what_they_left(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The past is shorter then; what is durable stays right."""
    monkeypatch.setattr(power, "_MOST_EVENTS", 2)
    monkeypatch.setattr(travel, "_FIRST_INTERVAL", 1)
    _, gdb = start(BLOCKS)
    assert "): durable, 07" in gdb.monitor(f"durable {PMEM:#x}")
    assert "event 3: stored by" in gdb.monitor(f"durable {PMEM + 64:#x}")
    assert gdb.ask(b"bs") == b"T05thread:01;"
    assert "durable, 00" in gdb.monitor(f"durable {PMEM + 192:#x}")
    while gdb.ask(b"bs") == b"T05thread:01;":
        pass
    assert gdb.rip > CODE  # not all the way
    assert "): durable, 07" in gdb.monitor(f"durable {PMEM:#x}")
    assert gdb.ask(b"c") == b"T05swbreak:;thread:01;"
    assert "the power failed before event 7: 3 stores are lost" in gdb.monitor("crash")


def test_memory_is_not_plugged_under_a_debugger(start: Start) -> None:
    machine, _ = start()
    engine = machine.machine
    more = NvdimmConfig(backend=BackendConfig(id="more", kind=BackendKind.RAM, size=2 << 20))
    with open_backend(more.backend) as backend, pytest.raises(EmuError, match="recorded or debugged"):
        engine.call(lambda: engine.slots.plug_backend(more, backend, hot=True))
