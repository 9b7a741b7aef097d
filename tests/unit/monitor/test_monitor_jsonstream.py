"""The decoder against Python's own JSON, against QEMU's observed answers, and against arbitrary bytes."""

import itertools
import json
import tracemalloc
from random import Random
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from emu.monitor.jsonstream import MAX_DEPTH, MAX_TEXT, Decoded, JsonDecoder, Malformed, encode_line
from tests.fuzzing import times


def items(*pieces: bytes) -> list[Decoded | Malformed]:
    decoder, found = JsonDecoder(), []
    for piece in pieces:
        decoder.feed(piece)
        while (item := decoder.next_item()) is not None:
            found.append(item)
        assert decoder.idle
    return found


def in_pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(edges)]


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 64) - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8")),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
OBJECTS = st.dictionaries(st.text(max_size=8), VALUES, max_size=4)
CUTS = st.lists(st.integers(0, 1 << 16), max_size=8)


@given(st.lists(OBJECTS, min_size=1, max_size=4), CUTS, st.booleans(), st.sampled_from([b"", b"\n", b" \r\n\t"]))
def test_values_arrive_whole_however_the_bytes_are_cut(
    values: list[dict[str, Any]], cuts: list[int], ascii_only: bool, between: bytes
) -> None:
    data = between.join(json.dumps(value, ensure_ascii=ascii_only).encode() for value in values)
    assert items(*in_pieces(data, cuts)) == [Decoded(value) for value in values]


@given(st.lists(st.binary(max_size=64), max_size=8), OBJECTS, CUTS)
@settings(max_examples=400)
def test_arbitrary_bytes_never_raise_and_a_reset_byte_always_helps(
    garbage: list[bytes], value: object, cuts: list[int]
) -> None:
    data = b"".join(garbage) + b"\xff"
    found = items(*in_pieces(data, cuts), json.dumps(value).encode())
    assert found[-1] == Decoded(value)
    assert all(isinstance(item, (Decoded, Malformed)) for item in found)


@pytest.mark.fuzz
def test_many_random_streams_never_raise_and_a_reset_byte_always_helps() -> None:
    random = Random(1)
    alphabet = b"{}[]:,\"'\\\x00\n\t 0123.-eEtrufalsn\xff\xfe\xc3\xa9\xed\xa0%@"
    for _ in range(times(20_000)):
        decoder = JsonDecoder()
        for _ in range(random.randrange(1, 4)):
            decoder.feed(bytes(random.choices(alphabet, k=random.randrange(40))))
            while decoder.next_item() is not None:
                pass
        decoder.feed(b"\xff{}")
        assert list(iter(decoder.next_item, None))[-1] == Decoded({})


JSONISH = st.lists(
    st.sampled_from([b"{", b"}", b"[", b"]", b":", b",", b'"a"', b"'b'", b"1", b"-", b"true", b"nul", b" ", b"\n",
                     b"\\", b'"', b"\xff", b"\xc3\xa9", b"1e999", b'"\\ud800"']),
    max_size=40,
).map(b"".join)  # fmt: skip


@given(JSONISH, CUTS)
@settings(max_examples=400)
@example(b'{"a\\\xff{', [4])
@example(b'{"a\\\x01}', [4])
def test_near_json_is_judged_the_same_in_any_pieces(data: bytes, cuts: list[int]) -> None:
    assert items(*in_pieces(data, cuts)) == items(data)


@given(JSONISH)
@settings(max_examples=400)
def test_what_is_accepted_is_what_python_accepts(data: bytes) -> None:
    """Single quotes are ours (and QEMU's); apart from them Python's parser agrees on every decoded value."""
    if b"'" in data:
        return
    for item in items(data + b"\n"):
        if isinstance(item, Decoded):
            text = json.dumps(item.value)
            assert json.loads(text) == item.value
    try:
        whole = json.loads(data)
    except ValueError:
        return
    if isinstance(whole, dict) and not any(isinstance(value, float) for value in whole.values()):
        assert items(data) in ([Decoded(whole)], [Malformed("JSON parse error, duplicate key")]) or b"\\u" in data


@pytest.mark.parametrize(
    ("data", "answers"),
    [
        (b'{"a": [1, 2.5, null, true, "x"]}', [{"a": [1, 2.5, None, True, "x"]}]),
        (b"{}[]5 'it\\'s' ", [{}, [], 5, "it's"]),
        (b'{"id": 18446744073709551615}', [{"id": 18446744073709551615}]),
        (b'{"id": 18446744073709551616}', [{"id": 1.8446744073709552e19}]),
        (b'{"id": -9223372036854775808}', [{"id": -(1 << 63)}]),
        (b'"\\u00e9\\uD83D\\uDE00\\/\\n"', ["\xe9\U0001f600/\n"]),
        (b'"\xf0\x9f\x98\x80\\u0000"', ["\U0001f600\0"]),
    ],
)
def test_values(data: bytes, answers: list[object]) -> None:
    assert items(data) == [Decoded(value) for value in answers]


@pytest.mark.parametrize(
    ("data", "why"),
    [
        # These sentences were observed from QEMU 7.2.
        (b"@", "JSON parse error, stray '@'"),
        (b'{"a" 1}', "JSON parse error, missing : in object pair"),
        (b'{"a":1,"a":2}', "JSON parse error, duplicate key"),
        (b"}", "JSON parse error, expecting value"),
        (b"\xff", "JSON parse error, stray '\ufffd'"),
        (b'{"id":"\xed\xa0\x80"}', "JSON parse error, invalid UTF-8 sequence in string"),
        (b'{"id":"\\ud83d"}', "JSON parse error, \\ud83d is not a valid Unicode character"),
        (b"01 ", "JSON parse error, stray '01'"),
        (b'{"id":truex}', "JSON parse error, invalid keyword 'truex'"),
        (b"[" * (MAX_DEPTH + 1), "JSON nesting depth limit exceeded"),
        # These are ours.
        (b'{"id":1e400}', "JSON parse error, number '1e400' is too large"),
        (b'"a\nb"', "JSON parse error, stray '\"a\n'"),
        (b'"\\x"', "JSON parse error, invalid escape sequence '\\x' in string"),
        (b"{1:2}", "JSON parse error, key is not a string in object"),
        (b"[1 2]", "JSON parse error, expected separator in list"),
        (b'{"a":1 "b"}', "JSON parse error, expected separator in dict"),
        (b"[1}", "JSON parse error, expecting value"),
    ],
)
def test_errors_are_told_once_and_the_next_command_works(data: bytes, why: str) -> None:
    assert items(data, b'\xff{"execute":"x"}')[0] == Malformed(why)
    assert items(data, b'\xff{"execute":"x"}')[-1] == Decoded({"execute": "x"})


@pytest.mark.parametrize("data", [b'{"a" 1}', b'{"a":1,"a":2}', b"}", b"01 ", b'{"a":[1}', b'"x\n', b'{"id":truex}'])
def test_these_errors_need_no_reset(data: bytes) -> None:
    found = items(data, b'{"execute":"x"}')
    assert len(found) == 2
    assert found[1] == Decoded({"execute": "x"})


def test_deepest_accepted_nesting() -> None:
    data = b"[" * MAX_DEPTH + b"]" * MAX_DEPTH
    (item,) = items(data)
    assert isinstance(item, Decoded)
    assert json.dumps(item.value).encode() == data


@pytest.mark.parametrize(("start", "more"), [(b'{"a":"', b"x"), (b'{"a":1', b"1"), (b'["\\', b"\\"), (b"{'e", b'"')])
def test_an_endless_token_is_cut_off_and_forgotten(start: bytes, more: bytes) -> None:
    decoder, errors = JsonDecoder(), 0
    decoder.feed(start)
    tracemalloc.start()
    for _ in range(64):
        decoder.feed(more * 32768)
        while (item := decoder.next_item()) is not None:
            errors += isinstance(item, Malformed)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert errors >= 1
    assert peak < 5 * MAX_TEXT
    decoder.feed(b'\xff{"ok":1}')
    assert list(iter(decoder.next_item, None))[-1] == Decoded({"ok": 1})


def test_an_endless_list_is_cut_off() -> None:
    decoder = JsonDecoder()
    decoder.feed(b"[")
    for _ in range(MAX_TEXT // 65536 + 1):
        decoder.feed(b"1," * 32768)
        if (item := decoder.next_item()) is not None:
            break
    assert item == Malformed("JSON token size limit exceeded")


def test_space_between_values_counts_for_nothing() -> None:
    assert items(*[b" " * 65536] * 40, b"{}") == [Decoded({})]


def test_a_large_value_within_the_limit_is_taken() -> None:
    text = "x" * (MAX_TEXT - 100)
    data = json.dumps({"a": text}).encode()
    assert items(*[data[at : at + 1000] for at in range(0, len(data), 1000)]) == [Decoded({"a": text})]


@given(VALUES)
def test_lines_are_ascii_and_end_in_crlf(value: object) -> None:
    line = encode_line(value)
    assert line.endswith(b"\r\n")
    assert line.isascii()
    assert b"\n" not in line[:-2]
    assert json.loads(line) == value
