"""Where the monitor listens: the grammar, and whom it lets in."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emu.errors import EmuError, UsageError
from emu.host.sockets import TcpAddress, UnixAddress
from emu.monitor.address import ListenAddress, Listener, parse


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("unix:/a/b,server=on,wait=off", ListenAddress(UnixAddress("/a/b"), wait=False)),
        ("unix:/a,server=on", ListenAddress(UnixAddress("/a"), wait=True)),
        ("unix:/a,server,nowait", ListenAddress(UnixAddress("/a"), wait=False)),
        ("unix:a,,b,server=yes,wait=no", ListenAddress(UnixAddress("a,b"), wait=False)),
        ("unix:/a,server=true,wait=n", ListenAddress(UnixAddress("/a"), wait=False)),
        ("unix:/a:b,server=on,wait=on", ListenAddress(UnixAddress("/a:b"), wait=True)),
        ("tcp:localhost:4444,server=on,wait=off", ListenAddress(TcpAddress("localhost", 4444), wait=False)),
        ("tcp:[::1]:0,server=on,wait=off", ListenAddress(TcpAddress("::1", 0), wait=False)),
        ("tcp::1,server=on,x-emu-allow-remote=on", ListenAddress(TcpAddress("", 1), allow_remote=True)),
    ],
)
def test_grammar(text: str, address: ListenAddress) -> None:
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
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(UsageError) as refused:
        parse(text)
    assert refused.value.remedy


@given(st.text(max_size=40) | st.text("unixtcp:,=servonwaf/[]0123456789", max_size=40).map(lambda text: f"unix:{text}"))
def test_any_text_is_an_address_or_a_usage_error(text: str) -> None:
    try:
        address = parse(text)
    except UsageError:
        return
    assert isinstance(address.address, UnixAddress) or 0 <= address.address.port <= 65535


@pytest.mark.parametrize("host", ["", "0.0.0.0", "::"])
def test_the_world_is_kept_out_unless_it_is_let_in(host: str) -> None:
    with pytest.raises(UsageError, match="asks for no password"):
        Listener(ListenAddress(TcpAddress(host, 0)))
    Listener(ListenAddress(TcpAddress(host, 0), allow_remote=True)).close()


@pytest.mark.parametrize("host", ["no.such.host.invalid", "a" * 300, "\udc80", "-"])
def test_a_host_that_nobody_knows(host: str) -> None:
    with pytest.raises(EmuError):
        Listener(ListenAddress(TcpAddress(host, 0)))
