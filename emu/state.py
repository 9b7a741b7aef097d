"""The saved-state contract: a component's state is (kind, version, fields), and importing it leaves nothing over.

A machine's state is that of its components by name: the name says which component, the kind what it is.

Saved state is data that came from outside: ``Fields`` hands out each field once, checked for type and range, and
``finish`` makes an unknown or forgotten field an error. A component that cannot be saved says so with ``NotSaveable``;
there is no empty success.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from emu.errors import StateError
from emu.hints import Protocol
from emu.record import Record
from emu.units import U64_MAX

Value = int | bool | str | bytes | Sequence[int]


class SavedState(Record):
    """State of one component; ``fields`` holds integers, booleans, strings, bytes and lists of integers."""

    kind: str
    version: int
    fields: Mapping[str, Value]


class NotSaveable(StateError):
    """A component that cannot be saved now, with the reason."""


Apply = Callable[[], None]
"""Makes a component hold a state that ``Saveable.parse`` has checked; cannot fail, and may be called again."""


def nothing() -> None:
    """The ``Apply`` of a component that has no state of its own."""


class Saveable(Protocol):
    """What can be saved and restored.

    Restoring has two steps, so that a refusal of one component leaves all of them as they were: ``parse`` checks the
    whole of ``state``, raises StateError and changes nothing; what it returns replaces the component's whole state.
    """

    def save(self) -> SavedState: ...

    def parse(self, state: SavedState) -> Apply: ...


def parse_all(parts: Mapping[str, Saveable], states: Mapping[str, SavedState]) -> list[Apply]:
    """What restores every one of ``parts``, in their order; StateError unless ``states`` are theirs, name by name."""
    if odd := sorted(states.keys() ^ parts.keys()):
        raise StateError(f"saved state and machine differ in their components: {', '.join(odd)}")
    applies = []
    for name, part in parts.items():
        try:
            applies.append(part.parse(states[name]))
        except StateError as error:
            raise StateError(f"component '{name}': {error.what}", error.remedy) from None
    return applies


class Fields:
    """Takes the fields of a ``SavedState`` one by one; see the module's text."""

    def __init__(self, state: SavedState, *, kind: str, version: int) -> None:
        if state.kind != kind:
            raise StateError(f"saved state is of '{state.kind}', expected '{kind}'")
        if state.version != version:
            raise StateError(
                f"saved state of '{kind}' has version {state.version}, this emu reads version {version}",
                "use the same emu release on both sides",
            )
        self._kind = kind
        self._left = dict(state.fields)

    def _take(self, name: str) -> Value:
        try:
            return self._left.pop(name)
        except KeyError:
            raise StateError(f"saved state of '{self._kind}' lacks the field '{name}'") from None

    def _wrong(self, name: str, why: str) -> StateError:
        return StateError(f"saved state of '{self._kind}': field '{name}' {why}")

    def integer(self, name: str, low: int = 0, high: int = U64_MAX) -> int:
        value = self._take(name)
        if type(value) is not int or not low <= value <= high:
            raise self._wrong(name, f"is not a number from {low} to {high}")
        return value

    def boolean(self, name: str) -> bool:
        value = self._take(name)
        if type(value) is not bool:
            raise self._wrong(name, "is not a boolean")
        return value

    def text(self, name: str, longest: int = 4096) -> str:
        value = self._take(name)
        if not isinstance(value, str) or len(value) > longest:
            raise self._wrong(name, f"is not a text of at most {longest} characters")
        return value

    def octets(self, name: str, *, exactly: int | None = None, at_most: int = 1 << 20) -> bytes:
        value = self._take(name)
        if not isinstance(value, bytes) or len(value) > at_most or (exactly is not None and len(value) != exactly):
            raise self._wrong(name, f"is not {'at most ' + str(at_most) if exactly is None else exactly} bytes")
        return value

    def integers(self, name: str, count: int, low: int = 0, high: int = U64_MAX) -> tuple[int, ...]:
        value = self._take(name)
        if (
            isinstance(value, (str, bytes))
            or not isinstance(value, Sequence)
            or len(value) != count
            or any(type(item) is not int or not low <= item <= high for item in value)
        ):
            raise self._wrong(name, f"is not a list of {count} numbers from {low} to {high}")
        return tuple(int(item) for item in value)

    def finish(self) -> None:
        """Raise StateError when any field was not taken."""
        if self._left:
            raise StateError(f"saved state of '{self._kind}' has unknown fields: {', '.join(sorted(self._left))}")
