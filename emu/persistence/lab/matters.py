"""Which reads of a recovery can matter: where the memories that wait for its run all hold the same, none needs to know.

All walkers that ever come by an open end of the tree wait there when it grows. So the reads that tell them apart, and
from those before them, are enough to keep: reads of units that can hold several things at the crash point of one, that
hold something else at another's, or that lie above in the tree. A recovery that reads ten thousand units differs from
the next one in a few, and the others can be read at full speed, unwatched. What the tree says of other memories than
these is not the whole truth then (``Exploration.whole``).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable

from emu.persistence.lab.tree import Node
from emu.persistence.model.timeline import Timeline

# With fewer units than this it costs more to choose than to keep all reads.
LEAST_UNITS = 2048
# Below so many reads it would take long to say what lies above.
_DEEPEST = 1024


class Matters:
    """Says it for the nodes of one tree, or of its branches, where there are so many units and the ``share``-th part
    of them at most can matter.
    """

    def __init__(self, timeline: Timeline, *, units_at_least: int = LEAST_UNITS, share: int = 4) -> None:
        count = sum(1 for _ in timeline.units)
        self._timeline = timeline
        self._some_do_not = count >= units_at_least and not timeline.rules.pages_can_be_lost
        self._most = count // share
        self._unsettled: set[int] = set()
        self._largest = 0
        self._point = -1

    def choose(self, node: Node, points: Iterable[int], above: frozenset[int]) -> bool:
        """Let ``node.matters`` be what can matter below the open ``node`` where walkers of these crash points wait;
        ``above`` was read above its tree. Whether not everything does.

        What matters above it is always enough, so it is chosen anew only where that is half of it.
        """
        if self._some_do_not:
            waiting = list(points)
            low, high = min(waiting), max(waiting)
            if 2 * (high - low) <= node.span and node.depth <= _DEEPEST:
                node.span = high - low
                units = self._unsettled_at(low).union(self._timeline.changed(low, high))
                if len(units) <= self._most:
                    node.matters = frozenset(units | above | _units_above(node))
        return node.matters is not None

    def _unsettled_at(self, point: int) -> set[int]:
        """The units that can hold several things there; until this is asked again."""
        for unit in self._timeline.changed(self._point, point):
            since, contents = self._timeline.settled(unit)
            if contents[bisect_right(since, point) - 1] is None:
                self._unsettled.add(unit)
            else:
                self._unsettled.discard(unit)
        self._point = point
        # It is copied for every node, and a set that has been large stays so until it is made anew.
        self._largest = max(self._largest, len(self._unsettled))
        if 4 * len(self._unsettled) < self._largest:
            self._unsettled, self._largest = set(self._unsettled), len(self._unsettled)
        return self._unsettled


def _units_above(node: Node) -> set[int]:
    found: set[int] = set()
    here: Node | None = node
    while here is not None:
        found.update(unit for piece in here.pieces() for unit, _, _ in piece)
        if here.came_by is not None:
            found.add(here.came_by[0])
        here = here.parent
    return found


def units_above(node: Node, above: frozenset[int]) -> frozenset[int]:
    """The units that were read above an open end, for those who take it away; enough of them for ``choose``."""
    return above | _units_above(node) if node.depth <= _DEEPEST else above
