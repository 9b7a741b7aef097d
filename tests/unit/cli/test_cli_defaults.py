"""Options out of emu.toml and pyproject.toml: where they go, who wins, and what is said of mistakes."""

from __future__ import annotations

from pathlib import Path

import pytest

from emu.cli import defaults
from emu.cli.main import main
from emu.errors import UsageError


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def words(line: str, *files: tuple[str, str]) -> str:
    """The words of a command line when the current folder has ``files`` (name, text)."""
    for name, text in files:
        Path(name).write_text(text)
    given = line.split()
    return " ".join(defaults.applied(given[0], given).words)


def test_no_file_changes_nothing() -> None:
    assert words("run hello") == "run hello"
    assert words("run hello", ("pyproject.toml", "[tool.other]\nquiet = 1\n")) == "run hello"


def test_options_go_behind_the_verb() -> None:
    text = '[run]\nquiet = true\njson = false\ntimeout = 2.5\nmemory = "64M"\nappend = "-x"\nno-reboot = true\n'
    made = words("run hello", ("emu.toml", text))
    assert made == "run --quiet --timeout 2.5 --memory 64M --append=-x --no-reboot hello"


def test_a_list_repeats_an_option() -> None:
    assert words("run x", ("emu.toml", '[run]\nnvdimm = ["a", "b"]\n')) == "run --nvdimm a --nvdimm b x"


@pytest.mark.parametrize("given", ["-m 1M", "--memory 1M", "--memory=1M", "-m1M"])
def test_the_command_line_wins_in_every_spelling(given: str) -> None:
    assert words(f"run {given}", ("emu.toml", '[run]\nmemory = "64M"\n')) == f"run {given}"


def test_the_verb_wins_over_the_machine_and_others_do_not_count() -> None:
    text = '[crash]\nnvdimm = "size=2M"\n[machine]\nnvdimm = "a"\nmemory = "8M"\n[run]\nquiet = true\n'
    assert words("crash x", ("emu.toml", text)) == "crash --nvdimm size=2M --memory 8M x"
    assert words("run x") == "run --nvdimm a --memory 8M --quiet x"


def test_pyproject_counts_where_there_is_no_emu_toml() -> None:
    project = ("pyproject.toml", "[tool.emu.run]\nquiet = true\n")
    assert words("run x", project) == "run --quiet x"
    assert words("run x", ("emu.toml", "")) == "run x"


def test_another_file_or_none() -> None:
    files = ("emu.toml", "[run]\nquiet = true\n"), ("other.toml", "[run]\njson = true\n")
    assert words("run x --config other.toml", *files) == "run --json x --config other.toml"
    assert words("run x --config none") == "run x --config none"
    assert words("run --help", ("emu.toml", "[")) == "run --help"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[rnu]", "there is no table \\[rnu\\]\ndid you mean 'run'"),
        ("run = 1", "run is not a table"),
        ("[run]\nquite = true", "\\[run\\] has no option 'quite'\ndid you mean 'quiet'"),
        ("[crash]\nmedai = 'dax'", "\\[crash\\] has no option 'medai'\ndid you mean 'media'"),
        ("[machine]\ntimeout = 1", "\\[machine\\] has no option 'timeout'"),
        ("[run]\nquiet = 1", "quiet takes no value"),
        ("[run]\ntimeout = true", "timeout is SECONDS"),
        ("[run]\ntimeout = [1, 2]", "timeout is SECONDS"),
        ("[run]\nnvdimm = [{a = 1}]", "or a list"),
        ("[run", "emu.toml: Expected"),
    ],
)
def test_mistakes(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        words("run", ("emu.toml", text))


@pytest.mark.parametrize(
    ("text", "command", "message"),
    [
        ('[run]\ntimeout = "soon"', "run hello", "emu.toml: --timeout: 'soon' is not a positive number of seconds"),
        ('[crash]\nmedia = "daxx"', "crash hello", "emu.toml: --media: 'daxx' is not accepted"),
        ('[machine]\nnvdimm = "file=x,szie=2M"', "run hello", "emu.toml: --nvdimm: invalid parameter 'szie'"),
        ('[machine]\nnvdimm = "file=x,sync=maybe"', "run hello", "emu.toml: sync: 'maybe' is not accepted"),
        ('[machine]\nmemory = "1"\nappend = "-x"', "run nowhere", "no image 'nowhere'"),
        ('[run]\ntimeout = "1"', "run hello --timeout soon", "--timeout: 'soon' is not a positive number"),
        ('[machine]\nnvdimm = "file=absent/x,size=1M"', "run hello", "emu.toml: "),
    ],
)
def test_what_the_file_said_is_laid_at_its_door(
    text: str, command: str, message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    Path("emu.toml").write_text(text)
    assert main(command.split()) in (2, 4)
    assert capfd.readouterr().err.startswith(f"emu: {message}")


def test_a_pyproject_that_is_odd() -> None:
    Path("pyproject.toml").write_text("tool = 1 # [tool.emu")
    assert defaults.applied("run", ["run"]).words == ["run"]
    Path("pyproject.toml").write_text("[tool]\nemu = 1 # [tool.emu")
    with pytest.raises(UsageError, match=r"tool\.emu is not a table"):
        defaults.applied("run", ["run"])


def test_bytes_that_are_no_text() -> None:
    Path("emu.toml").write_bytes(b"\xff")
    with pytest.raises(UsageError, match=r"emu\.toml is not a text in UTF-8"):
        defaults.applied("run", ["run"])


def test_a_run_uses_it(capsys: pytest.CaptureFixture[str]) -> None:
    Path("emu.toml").write_text('[machine]\nnvdimm = "help"\n')
    assert main(["run", "hello"]) == 0
    assert "label-size=" in capsys.readouterr().out
    assert main(["run", "--config", "absent", "hello"]) == 4
    assert "absent: No such file" in capsys.readouterr().err
