"""Pages whose bytes at the destination were not those at the source when they were compared.

The guest may have stored to such a page while it was on its way; then the dirty log has it, and it goes out again. If
not, somebody else changed the file, or memory, disk or this program damaged it: that may not be handed over.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from emu.migration.errors import MigrationError
from emu.migration.guest import Block
from emu.migration.stream import Run


class Doubts:
    """The doubtful pages of ``blocks``, by the number of their block."""

    def __init__(self, blocks: Sequence[Block]) -> None:
        self._blocks = blocks
        self._pages: dict[int, set[int]] = {}

    def add(self, number: int, pages: Iterable[int]) -> None:
        self._pages.setdefault(number, set()).update(pages)

    def settle(self, dirty: Mapping[int, Sequence[Run]]) -> None:
        """Drop the pages that the guest stored to since they were sent: all that it stored to is ``dirty``.

        MigrationError when that does not explain every page.
        """
        for number, pages in self._pages.items():
            for run in dirty.get(number, ()) if pages else ():
                pages.difference_update(range(run.first, run.first + run.count))
            if pages:
                block = self._blocks[number]
                raise MigrationError(
                    f"{block.path or block.name}: page {min(pages)} did not arrive as it is, and the guest has not"
                    f" stored to it ({len(pages)} such pages)",
                    "find out who else writes to the file; if nobody does, test the host's memory and disk",
                )
