"""Numbers of memories, which can have thousands of digits: how documents carry them and people read them."""

from __future__ import annotations

import math

MOST_EXACT = 10**300
"""Above this a document gives the logarithm only: JSON readers hold numbers as doubles, which end at 1.8e308."""

_MOST_DIGITS = 15


def exact(number: int | None) -> int | None:
    """``number`` as documents carry it: None where it is too large."""
    return None if number is None or number > MOST_EXACT else number


def log10(number: int | None) -> float | None:
    """Its decimal logarithm, to 3 places; None for what is not known or 0."""
    return round(math.log10(number), 3) if number else None


def both(name: str, number: int | None) -> dict[str, int | float | None]:
    """The two fields of a document that hold ``number`` under ``name``."""
    return {name: exact(number), f"{name}_log10": log10(number)}


def readable(number: int | None, logarithm: float | None, *, separator: str = "") -> str:
    """The number, from what the document carries of it: all digits, or its order of magnitude."""
    if number is not None and number < 10**_MOST_DIGITS:
        return f"{number:{separator}}"
    if number is None and logarithm is None:
        return "not counted"
    if logarithm is None:
        return str(number)
    return f"10^{math.floor(logarithm)}"
