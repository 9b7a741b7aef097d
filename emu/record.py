"""Frozen values with named fields, and tuples with named fields, at a small part of the usual price of a class.

A ``Record`` is declared like a dataclass and checked as such by a type checker. ``dataclasses`` compiles six functions
for each class and takes ``inspect`` and ``ast`` along: all that a guest run uses together a sixth of its time. Its
functions ``replace``, ``fields`` and ``asdict`` take records too.

``NamedTuple`` is ``typing``'s to a type checker and to who uses it. That one compiles every annotation and a function
for each class; this one's instances take a little longer to make.
"""

from __future__ import annotations

from collections.abc import Iterable
from operator import itemgetter

from emu.hints import TYPE_CHECKING, Any, ClassVar, Self, dataclass_transform

if TYPE_CHECKING:
    from dataclasses import Field
    from typing import NamedTuple as NamedTuple
else:

    class _NamedTupleType(type):
        def __new__(cls, name: str, bases: tuple[type, ...], body: dict[str, Any]) -> type:
            if bases != (tuple,) and bases[0] is NamedTuple:
                fields = tuple(body.get("__annotations__", ()))
                defaults = {field: body[field] for field in fields if field in body}
                getters = {field: property(itemgetter(place)) for place, field in enumerate(fields)}
                own = {"_fields": fields, "_field_defaults": defaults, "__match_args__": fields, "__slots__": ()}
                body = {**body, **getters, **own}
            return super().__new__(cls, name, bases, body)

    class NamedTuple(tuple, metaclass=_NamedTupleType):
        """A tuple whose items have names: the annotated ones of the class, in their order, with their defaults."""

        __slots__ = ()

        def __new__(cls, *values: Any, **named: Any) -> Self:
            given = len(values)
            if given < len(cls._fields):
                filled = cls._field_defaults | named
                try:
                    values += tuple([filled[field] for field in cls._fields[given:]])
                except KeyError as missing:
                    raise TypeError(f"{cls.__name__}: no value for {missing}") from None
            if len(values) > len(cls._fields) or (named and not named.keys() <= set(cls._fields[given:])):
                raise TypeError(f"{cls.__name__}: an unknown field, or one given twice")
            return tuple.__new__(cls, values)

        def __getnewargs__(self) -> tuple[Any, ...]:
            return tuple(self)

        def __repr__(self) -> str:
            return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in self._asdict().items())})"

        def _replace(self, **changes: Any) -> Self:
            return type(self)(**self._asdict() | changes)

        def _asdict(self) -> dict[str, Any]:
            return dict(zip(self._fields, self, strict=True))

        @classmethod
        def _make(cls, values: Iterable[Any]) -> Self:
            return cls(*values)


class _DataclassFields:
    """What ``dataclasses`` knows a class of its own by, made when it asks."""

    def __get__(self, _record: Record | None, owner: type[Record]) -> dict[str, Field[Any]]:
        from dataclasses import field, fields, make_dataclass

        items = [
            (name, owner.__annotations__.get(name, Any), field(default=owner._defaults[name]))
            if name in owner._defaults
            else (name, owner.__annotations__.get(name, Any))
            for name in owner._names
        ]
        return {item.name: item for item in fields(make_dataclass(owner.__name__, items, kw_only=True))}


@dataclass_transform(frozen_default=True)
class Record:
    """Base of all records. Its subclasses' annotated names are the fields, in their order; a value there is a default.

    Equal when type and fields are. Records are not extended: a subclass of a record has its own fields only.
    ``kw_only`` forbids arguments without a name. ``__post_init__`` may refuse the values.
    """

    _names: ClassVar[tuple[str, ...]]
    _defaults: ClassVar[dict[str, Any]]
    _kw_only: ClassVar[bool]
    if not TYPE_CHECKING:  # a type checker knows that a record has them
        __dataclass_fields__ = _DataclassFields()

    def __init_subclass__(cls, *, kw_only: bool = False) -> None:
        cls._names = tuple(name for name, kind in cls.__annotations__.items() if not str(kind).startswith("ClassVar"))
        cls._defaults = {name: vars(cls)[name] for name in cls._names if name in vars(cls)}
        cls._kw_only = kw_only

    def __init__(self, *values: Any, **named: Any) -> None:
        if values:
            given = dict(zip(self._names, values, strict=False))
            if self._kw_only or len(given) < len(values) or given.keys() & named.keys():
                raise TypeError(f"{type(self).__name__}: too many values without a name, or one given twice")
            named |= given
        filled = self._defaults | named
        if len(filled) != len(self._names) or any(name not in filled for name in self._names):
            wrong = ", ".join(sorted(filled.keys() ^ set(self._names)))
            raise TypeError(f"{type(self).__name__}: missing or unknown fields: {wrong}")
        self.__dict__.update(filled)
        self.__post_init__()

    def __post_init__(self) -> None:
        """Raise when the values cannot be together."""

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{type(self).__name__}.{name} cannot be changed: use replace()")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"{type(self).__name__}.{name} cannot be removed")

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and other.__dict__ == self.__dict__

    def __hash__(self) -> int:
        return hash(tuple(getattr(self, name) for name in self._names))

    def __repr__(self) -> str:
        values = ", ".join(f"{name}={getattr(self, name)!r}" for name in self._names)
        return f"{type(self).__name__}({values})"

    def replace(self, **changes: Any) -> Self:
        """A copy with some fields changed; TypeError for a name that is no field."""
        return type(self)(**self.__dict__ | changes)
