"""Completions, tried in the shells themselves, and the manual page, formatted by man(1)."""

from __future__ import annotations

import os
import pty
import re
import select
import shutil
import signal
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


# Each defines an `emu` that says what it was given, between two words that are not in what is typed.
SET_UP = {
    "bash": """emu() { printf '<%s>' "$@" e''nd; }; source ./emu; printf '<%s>' re''ady\n""",
    "zsh": """emu() { printf '<%s>' "$@" e''nd; }; fpath=($PWD $fpath); autoload -Uz compinit; compinit -u -D; """
           """printf '<%s>' re''ady\n""",
    "fish": """function emu; printf '<%s>' $argv e''nd; end; source ./emu; printf '<%s>' re''ady\n""",
}  # fmt: skip
INTERACTIVE = {"bash": ["bash", "--norc", "-i"], "zsh": ["zsh", "-f", "-i"], "fish": ["fish", "-N", "-i"]}
PATIENCE_S = 60


def typed(shell: str, keys: str, folder: Path) -> str:
    """What an `emu` that prints its arguments says when ``keys`` are typed into the shell at a terminal."""
    place = {**os.environ, "HOME": str(folder), "TERM": "xterm", "LANG": "C.UTF-8"}
    pid, terminal = pty.fork()
    if not pid:
        os.chdir(folder)
        os.execvpe(INTERACTIVE[shell][0], INTERACTIVE[shell], place)
    shown = b""

    def until(word: bytes) -> None:
        nonlocal shown
        while word not in shown:
            assert select.select([terminal], [], [], PATIENCE_S)[0], shown
            shown += os.read(terminal, 1 << 16)

    try:
        os.write(terminal, SET_UP[shell].encode())
        until(b"<ready>")
        os.write(terminal, keys.encode() + b"\n")
        until(b"<end>")
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(terminal)
    found = re.search(r"<(run|crash)>.*?<end>", shown.decode(), re.DOTALL)
    assert found, shown
    return found[0]


@pytest.mark.parametrize("shell", INTERACTIVE)
def test_tab_at_a_terminal_makes_words_that_emu_understands(shell: str, tmp_path: Path) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"needs {shell} (on Debian: apt-get install {shell})")
    name = "_emu" if shell == "zsh" else "emu"
    (tmp_path / name).write_text(SHELLS[shell][0](KNOWN))
    (tmp_path / "ledger.elf").touch()
    (tmp_path / "my pool.img").touch()
    crash = typed(shell, "emu cra\tcommit-nof\tl\t--nvdi\tsize=2M,fi\tmy\t", tmp_path)
    assert crash == "<crash><commit-noflush><--nvdimm><size=2M,file=my pool.img><end>"
    more = "" if shell == "fish" else ",sy\ton"  # fish puts a blank behind a whole value
    run = typed(shell, f"emu run hello --nvdimm fi\tledg\t{more}", tmp_path)
    assert run == f"<run><hello><--nvdimm><file=ledger.elf{',sync=on' if more else ''}><end>"


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
