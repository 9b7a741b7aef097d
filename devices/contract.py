"""What a device is to the rest of the machine, and what the machine is to a device.

A device is a register model. It owns no address (the board decides), no thread and no clock: interrupt lines, output
sinks, the time and the requests to end or reset the machine are injected. It therefore runs in a test as in a machine.

Reads and writes come from the guest: they never raise, whatever offset, size or value they carry.
"""

from __future__ import annotations

from collections.abc import Callable

from emu.errors import StateError
from emu.hints import Protocol
from emu.record import NamedTuple
from emu.state import Fields, Saveable

Line = Callable[[bool], None]
"""An interrupt line: called with its new level."""

Sink = Callable[[bytes], None]
"""Where output goes."""

Now = Callable[[], int]
"""Nanoseconds since power-on; never goes back, not even at a reset."""


class ExitRequest(NamedTuple):
    """A wish of the guest to end the machine.

    ``reason`` is one of the words of ``emu.machine``'s exit reasons, ``status`` the exit status of ``emu run``
    (0 to 255), ``code`` what the guest itself said (the value written to an exit port), ``detail`` words for a person,
    ``cause`` who asked for it where the reason leaves that open (a word of QEMU's ShutdownCause).
    """

    reason: str
    status: int
    code: int | None = None
    detail: str = ""
    cause: str = ""


End = Callable[[ExitRequest], None]
"""Asks the machine to end; returns at once, the machine stops between two instructions."""

Reset = Callable[[], None]
"""Asks the machine for a reset; returns at once."""


class Ports(Protocol):
    """A window of ports. ``width`` is the widest access in bytes that it decodes; the bus splits wider ones.

    ``offset`` counts bytes from the first port of the window, ``size`` is 1, 2 or 4 and never above ``width``, and the
    access never reaches past the window. ``value`` fits in ``size`` bytes; of what ``read`` returns the bus keeps as
    many.
    """

    @property
    def width(self) -> int: ...

    def read(self, offset: int, size: int) -> int: ...

    def write(self, offset: int, size: int, value: int) -> None: ...


class Device(Saveable, Protocol):
    """What every device can do besides its registers.

    ``reset`` leaves the device as after power-on, except what hardware keeps (battery-backed memory, running clocks).
    ``parse`` checks a saved state and changes nothing; what it returns replaces the whole state and drives the lines to
    match (see ``Saveable``).
    ``inspect`` returns the registers by name, in types that JSON knows.
    """

    def reset(self) -> None: ...

    def inspect(self) -> dict[str, object]: ...


class PortDevice(Ports, Device, Protocol):
    """A device with one window of ports."""


class Window(NamedTuple):
    """A window of a device that has several; see ``Ports``."""

    width: int
    read: Callable[[int, int], int]
    write: Callable[[int, int, int], None]


class WindowedDevice(Device, Protocol):
    """A device with several windows of ports, each of which the board places."""

    @property
    def windows(self) -> tuple[Window, ...]: ...


class Timed(Protocol):
    """A device that does something at a time nobody asks it for.

    ``next_event`` is that time in absolute nanoseconds, or None when nothing can happen before the next access to the
    device. ``catch_up`` does everything due at ``now`` or before; calling it more often changes nothing.
    """

    def next_event(self) -> int | None: ...

    def catch_up(self, now: int) -> None: ...


class Output:
    """A device's end of a line: remembers the level and calls the line only when the level changes."""

    __slots__ = ("_line", "level")

    def __init__(self, line: Line) -> None:
        self._line = line
        self.level = False

    def set(self, level: bool) -> None:
        if level != self.level:
            self.force(level)

    def force(self, level: bool) -> None:
        """Drive the line even when the level is what we believe it to be: after a restore the other end may differ."""
        self.level = level
        self._line(level)


def take_bits(take: Fields, name: str, mask: int) -> int:
    """The saved register ``name``; StateError when it has a bit outside ``mask``, which the register could not hold."""
    value = take.integer(name, high=mask)
    if value & ~mask:
        raise StateError(f"saved state: field '{name}' has bits set that do not exist: {value & ~mask:#x}")
    return value
