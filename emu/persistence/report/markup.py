"""HTML and SVG from values that nobody has checked: text becomes markup only through ``tag``, which escapes it."""

from __future__ import annotations

import html
import json
from collections.abc import Iterable
from typing import Any

_VOID = frozenset({"meta", "link", "br", "path", "rect", "circle", "line", "use", "polygon"})
_KEPT = frozenset("\n\t")
_BIDI = frozenset("\u200e\u200f\u061c\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


class Html(str):
    """Text that is markup already."""

    __slots__ = ()


def visible(text: str) -> str:
    """Text in which nothing hides: control characters, direction marks and broken encodings become visible."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(_visible(character) for character in text)


def _visible(character: str) -> str:
    code = ord(character)
    if code < 0x20 and character not in _KEPT:
        return chr(0x2400 + code)
    if 0x7F <= code < 0xA0 or character in _BIDI or 0xD800 <= code < 0xE000 or code & 0xFFFE == 0xFFFE:
        return "\ufffd"
    return character


def escape(value: object) -> Html:
    """Any value as text, or unchanged if it is ``Html``."""
    return value if isinstance(value, Html) else Html(html.escape(visible(str(value))))


def join(children: Iterable[Any]) -> Html:
    """All children one after the other: text, numbers, ``Html``, iterables of them; None is nothing."""
    parts = []
    for child in children:
        if child is None:
            continue
        parts.append(escape(child) if isinstance(child, str | int | float) else join(child))
    return Html("".join(parts))


def tag(name: str, /, *children: Any, **attributes: object) -> Html:
    """An element. ``class_`` is class, ``aria_label`` is aria-label; an attribute that is None is left out."""
    words = [name]
    for key, value in attributes.items():
        if value is not None:
            words.append(f'{key.rstrip("_").replace("_", "-")}="{escape(value)}"')
    opening = " ".join(words)
    if name in _VOID and not children:
        return Html(f"<{opening}/>")
    return Html(f"<{opening}>{join(children)}</{name}>")


def embedded_json(value: object) -> Html:
    """A document for machines inside a script element: nothing in it can end the element or begin another."""
    text = json.dumps(value, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Html(f'<script type="application/json" id="emu-crash">{text}</script>')
