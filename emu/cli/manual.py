"""The manual page emu(1), written from the parser (`python docs/generate.py`); wheels install it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from emu import __version__
from emu.cli.options import HELP_TABLES
from emu.cli.surface import Command, Option

_MACHINE = "machine"
"""The first of the groups of options that describe a machine: the same for several verbs, so said once."""


def page(known: Iterable[Command]) -> str:
    """The page in man(7)'s macros. Commands share the options that describe a machine."""
    known = list(known)
    shared = {option.names for option in _machine_options(known)}
    lines = [
        f'.TH EMU 1 "" "emu {__version__}" "User Commands"',
        ".SH NAME",
        _text("emu - a mini x86-64 machine with a virtual NVDIMM, and a crash-consistency laboratory"),
        ".SH SYNOPSIS",
        *(_synopsis(command) for command in known if not command.actions),
        ".SH COMMANDS",
    ]
    for command in known:
        lines += [f".SS {_text(f'emu {command.name}')}", *_paragraphs(command.description or command.summary)]
        lines += [line for word, what in command.words for line in (".TP", rf"\fI{_text(word)}\fR", _text(what))]
        lines += [line for option in command.options if option.names not in shared for line in _option(option)]
        if shared & {option.names for option in command.options}:
            lines += [".PP", "And the options that describe a machine, below."]
        if command.epilog:
            lines += [".PP", ".nf", *map(_verbatim, command.epilog.rstrip().splitlines()), ".fi"]
    lines += [".SH THE MACHINE", *(line for option in _machine_options(known) for line in _option(option))]
    for name, keys in HELP_TABLES.items():
        lines.append(f".SS {_text(f'Keys of {name}')}")
        for key, what in keys.items():
            default = f" (default {what.default})" if what.default else ""
            lines += [".TP", rf"\fB{_text(key)}\fR=\fI{_text(what.shape)}\fR", _text(f"{what.summary}{default}")]
    lines += [".SH SEE ALSO", r"\fBqemu\fR(1), \fBndctl\fR(1), \fBgdb\fR(1)"]
    return "\n".join(lines) + "\n"


def _machine_options(known: Iterable[Command]) -> list[Option]:
    """Those behind the first group of the machine, of a verb that has it."""
    run = next(command for command in known if command.name == "run")
    groups = list(dict.fromkeys(option.group for option in run.options))
    later = groups[groups.index(_MACHINE) :]
    return [option for option in run.options if option.group in later]


def _synopsis(command: Command) -> str:
    words = "".join(rf" \fI{_text(word)}\fR" for word, _ in command.words)
    return rf"\fBemu {_text(command.name)}\fR [options]{words}" + "\n.br"


def _option(option: Option) -> Iterator[str]:
    yield ".TP"
    value = rf" \fI{_text(option.value)}\fR" if option.value else ""
    yield ", ".join(rf"\fB{_text(name)}\fR" for name in option.names) + value
    yield _text(option.summary or "accepted as in QEMU")


def _paragraphs(text: str) -> Iterator[str]:
    for paragraph in re.split(r"\n\s*\n", text.strip()):
        yield from (".PP", _text(" ".join(paragraph.split())))


def _text(text: str) -> str:
    """``text`` where roff sees nothing but text."""
    escaped = text.replace("\\", r"\e").replace("-", r"\-").replace("`", "")
    return rf"\&{escaped}" if escaped.startswith((".", "'")) else escaped


def _verbatim(line: str) -> str:
    return _text(line) if line else r"\&"
