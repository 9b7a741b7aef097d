"""Capabilities and parameters of a migration under QEMU's names, with their types and ranges."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from emu.errors import UsageError
from emu.migration import compression
from emu.migration.compression import METHODS

_POSTCOPY = (
    "postcopy would run the guest before its pages have arrived, so what it flushed could be lost with either host",
    "leave postcopy off; auto-converge holds a busy guest back, and downtime-limit says what it may cost at the end",
)
# QEMU's capabilities that this machine does not have. They can be set to off, so that scripts which do so work.
_ABSENT = (
    "xbzrle", "rdma-pin-all", "x-colo", "release-ram", "return-path", "dirty-bitmaps", "late-block-activate",
    "background-snapshot", "zero-copy-send", "switchover-ack", "dirty-limit", "mapped-ram", "compress",
)  # fmt: skip
_REFUSED = {"postcopy-ram": _POSTCOPY, "postcopy-preempt": _POSTCOPY, "postcopy-blocktime": _POSTCOPY}


@dataclass(frozen=True, slots=True)
class Capabilities:
    """Switches, all off by default. ``validate-uuid`` and ``return-path`` of QEMU are always on here."""

    auto_converge: bool = False
    events: bool = False
    pause_before_switchover: bool = False
    x_ignore_shared: bool = False
    allow_weaker_persistence: bool = False
    multifd: bool = False

    def with_states(self, states: Mapping[str, bool]) -> Capabilities:
        """A copy with the named capabilities set; UsageError on unknown or refused ones, and then nothing changes."""
        changes: dict[str, bool] = {}
        for name, state in states.items():
            if name.replace("-", "_") in self.__slots__ and "_" not in name:
                changes[name.replace("-", "_")] = state
            elif name in _REFUSED and state:
                what, remedy = _REFUSED[name]
                raise UsageError(f"capability '{name}' is refused: {what}", remedy)
            elif name not in _REFUSED and name not in _ABSENT:
                raise UsageError(f"there is no migration capability '{name}'", "see query-migrate-capabilities")
            elif state:
                raise UsageError(f"this machine has no migration capability '{name}'", "leave it off")
        return replace(self, **changes)

    def listing(self) -> list[dict[str, Any]]:
        """The answer to query-migrate-capabilities."""
        known = [{"capability": name.replace("_", "-"), "state": getattr(self, name)} for name in self.__slots__]
        return known + [{"capability": name, "state": False} for name in (*_REFUSED, *_ABSENT)]


@dataclass(frozen=True, slots=True)
class Parameters:
    """Numbers. Bandwidths in bytes per second (0: unlimited), times in the unit of their name.

    QEMU limits the bandwidth to 128 MiB/s unless told otherwise; here the default is no limit.
    ``stall_timeout`` is how long either side waits for the other to move at all. Of what concerns ``multifd`` the
    source's count: a destination takes what comes. ``multifd_compression`` is a word: one of ``compression.METHODS``.
    """

    max_bandwidth: int = 0
    downtime_limit: int = 300
    cpu_throttle_initial: int = 20
    cpu_throttle_increment: int = 10
    max_cpu_throttle: int = 99
    x_emu_stall_timeout: int = 30
    multifd_channels: int = 2
    multifd_compression: str = "none"
    multifd_zlib_level: int = 1
    multifd_zstd_level: int = 1

    @property
    def compression_level(self) -> int:
        return {"zlib": self.multifd_zlib_level, "zstd": self.multifd_zstd_level}.get(self.multifd_compression, 0)

    def with_values(self, values: Mapping[str, Any]) -> Parameters:
        """A copy with the named parameters set; UsageError on unknown names and values out of range."""
        changes: dict[str, Any] = {}
        for name, value in values.items():
            field = name.replace("-", "_")
            if field not in self.__slots__ or "_" in name:
                raise UsageError(f"there is no migration parameter '{name}'", f"there are: {', '.join(self.listing())}")
            if field == "multifd_compression":
                if value not in METHODS:
                    raise UsageError(f"Parameter '{name}' expects one of {', '.join(METHODS)}")
                compression.require(value)
                changes[field] = value
                continue
            low, high = _RANGES[field]
            if type(value) is not int or not low <= value <= high:
                raise UsageError(f"Parameter '{name}' expects a number from {low} to {high}")
            changes[field] = value
        return replace(self, **changes)

    def listing(self) -> dict[str, int | str]:
        """The answer to query-migrate-parameters."""
        return {name.replace("_", "-"): getattr(self, name) for name in self.__slots__}


_RANGES = {
    "max_bandwidth": (0, 1 << 62),
    "downtime_limit": (0, 2000 * 1000),
    "cpu_throttle_initial": (1, 99),
    "cpu_throttle_increment": (1, 99),
    "max_cpu_throttle": (1, 99),
    "x_emu_stall_timeout": (1, 24 * 3600),
    "multifd_channels": (1, 255),
    "multifd_zlib_level": (0, 9),
    "multifd_zstd_level": (1, 20),
}
