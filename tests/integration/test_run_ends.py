"""How runs end: exit statuses, JSON, serial output and input, signals, timeouts, resets."""

from __future__ import annotations

import os
import pty
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.integration.run_emu import EMU, PATIENCE_S, emu

HALT = b"\xf4"
SPIN = b"\xeb\xfe"
INVALID = b"\x0f\x0b"
NULL_POINTER = bytes.fromhex("48b80000adde007f0000488b18")  # mov rax, 0x7f00dead0000; mov rbx, [rax]
POWER_OFF = bytes.fromhex("66ba040666b8002066efebfe")
SAY_DB = bytes.fromhex("b064e6e9b062e6e9b00ae6e9f4")  # "db\n" to the debug console; hlt
# Poll the line status of COM1 for data, send it back; hlt at Ctrl-D
COPY = bytes.fromhex("66bafd03eca80174fb66baf803ec3c047403eeebebf4")
# inc qword [4 GiB]; below 3, reset by port 0xCF9; then power off
REBOOT = bytes.fromhex("48b8000000000100000048ff0048833803730966baf90cb006eeebfe66ba040666b8002066efebfe")
# mov rbx, 0x1122334455667788; store it at 4 GiB, read it back; if the same, 7 to the exit port; hlt
HIGH = bytes.fromhex("48b8000000000100000048bb8877665544332211488918488b084839d97504b007e6f4f4")


@pytest.fixture
def image(tmp_path: Path) -> Path:
    return tmp_path / "guest.bin"


def say(value: int, port: int = 0xF4) -> bytes:
    """mov al, value; mov dx, port; out dx, al; jmp $"""
    return bytes((0xB0, value, 0x66, 0xBA)) + port.to_bytes(2, "little") + b"\xee\xeb\xfe"


@pytest.mark.parametrize(
    ("code", "reason", "status", "value"),
    [
        (POWER_OFF, "power-off", 0, None),
        (HALT, "halt", 0, None),
        (say(0), "exit-port", 1, 0),
        (say(42), "exit-port", 85, 42),
        (INVALID, "triple-fault", 6, None),
        (SPIN, "timeout", 124, None),
    ],
)
def test_statuses_and_the_document(image: Path, code: bytes, reason: str, status: int, value: int | None) -> None:
    image.write_bytes(code)
    result = emu("run", image, "--json", "--timeout", "0.5" if reason == "timeout" else "60")
    document = result.document
    assert [*document] == ["schema", "exit", "nvdimms", "serial", "duration_s"]
    assert document["schema"] == "emu.run/1"
    assert document["exit"] == {"reason": reason, "status": status, "code": value}
    assert document["nvdimms"] == []
    assert document["serial"] == ""
    assert 0 < document["duration_s"] < PATIENCE_S
    assert result.status == status
    assert len(result.errors) == (reason in ("triple-fault", "timeout"))


@pytest.mark.parametrize(
    ("code", "words"),
    [(INVALID, ("#UD", "0x100000")), (NULL_POINTER, ("#PF", "0x10000a", "0x7f00dead0000"))],
    ids=["invalid", "page fault"],
)
def test_a_crash_names_the_exception_and_the_place(image: Path, code: bytes, words: tuple[str, ...]) -> None:
    image.write_bytes(code)
    result = emu("run", image)
    assert (result.status, result.out, len(result.errors)) == (6, "", 1)
    assert all(word in result.errors[0] for word in ("emu: triple-fault: ", *words))


def test_the_document_describes_each_nvdimm(tmp_path: Path) -> None:
    first, second = tmp_path / "a.img", tmp_path / "b.img"
    document = emu(
        "run", "hello", "--json", "--nvdimm", f"file={first},size=2M,label-size=128K,id=left",
        "--nvdimm", f"file={second},size=4M,sync=off,unarmed=on",
    ).document  # fmt: skip
    left, right = document["nvdimms"]
    keys = ["id", "file", "size", "label_size", "gpa", "slot", "unarmed", "sync", "granularity", "survives"]
    assert [*left] == [*right] == keys
    assert [*left["sync"]] == ["requested", "effective", "why"]
    assert [*left["survives"]] == ["guest_crash", "emulator_kill", "host_power_loss"]
    described = [(nvdimm["id"], nvdimm["file"], nvdimm["size"], nvdimm["label_size"]) for nvdimm in (left, right)]
    assert described == [("left", str(first), (2 << 20) - (128 << 10), 128 << 10), (None, str(second), 4 << 20, 0)]
    assert [nvdimm["slot"] for nvdimm in (left, right)] == [0, 1]
    assert [nvdimm["unarmed"] for nvdimm in (left, right)] == [False, True]
    assert [nvdimm["sync"]["requested"] for nvdimm in (left, right)] == ["auto", "off"]
    assert left["gpa"] == 4 << 30
    assert right["gpa"] >= left["gpa"] + left["size"]
    assert "boot 1: hello, persistent world" in document["serial"]


def test_a_reset_boots_again_and_keeps_the_nvdimm(image: Path, tmp_path: Path) -> None:
    image.write_bytes(REBOOT)
    nvdimm = tmp_path / "pmem.img"
    assert emu("run", image, "--quiet", "--nvdimm", f"file={nvdimm},size=1M").status == 0
    assert nvdimm.read_bytes()[:8] == (3).to_bytes(8, "little")
    nvdimm.write_bytes(bytes(1 << 20))
    document = emu("run", image, "-no-reboot", "--json", "--nvdimm", f"file={nvdimm}").document
    assert document["exit"] == {"reason": "reset", "status": 0, "code": None}
    assert nvdimm.read_bytes()[:8] == (1).to_bytes(8, "little")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_end_a_busy_guest_cleanly(tmp_path: Path, number: signal.Signals) -> None:
    nvdimm = tmp_path / "pmem.img"
    command = [*EMU, "run", "count", "--json", "--timeout", "60", "--nvdimm", f"file={nvdimm},size=1M"]

    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    end = time.monotonic() + PATIENCE_S
    while not (nvdimm.exists() and nvdimm.stat().st_size and nvdimm.read_bytes()[4096:4104] != bytes(8)):
        assert time.monotonic() < end
        time.sleep(0.02)
    process.send_signal(number)
    out, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130
    assert b'"reason": "interrupted"' in out
    assert errors == f"emu: interrupted: {number.name}\n".encode()


def test_a_signal_that_was_ignored_stays_ignored(image: Path) -> None:
    image.write_bytes(SPIN)
    command = ["sh", "-c", 'trap "" HUP; exec "$@"', "sh", *EMU, "run", str(image), "--timeout", "2"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE)
    time.sleep(1)
    process.send_signal(signal.SIGHUP)
    process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 124


def test_the_start_up_line_is_one_per_nvdimm_and_says_what_is_not_promised(tmp_path: Path) -> None:
    deep = tmp_path / ("deep" * 30)
    deep.mkdir()
    dimms = ("--nvdimm", f"file={tmp_path}/a,size=1M", "--nvdimm", f"file={deep}/b,size=1M,sync=off")
    result = emu("run", "hello", *dimms)
    assert result.status == 0
    assert len(result.errors) == 2
    for name, line in zip("ab", result.errors, strict=True):
        assert line.startswith("emu: nvdimm")
        assert f"/{name} survives guest crash and kill -9, NOT host power loss" in line
        assert len(line) < 100
    (named,) = emu("run", "hello", "--nvdimm", f"file={deep}/c,size=1M,id={'m' * 100}").errors
    assert re.fullmatch(
        r"emu: \.\.\.m+: 1 MiB on \.\.\..*/c survives guest crash and kill -9, NOT host power loss", named
    )
    assert len(named) < 100
    assert emu("run", "hello", "--quiet", *dimms).errors == ()


@pytest.mark.parametrize(
    ("key", "promise"),
    [
        ("share=off", "survives guest crash, NOT kill -9 or host power loss"),
        ("readonly=on,unarmed=on", "keeps no guest store"),
    ],
)
def test_the_start_up_line_says_all_that_is_not_promised(key: str, promise: str, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(bytes(1 << 20))
    result = emu("run", "hello", "--timeout", "60", "--nvdimm", f"file={tmp_path}/a,{key}")
    assert promise in result.errors[0]


def test_details_of_the_nvdimms_on_request(tmp_path: Path) -> None:
    result = emu("run", "hello", "--verbose", "--nvdimm", f"file={tmp_path}/a,size=1M,sync=off")
    assert len(result.errors) == 2
    assert f"1 MiB on {tmp_path}/a survives" in result.errors[0]
    assert result.errors[1].startswith("     at 0x100000000; no MAP_SYNC (sync=off)")


# Characters


@pytest.mark.parametrize("words", [(), ("-serial", "stdio"), ("-serial", "mon:stdio"), ("-nographic",)])
def test_the_guest_reads_the_standard_input(words: tuple[str, ...]) -> None:
    result = emu("run", "echo", *words, "--timeout", "60", stdin=b"one\nand a line longer than the receive FIFO\n\x04")
    assert result.out == "ready\necho: one\necho: and a line longer than the receive FIFO\nbye\n"
    assert (result.status, result.errors) == (0, ())


def test_a_guest_that_does_not_read_leaves_the_input_to_the_next_command() -> None:
    """With what it prints it polls the line status, as every guest; that takes nothing."""
    loop = 'while read -r line; do "$@" >/dev/null; echo "$line"; done; echo end'
    done = subprocess.run(
        ["sh", "-c", loop, "sh", *EMU, "run", "hello", "--quiet"],
        input=b"one\ntwo\nthree\n", capture_output=True, timeout=PATIENCE_S,
    )  # fmt: skip
    assert (done.stdout, done.stderr) == (b"one\ntwo\nthree\nend\n", b"")


def test_a_long_input_through_a_slow_pipe_arrives_whole(image: Path) -> None:
    image.write_bytes(COPY)
    data = bytes(range(5, 256)) * 400
    process = subprocess.Popen([*EMU, "run", str(image), "--timeout", "60"], stdin=subprocess.PIPE,
                               stdout=subprocess.PIPE)  # fmt: skip
    assert process.stdin is not None
    process.stdin.write(data[:1])
    process.stdin.flush()
    time.sleep(0.3)
    out, _ = process.communicate(data[1:] + b"\x04", timeout=PATIENCE_S)
    assert (out, process.returncode) == (data, 0)


def test_the_document_holds_the_answers_to_the_input() -> None:
    result = emu("run", "echo", "--json", "--timeout", "60", stdin=b"hi\n\x04")
    assert (result.status, result.document["serial"]) == (0, "ready\necho: hi\nbye\n")


@pytest.mark.parametrize("redirection", ["</dev/null", "<&-", "</dev/zero"])
def test_an_input_that_says_nothing_is_harmless(redirection: str) -> None:
    with subprocess.Popen(
        ["sh", "-c", f'exec "$@" {redirection}', "sh", *EMU, "run", "echo", "--quiet", "--timeout", "60"],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(1)  # it goes on
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_S) == 130


def test_the_end_of_the_input_is_not_the_end_of_the_guest() -> None:
    result = emu("run", "timer", "-serial", "stdio", stdin=b"")
    assert (result.status, result.out.count("tick")) == (0, 10)


class Terminal:
    """``emu`` at a terminal of its own, as its session's leader."""

    def __init__(self, *words: str) -> None:
        if shutil.which("setsid") is None:
            pytest.skip("needs setsid; install util-linux")
        self.ours, self.theirs = pty.openpty()
        self.before = self.modes()
        command = ["setsid", "--ctty", *EMU, *words, "--timeout", "60"]
        self.process = subprocess.Popen(command, stdin=self.theirs, stdout=self.theirs, stderr=self.theirs)
        self.seen = b""

    def modes(self) -> bytes:
        return subprocess.run(["stty", "-a"], stdin=self.theirs, capture_output=True, check=True).stdout

    def until(self, text: bytes) -> None:
        while text not in self.seen:
            self.seen += os.read(self.ours, 100).replace(b"\r", b"")

    def type(self, keys: bytes) -> None:
        os.write(self.ours, keys)

    def end(self) -> int:
        """The status; the terminal has its modes back."""
        status = self.process.wait(PATIENCE_S)
        assert self.modes() == self.before
        os.close(self.ours)
        os.close(self.theirs)
        return status


@pytest.mark.parametrize("words", [(), ("-serial", "stdio")])
def test_on_a_terminal_the_guest_sees_every_key(words: tuple[str, ...]) -> None:
    terminal = Terminal("run", "echo", *words)
    terminal.until(b"ready")
    assert terminal.modes() != terminal.before
    terminal.type(b"hi\r\x04")
    terminal.until(b"bye\n")
    assert terminal.end() == 0
    assert terminal.seen == b"ready\necho: hi\nbye\n"


@pytest.mark.parametrize(
    ("keys", "words"), [(b"\x03", "interrupted: SIGINT"), (b"ab\x01h\x01x", "interrupted: Ctrl-A x")]
)
def test_keys_that_end_a_run_at_a_terminal(keys: bytes, words: str) -> None:
    terminal = Terminal("run", "echo")
    terminal.until(b"ready")
    terminal.type(keys)
    terminal.until(words.encode())
    assert terminal.end() == 130
    assert (b"Ctrl-A x ends the run" in terminal.seen) == (b"h" in keys)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_signals_give_the_terminal_back(number: signal.Signals) -> None:
    terminal = Terminal("run", "echo")
    terminal.until(b"ready")
    terminal.process.send_signal(number)
    assert terminal.end() == 130


def test_ctrl_a_typed_twice_and_with_serial_stdio_goes_to_the_guest() -> None:
    for words, keys in (((), b"\x01\x01\r\x04"), (("-serial", "stdio"), b"\x01\r\x04")):
        terminal = Terminal("run", "echo", *words)
        terminal.until(b"ready")
        terminal.type(keys)
        terminal.until(b"bye\n")
        assert terminal.end() == 0
        assert b"echo: \x01\n" in terminal.seen


def test_in_the_background_the_terminal_is_left_alone() -> None:
    """A process group that is not in the foreground would be stopped for reading the terminal (SIGTTIN)."""
    ours, theirs = pty.openpty()
    shell = 'set -m; "$@" & wait $!; echo "status $?"'
    command = ["setsid", "--ctty", "bash", "-c", shell, "bash", *EMU, "run", "echo", "--quiet", "--timeout", "2"]
    process = subprocess.Popen(command, stdin=theirs, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    os.write(ours, b"for the shell\n")
    out, _ = process.communicate(timeout=PATIENCE_S)
    os.close(ours)
    os.close(theirs)
    assert out.startswith(b"ready\nemu: timeout: the guest was still running after 2 s\n")
    assert out.endswith(b"status 124\n")


def test_files_take_serial_and_debug_console(image: Path, tmp_path: Path) -> None:
    image.write_bytes(SAY_DB)
    assert emu("run", image, "-debugcon", f"file:{tmp_path}/db").out == ""
    assert (tmp_path / "db").read_bytes() == b"db\n"
    assert emu("run", image, "-debugcon", "stdio").out == "db\n"
    assert emu("run", "timer", "-serial", f"file:{tmp_path}/serial").out == ""
    assert (tmp_path / "serial").read_bytes().count(b"tick") == 10
    assert emu("run", "timer", "-serial", "none").out == ""


def test_a_full_output_is_the_hosts_fault() -> None:
    for words in (("timer",), ("timer", "--json")):
        with Path("/dev/full").open("wb") as full:
            done = subprocess.run([*EMU, "run", *words], stdout=full, stderr=subprocess.PIPE, timeout=PATIENCE_S)
        assert done.returncode == 4
        assert b"No space left on device" in done.stderr
        assert done.stderr.count(b"\n") == 2


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_without_standard_streams_nothing_is_written_into_the_nvdimm(tmp_path: Path, closed: str) -> None:
    command = [
        "sh",
        "-c",
        f'exec "$@" {closed}',
        "sh",
        *EMU,
        "run",
        "hello",
        "--nvdimm",
        f"file={tmp_path}/pmem,size=1M",
    ]
    assert subprocess.run(command, capture_output=True, timeout=PATIENCE_S).returncode == 0
    data = (tmp_path / "pmem").read_bytes()
    assert data[:16] == b"emuhello" + (1).to_bytes(8, "little")
    assert b"NVDIMM" not in data
    assert b"MAP_SYNC" not in data


def test_a_reader_that_stops_reading_does_not_hold_up_the_end() -> None:
    process = subprocess.Popen([*EMU, "run", "count", "--append", "0 1", "--timeout", "1"], stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE)  # fmt: skip
    assert process.wait(PATIENCE_S) in (5, 124)
    process.communicate()


def test_append_reaches_the_guest() -> None:
    assert emu("run", "bench-call", "--append", "20").out == "checksum 0x0000000000001a6d\n"
    assert emu("run", "-kernel", "bench-call", "-append", "20").out == "checksum 0x0000000000001a6d\n"


def test_exit_ports_are_where_they_were_asked_for(image: Path) -> None:
    image.write_bytes(say(3, 0x501) + HALT)
    assert emu("run", image, "-device", "isa-debug-exit", "--timeout", "60").status == 7
    image.write_bytes(say(3, 0x611))
    assert emu("run", image, "-device", "isa-debug-exit,iobase=0x610,iosize=2", "--timeout", "60").status == 7
    assert emu("run", image, "-device", "isa-debug-exit,iobase=0x610,iosize=1", "--timeout", "0.5").status == 124


@pytest.mark.parametrize("ram", ["5G", "64G"])
def test_ram_above_4_gib(image: Path, ram: str) -> None:
    image.write_bytes(HIGH)
    assert emu("run", image, "-m", ram, "--timeout", "60").status == 15


def test_two_runs_are_the_same(tmp_path: Path) -> None:
    for words in (("timer",), ("count", "--append", "3000 100", "--nvdimm", f"file={tmp_path}/pmem,size=1M")):
        results = []
        for _ in range(2):
            (tmp_path / "pmem").unlink(missing_ok=True)
            result = emu("run", *words, "--quiet")
            results.append(
                (result.status, result.out, (tmp_path / "pmem").exists() and (tmp_path / "pmem").read_bytes())
            )
        assert results[0] == results[1]
        assert results[0][1] != ""
