"""The wheel, judged by those who know wheels: `build` makes it, auditwheel and abi3audit look at it.

And a compiler for AArch64 translates all our C. What it makes is not run here.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path

import pytest

from tests.oracle import wheel
from tests.oracle.pages import Shell, environment
from tests.oracle.requirements import missing, require
from tests.oracle.wheel import ROOT

MODULES = [
    module["sources"][0]
    for module in tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"]["ext-modules"]
]
_AARCH64 = b"\xb7\0"  # e_machine of ELF: EM_AARCH64, 183


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return wheel.built(tmp_path_factory)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_wheel_is_clean(built: Path) -> None:
    (made,) = built.glob("*.whl")
    assert len(list(built.glob("*.tar.gz"))) == 1
    assert "-cp311-abi3-" in made.name
    shown = " ".join(wheel.tool("auditwheel", "show", made).split())
    policy = re.search(r'platform tag: "(manylinux_2_\d+_x86_64)"', shown)
    assert policy, shown
    # Nothing but the C library is needed of the system.
    assert re.findall(r"(lib[\w+-]+\.so[.\d]*) with versions", shown) == ["libc.so.6"]
    audit = wheel.tool("abi3audit", "--strict", "--verbose", made)
    assert f"{len(MODULES)} extensions scanned; 0 ABI version mismatches and 0 ABI violations found" in " ".join(
        audit.split()
    )


def _newer_pythons() -> list[str]:
    """Those that are here beside this one. Of a version manager's stubs some only say that there is no such Python."""
    found = [shutil.which(f"python3.{minor}") for minor in range(12, 20)]
    return [each for each in found if each and subprocess.run([each, "-c", ""], capture_output=True).returncode == 0]


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("python", [sys.executable, *_newer_pythons()])
def test_one_wheel_serves_this_python_and_newer_ones(python: str, built: Path, tmp_path: Path) -> None:
    (made,) = built.glob("*.whl")
    subprocess.run([python, "-m", "venv", tmp_path / "venv"], check=True)
    pip = [tmp_path / "venv/bin/python", "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    got = subprocess.run([*map(str, pip), "--only-binary", ":all:", made], capture_output=True, text=True)
    if got.returncode:  # what emu needs has no wheel for it, or there is no index
        pytest.skip(got.stderr.splitlines()[-1])
    shell = Shell(tmp_path, environment(tmp_path / "venv/bin"))
    assert "boot 1" in shell.run("emu run hello --nvdimm file=pmem.img,size=64M")[1]
    assert "boot 2" in shell.run("emu run hello --nvdimm file=pmem.img")[1]
    status, said = shell.run("emu crash commit-noflush --nvdimm size=2M")
    assert (status, "missing flush" in said) == (3, True), said


@pytest.fixture(scope="module")
def headers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Python's headers with this machine's pyconfig.h, where Debian's asks for the other one's. Both have LP64."""
    installed = Path(sysconfig.get_path("include"))
    if not (installed / "Python.h").exists():
        missing("Python.h", "on Debian: apt-get install python3-dev")
    copy = tmp_path_factory.mktemp("include") / "python"
    shutil.copytree(installed, copy)
    version = f"python{sysconfig.get_python_version()}"
    debian = Path("/usr/include") / str(sysconfig.get_config_var("MULTIARCH")) / version / "pyconfig.h"
    if installed.is_relative_to("/usr/include") and debian.exists():
        shutil.copy(debian, copy / "pyconfig.h")
    return copy


@pytest.mark.parametrize("source", [*MODULES, "launcher/emu.c"])
def test_c_compiles_for_aarch64(source: str, headers: Path, tmp_path: Path) -> None:
    compiler = require("aarch64-linux-gnu-gcc", "gcc-aarch64-linux-gnu")
    kind = [] if source.startswith("launcher") else ["-shared", "-fPIC", "-DPy_LIMITED_API=0x030b0000"]
    words = [compiler, "-O2", "-std=gnu11", "-Wall", "-Wextra", *kind, f"-I{headers}", "-o", tmp_path / "made", source]
    done = subprocess.run(list(map(str, words)), cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "made").read_bytes()[18:20] == _AARCH64


@pytest.mark.parametrize("source", [*MODULES, "launcher/emu.c"])
def test_c_compiles_with_clang(source: str, tmp_path: Path) -> None:
    if not Path(sysconfig.get_path("include"), "Python.h").exists():
        missing("Python.h", "on Debian: apt-get install python3-dev")
    include = f"-I{sysconfig.get_path('include')}"
    flags = ["-O0", "-std=gnu11", "-Wall", "-Wextra", "-Werror", "-fPIC", "-DPy_LIMITED_API=0x030b0000", include]
    words: list[str | Path] = [require("clang", "clang"), *flags, "-c", "-o", tmp_path / "made", source]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
