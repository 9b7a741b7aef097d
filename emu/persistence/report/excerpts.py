"""Lines of source around a finding, when the source lies beside the image or under the current directory.

The names come from the image, which may be anybody's: a file is only shown if it looks like source and lies inside
one of these folders, so that no image can make a report quote a file that has nothing to do with it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from emu.host.files import resolve
from emu.persistence.lab.deadline import NEVER, Deadline
from emu.persistence.report import debug_info

_SUFFIXES = frozenset({".c", ".h", ".s", ".asm", ".cc", ".cpp", ".cxx", ".hpp", ".inc", ".rs", ".zig", ".nasm"})
_LARGEST = 1 << 20
_PARENTS = 2
_CONTEXT = 4
_LONGEST_LINE = 200


@dataclass(frozen=True, slots=True)
class Excerpt:
    """``lines`` are (number, text); ``marked`` is the number of the line in question."""

    file: str
    marked: int
    lines: tuple[tuple[int, str], ...]


@dataclass(slots=True)
class Sources:
    """Finds the source files that an image was built from."""

    _folders: tuple[Path, ...]
    _paths: dict[str, list[PurePosixPath]] = field(default_factory=dict)
    _texts: dict[str, tuple[str, list[str]] | None] = field(default_factory=dict)

    @classmethod
    def of(cls, image: str | None, deadline: Deadline = NEVER) -> Sources:
        """The sources of the image at this path; none when there is no image or it names none until ``deadline``."""
        if image is None:
            return cls(())
        home = Path(image).resolve().parent
        folders = (home, *list(home.parents)[:_PARENTS], *_here())
        return cls(tuple(folder for folder in folders if folder != Path(folder.anchor)), _paths(image, deadline))

    def excerpt(self, source: str) -> Excerpt | None:
        """The lines around ``NAME:LINE``; None when the file is not to be had."""
        found = self._find(source)
        if found is None:
            return None
        name, _, text, marked = found
        first = max(1, marked - _CONTEXT)
        lines = enumerate(text[first - 1 : marked + _CONTEXT], first)
        return Excerpt(name, marked, tuple((at, line[:_LONGEST_LINE].expandtabs(4)) for at, line in lines))

    def line(self, source: str) -> tuple[str | None, str | None]:
        """The path of the file in ``NAME:LINE``, relative to the working directory if it is below it, and the line's
        text; None where they are not to be had.
        """
        found = self._find(source)
        if found is None:
            return None, None
        _, path, text, marked = found
        return path, text[marked - 1].strip()[:_LONGEST_LINE]

    def _find(self, source: str) -> tuple[str, str, list[str], int] | None:
        """(name, path, lines, number of the line) of ``NAME:LINE``."""
        name, _, number = source.rpartition(":")
        if not number.isascii() or not number.isdigit() or len(number) > 7:
            return None
        if name not in self._texts:
            self._texts[name] = self._read(name)
        file, marked = self._texts[name], int(number)
        if file is None or not 0 < marked <= len(file[1]):
            return None
        return name, *file, marked

    def files(self) -> Iterator[str]:
        """The paths of all source files that may be quoted."""
        for name in self._paths:
            yield from map(str, self._places(name))

    def _read(self, name: str) -> tuple[str, list[str]] | None:
        for full in self._places(name):
            with contextlib.suppress(OSError):
                shown = next((full.relative_to(here) for here in _here() if full.is_relative_to(here)), full)
                return str(shown), full.read_text("utf-8", "replace").splitlines()
        return None

    def _places(self, name: str) -> Iterator[Path]:
        for path in self._paths.get(name, [])[:_PARENTS]:
            for folder in self._folders:
                with contextlib.suppress(OSError, ValueError):  # ValueError: a NUL in the name
                    full = (folder / path).resolve()
                    named = full.is_relative_to(folder) and _is_source(full)
                    if named and full.is_file() and full.stat().st_size <= _LARGEST:
                        yield full


def may_be_source(name: str) -> bool:
    """Whether the file ``name``, or what it leads to, may be one that a report quotes; or a file in that folder."""
    place = resolve(name)
    if Path(place.path).is_dir():
        return any(may_be_source(str(entry)) for entry in Path(place.path).iterdir())
    return place.descriptor is not None or _is_source(Path(place.path))


def _is_source(path: Path) -> bool:
    return path.suffix.lower() in _SUFFIXES


def _here() -> tuple[Path, ...]:
    """The working directory; none when somebody has removed it."""
    try:
        return (Path.cwd(),)
    except FileNotFoundError:
        return ()


def _paths(image: str, deadline: Deadline) -> dict[str, list[PurePosixPath]]:
    """For the name of each source file in the DWARF line tables, the paths that it may have."""
    found: dict[str, list[PurePosixPath]] = {}
    for name, path in debug_info.read(image, deadline=deadline).paths:
        found.setdefault(name, []).append(PurePosixPath(path))
    return found
