"""JSON values out of a byte stream that has no other framing, and JSON lines into one.

A QMP client need not end its commands with a newline, so the decoder finds the end of a value by itself, whatever the
pieces in which the bytes arrive. It bounds what it keeps: ``MAX_TEXT`` bytes of one value, ``MAX_DEPTH`` levels.

Recovery, as QEMU's specification of QMP has it (docs/interop/qmp-spec, "Error handling" and "Client sends bad data"):
after bytes that are no JSON the rest is dropped up to a structural character, a control character other than tab, or an
impossible UTF-8 byte (0xFE, 0xFF), which a client may send on purpose to get back into step. A well-formed but wrong
sequence of tokens is one error, reported when its brackets balance.

Like QEMU it takes strings in single quotes. Syntax: RFC 8259.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from typing import Any

MAX_TEXT = 1 << 20
MAX_DEPTH = 128

_SPACE = re.compile(rb"[ \t\r\n]+")
_WORD = re.compile(rb"[0-9A-Za-z_+.\-]+")
# What a string goes on with, by its quote: neither a control character nor an impossible byte, escaped or not.
_STRING_BODY = {
    ord('"'): re.compile(rb"(?:[^\"\\\x00-\x1f\xfe\xff]++|\\[^\x00-\x1f\xfe\xff])*+"),
    ord("'"): re.compile(rb"(?:[^'\\\x00-\x1f\xfe\xff]++|\\[^\x00-\x1f\xfe\xff])*+"),
}
_RESET = re.compile(rb"[\[\]{}:,\x00-\x08\x0a-\x1f\xfe\xff]")
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")
_ESCAPE = re.compile(r"\\(u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|.)", re.DOTALL)
_SHORT_ESCAPES = {'"': '"', "'": "'", "\\": "\\", "/": "/", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}
_KEYWORDS = {"true": True, "false": False, "null": None}
# Longer integers do not fit in 64 bits; QEMU reads those as floating-point numbers.
_INT64_DIGITS = 20
_INT_LOW, _INT_HIGH = -(1 << 63), (1 << 64) - 1
_LONGEST_WORD = 1024
_SHOWN = 32


@dataclass(frozen=True, slots=True)
class Decoded:
    """A whole JSON value: dict, list, str, int, float, bool or None."""

    value: Any


@dataclass(frozen=True, slots=True)
class Malformed:
    """Bytes that were no JSON value, and why; the decoder is back in step behind them."""

    why: str


class _Lexical(Exception):
    """The bytes form no token: resynchronise."""


class _Builder:
    """Puts tokens together into one value. After a wrong token it only counts brackets, to find the value's end."""

    def __init__(self) -> None:
        self.depth = 0
        self.done = False
        self.failure: str | None = None
        self.value: Any = None
        self._stack: list[tuple[Any, list[str]]] = []
        self._expected = "value"

    def take(self, kind: str, value: Any = None) -> None:
        """``kind`` of token: a structural character, or "string" or "scalar" with its ``value``."""
        if kind in "[{":
            self.depth += 1
            if self.depth > MAX_DEPTH:
                raise _Lexical("JSON nesting depth limit exceeded")
        elif kind in "]}":
            self.depth -= 1
        if self.failure is None:
            self._grammar(kind, value)
        if self.depth <= 0:
            self.done = True

    def _grammar(self, kind: str, value: Any) -> None:
        expected = self._expected
        if kind in "]}" and not self._inside(list if kind == "]" else dict):
            self.fail("expecting value")
            self.depth = 0  # what these brackets belong to cannot be known any more: this is the end
        elif kind in "]}" and expected in ("value or end", "key or end", "comma"):
            self._close()
        elif expected.startswith("value"):
            if kind in "[{":
                self._stack.append(([] if kind == "[" else {}, []))
                self._expected = "value or end" if kind == "[" else "key or end"
            elif kind in ("string", "scalar"):
                self._put(value)
            else:
                self.fail("expecting value")
        elif expected.startswith("key"):
            if kind != "string":
                self.fail("key is not a string in object")
            elif value in self._stack[-1][0]:
                self.fail("duplicate key")
            else:
                self._stack[-1][1].append(value)
                self._expected = "colon"
        elif expected == "colon":
            if kind == ":":
                self._expected = "value"
            else:
                self.fail("missing : in object pair")
        elif kind == ",":
            self._expected = "key" if self._inside(dict) else "value"
        else:
            self.fail("expected separator in " + ("dict" if self._inside(dict) else "list"))

    def _inside(self, kind: type) -> bool:
        return bool(self._stack) and isinstance(self._stack[-1][0], kind)

    def fail(self, why: str) -> None:
        """The value is wrong because of ``why``; the first reason counts."""
        self.failure = self.failure or why
        self._stack.clear()

    def _close(self) -> None:
        self._put(self._stack.pop()[0])

    def _put(self, value: Any) -> None:
        if not self._stack:
            self.value = value
            return
        container, key = self._stack[-1]
        if isinstance(container, list):
            container.append(value)
        else:
            container[key.pop()] = value
        self._expected = "comma"


class JsonDecoder:
    """``feed`` it bytes, then call ``next_item`` until it gives None. Work is done only as items are taken."""

    def __init__(self) -> None:
        self._data = b""
        self._at = 0
        self._builder = _Builder()
        self._token = bytearray()
        self._quote = 0
        self._escaped = False
        self._in_word = False
        self._recovering = False
        self._size = 0

    @property
    def idle(self) -> bool:
        """Whether everything fed has been looked at."""
        return self._at >= len(self._data)

    def feed(self, data: bytes) -> None:
        """Add ``data`` behind what was fed before."""
        self._data = self._data[self._at :] + data
        self._at = 0

    def next_item(self) -> Decoded | Malformed | None:
        """The next value or error, or None when more bytes are needed."""
        while not self.idle:
            before = self._at
            try:
                self._step()
                inside = self._builder.depth or self._quote or self._in_word
                self._size = self._size + self._at - before if inside else 0
                if self._size > MAX_TEXT:
                    raise _Lexical("JSON token size limit exceeded")
            except _Lexical as error:
                self._restart()
                self._recovering = True
                return Malformed(str(error))
            if self._builder.done:
                failure, value = self._builder.failure, self._builder.value
                self._restart()
                return Decoded(value) if failure is None else Malformed(f"JSON parse error, {failure}")
        return None

    def _restart(self) -> None:
        self._builder = _Builder()
        self._token = bytearray()
        self._quote = self._size = 0
        self._escaped = self._in_word = self._recovering = False

    def _step(self) -> None:
        """Consume at least one byte, or end a word in front of one."""
        if self._recovering:
            self._recover()
        elif self._quote:
            self._string()
        elif self._in_word:
            self._word()
        else:
            self._between()

    def _between(self) -> None:
        space = _SPACE.match(self._data, self._at)
        if space is not None:
            self._at = space.end()
            return
        byte = self._data[self._at]
        character = chr(byte)
        if character in "[]{}:,":
            self._at += 1
            self._builder.take(character)
        elif character in "\"'":
            self._at += 1
            self._quote = byte
        elif _WORD.match(self._data, self._at) is not None:
            self._in_word = True
        else:
            raise _stray(self._data[self._at : self._at + 1])

    def _string(self) -> None:
        byte = self._data[self._at]
        if self._escaped and 0x20 <= byte < 0xFE:  # the backslash was the last byte of what was fed before
            self._token.append(byte)
            self._at += 1
            self._escaped = False
            return
        body = _STRING_BODY[self._quote].match(self._data, self._at)
        if body is not None and body.end() > self._at:
            self._token += body.group()
            self._at = body.end()
        elif byte == self._quote:
            self._at += 1
            text = self._text()
            self._token = bytearray()
            self._quote = 0
            self._builder.take("string", text)
        elif byte == ord("\\") and self._at + 1 == len(self._data):
            self._token.append(byte)
            self._at += 1
            self._escaped = True
        else:
            wrong = self._data[self._at : self._at + 1]
            if self._escaped:  # the same words as when the backslash and what follows it came in one piece
                self._token.pop()
                wrong = b"\\"
            raise _stray(bytes((self._quote, *self._token[:_SHOWN])) + wrong)

    def _text(self) -> str:
        """The finished string; what is wrong inside it makes the whole value malformed, but not out of step."""
        try:
            raw = self._token.decode()
        except UnicodeDecodeError:
            self._builder.fail("invalid UTF-8 sequence in string")
            return ""
        try:
            return _ESCAPE.sub(_unescape, raw) if "\\" in raw else raw
        except ValueError as error:
            self._builder.fail(str(error))
            return ""

    def _word(self) -> None:
        word = _WORD.match(self._data, self._at)
        if word is not None:
            self._token += word.group()
            self._at = word.end()
            if len(self._token) > _LONGEST_WORD:
                raise _stray(self._token)
            return
        text = self._token.decode()
        self._token = bytearray()
        self._in_word = False
        if text in _KEYWORDS:
            self._builder.take("scalar", _KEYWORDS[text])
            return
        number = _NUMBER.fullmatch(text)
        if number is None:
            if text.isalpha():
                self._builder.fail(f"invalid keyword '{text[:_SHOWN]}'")
                self._builder.take("scalar")
                return
            raise _stray(text.encode())
        self._builder.take("scalar", self._number(text, whole=number[1] is None and number[2] is None))

    def _number(self, text: str, *, whole: bool) -> int | float:
        if whole and len(text) <= _INT64_DIGITS and _INT_LOW <= int(text) <= _INT_HIGH:
            return int(text)
        value = float(text)
        if math.isinf(value):
            self._builder.fail(f"number '{text[:_SHOWN]}' is too large")
        return value

    def _recover(self) -> None:
        reset = _RESET.search(self._data, self._at)
        if reset is None:
            self._at = len(self._data)
            return
        # A structural character begins something new; the others are only marks.
        self._at = reset.end() if reset.group() not in b"[]{}:," else reset.start()
        self._recovering = False


def encode_line(value: Any) -> bytes:
    """``value`` as one line of ASCII JSON ending in CRLF, as QMP sends it."""
    return json.dumps(value, allow_nan=False).encode("ascii") + b"\r\n"


def _stray(raw: bytes | bytearray) -> _Lexical:
    return _Lexical(f"JSON parse error, stray '{bytes(raw[: _SHOWN + 2]).decode(errors='replace')}'")


def _unescape(match: re.Match[str]) -> str:
    what = match[1]
    if what[0] != "u" or len(what) == 1:
        if what not in _SHORT_ESCAPES:
            raise ValueError(f"invalid escape sequence '\\{what}' in string")
        return _SHORT_ESCAPES[what]
    if len(what) > 5:
        return chr(0x10000 + ((int(what[1:5], 16) & 0x3FF) << 10 | int(what[7:11], 16) & 0x3FF))
    code = int(what[1:], 16)
    if 0xD800 <= code < 0xE000:
        raise ValueError(f"\\{what} is not a valid Unicode character")
    return chr(code)
