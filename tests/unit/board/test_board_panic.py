"""A Linux kernel's panic, told from its console."""

from __future__ import annotations

import pytest

from emu.board.panic import PanicWatch
from emu.devices.contract import ExitRequest
from emu.errors import Status

PANIC = b"[    1.234567] Kernel panic - not syncing: VFS: Unable to mount root fs\r\n"
STANDS = b"[    1.300000] ---[ end Kernel panic - not syncing: VFS: Unable to mount root fs ]---\r\n"
ENDED = ExitRequest("panic", Status.GUEST_CRASHED, None, "Kernel panic - not syncing: VFS: Unable to mount root fs")


class Heard:
    def __init__(self) -> None:
        self.out = bytearray()
        self.ends: list[ExitRequest] = []
        self.resets = 0
        self.watch = PanicWatch(self.out.extend, self.ends.append, self._reset)

    def _reset(self) -> None:
        self.resets += 1


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_panic_that_stands_ends_the_machine(size: int) -> None:
    heard = Heard()
    text = b"boot\r\n" + PANIC + b"trace\r\n" + STANDS
    for start in range(0, len(text), size):
        heard.watch(text[start : start + size])
    assert heard.ends == [ENDED]
    assert heard.out == text


def test_reset_behind_a_panic_is_its_end() -> None:
    heard = Heard()
    heard.watch(PANIC)
    assert heard.ends == []  # it may still say more
    heard.watch.reset()
    assert (heard.ends, heard.resets) == ([ENDED], 0)


@pytest.mark.parametrize(
    "text", [b"", b"echo: Kernel panic - not syncing: x\n", STANDS, b"Kernel panic -" + b"x" * 2000]
)
def test_other_resets_are_resets(text: bytes) -> None:
    heard = Heard()
    heard.watch(text)
    heard.watch.reset()
    assert (heard.ends, heard.resets) == ([], 1)
