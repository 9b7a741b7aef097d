"""What a plain run imports: start-up is mostly imports, so a heavy module that slips in shows here, not on a clock."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from emu import guest

# Packages and modules that no plain run needs; a name stands for everything below it too.
HEAVY = {
    "ast", "asyncio", "bz2", "capstone", "cffi", "concurrent", "ctypes", "dataclasses", "datetime", "dis",
    "elftools", "email", "html", "http", "hypothesis", "inspect", "logging", "lzma",
    "multiprocessing", "numpy", "pathlib", "pkg_resources", "platform", "pytest", "secrets", "shutil", "socket",
    "socketserver", "ssl", "subprocess", "tempfile", "typing", "unicorn", "unittest", "urllib", "uuid", "xml",
    "zipfile",
    "emu.migration", "emu.monitor", "emu.persistence", "emu.testing", "emu.host.probe", "emu.cpu.engine.trace",
    "emu.acpi.parse", "emu.cpu.disasm", "emu.cpu.snapshot", "emu.devices.nvdimm.labels",
    "emu.devices.nvdimm.label_layouts",
}  # fmt: skip
PARSER = {"argparse", "gettext", "locale"}
"""What an ordinary run does without; help and mistakes do not."""
REPORT = """
import sys
from emu.cli.main import main
status, modules = main(sys.argv[1:]), sorted(sys.modules)
import json
sys.stdout.flush()
print(json.dumps({"status": status, "modules": modules}), file=sys.stderr)
"""


def imported(*words: str) -> set[str]:
    """Names of the modules that ``emu WORDS`` leaves imported in a fresh interpreter that ends with status 0."""
    done = subprocess.run(
        [sys.executable, "-c", REPORT, *words], capture_output=True, text=True, timeout=120, check=False
    )
    report = json.loads(done.stderr.splitlines()[-1])
    assert report["status"] == 0, done.stderr
    return set(report["modules"])


def bare() -> set[str]:
    """What the interpreter itself imports, with whatever the installation makes it import."""
    done = subprocess.run(
        [sys.executable, "-c", "import sys; print(*sys.modules)"], capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


def heavy(modules: set[str]) -> list[str]:
    ours = modules - bare()
    return sorted(name for name in ours if any(name == root or name.startswith(f"{root}.") for root in HEAVY))


def test_a_plain_run_imports_nothing_heavy(tmp_path: Path) -> None:
    modules = imported("run", "hello", "--quiet", "--nvdimm", f"file={tmp_path / 'nvdimm'},size=16M")
    assert "emu.board" in modules
    assert heavy(modules) == []
    assert not modules & PARSER
    image = guest.find("hello")
    assert image is not None
    again = imported("run", str(image.path), "--quiet", "--nvdimm", f"file={tmp_path / 'nvdimm'}")
    assert not again & {"emu.host.files", "emu.host.claims"}  # only who makes or writes a file
    assert not again & {"json", "emu.guest"}  # only who asks for a document, or for a bundled guest
    assert not (again - bare()) & {"enum", "re", "signal"}  # see emu.enumeration


@pytest.mark.parametrize("words", [("guests",), ("--help",), ("run", "--help"), ("run", "--nvdimm", "help")])
def test_answering_a_question_builds_no_machine(words: tuple[str, ...]) -> None:
    modules = imported(*words)
    assert heavy(modules) == []
    assert not modules & {"emu.board", "emu.cpu", "emu.machine"}
