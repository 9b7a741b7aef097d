"""The pytest plugin: fixtures that run guests and crash them. Installed with emu, found by pytest by itself.

def test_survives(emu_run, nvdimm_file):
    pool = nvdimm_file("64M")
    assert emu_run("guest.elf", "--nvdimm", f"file={pool}").status == 0

def test_every_power_cut_recovers(emu_crash, nvdimm_file):
    assert emu_crash("guest.elf", "--nvdimm", f"file={nvdimm_file('2M')}").recovers
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from emu.testing.results import CrashResult, RunResult

_TIMEOUT = 120.0
_reports: pytest.StashKey[list[tuple[str, str]]] = pytest.StashKey()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("emu")
    group.addoption("--emu-dax-dir", metavar="DIR", help="put NVDIMM files there, for example on a DAX file system")


@pytest.fixture
def nvdimm_file(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """A factory of zeroed NVDIMM files: ``nvdimm_file("64M")`` gives the path of a new one; removed afterwards."""
    from emu.units import parse_size

    folder = Path(request.config.getoption("--emu-dax-dir") or tmp_path)
    made: list[Path] = []

    def make(size: str = "64M") -> Path:
        path = folder / f"nvdimm-{tmp_path.name}-{len(made)}.img"
        with path.open("xb") as file:
            file.truncate(parse_size(size))
        made.append(path)
        return path

    yield make
    for path in made:
        path.unlink(missing_ok=True)


def _remember(request: pytest.FixtureRequest, title: str, text: str) -> None:
    request.node.stash.setdefault(_reports, []).append((title, text))


@pytest.fixture
def emu_run(request: pytest.FixtureRequest) -> Callable[..., RunResult]:
    """Runs a guest: ``emu_run(image, *options, timeout=120)``; a failing test shows its serial output.

    Raises ``emu.testing.EmuRefused`` with emu's own words when there is no result.
    """
    from emu.testing.results import RunResult, emu

    def run(image: str | Path, *options: str, timeout: float = _TIMEOUT) -> RunResult:
        result = RunResult(*emu(["run", str(image), *options], timeout))
        _remember(request, f"emu run {image}", f"{result.serial}{result.stderr}")
        return result

    return run


@pytest.fixture
def emu_crash(request: pytest.FixtureRequest) -> Callable[..., CrashResult]:
    """Cuts the power of a guest everywhere: ``emu_crash(image, *options, timeout=120)``.

    Raises ``emu.testing.EmuRefused`` with emu's own words when there is no result.
    """
    from emu.testing.results import CrashResult, emu

    def crash(image: str | Path, *options: str, timeout: float = _TIMEOUT) -> CrashResult:
        result = CrashResult(*emu(["crash", str(image), *options], timeout))
        failures = "\n".join(str(failure) for failure in result.document.get("failures", []))
        _remember(request, f"emu crash {image}", f"{failures}{result.stderr}")
        return result

    return crash


@pytest.fixture
def emu_cc(tmp_path: Path) -> Callable[..., Path]:
    """Builds a guest as ``emu cc`` does: ``emu_cc("log.c", "-O2", "-DDEBUG")`` gives the path of the image.

    Raises ``emu.testing.EmuRefused`` with the compiler's own words.
    """
    from emu.testing.results import compile_guest

    made: list[Path] = []

    def build(*words: str | Path) -> Path:
        image = tmp_path / f"guest-{len(made)}.elf"
        compile_guest(words, image)
        made.append(image)
        return image

    return build


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    outcome = yield
    report = outcome.get_result()  # type: ignore[attr-defined]  # pluggy hands the outcome in by send()
    if report.failed:
        report.sections.extend(item.stash.get(_reports, []))
