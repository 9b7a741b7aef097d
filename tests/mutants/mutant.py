"""What a mutant is."""

from __future__ import annotations

from typing import NamedTuple


class Mutant(NamedTuple):
    """One edit: ``old``, which must be in ``file`` exactly once, becomes ``new``.

    ``tests`` are pytest's names of tests, few and quick; at least one of them must fail. ``hangs``: the mutant may also
    make them run for ever.
    """

    name: str
    promise: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]
    hangs: bool = False
