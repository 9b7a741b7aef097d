"""What a package index and a stranger's machine are told about us, and what the repository must hold for it."""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest

import emu

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


@pytest.fixture(scope="module")
def committed() -> list[str]:
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("needs a git checkout (on Debian: apt-get install git)")
    listed = subprocess.run(
        ["git", "-C", ROOT, "-c", "safe.directory=*", "ls-files", "-z"], capture_output=True, text=True
    )
    assert listed.returncode == 0, listed.stderr
    return [name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]


def test_it_is_free_software(project: dict[str, Any]) -> None:
    assert project["project"]["license"] == "MIT"
    licence = (ROOT / "LICENSE").read_text()
    assert licence.startswith("MIT License")
    assert "WITHOUT WARRANTY OF ANY KIND" in licence


def test_one_version(project: dict[str, Any]) -> None:
    version = project["project"]["version"]
    assert emu.__version__ == version
    assert f"## {version}" in (ROOT / "CHANGELOG.md").read_text()


def test_every_package_is_found(project: dict[str, Any]) -> None:
    """A folder with modules but without __init__.py would be missing from the wheel."""
    assert project["tool"]["setuptools"]["packages"]["find"]["include"] == ["emu*"]
    for link in ("devices", "guest"):
        assert (ROOT / "emu" / link).readlink() == Path("..", link)
    projects = ROOT / "emu" / "cli" / "projects"  # what `emu new` copies
    for top in ("emu", "devices"):
        for module in (path for path in (ROOT / top).rglob("*.py") if projects not in path.parents):
            assert (module.parent / "__init__.py").exists(), module


def test_data_patterns_match_something(project: dict[str, Any]) -> None:
    for package, patterns in project["tool"]["setuptools"]["package-data"].items():
        for pattern in patterns:
            assert list((ROOT / package.replace(".", "/")).glob(pattern)), f"{package}: {pattern}"


def test_every_native_module_is_declared_and_committed(project: dict[str, Any], committed: list[str]) -> None:
    declared = {module["name"]: module for module in project["tool"]["setuptools"]["ext-modules"]}
    sources = (path.relative_to(ROOT) for path in (ROOT / "emu").glob("**/_*.cdef.txt"))
    names = {str(path).removesuffix(".cdef.txt") for path in sources}
    assert {name.rpartition("/")[0] for name in names} == {"emu/host", "emu/cpu/engine", "emu/persistence/lab"}
    assert set(declared) == {name.replace("/", ".") for name in names}
    for name in names:
        assert declared[name.replace("/", ".")]["py-limited-api"] is True
        for ending in (".c", ".cdef.txt", ".csrc.c"):
            assert f"{name}{ending}" in committed


def included(file: Path) -> set[str]:
    """The headers of ours that ``file`` includes, and that they include."""
    names = re.findall(r'^#include "(.+)"$', file.read_text(), re.MULTILINE)
    return set(names).union(*(included(file.parent / name) for name in names))


def test_a_native_module_is_built_again_when_a_header_changes(project: dict[str, Any]) -> None:
    for module in project["tool"]["setuptools"]["ext-modules"]:
        source = ROOT / module["sources"][0].replace(".c", ".csrc.c")
        files = {source.name} | included(source)
        assert set(module["depends"]) == {str((source.parent / name).relative_to(ROOT)) for name in files}


def test_generated_files_are_not_committed(committed: list[str]) -> None:
    endings = (".so", ".pyc", ".whl", ".o")
    assert [name for name in committed if name.endswith(endings)] == []


def test_no_file_names_the_machine_it_was_written_on(committed: list[str]) -> None:
    """Absolute paths of somebody's home or workplace, and package indexes, mean nothing to a stranger."""
    places = re.compile(rb"(?<![\w.*-])/(?:work|home|root|Users)/\w|(?:pypi|pythonhosted|deb\.debian)\.org")
    found = []
    for name in committed:
        if (ROOT / name).is_dir():  # a link
            continue
        content = (ROOT / name).read_bytes()
        if b"\0" in content or Path(name).name == Path(__file__).name:
            continue
        found += [f"{name}: {match[0].decode()}" for match in places.finditer(content)]
    assert found == []


def test_the_ci_script_installs_everything_itself() -> None:
    """Every outside program that a test asks for by its Debian package is in the script's list."""
    script = (ROOT / ".ci" / "run").read_text()
    listed = re.search(r"packages=\(([^)]*)\)", script)
    assert listed
    packages = set(listed[1].split())
    asked = set()
    for test in (ROOT / "tests").rglob("*.py"):
        text = test.read_text()
        asked |= set(re.findall(r"require\(\s*\"[^\"]+\",\s*\"([^\"]+)\"", text))
        asked |= set(re.findall(r"apt(?:-get)? install ([a-z0-9][a-z0-9.+-]+)", text))
    essential = {"dpkg", "build-essential", "git"}
    assert asked - essential - packages == set()
