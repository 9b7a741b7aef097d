"""Begin a project: a program on persistent memory with a planted bug, its crash test, and what CI needs.

The README in the new folder says what to do with it: find the bug, mend it, see the test pass, and put your own
program in its place.
"""

from __future__ import annotations

import argparse
import keyword
import re
import shutil
import tempfile
from pathlib import Path

from emu.cli import output
from emu.errors import HostError, UsageError

EPILOG = """\
examples:
  emu new ledger && cd ledger && make
  emu new flag --asm
  emu new journal --linux
"""

_PROJECTS = Path(__file__).with_name("projects")
_SOURCES = {"c": ".c", "asm": ".S", "linux": ".c"}
_FOLDERS = {"c": ("both", "c"), "asm": ("both", "asm"), "linux": ("both", "c", "linux")}
"""Where a kind's files come from; a later one takes the place of one before."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="the folder to make; its last part names the program")
    kinds = parser.add_mutually_exclusive_group()
    kinds.add_argument("--c", dest="kind", action="store_const", const="c", help="a program in C (the default)")
    kinds.add_argument("--asm", dest="kind", action="store_const", const="asm", help="a program in assembly")
    kinds.add_argument(
        "--linux",
        dest="kind",
        action="store_const",
        const="linux",
        help="the same in C for Linux, with its libpmem",
    )
    parser.set_defaults(kind="c")


def run(options: argparse.Namespace) -> int:
    folder = Path(options.name)
    name = folder.name
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]{0,63}", name):
        raise UsageError(
            f"{output.line(name)!r} cannot be the name of a program", "letters, digits, - and _, a letter first"
        )
    if folder.exists() or folder.is_symlink():
        raise UsageError(f"{folder} exists already", "give another name; nothing is written over")
    module = name.replace("-", "_")
    if keyword.iskeyword(module):
        module += "_"
    words = {"NAME": name, "SOURCE": name + _SOURCES[options.kind], "MODULE": module}
    try:
        _make(folder, [_PROJECTS / source for source in _FOLDERS[options.kind]], words)
    except OSError as error:
        raise HostError(f"cannot make {folder}: {error.strerror}", "choose a folder that you may write to") from None
    output.say(f"{folder}: a program with a planted bug, and its crash test")
    output.say(f"next: cd {folder} && make crash, then read README.md")
    return 0


def _make(folder: Path, sources: list[Path], words: dict[str, str]) -> None:
    """The whole folder or nothing of it."""
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as made:
        for source in sources:
            files = (path for path in source.rglob("*") if path.is_file() and path.suffix != ".pyc")
            for file in sorted(files):
                target = Path(made, "project", _filled(str(file.relative_to(source)), words))
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_text(_filled(file.read_text(encoding="utf-8"), words), encoding="utf-8")
        shutil.move(Path(made, "project"), folder)


def _filled(text: str, words: dict[str, str]) -> str:
    return re.sub(r"\b(NAME|SOURCE|MODULE)\b|(?<=test_)MODULE", lambda found: words[found[0]], text)
