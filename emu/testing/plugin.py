"""The pytest plugin: fixtures that run guests and crash them. Installed with emu, found by pytest by itself.

def test_survives(emu_run, nvdimm_file):
    pool = nvdimm_file("64M")
    assert emu_run("guest.elf", "--nvdimm", f"file={pool}").status == 0

def test_every_power_cut_recovers(emu_crash):
    emu_crash("guest.elf", "--nvdimm", "size=2M").assert_recovers()
"""

from __future__ import annotations

import os
import re
import shutil
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pytest

if TYPE_CHECKING:
    from emu.testing.machine import RunningMachine
    from emu.testing.results import CrashResult, RunResult

_TIMEOUT = 120.0
_SHOWN = 3
_LONGEST_NAME = 80


class _Reported(Protocol):
    """What fixtures hand out, and a failing test shows."""

    @property
    def report(self) -> str: ...

    @property
    def command(self) -> str: ...


@dataclass
class _Place:
    """Where one test's files are, and what it came to."""

    folder: Path
    results: list[_Reported] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)
    failed: bool = False

    def keep(self) -> Path:
        """A new folder for the findings of one more ``emu crash``."""
        folder = self.folder / f"crash-{len(self.results) + 1}"
        folder.mkdir(parents=True, exist_ok=True)
        return folder


_place: pytest.StashKey[_Place] = pytest.StashKey()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("emu")
    group.addoption("--emu-dax-dir", metavar="DIR", help="put NVDIMM files there, for example on a DAX file system")
    group.addoption(
        "--emu-artifacts",
        metavar="DIR",
        help="keep what failing tests leave there: report pages, memories that fail, NVDIMM files; a folder for each",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Look at the folders once, before the first test."""
    from emu.errors import EmuError

    folder = config.getoption("--emu-dax-dir")
    if folder is not None:
        if not os.path.isdir(folder) or not os.access(folder, os.W_OK | os.X_OK):  # noqa: PTH112 - any name may come
            raise pytest.UsageError(f"--emu-dax-dir {folder}: not a directory that one may write to")
        from emu.host.probe import probe_path

        try:
            probe_path(folder)
        except EmuError as error:
            raise pytest.UsageError(f"--emu-dax-dir {folder}: {error}") from None
    kept = config.getoption("--emu-artifacts")
    if kept is not None:
        try:
            Path(kept).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            problem = "not a folder" if os.path.lexists(kept) else error.strerror
            raise pytest.UsageError(f"--emu-artifacts {kept}: {problem}") from None


def pytest_report_header(config: pytest.Config) -> list[str]:
    """What files in --emu-dax-dir can promise: tests that need more will fail, and this says why."""
    folder = config.getoption("--emu-dax-dir")
    if folder is None:
        return []
    from emu.host.probe import probe_path

    found = probe_path(folder)
    return [f"emu: NVDIMM files in {folder}: MAP_SYNC {'yes' if found.map_sync else 'no'} ({found.why})"]


@pytest.fixture
def _emu_place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[_Place]:
    kept = request.config.getoption("--emu-artifacts")
    place = _Place(tmp_path if kept is None else Path(kept).absolute() / _folder_name(request.node.nodeid))
    request.node.stash[_place] = place
    yield place
    if kept is not None and not place.failed:
        shutil.rmtree(place.folder, ignore_errors=True)


def _folder_name(test: str) -> str:
    """A name for a folder that tells whose it is, the same in every run."""
    name = re.sub(r"[^\w.-]+", "-", test)
    return name if len(name) <= _LONGEST_NAME else f"{zlib.crc32(test.encode()):08x}-{name[-_LONGEST_NAME:]}"


@pytest.fixture
def nvdimm_file(request: pytest.FixtureRequest, _emu_place: _Place) -> Iterator[Callable[[str | int], Path]]:
    """A factory of zeroed NVDIMM files: ``nvdimm_file("64M")``, or bytes, gives the path of a new one.

    Removed afterwards, unless the test failed.
    """
    from emu.units import parse_size

    dax = request.config.getoption("--emu-dax-dir")
    folder = _emu_place.folder if dax is None else Path(dax)
    prefix = "nvdimm" if dax is None else f"nvdimm-{_folder_name(request.node.nodeid)}-{os.getpid()}"

    def make(size: str | int = "64M") -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{prefix}-{len(_emu_place.files)}.img"
        with path.open("xb") as file:
            file.truncate(size if isinstance(size, int) else parse_size(size))
        _emu_place.files.append(path)
        return path

    yield make
    if not _emu_place.failed:
        for path in _emu_place.files:
            path.unlink(missing_ok=True)


@pytest.fixture
def emu_run(_emu_place: _Place) -> Callable[..., RunResult]:
    """Runs a guest: ``emu_run(image, *options, timeout=120)``; a failing test shows its serial output.

    Raises ``emu.testing.EmuRefused`` with emu's own words when there is no result.
    """
    from emu.testing import commands

    def run(image: str | Path, *options: str | Path, timeout: float = _TIMEOUT) -> RunResult:
        __tracebackhide__ = True
        result = commands.run(image, *options, timeout=timeout)
        _emu_place.results.append(result)
        return result

    return run


@pytest.fixture
def emu_crash(_emu_place: _Place) -> Callable[..., CrashResult]:
    """Cuts the power of a guest everywhere: ``emu_crash(image, *options, timeout=120)``; a failing test shows why it
    does not recover, and where its report page and the memories are.

    Raises ``emu.testing.EmuRefused`` with emu's own words when there is no result.
    """
    from emu.testing import commands

    def crash(image: str | Path, *options: str | Path, timeout: float = _TIMEOUT) -> CrashResult:
        __tracebackhide__ = True
        result = commands.crash(image, *options, timeout=timeout, keep=_emu_place.keep())
        _emu_place.results.append(result)
        return result

    return crash


@pytest.fixture
def _emu_machines(_emu_place: _Place) -> Iterator[Callable[[RunningMachine], RunningMachine]]:
    """Takes machines that run beside the test, and ends them with it."""
    machines: list[RunningMachine] = []

    def keep(machine: RunningMachine) -> RunningMachine:
        machines.append(machine)
        _emu_place.results.append(machine)
        return machine

    yield keep
    for machine in machines:
        machine.close()


@pytest.fixture
def emu_machine(_emu_machines: Callable[[RunningMachine], RunningMachine]) -> Callable[..., RunningMachine]:
    """Starts a machine beside the test: ``emu_machine(image, *options)`` gives an ``emu.testing.RunningMachine``, with
    ``wait_for("ready")``, ``type("put a 1\\n")``, ``wait()``; ended when the test ends.
    """
    from emu.testing.machine import RunningMachine

    def start(image: str | Path, *options: str | Path, qmp: bool = False) -> RunningMachine:
        __tracebackhide__ = True
        return _emu_machines(RunningMachine(image, *options, qmp=qmp))

    return start


@pytest.fixture
def emu_qmp(emu_machine: Callable[..., RunningMachine]) -> Callable[..., RunningMachine]:
    """As ``emu_machine``, with a monitor: ``emu_qmp(image, *options).qmp.execute("query-status")``."""

    def start(image: str | Path, *options: str | Path) -> RunningMachine:
        __tracebackhide__ = True
        return emu_machine(image, *options, qmp=True)

    return start


@pytest.fixture
def emu_migrate(_emu_machines: Callable[[RunningMachine], RunningMachine]) -> Callable[..., RunningMachine]:
    """Moves a machine of ``emu_qmp`` to a new one: ``emu_migrate(machine, *options_of_the_new_one)`` gives that.

    Raises ``emu.testing.EmuRefused`` with emu's own words when the move fails; then the first machine runs on.
    """
    from emu.testing.machine import migrate

    def move(source: RunningMachine, *options: str | Path, timeout: float = _TIMEOUT) -> RunningMachine:
        __tracebackhide__ = True
        return _emu_machines(migrate(source, *options, timeout=timeout))

    return move


@pytest.fixture
def emu_cc(_emu_place: _Place) -> Callable[..., Path]:
    """Builds a guest as ``emu cc`` does: ``emu_cc("log.c", "-O2", "-DDEBUG")`` gives the path of the image.

    Raises ``emu.testing.EmuRefused`` with the compiler's own words.
    """
    from emu.testing import commands

    made: list[Path] = []

    def build(*words: str | Path) -> Path:
        __tracebackhide__ = True
        _emu_place.folder.mkdir(parents=True, exist_ok=True)
        made.append(commands.cc(*words, output=_emu_place.folder / f"guest-{len(made)}.elf"))
        return made[-1]

    return build


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    outcome = yield
    report: pytest.TestReport = outcome.get_result()  # type: ignore[attr-defined]  # pluggy hands it in by send()
    place = item.stash.get(_place, None)
    if place is None or not report.failed:
        return
    place.failed = True
    # What the failure itself says need not be said again.
    said = getattr(call.excinfo.value, "result", None) if call.excinfo is not None else None
    for result in place.results[-_SHOWN:]:
        if result is not said:
            _add(report, result.command, result.report)
        item.user_properties.append(("emu command", result.command))
        page = getattr(result, "page", None)
        if page is not None:
            item.user_properties.append(("emu report page", str(page)))
    if place.files:
        _add(report, "NVDIMM files, kept", "\n".join(map(str, place.files)))


def _add(report: Any, title: str, text: str) -> None:
    """Show ``text`` with the failure: as part of it where that can be, so that it is in JUnit XML too."""
    add = getattr(report.longrepr, "addsection", None)
    if add is None:
        report.sections.append((title, text))
    else:
        add(title, text)
