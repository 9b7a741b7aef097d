"""A power failure in the middle of a run: what the file holds afterwards, and that a second boot sees it."""

from __future__ import annotations

from pathlib import Path

import pytest

from emu import board, guest
from emu.config import BackendConfig, MachineConfig, NvdimmConfig, PersistenceDomain
from emu.errors import UsageError
from emu.guest.litmus import assemble, parse_step
from emu.machine import Exit
from emu.persistence.lab.powerfail import Cut, PowerCut, parse_power_cut, run_with_power_cut
from emu.units import GIB, MIB

STEPS = tuple(parse_step(text) for text in ("x=1", "y=1", "CW x", "SF", "z=1"))


def config(tmp_path: Path, *, persistence: PersistenceDomain | None = None) -> MachineConfig:
    image = tmp_path / "guest.bin"
    image.write_bytes(assemble(STEPS, 4 * GIB))
    backend = BackendConfig(id="m", path=str(tmp_path / "p.img"), size=2 * MIB, share=True)
    dimms = (NvdimmConfig(backend=backend),)
    return MachineConfig(image=str(image), slots=1, nvdimms=dimms, ram_size=32 * MIB, persistence=persistence)


def cut_power(tmp_path: Path, at: str, state: str, **options: PersistenceDomain) -> tuple[Cut, str]:
    """What became of a power cut on an empty file, and x, y and z in it."""
    (tmp_path / "p.img").unlink(missing_ok=True)
    power = run_with_power_cut(config(tmp_path, **options), parse_power_cut(at, state), board.Outputs())
    with (tmp_path / "p.img").open("rb") as file:
        memory = file.read(256)
    return power, "".join(str(memory[address]) for address in (0, 64, 128))


def cut(tmp_path: Path, at: str, state: str, **options: PersistenceDomain) -> tuple[Exit, str]:
    power, left = cut_power(tmp_path, at, state, **options)
    return power.ended, left


@pytest.mark.parametrize(
    ("at", "state", "left"),
    [
        ("0", "all", "000"),
        ("1", "all", "100"),
        ("1", "none", "000"),
        ("4", "none", "100"),
        ("4", "all", "110"),
        ("5", "none", "100"),
        ("5", "all", "111"),
        ("5", "0", "100"),
        ("5", "3", "111"),
    ],
)
def test_file_holds_the_memory_that_was_asked_for(tmp_path: Path, at: str, state: str, left: str) -> None:
    ended, found = cut(tmp_path, at, state)
    assert (ended.reason, ended.status) == ("power-failure", 0)
    assert found == left


def test_event_that_never_comes_leaves_an_ordinary_run(tmp_path: Path) -> None:
    ended, found = cut(tmp_path, "6", "none")
    assert ended.reason == "halt"
    assert found == "111"


def test_random_is_the_same_for_the_same_seed_and_always_possible(tmp_path: Path) -> None:
    found = [cut(tmp_path, "5", f"random:{seed}")[1] for seed in range(8)]
    assert found == [cut(tmp_path, "5", f"random:{seed}")[1] for seed in range(8)]
    assert set(found) <= {"100", "101", "110", "111"}
    assert len(set(found)) > 1
    ends = [cut(tmp_path, f"random:{seed}", "all")[0].detail for seed in range(6)]
    assert ends == [cut(tmp_path, f"random:{seed}", "all")[0].detail for seed in range(6)]
    assert len(set(ends)) > 1


@pytest.mark.parametrize(
    ("at", "state"), [("5", "none"), ("5", "all"), ("5", "2"), ("5", "random:4"), ("1", "random:1")]
)
def test_the_memory_that_was_drawn_has_a_number_that_names_it(tmp_path: Path, at: str, state: str) -> None:
    power, left = cut_power(tmp_path, at, state)
    assert (power.failed, power.event) == (True, int(at))
    again, left_again = cut_power(tmp_path, at, str(power.number))
    assert (left_again, again.contents) == (left, power.contents)
    # Of x, y and z those are listed that could be lost: x is durable once its flush was fenced.
    assert [unit - 4 * GIB for unit in power.contents] == {"5": [64, 128], "1": [0]}[at]


def test_a_random_event_is_said(tmp_path: Path) -> None:
    power, left = cut_power(tmp_path, "random:3", "all")
    assert cut_power(tmp_path, str(power.event), "all") == (power, left)


def test_eadr_keeps_the_order_of_stores(tmp_path: Path) -> None:
    assert cut(tmp_path, "2", "2", persistence=PersistenceDomain.EADR)[1] == "110"
    with pytest.raises(UsageError, match="fewer memories"):
        cut(tmp_path, "2", "3", persistence=PersistenceDomain.EADR)


def test_second_boot_sees_what_the_power_cut_left(tmp_path: Path) -> None:
    image = guest.find("commit-noflush")
    assert image is not None
    backend = BackendConfig(id="m", path=str(tmp_path / "pool.img"), size=2 * MIB, share=True)
    pool = MachineConfig(image=str(image.path), slots=1, nvdimms=(NvdimmConfig(backend=backend),), ram_size=32 * MIB)
    # Stores 6 and 8 are the first value (never flushed) and the counter; of the four memories one has the counter
    # alone.
    endings = set()
    for state in range(4):
        Path(tmp_path, "pool.img").unlink(missing_ok=True)
        assert run_with_power_cut(pool, PowerCut(10, state=state), board.Outputs()).ended.reason == "power-failure"
        with board.build(pool, board.Outputs()) as machine:
            endings.add(machine.run(30).reason)
    assert endings == {"power-off", "exit-port"}


@pytest.mark.parametrize(
    ("at", "state"), [("x", "none"), ("-1", "none"), ("random:", "none"), ("1", "some"), ("1", "-2")]
)
def test_words_that_are_wrong(at: str, state: str) -> None:
    with pytest.raises(UsageError):
        parse_power_cut(at, state)
