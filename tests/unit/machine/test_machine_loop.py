"""The run loop with a real CPU and flat guests of a few bytes: every end, every request from other threads."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from emu import board
from emu.config import BackendConfig, MachineConfig, NvdimmConfig, RunOptions
from emu.devices.contract import ExitRequest
from emu.errors import EmuError, HostError, UsageError
from emu.machine import Exit, Machine, RunState

MIB = 1 << 20
COUNTER = 0x200000
WAIT_S = 60

HALT = b"\xf4"
IDLE = b"\xfb\xf4\xeb\xfd"  # sti; again: hlt; jmp again
COUNT = bytes.fromhex("48ff042500002000ebf6")  # again: inc qword [0x200000]; jmp again
SAY_3 = b"\xb0\x03\xe6\xf4\xeb\xfe"  # mov al, 3; out 0xf4, al; jmp $
INVALID = b"\x0f\x0b"
REBOOT = b"\x66\xba\xf9\x0c\xb0\x06\xee\xeb\xfe"  # mov dx, 0xcf9; mov al, 6; out dx, al; jmp $
SEND = b"\x66\xba\xf8\x03\xb0\x78\xee\xeb\xfe"  # mov dx, 0x3f8; mov al, 'x'; out dx, al; jmp $
# Unmask the second PIC; enable the PM timer's event; wait. There is no IDT, so its interrupt is a triple fault.
PM_TIMER = bytes.fromhex("b000e6a166ba020666b8010066effbf4ebfd")
FILL = bytes.fromhex("48b8000000000100000048c7c10000100048894c08f84883e90875f5ebec")  # stores to 1 MiB of NVDIMM


class Events:
    """Remembers what the machine tells."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def machine_event(self, name: str, data: Mapping[str, Any]) -> None:
        self.names.append(name)


class Runner:
    """A machine whose loop runs in a thread of its own."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.events = Events()
        machine.observers.append(self.events)
        self._pool = ThreadPoolExecutor(1)

    def go(self, timeout: float | None = None) -> None:
        self._ended = self._pool.submit(self.machine.run, timeout)

    def ended(self) -> Exit:
        return self._ended.result(WAIT_S)

    def counter(self) -> int:
        return int.from_bytes(self.machine.memory.read(COUNTER, 8), "little")

    def wait_for(self, condition: Callable[[], bool]) -> None:
        end = time.monotonic() + WAIT_S
        while not condition():
            assert time.monotonic() < end
            time.sleep(0.001)

    def state(self) -> str:
        return self.machine.state.value

    def close(self) -> None:
        self.machine.end(ExitRequest("quit", 0))
        self._pool.shutdown()
        self.machine.close()


Make = Callable[..., Runner]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    made: list[Runner] = []

    def build(
        code: bytes,
        *,
        serial: Callable[[bytes], None] = lambda data: None,
        options: RunOptions = RunOptions(),  # noqa: B008 - cannot be changed
        **changes: Any,
    ) -> Runner:
        image = tmp_path / f"guest{len(made)}.bin"
        image.write_bytes(code)
        config = MachineConfig(image=str(image), ram_size=16 * MIB, **changes)
        made.append(Runner(board.build(config, board.Outputs(serial=serial), options)))
        return made[-1]

    yield build
    for runner in made:
        runner.close()


@pytest.mark.parametrize(
    ("code", "reason", "status", "value"),
    [(HALT, "halt", 0, None), (SAY_3, "exit-port", 7, 3), (INVALID, "triple-fault", 6, None)],
    ids=["halt", "exit port", "triple fault"],
)
def test_how_a_guest_ends(make: Make, code: bytes, reason: str, status: int, value: int | None) -> None:
    runner = make(code)
    ended = runner.machine.run(WAIT_S)
    assert (ended.reason, ended.status, ended.code) == (reason, status, value)
    assert runner.machine.exit == ended
    assert runner.state() == "shutdown"
    assert runner.events.names == ["SHUTDOWN"]


def test_a_triple_fault_names_the_exception_and_where(make: Make) -> None:
    assert make(INVALID).machine.run(WAIT_S).detail == "triple fault after #UD invalid opcode at RIP 0x100000"


@pytest.mark.parametrize("code", [COUNT, IDLE], ids=["busy", "idle"])
def test_timeout_and_end_from_outside_reach_a_busy_and_an_idle_guest(make: Make, code: bytes) -> None:
    assert make(code).machine.run(0.05).reason == "timeout"
    runner = make(code)
    runner.go()
    runner.machine.end(ExitRequest("interrupted", 130))
    runner.machine.end(ExitRequest("quit", 0))
    assert runner.ended()[:2] == ("interrupted", 130)


def test_the_timeout_also_ends_a_paused_machine(make: Make) -> None:
    runner = make(COUNT, options=RunOptions(start_paused=True))
    assert runner.machine.run(0.05).reason == "timeout"
    assert runner.counter() == 0


def test_an_end_before_the_start_wins(make: Make) -> None:
    runner = make(COUNT)
    runner.machine.end(ExitRequest("quit", 0))
    assert runner.machine.run().reason == "quit"
    assert runner.counter() == 0


@pytest.mark.parametrize("code", [COUNT, IDLE], ids=["busy", "idle"])
def test_a_call_runs_in_the_machines_thread_and_gives_results_and_errors_back(make: Make, code: bytes) -> None:
    runner = make(code)
    machine = runner.machine
    assert machine.call(threading.get_ident) == threading.get_ident()
    runner.go()
    runner.wait_for(lambda: runner.state() == "running")
    inside = machine.call(threading.get_ident)
    assert inside != threading.get_ident()
    assert machine.call(lambda: machine.call(threading.get_ident)) == inside
    with pytest.raises(ZeroDivisionError):
        machine.call(lambda: 1 // 0)
    assert machine.call(lambda: 5) == 5
    machine.end(ExitRequest("quit", 0))
    runner.ended()
    assert machine.call(threading.get_ident) == threading.get_ident()


def test_no_call_is_left_without_an_answer_when_the_machine_ends(make: Make) -> None:
    for _ in range(10):
        runner = make(COUNT)
        answers: list[int] = []

        def ask(runner: Runner = runner, answers: list[int] = answers) -> None:
            answers.extend(runner.machine.call(partial(int, number)) for number in range(20))

        with ThreadPoolExecutor(4) as askers:
            asked = [askers.submit(ask) for _ in range(4)]
            runner.go()
            runner.machine.call(partial(runner.machine.end, ExitRequest("quit", 0)))
            for one in asked:
                one.result(WAIT_S)
        assert runner.ended().reason == "quit"
        assert sorted(answers) == sorted(4 * [*range(20)])


def test_pause_stands_still_and_resume_goes_on(make: Make) -> None:
    runner = make(COUNT)
    machine = runner.machine
    runner.go()
    runner.wait_for(lambda: runner.counter() > 0)
    machine.pause()
    assert machine.paused
    assert runner.state() == "paused"
    before = (runner.counter(), machine.call(machine.cpu.registers))
    machine.pause(RunState.FINISH_MIGRATE)
    assert runner.state() == "finish-migrate"
    assert (runner.counter(), machine.call(machine.cpu.registers)) == before
    machine.resume()
    machine.resume()
    assert runner.state() == "running"
    runner.wait_for(lambda: runner.counter() > before[0])
    assert runner.events.names == ["STOP", "RESUME"]


def test_an_idle_guest_can_be_paused_resumed_and_ended(make: Make) -> None:
    runner = make(IDLE)
    runner.go()
    for _ in range(5):
        runner.machine.pause()
        runner.machine.resume()
    runner.machine.end(ExitRequest("quit", 0))
    assert runner.ended().reason == "quit"


@pytest.mark.parametrize("paused", [False, True])
def test_who_lets_it_run_before_the_loop_has_begun_does_not_keep_it_from_booting(make: Make, paused: bool) -> None:
    runner = make(COUNT, options=RunOptions(start_paused=paused))
    runner.machine.pause()
    runner.machine.resume()
    runner.go()
    runner.wait_for(lambda: runner.counter() > 0)


def test_a_pause_before_the_loop_holds_and_boots_only_once_resumed(make: Make) -> None:
    runner = make(COUNT)
    runner.machine.pause()
    runner.go()
    assert runner.machine.call(runner.counter) == 0
    assert runner.state() == "paused"
    runner.machine.resume()
    runner.wait_for(lambda: runner.counter() > 0)


def test_an_ended_machine_is_neither_paused_nor_resumed(make: Make) -> None:
    runner = make(HALT)
    runner.machine.run(WAIT_S)
    runner.machine.pause()
    runner.machine.resume()
    assert runner.state() == "shutdown"
    assert not runner.machine.paused
    assert runner.events.names == ["SHUTDOWN"]


def test_a_reset_clears_ram_and_starts_again(make: Make) -> None:
    runner = make(COUNT)
    machine = runner.machine
    machine.pause()
    runner.go()
    machine.call(lambda: machine.memory.write(0x300000, b"left over"))
    machine.resume()
    runner.wait_for(lambda: runner.counter() > 0)
    machine.reset()
    runner.wait_for(lambda: "RESET" in runner.events.names)
    assert machine.call(lambda: machine.memory.read(0x300000, 9)) == bytes(9)
    seen = runner.counter()
    runner.wait_for(lambda: runner.counter() > seen)


def test_a_reset_of_a_paused_machine_leaves_it_paused_at_its_entry(make: Make) -> None:
    runner = make(COUNT)
    machine = runner.machine
    runner.go()
    runner.wait_for(lambda: runner.counter() > 0)
    machine.pause()
    machine.reset()
    runner.wait_for(lambda: "RESET" in runner.events.names)
    assert machine.paused
    assert machine.call(runner.counter) == 0
    assert machine.call(machine.cpu.registers)["rip"] == 0x100000


def test_a_reset_from_another_thread_reaches_an_idle_guest(make: Make) -> None:
    runner = make(IDLE)
    runner.go()
    runner.wait_for(lambda: runner.machine.cpu.halted)
    runner.machine.reset()
    runner.wait_for(lambda: "RESET" in runner.events.names)


def test_a_restored_machine_goes_on_where_the_saved_one_stood(make: Make) -> None:
    code = b"\x90" * 16 + COUNT
    runner = make(code)
    machine, entry = runner.machine, 0x100000
    runner.go()
    runner.wait_for(lambda: runner.counter() > 0)
    machine.pause()
    states, registers = machine.call(machine.save), machine.call(machine.cpu.registers)
    restored = make(code).machine
    restored.restore(states)
    restored.boot()
    assert restored.cpu.registers() == registers
    assert registers["rip"] >= entry + 16


def test_without_reboot_a_reset_is_the_end_and_says_who_asked_for_it(make: Make) -> None:
    runner = make(REBOOT, options=RunOptions(no_reboot=True))
    assert runner.machine.run(WAIT_S)[:2] == ("reset", 0)
    assert runner.machine.exit is not None
    assert runner.machine.exit.cause == "guest-reset"
    runner = make(COUNT, options=RunOptions(no_reboot=True))
    runner.machine.reset("host-qmp-system-reset")
    ended = runner.machine.run(WAIT_S)
    assert (ended.reason, ended.status, ended.cause) == ("reset", 0, "host-qmp-system-reset")
    assert runner.events.names == ["SHUTDOWN"]


def test_a_guest_that_resets_for_ever_can_be_ended(make: Make) -> None:
    runner = make(REBOOT)
    runner.go()
    runner.wait_for(lambda: runner.events.names.count("RESET") > 1)
    runner.machine.end(ExitRequest("quit", 0))
    assert runner.ended().reason == "quit"


def test_an_image_that_cannot_be_loaded_is_an_error_and_an_end(make: Make) -> None:
    runner = make(b"\xf4" * (17 * MIB))
    with pytest.raises(UsageError):
        runner.machine.run(WAIT_S)
    assert runner.machine.exit is not None
    assert runner.machine.exit[:2] == ("host-error", 2)
    assert runner.machine.call(lambda: 1) == 1


def test_what_a_sink_raises_ends_the_run(make: Make) -> None:
    def full(data: bytes) -> None:
        raise HostError("the disk is full")

    runner = make(SEND, serial=full)
    with pytest.raises(HostError, match="the disk is full"):
        runner.machine.run(WAIT_S)
    assert runner.machine.exit is not None
    assert runner.machine.exit[:2] == ("host-error", 4)
    assert runner.events.names == ["SHUTDOWN"]


def test_a_machine_runs_once_at_a_time(make: Make) -> None:
    runner = make(COUNT)
    runner.go()
    runner.wait_for(lambda: runner.counter() > 0)
    with pytest.raises(EmuError, match="runs already"):
        runner.machine.run()
    assert runner.machine.exit is None


def test_a_machine_without_an_image_says_so() -> None:
    with board.build(MachineConfig(ram_size=MIB), board.Outputs()) as machine, pytest.raises(UsageError):
        machine.run(WAIT_S)


def test_the_pm_timer_interrupts_when_its_highest_bit_changes(make: Make) -> None:
    runner = make(PM_TIMER)
    assert runner.machine.run(WAIT_S).reason == "triple-fault"
    half_period = (1 << 23) * 1_000_000_000 // 3_579_545
    assert half_period <= runner.machine.cpu.now() < half_period + 1_000_000


def test_a_backing_file_cut_short_stops_the_guest_at_once(make: Make, tmp_path: Path) -> None:
    pool = tmp_path / "pool"
    backend = BackendConfig(id="m", path=str(pool), size=MIB, share=True)
    runner = make(FILL, slots=1, nvdimms=(NvdimmConfig(backend=backend),))
    runner.go()
    runner.wait_for(lambda: any(pool.read_bytes()))
    os.truncate(pool, 0)
    with pytest.raises(HostError, match="lost its storage"):
        runner.ended()
    assert runner.machine.exit is not None
    assert runner.machine.exit[:2] == ("host-error", 4)


def test_driven_step_by_step_it_ends_as_when_run(make: Make) -> None:
    machine = make(SAY_3).machine
    machine.boot()
    machine.boot()
    while (ended := machine.step()) is None:
        pass
    assert ended == Exit("exit-port", 7, 3)
