"""The machine as a debugger uses it. Everything here runs in the machine's own thread, between two slices."""

from __future__ import annotations

import enum
import threading
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

from emu.cpu.debugging import READ, WRITE, Watch
from emu.devices.contract import ExitRequest
from emu.errors import EmuError, Status, UsageError
from emu.gdb.registers import Register, Values
from emu.gdb.registers import write as write_registers
from emu.machine import Machine, RunState
from emu.memory import GuestMemoryError
from emu.units import PAGE

T = TypeVar("T")

# QEMU's word for a reset that a debugger or monitor asks for.
_OUR_RESET = "host-qmp-system-reset"
_RESET_S = 10.0
_LINEAR_END = 1 << 64


class PointKind(enum.IntEnum):
    """What gdb asks to stop at, by its numbers."""

    SOFTWARE = 0
    HARDWARE = 1
    WRITE = 2
    READ = 3
    ACCESS = 4


_ACCESS = {PointKind.WRITE: WRITE, PointKind.READ: READ, PointKind.ACCESS: READ | WRITE}
_BREAKPOINTS = (PointKind.SOFTWARE, PointKind.HARDWARE)
_MOST_BREAKPOINTS = 4096


class Point(NamedTuple):
    """A breakpoint or a watchpoint of ``size`` bytes at linear ``address``."""

    kind: PointKind
    address: int
    size: int


class Target:
    """What a debugger does to ``machine``. Its memory is that of linear addresses, or guest-physical ones if
    ``physical``.
    """

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.points: set[Point] = set()
        self.physical = False
        self.debugging = machine.call(machine.debug)
        self._reset_done = threading.Event()
        machine.observers.append(self)

    def machine_event(self, name: str, data: Mapping[str, Any]) -> None:
        """Called by the machine, in its thread."""
        if name in ("RESET", "SHUTDOWN"):
            self._reset_done.set()

    def call(self, function: Callable[[], T]) -> T:
        return self.machine.call(function)

    # -- registers and memory -------------------------------------------------------------------------------------

    def registers(self) -> Values:
        return Values(self.machine.cpu)

    def write_registers(self, values: list[tuple[Register, bytes]]) -> None:
        """All of them, or by UsageError none."""
        write_registers(self.machine.cpu, values)

    def read(self, address: int, size: int) -> bytes:
        """Up to ``size`` bytes from ``address``: as many as there are in one run, perhaps none."""
        found = bytearray()
        for at, length in _pieces(address, size):
            gpa = self.locate(at)
            try:
                found += self.machine.memory.read(-1 if gpa is None else gpa, length)
            except GuestMemoryError:
                break
        return bytes(found)

    def write(self, address: int, data: bytes) -> None:
        """All of ``data``, or by UsageError none of it."""
        places = [(self.locate(at), length) for at, length in _pieces(address, len(data))]
        done = 0
        try:
            for gpa, length in places:  # all of them are looked up, and seen to be memory, before any is written
                self.machine.memory.read(-1 if gpa is None else gpa, length)
            for gpa, length in places:
                assert gpa is not None
                self.machine.memory.write(gpa, data[done : done + length])
                done += length
        except GuestMemoryError as error:
            raise UsageError(str(error), "give an address that the guest maps") from None

    def locate(self, address: int) -> int | None:
        """The guest-physical address of ``address``; None where nothing is mapped."""
        return address if self.physical else self.machine.cpu.translate(address)

    # -- stops ----------------------------------------------------------------------------------------------------

    def add(self, point: Point) -> None:
        """UsageError for too many."""
        self._set(self.points | {point})

    def remove(self, point: Point) -> None:
        self._set(self.points - {point})

    def clear(self) -> None:
        self._set(set())
        self.debugging.stop_at(None)

    def _set(self, points: set[Point]) -> None:
        places = {point.address for point in points if point.kind in _BREAKPOINTS}
        if len(places) > _MOST_BREAKPOINTS:
            raise UsageError("too many breakpoints", f"use at most {_MOST_BREAKPOINTS}")
        watched = (point for point in points if point.kind not in _BREAKPOINTS)
        self.debugging.set_watches([Watch(point.address, point.size, _ACCESS[point.kind]) for point in watched])
        self.debugging.set_breakpoints(places)
        self.points = points

    def watch_at(self, address: int, access: int) -> Point | None:
        """The watchpoint that an access to ``address`` has met."""
        return next(
            (
                point
                for point in sorted(self.points)
                if point.kind not in _BREAKPOINTS
                and 0 <= address - point.address < point.size
                and _ACCESS[point.kind] & access
            ),
            None,
        )

    # -- running --------------------------------------------------------------------------------------------------

    def go(self, *, step: bool) -> None:
        """Let the guest run, for one instruction or until something stops it."""
        self.debugging.stop_at(self.debugging.instructions + 1 if step else None)
        self.machine.resume()

    def stop(self) -> None:
        """Make the guest stand still, if it does not."""
        if not self.machine.paused:
            self.machine.pause()

    def reset(self) -> None:
        """Press the reset button; not in the machine's thread. The guest stands at its first instruction then."""
        self._reset_done.clear()
        self.machine.reset(_OUR_RESET)
        self._reset_done.wait(_RESET_S)

    def end(self) -> None:
        self.machine.end(ExitRequest("quit", Status.OK, None, ""))

    def boot(self) -> None:
        """The guest stands before its first instruction; EmuError when there is none."""
        if self.machine.state is RunState.INMIGRATE:
            raise EmuError("the machine waits for a migration", "wait until it has come")
        self.machine.boot()


def _pieces(address: int, size: int) -> list[tuple[int, int]]:
    """(address, length) of the parts of a range, by pages; what is beyond the end of the address space is left out."""
    found = []
    end = min(address + size, _LINEAR_END)
    while address < end:
        length = min(end, (address | PAGE - 1) + 1) - address
        found.append((address, length))
        address += length
    return found
