"""The enumerations of a plain run behave as those of ``enum``, of which type checkers take them for."""

from __future__ import annotations

import collections.abc
import copy
import enum
import json
import pickle
from types import SimpleNamespace
from typing import Any

import pytest

from emu import enumeration
from emu.errors import Status


def kinds(of: Any) -> SimpleNamespace:
    """The same declarations, made with the module ``of``."""

    class Kind(of.Enum):  # type: ignore[misc]
        """Kinds."""

        FIRST = of.auto()
        SECOND = of.auto()
        THE_SECOND = 2

        @property
        def low(self) -> str:
            return self.name.lower()  # type: ignore[no-any-return]

    class Number(of.IntEnum):  # type: ignore[misc]
        ONE = 1
        TWO = 2
        UNO = 1

    class Word(of.StrEnum):  # type: ignore[misc]
        YES = "yes"
        NO = "no"

        def twice(self) -> str:
            return str(self) * 2

    class Bit(of.IntFlag):  # type: ignore[misc]
        A = 1
        B = 4

    return SimpleNamespace(Kind=Kind, Number=Number, Word=Word, Bit=Bit)


EXPRESSIONS = """
[str(m) for m in list(Kind) + list(Number) + list(Word)]
[repr(m) for m in list(Kind) + list(Number) + list(Word) + list(Bit)]
[f"{m}" for m in list(Kind) + list(Number) + list(Word) + list(Bit)]
[f"{Number.TWO:04d}", f"{Word.NO:>5}", "%s %d" % (Word.YES, Number.TWO)]
[(m.name, m.value) for kind in (Kind, Number, Word, Bit) for m in kind]
[len(Kind), len(Number), len(Word)]
[Kind.SECOND is Kind.THE_SECOND, Number.UNO.name, Kind.FIRST == 1, Number.ONE == 1, Word.YES == "yes"]
[Kind(2).name, Number(2).name, Word("no").name, Kind["FIRST"].name, Word["YES"].value, Number["UNO"].name]
[isinstance(Word.YES, str), isinstance(Number.ONE, int), isinstance(Kind.FIRST, Kind), type(Word.NO).__name__]
[Kind.FIRST.low, Word.YES.twice(), Kind.__doc__]
[{Number.ONE: "a"}[1], {"yes": 3}[Word.YES], {Kind.FIRST, Kind.FIRST, Kind.SECOND} == set(Kind)]
[int(Bit.A | Bit.B), Bit.A | 2 == 3, Number.ONE + Number.TWO, Number.ONE < Number.TWO, Word.YES + "!"]
json.dumps([Number.TWO, Word.NO, {"k": Number.ONE}])
[copy.copy(m) is m and copy.deepcopy([m])[0] is m for m in (Kind.FIRST, Number.TWO, Word.NO)]
[Word.YES.upper(), Number.TWO.bit_length(), bool(Kind.FIRST)]
["yes" in list(Word), Kind.FIRST in Kind, Word.NO in Word, isinstance(Kind, collections.abc.Collection)]
""".strip().splitlines()


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_an_expression_says_the_same_of_both(expression: str) -> None:
    ours, theirs = (
        eval(expression, {"json": json, "copy": copy, "collections": collections, **vars(kinds(of))})
        for of in (enumeration, enum)
    )
    assert ours == theirs


@pytest.mark.parametrize("of", [enumeration, enum])
@pytest.mark.parametrize(
    ("wrong", "error"),
    [("Kind(9)", ValueError), ("Word('YES')", ValueError), ("Kind(['no key'])", ValueError), ("Kind['NONE']", KeyError),
     ("Kind.NONE", AttributeError), ("setattr(Kind, 'FIRST', 1)", AttributeError)],
)  # fmt: skip
def test_what_is_no_member_is_refused_alike(of: Any, wrong: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        eval(wrong, vars(kinds(of)))


def test_a_value_that_is_none_is_named() -> None:
    with pytest.raises(ValueError, match=r"'so' is not a valid .*Word"):
        kinds(enumeration).Word("so")


def test_members_go_from_process_to_process_as_themselves() -> None:
    assert pickle.loads(pickle.dumps(Status.OK)) is Status.OK


def test_a_match_takes_members() -> None:
    match Status(4):
        case Status.USAGE:
            found = "usage"
        case Status.HOST:
            found = "host"
    assert found == "host"
