"""The parser of ``emu`` as argparse: help, and what is wrong with words."""

from __future__ import annotations

import argparse
import importlib
import os
import re
from collections.abc import Mapping
from itertools import chain, groupby

from emu import __version__
from emu.cli import defaults
from emu.cli.verbs import VERBS
from emu.errors import UsageError
from emu.hints import Any, NoReturn

_NEGATIVE = re.compile(r"-\d+|-\d*\.\d+")  # argparse takes such words for values
_SHOWN = 64
_REMARK = re.compile(r"( +\S.*?) {2,}(\S.*)")  # of an example in help
_BELOW = " " * 6

_EPILOG = """\
examples:
  emu run hello --nvdimm file=pmem.img,size=64M        boot the bundled guest 'hello' on an NVDIMM file
  emu run guest.bin --nvdimm file=pmem.img,sync=on     insist on a MAP_SYNC mapping
  emu crash commit-noflush --nvdimm file=pool.img,size=2M
  emu probe /mnt/pmem                                  can files there be mapped with MAP_SYNC?
  emu VERB --help                                      every verb has its own page
"""


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Finds the terminal's width itself: ``argparse`` imports ``shutil`` for it, with all its archive formats."""

    def __init__(self, prog: str, width: int | None = None) -> None:
        super().__init__(prog, width=width or _terminal_width() - 2)

    def _get_help_string(self, action: argparse.Action) -> str:
        return help_text(action)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        """Descriptions and what stands below the options: prose is filled, examples, which are indented, stay lines."""
        import textwrap

        lines: list[str] = []
        for is_prose, block in groupby(text.rstrip().splitlines(), lambda line: bool(line) and line[0] != " "):
            rows = list(block)
            lines += (
                textwrap.wrap(" ".join(rows), width) if is_prose else chain(*(_example(row, width) for row in rows))
            )
        return "\n".join(indent + line for line in lines)

    def _format_action_invocation(self, action: argparse.Action) -> str:
        """An option's spellings, and its value once: ``-m, --memory SIZE``."""
        if not action.option_strings or action.nargs == 0:
            return super()._format_action_invocation(action)
        value = self._format_args(action, self._get_default_metavar_for_optional(action))
        return f"{', '.join(action.option_strings)} {value}"


def _example(line: str, width: int) -> list[str]:
    """A command, which stays whole, to be copied, and the remark beside it, which goes below where there is no room."""
    found = _REMARK.match(line)
    if len(line) <= width or not found:
        return [line]
    import textwrap

    return [found[1], *textwrap.wrap(found[2], width, initial_indent=_BELOW, subsequent_indent=_BELOW)]


def help_text(action: argparse.Action) -> str:
    """An option's help with its default, where it has one that the help does not tell."""
    told = action.help or ""
    shows = action.option_strings and action.nargs != 0 and action.default not in (None, [], argparse.SUPPRESS, "")
    default = f"{action.default:g}" if isinstance(action.default, float) else action.default
    return f"{told} (default {default})" if shows and told and "default" not in told else told


def _terminal_width() -> int:
    """Columns of the terminal: ``COLUMNS`` when it is a number above 0, else what the terminal says, else 80."""
    columns = os.environ.get("COLUMNS", "")
    if columns.isdecimal() and int(columns[:5]) > 0:
        return int(columns[:5])
    try:
        return os.get_terminal_size(1).columns or 80
    except OSError:
        return 80


class Parser(argparse.ArgumentParser):
    """Says what is wrong with the words in emu's own, as UsageError: in two lines, not under a page of usage."""

    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self.register("type", int, _whole_number)
        self.register("type", float, _plain_number)

    @property
    def options(self) -> Mapping[str, argparse.Action]:
        """Every spelling of every option."""
        return self._option_string_actions

    def parse_known_args(  # type: ignore[override]  # what is declared there are overloads
        self, args: Any = None, namespace: Any = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """As argparse's, but for options that there are not: it would take ``-monitor`` for ``-m onitor``, and
        ``-seri`` for ``-serial``."""
        before = ""
        for word in args or ():
            if word == "--" or self._is_verb(word):
                break
            if self._is_unknown_option(word):
                option = word.partition("=")[0][:_SHOWN]
                remedy = mistakes().about_option(option, self.options, self.prog)
                if before in self.options and self.options[before].nargs != 0:
                    remedy = f"if it is the value of {before}, write {before}={word[:_SHOWN]}; {remedy}"
                raise UsageError(f"{option} is not an option of '{self.prog}'", remedy)
            before = word
        return super().parse_known_args(args, namespace)

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse's, which has no use for words that are left over either."""
        options, left = self.parse_known_args(args, namespace)
        if left:
            verb = f"emu {getattr(options, 'verb', '')}".strip()
            raise UsageError(f"'{left[0][:_SHOWN]}' is one word too many", f"'{verb} --help' says what it takes")
        return options

    def _is_verb(self, word: str) -> bool:
        """From this word on another parser's words follow."""
        return any(isinstance(a, argparse._SubParsersAction) and word in a.choices for a in self._actions)

    def _is_unknown_option(self, word: str) -> bool:
        if len(word) < 2 or word[0] != "-" or " " in word or _NEGATIVE.fullmatch(word):
            return False
        if word.partition("=")[0] in self.options:
            return False
        if word.startswith("--") or word[:2] not in self.options:
            return True
        # A value, or another letter, joined to an option of one letter; where QEMU's long options have one dash, too,
        # only a number can be meant.
        return word[2].isalpha() and any(len(name) > 2 and name[1] != "-" for name in self.options)

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is None or value in action.choices:
            return
        choices, word = [str(choice) for choice in action.choices], str(value)[:_SHOWN]
        if isinstance(action, argparse._SubParsersAction):
            what, see = "a verb" if self.prog == "emu" else f"an action of '{self.prog}'", f"'{self.prog} --help'"
            raise UsageError(f"'{word}' is not {what}", mistakes().did_you_mean(word, choices, f"{see} lists them"))
        name = action.option_strings[0] if action.option_strings else str(action.metavar or action.dest)
        raise UsageError(f"{name}: '{word}' is not accepted", mistakes().about_value(word, choices, f"{name} takes"))

    def error(self, message: str) -> NoReturn:
        required = message.removeprefix("the following arguments are required: ")
        if required != message:
            raise UsageError(f"{required} is missing", f"see '{self.prog} --help'")
        said = message.removeprefix("argument ").replace("not allowed with argument", "does not go with")
        said = re.sub(r"ignored explicit argument .*", "takes no value", said)
        raise UsageError(said.replace("expected one argument", "a value is missing"), f"see '{self.prog} --help'")


def mistakes() -> Any:
    """What speaks about mistakes: words that are right do not need it."""
    return importlib.import_module("emu.cli.mistakes")


def _whole_number(text: str) -> int:
    if not re.fullmatch(r"[+-]?[0-9]{1,18}", text):
        raise argparse.ArgumentTypeError(f"'{text[:_SHOWN]}' is not a whole number")
    return int(text)


def _plain_number(text: str) -> float:
    if not re.fullmatch(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,3})?", text):
        raise argparse.ArgumentTypeError(f"'{text[:_SHOWN]}' is not a number")
    return float(text)


def build_parser(verb: str | None = None) -> Parser:
    """The parser of ``emu``; with ``verb``, that verb's arguments are filled in (its module is imported)."""
    parser = Parser(
        prog="emu",
        description="A mini x86-64 machine with a virtual NVDIMM, and a crash-consistency laboratory.",
        epilog=_EPILOG,
        formatter_class=HelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"emu {__version__}")
    commands = parser.add_subparsers(dest="verb", metavar="VERB", required=True, prog="emu")
    for name, entry in VERBS.items():
        if verb is not None and name != verb:
            commands.add_parser(name, help=entry.summary, add_help=False)
            continue
        module = importlib.import_module(entry.module) if verb else None
        sub = commands.add_parser(
            name,
            help=entry.summary,
            description=(module.__doc__ or "").strip() if module else entry.summary,
            epilog=getattr(module, "EPILOG", None),
            formatter_class=HelpFormatter,
            allow_abbrev=False,
        )
        sub.add_argument("--traceback", action="store_true", help="show the Python traceback of an error")
        if name in defaults.VERBS:
            sub.add_argument("--config", metavar="FILE|none",
                             help="options that repeat (default: emu.toml, or pyproject.toml)")  # fmt: skip
        if module:
            module.add_arguments(sub)
            sub.set_defaults(run=module.run)
    return parser


def verb_parser(parser: Parser, name: str) -> Parser:
    """The parser of a verb, or of an action, below ``parser``."""
    for actions in parser._actions:
        if isinstance(actions, argparse._SubParsersAction) and name in actions.choices:
            found: Parser = actions.choices[name]
            return found
    raise KeyError(name)


def print_help(words: list[str]) -> None:
    """Print what ``emu WORDS --help`` prints. UsageError for words that are no verb, or no action of it."""
    if " ".join(words) in VERBS:  # a verb may have two words
        words = [" ".join(words)]
    parser: argparse.ArgumentParser = build_parser(words[0] if words and words[0] in VERBS else None)
    for word in words:
        actions = next((a for a in parser._actions if isinstance(a, argparse._SubParsersAction)), None)
        if actions is None:
            raise UsageError(f"'{parser.prog}' has no '{word[:_SHOWN]}'", f"'{parser.prog} --help' says what it has")
        parser._check_value(actions, word)
        parser = actions.choices[word]
    parser.print_help()
