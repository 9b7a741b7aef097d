"""One bug, one cause: joins causes of the same lost store, and those that the same flush or fence repairs.

An author repairs a program in its source. So stores are the same when the same instructions made them, and all that
one flush or fence more makes impossible is one cause, however many stores it keeps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from emu.persistence.lab.naming import ATOMICITY, MISSING_FENCE, MISSING_FLUSH, ORDERING, TORN, UNEXPLAINED
from emu.persistence.model.crashstate import Read
from emu.persistence.model.repairs import Repair

T = TypeVar("T")

_DURABILITY = {MISSING_FLUSH, MISSING_FENCE}
_TOGETHER = {ORDERING, ATOMICITY, TORN, UNEXPLAINED}
_VAGUE = {ATOMICITY, UNEXPLAINED}


@dataclass(slots=True, eq=False)
class Found(Generic[T]):
    """A cause of this ``kind`` as it was found. ``lost`` and ``others`` are the places in the program of its lost
    stores and of the other stores that it is about.

    ``fixes`` are places for the flush or fence that it lacks, each in all of the trace; none for other kinds.
    ``ways``: what recovery reads when it fails, which no crash up to the event behind it allows. Power failed before
    event ``crash`` at the latest.
    """

    failure: T
    kind: str
    lost: frozenset[int]
    others: frozenset[int] = frozenset()
    fixes: tuple[Repair, ...] = ()
    ways: dict[tuple[Read, ...], int] = field(default_factory=dict)
    crash: int = 0

    def repairs(self, other: Found[T]) -> bool:
        """Whether the flush or fence that this one lacks makes the other impossible."""
        return bool(other.ways) and any(
            all(fix.rules_out(path, after, other.crash) for path, after in other.ways.items()) for fix in self.fixes
        )

    def add(self, crash: int, path: tuple[Read, ...], after: int) -> None:
        """Note one more way in which it shows."""
        self.crash = max(self.crash, crash)
        self.ways[path] = min(after, self.ways.get(path, after))

    def shares(self, other: Found[T]) -> bool:
        """Whether both are of one kind of bug and about the same stores."""
        if self.kind in _DURABILITY and other.kind in _DURABILITY:
            return bool(self.lost & other.lost)
        if self.kind in _TOGETHER and other.kind in _TOGETHER:
            # A group of stores that must take effect together is found from any of them.
            vague = self.kind in _VAGUE and other.kind in _VAGUE
            return bool((self.lost | self.others) & (other.lost | other.others) if vague else self.lost & other.lost)
        return False


def joined(found: Sequence[Found[T]], first: Found[T] | None = None) -> list[list[Found[T]]]:
    """``found`` in groups, each with one that stands for it first: that whose repair does most, or with the fewest
    stores. ``first`` stands for its group whatever else is in it: it was reported by itself before the others were
    known, and is to be found again among them.
    """
    groups = _that_share(found)
    firsts = [first if first is not None and first in group else
              min(group, key=lambda one: (len(one.lost), found.index(one))) for group in groups]  # fmt: skip
    covers = [[number for number, group in enumerate(groups) if number != own and all(map(first.repairs, group))]
              for own, first in enumerate(firsts)]  # fmt: skip
    result: list[list[Found[T]]] = []
    taken: set[int] = set()
    for own in sorted(
        range(len(groups)), key=lambda number: (firsts[number] is not first, -len(covers[number]), number)
    ):
        if own not in taken:
            members = [number for number in covers[own] if number not in taken]
            taken.update((own, *members))
            rest = [one for number in (own, *members) for one in groups[number] if one is not firsts[own]]
            result.append([firsts[own], *rest])
    return result


def _that_share(found: Sequence[Found[T]]) -> list[list[Found[T]]]:
    """The smallest groups such that those that share stores are in one."""
    groups: list[list[Found[T]]] = []
    for one in found:
        near = [group for group in groups if any(one.shares(other) for other in group)]
        groups = [group for group in groups if group not in near]
        groups.append([*(other for group in near for other in group), one])
    return groups
