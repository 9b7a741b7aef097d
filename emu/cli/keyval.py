"""QEMU's ``key=value,...`` grammar, typed against a table of known keys.

Grammar: pairs are separated by single commas; ``,,`` inside a value means one comma; the last of equal keys wins; one
leading value without a key is allowed where the option has an implied key; ``help`` or ``?`` asks for the list of keys.
A key may be dotted with a number (``host-nodes.0=1``) to write a list. An option that starts with ``{`` is the same
as JSON.
"""

from __future__ import annotations

import enum
import json
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from emu.errors import UsageError
from emu.units import parse_number, parse_size

_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*(?:\.[0-9]+)?")
_LONGEST = 64 * 1024
_LIST_LIMIT = 1024


class Key(NamedTuple):
    """One known key: how its text becomes a value, what the value looks like to a user, and what it is for."""

    parse: Callable[[str, str], Any]
    shape: str
    summary: str
    listed: bool = False


class HelpAsked(Exception):
    """The option's value was ``help``: the caller prints the table of keys."""


def on_off(text: str, what: str) -> bool:
    if text not in ("on", "off"):
        raise UsageError(f"{what}: '{text[:64]}' is neither 'on' nor 'off'", f"write {what}=on or {what}=off")
    return text == "on"


def size(text: str, what: str) -> int:
    return parse_size(text, what=what)


def number(low: int, high: int) -> Callable[[str, str], int]:
    def parse(text: str, what: str) -> int:
        return parse_number(text, what=what, low=low, high=high)

    return parse


def choice(kind: type[enum.StrEnum]) -> Callable[[str, str], Any]:
    def parse(text: str, what: str) -> Any:
        try:
            return kind(text)
        except ValueError:
            raise UsageError(f"{what}: '{text[:64]}' is not accepted", f"{what} takes {', '.join(kind)}") from None

    return parse


def words(text: str, what: str) -> str:
    if "\0" in text:
        raise UsageError(f"{what}: the value contains a NUL byte", "remove it")
    return text


def split(text: str, *, option: str, implied: str | None = None) -> dict[str, str]:
    """The raw keys and values of ``text`` in order of appearance; UsageError names the ``option`` and the place."""
    if len(text) > _LONGEST:
        raise UsageError(f"{option}: the option is {len(text)} characters long", f"the limit is {_LONGEST}")
    if text.startswith("{"):
        return _from_json(text, option)
    found: dict[str, str] = {}
    position = 0
    first = True
    while position < len(text):
        item, position = _item(text, position)
        key, equals, value = item.partition("=")
        if not equals:
            if item in ("help", "?"):
                raise HelpAsked
            if not (first and implied):
                raise UsageError(
                    f"{option}: expected '=' after parameter '{item[:64]}'", f"write {option} key=value,key=value,..."
                )
            key, value = implied, item
        elif not _KEY.fullmatch(key):
            raise UsageError(f"{option}: '{key[:64]}' is not a valid parameter name", f"try '{option} help'")
        elif value in ("help", "?"):
            raise HelpAsked
        found[key] = value
        first = False
    return found


def _item(text: str, position: int) -> tuple[str, int]:
    """One item from ``position`` to the next single comma, with ``,,`` undone, and where the next item starts."""
    parts: list[str] = []
    while True:
        comma = text.find(",", position)
        if comma < 0:
            return "".join([*parts, text[position:]]), len(text)
        if text.startswith(",,", comma):
            parts.append(text[position : comma + 1])
            position = comma + 2
            continue
        return "".join([*parts, text[position:comma]]), comma + 1


def _from_json(text: str, option: str) -> dict[str, str]:
    try:
        raw = json.loads(text)
    except (ValueError, RecursionError) as exc:
        raise UsageError(f"{option}: not valid JSON: {exc}", "check the quotes; a JSON option is one object") from None
    if not isinstance(raw, dict):
        raise UsageError(f"{option}: the JSON value is not an object", 'write {"key": "value", ...}')
    found: dict[str, str] = {}
    for key, value in raw.items():
        items = [(f"{key}.{n}", item) for n, item in enumerate(value)] if isinstance(value, list) else [(key, value)]
        for name, item in items:
            if not _KEY.fullmatch(name):
                raise UsageError(f"{option}: '{name[:64]}' is not a valid parameter name", f"try '{option} help'")
            if isinstance(item, bool):
                found[name] = "on" if item else "off"
            elif isinstance(item, (int, str)):
                found[name] = str(item)
            else:
                raise UsageError(
                    f"{option}: parameter '{key[:64]}' has an unsupported JSON value", "use a text or number"
                )
    return found


def parse(text: str, keys: Mapping[str, Key], *, option: str, implied: str | None = None) -> dict[str, Any]:
    """Typed values of ``text`` for the known ``keys`` (aliases map to the same Key); unknown keys are UsageErrors."""
    typed: dict[str, Any] = {}
    lists: dict[str, dict[int, Any]] = {}
    for name, value in split(text, option=option, implied=implied).items():
        base, dot, index = name.partition(".")
        key = keys.get(base)
        if key is None or (dot and not key.listed):
            raise UsageError(f"{option}: invalid parameter '{name[:64]}'", f"'{option} help' lists the parameters")
        if key.listed:
            place = int(index) if dot else 0
            if place >= _LIST_LIMIT:
                raise UsageError(f"{option}: '{name[:64]}': list index too large", f"the limit is {_LIST_LIMIT - 1}")
            lists.setdefault(base, {})[place] = key.parse(value, base)
        else:
            typed[base] = key.parse(value, base)
    for base, items in lists.items():
        if sorted(items) != list(range(len(items))):
            raise UsageError(f"{option}: '{base}' has gaps in its list", f"number the items {base}.0, {base}.1, ...")
        typed[base] = tuple(items[n] for n in range(len(items)))
    return typed


def help_text(option: str, keys: Mapping[str, Key]) -> str:
    """The table that ``option help`` prints."""
    width = max(len(name) + len(key.shape) for name, key in keys.items()) + 1
    lines = [f"  {name + '=' + key.shape:<{width}}  {key.summary}" for name, key in keys.items()]
    return "\n".join([f"{option} key=value,...", *lines])
