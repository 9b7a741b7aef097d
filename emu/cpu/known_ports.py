"""Port accesses answered as they were answered before, without devices: for a CPU that runs from one moment many times.

What devices do is decided by the accesses that a guest has made since then, until it looks at the clock, or makes one
whose answer depends on more (memory, or who listens). A run that does what an earlier one did is answered by a tree of
known accesses, in C; devices stay as they were. One that leaves it has its accesses repeated to the devices first.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from emu.cpu.cpu import Cpu


class KnownPorts:
    """The accesses of ``cpu`` from this moment on; ``on_port_read`` and ``on_port_write`` are assigned.

    ``others``: ports whose answers depend on more than accesses. ``has_ended()``: a device has ended the run, with the
    access just made; any other stop that an access asks for keeps it from being known.
    """

    def __init__(self, cpu: Cpu, others: Collection[int], has_ended: Callable[[], bool]) -> None:
        self._engine = cpu._engine
        self._read, self._write = cpu.on_port_read, cpu.on_port_write
        self._others = frozenset(others)
        self._has_ended = has_ended
        # By their numbers: the one before, port, size, whether it writes, what is written.
        self._accesses: list[tuple[int, int, int, bool, int]] = [(0, 0, 0, False, 0)]
        self.devices_know = False
        """Whether devices have heard of this run's accesses, and are to be put back before the next one."""
        cpu.on_port_read, cpu.on_port_write = self._on_read, self._on_write
        self.begin()

    def begin(self) -> None:
        """A run begins, with CPU, memory and devices as they were."""
        self.devices_know = self._engine.clock_started
        if self.devices_know:
            self._engine.end_known()
        else:
            self._engine.begin_known()

    @property
    def last(self) -> int | None:
        """The number of the last access, the same for all runs that made the same accesses; None where the rest of a
        run depends on more than these.
        """
        return None if self._engine.clock_started else self._engine.known_at

    def release(self) -> None:
        """Leave the rest of this run to the devices, which hear of all its accesses so far."""
        self._tell_devices()
        self._engine.end_known()

    def _tell_devices(self) -> None:
        at = self._engine.known_at
        if self.devices_know or at is None:
            return
        self.devices_know = True
        path = []
        while at:
            path.append(self._accesses[at])
            at = path[-1][0]
        for _, port, size, writes, value in reversed(path):
            if writes:
                self._write(port, size, value)
            else:
                self._read(port, size)

    def _on_read(self, port: int, size: int) -> int:
        can_be_known = self._can_be_known(port, size)
        value = self._read(port, size)
        self._learn(can_be_known, port, size, False, value)
        return value

    def _on_write(self, port: int, size: int, value: int) -> None:
        can_be_known = self._can_be_known(port, size)
        self._write(port, size, value)
        self._learn(can_be_known, port, size, True, value)

    def _can_be_known(self, port: int, size: int) -> bool:
        self._tell_devices()
        engine = self._engine
        return (
            engine.known_at is not None
            and not engine.clock_started
            and not engine.stop_asked
            and self._others.isdisjoint(range(port, port + size))
        )

    def _learn(self, can_be_known: bool, port: int, size: int, writes: bool, value: int) -> None:
        engine = self._engine
        ends = engine.stop_asked
        if not can_be_known or engine.clock_started or (ends and not self._has_ended()):
            engine.end_known()
            return
        before = engine.known_at
        assert before is not None
        if engine.learn_access(port, size, writes=writes, value=value, ends=ends):
            self._accesses.append((before, port, size, writes, value))
        else:
            engine.end_known()
