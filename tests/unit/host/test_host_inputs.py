"""Small files that users name: read whole, or refused, but never waited for."""

from __future__ import annotations

import errno
import fcntl
import os
import pty
import socket
import sys
import termios
import threading
import time
from pathlib import Path

import pytest

from emu.host import inputs
from emu.host.inputs import read_whole


def test_a_file_is_read_whole_and_no_more_than_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"12345")
    assert read_whole(str(path), 100) == b"12345"
    assert read_whole(str(path), 5) == b"12345"
    assert read_whole(str(path), 3) == b"1234"
    path.write_bytes(b"")
    assert read_whole(str(path), 3) == b""


def test_a_pipe_is_read_to_its_end_however_slowly_it_comes(tmp_path: Path) -> None:
    path = tmp_path / "fifo"
    os.mkfifo(path)

    def write() -> None:
        with path.open("wb", buffering=0) as file:
            file.write(b"first ")
            while int.from_bytes(fcntl.ioctl(file, termios.FIONREAD, bytes(4)), sys.byteorder):
                time.sleep(0.001)  # until it has been read
            file.write(b"second")

    writer = threading.Thread(target=write, daemon=True)
    writer.start()
    assert read_whole(str(path), 100) == b"first second"
    writer.join()


def test_a_pipe_that_nobody_writes_into_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inputs, "PATIENCE_S", 0.01)
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(OSError, match="Nobody writes") as error:
        read_whole(str(tmp_path / "fifo"), 100)
    assert error.value.errno == errno.ETIMEDOUT
    reading, writing = os.pipe()
    try:
        os.write(writing, b"and then nothing")
        with pytest.raises(OSError, match="Nobody writes"):
            read_whole(f"/proc/self/fd/{reading}", 100)
    finally:
        os.close(reading)
        os.close(writing)


def test_what_is_no_file_is_refused_at_once(tmp_path: Path) -> None:
    leader, follower = pty.openpty()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        for name, why in (
            (os.ttyname(follower), "Is not a regular file"),
            (str(tmp_path), "Is a directory"),
            (str(tmp_path / "socket"), "No such device or address"),
            (str(tmp_path / "missing"), "No such file"),
            ("", "No such file"),
        ):
            with pytest.raises(OSError, match=why):
                read_whole(name, 100)
    with pytest.raises(ValueError, match="null"):
        read_whole("a\0b", 100)
    os.close(leader)
    os.close(follower)
