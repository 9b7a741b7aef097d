"""Whoever writes to the source's files beside the guest.

What the guest stores while its pages are on their way is in the dirty log. A store by somebody else is in no log: the
destination would have the page as it was, and the guest at the source as it is now. So one that is noticed ends the
migration, and the guest stays with the file as it is.
"""

from __future__ import annotations

from collections.abc import Iterable

from emu.host.watch import Watch
from emu.migration.errors import MigrationError
from emu.migration.guest import Block


class Strangers:
    """Watches the files of ``blocks`` from now on until ``close``."""

    def __init__(self, blocks: Iterable[Block]) -> None:
        self._watch: Watch | None = None
        try:
            for block in blocks:
                if block.descriptor is not None:
                    self._watch = self._watch or Watch()
                    self._watch.add(block.descriptor, block.path or block.name)
        except BaseException:
            self.close()
            raise

    def check(self) -> None:
        """MigrationError when one of the files was written to by a system call, which no guest makes."""
        if self._watch is not None and (changed := self._watch.changed()):
            raise MigrationError(
                f"{changed[0]}: another program wrote to the file while it was migrated",
                "find out who does; the guest goes on here, with the file as it is now",
            )

    def close(self) -> None:
        if self._watch is not None:
            self._watch.close()
