"""``emu VERB ...``: finds the verb's module, runs it, and turns errors into one or two lines and an exit status.

Each verb is a module with ``add_arguments(parser)`` and ``run(options) -> int``, imported only when asked for, so that
start-up pays for one verb.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from typing import NamedTuple, NoReturn

from emu import __version__
from emu.cli import output, signals
from emu.errors import EmuError, HostError, Status


class Verb(NamedTuple):
    """One command; ``module`` is imported only when it is asked for."""

    module: str
    summary: str


VERBS = {
    "run": Verb("emu.cli.run", "boot a guest on a machine with NVDIMMs"),
    "crash": Verb("emu.cli.crash", "cut the power at every point and show what the machine could wake up with"),
    "crash diff": Verb("emu.cli.crash_diff", "compare what two runs of 'emu crash' found"),
    "probe": Verb("emu.cli.probe", "say what a file or directory can promise as an NVDIMM"),
    "label": Verb("emu.cli.label", "read, check and write namespace label areas"),
    "acpi": Verb("emu.cli.acpi", "show or dump the ACPI tables of a machine"),
    "migrate": Verb("emu.cli.migrate", "move a running machine to another emu, or to a file"),
    "demo": Verb("emu.cli.demo", "watch it work"),
    "guests": Verb("emu.cli.guests", "list the bundled guests"),
}

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


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit status and never raises for anything a user can cause."""
    words = sys.argv[1:] if argv is None else argv
    with signals.interruptible():
        try:
            status = _run(words)
            signals.settle()
        except KeyboardInterrupt:
            output.note("emu: interrupted")
            status = Status.INTERRUPTED
        failure = output.standard_output_failure()
    if failure is not None:
        lost = HostError(f"cannot write the output: {failure.strerror}", "send it to a place with room")
        # A verdict stays what it is; but success is more than can be said of words that did not arrive.
        failed = _report(lost, traceback=False)
        status = failed if status == Status.OK else status
    return status


def _run(words: list[str]) -> int:
    if " ".join(words[:2]) in VERBS:  # a verb of two words
        words = [" ".join(words[:2]), *words[2:]]
    verb = next((word for word in words if word in VERBS), None)
    traceback = "--traceback" in words
    try:
        options = build_parser(verb).parse_args(words)
        if _help_asked(options):
            return Status.OK
        options.words = words
        status: int = options.run(options)
    except SystemExit as stop:  # argparse has said what it wanted to say
        return stop.code if isinstance(stop.code, int) else Status.USAGE
    except EmuError as error:
        signals.settle()  # what was interrupted may fail in its own words
        return _report(error, traceback)
    except MemoryError:
        return _report(HostError("the host gives emu no more memory", "raise its limit ('ulimit -v')"), traceback)
    except ImportError as error:
        what = f"a part of emu cannot be loaded: {error}"
        return _report(HostError(what, "raise the limit on memory ('ulimit -v'), or install emu again"), traceback)
    except Exception as error:
        if isinstance(error.__cause__, KeyboardInterrupt):  # raised while a class was made (__set_name__)
            raise KeyboardInterrupt from error
        if traceback:
            raise
        output.note(f"emu: internal error: {type(error).__name__}: {error}")
        output.note("This is a bug in emu; 'emu ... --traceback' shows where it happened.")
        return Status.BUG
    return status


def _help_asked(options: argparse.Namespace) -> bool:
    """Answer when an option that describes the machine was given ``help``, alone or among its keys."""
    if not hasattr(options, "nvdimm"):
        return False
    from emu.cli.machine_help import answer

    text = answer(options)
    if text is not None:
        print(text)
    return text is not None


def _report(error: EmuError, traceback: bool) -> int:
    if traceback:
        raise error
    output.note(f"emu: {error.what}")
    if error.remedy:
        output.note(f"     {error.remedy}")
    return error.status


if __name__ == "__main__":
    from emu.cli.start import entry

    entry()
