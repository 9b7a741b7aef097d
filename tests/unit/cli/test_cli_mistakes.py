"""What the command says of words that it does not know: what was meant, or where it belongs, in its own words."""

from __future__ import annotations

from pathlib import Path

import pytest

from emu.cli.main import main
from emu.cli.parser import build_parser
from emu.cli.verbs import VERBS
from emu.errors import UsageError


def said(words: str, capsys: pytest.CaptureFixture[str]) -> str:
    """What the command says on stderr; it must end as for wrong usage, and print nothing else."""
    assert main(words.split()) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert len(shown.err.splitlines()) == 2
    return shown.err


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        ("rnu hello", "'rnu' is not a verb\n     did you mean 'run'?"),
        ("crahs diff", "did you mean 'crash'?"),
        ("label chekc x", "'chekc' is not an action of 'emu label'\n     did you mean 'check'?"),
        ("run hello --nvdim file=x", "--nvdim is not an option of 'emu run'\n     did you mean '--nvdimm'?"),
        ("guests --jsno", "did you mean '--json'?"),
        ("acpi show --tabel NFIT", "--tabel is not an option of 'emu acpi show'\n     did you mean '--table'?"),
        ("run hello --sync on", "sync is a key of --nvdimm: write --nvdimm file=PATH,sync=..."),
        ("run hello --maxmem=1G", "maxmem is a key of -m: write -m maxmem=..."),
        ("run hello --S", "write -S"),
        ("run hello --nvdimm file=x.img,szie=2M", "invalid parameter 'szie'\n     did you mean 'size'?"),
        ("run hello --nvdimm file=x.img,maxmem=1G", "maxmem is a key of -m"),
        ("run hello --nvdimm file=x.img,sync=atuo", "did you mean 'auto'? sync takes on, off, auto"),
        ("crash hello --media page_cache", "did you mean 'page-cache'? --media takes dax-sync, dax, page-cache"),
        ("help inti", "'inti' is not a verb"),
        ("help label inti", "did you mean 'init'?"),
        ("help run fast", "'emu run' has no 'fast'"),
        (
            "run hello --append -v",
            "\n     if it is the value of --append, write --append=-v; ",
        ),
        ("run hello other", "'other' is one word too many\n     'emu run --help' says what it takes"),
    ],
)
def test_what_was_meant(words: str, answer: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert answer in said(words, capsys)


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        ("-monitor stdio", "QMP"),
        ("-enable-kvm", "every store can be seen"),
        ("-drive file=disk.img", "there are no disks"),
        ("-netdev user,id=n", "there is no network"),
        ("-vnc :1", "there is no display"),
    ],
)
def test_qemu_options_that_there_are_not_are_answered_in_words(
    words: str, answer: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert answer in said(f"run hello {words}", capsys)


@pytest.mark.parametrize("word", ["-seri", "-nographi", "-machin", "--time", "-monitors", "-Snow", "-mem"])
def test_nothing_may_be_abbreviated(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert f"{word} is not an option of 'emu run'" in said(f"run hello {word} none", capsys)


def test_a_value_may_be_joined_to_a_letter() -> None:
    assert build_parser("run").parse_args(["run", "-m64M"]).memory == "64M"
    assert build_parser("label").parse_args(["label", "read", "-jI", "-ofile", "x"]).output == "file"


@pytest.mark.parametrize(
    ("words", "what"),
    [
        ("", "VERB is missing"),
        ("label check", "FILE is missing"),
        ("migrate", "--qmp is missing"),
        ("crash hello --depth x", "--depth: 'x' is not a whole number"),
        ("crash hello --depth 0x10", "--depth: '0x10' is not a whole number"),
        ("crash hello --time-limit nan", "--time-limit: 'nan' is not a number"),
        ("crash hello --media", "--media: a value is missing"),
        ("run hello --json=1", "--json: takes no value"),
        ("new a --c --asm", "--asm: does not go with --c"),
    ],
)
def test_no_words_of_argparse(words: str, what: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert said(words, capsys).startswith(f"emu: {what}\n     see 'emu")


@pytest.mark.parametrize("verb", VERBS)
def test_help_with_a_verb_is_that_of_the_verb(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["help", *verb.split()]) == 0
    shown = capsys.readouterr().out
    assert main([*verb.split(), "--help"]) == 0
    assert shown == capsys.readouterr().out != ""


def test_help_with_an_action(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["help", "label", "create-namespace"]) == 0
    assert "--sector-size" in capsys.readouterr().out


def test_a_value_may_look_like_a_verb(tmp_path: Path) -> None:
    """Words behind a verb are the verb's own business, whatever other parsers make of them."""
    options = build_parser("run").parse_args(["run", str(tmp_path / "image"), "--append", "run"])
    assert options.append == "run"
    with pytest.raises(UsageError):
        build_parser("run").parse_args(["run", "--append"])


@pytest.mark.parametrize(
    ("why", "remedy"),
    [
        ("/lib/libc.so.6: version `GLIBC_2.34' not found (required by _kernel.abi3.so)", "source archive"),
        ("_kernel.abi3.so: failed to map segment from shared object", "ulimit -v"),
    ],
)
def test_a_part_that_cannot_be_loaded_says_what_helps(
    why: str, remedy: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(_: object) -> int:
        raise ImportError(why)

    monkeypatch.setattr("emu.cli.guests.run", run)
    assert main(["guests"]) == 4
    said = capsys.readouterr().err
    assert why in said
    assert remedy in said
