"""``emu VERB ...``: finds the verb's module, runs it, and turns errors into one or two lines and an exit status."""

from __future__ import annotations

import errno
import os
import sys

from emu.cli import defaults, output, signals
from emu.cli.verbs import VERBS
from emu.errors import EmuError, HostError, Status
from emu.hints import Any


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
    given = defaults.Applied(words)
    try:
        if verb in defaults.VERBS:
            given = defaults.applied(verb, words)
            words = given.words
        options = _plain(words) or _parse(verb, words)
        if _help_asked(options):
            return Status.OK
        options.words, options.defaults = words, given.name
        status: int = options.run(options)
    except SystemExit as stop:  # argparse has said what it wanted to say
        return stop.code if isinstance(stop.code, int) else Status.USAGE
    except EmuError as error:
        signals.settle()  # what was interrupted may fail in its own words
        return _report(error, traceback, given.blamed(error.what))
    except MemoryError:
        return _report(HostError("the host gives emu no more memory", "raise its limit ('ulimit -v')"), traceback)
    except ImportError as error:
        return _report(_cannot_load(error), traceback)
    except Exception as error:
        if isinstance(error.__cause__, KeyboardInterrupt):  # raised while a class was made (__set_name__)
            raise KeyboardInterrupt from error
        scarce = _scarce(error)
        if scarce is not None:
            return _report(scarce, traceback)
        if traceback:
            raise
        output.note(f"emu: internal error: {type(error).__name__}: {error}")
        output.note("This is a bug in emu; 'emu ... --traceback' shows where it happened.")
        return Status.BUG
    return status


def _plain(words: list[str]) -> Any:
    """The options of an ordinary run, which shall start at once; None when it takes more to understand ``words``."""
    if words[:1] != ["run"]:
        return None
    from emu.cli import run
    from emu.cli.plain import PlainWords

    plain = PlainWords()
    run.add_arguments(plain)
    options = plain.parse(words[1:])
    if options is not None:
        options.run = run.run
    return options


def _parse(verb: str | None, words: list[str]) -> Any:
    from emu.cli.parser import build_parser

    return build_parser(verb).parse_args(words)


def _scarce(error: Exception) -> HostError | None:
    """What the host does not have, or gives no more of, where the system calls of Python's own modules say so."""
    match error:
        case OSError(errno=errno.EMFILE):
            return HostError("the host lets emu open no more files", "raise its limit ('ulimit -n')")
        case OSError(errno=errno.ENFILE):
            return HostError("the host has too many open files", "end other programs, or raise fs.file-max")
        case OSError(errno=errno.ENOMEM):
            return HostError("the host gives emu no more memory", "raise its limit ('ulimit -v')")
        case OSError(errno=errno.EFBIG):
            return HostError("the host lets emu write no larger file", "raise its limit ('ulimit -f')")
        case FileNotFoundError() if _folder_is_gone():
            return HostError("the working directory was removed", "change to another one, or give absolute paths")
    return None


def _folder_is_gone() -> bool:
    try:
        os.getcwd()  # noqa: PTH109 - pathlib is a tenth of what a start imports
    except FileNotFoundError:
        return True
    return False


def _cannot_load(error: ImportError) -> HostError:
    remedy = "raise the limit on memory ('ulimit -v'), or install emu again"
    if "GLIBC_" in str(error):
        remedy = "this wheel was built for a newer system: install emu's source archive instead (docs: Install)"
    return HostError(f"a part of emu cannot be loaded: {error}", remedy)


def _help_asked(options: Any) -> bool:
    """Answer when an option that describes the machine was given ``help``, alone or among its keys."""
    if not hasattr(options, "nvdimm"):
        return False
    from emu.cli.machine_help import answer

    text = answer(options)
    if text is not None:
        for row in text.splitlines():
            output.row(row)
    return text is not None


def _report(error: EmuError, traceback: bool, source: str = "") -> int:
    """``source`` is where the words came from that are wrong, if not from the command line."""
    if traceback:
        raise error
    output.note(f"emu: {source}{error.what}")
    if error.remedy:
        output.note(f"     {error.remedy}")
    return error.status


if __name__ == "__main__":
    from emu.cli.start import entry

    entry()
