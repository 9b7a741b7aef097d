"""A stranger's way: source archive -> wheel -> empty virtual environment -> `emu` somewhere else.

Slow for a test (about half a minute, most of it pip's), so it is one.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import pytest

ROOT = Path(__file__).parents[2]
TREES = ("emu", "devices", "guest", "launcher", "tests", "docs", "changes", ".ci")
FILES = ("pyproject.toml", "README.md", "LICENSE", "THIRD-PARTY.md", "MANIFEST.in", "CHANGELOG.md", "Makefile")
BUILD = """
import os, sys
from setuptools import build_meta
os.chdir(sys.argv[2])
getattr(build_meta, "build_" + sys.argv[1])(sys.argv[3])
"""


def run(
    *words: str | Path, cwd: Path, expect: int = 0, environment: Mapping[str, str] = MappingProxyType({})
) -> subprocess.CompletedProcess[str]:
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "VIRTUAL_ENV"))}
    clean |= environment
    command = [str(word) for word in words]
    ran = subprocess.run(command, cwd=cwd, capture_output=True, text=True, env=clean, stdin=subprocess.DEVNULL)
    assert ran.returncode == expect, f"{words}: status {ran.returncode}\n{ran.stdout[-3000:]}\n{ran.stderr[-3000:]}"
    return ran


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_source_archive_wheel_and_installed_command(tmp_path: Path) -> None:
    if shutil.which("gcc") is None or not Path(sysconfig.get_path("include"), "Python.h").exists():
        pytest.skip("needs a compiler and Python.h (on Debian: apt-get install gcc python3-dev)")
    source, built, elsewhere = tmp_path / "source", tmp_path / "built", tmp_path / "elsewhere"
    for folder in (source, built, elsewhere):
        folder.mkdir()
    for tree in TREES:
        shutil.copytree(
            ROOT / tree, source / tree, symlinks=True, ignore=shutil.ignore_patterns("__pycache__", "*.so", "*.pyc")
        )
    for name in FILES:
        shutil.copy2(ROOT / name, source / name)
    venv = tmp_path / "venv"
    run(sys.executable, "-m", "venv", venv, cwd=tmp_path)
    python = venv / "bin" / "python"
    pip = [str(python), "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    got = subprocess.run([*pip, "setuptools>=77", "cffi>=2.0"], capture_output=True, text=True)
    if got.returncode:
        assert not os.environ.get("CI"), got.stderr
        pytest.skip(f"pip reaches no package index: {got.stderr.splitlines()[-1:]}")

    run(python, "-c", BUILD, "sdist", source, built, cwd=tmp_path)
    (archive,) = built.glob("emu-*.tar.gz")
    (tmp_path / "unpacked").mkdir()
    run("tar", "-xzf", archive, "-C", tmp_path / "unpacked", cwd=tmp_path)
    (unpacked,) = (tmp_path / "unpacked").iterdir()
    for tree in TREES:
        for path in (source / tree).rglob("*"):
            relative = path.relative_to(source)
            made_by_the_build = {"__pycache__", "emu.egg-info"} & set(relative.parts)
            if path.is_file() and not made_by_the_build:
                assert (unpacked / relative).read_bytes() == path.read_bytes(), relative
    assert not list(unpacked.rglob("*.so"))

    run(python, "-c", BUILD, "wheel", unpacked, built, cwd=tmp_path)
    (wheel,) = built.glob("*.whl")
    assert "-cp311-abi3-linux" in wheel.name
    names = set(zipfile.ZipFile(wheel).namelist())
    images = {f"emu/guest/images/{path.name}" for path in (ROOT / "guest" / "images").iterdir()}
    assert images <= names
    assert "emu/py.typed" in names
    assert {name.split("/")[0].split("-")[0] for name in names} == {"emu"}, "one name in site-packages"
    lessons = {path.relative_to(ROOT) for path in (ROOT / "emu/learn/lessons").rglob("*") if path.is_file()}
    assert {str(path) for path in lessons} <= names
    modules = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"]["ext-modules"]
    native = {f"{module['name'].replace('.', '/')}.abi3.so" for module in modules}
    assert native == {name for name in names if name.endswith(".so")}
    assert not [name for name in names if name.startswith(("tests/", "docs/"))]
    for licence in ("LICENSE", "THIRD-PARTY.md"):
        assert any(name.endswith(f"licenses/{licence}") for name in names)

    # An empty environment, where no compiler is: nothing on PATH but what the environment brings.
    empty = tmp_path / "empty"
    run(sys.executable, "-m", "venv", "--without-pip", empty, cwd=tmp_path)
    bare = {"PATH": str(empty / "bin")}
    pip[-2:-2] = ["--python", str(empty / "bin" / "python")]
    run(*pip, "--only-binary", ":all:", wheel, cwd=elsewhere, environment=bare)
    emu, python = empty / "bin" / "emu", empty / "bin" / "python"

    def stranger(*words: str | Path, expect: int = 0) -> subprocess.CompletedProcess[str]:
        return run(*words, cwd=elsewhere, expect=expect, environment=bare)

    stranger(
        python, "-c", f"import emu, shutil; assert emu.__file__.startswith({str(empty)!r}) and not shutil.which('gcc')"
    )
    assert "hello" in stranger(emu, "guests").stdout
    assert "pool_recover" in stranger(emu, "guests", "--source", "commit-fixed").stdout
    assert "boot 1" in stranger(emu, "run", "hello", "--nvdimm", "file=pmem.img,size=64M").stdout
    assert "boot 2" in stranger(emu, "run", "hello", "--nvdimm", "file=pmem.img").stdout
    assert "NFIT" in stranger(emu, "acpi", "show", "--nvdimm", "file=pmem.img").stdout
    crash = stranger(emu, "crash", "commit-noflush", "--nvdimm", "file=pool.img,size=2M", "--json", expect=3)
    assert json.loads(crash.stdout)["failures"]
    stranger(emu, "crash", "commit-fixed", "--nvdimm", "file=pool.img,size=2M", "--json")
    assert "no C compiler" in stranger(emu, "learn").stdout
