"""Names of ``typing`` for the modules that a plain run imports.

``typing`` takes ``re`` along and costs as much as a tenth of all that such a run imports, for names that mean something
to a type checker alone. That one sees ``typing``'s; at run time these stand in for them.
"""

from __future__ import annotations

TYPE_CHECKING = False
"""What type checkers take for true."""

if TYPE_CHECKING:
    from typing import Any as Any
    from typing import ClassVar as ClassVar
    from typing import Literal as Literal
    from typing import NoReturn as NoReturn
    from typing import Protocol as Protocol
    from typing import Self as Self
    from typing import TextIO as TextIO
    from typing import TypeAlias as TypeAlias
    from typing import TypeVar as TypeVar
    from typing import dataclass_transform as dataclass_transform
else:

    class _Hint:
        """Stands where an annotation may name a type."""

        def __getitem__(self, _parameters):
            return self

        def __call__(self, *_bounds, **_variance):
            return self

    class Protocol:
        """Stands as the base of a class that says what others must be able to do."""

        __slots__ = ()

    Any = ClassVar = Literal = NoReturn = Self = TextIO = TypeAlias = TypeVar = _Hint()

    def dataclass_transform(**_options):
        return lambda decorated: decorated
