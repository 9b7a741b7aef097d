"""Sockets that are listened at: they neither surprise, nor take another's place, nor stay behind."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emu.errors import HostError, UsageError
from emu.host.sockets import Listener, TcpAddress, UnixAddress, parse


def listen(path: Path) -> Listener:
    return Listener(UnixAddress(str(path)), option="-x")


@given(st.text(max_size=120).map(lambda text: f"unix:{text}") | st.text("tcp:[]0123456789a.", max_size=30))
def test_an_address_is_read_as_it_is_written(text: str) -> None:
    try:
        address = parse(text)
    except UsageError:
        assert len(os.fsencode(text)) > 107
        return
    assert address is None or parse(str(address)) == address


def test_an_empty_host_is_the_one_that_the_user_of_the_address_means() -> None:
    assert parse("tcp::5", default_host="127.0.0.1") == TcpAddress("127.0.0.1", 5)
    assert parse("tcp::5") == TcpAddress("", 5)
    assert str(TcpAddress("::1", 5)) == "tcp:[::1]:5"


def test_a_socket_is_for_its_owner_alone_and_goes_away(tmp_path: Path) -> None:
    path = tmp_path / "s"
    before = os.umask(0)
    try:
        listener = listen(path)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.lstat().st_mode) == 0o600
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
    listener.close()
    assert list(tmp_path.iterdir()) == []
    listener.close()


@pytest.mark.parametrize("successor", ["file", "socket"])
def test_what_took_our_place_is_left_alone(tmp_path: Path, successor: str) -> None:
    path = tmp_path / "s"
    first = listen(path)
    path.unlink()
    second = None
    if successor == "file":
        path.write_text("somebody else's")
    else:
        second = listen(path)
    first.close()
    assert path.exists()
    if second is not None:
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
        second.close()


def test_the_file_is_removed_while_nobody_can_take_it_for_stale(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "s"
    listener = listen(path)
    refused: list[str] = []

    def unlink(self: Path, missing_ok: bool = False) -> None:
        with pytest.raises(HostError) as error:
            listen(path)
        refused.append(str(error.value))
        os.unlink(self)  # noqa: PTH108 - Path.unlink is what is replaced here

    monkeypatch.setattr(Path, "unlink", unlink)
    listener.close()
    assert len(refused) == 1


def test_a_listener_that_is_forgotten_leaves_no_file(tmp_path: Path) -> None:
    listen(tmp_path / "s")
    assert list(tmp_path.iterdir()) == []


def test_one_that_is_interrupted_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(socket.socket, "listen", interrupt)
    with pytest.raises(KeyboardInterrupt):
        listen(tmp_path / "s")
    assert list(tmp_path.iterdir()) == []


def test_a_stale_socket_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    listener = listen(path)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
    listener.close()


def test_a_socket_in_use_is_refused_also_when_its_backlog_is_full(tmp_path: Path) -> None:
    path = tmp_path / "s"
    first = listen(path)
    clients = []
    for _ in range(20):
        with pytest.raises(HostError, match=r"-x unix:.*: in use: another process listens there"):
            listen(path)
        clients.append(socket.socket(socket.AF_UNIX))
        clients[-1].setblocking(False)
        clients[-1].connect_ex(str(path))
    for client in clients:
        client.close()
    assert path.exists()
    first.close()


RACER = """
import sys
from emu.errors import HostError
from emu.host.sockets import Listener, UnixAddress
sys.stdin.readline()
try:
    listener = Listener(UnixAddress(sys.argv[1]), option="-x")
except HostError as error:
    print("refused" if "in use" in str(error) else error, flush=True)
else:
    print("listens", flush=True)
    sys.stdin.readline()
    listener.close()
"""


def test_of_many_that_find_a_stale_socket_one_gets_it(tmp_path: Path) -> None:
    for _ in range(3):
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(f"{tmp_path}/s")
        racers = [
            subprocess.Popen(
                [sys.executable, "-c", RACER, f"{tmp_path}/s"], text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
            )
            for _ in range(4)
        ]
        threads = [threading.Thread(target=lambda racer=racer: (racer.stdin.write("\n"), racer.stdin.flush()))
                   for racer in racers]  # fmt: skip
        for thread in threads:
            thread.start()
        said = sorted(racer.stdout.readline().strip() for racer in racers if racer.stdout is not None)
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(f"{tmp_path}/s")
        for racer in racers:
            racer.communicate("\n")
        assert said == ["listens", "refused", "refused", "refused"]
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["file", "directory", "link"])
def test_what_is_not_a_socket_is_left_alone(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "s"
    if kind == "directory":
        path.mkdir()
    elif kind == "link":
        path.symlink_to(tmp_path / "elsewhere")
    else:
        path.write_text("precious")
    with pytest.raises(UsageError, match="not a socket"):
        listen(path)
    assert path.is_symlink() if kind == "link" else path.exists()


def test_a_directory_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="No such file or directory"):
        listen(tmp_path / "no" / "s")


def test_tcp_chooses_a_port_and_one_in_use_is_refused() -> None:
    listener = Listener(TcpAddress("127.0.0.1", 0), option="-x")
    assert isinstance(listener.address, TcpAddress)
    assert listener.address.port == listener.socket.getsockname()[1] != 0
    with pytest.raises(HostError, match="in use"):
        Listener(listener.address, option="-x")
    listener.close()
