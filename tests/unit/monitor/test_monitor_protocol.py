"""The session: greeting, negotiation, ids, errors, events - by bytes, without sockets."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emu.monitor.errors import DEVICE_NOT_FOUND, QmpError
from emu.monitor.protocol import Event, Session

LIMIT = 1 << 20


def sent(session: Session) -> list[Any]:
    data = bytes(session.data_to_send())
    session.data_to_send().clear()
    assert data == b"" or data.endswith(b"\r\n")
    return [json.loads(line) for line in data.split(b"\r\n")[:-1]]


def serve(session: Session, data: bytes) -> list[Any]:
    """Feed ``data``; answer each request with its own name. Gives what was sent."""
    session.receive(data)
    while (request := session.next_request(output_limit=LIMIT)) is not None:
        session.succeed(request, {"did": request.name, "with": request.arguments})
    return sent(session)


@pytest.fixture
def ready() -> Session:
    session = Session()
    serve(session, b'{"execute":"qmp_capabilities"}')
    return session


def error(answer: Any) -> tuple[str, str]:
    return answer["error"]["class"], answer["error"]["desc"]


def test_the_server_speaks_first() -> None:
    (greeting,) = sent(Session())
    assert greeting["QMP"]["capabilities"] == []
    assert set(greeting["QMP"]["version"]["qemu"]) == {"major", "minor", "micro"}
    assert greeting["QMP"]["version"]["package"].startswith("emu ")


def test_nothing_works_before_the_negotiation() -> None:
    session = Session()
    sent(session)
    session.event(Event("STOP", {}, 0))
    (answer,) = serve(session, b'{"execute":"query-status","id":1}')
    assert answer["id"] == 1
    assert error(answer) == ("CommandNotFound", "Expecting capabilities negotiation with 'qmp_capabilities'")
    assert serve(session, b'{"execute":"qmp_capabilities","arguments":{"enable":[]}}') == [{"return": {}}]


def test_negotiation_happens_once(ready: Session) -> None:
    (answer,) = serve(ready, b'{"execute":"qmp_capabilities"}')
    assert error(answer) == (
        "CommandNotFound",
        "Capabilities negotiation is already complete, command ignored",
    )


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ('{"enable":["oob"]}', "Capability 'oob' is not available"),
        ('{"enable":["x"]}', "Parameter 'enable[0]' does not accept value 'x'"),
        ('{"enable":1}', "Invalid parameter type for 'enable', expected: array"),
        ('{"enable":[1]}', "Invalid parameter type for 'enable[0]', expected: string"),
        ('{"other":1}', "Parameter 'other' is unexpected"),
    ],
)
def test_a_refused_negotiation_changes_nothing(arguments: dict[str, Any] | None, says: str) -> None:
    session = Session()
    sent(session)
    (answer,) = serve(session, f'{{"execute":"qmp_capabilities","arguments":{arguments}}}'.encode())
    assert error(answer) == ("GenericError", says)
    assert not session.negotiated


@pytest.mark.parametrize(
    ("data", "says"),
    [
        # These sentences were observed from QEMU 7.2.
        (b'{"exec":1}', "QMP input member 'exec' is unexpected"),
        (b"{}", "QMP input lacks member 'execute'"),
        (b"[1,2]", "QMP input must be a JSON object"),
        (b"5 ", "QMP input must be a JSON object"),
        (b'{"execute":1}', "QMP input member 'execute' must be a string"),
        (b'{"execute":"stop","arguments":[]}', "QMP input member 'arguments' must be an object"),
        (b'{"execute":"stop","control":{}}', "QMP input member 'control' is unexpected"),
        (b'{"execute":"stop","foo":1}', "QMP input member 'foo' is unexpected"),
        (b'{"a" 1}', "JSON parse error, missing : in object pair"),
        # We do not offer out-of-band execution.
        (b'{"exec-oob":"query-status"}', "QMP input member 'exec-oob' is unexpected"),
    ],
)
def test_what_is_no_command_is_an_error_and_the_session_goes_on(ready: Session, data: bytes, says: str) -> None:
    (answer,) = serve(ready, data)
    assert error(answer) == ("GenericError", says)
    assert serve(ready, b'{"execute":"x"}') == [{"return": {"did": "x", "with": {}}}]


IDS = st.recursive(st.none() | st.booleans() | st.integers(-5, 1 << 63) | st.text(max_size=4), st.lists, max_leaves=4)


@given(IDS, st.sampled_from(['"execute":"x"', '"execute":1', '"what":1']))
def test_every_answer_carries_the_id_it_was_asked_with(tag: Any, rest: str) -> None:
    session = Session()
    serve(session, b'{"execute":"qmp_capabilities"}')
    (answer,) = serve(session, f'{{{rest},"id":{json.dumps(tag)}}}'.encode())
    assert answer["id"] == tag


def test_answers_keep_the_order_of_the_questions(ready: Session) -> None:
    answers = serve(ready, b'{"execute":"a","id":1}]{"execute":"b","id":2}{"execute":"c","id":3}')
    assert [answer.get("id") for answer in answers] == [1, None, 2, 3]


def test_failure_has_its_class(ready: Session) -> None:
    ready.receive(b'{"execute":"a"}')
    request = ready.next_request(output_limit=LIMIT)
    assert request is not None
    ready.fail(request, QmpError("Device 'x' not found", DEVICE_NOT_FOUND))
    assert sent(ready) == [{"error": {"class": "DeviceNotFound", "desc": "Device 'x' not found"}}]


def test_events_have_a_time_and_data_only_when_there_is_some(ready: Session) -> None:
    ready.event(Event("STOP", {}, 1_500_000_123_456))
    ready.event(Event("RESET", {"guest": True}, 7_000))
    assert sent(ready) == [
        {"event": "STOP", "timestamp": {"seconds": 1500, "microseconds": 123}},
        {"event": "RESET", "timestamp": {"seconds": 0, "microseconds": 7}, "data": {"guest": True}},
    ]


def test_answers_are_ascii(ready: Session) -> None:
    ready.receive('{"execute":"a","id":"\xe9\U0001f600"}'.encode())
    request = ready.next_request(output_limit=LIMIT)
    assert request is not None
    ready.succeed(request, "\xe9\udc80")
    line = bytes(ready.data_to_send())
    assert line.isascii()
    assert json.loads(line)["id"] == "\xe9\U0001f600"


def test_a_client_that_does_not_read_is_not_served(ready: Session) -> None:
    ready.receive(b"]" * 60_000)
    while ready.next_request(output_limit=LIMIT) is not None:
        pass
    assert LIMIT <= ready.pending < LIMIT + 1000
    assert not ready.idle
    taken = 0
    while not ready.idle:
        taken += len(sent(ready))
        assert ready.next_request(output_limit=LIMIT) is None
    assert taken + len(sent(ready)) == 60_000


@pytest.mark.parametrize("data", [b"POST / HTTP/1.1\r\nHost: localhost\r\n\r\n", b"GET / HTTP/1.0\r\n", b"@"])
def test_a_browser_cannot_talk_to_a_strict_session(data: bytes) -> None:
    session = Session(strict=True)
    sent(session)
    assert len(serve(session, data + b'{"execute":"qmp_capabilities"}{"execute":"quit"}')) == 1
    assert session.broken
    assert not session.negotiated


def test_a_strict_session_forgives_after_the_negotiation() -> None:
    session = Session(strict=True)
    serve(session, b'{"execute":"qmp_capabilities"}')
    assert len(serve(session, b'@\n{"execute":"x"}')) == 2
    assert not session.broken


@given(
    st.lists(
        st.binary(max_size=200) | st.sampled_from([b'{"execute":"x"}', b'{"id":1,', b'"execute":"qmp_capabilities"}'])
    )
)
@settings(max_examples=400)
def test_every_answer_to_arbitrary_bytes_is_qmp(pieces: list[bytes]) -> None:
    session = Session()
    for piece in pieces:
        for answer in serve(session, piece):
            assert answer.keys() & {"QMP", "return", "error"}
