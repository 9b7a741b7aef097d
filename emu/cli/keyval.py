"""QEMU's ``key=value,...`` grammar, typed against a table of known keys.

Grammar: pairs are separated by single commas; ``,,`` inside a value means one comma; the last of equal keys wins; one
leading value without a key is allowed where the option has an implied key; ``help`` or ``?``, alone or as a value, asks
for the list of keys (``asks_for_help``, before anything is parsed).
A key may be dotted with a number (``host-nodes.0=1``) to write a list. An option that starts with ``{`` is the same
as JSON.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping

from emu.config import OnOffAuto, is_uuid
from emu.enumeration import StrEnum
from emu.errors import UsageError
from emu.hints import Any
from emu.record import NamedTuple
from emu.units import BOOLEANS, parse_number, parse_size

HELP = ("help", "?")
_LONGEST = 64 * 1024
_LIST_LIMIT = 1024


class Key(NamedTuple):
    """One known key: how its text becomes a value, what the value looks like to a user, and what it is for.

    ``default`` is for the reference page, as one would write it; "" where the summary says what happens.
    """

    parse: Callable[[str, str], Any]
    shape: str
    summary: str
    listed: bool = False
    default: str = ""


def on_off(text: str, what: str) -> bool:
    """A boolean in one of QEMU's words."""
    value = BOOLEANS.get(text)
    if value is None:
        raise UsageError(f"{what}: '{text[:64]}' is neither 'on' nor 'off'", f"write {what}=on or {what}=off")
    return value


def on_off_auto(text: str, what: str) -> OnOffAuto:
    """A boolean in QEMU's words, or ``auto``."""
    return OnOffAuto.AUTO if text == "auto" else OnOffAuto.ON if on_off(text, what) else OnOffAuto.OFF


def size(text: str, what: str) -> int:
    return parse_size(text, what=what)


def number(low: int, high: int) -> Callable[[str, str], int]:
    def parse(text: str, what: str) -> int:
        return parse_number(text, what=what, low=low, high=high)

    return parse


def choice(kind: type[StrEnum]) -> Callable[[str, str], Any]:
    def parse(text: str, what: str) -> Any:
        try:
            return kind(text)
        except ValueError:
            from emu.cli import mistakes  # what is right does not pay for it

            remedy = mistakes.about_value(text, list(kind), f"{what} takes")
            raise UsageError(f"{what}: '{text[:64]}' is not accepted", remedy) from None

    return parse


def words(text: str, what: str) -> str:
    if "\0" in text:
        raise UsageError(f"{what}: the value contains a NUL byte", "remove it")
    return text


def uuid(text: str, what: str) -> str:
    if not is_uuid(text):
        raise UsageError(f"{what}: '{text[:64]}' is not a UUID", "write it as 8-4-4-4-12 hexadecimal digits")
    return text


def _is_key(text: str) -> bool:
    """A letter or "_", then letters, digits, "_" and "-", then "." and a number or nothing; all of it ASCII."""
    name, dot, place = text.partition(".")
    is_name = name.replace("-", "_").isidentifier() and not name.startswith("-")
    return text.isascii() and is_name and (place.isdigit() or not dot)


def split(text: str, *, option: str, implied: str | None = None, switches: Collection[str] = ()) -> dict[str, str]:
    """The raw keys and values of ``text`` in order of appearance; UsageError names the ``option`` and the place.

    Of ``switches`` the name alone means on, and with "no" before it off: QEMU's older spelling, which ``-object`` and
    ``-device`` still take.
    """
    if len(text) > _LONGEST:
        raise UsageError(f"{option}: the option is {len(text)} characters long", f"the limit is {_LONGEST}")
    if text.startswith("{"):
        return _from_json(text, option)
    found: dict[str, str] = {}
    for key, value in items(text, implied=implied):
        if value is not None:
            if not _is_key(key):
                raise UsageError(f"{option}: '{key[:64]}' is not a valid parameter name", f"try '{option} help'")
            found[key] = value
        elif key in switches:
            found[key] = "on"
        elif key.startswith("no") and key[2:] in switches:
            found[key[2:]] = "off"
        else:
            raise UsageError(
                f"{option}: expected '=' after parameter '{key[:64]}'", f"write {option} key=value,key=value,..."
            )
    return found


def items(text: str, *, implied: str | None = None) -> Iterator[tuple[str, str | None]]:
    """The keys of ``text`` with their values, None where there is no '='; a first item without one is the value of
    ``implied``."""
    position = 0
    key = implied
    while position < len(text):
        item, position = _item(text, position)
        name, equals, value = item.partition("=")
        if equals:
            yield name, value
        elif key is not None:
            yield key, item
        else:
            yield item, None
        key = None


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
    import json  # here and elsewhere only where it is needed: it costs every start

    try:
        raw = json.loads(text)
    except json.JSONDecodeError as exc:
        what = f"{option}: not valid JSON: {exc.msg} at character {exc.pos + 1}"
        raise UsageError(what, "check the quotes; a JSON option is one object") from None
    except (ValueError, RecursionError):  # more than 4300 digits; hundreds of brackets
        what = f"{option}: a number is too long, or a value nested too deeply"
        raise UsageError(what, "a JSON option is one object of texts and numbers") from None
    if not isinstance(raw, dict):
        raise UsageError(f"{option}: the JSON value is not an object", 'write {"key": "value", ...}')
    found: dict[str, str] = {}
    for key, value in raw.items():
        items = [(f"{key}.{n}", item) for n, item in enumerate(value)] if isinstance(value, list) else [(key, value)]
        for name, item in items:
            if not _is_key(name):
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


def parse(
    text: str, keys: Mapping[str, Key], *, option: str, implied: str | None = None, short: bool = False
) -> dict[str, Any]:
    """Typed values of ``text`` for the known ``keys`` (aliases map to the same Key); unknown keys are UsageErrors.

    With ``short``, a key that is a boolean needs no value (see ``split``).
    """
    switches = [name for name, key in keys.items() if key.parse is on_off or key.parse is on_off_auto] if short else ()
    typed: dict[str, Any] = {}
    lists: dict[str, dict[int, Any]] = {}
    for name, value in split(text, option=option, implied=implied, switches=switches).items():
        base, dot, index = name.partition(".")
        key = keys.get(base)
        if key is None or (dot and not key.listed):
            from emu.cli import mistakes  # what is right does not pay for it

            remedy = mistakes.about_key(base[:64], keys, option)
            raise UsageError(f"{option}: invalid parameter '{name[:64]}'", remedy)
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


def asks_for_help(text: str) -> bool:
    """Whether ``help`` or ``?`` is among the items of ``text`` or their values. Never an error: ``text`` may be wrong
    in any way, which then is what help is for."""
    if text.startswith("{"):
        try:
            return any(value in HELP for value in _from_json(text, "").values())
        except UsageError:
            return False
    return any(key in HELP if value is None else value in HELP for key, value in items(text))
