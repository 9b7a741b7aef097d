"""``emu VERB ...``: finds the verb's module, runs it, and turns errors into one or two lines and an exit status.

Each verb is a module with ``add_arguments(parser)`` and ``run(options) -> int``, imported only when asked for, so that
start-up pays for one verb.
"""

from __future__ import annotations

import argparse
import errno
import gc
import importlib
import os
import sys
from typing import NamedTuple, NoReturn

from emu import __version__
from emu.cli.keyval import help_text
from emu.errors import EmuError, HostError, Status


class Verb(NamedTuple):
    """One command; ``module`` is imported only when it is asked for."""

    module: str
    summary: str


VERBS = {
    "run": Verb("emu.cli.run", "boot a guest on a machine with NVDIMMs"),
    "crash": Verb("emu.cli.crash", "cut the power at every point and show what the machine could wake up with"),
    "probe": Verb("emu.cli.probe", "say what a file or directory can promise as an NVDIMM"),
    "label": Verb("emu.cli.label", "read, check and write namespace label areas"),
    "acpi": Verb("emu.cli.acpi", "show or dump the ACPI tables of a machine"),
    "migrate": Verb("emu.cli.migrate", "move a running machine to another emu, or to a file"),
    "demo": Verb("emu.cli.demo", "watch it work"),
    "guests": Verb("emu.cli.guests", "list the bundled guests"),
}

_LONGEST_LINE = 1000
_MEDIUM_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EIO)

_GARBAGE_THRESHOLD = 100_000
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
        self.exit(Status.USAGE, f"emu: {_line(message)}\n     see '{self.prog} --help'\n")


def _line(text: str) -> str:
    """``text`` as one line of bounded length: names of files and words of users may hold anything."""
    line = "".join(character if character.isprintable() else repr(character)[1:-1] for character in text)
    return line if len(line) <= _LONGEST_LINE else line[:_LONGEST_LINE] + "..."


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


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit status and never raises for anything a user can cause."""
    words = sys.argv[1:] if argv is None else argv
    verb = next((word for word in words if word in VERBS), None)
    parser = build_parser(verb)
    try:
        options = parser.parse_args(words)
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else Status.USAGE
    if _help_asked(options):
        return Status.OK
    try:
        status: int = options.run(options)
        if sys.stdout is not None:
            sys.stdout.flush()
    except EmuError as error:
        return _report(error, options.traceback)
    except KeyboardInterrupt:
        print("emu: interrupted", file=sys.stderr)
        return Status.INTERRUPTED
    except BrokenPipeError:
        _drop_output()  # its reader has gone; there is nobody left to tell
        return Status.OK
    except Exception as error:
        if options.traceback:
            raise
        if isinstance(error, OSError) and error.errno in _MEDIUM_FULL and error.filename is None:
            _drop_output()
            full = HostError(f"cannot write the output: {error.strerror}", "send it to a place with room")
            return _report(full, traceback=False)
        print(f"emu: internal error: {type(error).__name__}: {_line(str(error))}", file=sys.stderr)
        print("This is a bug in emu; 'emu ... --traceback' shows where it happened.", file=sys.stderr)
        return Status.BUG
    return status


def _drop_output() -> None:
    """Let what the standard output still holds vanish: at exit Python would try again, and complain."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _help_asked(options: argparse.Namespace) -> bool:
    """Print the table of keys when a key=value option was given as ``help``."""
    if not hasattr(options, "nvdimm"):
        return False
    from emu.cli import options as machine_options

    given = {"--nvdimm": options.nvdimm, "-object": options.object, "-device": options.device,
             "-machine": options.machine, "-m": [options.memory or ""], "-numa": options.numa}  # fmt: skip
    for option, values in given.items():
        if any(value in ("help", "?") or value.endswith((",help", ",?")) for value in values):
            print(help_text(option, machine_options.HELP_TABLES[option]))
            return True
    return False


def _report(error: EmuError, traceback: bool) -> int:
    if traceback:
        raise error
    print(f"emu: {_line(error.what)}", file=sys.stderr)
    if error.remedy:
        print(f"     {_line(error.remedy)}", file=sys.stderr)
    return error.status


def _occupy_standard_streams() -> None:
    """When one of descriptors 0 to 2 is closed, the next file opened, an NVDIMM's for example, would take its place,
    and whatever a library prints would be written into it."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)


def entry() -> None:
    """The ``emu`` command: ``main`` in a process of its own."""
    _occupy_standard_streams()
    # What start-up makes all stays: looking for garbage among it took 5 to 10 % of the time.
    gc.set_threshold(_GARBAGE_THRESHOLD)
    status = main()
    gc.freeze()  # and at the end everything goes at once
    sys.exit(status)


if __name__ == "__main__":
    entry()
