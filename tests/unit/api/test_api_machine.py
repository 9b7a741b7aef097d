"""``emu.Machine`` and ``emu.Nvdimm``: a machine in a script."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

import emu
from emu.devices.contract import ExitRequest
from emu.errors import Status
from emu.memory import incomplete

GPA = 0x1_0000_0000


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    return tmp_path / "pool.img"


def count(pool: Path) -> emu.Machine:
    """A guest that never ends and prints now and then."""
    return emu.Machine("count", nvdimms=[emu.Nvdimm(pool, size="16M")])


@contextmanager
def when_it_counts(machine: emu.Machine, act: Callable[[], object]) -> Iterator[None]:
    """``act`` in another thread, once the guest has printed more than before: then it runs, however long that took."""
    before, over = len(machine.serial), threading.Event()

    def wait_and_act() -> None:
        while len(machine.serial) == before:
            if over.wait(0.01):
                return
        act()

    thread = threading.Thread(target=wait_and_act)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def run_on(machine: emu.Machine) -> None:
    """Let the guest count further than it has."""
    with when_it_counts(machine, machine.stop):
        assert machine.run(timeout=60).reason == "quit"


# -- a run -----------------------------------------------------------------------------------------------------------


def test_a_guest_runs_and_can_be_looked_at(pool: Path, capfd: pytest.CaptureFixture[str]) -> None:
    heard = bytearray()
    with emu.Machine("hello", nvdimms=[emu.Nvdimm(pool, size=64 << 20)], serial=heard.extend) as machine:
        assert machine.exit is None
        assert machine.read(GPA, 8) == bytes(8)
        ended = machine.run(timeout=60)
        assert (ended.reason, ended.status, ended.code) == ("power-off", 0, None)
        assert machine.exit == ended == machine.run()
        assert machine.serial == heard.decode()
        assert "boot 1: hello, persistent world" in machine.serial
        (dimm,) = machine.nvdimms
        assert dimm.read(0, 8) == machine.read(GPA, 8) == b"emuhello"
        assert (dimm.id, dimm.slot, dimm.address, dimm.size, dimm.label_size) == ("nvdimm0", 0, GPA, 64 << 20, 0)
        assert dimm.facts["survives"]["emulator_kill"] is True
        assert dimm.labels is None
        rip = machine.registers["rip"]
        physical = machine.translate(rip)
        assert physical is not None
        assert machine.read_linear(rip, 4) == machine.read(physical, 4)
        machine.set_register("rbx", 42)
        assert machine.registers["rbx"] == 42
        machine.write(0x5000, b"abc")
        assert machine.read(0x5000, 4) == b"abc\0"
        assert bytes(machine.tables["NFIT"])[:4] == b"NFIT"
        assert "System Physical Address" in str(machine.tables["NFIT"])
    assert pool.read_bytes()[:8] == b"emuhello"
    assert "boot 1" in machine.serial
    assert capfd.readouterr() == ("", "")


def test_what_is_written_to_an_nvdimm_is_in_its_file_and_a_label_area_is_read(pool: Path) -> None:
    with emu.Machine("hello", nvdimms=[emu.Nvdimm(pool, size="2M", label_size="128K")]) as machine:
        (dimm,) = machine.nvdimms
        dimm.write(4096, b"written")
        assert machine.read(GPA + 4096, 7) == b"written"
        labels = dimm.labels
        assert labels is not None
        assert (labels.valid, labels.labels, len(labels.content)) == (False, (), 128 << 10)
        assert labels.problems
        for offset, data in ((-1, b"x"), (dimm.size, b"x"), (dimm.size - 1, b"xy")):
            with pytest.raises(emu.UsageError, match="not inside of nvdimm0"):
                dimm.write(offset, data)
            with pytest.raises(emu.UsageError, match="not inside of nvdimm0"):
                dimm.read(offset, len(data))
        with pytest.raises(emu.UsageError, match="not inside"):
            dimm.read(8, -8)
        machine.run(timeout=60)
    assert pool.read_bytes()[4096:4103] == b"written"


def test_a_run_that_timed_out_or_was_stopped_goes_on_and_loses_nothing(pool: Path) -> None:
    machine = count(pool)
    with machine:
        ends = [machine.run(timeout=0.2).reason for _ in range(3)]
        with when_it_counts(machine, machine.stop):
            ends.append(machine.run(timeout=60).reason)
        assert ends == ["timeout", "timeout", "timeout", "quit"]
        machine.stop()  # nothing runs: it does not count for the next run
        assert machine.run(timeout=0.2).reason == "timeout"
    with emu.Machine("verify", nvdimms=[emu.Nvdimm(pool)]) as judge:
        assert judge.run(timeout=60).status == 0, judge.serial


def test_a_reset_that_is_due_when_the_run_is_stopped_still_comes(pool: Path) -> None:
    with emu.Machine("hello", nvdimms=[emu.Nvdimm(pool, size="16M")]) as machine:
        machine.write(0x5000, b"RAM")
        machine.engine.reset()
        machine.engine.end(ExitRequest("quit", Status.OK))
        assert machine.run(timeout=60).reason == "power-off"
        assert machine.read(0x5000, 3) == bytes(3), "a reset clears the RAM"


def test_stop_from_a_sink_stops_the_run_behind_its_words(pool: Path) -> None:
    def stop_at_once(data: bytes) -> None:
        machine.stop()
        with pytest.raises(emu.UsageError, match="cannot be closed by its own output"):
            machine.close()

    with emu.Machine("hello", nvdimms=[emu.Nvdimm(pool, size="16M")], serial=stop_at_once) as machine:
        reasons = [machine.run(timeout=60).reason]
        while reasons[-1] == "quit":
            reasons.append(machine.run(timeout=60).reason)
        assert reasons[-1] == "power-off"
        assert len(reasons) > 2
        assert machine.serial.endswith("boot 1: hello, persistent world\n")


def test_what_a_sink_raises_comes_out_of_run(pool: Path) -> None:
    def fail(data: bytes) -> None:
        raise LookupError("no place for it")

    with emu.Machine("hello", nvdimms=[emu.Nvdimm(pool, size="16M")], serial=fail) as machine:
        with pytest.raises(LookupError, match="no place for it"):
            machine.run(timeout=60)
        assert machine.run().reason == "host-error"


def test_other_threads_may_look_and_close_while_the_guest_runs(pool: Path) -> None:
    ended = []
    with count(pool) as machine:
        thread = threading.Thread(target=lambda: ended.append(machine.run().reason))
        thread.start()
        while not machine.serial:
            time.sleep(0.01)
        assert machine.nvdimms[0].read(0, 8) != bytes(8)
        assert "running" in repr(machine)
        for forbidden in (machine.run, lambda: machine.restore(machine.save())):
            with pytest.raises(emu.UsageError, match="the machine runs"):
                forbidden()
    thread.join()
    assert ended == ["quit"]


def test_ctrl_c_leaves_the_run_as_keyboard_interrupt_and_the_machine_whole(pool: Path) -> None:
    before = signal.getsignal(signal.SIGINT)
    with count(pool) as machine:
        with (
            when_it_counts(machine, partial(signal.pthread_kill, threading.get_ident(), signal.SIGINT)),
            pytest.raises(KeyboardInterrupt),
        ):
            machine.run(timeout=60)
        assert machine.exit is not None
        assert machine.exit.reason == "interrupted"
        assert machine.run(timeout=0.2).reason == "timeout"
    assert signal.getsignal(signal.SIGINT) is before


# -- saved state -----------------------------------------------------------------------------------------------------


def test_a_restored_machine_does_the_same_again(pool: Path) -> None:
    with emu.Machine("hello", nvdimms=[emu.Nvdimm(pool, size="16M", label_size="128K")]) as machine:
        before = machine.save()
        machine.run(timeout=60)
        first, after = machine.serial, machine.save()
        registers, content = machine.registers, machine.nvdimms[0].read(0, 64)
        machine.restore(before)
        assert machine.exit is None
        assert machine.nvdimms[0].read(0, 64) == bytes(64)
        assert machine.run(timeout=60).reason == "power-off"
        assert machine.serial == first * 2  # boot 1 both times
        machine.restore(before)
        machine.restore(after)
        assert (machine.registers, machine.nvdimms[0].read(0, 64)) == (registers, content)
        assert machine.run().reason == "power-off"
        assert machine.serial == first * 2  # it had ended
    assert "components" in repr(before)


def test_a_state_saved_in_the_middle_goes_on_from_there(pool: Path) -> None:
    with count(pool) as machine:
        run_on(machine)
        saved, head = machine.save(), machine.nvdimms[0].read(0, 16 << 20)
        run_on(machine)
        assert machine.nvdimms[0].read(0, 16 << 20) != head
        machine.restore(saved)
        assert machine.nvdimms[0].read(0, 16 << 20) == head
        run_on(machine)
    with emu.Machine("verify", nvdimms=[emu.Nvdimm(pool)]) as judge:
        assert judge.run(timeout=60).status == 0, judge.serial


def test_a_state_of_another_machine_is_refused(pool: Path, tmp_path: Path) -> None:
    with emu.Machine("hello", nvdimms=[emu.Nvdimm(pool, size="16M")]) as one:
        state = one.save()
        with (
            emu.Machine("hello", nvdimms=[emu.Nvdimm(tmp_path / "b.img", size="32M")]) as other,
            pytest.raises(emu.StateError, match="differ in their memory"),
        ):
            other.restore(state)
        moved = emu.Nvdimm(tmp_path / "c.img", size="16M", slot=1)
        with emu.Machine("hello", nvdimms=[moved]) as third:
            with pytest.raises(emu.StateError):
                third.restore(state)
            assert third.run(timeout=60).reason == "power-off"


# -- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "kind", "words"),
    [  # what a type checker would refuse as well is ignored by it, since it is what the test is about
        (lambda: emu.Nvdimm("p.img", size="64Q"), emu.UsageError, "size: '64Q' is not a size"),
        (lambda: emu.Nvdimm("p.img", size=1.5), emu.UsageError, "size: 1.5 is neither a text nor a number"),  # type: ignore[arg-type]
        (lambda: emu.Nvdimm("p.img", sync="perhaps"), emu.UsageError, "sync: 'perhaps' is not accepted"),  # type: ignore[arg-type]
        (lambda: emu.Nvdimm("p.img", uuid="1-2"), emu.UsageError, "'1-2' is not a UUID"),
        (lambda: emu.Nvdimm("p.img", slot=256), emu.UsageError, "slot: 256 is out of range"),
        (lambda: emu.Nvdimm(""), emu.UsageError, "no file given"),
        (emu.Machine, emu.UsageError, "no image given"),
        (lambda: emu.Machine("no-such-guest"), emu.UsageError, "no image 'no-such-guest'"),
        (lambda: emu.Machine("hello", memory="1K"), emu.UsageError, "bytes of RAM is out of range"),
        (lambda: emu.Machine("hello", memory=1 << 10), emu.UsageError, "bytes of RAM is out of range"),
        (lambda: emu.Machine("hello", clock="slow"), emu.UsageError, "clock: 'slow' is not accepted"),  # type: ignore[arg-type]
        (lambda: emu.Machine("hello", nvdimms=["p.img"]), emu.UsageError, "not a list of emu.Nvdimm"),  # type: ignore[list-item]
        (lambda: emu.Machine("hello", nvdimms=emu.Nvdimm("p")), emu.UsageError, "not a list of emu.Nvdimm"),  # type: ignore[arg-type]
        (lambda: emu.Machine("hello", nvdimms=[emu.Nvdimm("no/p.img", size="1M")]), emu.HostError, "No such file"),
        (
            lambda: emu.Machine("hello", nvdimms=[emu.Nvdimm("p.img", size="2M", sync="on", share=False)]),
            emu.MapSyncUnavailable,
            "share=off",
        ),
        (lambda: emu.Machine(__file__, nvdimms=[emu.Nvdimm("p.img", size="2M", addr=1)]), emu.UsageError, "addr"),
    ],
)
def test_a_wrong_argument_gives_the_words_of_the_command_and_leaves_nothing(
    make: Callable[[], object],
    kind: type[emu.EmuError],
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(kind, match=words) as caught:
        make()
    assert caught.value.remedy
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")


def test_numbers_are_bytes_and_commas_belong_to_the_path(tmp_path: Path) -> None:
    path = tmp_path / "a,size=1G"
    assert emu.Nvdimm(path, size=2 << 20) == emu.Nvdimm(str(path), size="2097152")
    assert emu.Nvdimm(path) != emu.Nvdimm(path, size=2 << 20)
    with emu.Machine("hello", memory=32 << 20, nvdimms=[emu.Nvdimm(path, size=2 << 20)]) as machine:
        assert machine.config.ram_size == 32 << 20
        machine.run(timeout=60)
    assert path.stat().st_size == 2 << 20


def test_a_file_in_use_and_an_incomplete_one(pool: Path) -> None:
    dimm = emu.Nvdimm(pool, size="16M")
    with emu.Machine("hello", nvdimms=[dimm]) as machine:
        with pytest.raises(emu.FileInUse, match="in use by another emulator"):
            emu.Machine("hello", nvdimms=[dimm])
        machine.run(timeout=60)
    incomplete.mark(pool, "half of it came")
    with pytest.raises(emu.IncompleteFile, match="half of it came"):
        emu.Machine("hello", nvdimms=[dimm])
    with emu.Machine("hello", nvdimms=[dimm], accept_incomplete=True):
        assert incomplete.reason(pool) is not None  # it has not run
    with emu.Machine("hello", nvdimms=[dimm], accept_incomplete=True) as machine:
        assert machine.run(timeout=60).status == 0
    assert incomplete.reason(pool) is None


def test_a_machine_that_never_ran_leaves_no_file_and_a_closed_one_answers_nothing(pool: Path) -> None:
    machine = emu.Machine("hello", nvdimms=[emu.Nvdimm(pool, size="16M")])
    (dimm,) = machine.nvdimms
    machine.close()
    machine.close()
    assert not pool.exists()
    for look in (
        machine.run,
        machine.save,
        lambda: machine.registers,
        lambda: machine.read(0, 1),
        lambda: dimm.read(0, 1),
        lambda: dimm.write(0, b"x"),
        lambda: machine.tables,
    ):
        with pytest.raises(emu.UsageError, match="this machine is closed"):
            look()
    assert "closed" in repr(machine)


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), 1e10, True])
def test_a_timeout_that_is_no_time(timeout: float, pool: Path) -> None:
    with count(pool) as machine, pytest.raises(emu.UsageError, match="not a positive number of seconds"):
        machine.run(timeout=timeout)


def test_memory_that_does_not_exist_and_addresses_that_are_not_mapped(pool: Path) -> None:
    with emu.Machine("hello", nvdimms=[emu.Nvdimm(pool, size="16M")]) as machine:
        for look in (
            lambda: machine.read(GPA + (16 << 20) - 4, 8),
            lambda: machine.read(1 << 63, 1),
            lambda: machine.write(1 << 60, b"x"),
            lambda: machine.set_register("rip", 1 << 64),
            lambda: machine.set_register("cr3", 0),
        ):
            with pytest.raises(emu.UsageError) as caught:
                look()
            assert caught.value.remedy
