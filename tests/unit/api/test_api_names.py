"""``import emu``: lazy names that cost nothing, and that type checkers see."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import emu

SCRIPT = """
import sys
before = set(sys.modules)
import emu
print(*sorted(set(sys.modules) - before))
"""
USER = '''
"""A user's script, as strict as can be."""

import emu
from emu import Capture, HostError, UsageError


def boot(path: str) -> tuple[str, int | None, bytes]:
    console = Capture()
    dimm = emu.Nvdimm(path, size="64M", sync="auto", label_size=1 << 17)
    with emu.Machine("hello", nvdimms=[dimm], debugcon=console) as machine:
        ended = machine.run(timeout=60)
        state = machine.save()
        machine.restore(state)
        rip: int = machine.registers["rip"]
        table: bytes = machine.tables["NFIT"].data
        labels = machine.nvdimms[0].labels
        valid: bool = labels is not None and labels.valid
        assert rip and table and valid and console.data
        return ended.reason, ended.code, machine.nvdimms[0].read(0, 8)


def judge(path: str) -> bool:
    try:
        with emu.crash("commit-noflush", nvdimms=[emu.Nvdimm(path)], observe=[(0, 8)], media="dax") as answer:
            answer.write_html("report.html")
            return answer.ok
    except emu.MapSyncUnavailable as error:
        number: int = error.errno
        raise HostError(error.what, error.remedy, errno=number) from None
    except emu.IncompleteFile as error:
        raise UsageError(error.what) from None


sync: bool = emu.probe(".").map_sync
status: str = emu.migrate("qmp.sock", "file:snapshot.emu")["status"]
'''
WRONG = {
    'emu.Nvdimm("p.img", sync="perhaps")': "arg-type",
    "emu.Machine(1)": "arg-type",
    'emu.crash("hello", nvdimms=[], media="paper")': "arg-type",
    "emu.nothing": "attr-defined",
    'emu.Machine("hello").run().reason + 1': "operator",
}


def test_importing_emu_imports_nothing_else() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["emu"]


@pytest.mark.parametrize("name", emu.__all__)
def test_every_public_name_is_there_and_documented(name: str) -> None:
    assert getattr(emu, name) is getattr(emu, name)
    assert getattr(emu, name).__doc__
    assert name in dir(emu)


def test_a_name_that_does_not_exist_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'emu' has no attribute 'Machines'"):
        emu.Machines  # type: ignore[attr-defined]  # noqa: B018 - that is the test


def test_the_errors_are_a_tree() -> None:
    assert issubclass(emu.MapSyncUnavailable, emu.HostError)
    assert issubclass(emu.FileInUse, emu.HostError)
    assert issubclass(emu.IncompleteFile, emu.UsageError)
    for kind in (emu.UsageError, emu.HostError, emu.StateError, emu.GuestError):
        assert issubclass(kind, emu.EmuError)


def test_a_typed_script_passes_mypy_strict_and_a_wrong_one_does_not(tmp_path: Path) -> None:
    """Scripts that use the installed package."""
    pytest.importorskip("mypy")
    (tmp_path / "right.py").write_text(USER)
    (tmp_path / "wrong.py").write_text("\n".join(["import emu", *WRONG, ""]))
    words = ["--strict", "--no-incremental", "--cache-dir", str(tmp_path / "cache"), "--config-file="]
    command = [sys.executable, "-m", "mypy", *words, "right.py", "wrong.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    said = done.stdout.splitlines()
    for number, kind in enumerate(WRONG.values(), 2):
        assert any(line.startswith(f"wrong.py:{number}:") and f"[{kind}]" in line for line in said), said
    assert not [line for line in said if line.startswith("right.py")]
    assert "in 1 file (checked 2 source files)" in said[-1], said
