"""Standard output and standard error that survive what users do to them: closed, full, no reader, any encoding.

A command has a verdict, and a stream that cannot be written must not change it. So a failed write never raises: what
comes after it vanishes, and ``standard_output_failure`` tells the end of the command, which says so once. Names that
the streams' encoding cannot hold (file names are bytes) come out escaped.
"""

from __future__ import annotations

import codecs
import errno
import io
import os
import select
import sys

from emu.hints import Any, TextIO

_LONGEST_LINE = 1000
_NARROW, _USUAL = 40, 80  # columns; a terminal may not say how many it has
_BESIDE = " " * len("emu: ")
_ESCAPED = "emu-escaped"
_SURROGATES = range(0xDC80, 0xDD00)  # how Python holds bytes of a file name that are not in its encoding (PEP 383)


class _Survivor(io.FileIO):
    """A descriptor that takes everything; ``failure`` is the first error, after which nothing is written any more."""

    failure: OSError | None = None

    def write(self, data: Any) -> int:
        if self.failure is None:
            try:
                written = super().write(data)
                while written is None:  # somebody made the descriptor non-blocking, and it is full
                    select.select((), (self,), ())
                    written = super().write(data)
                return written
            except OSError as error:
                self.failure = error
        return len(data)


def _escape(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    unsayable = error.object[error.start : error.end]
    return "".join(map(_escaped, unsayable)), error.end


def _escaped(character: str) -> str:
    """The character as Python would write it in a text, a byte that is no character as that byte."""
    if ord(character) in _SURROGATES:
        return f"\\x{ord(character) - 0xDC00:02x}"
    return ascii(character)[1:-1]


def take_over_standard_streams() -> None:
    """Replace ``sys.stdout`` and ``sys.stderr``; for the start of a process only.

    A closed descriptor 0 to 2 is occupied first: else the next file opened, an NVDIMM's for example, would take its
    place, and whatever a library prints would be written into it.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    codecs.register_error(_ESCAPED, _escape)
    sys.stdout = _stream(1, sys.stdout)
    sys.stderr = _stream(2, sys.stderr)
    if sys.stdin is None:
        sys.stdin = open(0, closefd=False)  # noqa: SIM115 - descriptor 0 stays open as long as the process


def _stream(descriptor: int, before: TextIO | None) -> TextIO:
    raw = _Survivor(descriptor, "w", closefd=False)
    encoding = before.encoding if before is not None else "utf-8"
    by_line = descriptor == 2 or raw.isatty()
    return io.TextIOWrapper(io.BufferedWriter(raw), encoding, _ESCAPED, line_buffering=by_line)


def standard_output_failure() -> OSError | None:
    """Why what was printed did not all arrive, None when it did, or when nobody is there to read it (a closed pipe)."""
    sys.stdout.flush()
    raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    failure = raw.failure if isinstance(raw, _Survivor) else None
    return None if failure is None or failure.errno == errno.EPIPE else failure


def lose_standard_output(error: OSError) -> None:
    """Somebody else who writes to the standard output has met ``error``: nothing more is to be written there."""
    raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    if isinstance(raw, _Survivor) and raw.failure is None:
        raw.failure = error


def line(text: str) -> str:
    """``text`` as one line of bounded length: names of files and words of users may hold anything."""
    shown = "".join(character if character.isprintable() else _escaped(character) for character in text)
    return shown if len(shown) <= _LONGEST_LINE else shown[:_LONGEST_LINE] + "..."


def say(text: str) -> None:
    """One line of a command's answer."""
    print(line(text))


def row(text: str) -> None:
    """One line of a list; at a terminal, what has no room goes on below, at a word, where the last column begins."""
    shown, width = line(text), columns(sys.stdout)
    if width is not None and len(shown) > width:
        last = shown.rfind("  ") + 2
        shown = "\n".join(_wrapped(shown, width, " " * (last if 1 < last <= width // 2 else 4)))
    print(shown)


def note(text: str) -> None:
    """One line to the person at the terminal, beside the answer; too long a line goes on below, at a word."""
    print("\n".join(_wrapped(line(text), columns(sys.stderr), _BESIDE)), file=sys.stderr)


def columns(stream: TextIO) -> int | None:
    """How wide ``stream`` is, if it is a terminal; at least 40."""
    if not stream.isatty():
        return None
    return max(os.get_terminal_size(stream.fileno()).columns or _USUAL, _NARROW)


def _wrapped(text: str, width: int | None, indent: str) -> list[str]:
    """``text`` in lines of at most ``width`` columns; all but the first begin with ``indent``."""
    if width is None or len(text) <= width:
        return [text]
    import textwrap

    return textwrap.wrap(text, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def document(content: dict[str, Any]) -> None:
    """A command's answer to ``--json``."""
    import json  # most starts print none

    print(json.dumps(content, indent=2))
