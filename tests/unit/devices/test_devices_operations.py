"""Operation marks: what reaches whoever listens."""

from __future__ import annotations

import pytest

from emu.board import map as at
from emu.devices.bus import PortBus
from emu.devices.operations import OperationMarks


@pytest.mark.parametrize(
    ("offset", "size", "value", "heard"),
    [
        (0, 4, 7, [("begin", 7)]),
        (4, 4, 0xFFFFFFFF, [("done", 0xFFFFFFFF)]),
        (0, 2, 513, [("begin", 513)]),
        (4, 1, 9, [("done", 9)]),
        (2, 2, 1, []),
        (6, 4, 1, []),
    ],
)
def test_a_write_is_a_mark_where_a_register_begins(
    offset: int, size: int, value: int, heard: list[tuple[str, int]]
) -> None:
    marks: list[tuple[str, int]] = []
    bus = PortBus()
    bus.add(at.OPERATIONS.start, len(at.OPERATIONS), OperationMarks(lambda *mark: marks.append(mark)))
    bus.write(at.OPERATIONS.start + offset, size, value)
    assert marks == heard


def test_a_read_says_that_nothing_is_there() -> None:
    bus = PortBus()
    bus.add(at.OPERATIONS.start, len(at.OPERATIONS), OperationMarks(lambda kind, number: pytest.fail("no mark")))
    assert bus.read(at.OPERATIONS.start, 4) == PortBus().read(at.OPERATIONS.start, 4) == 0xFFFFFFFF
