"""The program ``emu``: starts ``emu-python``, which lies beside it, so that no Ctrl-C meets Python while it starts."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PATIENCE_S = 60
SHOTS = 25


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where emu is installed, as an installer does it: with the interpreter in the first line of the script."""
    if shutil.which("gcc") is None:
        pytest.skip("needs a compiler (on Debian: apt-get install gcc)")
    folder = tmp_path_factory.mktemp("with a space")
    subprocess.run(["gcc", "-Wall", "-Wextra", "-Werror", "-o", folder / "emu", ROOT / "launcher/emu.c"], check=True)
    install(folder, ROOT.joinpath("launcher/emu-python").read_text())
    return folder


def install(folder: Path, script: str) -> None:
    assert script.startswith("#!python\n")
    folder.joinpath("emu-python").write_text(script.replace("#!python", f"#!{sys.executable}", 1))


def start(*command: str | Path, before: object) -> subprocess.Popen[bytes]:
    def prepare() -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        signal.signal(signal.SIGINT, before)  # type: ignore[arg-type]  # a test runner may be ignoring it
        os.kill(os.getpid(), signal.SIGINT)

    return subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment(),
        preexec_fn=prepare,  # noqa: PLW1509 - no other thread forks here
    )  # fmt: skip


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT)}


def test_arguments_arrive_and_sigint_waits(folder: Path, tmp_path: Path) -> None:
    shutil.copy2(folder / "emu", tmp_path / "emu")
    install(
        tmp_path,
        "#!python\nimport signal, sys\nprint(signal.pthread_sigmask(signal.SIG_BLOCK, ()), ascii(sys.argv[1:]))\n",
    )
    link = tmp_path / "elsewhere" / "link"
    link.parent.mkdir()
    link.symlink_to(tmp_path / "emu")
    for command in (tmp_path / "emu", link):
        done = subprocess.run([command, "a b", "", b"\xff"], capture_output=True, timeout=PATIENCE_S)
        assert done.stdout.decode() == f"{{{signal.SIGINT!r}}} ['a b', '', '\\udcff']\n", done.stderr


def test_a_ctrl_c_before_python_is_there_is_neither_lost_nor_a_traceback(folder: Path) -> None:
    process = start(folder / "emu", "run", "count", "--append", "0", before=signal.SIG_DFL)
    assert process.communicate(timeout=PATIENCE_S) == (b"", b"")
    assert process.returncode == -signal.SIGINT


def test_a_ctrl_c_that_is_ignored_stays_ignored(folder: Path) -> None:
    process = start(folder / "emu", "--version", before=signal.SIG_IGN)
    out, errors = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, out[:4], errors) == (0, b"emu ", b"")


def test_a_ctrl_c_at_any_moment_of_the_start(folder: Path, tmp_path: Path) -> None:
    endless = ["run", "count", "--append", "0", "--nvdimm", f"file={tmp_path}/log,size=16M", "-serial", "none"]
    chance = random.Random(43)
    for _ in range(SHOTS):
        process = subprocess.Popen(
            [folder / "emu", *endless, "--quiet"], env=environment(),
            stdin=subprocess.DEVNULL, stderr=subprocess.PIPE,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509 - as above
        )  # fmt: skip
        time.sleep(chance.uniform(0, 0.1))
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=PATIENCE_S)
        assert process.returncode in (-signal.SIGINT, 130), errors
        assert b"Traceback" not in errors


@pytest.mark.parametrize(
    ("script", "words"), [(None, "No such file"), ("", "it is empty"), ("#!/no/python\n", "cannot start /no/python")]
)
def test_half_an_installation_is_said(folder: Path, tmp_path: Path, script: str | None, words: str) -> None:
    shutil.copy2(folder / "emu", tmp_path / "emu")
    if script is not None:
        tmp_path.joinpath("emu-python").write_text(script)
    done = subprocess.run([tmp_path / "emu"], capture_output=True, text=True, timeout=PATIENCE_S)
    assert (done.returncode, done.stdout) == (4, "")
    assert done.stderr.startswith("emu: ")
    assert words in done.stderr
    assert done.stderr.count("\n") == 2


def test_a_worker_that_reads_the_script_does_not_start_the_command_again(folder: Path) -> None:
    """As ``multiprocessing`` does in each process that ``--jobs`` starts."""
    code = "import runpy, sys; runpy.run_path(sys.argv[1], run_name='__mp_main__')"
    command = [sys.executable, "-c", code, str(folder / "emu-python")]
    done = subprocess.run(command, capture_output=True, env=environment(), timeout=PATIENCE_S)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_standard_streams_may_be_folders(folder: Path, tmp_path: Path) -> None:
    """Python would not start (status 1): a descriptor that gives nothing and takes nothing stands in for them."""
    install(
        tmp_path,
        "#!python\nimport os\nseen = [os.path.realpath(f'/proc/self/fd/{n}') for n in range(3)]\n"
        "print(seen, file=open('seen', 'w'))\n",
    )
    shutil.copy2(folder / "emu", tmp_path / "emu")
    opened = os.open("/", os.O_RDONLY)
    try:
        done = subprocess.run(
            [tmp_path / "emu"], stdin=opened, stdout=opened, stderr=opened, cwd=tmp_path, timeout=PATIENCE_S
        )
    finally:
        os.close(opened)
    assert done.returncode == 0
    assert (tmp_path / "seen").read_text() == "['/dev/null', '/dev/null', '/dev/null']\n"
