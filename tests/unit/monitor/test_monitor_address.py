"""Where the monitor listens: the grammar, and sockets that neither surprise nor stay behind."""

import os
import socket
import stat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emu.errors import EmuError, HostError, UsageError
from emu.monitor.address import ListenAddress, Listener, parse


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("unix:/a/b,server=on,wait=off", ListenAddress(path="/a/b", wait=False)),
        ("unix:/a,server=on", ListenAddress(path="/a", wait=True)),
        ("unix:/a,server,nowait", ListenAddress(path="/a", wait=False)),
        ("unix:a,,b,server=yes,wait=no", ListenAddress(path="a,b", wait=False)),
        ("unix:/a,server=true,wait=n", ListenAddress(path="/a", wait=False)),
        ("unix:/a:b,server=on,wait=on", ListenAddress(path="/a:b", wait=True)),
        ("tcp:localhost:4444,server=on,wait=off", ListenAddress(host="localhost", port=4444, wait=False)),
        ("tcp:[::1]:0,server=on,wait=off", ListenAddress(host="::1", port=0, wait=False)),
        ("tcp::1,server=on,x-emu-allow-remote=on", ListenAddress(port=1, allow_remote=True)),
    ],
)
def test_grammar(text, address):
    assert parse(text) == address


@pytest.mark.parametrize(
    "text",
    [
        "", "unix", "unix:", "unix:,server=on", "unix:/a", "unix:/a,server=off", "unix:/a,server=on,wait=maybe",
        "unix:/a,server=on,abstract=on", "unix:/a\0b,server=on", f"unix:{'a' * 108},server=on", "tcp:1,server=on",
        "tcp:h:,server=on", "tcp:h:65536,server=on", "tcp:h:x,server=on", "tcp:h:\u0664,server=on", "stdio",
        "pty:,server=on",
    ],
)  # fmt: skip
def test_what_is_no_address(text):
    with pytest.raises(UsageError) as refused:
        parse(text)
    assert refused.value.remedy


@given(st.text(max_size=40) | st.text("unixtcp:,=servonwaf/[]0123456789", max_size=40).map(lambda text: f"unix:{text}"))
def test_any_text_is_an_address_or_a_usage_error(text):
    try:
        address = parse(text)
    except UsageError:
        return
    assert address.path or 0 <= address.port <= 65535


def test_a_socket_is_for_its_owner_alone_and_goes_away(tmp_path):
    path = tmp_path / "qmp"
    before = os.umask(0)
    try:
        listener = Listener(ListenAddress(path=str(path)))
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.lstat().st_mode) == 0o600
    assert listener.name == f"unix:{path}"
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
    listener.close()
    assert not path.exists()
    listener.close()


def test_a_socket_that_replaced_ours_is_left_alone(tmp_path):
    path = tmp_path / "qmp"
    listener = Listener(ListenAddress(path=str(path)))
    path.unlink()
    path.write_text("somebody else's")
    listener.close()
    assert path.read_text() == "somebody else's"


def test_a_stale_socket_is_replaced(tmp_path):
    path = tmp_path / "qmp"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    listener = Listener(ListenAddress(path=str(path)))
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
    listener.close()


def test_a_socket_in_use_is_refused(tmp_path):
    path = str(tmp_path / "qmp")
    first = Listener(ListenAddress(path=path))
    with pytest.raises(HostError, match="another process listens there"):
        Listener(ListenAddress(path=path))
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(path)
    first.close()


@pytest.mark.parametrize("kind", ["file", "directory", "link"])
def test_what_is_not_a_socket_is_left_alone(tmp_path, kind):
    path = tmp_path / "qmp"
    if kind == "directory":
        path.mkdir()
    elif kind == "link":
        path.symlink_to(tmp_path / "elsewhere")
    else:
        path.write_text("precious")
    with pytest.raises(UsageError, match="not a socket"):
        Listener(ListenAddress(path=str(path)))
    assert path.is_symlink() if kind == "link" else path.exists()


def test_a_directory_that_is_missing(tmp_path):
    with pytest.raises(HostError, match="No such file or directory"):
        Listener(ListenAddress(path=str(tmp_path / "no" / "qmp")))


def test_tcp_on_loopback():
    listener = Listener(ListenAddress(host="127.0.0.1", port=0))
    host, port = listener.socket.getsockname()
    assert listener.name == f"tcp:127.0.0.1:{port}"
    with pytest.raises(HostError, match="cannot listen"):
        Listener(ListenAddress(host=host, port=port))
    listener.close()


@pytest.mark.parametrize("host", ["", "0.0.0.0", "::"])
def test_the_world_is_kept_out_unless_it_is_let_in(host):
    with pytest.raises(UsageError, match="without a password"):
        Listener(ListenAddress(host=host, port=0))
    Listener(ListenAddress(host=host, port=0, allow_remote=True)).close()


@pytest.mark.parametrize("host", ["no.such.host.invalid", "a" * 300, "\udc80", "-"])
def test_a_host_that_nobody_knows(host):
    with pytest.raises(EmuError):
        Listener(ListenAddress(host=host, port=0))
