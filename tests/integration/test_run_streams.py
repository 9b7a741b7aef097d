"""Standard streams that are closed, full, without a reader or of another encoding do not change a command's verdict."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.run_emu import EMU, PATIENCE_S, emu

ODD_NAME = b"odd\xff\x1b[31m.img"
COMMANDS: dict[str, tuple[str | bytes, ...]] = {
    "guest": ("run", "hello", "--nvdimm", "file=pool"),
    "guest's verdict": ("run", "verify", "--quiet", "--nvdimm", "file=pool"),
    "guest's words and verdict": ("run", "hello"),
    "document": ("run", "hello", "--json", "--nvdimm", "file=pool"),
    "help": ("run", "--nvdimm", "help"),
    "usage": ("run",),
    "labels": ("label", "check", "pool"),
    "odd name": ("probe", ODD_NAME),
    "nothing there": ("probe", "nosuch"),
    "dump": ("acpi", "dump", "--table", "FACP"),
}


@contextlib.contextmanager
def stream(kind: str) -> Iterator[int]:
    """A descriptor to write to that is not as one expects."""
    if kind == "full":
        descriptor = os.open("/dev/full", os.O_WRONLY)
    else:
        other, descriptor = os.pipe()
        os.close(other)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def run(words: tuple[str | bytes, ...], *, out: str, errors: str) -> subprocess.CompletedProcess[bytes]:
    closing = "".join(f" {number}>&-" for number, kind in ((1, out), (2, errors)) if kind == "closed")
    command = ["sh", "-c", f'exec "$@"{closing}', "sh", *EMU, *words]
    with stream(out) as out_to, stream(errors) as errors_to:
        return subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE if out == "good" else out_to,
            stderr=subprocess.PIPE if errors == "good" else errors_to,
            timeout=PATIENCE_S,
        )


@pytest.mark.parametrize("name", COMMANDS)
def test_streams_do_not_change_the_verdict(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for file in (b"pool", ODD_NAME):
        Path(os.fsdecode(file)).write_bytes(bytes(1 << 20))
    words = COMMANDS[name]
    good = run(words, out="good", errors="good")
    assert b"\x1b" not in good.stdout + good.stderr
    for kind in ("closed", "full", "broken"):
        silent = run(words, out="good", errors=kind)
        assert (silent.returncode, len(silent.stdout.splitlines())) == (good.returncode, len(good.stdout.splitlines()))
        deaf = run(words, out=kind, errors="good")
        assert b"Traceback" not in deaf.stderr
        assert b"Exception ignored" not in deaf.stderr
        if kind == "full" and good.stdout:
            # What was asked for did not arrive: said, and never success; a verdict that was reached stays.
            assert b"No space left on device" in deaf.stderr
            assert deaf.returncode == (good.returncode or 4)
        else:
            assert deaf.returncode == good.returncode
            assert len(deaf.stderr.splitlines()) == len(good.stderr.splitlines())


def test_a_verdict_outlives_its_lost_words(tmp_path: Path) -> None:
    pool = tmp_path / "pool"
    words = ("crash", "commit-noflush", "--nvdimm", f"file={pool},size=2M")
    done = run(words, out="full", errors="good")
    assert done.returncode == 3
    assert done.stderr == b"emu: cannot write the output: No space left on device\n     send it to a place with room\n"


def test_a_guest_that_goes_on_writing_to_nobody_is_ended(tmp_path: Path) -> None:
    image = tmp_path / "guest.bin"
    image.write_bytes(bytes.fromhex("66baf803b061eeebfb"))  # mov dx, 3F8h; mov al, 'a'; out dx, al; jmp back
    done = run(("run", str(image), "--timeout", "50"), out="broken", errors="good")
    assert done.returncode == 4
    assert b"whose reader has gone" in done.stderr
    done = run(("run", str(image), "--timeout", "50"), out="full", errors="good")
    assert done.returncode == 4
    assert b"No space left on device" in done.stderr


FIFO_WORDS = {
    "serial": ["count", "--append", "0", "-serial", "file:fifo"],
    "debug console": ["debugcon.bin", "-serial", "none", "-debugcon", "file:fifo"],
    "snapshot": ["--incoming", "file:fifo"],
}


@pytest.mark.parametrize("name", FIFO_WORDS)
def test_a_fifo_without_another_end_outlasts_neither_timeout_nor_signal(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    os.mkfifo("fifo")
    Path("debugcon.bin").write_bytes(bytes.fromhex("b061e6e9ebfa"))  # mov al, 'a'; out E9h, al; jmp back
    words = ["run", *FIFO_WORDS[name], "--quiet"]
    assert emu(*words, "--timeout", "0.2", timeout=30).status == 124
    process = subprocess.Popen(
        [*EMU, *words], stdin=subprocess.DEVNULL, stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # noqa: PLW1509 - no thread forks
    )  # fmt: skip
    end = time.monotonic() + PATIENCE_S
    while threads_of(process.pid) < 2 and time.monotonic() < end:  # the machine has one of its own
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130
    assert errors.splitlines()[0].startswith(b"emu: interrupted")


def threads_of(process: int) -> int:
    return len(list(Path(f"/proc/{process}/task").iterdir()))


def test_a_fifo_may_be_read_later(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    process = subprocess.Popen([*EMU, "run", "hello", "--quiet", "-serial", f"file:{fifo}"], stdin=subprocess.DEVNULL)
    time.sleep(0.3)
    assert fifo.read_text() == "no NVDIMM found\n"
    assert process.wait(PATIENCE_S) == 5


@pytest.mark.parametrize("encoding", ["ascii", "utf-8", "utf-8:strict", "latin-1", "utf-16"])
def test_encodings_and_names_that_are_none(encoding: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path(os.fsdecode(ODD_NAME)).write_bytes(bytes(1 << 20))
    monkeypatch.setenv("PYTHONIOENCODING", encoding)
    for words in (("label", "init", ODD_NAME), ("probe", ODD_NAME), ("run", "hello", "--nvdimm", b"file=" + ODD_NAME)):
        done = subprocess.run([*EMU, *words], stdin=subprocess.DEVNULL, capture_output=True, timeout=PATIENCE_S)
        said = "".join(text.decode(encoding.partition(":")[0], "replace") for text in (done.stdout, done.stderr))
        assert done.returncode == 0, said
        if words[0] == "run":  # the guest's bytes are its own
            assert b"hello, persistent world" in done.stdout
        assert r"odd\xff\x1b[31m.img" in said
    monkeypatch.delenv("PYTHONIOENCODING")
    document = emu("label", "check", "--json", os.fsdecode(ODD_NAME)).document
    assert os.fsencode(document["dev"]) == ODD_NAME


def test_lines_for_a_person_wrap_at_words() -> None:
    ours, theirs = os.openpty()
    termios.tcsetwinsize(theirs, (24, 60))
    process = subprocess.Popen(["setsid", *EMU, "run", "hello", "-monitor", "stdio"], stderr=theirs)
    assert process.wait(PATIENCE_S) == 2
    os.close(theirs)
    lines = os.read(ours, 4096).decode().split("\r\n")
    os.close(ours)
    assert lines == [
        "emu: -monitor is not an option of 'emu run'",
        "     the monitor is QMP: -qmp unix:PATH,server=on,wait=off;",
        "     'emu migrate --qmp PATH' uses it",
        "",
    ]
