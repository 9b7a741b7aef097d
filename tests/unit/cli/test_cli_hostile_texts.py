"""Texts that Python's own readers refuse: emu says what is wrong in its words, not in those of an exception."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from emu.cli.main import main

DEEP = b"[" * 20_000 + b"]" * 20_000
LONG = b"1" * 5_000
TEXTS = {
    "empty": b"",
    "no UTF-8": b"a = '\xff'",
    "deep": b"a = " + DEEP,
    "deep alone": DEEP,
    "a long number": b"[run]\ntimeout = " + LONG,
    "a long number alone": LONG,
    "a zero byte": b"a\0 = 1",
    "cut short": b'{"schema": "emu.crash/1", "failures": [',
    "no number": b'{"schema": NaN}',
    "a half of a character": b'{"schema": "\\ud800"}',
    "an escape": b'["\\u001b[31m"]\n"\x1b[31m',
    "one long line": b"x" * 100_000,
}
PLACES = (
    "run guest -serial none --config TEXT",
    "crash guest --nvdimm file=pool --suppress TEXT",
    "crash guest --nvdimm file=pool --baseline TEXT",
    "crash guest --nvdimm file=pool --resume TEXT",
    "crash diff TEXT TEXT",
    "learn --lessons TEXT",
)
PYTHONS = re.compile(
    r"Error|Errno|codec|recursion|set_int_max|digits|\(char \d|line \d+ column|NoneType|object has|embedded"
)
"""What words of Python's look like."""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("guest").write_bytes(b"\xf4")
    with Path("pool").open("wb") as pool:
        pool.truncate(2 << 20)


def checked(words: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    status = main(words)
    out, err = capfd.readouterr()
    if status in (0, 12):  # an empty text, and one of comments, allow what they are given for
        return
    assert status in (2, 4), (words, status, err)
    assert out == ""
    assert 1 <= len(err.splitlines()) <= 2, err[:2000]
    assert not PYTHONS.search(err), err[:2000]
    assert len(err) < 1000, err[:2000]
    assert "\x1b" not in err


@pytest.mark.parametrize("place", PLACES)
def test_a_hostile_file(place: str, capfd: pytest.CaptureFixture[str]) -> None:
    for name, text in TEXTS.items():
        if place.startswith("learn"):
            lesson = Path(name) / "lesson"
            lesson.mkdir(parents=True)
            for content in (text, b"+++\n" + text + b"\n+++\n# A lesson\n"):
                (lesson / "lesson.md").write_bytes(content)
                checked(["learn", "--lessons", name, "lesson"], capfd)
            continue
        Path("text").write_bytes(text)
        checked([word.replace("TEXT", "text") for word in place.split(" ")], capfd)
        assert Path("text").read_bytes() == text


def test_the_default_file_is_anybodys(capfd: pytest.CaptureFixture[str]) -> None:
    """It is read where it lies, unasked: a stranger's folder may be meant badly."""
    for text in TEXTS.values():
        Path("emu.toml").write_bytes(text)
        checked(["run", "guest", "--quiet", "-serial", "none"], capfd)


@pytest.mark.parametrize(
    "text",
    ["{", '{"driver": "nvdimm", "slot": ' + LONG.decode() + "}", '{"a": ' + DEEP[:10_000].decode() + "}",
     '{"driver": "\\ud800"}', '{"driver": "\\u001b[31m"}', '{"driver": "nvdimm", "slot": NaN}'],
)  # fmt: skip
@pytest.mark.parametrize("option", ["-device", "-object"])
def test_an_option_in_json(option: str, text: str, capfd: pytest.CaptureFixture[str]) -> None:
    checked(["run", "guest", option, text], capfd)


@pytest.mark.parametrize("host", ["a..b", "x" * 70 + ".invalid", "\x1b[31m", "no.such.host.invalid"])
def test_a_host_name(host: str, capfd: pytest.CaptureFixture[str]) -> None:
    for words in (["run", "guest", "-gdb", f"tcp:{host}:1234"], ["run", "--quiet", "--incoming", f"tcp:{host}:1"]):
        checked([*words, "-serial", "none"], capfd)
