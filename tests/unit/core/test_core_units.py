"""Sizes and numbers as users write them."""

import re
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emu.cli import keyval
from emu.config import is_identifier, is_uuid
from emu.errors import UsageError
from emu.units import U64_MAX, align_down, align_up, counted, human_size, parse_number, parse_size


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("64M", 64 << 20),
        ("1.5G", 3 << 29),
        ("0x1000", 4096),
        ("4096", 4096),
        ("0", 0),
        ("2k", 2048),
        ("1T", 1 << 40),
        ("4KiB", 4096),
        ("12B", 12),
    ],
)
def test_sizes(text: str, value: int) -> None:
    assert parse_size(text) == value


@pytest.mark.parametrize("text", ["", "M", "-1", "1.3", "64Q", "0x", "1e3", " 1", "1 ", "16E", "9" * 65, "٣"])
def test_bad_sizes_are_usage_errors_that_name_what(text: str) -> None:
    with pytest.raises(UsageError, match="label-size"):
        parse_size(text, what="label-size")


@given(st.text(max_size=80))
def test_any_text_is_a_size_or_a_usage_error(text: str) -> None:
    try:
        assert 0 <= parse_size(text) <= U64_MAX
    except UsageError as error:
        assert error.remedy


@given(st.integers(0, U64_MAX))
def test_numbers_round_trip_in_both_bases(value: int) -> None:
    assert parse_number(str(value), what="n") == parse_number(hex(value), what="n") == value


def test_number_range_is_closed() -> None:
    assert parse_number("-1", what="slot", low=-1, high=3) == -1
    with pytest.raises(UsageError, match="out of range"):
        parse_number("4", what="slot", high=3)


@given(st.integers(0, 1 << 50), st.integers(1, 1 << 30))
def test_alignment(value: int, alignment: int) -> None:
    assert align_down(value, alignment) <= value <= align_up(value, alignment)
    assert align_up(value, alignment) % alignment == align_down(value, alignment) % alignment == 0
    assert align_up(value, alignment) - align_down(value, alignment) in (0, alignment)


def test_human_sizes() -> None:
    assert [human_size(n) for n in (0, 1000, 1024, 64 << 20, 1 << 40)] == ["0 B", "1000 B", "1 KiB", "64 MiB", "1 TiB"]


def test_one_is_one() -> None:
    assert [counted(n, "store") for n in (0, 1, 2)] == ["0 stores", "1 store", "2 stores"]
    assert [counted(n, "flush", "flushes") for n in (1, 2)] == ["1 flush", "2 flushes"]


SIZE = re.compile(r"(0[xX][0-9a-fA-F]+|[0-9]+(\.[0-9]+)?)[BKMGTPE]?(I?B)?", re.IGNORECASE | re.ASCII)
WORDS: list[tuple[Callable[[str], object], str]] = [
    (lambda text: parse_number(text, what="n", low=-U64_MAX), r"-?(0[xX][0-9a-fA-F]+|[0-9]+)"),
    (is_identifier, r"[A-Za-z][A-Za-z0-9._-]{0,255}"),
    (keyval._is_key, r"[A-Za-z_][A-Za-z0-9_-]*(\.[0-9]+)?"),
    (is_uuid, r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}"),
]


@given(st.text("019.xXbBkKmMiIeEf\u212aé", max_size=7))
def test_sizes_have_the_grammar_that_they_had_as_an_expression(text: str) -> None:
    try:
        parse_size(text)
        taken = True
    except UsageError as error:
        taken = "is not a size" not in str(error)
    assert taken is (SIZE.fullmatch(text) is not None)


@pytest.mark.parametrize(("judge", "expression"), WORDS)
@given(st.data())
def test_words_have_the_grammar_that_they_had_as_an_expression(
    judge: Callable[[str], object], expression: str, data: st.DataObject
) -> None:
    text = data.draw(st.from_regex(expression, fullmatch=True) | st.text("019.xXaAfFgé-_\n", max_size=8))
    try:
        taken = judge(text) is not False
    except UsageError as error:
        taken = "is not a number" not in str(error) or len(text) > 64
    assert taken is (re.fullmatch(expression, text) is not None)
