"""Completions, tried in the shells themselves, and the manual page, formatted by man(1)."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from emu.cli import completion, manual
from emu.cli.main import main
from emu.cli.surface import commands
from emu.cli.verbs import VERBS

KNOWN = list(commands())

# Each script prints, one a line, what the last word of the command line "$1" can become; completion is in ./emu.
BASH = """
source ./emu
COMP_LINE=$1 COMP_POINT=${#1}
_emu
printf '%s\\n' "${COMPREPLY[@]}"
"""
# What compadd gets is filtered by zsh itself, and so it is here.
ZSH = """
compdef() { : }
compadd() { shift ${@[(ie)--]}; for word; do [[ $word == $PREFIX* ]] && print -r -- $word; done }
compset() { [[ $PREFIX == ${~2}* ]] && PREFIX=${PREFIX#${~2}}; return 0 }
_files() { print -rl -- $PREFIX*(N) }
source ./emu
words=(${(s: :)1})
[[ $1 == *' ' ]] && words+=("")
CURRENT=$#words PREFIX=$words[-1]
_emu
"""
FISH = """
source ./emu
complete -C "$argv[1]" | string replace -r '\\t.*' '' | string replace -r '^.*[,=](?=.)' ''
"""
SHELLS: dict[str, tuple[Callable[[list[Any]], str], list[str]]] = {
    "bash": (completion.bash, ["bash", "-c", BASH, "bash"]),
    "zsh": (completion.zsh, ["zsh", "-f", "-c", ZSH, "zsh"]),
    "fish": (completion.fish, ["fish", "-N", "-c", FISH]),
}


@pytest.fixture(params=SHELLS)
def complete(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[str], set[str]]:
    """What the shell makes of the last word of a command line, without what stands before its last comma or =."""
    written, command = SHELLS[request.param]
    if shutil.which(command[0]) is None:
        pytest.skip(f"needs {command[0]} (on Debian: apt-get install {command[0]})")
    (tmp_path / "emu").write_text(written(KNOWN))
    (tmp_path / "ledger.elf").touch()

    def ask(line: str) -> set[str]:
        done = subprocess.run([*command, line], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.stderr == ""
        return {word.rpartition(",")[2] for word in done.stdout.split()}

    return ask


def test_verbs_actions_options_and_values(complete: Callable[[str], set[str]]) -> None:
    assert complete("emu r") == {"run"}
    assert complete("emu crash --med") == {"--media"}
    assert complete("emu crash --media ") == {"dax-sync", "dax", "page-cache"}
    assert complete("emu label cr") == {"create-namespace"}
    assert complete("emu label init --label-s") == {"--label-size"}
    assert complete("emu crash diff --j") == {"--json"}
    assert complete("emu help gu") == {"guests"}


def test_keys_and_their_values_behind_others(complete: Callable[[str], set[str]]) -> None:
    assert complete("emu run hello --nvdimm fi") == {"file="}
    assert complete("emu run hello --nvdimm file=x,sy") == {"sync="}
    assert complete("emu run hello --nvdimm file=x,sync=a") == {"auto"}
    assert complete("emu run hello --nvdimm file=led") == {"ledger.elf"}


def test_guests_and_files(complete: Callable[[str], set[str]]) -> None:
    assert complete("emu run commit-f") == {"commit-fixed"}
    assert complete("emu run led") == {"ledger.elf"}


def test_every_command_is_described() -> None:
    names = [command.name for command in KNOWN]
    assert [name for name in names if name in VERBS] == list(VERBS)
    assert {"label init", "acpi show"} < set(names)


def test_manual_page_is_well_formed_and_has_every_option(tmp_path: Path) -> None:
    if shutil.which("man") is None:
        pytest.skip("needs man (on Debian: apt-get install man-db)")
    (tmp_path / "emu.1").write_text(manual.page(KNOWN))
    done = subprocess.run(
        ["man", "--warnings", "-l", tmp_path / "emu.1"],
        env={"PATH": "/usr/bin:/bin", "MANWIDTH": "1000", "LC_ALL": "C.UTF-8"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    words = set(done.stdout.replace(",", " ").split())
    for command in KNOWN:
        assert {name for option in command.options for name in option.names} <= words, command.name
    assert "exit status, the first that is true: 14 the recorded run itself failed" in done.stdout


def test_help_tells_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["help", "crash"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "what the NVDIMM is mapped from on its host (default dax-sync)" in text
    assert text.count("stop after this many recoveries (default 100000)") == 1
    assert "(default [])" not in text
