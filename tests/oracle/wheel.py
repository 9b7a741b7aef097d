"""The wheel, made once for all examiners' processes, and environments in which nothing but it is installed."""

from __future__ import annotations

import fcntl
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterable, Iterator
from email import message_from_bytes
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.oracle.requirements import missing

ROOT = Path(__file__).parents[2]


def tool(*words: str | Path, cwd: Path | None = None) -> str:
    """What a program of this environment prints; it must succeed."""
    name = str(words[0])
    program = shutil.which(name, path=str(Path(sys.executable).parent))
    if program is None:
        missing(name, f"pip install {name.removeprefix('pyproject-')}")
    done = subprocess.run([str(program), *map(str, words[1:])], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, f"{words}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout + done.stderr


def built(factory: pytest.TempPathFactory) -> Path:
    """What `python -m build` makes of a copy of the tree: a source archive, and from it a wheel."""
    base = factory.getbasetemp()
    if base.name.startswith("popen-"):  # of pytest-xdist: a worker's folder lies in that of the whole run
        base = base.parent
    out = base / "dist"
    with (base / "dist.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not out.exists():
            copy, made = factory.mktemp("copy") / "emu", factory.mktemp("made")
            leave = shutil.ignore_patterns(
                ".git", ".venv", "build", "dist", "*.so", "__pycache__", "*.egg-info", ".*_cache", ".hypothesis"
            )
            shutil.copytree(ROOT, copy, symlinks=True, ignore=leave)
            tool("pyproject-build", "--outdir", made, copy)
            made.rename(out)
    return out


def installed(factory: pytest.TempPathFactory, extra: str = "", *others: str) -> Path:
    """The programs of a new environment: emu's wheel in it, with ``extra`` of its extras, and ``others``.

    No package index is asked. What this environment has stands in for it: pip finds each of its packages as a wheel.
    """
    wheels, environment = factory.mktemp("wheels"), factory.mktemp("environment") / "venv"
    (wheel,) = built(factory).glob("*.whl")
    for found in _needed([*_requirements(wheel, extra), *others]):
        _as_wheel(found, wheels)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    wanted = [f"emu[{extra}] @ {wheel.as_uri()}", *others]
    pip = [sys.executable, "-m", "pip", "--python", environment / "bin/python", "--disable-pip-version-check"]
    done = subprocess.run(
        [*map(str, pip), "install", "--no-index", "--find-links", wheels, *wanted], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "WARNING" not in done.stderr, done.stderr
    return environment / "bin"


def _requirements(wheel: Path, extra: str) -> list[str]:
    """What the wheel says that it needs."""
    with zipfile.ZipFile(wheel) as opened:
        (name,) = (each for each in opened.namelist() if each.endswith(".dist-info/METADATA"))
        metadata = message_from_bytes(opened.read(name))
    return [str(need).partition(";")[0] for need in _wanted(metadata.get_all("Requires-Dist", []), {extra})]


def _wanted(needs: Iterable[str], extras: Iterable[str]) -> Iterator[Requirement]:
    """Those of ``needs`` that are meant here and with these extras."""
    for need in map(Requirement, needs):
        if need.marker is None or any(need.marker.evaluate({"extra": extra}) for extra in ("", *extras)):
            yield need


def _needed(names: list[str]) -> Iterator[Distribution]:
    """The packages of this environment that ``names`` ask for, and what they need."""
    seen: set[str] = set()
    while names:
        requirement = Requirement(names.pop())
        if requirement.name in seen:
            continue
        seen.add(requirement.name)
        try:
            found = distribution(requirement.name)
        except PackageNotFoundError:
            missing(requirement.name, f"pip install {requirement.name}")
        yield found
        names += [str(need).partition(";")[0] for need in _wanted(found.requires or (), requirement.extras)]


def _as_wheel(found: Distribution, folder: Path) -> None:
    """The wheel that ``found`` was installed from, but for the programs, which pip makes anew."""
    tags = [line.partition(": ")[2] for line in (found.read_text("WHEEL") or "").splitlines() if line.startswith("Tag")]
    tag = "-".join(".".join(dict.fromkeys(part)) for part in zip(*(each.split("-") for each in tags), strict=True))
    name = found.metadata["Name"].replace("-", "_")
    with zipfile.ZipFile(folder / f"{name}-{found.version}-{tag}.whl", "w") as made:
        for file in found.files or ():
            if ".." not in file.parts and "__pycache__" not in file.parts:
                made.write(str(file.locate()), str(file))
