"""Enumerations at a small part of the usual price of one, for the modules that a plain run imports.

To a type checker these are ``enum``'s. That one takes a tenth of a millisecond or more for each enumeration, and what a
guest run imports has thirty. Here a member is an ordinary instance with a ``name`` and a ``value``, found by
``Kind(value)`` and ``Kind["NAME"]``; an enumeration is a collection of them, and members are pickled and
copied as themselves. What there is not: ``_missing_`` and its kin, functions that make enumerations, and members for
flags put together, which are plain numbers.
"""

from __future__ import annotations

from emu.hints import TYPE_CHECKING

if TYPE_CHECKING:
    from enum import Enum as Enum
    from enum import IntEnum as IntEnum
    from enum import IntFlag as IntFlag
    from enum import StrEnum as StrEnum
    from enum import auto as auto
else:

    class auto:  # noqa: N801 - the name it has in enum
        """A member's place among the others, from 1 on."""

    class _Enumeration(type):
        def __new__(cls, name, bases, body):
            values = {key: value for key, value in body.items() if key[0] != "_" and not hasattr(value, "__get__")}
            own = {"_members": {}, "_by_value": {}}
            kind = super().__new__(cls, name, bases, {key: body[key] for key in body if key not in values} | own)
            data = int if issubclass(kind, int) else str if issubclass(kind, str) else None
            for place, (key, given) in enumerate(values.items(), 1):
                value = place if type(given) is auto else given
                member = kind._by_value.get(value)
                if member is None:
                    member = object.__new__(kind) if data is None else data.__new__(kind, value)
                    member.name, member.value = key, value
                    kind._by_value[value] = member
                type.__setattr__(kind, key, member)
                kind._members[key] = member
            return kind

        def __call__(cls, value):
            try:
                return cls._by_value[value]
            except (KeyError, TypeError):  # TypeError: nothing that could be a key
                raise ValueError(f"{value!r} is not a valid {cls.__qualname__}") from None

        def __getitem__(cls, name):
            return cls._members[name]

        def __iter__(cls):
            return iter(cls._by_value.values())

        def __len__(cls):
            return len(cls._by_value)

        def __contains__(cls, member):
            return isinstance(member, cls) or member in cls._by_value

        def __setattr__(cls, name, value):
            if name in cls.__dict__["_members"]:
                raise AttributeError(f"cannot reassign member '{name}'")
            super().__setattr__(name, value)

    class Enum(metaclass=_Enumeration):
        """Members that equal themselves only."""

        def __repr__(self):
            return f"<{type(self).__name__}.{self.name}: {self.value!r}>"

        def __str__(self):
            return f"{type(self).__name__}.{self.name}"

        def __reduce_ex__(self, _protocol):
            return type(self), (self.value,)

    class IntEnum(int, Enum):
        """Members that are numbers, and are written as such."""

        __repr__, __reduce_ex__ = Enum.__repr__, Enum.__reduce_ex__
        __str__ = int.__repr__

    class IntFlag(IntEnum):
        """Bits. Put together they are plain numbers."""

    class StrEnum(str, Enum):
        """Members that are texts, and are written as such."""

        __repr__, __reduce_ex__ = Enum.__repr__, Enum.__reduce_ex__
        __str__ = str.__str__
