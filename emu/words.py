"""Words of others (a peer, an image) made fit for a terminal, a log and QMP: they may be anybody's and mean harm."""

from __future__ import annotations

MOST = 2000


def printable(text: str, most: int = MOST) -> str:
    """``text`` on one line, at most ``most`` characters of it; what is not printable is shown as its escape.

    Not printable is what Unicode calls so: controls, line ends, surrogates, and the invisible signs that turn the
    direction of writing.
    """
    if text.isprintable() and len(text) <= most:
        return text
    shown = "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text[:most])
    return shown if len(text) <= most and len(shown) <= most else f"{shown[: most - 3]}..."
