"""Records: what a dataclass of the same declaration would do, and dataclasses' own functions on them."""

from __future__ import annotations

import dataclasses
import pickle
import typing
from typing import Any, ClassVar

import pytest

from emu.record import NamedTuple, Record


class Point(Record):
    x: int
    y: int = 2
    origin: ClassVar[str] = "corner"


class Named(Record, kw_only=True):
    name: str
    size: int = 1

    def __post_init__(self) -> None:
        if self.size < 0:
            raise ValueError(self.name)


@dataclasses.dataclass(frozen=True)
class Peer:
    x: int
    y: int = 2
    origin: ClassVar[str] = "corner"


def make(kind: Any, *values: Any, **named: Any) -> Any:
    try:
        return dataclasses.astuple(kind(*values, **named))
    except TypeError:
        return TypeError


@pytest.mark.parametrize("values", [(), (1,), (1, 3), (1, 3, 5)])
@pytest.mark.parametrize(
    "named", [{}, {"x": 7}, {"y": 8}, {"x": 7, "y": 8}, {"z": 9}, {"x": 1, "z": 9}, {"origin": "a"}]
)
def test_arguments_are_taken_as_a_dataclass_takes_them(values: tuple[int, ...], named: dict[str, Any]) -> None:
    assert make(Point, *values, **named) == make(Peer, *values, **named)


def test_equal_when_type_and_fields_are() -> None:
    assert Point(1) == Point(1, 2) != Point(1, 3)
    assert len({Point(1), Point(1, 2), Point(2)}) == 2
    assert Point(1) != Peer(1)
    assert repr(Point(1)) == "Point(x=1, y=2)"


def test_it_cannot_be_changed() -> None:
    point: Any = Point(1)
    with pytest.raises(AttributeError, match=r"Point\.x"):
        point.x = 2
    with pytest.raises(AttributeError, match=r"Point\.x"):
        del point.x
    assert point.replace(x=5) == Point(5) != point == Point(1)
    with pytest.raises(TypeError, match="z"):
        point.replace(z=1)


def test_names_are_needed_where_the_declaration_says_so() -> None:
    assert Named(name="a") == Named(name="a", size=1)
    positional: Any = Named
    with pytest.raises(TypeError):
        positional("a")
    with pytest.raises(ValueError, match="wrong"):
        Named(name="wrong", size=-1)
    with pytest.raises(ValueError, match="a"):
        Named(name="a").replace(size=-1)


def test_functions_of_dataclasses_take_it() -> None:
    named = Named(name="a", size=3)
    assert dataclasses.replace(named, size=4) == Named(name="a", size=4)
    assert dataclasses.asdict(named) == {"name": "a", "size": 3}
    assert [(item.name, item.default) for item in dataclasses.fields(Point)] == [("x", dataclasses.MISSING), ("y", 2)]


def test_it_goes_to_another_process_and_back() -> None:
    assert pickle.loads(pickle.dumps(Named(name="a", size=3))) == Named(name="a", size=3)


class Cheap(NamedTuple):
    x: int
    y: int = 2

    @property
    def total(self) -> int:
        return self.x + self.y


class Usual(typing.NamedTuple):
    x: int
    y: int = 2


@pytest.mark.parametrize("values", [(), (1,), (1, 3), (1, 3, 5)])
@pytest.mark.parametrize("named", [{}, {"x": 7}, {"y": 8}, {"x": 7, "y": 8}, {"z": 9}, {"x": 1, "z": 9}])
def test_a_named_tuple_takes_arguments_as_typings_does(values: tuple[int, ...], named: dict[str, Any]) -> None:
    def made(kind: Any) -> Any:
        try:
            return tuple(kind(*values, **named))
        except TypeError:
            return TypeError

    assert made(Cheap) == made(Usual)


def test_a_named_tuple_is_a_tuple_with_names() -> None:
    one = Cheap(1)
    x, y = one
    assert (x, y) == one == (1, 2)
    assert (one.x, one.y, one.total, one[1]) == (1, 2, 3, 2)
    assert repr(one) == "Cheap(x=1, y=2)"
    assert one._replace(y=5) == Cheap(1, 5) == Cheap._make((1, 5))
    assert one._asdict() == {"x": 1, "y": 2}
    assert (Cheap._fields, Cheap._field_defaults) == (Usual._fields, Usual._field_defaults)
    again = pickle.loads(pickle.dumps(one))
    assert again == one
    assert type(again) is Cheap
    assert not hasattr(one, "__dict__")
    match one:
        case Cheap(a, b):
            assert (a, b) == (1, 2)
    changed: Any = one
    with pytest.raises(AttributeError):
        changed.x = 3
    with pytest.raises(TypeError):
        changed._replace(z=1)
