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
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
_ENGINE = ("hooks", "trace", "accesses", "system", "x87", "sse", "translate")
TREES = ("emu", "devices", "guest", "launcher", "tests", "docs", ".ci")
FILES = ("pyproject.toml", "README.md", "LICENSE", "MANIFEST.in", "CHANGELOG.md", "Makefile")
BUILD = """
import os, sys
from setuptools import build_meta
os.chdir(sys.argv[2])
getattr(build_meta, "build_" + sys.argv[1])(sys.argv[3])
"""


def run(*words: str | Path, cwd: Path, expect: int = 0) -> subprocess.CompletedProcess[str]:
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "VIRTUAL_ENV"))}
    command = [str(word) for word in words]
    ran = subprocess.run(command, cwd=cwd, capture_output=True, text=True, env=clean, stdin=subprocess.DEVNULL)
    assert ran.returncode == expect, f"{words}: status {ran.returncode}\n{ran.stdout[-3000:]}\n{ran.stderr[-3000:]}"
    return ran


@pytest.mark.slow
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
    engine = {f"emu/cpu/engine/_{name}.abi3.so" for name in _ENGINE}
    host = {"emu/host/_kernel.abi3.so", "emu/host/_pages.abi3.so"}
    assert host | engine == {name for name in names if name.endswith(".so")}
    assert not [name for name in names if name.startswith(("tests/", "docs/"))]
    assert any(name.endswith("licenses/LICENSE") for name in names)

    run(*pip, wheel, cwd=elsewhere)
    emu = venv / "bin" / "emu"
    run(python, "-c", f"import emu, sys; assert emu.__file__.startswith({str(venv)!r}), emu.__file__", cwd=elsewhere)
    assert "hello" in run(emu, "guests", cwd=elsewhere).stdout
    first = run(emu, "run", "hello", "--nvdimm", "file=pmem.img,size=64M", cwd=elsewhere)
    assert "boot 1" in first.stdout
    assert "boot 2" in run(emu, "run", "hello", "--nvdimm", "file=pmem.img", cwd=elsewhere).stdout
    assert "NFIT" in run(emu, "acpi", "show", "--nvdimm", "file=pmem.img", cwd=elsewhere).stdout
    crash = run(emu, "crash", "commit-noflush", "--nvdimm", "file=pool.img,size=2M", "--json", cwd=elsewhere, expect=3)
    assert json.loads(crash.stdout)["failures"]
    run(emu, "crash", "commit-fixed", "--nvdimm", "file=pool.img,size=2M", "--json", cwd=elsewhere)
