"""Who may use a file together, and what a killed emulator leaves."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from emu.errors import FileInUse
from emu.host import kernel
from emu.host.kernel import Lock
from emu.memory import open_backend
from tests.unit.memory.memory_backends import config, refused

WRITER: dict[str, Any] = {}
SHARING: dict[str, Any] = {"share_lock": True}
READER: dict[str, Any] = {"readonly": True}
PRIVATE: dict[str, Any] = {"share": False}
SHARING_READER: dict[str, Any] = {"readonly": True, "share_lock": True}


@pytest.mark.parametrize(
    ("first", "second", "together"),
    [
        (WRITER, WRITER, False), (WRITER, SHARING, False), (WRITER, READER, False), (WRITER, PRIVATE, False),
        (WRITER, SHARING_READER, False), (SHARING, WRITER, False), (SHARING, SHARING, True), (SHARING, READER, False),
        (SHARING, PRIVATE, False), (SHARING, SHARING_READER, True), (READER, WRITER, False), (READER, SHARING, False),
        (READER, READER, True), (READER, PRIVATE, True), (READER, SHARING_READER, True), (PRIVATE, WRITER, False),
        (PRIVATE, SHARING, False), (PRIVATE, PRIVATE, True), (SHARING_READER, WRITER, False),
        (SHARING_READER, SHARING, True), (SHARING_READER, READER, True), (SHARING_READER, SHARING_READER, True),
    ],
)  # fmt: skip
def test_who_may_use_a_file_together(
    first: dict[str, Any], second: dict[str, Any], together: bool, image: Path
) -> None:
    with open_backend(config(image, **first)):
        if together:
            with open_backend(config(image, **second)):
                pass
        else:
            assert str(image) in refused(config(image, **second), "in use by another emulator", FileInUse).what
    with open_backend(config(image, **second)):
        pass


def test_hand_over_of_the_lock(image: Path) -> None:
    with open_backend(config(image)) as first:
        assert first.lock is not None
        assert first.lock.kind is Lock.WRITE
        first.acquire_lock()
        first.release_lock()
        with open_backend(config(image)) as second:
            second.mapping.view[0] = 42
            with pytest.raises(FileInUse, match="in use"):
                first.acquire_lock()
            assert first.mapping.view[0] == 42
        first.acquire_lock()
        refused(config(image), "in use", FileInUse)


def test_a_file_in_use_is_not_even_sized_or_removed(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.touch()
    fd = kernel.open_file(path, write=True)
    assert kernel.lock(fd, Lock.WRITE, what="f")
    refused(config(path), "in use", FileInUse)
    assert path.stat().st_size == 0
    os.close(fd)


def test_a_killed_emulator_leaves_its_bytes_and_no_lock(image: Path) -> None:
    code = (
        "import os, signal, sys\n"
        "from emu.config import BackendConfig\n"
        "from emu.memory import open_backend\n"
        "backend = open_backend(BackendConfig(id='m', path=sys.argv[1], share=True))\n"
        "backend.mapping.view[:6] = b'killed'\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert subprocess.run([sys.executable, "-c", code, str(image)], timeout=60).returncode == -9
    with open_backend(config(image)) as backend:
        assert bytes(backend.mapping.view[:6]) == b"killed"
