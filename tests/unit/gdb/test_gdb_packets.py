"""The stream: packets come out as they went in, and nothing that is sent does harm."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from emu.gdb.packets import LONGEST, Reader, Signal, encode, unescape


def read(*pieces: bytes) -> list[bytes | Signal]:
    reader = Reader()
    return [found for piece in pieces for found in reader.feed(piece)]


@given(st.binary(max_size=300))
def test_what_is_encoded_is_read_back(data: bytes) -> None:
    (found,) = read(encode(data))
    assert isinstance(found, bytes)
    assert unescape(found) == data


@given(st.lists(st.binary(max_size=40), max_size=5), st.integers(1, 7))
def test_it_does_not_matter_how_the_stream_is_cut(packets: list[bytes], size: int) -> None:
    stream = b"+".join(map(encode, packets))
    assert read(*(stream[at : at + size] for at in range(0, len(stream), size))) == read(stream)


@given(st.binary(max_size=2000))
@example(b"$" * 100)
@example(b"$#00$#zz\x03$a#61")
def test_any_stream_is_taken_and_a_packet_comes_through_behind_it(noise: bytes) -> None:
    # Two: the first may end what the noise began.
    assert read(noise, encode(b"?"), encode(b"?"))[-1] == b"?"


def test_signals() -> None:
    assert read(b"+-\x03x$?#00") == [Signal.ACK, Signal.NAK, Signal.INTERRUPT, Signal.BROKEN]


def test_the_longest_packet_is_read_and_one_more_byte_is_refused() -> None:
    assert read(encode(b"a" * LONGEST)) == [b"a" * LONGEST]
    assert read(encode(b"a" * (LONGEST + 1))) == [Signal.OVERLONG]


def test_an_escape_without_its_byte_means_nothing() -> None:
    assert unescape(b"ab}") == b"ab"
