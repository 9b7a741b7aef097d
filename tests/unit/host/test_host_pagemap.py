"""What nobody touched is known without touching it."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from emu.host import kernel
from emu.host.pagemap import NONE, Untouched
from emu.units import GIB, MIB, PAGE


@pytest.fixture
def memory() -> Iterator[tuple[Untouched, memoryview]]:
    size = 4 * GIB
    address = kernel.map_memory(size, what="test", reserve=False)
    yield Untouched(address, size), kernel.memory_view(address, size)
    kernel.unmap_memory(address, size)


def test_memory_that_nobody_touched_has_no_data(memory: tuple[Untouched, memoryview]) -> None:
    untouched, _ = memory
    assert untouched.next_data(0) == NONE
    assert untouched.next_hole(0) == 0


def test_touched_pages_are_found_however_far_away(memory: tuple[Untouched, memoryview]) -> None:
    untouched, view = memory
    far = 3 * GIB + 5 * PAGE
    view[far : far + 2 * PAGE] = b"x" * 2 * PAGE
    view[7 * PAGE] = 1
    assert untouched.next_data(0) == 7 * PAGE
    assert untouched.next_hole(7 * PAGE) == 8 * PAGE
    assert untouched.next_data(7 * PAGE + 100) == 7 * PAGE + 100
    assert untouched.next_data(8 * PAGE) == far
    assert untouched.next_hole(far) == far + 2 * PAGE
    assert untouched.next_data(far + 2 * PAGE) == NONE


def test_what_is_touched_to_the_end_has_no_hole() -> None:
    address = kernel.map_memory(MIB, what="test")
    kernel.memory_view(address, MIB)[:] = b"x" * MIB
    assert Untouched(address, MIB).next_hole(0) == NONE
    kernel.unmap_memory(address, MIB)


def test_where_the_kernel_does_not_tell_everything_counts_as_touched(
    memory: tuple[Untouched, memoryview], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: str, flags: int) -> int:
        raise FileNotFoundError(path)

    monkeypatch.setattr(os, "open", refuse)
    assert memory[0].next_data(5 * PAGE) == 5 * PAGE
    assert memory[0].next_hole(5 * PAGE) == NONE
