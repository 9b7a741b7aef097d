"""How often the fuzz tests try: EMU_FUZZ times as often as they say (``make fuzz``: 10; otherwise once)."""

from __future__ import annotations

import os

FACTOR = int(os.environ.get("EMU_FUZZ", "1"))
PROGRAMS = int(os.environ.get("EMU_PROGRAMS", "4000")) * FACTOR
"""On so many random programs the model of persistence is compared with others' (``make oracle``: 20,000)."""


def times(count: int) -> int:
    """``count``, or a multiple of it. For loops over random inputs, whose tests are marked ``fuzz``."""
    return count * FACTOR
