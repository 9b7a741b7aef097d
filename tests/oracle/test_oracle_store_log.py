"""2,000 random programs, half of them under scattered pages: hooks examine the log that translated code writes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.store_logs import compare_random

PROGRAMS, PARTS = 2000, 20


@pytest.mark.parametrize("part", range(PARTS))
def test_random_programs(part: int, tmp_path: Path) -> None:
    count = PROGRAMS // PARTS
    for seed in range(10_000 + part * count, 10_000 + (part + 1) * count):
        compare_random(seed, tmp_path, paged=seed % 2 == 1)
