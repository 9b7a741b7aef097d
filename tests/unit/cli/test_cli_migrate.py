"""What `emu migrate` says while it waits."""

from __future__ import annotations

from typing import Any

import pytest

from emu.cli import migrate


class Line:
    def __init__(self) -> None:
        self.words = ""

    def show(self, share: float, words: str, *, at_once: bool = False) -> None:
        self.words = words


def shown(status: str, **ram: Any) -> str:
    line = Line()
    migrate._show(line, {"status": status, "ram": {"total": 1 << 30, **ram}})  # type: ignore[arg-type]
    return line.words


@pytest.mark.parametrize(
    ("remaining", "mbps", "left"), [(1 << 30, 800.0, "11 s left"), (1 << 29, 800.0, "5 s left"), (0, 800.0, "0 s left")]
)
def test_the_time_left_is_what_remains_at_the_speed_of_now(remaining: int, mbps: float, left: str) -> None:
    assert shown("active", remaining=remaining, mbps=mbps).endswith(left)


@pytest.mark.parametrize(
    ("status", "mbps"), [("active", 0), ("setup", 800.0), ("device", 800.0), ("completed", 800.0), ("failed", 800.0)]
)
def test_nothing_is_promised_where_nothing_is_known(status: str, mbps: float) -> None:
    assert "left" not in shown(status, remaining=1 << 30, mbps=mbps)
