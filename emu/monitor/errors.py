"""Errors as QMP has them: a class that clients may act on, and a sentence."""

from __future__ import annotations

from emu.errors import EmuError

GENERIC = "GenericError"
COMMAND_NOT_FOUND = "CommandNotFound"
DEVICE_NOT_FOUND = "DeviceNotFound"


class QmpError(Exception):
    """A command that is refused: ``description`` for people, ``error_class`` one of QEMU's names."""

    def __init__(self, description: str, error_class: str = GENERIC) -> None:
        super().__init__(description)
        self.description = description
        self.error_class = error_class


def from_emu(error: EmuError) -> QmpError:
    """``error`` of a lower layer on one line: what is wrong, then what to do."""
    parts = [part for part in (error.what, error.remedy) if part]
    return QmpError("; ".join(parts).replace("\n", " "))


def device_not_found(name: str) -> QmpError:
    return QmpError(f"Device '{name[:64]}' not found", DEVICE_NOT_FOUND)
