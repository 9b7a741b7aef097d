"""A guest ends with the same memory, registers, virtual time and trace, however often and whenever it is stopped."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from functools import partial
from itertools import count
from pathlib import Path
from random import Random
from typing import Any

import pytest

from emu import board
from emu.config import BackendConfig, BackendKind, MachineConfig, NvdimmConfig
from emu.errors import EmuError
from emu.guest import images
from emu.machine import Machine
from emu.persistence.lab.workload import record
from emu.persistence.model.events import Store
from tests.fuzzing import times
from tests.integration.qmp_machine import Client, Emu, QmpFailure

MIB, GIB = 1 << 20, 1 << 30
WAIT_S = 60
# An interrupt gate for vector 20h, SYSCALL to `entry`, the PIC's IRQ 0 at vector 20h, and the PIT at 59.7 kHz; then:
#   again: rdtsc; imul r14, r14, 31; add r14, rax; mov rdx, r13; and edx, 63; shl edx, 6
#          mov [rbx + rdx], r14; clwb [rbx + rdx]; sfence; syscall; test r13b, 15; jnz 1f; hlt
#   1:     inc r13; cmp r13, TURNS; jb again; cli; rdtsc
#          mov [rbx + 0x1000], r12; ... r13; ... r14; ... r15; ... rax; hlt
#   entry: add r14, rcx; mov r11, rcx; jmp rcx
#   tick:  push rax; push rdx; rdtsc; imul r15, r15, 31; add r15, rax; inc r12; mov al, 20h; out 20h, al
#          pop rdx; pop rax; iretq
SET_UP = bytes.fromhex(
    "48c7c40000300048c7c700002000488d05f10000006689870002000066c78702020000080066c78704020000008e48c1e810668987060200"
    "00488d05dc0000000f0118b9800000c00f3283c8010f30b9810000c031c0ba080000000f30b9820000c0488d059500000031d20f30b011"
    "e620b020e621b004e621b001e621b0fee621b034e643b014e640b000e64048bb00000000010000004d31e44d31ed4d31f64d31fffb"
)
LOOP = bytes.fromhex("0f314d6bf61f4901c64c89ea83e23fc1e2064c893413660fae34130faef80f0541f6c50f7501f449ffc54981fd")
REST = bytes.fromhex(
    "72cdfa0f314c89a3001000004c89ab081000004c89b3101000004c89bb1810000048898320100000f44901ce4989cbffe150520f314d6bff"
    "1f4901c749ffc4b020e6205a5848cfff0f0000200000000000"
)


def program(turns: int) -> bytes:
    return SET_UP + LOOP + turns.to_bytes(4, "little") + REST


# What a system call does first in a random guest: clocks, waits, devices, stores of several kinds, the x87, flags. RBX
# is the NVDIMM, R14 a sum of all that was seen; RAX, RDX, RSI, RDI and R8 to R10 are free.
PIECES = [bytes.fromhex(code) for code in (
    "0f31 4901c6",  # rdtsc; add r14, rax
    "e440 4901c6",  # in al, 40h (the PIT's counter); add r14, rax
    "b000 e670 e471 4901c6",  # seconds of the RTC
    "b00a e620 e420 4901c6",  # requests that wait at the PIC
    "fb f4",  # sti; hlt
    "4c89b300020000 660faeb300020000 0faef8",  # mov [rbx + 200h], r14; clwb; sfence
    "4d89f0 4c0fc3b340020000",  # movnti [rbx + 240h], r14
    "f04c0fc18380020000",  # lock xadd [rbx + 280h], r8
    "488dbbc0020000 b90d000000 f3aa",  # lea rdi, [rbx + 2c0h]; mov ecx, 13; rep stosb
    "d9eb dd9b00030000 9b",  # fldpi; fstp qword [rbx + 300h]; fwait
    "9c 58 4901c6 50 9d",  # pushf; pop rax; add r14, rax; push rax; popf
    "41f6c601 7403 49ffc6",  # test r14b, 1; jz 1f; inc r14; 1:
    "0fa2",  # cpuid, of whatever
    "e680",  # out 80h, al
)]  # fmt: skip


def random_program(random: Random, turns: int) -> bytes:
    """A guest whose system calls are made of PIECES. CPUID and REP change RBX and RCX, which it needs."""
    pieces = [random.choice(PIECES) for _ in range(random.randint(1, 12))]
    code = bytes.fromhex("5351") + b"".join(pieces) + bytes.fromhex("595b")  # push rbx; push rcx; ...
    if pieces.count(PIECES[12]):
        code = code.replace(PIECES[12], b"\x53" + PIECES[12] + b"\x5b")
    start = bytearray(SET_UP)
    for place in (b"\x48\x8d\x05\xf1\0\0\0", b"\x48\x8d\x05\xdc\0\0\0"):  # where `tick` and the IDT's address are
        at = start.index(place) + 3
        start[at : at + 4] = (place[3] + len(code)).to_bytes(4, "little")
    entry = REST.index(bytes.fromhex("4901ce4989cb"))
    return bytes(start) + LOOP + turns.to_bytes(4, "little") + REST[:entry] + code + REST[entry:]


def configured(folder: Path, image: str) -> MachineConfig:
    backend = BackendConfig(id="m", kind=BackendKind.RAM, size=2 * MIB)
    return MachineConfig(image=image, slots=1, nvdimms=(NvdimmConfig(backend=backend),), ram_size=16 * MIB)


@pytest.fixture
def guest(tmp_path: Path) -> MachineConfig:
    (tmp_path / "guest.bin").write_bytes(program(600))
    return configured(tmp_path, str(tmp_path / "guest.bin"))


def outcome(config: MachineConfig, disturb: Callable[[Machine], None]) -> tuple[Any, ...]:
    """How a run ended, with everything that can be seen of the machine, while ``disturb`` ran in another thread."""
    with board.build(config, board.Outputs(serial=lambda data: None)) as machine:
        thread = threading.Thread(target=disturb, args=(machine,))
        thread.start()
        ended = machine.run(WAIT_S)
        thread.join()
        # How far the clock has looked is no matter of the guest's: it looks whenever the machine stands still.
        for clock in ("rtc", "pit"):
            machine.devices[clock].catch_up(machine.cpu.now())  # type: ignore[attr-defined]
        memory = [machine.memory.read(region.gpa, region.size) for region in machine.memory.regions]
        return ended, machine.cpu.now(), machine.cpu.registers(), machine.save(), memory


@pytest.mark.fuzz
def test_a_hundred_disturbed_runs_are_like_one_that_is_left_alone(guest: MachineConfig) -> None:
    plain = outcome(guest, lambda machine: None)
    assert plain[0].reason == "halt"
    assert int.from_bytes(plain[-1][-1][0x1000:0x1008], "little") > 20  # the timer ticked
    stops = seed = 0
    while seed < times(100) or stops <= 300:  # more where the machine is so busy that a guest is rarely met
        random = Random(seed)

        def disturb(machine: Machine, random: Random = random) -> None:
            nonlocal stops
            while machine.exit is None:
                machine.pause()
                stops += machine.paused
                time.sleep(random.random() * 0.0005)
                machine.resume()
                time.sleep(random.random() * 0.001)

        assert outcome(guest, disturb) == plain, f"run {seed}"
        seed += 1


def bother(machine: Machine, random: Random) -> None:
    """Stop, ask and let go at random, as an operator's tools do."""
    while machine.exit is None:
        kind = random.randrange(4)
        if kind == 0:
            machine.pause()
            time.sleep(random.random() * 0.0005)
            machine.resume()
        elif kind == 1:
            with contextlib.suppress(EmuError):  # it has ended
                machine.call(machine.cpu.registers)
        elif kind == 2:
            machine.cpu.request_stop()
        time.sleep(random.random() * 0.001)


@pytest.mark.fuzz
def test_random_guests_do_not_notice_that_they_are_watched(tmp_path: Path) -> None:
    for seed in range(times(4)):
        random = Random(seed)
        path = tmp_path / f"{seed}.bin"
        path.write_bytes(random_program(random, 300))
        config = configured(tmp_path, str(path))
        plain = outcome(config, lambda machine: None)
        assert plain[0].reason == "halt", seed
        for _ in range(times(4)):
            assert outcome(config, partial(bother, random=random)) == plain, f"guest {seed}"


def test_a_stop_in_every_block_changes_nothing(guest: MachineConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EMU_STOP_EVERY_BLOCK", raising=False)
    plain = outcome(guest, lambda machine: None)
    monkeypatch.setenv("EMU_STOP_EVERY_BLOCK", "1")
    assert outcome(guest, lambda machine: None) == plain


@pytest.mark.parametrize("image", ["guest.bin", "list-broken", "alloc-fixed", "undo-fixed", "ring-broken"])
def test_a_trace_is_the_same_with_a_stop_in_every_block(
    image: str, guest: MachineConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = (
        guest
        if image == "guest.bin"
        else configured(tmp_path, str(next(found.path for found in images() if found.name == image)))
    )
    monkeypatch.delenv("EMU_STOP_EVERY_BLOCK", raising=False)
    plain = record(config)
    assert len(plain.events) > 10
    monkeypatch.setenv("EMU_STOP_EVERY_BLOCK", "1")
    assert record(config) == plain


def test_the_traced_guest_is_the_guest_that_runs_alone(guest: MachineConfig) -> None:
    # 605 stores, 600 flushes and 600 fences: nothing is lost behind RDTSC, and virtual time is that of a plain run.
    events = record(guest).events
    assert len(events) == 605 + 600 + 600
    plain = outcome(guest, lambda machine: None)
    last = [event for event in events if isinstance(event, Store)][-1]
    assert last.data == plain[-1][-1][0x1020:0x1028]  # its last time stamp


def stop_and_go(client: Client) -> int:
    """Stop the guest and let it go on until it has ended; how often."""
    times = 0
    try:
        while True:
            client.ask("stop")
            client.ask("cont")
            times += 1
    except (QmpFailure, AssertionError, BrokenPipeError, ConnectionResetError):  # it has ended; the server hung up
        return times


def test_stop_and_cont_over_qmp_change_nothing(tmp_path: Path) -> None:
    plain, stops = None, 0
    for number in count():
        if number >= 4 and stops > 60:  # on a busy machine the client comes late, and the guest ends sooner
            break
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "guest.bin").write_bytes(program(40_000))
        words = (str(folder / "guest.bin"), "-m", "16M", "--nvdimm", f"file={folder}/pmem,size=2M", "-S")
        with Emu(folder, *words) as emu:
            client = emu.client()
            client.ask("cont")
            if number:
                stops += stop_and_go(client)
            found = emu.ended(), (folder / "pmem").read_bytes()
            plain = plain or found
            assert found[0] == (0, "", "")
            assert found == plain
