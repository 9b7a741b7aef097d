"""What a machine's memory holds, kept in a file."""

from __future__ import annotations

from pathlib import Path

import pytest

from emu.errors import HostError
from emu.persistence.lab.booted import write_content
from emu.units import MIB


def test_file_has_the_content_and_room_for_what_is_not_zero_only(tmp_path: Path) -> None:
    memory = bytearray(8 * MIB + 4096)
    memory[3 * MIB + 5], memory[-1] = 7, 9
    write_content(memoryview(memory), tmp_path / "ram")
    assert (tmp_path / "ram").read_bytes() == memory
    assert (tmp_path / "ram").stat().st_blocks * 512 <= 2 * MIB


def test_no_room_is_said_so(tmp_path: Path) -> None:
    (tmp_path / "ram").symlink_to("/dev/full")
    with pytest.raises(HostError, match=r"(?s)cannot keep what the guest's memory holds: .*TMPDIR"):
        write_content(memoryview(bytearray(b"x" * 4096)), tmp_path / "ram")
