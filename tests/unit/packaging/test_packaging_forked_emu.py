"""The commands that tests have forked are processes like others."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from emu.testing.commands import EMU
from tests import forked_emu


def test_a_forked_command_is_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for words, typed in (
        (["run", "hello", "--nvdimm", "file=pool,size=2M"], None),
        (["run", "echo", "--quiet"], b"one\n\x04"),
        (["label", "check", "pool"], None),
        (["crash", "commit-noflush", "--nvdimm", "size=2M", "--jobs", "2"], None),
        (["run", "no-such-guest"], None),
    ):
        Path("pool").unlink(missing_ok=True)
        forked = forked_emu.run(words, stdin=typed, timeout=60)
        Path("pool").unlink(missing_ok=True)
        started = subprocess.run([*EMU, *words], input=typed or b"", capture_output=True)
        assert forked == (started.returncode, started.stdout, started.stderr)


def test_one_that_is_late_is_ended_and_the_next_one_runs() -> None:
    with pytest.raises(subprocess.TimeoutExpired):
        forked_emu.run(["run", "echo"], stdin=None, timeout=0.5)
    assert forked_emu.run(["guests"], stdin=None, timeout=60).status == 0


def test_environment_and_folder_are_those_of_the_test(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("emu.toml").write_text("[run]\nquiet = 7\n")
    refused = forked_emu.run(["run", "hello"], stdin=None, timeout=60)
    assert refused.status == 2
    assert b"emu.toml" in refused.errors
    Path("emu.toml").unlink()
    assert forked_emu.run(["run", "hello"], stdin=None, timeout=60).status == 5
    monkeypatch.setenv("PATH", str(tmp_path))
    assert b"no C compiler" in forked_emu.run(["learn"], stdin=None, timeout=60).out
