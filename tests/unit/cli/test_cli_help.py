"""``help``: pages that fit their terminal, and one rule for the word in the options of a machine."""

from __future__ import annotations

import pytest

from emu.cli.main import main
from emu.cli.options import DEVICE_KEYS, DRIVER_KEYS, HELP_TABLES, NVDIMM_KEYS
from emu.cli.verbs import VERBS


@pytest.mark.parametrize("text", ["help", "?", "file=help,size=4M", "p.img,help,size=4M", "size=?", "nonsense,help"])
def test_help_anywhere_lists_the_keys_and_runs_nothing(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "no-such-image", "--nvdimm", text]) == 0
    shown = capsys.readouterr()
    assert all(f"  {name}={key.shape}" in shown.out for name, key in NVDIMM_KEYS.items())
    assert shown.err == ""


@pytest.mark.parametrize("option", HELP_TABLES)
def test_every_option_with_keys_has_help(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", option, "help"]) == 0
    out = capsys.readouterr().out
    for name, key in HELP_TABLES[option].items():
        assert key.summary
        assert f"  {name}={key.shape}" in out


@pytest.mark.parametrize(
    ("words", "there", "not_there"),
    [
        (("-object", "help"), "  memory-backend-ram\n", "bogus"),
        (("-object", "memory-backend-file,help"), "  mem-path=", "qom-type="),
        (("-object", "size=8M,qom-type=memory-backend-ram,help"), "  merge=", "mem-path="),
        (("-device", "help"), "  isa-debug-exit\n", "bogus"),
        (("-device", "nvdimm,memdev=m,help,id=x"), "  unarmed=", "iosize="),
        (("-device", "isa-debug-exit,?"), "  iosize=", "unarmed="),
        (("-cpu", "help"), "CLWB", "key="),
        (("-serial", "help"), "file:PATH", "key="),
    ],
)
def test_help_on_a_kind(words: tuple[str, ...], there: str, not_there: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", *words]) == 0
    out = capsys.readouterr().out
    assert there in out
    assert not_there not in out


def test_help_on_a_kind_that_there_is_not(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "-device", "floppy,help"]) == 2
    assert "it is one of nvdimm" in capsys.readouterr().err


def test_each_key_of_device_belongs_to_a_driver() -> None:
    assert {*DEVICE_KEYS} == {"driver", *(name for keys in DRIVER_KEYS.values() for name in keys)}


@pytest.mark.parametrize("verb", ["", *VERBS])
def test_a_page_fits_its_terminal(
    verb: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["help", *([verb] if verb else [])]) == 0
    page = capsys.readouterr().out.splitlines()
    assert [line for line in page if len(line) > 80] == []
    monkeypatch.setenv("COLUMNS", "44")
    assert main(["help", *([verb] if verb else [])]) == 0
    narrow = capsys.readouterr().out.splitlines()
    wide, commands = ([line for line in shown if line.startswith("  emu ")] for shown in (page, narrow))
    assert len(wide) == len(commands)
    assert all(line.startswith(command) for line, command in zip(wide, commands, strict=True))
