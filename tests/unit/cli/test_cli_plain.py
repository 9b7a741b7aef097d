"""The quick way to an ordinary run's options: it takes what argparse takes, as argparse does, or leaves it alone."""

from __future__ import annotations

import contextlib
import io
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emu.cli import run
from emu.cli.parser import build_parser
from emu.cli.plain import PlainWords
from emu.errors import UsageError

ORDINARY = [
    "hello",
    "hello --nvdimm file=p.img,size=64M --nvdimm q.img --quiet",
    "--timeout 2.5 --json -m 256M,slots=2 guest.elf --append text",
    "-machine q35,nvdimm=on -object memory-backend-file,id=m -device nvdimm,memdev=m -kernel guest.elf -S -no-reboot",
    "-serial file:out --debugcon stdio -qmp unix:q.sock,server=on --qmp unix:r.sock --incoming unix:m.sock",
    "",
]
NOT_PLAIN = ["--help", "hello --bogus", "hello other", "--timeout=3 hello", "--timeout no hello", "-m", "--append -x",
             "-- hello", "-m64M hello", "--timeou 3 hello", "--serial --quiet"]  # fmt: skip
WORDS = ["hello", "other", "", "a b", "file=x,size=1M", "1.5", "-1", "--", "-", "-m64M", "--json=1", "--help", "=",
         "-x y", "--nvdimm", "-m", "--memory", "-M", "-S", "--quiet", "-kernel", "--timeout", "--incoming", "-qmp",
         "--append", "-no-reboot", "--traceback", "-nographic", "--power-fail-at"]  # fmt: skip


def plain(words: list[str]) -> dict[str, Any] | None:
    parser = PlainWords()
    run.add_arguments(parser)
    options = parser.parse(words)
    return None if options is None else vars(options)


def argparse(words: list[str]) -> dict[str, Any] | None:
    try:
        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            options = vars(build_parser("run").parse_args(["run", *words]))
    except (SystemExit, UsageError):
        return None
    return {name: value for name, value in options.items() if name not in ("verb", "run", "traceback")}


@pytest.mark.parametrize("line", ORDINARY)
def test_an_ordinary_command_line_needs_no_argparse(line: str) -> None:
    assert plain(line.split()) == argparse(line.split()) is not None


@pytest.mark.parametrize("line", NOT_PLAIN)
def test_the_rest_is_left_to_argparse(line: str) -> None:
    assert plain(line.split()) is None


@given(st.lists(st.sampled_from(WORDS), max_size=8))
def test_what_it_takes_is_what_argparse_takes(words: list[str]) -> None:
    assert plain(words) in (None, argparse(words))


def test_defaults_are_not_shared() -> None:
    first = plain(["--nvdimm", "a"])
    second = plain(["--nvdimm", "b"])
    assert first is not None
    assert second is not None
    assert (first["nvdimm"], second["nvdimm"]) == (["a"], ["b"])


def test_a_value_that_is_no_choice_is_left_to_argparse() -> None:
    parser = PlainWords()
    parser.add_argument("--fs", choices=("ext4", "xfs"))
    taken = parser.parse(["--fs", "xfs"])
    assert taken is not None
    assert taken.fs == "xfs"
    assert parser.parse(["--fs", "fat"]) is None


@pytest.mark.parametrize("how", [{"const": "a"}, {"nargs": "*"}, {"action": "count"}])
def test_a_declaration_that_it_does_not_know_is_an_error(how: dict[str, Any]) -> None:
    declare: Any = PlainWords().add_argument
    with pytest.raises(TypeError):
        declare("--option", **how)
