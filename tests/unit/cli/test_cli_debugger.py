"""Where gdb connects, and what it can take symbols from."""

from __future__ import annotations

from pathlib import Path

import pytest

from emu.cli import debugger


def test_the_image_has_the_symbols_when_it_is_elf(tmp_path: Path) -> None:
    image = tmp_path / "guest.elf"
    image.write_bytes(b"\x7fELF and more")
    assert debugger.invitation("tcp:127.0.0.1:1234", str(image)) == (
        f"emu: debug it: gdb {image} -ex 'target remote localhost:1234'"
    )


@pytest.mark.parametrize("place", ["beside it", "with the distribution's debug files"])
def test_a_packed_kernel_has_them_in_another_file(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kernel, debug = tmp_path / "vmlinuz-6.1", tmp_path / "debug"
    debug.mkdir()
    monkeypatch.setattr(debugger, "_DEBUG_FILES", str(debug))
    kernel.write_bytes(b"MZ, a bzImage")
    words = "emu: debug it: gdb -ex 'target remote gdb.sock'"
    assert debugger.invitation("unix:gdb.sock", str(kernel)) == words
    found = (tmp_path if place == "beside it" else debug) / "vmlinux-6.1"
    found.write_bytes(b"\x7fELF")
    assert debugger.invitation("unix:gdb.sock", str(kernel)) == words.replace("gdb -ex", f"gdb {found} -ex")


def test_no_image_and_none_that_can_be_read(tmp_path: Path) -> None:
    for image in (None, str(tmp_path / "absent"), str(tmp_path)):
        assert debugger.invitation("unix:s", image) == "emu: debug it: gdb -ex 'target remote s'"
