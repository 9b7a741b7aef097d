"""The parser of ``emu`` as argparse: help, and what is wrong with words."""

from __future__ import annotations

import argparse
import importlib
import os
from typing import NoReturn

from emu import __version__
from emu.cli import output
from emu.cli.verbs import VERBS
from emu.errors import Status

_EPILOG = """\
examples:
  emu run hello --nvdimm file=pmem.img,size=64M        boot the bundled guest 'hello' on an NVDIMM file
  emu run guest.bin --nvdimm file=pmem.img,sync=on     insist on a MAP_SYNC mapping
  emu crash commit-noflush --nvdimm file=pool.img,size=2M
  emu probe /mnt/pmem                                  can files there be mapped with MAP_SYNC?
  emu VERB --help                                      every verb has its own page
"""


class _HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Finds the terminal's width itself: ``argparse`` imports ``shutil`` for it, with all its archive formats."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, width=_terminal_width() - 2)


def _terminal_width() -> int:
    """Columns of the terminal: ``COLUMNS`` when it is a number above 0, else what the terminal says, else 80."""
    columns = os.environ.get("COLUMNS", "")
    if columns.isdecimal() and int(columns[:5]) > 0:
        return int(columns[:5])
    try:
        return os.get_terminal_size(1).columns or 80
    except OSError:
        return 80


class _Parser(argparse.ArgumentParser):
    """Says what is wrong with the words in two lines, not under a page of usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(Status.USAGE, f"emu: {output.line(message)}\n     see '{self.prog} --help'\n")


def build_parser(verb: str | None = None) -> argparse.ArgumentParser:
    """The parser of ``emu``; with ``verb``, that verb's arguments are filled in (its module is imported)."""
    parser = _Parser(
        prog="emu",
        description="A mini x86-64 machine with a virtual NVDIMM, and a crash-consistency laboratory.",
        epilog=_EPILOG,
        formatter_class=_HelpFormatter,
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
            formatter_class=_HelpFormatter,
            allow_abbrev=False,
        )
        sub.add_argument("--traceback", action="store_true", help="show the Python traceback of an error")
        if module:
            module.add_arguments(sub)
            sub.set_defaults(run=module.run)
    return parser
