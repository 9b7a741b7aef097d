"""Backends for tests: their description, and what a refused one must be like."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from emu.config import BackendConfig
from emu.errors import EmuError, UsageError
from emu.host import kernel
from emu.memory import open_backend
from emu.units import KIB

SIZE = 64 * KIB


def config(where: Path | str, **changes: Any) -> BackendConfig:
    values: dict[str, Any] = {"id": "m1", "path": str(where), "size": SIZE, "share": True}
    return BackendConfig(**{**values, **changes})


def refused(config: BackendConfig, match: str | None, kind: type[EmuError] = UsageError, **rest: Any) -> EmuError:
    """The error that opening ``config`` gives: of ``kind``, in at most two lines, with a remedy."""
    with pytest.raises(kind, match=match) as caught:
        open_backend(config, **rest)
    assert caught.value.remedy
    assert str(caught.value).count("\n") == 1
    return caught.value


class FakeMmap:
    """Stands in for the kernel's answer to MAP_SYNC; every other mapping is real."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, number: int = 0, flags: frozenset[str] | None = frozenset({"sf"})
    ):
        self.asked: list[bool] = []
        self._real, self._number = kernel.map_memory, number
        monkeypatch.setattr(kernel, "map_memory", self)
        monkeypatch.setattr(kernel, "vm_flags", lambda _: flags)

    def __call__(self, size: int, **rest: Any) -> int:
        self.asked.append(rest.get("sync", False))
        if rest.get("sync") and self._number:
            raise kernel.host_error("cannot map", self._number)
        return self._real(size, **{**rest, "sync": False})
