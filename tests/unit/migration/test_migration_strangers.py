"""Another program that writes to the source's file, at whatever moment before the hand-over: the guest stays."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from emu.host.claims import Claims
from emu.memory import incomplete
from emu.migration.channel import FileWriter, Interrupt
from emu.migration.errors import MigrationError
from emu.migration.parameters import Capabilities, Parameters
from emu.migration.progress import Progress
from emu.migration.source import Source
from emu.migration.stream import FrameType
from emu.units import PAGE
from tests.unit.migration.migration_doubles import PMEM, FakeGuest, migrate, tcp_pair, two_guests, when_sent

Pair = tuple[FakeGuest, FakeGuest]


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    with two_guests(tmp_path) as both:
        yield both


def write(guest: FakeGuest) -> None:
    assert guest.path is not None
    with guest.path.open("r+b") as file:
        file.seek(PMEM - PAGE)
        file.write(b"by another program")


MOMENTS = [FrameType.ROUND_END, FrameType.STATE, FrameType.FINISH]


@pytest.mark.parametrize("sockets", [socket.socketpair, tcp_pair])
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_file_that_another_program_writes_to_is_not_handed_over(
    pair: Pair, moment: FrameType, sockets: Callable[[], tuple[socket.socket, socket.socket]]
) -> None:
    source, destination = pair
    result = migrate(source, destination, sockets=sockets(), on_source=when_sent(moment, lambda: write(source)))
    assert isinstance(result.source, MigrationError)
    assert f"{source.path}: another program wrote to the file while it was migrated" in str(result.source)
    assert source.running
    assert result.runs is None
    assert incomplete.reason(str(destination.path)) is not None


def test_writes_before_and_stores_of_the_guest_are_nobodys_business(pair: Pair) -> None:
    source, destination = pair
    assert source.pmem is not None
    assert destination.pmem is not None
    view = source.pmem.view
    write(source)

    def store() -> None:
        view[:8] = b"a store!"

    result = migrate(source, destination, on_source=when_sent(FrameType.ROUND_END, store))
    assert (result.source, result.destination) == (None, None)
    assert destination.pmem.view == view


def test_a_snapshot_of_a_file_that_is_written_to_is_not_made(pair: Pair, tmp_path: Path) -> None:
    source, interrupt = pair[0], Interrupt()
    channel = FileWriter(Claims().writes(str(tmp_path / "snapshot"), "the snapshot"), interrupt)
    side = Source(
        source,
        channel,
        capabilities=Capabilities(),
        parameters=Parameters,
        progress=Progress(),
        interrupt=interrupt,
    )
    when_sent(FrameType.ROUND_END, lambda: write(source))(side, interrupt)
    with pytest.raises(MigrationError, match="another program wrote"):
        side.run()
    channel.close()
    assert not (tmp_path / "snapshot").exists()
    assert source.running
