"""What ``-initrd`` names, in QEMU's words, and that a machine gets it."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from emu import board, boot
from emu.board.firmware import read_modules
from emu.config import MachineConfig
from emu.errors import UsageError
from emu.units import MIB

MAGIC = 0x1BADB002
MULTIBOOT = struct.pack("<III5I", MAGIC, 0x10000, -(MAGIC + 0x10000) & 0xFFFFFFFF, 0x100000, 0x100000, 0, 0, 0x100020)
# mov eax, [ebx + 24]; mov eax, [eax]; mov eax, [eax]; out 0xf4, eax: the first word of the first module
CODE = bytes.fromhex("8b4318 8b00 8b00 e7f4 f4")


@pytest.fixture
def files(tmp_path: Path) -> Path:
    (tmp_path / "a").write_bytes(b"one")
    (tmp_path / "b,c").write_bytes(b"two")
    return tmp_path


def test_kernel_takes_the_whole_text_as_one_path(files: Path) -> None:
    path = f"{files}/b,c"
    assert read_modules(path, b"\x7fELF") == (boot.Module(b"two", path),)


def test_multiboot_image_takes_a_list_with_texts(files: Path) -> None:
    first, second = f"{files}/a with words", f"{files}/b,c"
    listed = f"{first},{second.replace(',', ',,')}"
    assert read_modules(listed, MULTIBOOT) == (boot.Module(b"one", first), boot.Module(b"two", second))


def test_bytes_are_the_disk_itself_and_none_is_none() -> None:
    assert read_modules(b"disk", None) == (boot.Module(b"disk"),)
    assert read_modules(None, None) == ()


@pytest.mark.parametrize(
    ("name", "says"), [("none", "cannot read the initrd"), ("empty", "or empty"), (".", "Is a directory")]
)
def test_what_cannot_be_read_is_refused(files: Path, name: str, says: str) -> None:
    (files / "empty").write_bytes(b"")
    with pytest.raises(UsageError, match=says):
        read_modules(f"{files}/{name}", b"\x7fELF")


def test_guest_finds_its_module(files: Path) -> None:
    (files / "image").write_bytes(MULTIBOOT + CODE)
    (files / "module").write_bytes((0x2A).to_bytes(4, "little"))
    config = MachineConfig(image=f"{files}/image", initrd=f"{files}/module", ram_size=16 * MIB)
    with board.build(config, board.Outputs()) as machine:
        assert machine.run(30).code == 0x2A
