"""The talk between init and emu: ports, messages, frames."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emu.board import map as at
from emu.devices.bus import PortBus
from emu.devices.initport import InitPorts
from emu.linux import protocol
from emu.linux.conversation import Conversation, Log
from emu.linux.protocol import Ended, Failure, Message, Role, Stage

HEADER = (Path(__file__).parents[3] / "guest/linux/protocol.h").read_text()


class Talk:
    def __init__(self) -> None:
        self.errors = bytearray()
        self.said: list[tuple[int, int]] = []

    def host(self) -> PortBus:
        bus = PortBus()
        listener = type("Host", (), {"said": lambda _, *words: self.said.append(words), "role": lambda _: ord("r")})()
        bus.attach(InitPorts(self.errors.extend, listener), at.INIT)
        return bus


def test_ports_carry_errors_messages_and_the_role() -> None:
    talk = Talk()
    bus = talk.host()
    bus.write(0xEA, 1, 0x41)
    bus.write(0xEC, 4, ord("E") | 0x10B << 8)
    assert talk.errors == b"A"
    assert talk.said == [(ord("E"), 0x10B)]
    assert bus.read(0xEC, 4) == ord("r")
    assert bus.read(0xEA, 1) == 0xFF


@pytest.mark.parametrize("words", [Message, Role, Stage])
def test_both_sides_have_the_same_words(words: type[Message | Role | Stage]) -> None:
    prefix = {Message: "", Role: "ROLE_", Stage: "STAGE_"}[words]
    for word in words:
        letter = chr(word) if isinstance(word, int) else word
        assert f"{prefix}{word.name} = '{letter}'" in HEADER


def test_both_sides_have_the_same_numbers() -> None:
    ports = {name: int(number, 16) for name, number in re.findall(r"(PORT_\w+) = (0x\w+)", HEADER)}
    assert ports == {
        "PORT_OUTPUT": at.DEBUG_CONSOLE.start,
        "PORT_ERRORS": at.INIT[0].start,
        "PORT_CONTROL": at.INIT[1].start,
        "PORT_EXIT": 0xF4,
    }
    assert f"STATUS_INIT_FAILED = {protocol.INIT_FAILED}" in HEADER
    assert f"KILLED = {protocol.KILLED:#x}" in HEADER
    assert f"FRAME = {protocol.FRAME}" in (Path(__file__).parents[3] / "guest/linux/init.c").read_text()


def test_how_a_command_ended() -> None:
    assert protocol.ended(3) == Ended(3, None)
    assert protocol.ended(0x100 | 11) == Ended(139, 11)
    assert protocol.failure(ord("f") | 22 << 8) == Failure(Stage.MOUNT, 22)


@given(st.binary(max_size=3 * protocol.FRAME))
def test_frames_hold_the_bytes_and_none_is_the_end(data: bytes) -> None:
    made = list(protocol.frames(data))
    assert b"".join(frame[2:] for frame in made) == data
    assert all(int.from_bytes(frame[:2], "little") == len(frame) - 2 > 0 for frame in made)
    assert all(len(frame) <= 2 + protocol.FRAME for frame in made)


def test_conversation_remembers_and_switches_the_console() -> None:
    kernel, terminal, asked = bytearray(), bytearray(), []
    talk = Conversation(kernel.extend, terminal.extend, lambda: asked.append(1))
    talk.write_serial(b"boot")
    talk.said(Message.INPUT, 0)
    talk.said(0x7F, 0)  # unknown
    talk.said(Message.TERMINAL, 0)
    talk.write_serial(b"$ ")
    talk.said(Message.ENDED, 7)
    assert (bytes(kernel), bytes(terminal), asked) == (b"boot", b"$ ", [1])
    assert talk.ended == Ended(7, None)
    assert talk.failure is None
    assert talk.role() == Role.EXEC


def test_log_keeps_the_end() -> None:
    log = Log()
    for number in range(40000):
        log(b"line %d\r\n" % number)
    assert log.last_lines(2) == ["line 39998", "line 39999"]
    assert len(log.text) <= 2 << 16
