"""What can go wrong in a migration, told apart by what it means for the two machines."""

from __future__ import annotations

from collections.abc import Sequence

from emu.errors import EmuError, HostError, Status


class MigrationError(EmuError):
    """The migration failed. Before the hand-over this means: the source keeps the machine."""

    status = Status.HOST


class StreamError(MigrationError):
    """Bytes that the protocol does not allow here: corrupted, reordered, cut, hostile or of another version."""


class ConnectionLost(MigrationError):
    """The other side went away, or was silent longer than the stall timeout."""


class Cancelled(MigrationError):
    """The user cancelled the migration."""


class Refused(MigrationError):
    """One side compared the machines and found them different; ``reasons`` has one sentence for each difference."""

    def __init__(self, reasons: Sequence[str], remedy: str = "") -> None:
        super().__init__("migration refused: " + "; ".join(reasons), remedy)
        self.reasons = tuple(reasons)


class DestinationFailed(MigrationError):
    """The destination said in so many words that it failed: it did not run and will not."""


class OutcomeUnknown(MigrationError):
    """The hand-over was sent and no answer came: the destination may run, so the source must not by itself."""


def internal_error(error: Exception) -> HostError:
    """What a fault of emu's own is to those who wait for a migration."""
    return HostError(f"internal error of the migration: {error}", "this is a bug in emu")
