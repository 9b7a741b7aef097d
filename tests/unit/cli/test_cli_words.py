"""Any words at all: the answer is one or two lines of emu's own; no traceback, no bug, no words of Python's."""

from __future__ import annotations

import random
import re
from argparse import Action
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import NoReturn

import pytest

import emu.api.crashes
import emu.board
import emu.persistence.lab.powerfail
from emu.cli import linux
from emu.cli.main import main
from emu.cli.options import HELP_TABLES
from emu.cli.parser import build_parser, verb_parser
from emu.errors import EmuError, Status
from tests.fuzzing import times

PYTHONS = re.compile(
    r"Traceback|internal error|could not convert|invalid literal|float\(|int\(|<\w+[.:] |<\w+ object|NoneType|codec"
    r"|has no attribute|\[Errno|unhashable|argument -|expected str|object is|null byte|\b[A-Z][a-z]+Error\b|list index"
    r"|to unpack|surrogate|isinstance|\b[A-Z]\w+\.[A-Z_]{2,}\b|usage:"
)
VERBS = [*["run"] * 6, *["crash"] * 5, "crash diff", "debug", "probe", "acpi show", "acpi dump", "migrate", "guests",
         "completion", "help", "label init", "label read", "label check", "label write", "label zero",
         "label create-namespace"]  # fmt: skip
NEVER = ("-h", "--help", "--traceback", "-o", "--output")
IMAGES = ["hello", "commit-noflush", "linux", "present", "empty", "absent"]
WORDS = [
    "", "0", "1", "-1", "1.5", "nan", "inf", "-inf", "1e400", "0x10", "0x", "08", "+5", "1_000", "٣", "²", "9" * 30,
    "9" * 5000, "---", "on", "off", "auto", "none", "all", "random:", "random:1", "random:x", "text.json", "present",
    "empty", "/", "/dev/null", ".", "absent", "absent/x", "\udcff", "é", "\n", "\x1b[31m", "a b", "'", "%s", "{}",
    "0:", "0:8", "8:0", ":", "0:99999999", "0=struct x", "begin:1", "begin:x", "done:", "unix:", "unix:x", "tcp:",
    "tcp:1:2:3", "tcp:h:99999", ":1", ":99999", "file:", "fd:x", "exec:cat", "stdio", "size=2M", "file=present",
    "size=-1", "size=1e3", "size=9999999T", "x" * 70000, "k=v," * 3000, ",,,,", "q35,nvdimm=on",
    "memory-backend-file,id=m,mem-path=present,size=1M", "memory-backend-x", "nvdimm,memdev=m", "nvdimm",
    "isa-debug-exit,iobase=0xf4", "node,nodeid=9999", "node,nodeid=x", "256M,slots=2,maxmem=2G", "64M,slots=-1", "64K",
    "999999T", "ext4", "program", "1/2", "é=1",
]  # fmt: skip
KEYS = [key for keys in HELP_TABLES.values() for key in keys]
BEGINNINGS = ("file=present,", "size=2M,", "", "memory-backend-file,id=m,mem-path=present,", "nvdimm,memdev=m,", "q35,")


class Enough(EmuError):
    """The words have been understood; what they ask for is not done here."""

    status = Status.INTERRUPTED


def enough(*_: object, **__: object) -> NoReturn:
    raise Enough("understood")


@pytest.fixture(autouse=True)
def _nothing_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("present").write_bytes(bytes(1 << 20))
    Path("empty").touch()
    Path("text.json").write_text('{"a": 1}')
    monkeypatch.setattr(emu.board, "build", enough)
    monkeypatch.setattr(emu.api.crashes, "investigated", enough)
    monkeypatch.setattr(emu.persistence.lab.powerfail, "memory_after", enough)
    monkeypatch.setattr(linux, "prepare", enough)


def value(draw: random.Random) -> str:
    """A word for an option: anything, or keys of any option with any values."""
    if draw.random() < 0.35:
        pairs = [f"{draw.choice(KEYS)}={draw.choice(WORDS)[:200]}" for _ in range(draw.randint(1, 4))]
        return draw.choice(BEGINNINGS) + ",".join(pairs)
    word = draw.choice(WORDS)
    if word and draw.random() < 0.1:
        at = draw.randrange(len(word))
        return word[:at] + draw.choice(["é", "-", ",", "=", "\udc80"]) + word[at:]
    return word


@cache
def options_of(path: str) -> Mapping[str, Action]:
    """Those of a verb, or of an action of it."""
    verb, *action = [path] if path == "crash diff" else path.split()
    parser = build_parser(verb)
    for name in (verb, *action):
        parser = verb_parser(parser, name)
    return parser.options


def command(draw: random.Random) -> Iterator[str]:
    path = draw.choice(VERBS)
    options = options_of(path)
    yield from path.split()
    if draw.random() < 0.8:
        yield draw.choice(IMAGES) if draw.random() < 0.8 else value(draw)
    names = sorted(name for name in options if name not in NEVER)
    for _ in range(draw.randint(0, 4) if names else 0):
        option = draw.choice(names)
        takes = options[option].nargs != 0
        if draw.random() < 0.05:
            option = option[:-1] + draw.choice("xyz")
        if takes and draw.random() < 0.2:
            yield f"{option}={value(draw)}"
        else:
            yield option
            if takes:
                yield value(draw)
    if path in ("run", "crash", "debug") and draw.random() < 0.3:
        yield from ("--nvdimm", draw.choice(["file=present", "file=new,size=2M"]))


@pytest.mark.fuzz
@pytest.mark.parametrize("seed", range(4))
def test_any_words_are_answered(seed: int, capfd: pytest.CaptureFixture[str]) -> None:
    draw = random.Random(seed)
    understood = 0
    for _ in range(times(60)):
        words = list(command(draw))
        status = main(words)
        said = capfd.readouterr().err
        shown = ([word[:100] for word in words], said[:1000])
        assert not PYTHONS.search(said), shown
        assert status in (Status.OK, Status.USAGE, Status.HOST, Enough.status), shown
        lines = said.splitlines()
        # A check's findings, such as those of `emu label check -j`, are its answer.
        assert len(lines) <= 2, shown
        assert all(line.startswith(("emu: ", "     ")) and len(line) < 1100 for line in lines), shown
        understood += status == Enough.status
    assert understood > 0
    assert not Path("new").exists()
