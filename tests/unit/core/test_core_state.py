"""Saved state leaves nothing over and lets nothing odd in."""

import pytest

from emu.errors import StateError
from emu.state import Fields, SavedState


def fields(**values: object) -> Fields:
    return Fields(SavedState("pit", 1, values), kind="pit", version=1)  # type: ignore[arg-type]  # hostile on purpose


def test_takes_every_kind_once() -> None:
    state = fields(a=3, b=True, c="x", d=b"yy", e=[1, 2])
    assert state.integer("a", 0, 3) == 3
    assert state.boolean("b") is True
    assert state.text("c") == "x"
    assert state.octets("d", exactly=2) == b"yy"
    assert state.integers("e", 2) == (1, 2)
    state.finish()


@pytest.mark.parametrize(
    ("take", "value"),
    [
        ("integer", True),
        ("integer", -1),
        ("integer", 1 << 64),
        ("integer", "1"),
        ("boolean", 1),
        ("text", b"x"),
        ("octets", "x"),
        ("octets", bytes(2 << 20)),
    ],
)
def test_wrong_types_and_ranges_are_refused(take: str, value: object) -> None:
    with pytest.raises(StateError, match="field 'x'"):
        getattr(fields(x=value), take)("x")


@pytest.mark.parametrize("value", [[1], [1, 2, 3], [1, True], [1, -1], "ab", b"ab", 5])
def test_lists_have_a_length_and_a_range(value: object) -> None:
    with pytest.raises(StateError):
        fields(x=value).integers("x", 2)


def test_leftover_missing_kind_and_version_are_errors() -> None:
    with pytest.raises(StateError, match="unknown fields: x"):
        fields(x=1).finish()
    with pytest.raises(StateError, match="lacks the field 'y'"):
        fields(x=1).integer("y")
    with pytest.raises(StateError, match="expected 'rtc'"):
        Fields(SavedState("pit", 1, {}), kind="rtc", version=1)
    with pytest.raises(StateError, match="version 2"):
        Fields(SavedState("pit", 2, {}), kind="pit", version=1)
