"""Events on their way to clients: emitted from any thread, collected by the server's."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from emu.monitor.protocol import Event
from emu.monitor.schema import BOOL, INT, NOTHING, STR, Enum, Struct, optional, required

# A guest that resets in a loop must not fill the host's memory: the oldest events go first.
_MOST_WAITING = 1024

SHUTDOWN_CAUSE = Enum(
    "ShutdownCause",
    ("none", "host-error", "host-qmp-quit", "host-qmp-system-reset", "host-signal", "host-ui", "guest-shutdown",
     "guest-reset", "guest-panic", "subsystem-reset", "snapshot-load"),
)  # fmt: skip
PANIC_ACTION = Enum("GuestPanicAction", ("pause", "poweroff", "run"))
MIGRATION_STATUS = Enum(
    "MigrationStatus",
    ("none", "setup", "cancelling", "cancelled", "active", "postcopy-active", "postcopy-paused", "postcopy-recover",
     "completed", "failed", "colo", "pre-switchover", "device", "wait-unplug", "x-emu-outcome-unknown"),
)  # fmt: skip

EVENTS: dict[str, Struct] = {
    "STOP": NOTHING,
    "RESUME": NOTHING,
    "POWERDOWN": NOTHING,
    "RESET": Struct("RESET-arg", (required("guest", BOOL), required("reason", SHUTDOWN_CAUSE))),
    "SHUTDOWN": Struct("SHUTDOWN-arg", (required("guest", BOOL), required("reason", SHUTDOWN_CAUSE))),
    "GUEST_PANICKED": Struct("GUEST_PANICKED-arg", (required("action", PANIC_ACTION), optional("x-emu-detail", STR))),
    "MIGRATION": Struct("MIGRATION-arg", (required("status", MIGRATION_STATUS),)),
    "MIGRATION_PASS": Struct("MIGRATION_PASS-arg", (required("pass", INT),)),
}
MIGRATION_EVENTS = ("MIGRATION", "MIGRATION_PASS")


class EventQueue:
    """``emit`` from any thread; never blocks. One consumer is woken through ``on_emit`` and calls ``take``."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: deque[Event] = deque(maxlen=_MOST_WAITING)
        self._fence: int | None = None
        self._on_emit: Callable[[], None] | None = None

    def emit(self, name: str, data: Mapping[str, Any] | None = None) -> None:
        """Something happened just now."""
        event = Event(name, dict(data or {}), time.time_ns())
        with self._lock:
            self._waiting.append(event)
            wake = self._on_emit
        if wake is not None:
            wake()

    def notify(self, on_emit: Callable[[], None] | None) -> None:
        """Have ``on_emit`` called (in the emitting thread) after each ``emit``; None ends that."""
        with self._lock:
            self._on_emit = on_emit

    def take(self) -> list[Event]:
        """What was emitted since the last call, oldest first; with a ``fence`` what was emitted before it."""
        with self._lock:
            count = len(self._waiting) if self._fence is None else min(self._fence, len(self._waiting))
            self._fence = None
            return [self._waiting.popleft() for _ in range(count)]

    def fence(self) -> None:
        """What was emitted so far is what the command under way causes; what comes now is told after its answer."""
        with self._lock:
            self._fence = len(self._waiting)
