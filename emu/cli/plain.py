"""Takes the words of an ordinary command line by a verb's own declarations, without ``argparse``.

``argparse`` and what it imports cost a start more than finding out what was asked. What is anything but plain here
(help, a mistake, an option joined to its value) is left to it, so it alone decides and says what is wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Container
from types import SimpleNamespace

from emu.hints import Any
from emu.record import NamedTuple


class _Option(NamedTuple):
    dest: str
    action: str
    convert: Callable[[str], Any] | None
    choices: Container[str] | None


class PlainWords:
    """As much of ``argparse.ArgumentParser`` as ``add_arguments`` of a plain verb uses; at most one word is no option.

    A declaration that says more than this knows is a TypeError.
    """

    def __init__(self) -> None:
        self._options: dict[str, _Option] = {}
        self._defaults: dict[str, Any] = {}
        self._word: str | None = None

    def add_argument(
        self,
        *names: str,
        action: str = "store",
        default: Any = None,
        type: Callable[[str], Any] | None = None,  # noqa: A002 - argparse's name
        dest: str | None = None,
        nargs: str | None = None,
        choices: Container[str] | None = None,
        metavar: str | None = None,
        help: str | None = None,  # noqa: A002 - argparse's name
    ) -> None:
        """As argparse's, of which ``metavar`` and ``help`` matter to its help alone."""
        if not names[0].startswith("-"):
            if self._word is not None or nargs != "?":
                raise TypeError(f"{names[0]}: more than one word")
            self._word = names[0]
            self._defaults[names[0]] = default
            return
        if action not in ("store", "store_true", "append") or nargs is not None:
            raise TypeError(f"{names[0]}: not a plain option")
        long = next((name for name in names if name.startswith("--")), names[0])
        dest = dest or long.lstrip("-").replace("-", "_")
        self._defaults[dest] = False if action == "store_true" else default
        self._options.update(dict.fromkeys(names, _Option(dest, action, type, choices)))

    def add_argument_group(self, title: str) -> PlainWords:
        """Groups matter to help alone."""
        return self

    def parse(self, words: list[str]) -> SimpleNamespace | None:
        """What ``argparse`` makes of ``words``, or None when that is for itself to say."""
        found = SimpleNamespace(**self._defaults)
        word_seen = False
        rest = iter(words)
        for word in rest:
            option = self._options.get(word)
            if option is None:
                if word.startswith("-") or word_seen or self._word is None:
                    return None
                word_seen = True
                setattr(found, self._word, word)
            elif option.action == "store_true":
                setattr(found, option.dest, True)
            else:
                value: Any = next(rest, "-")
                if value.startswith("-") or (option.choices is not None and value not in option.choices):
                    return None
                if option.convert is not None:
                    try:
                        value = option.convert(value)
                    except Exception:
                        return None
                before = getattr(found, option.dest)
                setattr(found, option.dest, [*before, value] if option.action == "append" else value)
        return found
