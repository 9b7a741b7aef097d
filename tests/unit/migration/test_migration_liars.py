"""A destination that lies: the source keeps the machine or says that it does not know, in bounded time, and what the
liar says reaches nobody's terminal as it is."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emu.errors import EmuError
from emu.migration.channel import Interrupt, SocketChannel
from emu.migration.errors import Cancelled, ConnectionLost, DestinationFailed, OutcomeUnknown, Refused, StreamError
from emu.migration.parameters import Capabilities, Parameters
from emu.migration.progress import Progress
from emu.migration.report import decode_report, entry
from emu.migration.source import Source
from emu.migration.stream import FROM_SOURCE, Decoder, Frame, FrameType
from emu.words import printable
from tests.unit.migration.migration_doubles import make_guest

STALL_S = 1


class Peer:
    """The far end of a source's connection, which follows the protocol as far as its script wants."""

    def __init__(self, sock: socket.socket, interrupt: Interrupt) -> None:
        self.channel = SocketChannel(sock, Decoder(FROM_SOURCE), interrupt, stall_timeout=60)
        self.sock = sock

    def say(self, kind: FrameType, document: object = None, *, meta: bytes = b"", data: bytes = b"") -> None:
        parts = [json.dumps(document).encode()] if document is not None else [data] if data else []
        self.channel.send(kind, meta, parts)

    def until(self, kind: FrameType) -> Frame:
        while (frame := self.channel.receive()).kind is not kind:
            pass
        return frame

    def accept(self, **changes: Any) -> None:
        said = json.loads(self.until(FrameType.PREAMBLE).data)
        answer = {"machine": said["machine"], "allow_weaker_persistence": True, "proofs": {}, "by_reference": []}
        self.say(FrameType.ACCEPT, answer | changes)

    def follow(self, kind: FrameType) -> Frame:
        """Be honest up to the frame ``kind`` of the source."""
        self.accept()
        while True:
            frame = self.channel.receive()
            if frame.kind is FrameType.ROUND_END:
                self.say(FrameType.ROUND_DURABLE, meta=frame.meta)
            if frame.kind is FrameType.FINISH and kind is FrameType.COMMIT:
                self.say(FrameType.DURABLE, {"nvdimms": []})
            if frame.kind is kind:
                return frame

    def for_ever(self, kind: FrameType) -> None:
        while True:
            self.say(kind)
            time.sleep(0.05)


Lie = Callable[[Peer], None]


def meet(lie: Lie, *, cancel_after: float | None = None) -> tuple[BaseException | None, bool]:
    """What the source ended with, and whether its guest runs."""
    near, far = socket.socketpair()
    guest, mine, its = make_guest(), Interrupt(), Interrupt()

    def play() -> None:
        peer = Peer(far, its)
        with contextlib.suppress(EmuError):
            lie(peer)
            peer.until(FrameType.ABORT)
        peer.channel.close()

    thread = threading.Thread(target=play, daemon=True)
    thread.start()
    channel = SocketChannel(near, Decoder(frozenset(FrameType) - FROM_SOURCE), mine, stall_timeout=STALL_S)
    timer = None if cancel_after is None else threading.Timer(cancel_after, mine.set)
    if timer is not None:
        timer.start()
    error: BaseException | None = None
    try:
        Source(
            guest, channel, capabilities=Capabilities(),
            parameters=lambda: Parameters(downtime_limit=100, x_emu_stall_timeout=STALL_S),
            progress=Progress(), interrupt=mine,
        ).run()  # fmt: skip
    except BaseException as caught:
        error = caught
    if timer is not None:
        timer.cancel()
        timer.join()
    channel.close()
    its.set()
    thread.join(60)
    assert not thread.is_alive()
    running = guest.running
    guest.close()
    for interrupt in (mine, its):
        interrupt.close()
    return error, running


def report(**changes: Any) -> dict[str, Any]:
    return {"nvdimms": [entry("m1", "page", 4096, 0.5) | changes]}


DEEP = b"[" * 60_000
Step = Callable[[Peer], object]


def accept(**changes: Any) -> Step:
    return lambda peer: peer.accept(**changes)


def hear(kind: FrameType) -> Step:
    return lambda peer: peer.until(kind)


def follow(kind: FrameType) -> Step:
    return lambda peer: peer.follow(kind)


def say(kind: FrameType, document: object = None, **more: bytes) -> Step:
    return lambda peer: peer.say(kind, document, **more)


def for_ever(kind: FrameType) -> Step:
    return lambda peer: peer.for_ever(kind)


def silence(_: Peer) -> None:
    time.sleep(STALL_S + 1)


def garbage(peer: Peer) -> None:
    peer.sock.send(b"x" * 1000)


def steps(*all_of_them: Step) -> Lie:
    def script(peer: Peer) -> None:
        for step in all_of_them:
            step(peer)

    return script


MALFORMED = {
    "no list": {"nvdimms": 5}, "numbers": {"nvdimms": [1]}, "more": {"nvdimms": [], "more": 1},
    "a block that was not sent": report(block="pc.rom"),
}  # fmt: skip
BEFORE_COMMIT: dict[str, tuple[type[EmuError], tuple[Step, ...]]] = {
    "accepts with a number for a flag": (StreamError, (accept(allow_weaker_persistence=1),)),
    "accepts with a list of proofs": (Refused, (accept(proofs=[]),)),
    "accepts with brackets": (StreamError, (hear(FrameType.PREAMBLE), say(FrameType.ACCEPT, data=DEEP))),
    "wants files that are none": (StreamError, (accept(by_reference=["m1", "x"]),)),
    "another machine": (StreamError, (accept(machine={"a": 1}),)),
    "answers before it is asked": (StreamError, (accept(), say(FrameType.DURABLE, {"nvdimms": []}))),
    "runs before it is told": (StreamError, (accept(), say(FrameType.RUNNING))),
    "another round": (
        StreamError, (accept(), hear(FrameType.ROUND_END), say(FrameType.ROUND_DURABLE, meta=b"\xff" * 4)),
    ),
    "a round without number": (StreamError, (accept(), hear(FrameType.ROUND_END), say(FrameType.ROUND_DURABLE))),
    "progress before there is any": (StreamError, (hear(FrameType.PREAMBLE), for_ever(FrameType.PROGRESS))),
    "progress for ever at the end": (ConnectionLost, (follow(FrameType.FINISH), for_ever(FrameType.PROGRESS))),
    "silence": (ConnectionLost, (hear(FrameType.PREAMBLE), silence)),
    "reads nothing any more": (ConnectionLost, (accept(), silence)),
    "garbage": (StreamError, (hear(FrameType.PREAMBLE), garbage)),
    "a refusal without reasons": (StreamError, (hear(FrameType.PREAMBLE), say(FrameType.REFUSE, {"reasons": []}))),
    **{
        f"a report of {name}": (StreamError, (follow(FrameType.FINISH), say(FrameType.DURABLE, document)))
        for name, document in MALFORMED.items()
    },
}  # fmt: skip


@pytest.mark.parametrize("lie", BEFORE_COMMIT)
def test_a_lie_before_the_commit_leaves_the_guest_running(lie: str) -> None:
    kind, script = BEFORE_COMMIT[lie]
    # What is not found out is cancelled in the end, since the source might wait for ever.
    error, running = meet(steps(*script), cancel_after=20 * STALL_S)
    assert type(error) is kind
    assert running


AFTER_COMMIT: dict[str, Step] = {
    "progress for ever": for_ever(FrameType.PROGRESS),
    "silence": silence,
    "garbage": garbage,
    "the report again": say(FrameType.DURABLE, {"nvdimms": []}),
    "a refusal that is none": say(FrameType.REFUSE, data=DEEP),
}


@pytest.mark.parametrize("lie", AFTER_COMMIT)
def test_a_lie_after_the_commit_leaves_the_outcome_unknown_in_bounded_time(lie: str) -> None:
    error, running = meet(steps(follow(FrameType.COMMIT), AFTER_COMMIT[lie]))  # that it returns is the bound
    assert isinstance(error, OutcomeUnknown)
    assert not running, "the destination may run"


def test_an_answer_that_drips_is_no_answer() -> None:
    given_up = []

    def script(peer: Peer) -> None:
        peer.follow(FrameType.COMMIT)
        try:
            for _ in range(200):
                peer.channel._socket.send(b"\x14")
                time.sleep(STALL_S / 4)
        except OSError:  # the source has gone
            given_up.append(True)

    error, running = meet(script)
    assert isinstance(error, OutcomeUnknown)
    assert not running
    assert given_up, "it waited as long as anything came"


def test_progress_in_a_round_can_be_cancelled() -> None:
    script = steps(accept(), hear(FrameType.ROUND_END), for_ever(FrameType.PROGRESS))
    error, running = meet(script, cancel_after=STALL_S * 2)
    assert isinstance(error, Cancelled), "progress is a sign of life"
    assert running


EVIL = "\x1b]0;pwned\x07\r\n\u202egnp.exe\ud800"


def test_last_words_are_escaped_and_short() -> None:
    fails = say(FrameType.FAILED, data=b"sorry \x1b[31mred\x1b[0m \xff")
    error, running = meet(steps(follow(FrameType.COMMIT), fails))
    assert isinstance(error, DestinationFailed)
    assert running, "it said that it did not run"
    assert str(error).startswith(r"the destination failed: sorry \x1b[31mred\x1b[0m ")

    refuses = say(FrameType.REFUSE, {"reasons": [EVIL, "x" * 5000] * 5})
    refused, running = meet(steps(hear(FrameType.PREAMBLE), refuses))
    assert isinstance(refused, Refused)
    assert running
    assert len(refused.reasons) == 10
    assert all(reason.isprintable() and len(reason) <= 2000 for reason in refused.reasons)
    assert r"\x1b]0;pwned\x07\r\n\u202egnp.exe\ud800" in refused.reasons


@given(st.text(max_size=60))
def test_words_are_printable_whatever_was_said(text: str) -> None:
    shown = printable(text, 50)
    assert shown.isprintable()
    assert len(shown) <= 50
    assert printable(shown, 50) == shown
    assert shown == text or not text.isprintable() or len(text) > 50


@pytest.mark.parametrize(
    "changes",
    [
        {"bytes": "many"}, {"bytes": None}, {"bytes": -1}, {"bytes": 1 << 64}, {"bytes": True}, {"bytes": 1.5},
        {"block": None}, {"block": "pc.rom"}, {"block": ["m1"]}, {"means": "\x1b[31m"}, {"means": 1}, {"means": "none"},
        {"granularity": "byte"}, {"granularity": {}}, {"seconds": "1"}, {"seconds": -1}, {"seconds": 1e300},
        {"seconds": float("inf")}, {"more": 1},
    ],
)  # fmt: skip
def test_a_report_has_fields_of_their_types_in_their_ranges(changes: dict[str, Any]) -> None:
    assert decode_report(json.dumps(report()).encode(), {"m1"}) == report()["nvdimms"]
    with pytest.raises(StreamError):
        decode_report(json.dumps(report(**changes)).encode(), {"m1"})
    with pytest.raises(StreamError):
        decode_report(json.dumps({"nvdimms": report()["nvdimms"] * 2}).encode(), {"m1"})
