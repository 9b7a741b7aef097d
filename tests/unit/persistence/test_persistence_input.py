"""What a recovery may read of what was printed: as far as it is out, and asked for when it is read."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emu.linux.protocol import END_OF_INPUT, FRAME, Message, Role
from emu.persistence.lab.input import END, FramedInput, Input, Taken
from emu.persistence.lab.linux import Talk
from emu.persistence.model.crashstate import FULL
from emu.persistence.model.events import printed_address


class Out:
    """So many pieces are out. Takes down what is asked."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.asked: list[int] = []

    def __call__(self, unit: int, mask: int) -> int:
        assert mask == FULL
        number = next(number for number in range(10_000) if printed_address(number) == unit)
        self.asked.append(number)
        return int(number < self.count)


def test_a_piece_is_asked_for_when_it_is_read_and_the_end_once() -> None:
    out = Out(1)
    stdin = Input([b"a", b"b", b"c"], out)
    assert (stdin.read(), out.asked) == (b"a", [0])
    behind_a = stdin.taken
    assert (stdin.read(), stdin.read(), stdin.read()) == (END, b"", b"")
    assert out.asked == [0, 1]
    out.count = 2
    stdin.taken = behind_a
    assert (stdin.read(), stdin.read()) == (b"b", END)
    stdin.taken = Taken()
    assert stdin.read() == b"a"


def test_what_was_never_printed_need_not_be_asked_for() -> None:
    out = Out(9)
    stdin = Input([b"a"], out)
    assert (stdin.read(), stdin.read(), out.asked) == (b"a", END, [0])


@given(pieces=st.lists(st.binary(min_size=1, max_size=3 * FRAME), max_size=8), data=st.data())
def test_frames_hold_all_that_is_out_whoever_reads_on(pieces: list[bytes], data: st.DataObject) -> None:
    count = data.draw(st.integers(0, len(pieces)))
    out = Out(count)
    stdin = FramedInput(pieces, out)
    got: list[bytes] = []
    moments: list[Taken] = []
    while not got or got[-1] != END_OF_INPUT:
        moments.append(stdin.taken)
        got.append(stdin.read())
    assert out.asked == list(range(min(count + 1, len(pieces))))
    payload = b"".join(pieces[:count])
    assert b"".join(frame[2:] for frame in got) == payload
    assert all(int.from_bytes(frame[:2], "little") == len(frame) - 2 <= FRAME for frame in got)
    assert len(got) == -(-len(payload) // FRAME) + 1
    at = data.draw(st.integers(0, len(got) - 1))
    stdin.taken = moments[at]
    assert [stdin.read() for _ in got[at:]] == got[at:]


@pytest.mark.parametrize("role", [Role.RECOVERY, Role.WORKLOAD])
def test_init_asks_for_each_frame(role: Role) -> None:
    talk, asked = Talk(lambda data: None, role), []
    talk.machine = object()  # type: ignore[assignment] # which nothing happens to
    talk.said(Message.INPUT, 0)
    talk.input_wanted = lambda: asked.append(1)
    talk.said(Message.INPUT, 0)
    assert asked == [1]
