"""What the parser knows, as data: for completions, the manual page and the generated reference."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping

from emu.cli.keyval import Key
from emu.cli.options import HELP_TABLES
from emu.cli.parser import build_parser, help_text
from emu.cli.verbs import VERBS
from emu.record import NamedTuple


class Option(NamedTuple):
    """One option in all its spellings. ``value`` is what stands for its value, "" where it takes none."""

    names: tuple[str, ...]
    value: str
    choices: tuple[str, ...]
    keys: Mapping[str, Key]
    summary: str
    group: str


class Command(NamedTuple):
    """A verb, or an action of one. ``words`` are what it takes besides options: how it is shown, and what it is."""

    name: str
    summary: str
    description: str
    epilog: str
    words: tuple[tuple[str, str], ...]
    options: tuple[Option, ...]
    actions: tuple[str, ...]


def commands() -> Iterator[Command]:
    """Every verb, each followed by its actions. Imports all of them."""
    for verb, entry in VERBS.items():
        parser = _below(build_parser(verb))[verb]
        yield _command(verb, entry.summary, parser)
        helps = {choice.dest: choice.help or "" for action in _actions(parser) for choice in action._choices_actions}
        for name, action in _below(parser).items():
            yield _command(f"{verb} {name}", helps.get(name, ""), action)


def _actions(parser: argparse.ArgumentParser) -> list[argparse._SubParsersAction[argparse.ArgumentParser]]:
    return [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]


def _below(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    return {name: sub for action in _actions(parser) for name, sub in action.choices.items()}


def _command(name: str, summary: str, parser: argparse.ArgumentParser) -> Command:
    words, options = [], []
    for group in parser._action_groups:
        for action in group._group_actions:
            if action.help == argparse.SUPPRESS or isinstance(action, argparse._SubParsersAction):
                continue
            if action.option_strings:
                options.append(_option(action, group.title or ""))
            else:
                words.append((_shown(action), _help(action)))
    below = tuple(_below(parser))
    return Command(name, summary, parser.description or "", parser.epilog or "", tuple(words), tuple(options), below)


def _option(action: argparse.Action, group: str) -> Option:
    keys = next((HELP_TABLES[name] for name in action.option_strings if name in HELP_TABLES), {})
    choices = tuple(str(choice) for choice in action.choices or ())
    value = "" if action.nargs == 0 else _shown(action)
    return Option(tuple(action.option_strings), value, choices, keys, _help(action), group)


def _shown(action: argparse.Action) -> str:
    if isinstance(action.metavar, str):
        return action.metavar
    return "|".join(str(choice) for choice in action.choices) if action.choices else action.dest.upper()


def _help(action: argparse.Action) -> str:
    return help_text(action).replace("%%", "%")
