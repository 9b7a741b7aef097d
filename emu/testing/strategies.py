"""Hypothesis strategies: random uses of a guest, whose power is then cut. Needs the package ``hypothesis``.

@given(operations({"set": (st.integers(0, 3), st.integers(0, 9)), "del": (st.integers(0, 3),)}))
@settings(deadline=None)
def test_any_use_recovers(use):
    crash("kv.elf", "--nvdimm", "size=2M", "--append", use.words, "--recover-append", "check").assert_recovers()

What fails shrinks to the fewest operations with the smallest arguments that fail.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from hypothesis import strategies as st


@dataclass(frozen=True, slots=True)
class Use:
    """Operations in order, each the words that ask the guest for it."""

    operations: tuple[tuple[str, ...], ...]

    @property
    def words(self) -> str:
        """All of them in one line, as ``main`` gets them by ``--append``."""
        return " ".join(word for operation in self.operations for word in operation)

    @property
    def lines(self) -> str:
        """One a line, as they are typed at a guest that reads COM1."""
        return "".join(f"{' '.join(operation)}\n" for operation in self.operations)

    def __repr__(self) -> str:
        return f"<{'; '.join(' '.join(operation) for operation in self.operations)}>"


def operations(
    kinds: Mapping[str, tuple[st.SearchStrategy[object], ...]], *, min_size: int = 1, max_size: int = 8
) -> st.SearchStrategy[Use]:
    """Uses of ``min_size`` to ``max_size`` operations; ``kinds`` has the arguments' strategies by an operation's name.

    Arguments are written with ``str``; one with a blank in it would be two words. Kinds shrink towards the first.
    """
    one = [st.tuples(st.just(name), *(argument.map(str) for argument in taken)) for name, taken in kinds.items()]
    return st.lists(st.one_of(one), min_size=min_size, max_size=max_size).map(lambda made: Use(tuple(made)))
