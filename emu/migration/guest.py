"""What a migration needs of a machine: its facts, its blocks of memory, and the power to stop and restore it.

``emu.migration.adapter`` makes a Guest of a real Machine; tests make one of plain mappings.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from emu.host import pages
from emu.host.pages import Copied, Taken
from emu.migration.facts import MachineFacts
from emu.migration.passed import PassedFile
from emu.state import SavedState
from emu.units import PAGE


class Storage(Protocol):
    """The part of a Mapping that migration uses beyond its bytes."""

    def persist(self, offset: int, length: int) -> None:
        """Make the range durable by the strongest means the mapping has."""

    def lost(self) -> int | None:
        """The offset of a page whose file has vanished under it (cut short, disk full), or None."""


class Tracker(Protocol):
    """Collects the pages of one block that the guest dirtied (host write faults; no CPU hook)."""

    def start(self) -> None: ...

    def collect(self) -> Sequence[tuple[int, int]]:
        """Runs (first page, count) written since ``start`` or the last ``collect``, watched again before it returns."""

    def stop(self) -> None: ...


class FileLock(Protocol):
    """The exclusive lock of a backing file, and its use as a proof that two processes opened the same file.

    ``show`` cuts a hole into the lock far behind the end of the file, at a secret place; only who opened the same file
    can see with F_OFD_GETLK where it is. Nothing is written to the file.
    """

    @property
    def held(self) -> bool: ...

    def take(self) -> None:
        """HostError when another emulator holds it."""

    def release(self) -> None: ...

    def show(self, secret: int) -> None: ...

    def hide(self) -> None: ...

    def look(self) -> int | None:
        """The secret that the holder of the lock shows, or None when nobody holds it."""


class Holes(Protocol):
    """Knows which parts of a sparse file have no blocks and which memory was never touched, so that nobody touches them
    to find zeros."""

    def next_data(self, offset: int) -> int:
        """The first page-aligned offset from ``offset`` on with something behind it; a huge number for none."""

    def next_hole(self, offset: int) -> int:
        """The first page-aligned offset from ``offset`` on with nothing behind it; a file's end counts as one. A huge
        number for none."""


class BackingFile(Protocol):
    """The file in the page cache behind a shared block: another way to its bytes than through the mapping.

    ``offset`` is where the block begins in the file.
    """

    @property
    def offset(self) -> int: ...

    def store(self, offset: int, data: memoryview) -> None:
        """Store all of ``data`` at ``offset`` of the block; HostError when it does not fit on the medium."""

    def take(self, offset: int, target: memoryview, running: int) -> Taken:
        """Copy the pages at ``offset`` of the block to ``target``; see ``emu.host.pages.take``."""

    def open_readonly(self) -> int:
        """A descriptor for a peer on this host that may read the file; the caller closes it."""

    def copy_from(self, source: PassedFile, offset: int, count: int) -> Copied:
        """Copy ``count`` pages at ``offset`` of the source's block to there in this one, except zero pages."""

    def populate(self, offset: int, length: int) -> None:
        """Give the pages of a range which has data their place in this process's page tables, where that can be done
        without changing the file: storing to them is then cheap."""

    def is_populated(self, offset: int, length: int) -> bool:
        """Whether ``populate`` has done so for all of the range."""


@dataclass(frozen=True, slots=True)
class Block:
    """One block of memory that migrates as a whole. ``view`` is its bytes (read-only where the guest cannot write).

    ``persistent`` marks the backend of an NVDIMM: its bytes must be durable before the hand-over. ``path`` is its file,
    and ``descriptor`` that file, open, where the block is shared with it.
    """

    name: str
    view: memoryview
    writable: bool
    persistent: bool
    share: bool
    granularity: str
    storage: Storage
    path: str | None = None
    lock: FileLock | None = None
    holes: Holes | None = None
    file: BackingFile | None = None
    descriptor: int | None = None

    def store(self, offset: int, data: memoryview) -> None:
        """Put ``data`` at ``offset``, visible in ``view``."""
        if self.file is None:
            self.view[offset : offset + len(data)] = data
        else:
            self.file.store(offset, data)

    def take(self, offset: int, target: memoryview, running: int) -> Taken:
        """Copy the pages at ``offset`` to ``target``, as many as it holds; see ``emu.host.pages.take``."""
        if self.file is None:
            return pages.take(self.view, offset, target, running, what=self.name)
        return self.file.take(offset, target, running)

    def takes_stores(self, offset: int, length: int) -> bool:
        """Whether bytes may be received straight into ``view`` there; else ``store`` is the better way."""
        return self.file is None or self.file.is_populated(offset, length)

    def next_data(self, offset: int) -> int:
        """The first offset from ``offset`` on that may hold anything but zeros; the size when there is none."""
        return offset if self.holes is None else min(self.holes.next_data(offset), self.size)

    def data(self) -> Iterator[tuple[int, int]]:
        """Where the block may hold anything but zeros: (start, end), rising, in bytes."""
        at = 0
        while at < self.size:
            start = self.next_data(at)
            if start == self.size:
                return
            at = self.size if self.holes is None else min(max(self.holes.next_hole(start), start + PAGE), self.size)
            yield start, at

    @property
    def size(self) -> int:
        return len(self.view)

    @property
    def pages(self) -> int:
        return len(self.view) // PAGE


class Guest(Protocol):
    """A machine as migration sees it. All methods may be called from the migration's thread."""

    @property
    def running(self) -> bool: ...

    def facts(self) -> MachineFacts: ...

    def blocks(self) -> Sequence[Block]: ...

    def tracker(self, block: Block) -> Tracker: ...

    def stop(self) -> None:
        """Stop the guest for the switch-over; returns when it stands still."""

    def go_on(self) -> None:
        """Undo ``stop``: the migration failed and the guest stays; one that did not run before does not run now."""

    def protect_files(self) -> None:
        """From here on no file is discarded when this process ends, whatever ``discard-data`` says."""

    def rest(self) -> None:
        """A snapshot of it is whole: stand still until somebody lets it run."""

    def handed_over(self, copied: Iterable[str]) -> None:
        """The machine lives elsewhere now: stay stopped. The ``copied`` blocks' files may be discarded again."""

    def save(self) -> Mapping[str, SavedState]:
        """The components' states by name."""

    def restore(self, states: Mapping[str, SavedState]) -> None:
        """Take all of ``states``, or raise StateError and change nothing."""

    def hold_back(self, seconds: float) -> None:
        """Keep the guest from running for ``seconds`` (auto-converge)."""
