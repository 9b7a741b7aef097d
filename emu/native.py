"""What a type checker is told about the cffi modules, whose stubs (``_hooks.pyi`` and so on) are made of this.

Only their C interface is described: a structure of a cdef is a class of that name, also where C has a pointer to it,
and every other pointer is a ``Pointer``. Nothing imports this when the program runs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeVar

_Function = TypeVar("_Function", bound=Callable[..., Any])


class Pointer:
    """A C pointer; false when it is null, and not to be taken for a number."""


class FFI(Protocol):
    """What is used of ``cffi.FFI``. What ``new`` and ``cast`` give depends on ``ctype``: say it where it is kept."""

    NULL: Any
    """For any pointer, also that to a structure."""

    def new(self, ctype: str, init: object = ..., /) -> Any: ...

    def cast(self, ctype: str, value: object, /) -> Any: ...

    def from_buffer(self, buffer: object, /, *, require_writable: bool = ...) -> Any: ...

    def buffer(self, data: object, size: int = ..., /) -> Any: ...

    def unpack(self, data: object, count: int, /) -> Any: ...

    def string(self, text: Pointer, /) -> bytes: ...

    def memmove(self, to: object, data: object, size: int, /) -> None: ...

    def sizeof(self, ctype: str, /) -> int: ...

    def typeof(self, ctype: object, /) -> Any: ...

    def addressof(self, library: object, name: str, /) -> Pointer: ...

    def new_handle(self, value: object, /) -> Pointer: ...

    def from_handle(self, handle: Pointer, /) -> Any: ...

    def def_extern(self) -> Callable[[_Function], _Function]: ...
