"""Options that repeat, out of ``emu.toml`` or ``[tool.emu]`` of ``pyproject.toml`` in the current folder.

A table for each verb, and ``[machine]`` for all that build one; the keys are options without their dashes. What the
command line says wins. Where there is no such file, this costs a look at two names.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from functools import partial

from emu.errors import HostError, UsageError
from emu.hints import TYPE_CHECKING, Any
from emu.record import NamedTuple

if TYPE_CHECKING:
    import argparse

VERBS = ("run", "crash", "migrate")
_MACHINE = "machine"
_FILES = ("emu.toml", "pyproject.toml")
_MARK = b"[tool.emu"
_LARGEST = 1 << 20
_REMEDY = "see https://toml.io, or pass it over with --config none"
_TELLING = 3
"""A part of a value that is longer than this is hardly in a message by chance."""


class Applied(NamedTuple):
    """The words of a command, and those of them that the file ``name`` added."""

    words: list[str]
    name: str = ""
    added: list[str] = []  # noqa: RUF012 - nobody changes it

    def blamed(self, what: str) -> str:
        """The file, as the beginning of a message, if ``what`` is about an option or a value that it added."""
        about = any(map(partial(_is_about, what), self.added))
        return f"{self.name}: " if about and self.name not in what else ""


def _is_about(what: str, word: str) -> bool:
    import re  # a run without a mistake does without

    if word.startswith("-"):
        option, _, value = word.partition("=")
        if re.search(rf"(?<![\w-])--?{re.escape(option.lstrip('-'))}(?![\w-])", what):
            return True
        word = value
    return any(f"'{part}'" in what or (len(part) > _TELLING and part in what) for part in re.split("[,=]", word))


def applied(verb: str, words: list[str]) -> Applied:
    """``words`` of a command with the options that a file adds behind the verb. UsageError for what is wrong in it."""
    if "--help" in words or "-h" in words:
        return Applied(words)
    named = words[words.index("--config") + 1 :][:1] if "--config" in words else []
    name = named[0] if named else next(filter(_counts, _FILES), None)
    if name is None or name == "none":
        return Applied(words)
    tables = _tables(name)
    here = words.index(verb) + 1
    added = _words(name, tables, verb, words[here:])
    return Applied([*words[:here], *added, *words[here:]], name, added)


def _counts(name: str) -> bool:
    if not os.path.isfile(name):  # noqa: PTH113 - pathlib costs a start more than this
        return False
    return name != "pyproject.toml" or _MARK in _read(name)


def _read(name: str) -> bytes:
    from emu.host.inputs import read_whole

    try:
        return read_whole(name, _LARGEST)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        why = getattr(error, "strerror", None) or "not a name of a file"
        raise HostError(f"{name}: {why}", "give another with --config FILE, or --config none") from None


def _tables(name: str) -> Mapping[str, Mapping[str, Any]]:
    import tomllib

    from emu.cli.mistakes import about_value

    try:
        content: dict[str, Any] = tomllib.loads(_read(name).decode())
    except UnicodeDecodeError:
        raise UsageError(f"{name} is not a text in UTF-8", _REMEDY) from None
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{name}: {error}", _REMEDY) from None
    except (ValueError, RecursionError):  # more than 4300 digits; hundreds of brackets
        raise UsageError(f"{name}: a number is too long, or a value nested too deeply", _REMEDY) from None
    if os.path.basename(name) == "pyproject.toml":  # noqa: PTH119 - as above
        tools = content.get("tool")
        content = tools.get("emu", {}) if isinstance(tools, dict) else {}
        if not isinstance(content, dict):
            raise UsageError(f"{name}: tool.emu is not a table", "write [tool.emu.run], and its options below")
    known = (*VERBS, _MACHINE)
    for table, keys in content.items():
        if table not in known:
            raise UsageError(f"{name}: there is no table [{table[:64]}]", about_value(table, known, "it has"))
        if not isinstance(keys, dict):
            raise UsageError(f"{name}: {table} is not a table", f"write [{table}], and its options below")
    return content


def _words(name: str, tables: Mapping[str, Mapping[str, Any]], verb: str, given: list[str]) -> list[str]:
    from emu.cli.mistakes import did_you_mean

    said = {word.partition("=")[0] for word in given} | {word[:2] for word in given if word[:2] != "--"}
    found: dict[str, list[str]] = {}
    for table, owner in ((_MACHINE, None), *((verb, verb) for verb in VERBS)):
        if table not in tables:
            continue
        known = _options(owner)
        for key, value in tables[table].items():
            option = next((option for option in (f"--{key}", f"-{key}") if option in known), None)
            if option is None:
                names = {spelling.lstrip("-") for spelling in known}
                raise UsageError(
                    f"{name}: [{table}] has no option '{key[:64]}'",
                    did_you_mean(key, names, f"'emu help {owner or 'run'}' lists them"),
                )
            spellings = known[option].option_strings
            if owner in (None, verb) and not said.intersection(spellings):
                found[spellings[0]] = list(_as_words(name, table, key, option, known[option], value))
    return [word for words in found.values() for word in words]


def _options(verb: str | None) -> Mapping[str, argparse.Action]:
    """The options of ``verb``, or those that describe a machine."""
    from emu.cli import options
    from emu.cli.parser import Parser, build_parser, verb_parser

    if verb is not None:
        return verb_parser(build_parser(verb), verb).options
    parser = Parser(add_help=False)
    options.add_arguments(parser)
    return parser.options


def _as_words(name: str, table: str, key: str, option: str, action: argparse.Action, value: object) -> Iterator[str]:
    """The words that give ``option`` this value on the command line."""
    many = isinstance(action.default, list)
    for item in value if isinstance(value, list) and many else [value]:
        if action.nargs == 0:
            if not isinstance(item, bool):
                raise UsageError(f"{name}: [{table}] {key} takes no value", f"write {key} = true")
            if item:
                yield option
        elif isinstance(item, bool) or not isinstance(item, str | int | float):
            shape = action.metavar or action.dest.upper()
            several = f', or a list: {key} = ["...", "..."]' if many else ""
            raise UsageError(f"{name}: [{table}] {key} is {shape}", f"write a text or a number{several}")
        elif str(item).startswith("-"):
            yield f"{option}={item}"
        else:
            yield from (option, str(item))
