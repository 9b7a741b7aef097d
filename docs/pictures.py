"""Draws the pictures of structures from the project's own declarations of them: python docs/pictures.py.

Each box is a field where the layout has it, with the value that the builder gives it. A test holds the pictures against
the bytes, and fails when one is behind.
"""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from pathlib import Path

from emu.acpi.structures import Header, Nfit
from emu.config import PersistenceDomain
from emu.devices.nvdimm import nfit
from emu.devices.nvdimm.index import Version, geometry
from emu.devices.nvdimm.label_layouts import IndexHeader, LabelV12
from emu.persistence.model.events import FenceKind, FlushKind
from emu.persistence.model.rules import Media
from emu.persistence.report.lanes import LineState
from emu.structure import Structure
from emu.units import CACHE_LINE

FIGURES = Path(__file__).parent / "explanation" / "figures"
EXAMPLE = nfit.NfitEntry(id=None, slot=0, gpa=0x1_0000_0000, size=64 << 20)
AREA = 128 << 10

_BYTES_A_ROW = 8
_BYTE, _ROW, _LEFT, _TITLE = 88, 34, 48, 26
_MOST_ROWS = 2
_LETTER = 6.2
_STYLE = (
    "<style>svg{background:#fff}text{font:11px sans-serif;fill:#222}.t{font-weight:bold;font-size:13px}"
    ".v,.o{font:10px monospace;fill:#666}rect{fill:#f4f7fb;stroke:#5b6b80}.a{fill:#e2ecd8}.b{fill:#fbeed3}"
    "path{fill:none;stroke:#5b6b80;stroke-width:1.5}</style>"
)


def nfit_picture() -> str:
    """The NFIT of a machine with one NVDIMM of 64 MiB."""
    table = nfit.nfit_table([EXAMPLE], PersistenceDomain.ADR)
    drawing = _Drawing("The NFIT of a machine with one NVDIMM of 64 MiB")
    head = f"{Nfit.TITLE} (ACPI 6.4, {Nfit.SECTION})"
    drawing.structure(head, 0, Header.unpack_from(table), Nfit.unpack_from(table))
    at = Nfit.SIZE
    for structure, _ in nfit.parse(table[at:]):
        drawing.structure(f"{structure.TITLE} ({structure.SECTION})", at, structure)
        at += structure.SIZE
    return drawing.svg()


def label_area_picture() -> str:
    """A label area of 128 KiB, and its two structures field by field."""
    where = geometry(Version.V1_2, AREA)
    drawing = _Drawing("The label area: the last 128 KiB of the file")
    drawing.ranges(
        f"Label area of {AREA >> 10} KiB, labels of version 1.2",
        [
            (0, where.index_size, "index block 0"),
            (where.index_size, where.index_size, "index block 1"),
            (where.label_offset, where.version.label_size, "label slot 0"),
            (where.slot_offset(1), where.version.label_size, "label slot 1"),
            (where.slot_offset(2), where.slot_offset(where.slots - 1) - where.slot_offset(2), "..."),
            (where.slot_offset(where.slots - 1), where.version.label_size, f"label slot {where.slots - 1}"),
        ],
    )
    bitmap = where.index_size - IndexHeader.SIZE
    drawing.structure(f"Namespace index block (UEFI 2.10, 13.19.2), before a bitmap of {bitmap} bytes", 0, IndexHeader)
    drawing.structure("Namespace label (UEFI 2.10, 13.19.2)", 0, LabelV12)
    return drawing.svg()


def path_picture() -> str:
    """The way of a store to the medium, what moves it, and how far each platform's promise reaches."""
    flushes = ", ".join(kind.name for kind in FlushKind)
    fences = ", ".join(kind.name for kind in FenceKind)
    stations = [
        ("the program", "registers", ""),
        ("CPU cache", f"lines of {CACHE_LINE} bytes", str(LineState.DIRTY)),
        ("on its way", "to the memory controller", str(LineState.WAITING)),
        ("memory", "write queue, medium", str(LineState.DURABLE)),
    ]
    arrows = ["store", f"{flushes}; or the cache, whenever it likes", f"{fences}: waits"]
    parts = [_text(20, 28, "The way of a store, and where it survives a power failure", "t")]
    for number, (name, what, state) in enumerate(stations):
        x = 20 + number * 230
        kind = ' class="a"' if state == LineState.DURABLE else ' class="b"' if state else ""
        parts.append(f'<rect{kind} x="{x}" y="60" width="160" height="76" rx="6"/>')
        for line, (text, style) in enumerate(((name, "t"), (what, ""), (state, "v"))):
            parts.append(_text(x + 80, 84 + 20 * line, text, style, anchor="middle"))
    for number, words in enumerate(arrows):
        x = 180 + number * 230
        parts.append(f'<path d="M{x + 4} 98H{x + 64}m-8 -5l8 5l-8 5"/>')
        for line, text in enumerate(_wrapped(words, 26)):
            parts.append(_text(x + 35, 160 + 14 * line, text, "", anchor="middle"))
    # What each platform flushes by itself when the power fails: ADR what the memory controller has, eADR the caches.
    first = {PersistenceDomain.ADR: 3, PersistenceDomain.EADR: 1}
    for number, domain in enumerate((PersistenceDomain.ADR, PersistenceDomain.EADR)):
        x, y = 20 + first[domain] * 230, 216 + 24 * number
        parts.append(f'<path d="M{x} {y - 6}v12M{x} {y}H{20 + 3 * 230 + 160}"/>')
        parts.append(_text(x - 8, y + 4, f"survives with {domain.platform}", "", anchor="end"))
    media = (
        f"{Media.DAX_SYNC}: as drawn",
        f"{Media.DAX}: and a page whose metadata was not journalled may come back as it was",
        f"{Media.PAGE_CACHE}: no flush reaches the medium; the kernel writes pages back",
    )
    for line, text in enumerate(media):
        parts.append(_text(20, 286 + 16 * line, text, "v"))
    return _svg("The way of a store to the medium", 900, 330, parts)


PICTURES = {"nfit": nfit_picture, "label-area": label_area_picture, "persistence-path": path_picture}


class _Drawing:
    """Boxes of fields from top to bottom, eight bytes a row."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._parts: list[str] = []
        self._y = 8

    def structure(self, title: str, base: int, *parts: Structure | type[Structure]) -> None:
        """``parts``, which follow one another, at the offset ``base`` of their table; with values where they are
        structures, not only layouts.
        """
        kinds = [part if isinstance(part, type) else type(part) for part in parts]
        self._head(f"{title}: {kinds[-1].SIZE} bytes", kinds[-1].__name__)
        for part, kind in zip(parts, kinds, strict=True):
            for name in kind._names:
                field = kind.field(name)
                value = "" if isinstance(part, type) else _value(getattr(part, name))
                for at, width in _pieces(field.offset, field.width):
                    self._field(base, at, width, name, value)
        self._y += 12
        self._parts.append("</g>")

    def _field(self, base: int, at: int, width: int, name: str, value: str) -> None:
        """One box; the last one of a row ends it."""
        column = at % _BYTES_A_ROW
        rows = width // _BYTES_A_ROW
        x, span = _LEFT + column * _BYTE, _BYTE * min(width, _BYTES_A_ROW)
        height = _ROW * max(1, min(rows, _MOST_ROWS))
        kind = ' class="b"' if name.startswith(("reserved", "unused")) else ""
        where = f'data-offset="{at}" data-width="{width}" data-field="{name}"'
        self._parts.append(f'<rect{kind} x="{x}" y="{self._y}" width="{span}" height="{height}" {where}/>')
        size = f" ({width} bytes)" if rows > _MOST_ROWS else ""
        self._label(x + 4, self._y + 13, name + size, value, span)
        if column == 0:
            self._parts.append(_text(4, self._y + 20, f"{base + at:#x}", "o"))
        if (at + width) % _BYTES_A_ROW == 0:
            self._y += height

    def ranges(self, title: str, ranges: list[tuple[int, int, str]]) -> None:
        """What lies where, not to scale; ``ranges`` are offset, length and name."""
        self._head(title, "ranges")
        for offset, length, name in ranges:
            width = _BYTE * _BYTES_A_ROW
            where = f'data-offset="{offset}" data-width="{length}"'
            self._parts.append(
                f'<rect class="a" x="{_LEFT}" y="{self._y}" width="{width}" height="{_ROW - 10}" {where}/>'
            )
            self._parts.append(_text(4, self._y + 16, f"{offset:#x}", "o"))
            self._parts.append(_text(_LEFT + 8, self._y + 16, f"{name}: {length} bytes", ""))
            self._y += _ROW - 10
        self._y += 12
        self._parts.append("</g>")

    def svg(self) -> str:
        return _svg(self._title, _LEFT + _BYTE * _BYTES_A_ROW + 8, self._y, self._parts)

    def _head(self, title: str, name: str) -> None:
        self._parts.append(f'<g data-structure="{name}">')
        self._parts.append(_text(_LEFT, self._y + 16, title, "t"))
        self._y += _TITLE

    def _label(self, x: int, y: int, name: str, value: str, span: int) -> None:
        lines = _wrapped(name.replace("_", " "), int((span - 6) / _LETTER))
        for number, line in enumerate(lines[:2]):
            self._parts.append(_text(x, y + 12 * number, line, ""))
        if value and len(lines) == 1 and len(value) * _LETTER < span:
            self._parts.append(_text(x, y + 14, value, "v"))


def _pieces(offset: int, width: int) -> Iterator[tuple[int, int]]:
    """(offset, width) of the boxes that a field takes: whole rows are one box."""
    end = offset + width
    while offset < end:
        column = offset % _BYTES_A_ROW
        left = end - offset
        whole = left - left % _BYTES_A_ROW if column == 0 and left >= _BYTES_A_ROW else 0
        step = whole or min(left, _BYTES_A_ROW - column)
        yield offset, step
        offset += step


def _value(value: object) -> str:
    if isinstance(value, bytes):
        return value.decode("ascii") if value.isascii() and value.strip(b"\0 ").isalnum() else value.hex()
    return f"{value:#x}" if isinstance(value, int) else str(value)


def _wrapped(words: str, most: int) -> list[str]:
    lines = [""]
    for word in words.split():
        if lines[-1] and len(lines[-1]) + 1 + len(word) > most:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return lines


def _text(x: int, y: int, words: str, style: str, *, anchor: str = "start") -> str:
    style = f' class="{style}"' if style else ""
    place = "" if anchor == "start" else f' text-anchor="{anchor}"'
    return f'<text{style} x="{x}" y="{y}"{place}>{escape(words)}</text>'


def _svg(title: str, width: int, height: int, parts: list[str]) -> str:
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" role="img">'
    return "\n".join([head, f"<title>{escape(title)}</title>", _STYLE, *parts, "</svg>", ""])


def main() -> None:
    for name, draw in PICTURES.items():
        (FIGURES / f"{name}.svg").write_text(draw(), "utf-8")


if __name__ == "__main__":
    main()
