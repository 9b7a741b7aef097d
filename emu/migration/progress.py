"""How far a migration is, in QEMU's words and shape (``query-migrate``), safe to read from any thread."""

from __future__ import annotations

import enum
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from emu.units import PAGE


class Status(enum.StrEnum):
    """QEMU's migration statuses, and one of ours: the hand-over was sent but never answered."""

    NONE = "none"
    SETUP = "setup"
    ACTIVE = "active"
    PRE_SWITCHOVER = "pre-switchover"
    DEVICE = "device"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLING = "cancelling"
    CANCELLED = "cancelled"
    OUTCOME_UNKNOWN = "x-emu-outcome-unknown"

    @property
    def under_way(self) -> bool:
        return self in (Status.SETUP, Status.ACTIVE, Status.PRE_SWITCHOVER, Status.DEVICE, Status.CANCELLING)

    @property
    def over(self) -> bool:
        return self is not Status.NONE and not self.under_way


Emit = Callable[[str, dict[str, Any]], None]


class Progress:
    """Counters and status of one migration; ``emit(event, data)`` is called at every change of status and pass."""

    def __init__(self, emit: Emit | None = None) -> None:
        self._lock = threading.Lock()
        self._emit = emit
        self._status = Status.NONE
        self._began = time.monotonic()
        self._ended: float | None = None
        self._setup_s: float | None = None
        self._measured = (self._began, 0)
        self._pages_per_s = 0.0
        self._mbps = 0.0
        self.total = 0
        self.remaining = 0
        self.transferred = self.on_lanes = 0
        self.normal = 0
        self.zeros = 0
        self.rounds = 0
        self.dirty_pages_per_s = 0
        self.throttle = 0
        self.expected_downtime_ms: int | None = None
        self.downtime_ms: int | None = None
        self.error = ""
        self.reasons: Sequence[str] = ()
        self.persistence: list[dict[str, Any]] = []

    @property
    def status(self) -> Status:
        return self._status

    def enter(self, status: Status) -> None:
        with self._lock:
            now = time.monotonic()
            if self._status is Status.SETUP:
                self._setup_s = now - self._began
            self._status = status
            if not status.under_way:
                self._ended = now
        self._tell("MIGRATION", {"status": str(status)})

    def begin_round(self) -> None:
        with self._lock:
            self.rounds += 1
            number = self.rounds
        self._tell("MIGRATION_PASS", {"pass": number})

    def count(self, *, normal: int = 0, zeros: int = 0, transferred: int = 0, on_lanes: int = 0) -> None:
        """Add pages and bytes just moved; ``on_lanes``: how many of the bytes were moved by multifd's connections."""
        with self._lock:
            self.normal += normal
            self.zeros += zeros
            self.transferred += transferred
            self.on_lanes += on_lanes
            self.remaining = max(0, self.remaining - (normal + zeros) * PAGE)
            now = time.monotonic()
            since, before = self._measured
            if now - since > 0.25:
                moved = self.normal + self.zeros
                self._pages_per_s = (moved - before) / (now - since)
                self._mbps = self._pages_per_s * PAGE * 8 / 1e6
                self._measured = (now, moved)

    def _tell(self, event: str, data: dict[str, Any]) -> None:
        if self._emit is not None:
            self._emit(event, data)

    def query(self) -> dict[str, Any]:
        """The answer to ``query-migrate``: QEMU's keys, and ``x-emu-persistence``: what was made durable and how."""
        with self._lock:
            if self._status is Status.NONE:
                return {}
            elapsed = (self._ended or time.monotonic()) - self._began
            answer: dict[str, Any] = {
                "status": str(self._status),
                "total-time": round(elapsed * 1000),
                "ram": {
                    "transferred": self.transferred,
                    "remaining": 0 if self._status is Status.COMPLETED else self.remaining,
                    "total": self.total,
                    "duplicate": self.zeros,
                    "skipped": 0,
                    "normal": self.normal,
                    "normal-bytes": self.normal * PAGE,
                    "dirty-pages-rate": self.dirty_pages_per_s,
                    "mbps": round(self._overall_mbps(elapsed), 3),
                    "dirty-sync-count": self.rounds,
                    "page-size": PAGE,
                    "pages-per-second": round(self._pages_per_s),
                    "multifd-bytes": self.on_lanes,
                    "postcopy-requests": 0,
                },
            }
            optional = {
                "setup-time": None if self._setup_s is None else round(self._setup_s * 1000),
                "downtime": self.downtime_ms,
                "expected-downtime": self.expected_downtime_ms if self.downtime_ms is None else None,
                "cpu-throttle-percentage": self.throttle or None,
                "error-desc": self.error or None,
                "x-emu-refused": list(self.reasons) or None,
                "x-emu-persistence": self.persistence or None,
            }
            answer.update((name, value) for name, value in optional.items() if value is not None)
            return answer

    def _overall_mbps(self, elapsed: float) -> float:
        if self._status.under_way:
            return self._mbps
        return (self.normal + self.zeros) * PAGE * 8 / 1e6 / elapsed if elapsed > 0 else 0.0
