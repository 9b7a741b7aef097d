"""What ``emu crash`` ends with: no false pass, no verdict without its reason, nothing left running."""

from __future__ import annotations

import json
import os
import signal
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from emu import guest
from emu.config import BackendConfig, MachineConfig, NvdimmConfig
from emu.persistence.lab import investigation, jobs
from emu.persistence.lab.deadline import Deadline
from emu.persistence.lab.explore import Limits
from emu.persistence.lab.interruption import Interruption
from emu.persistence.lab.investigation import Question, investigate
from emu.persistence.report.document import document
from emu.persistence.report.page import report_html
from emu.persistence.report.symbols import Symbols
from emu.persistence.report.terminal import report_lines
from emu.units import GIB, MIB
from tests import documents
from tests.integration.run_emu import EMU, Result, emu

BASE = 4 * GIB
POINT_RDI = b"\x48\xbf" + struct.pack("<Q", BASE)  # mov rdi, base
STORE_1 = b"\x48\xc7\x07\x01\x00\x00\x00"  # mov qword [rdi], 1
DURABLE = b"\x66\x0f\xae\x37\x0f\xae\xf8"  # clwb [rdi]; sfence
IDLE = b"\xb0\xff\xe6\x21\xe6\xa1\xfb\xf4\xeb\xfd"  # all interrupts masked; sti; hlt again and again
HALT = b"\xf4"
READ_0 = b"\x48\x8b\x07"  # mov rax, [rdi]
UD2 = b"\x0f\x0b"
EXIT_7 = b"\xb0\x07\xe6\xf4"  # out 0xf4, 7


def image(tmp_path: Path, *code: bytes, name: str = "guest.bin") -> Path:
    path = tmp_path / name
    path.write_bytes(POINT_RDI + b"".join(code))
    return path


def crash(*words: object) -> Result:
    return emu("crash", *words, "--nvdimm", "file=none.img,size=2M")


def machine(workload: Path, file: Path) -> MachineConfig:
    backend = BackendConfig(id="m", path=str(file), size=2 * MIB, share=True)
    return MachineConfig(image=str(workload), slots=1, nvdimms=(NvdimmConfig(backend=backend),), ram_size=32 * MIB)


@pytest.mark.parametrize(
    ("end", "says"),
    [
        (UD2, ["triple-fault", "#UD", "ud2"]),
        (EXIT_7, ["exit-port (value 7)"]),
        (IDLE, ["timeout", "still running after 2 s"]),
        (b"\xeb\xfe", ["timeout", "still running after 2 s"]),
    ],
    ids=["fault", "value", "idle", "loop"],
)
def test_a_workload_that_ends_badly_is_said_first(tmp_path: Path, end: bytes, says: list[str]) -> None:
    recovery = image(tmp_path, HALT, name="recover.bin")
    words = [image(tmp_path, STORE_1, DURABLE, end), "--recover", recovery, "--timeout", "2"]
    ended = crash(*words)
    lines = ended.out.splitlines()
    assert ended.status == 14
    assert lines[0] == "FAILED: the recorded run itself failed"
    assert all(word in lines[1] for word in says), lines[1]
    assert any(line.startswith("eager ") for line in lines), "what was explored is still shown"
    found = crash(*words, "--json").document
    assert (found["verdict"], found["status"], found["workload"]["ok"]) == ("workload failed", 14, False)


def test_a_failing_crash_state_does_not_hide_that_the_workload_failed(tmp_path: Path) -> None:
    recovery = image(tmp_path, READ_0, b"\x48\x85\xc0\x74\x04", EXIT_7, HALT, name="recover.bin")  # 7 where x is not 0
    ended = crash(image(tmp_path, STORE_1, UD2), "--recover", recovery)
    assert ended.status == 14
    assert ended.out.startswith("FAILED: the recorded run itself failed")
    assert "some crash states do not recover (1 cause found)" in ended.out
    alone = crash(image(tmp_path, STORE_1, HALT), "--recover", recovery)
    assert alone.status == 3


def test_a_workload_that_failed_before_it_stored_anything_failed_nonetheless(tmp_path: Path) -> None:
    pool = tmp_path / "pool.img"
    pool.write_bytes(b"somebody's data".ljust(2 * MIB, b"\0"))
    found = emu("crash", "commit-fixed", "--nvdimm", f"file={pool}", "--json").document
    assert found["status"] == 14
    assert found["workload"]["ended_at"] is None
    assert "the NVDIMM holds something else" in found["why"][0]


def test_where_a_workload_hangs_has_a_name() -> None:
    found = crash("echo", "--timeout", "2", "--json").document  # waits for input
    assert found["verdict"] == "workload failed"
    place = found["workload"]["ended_at"]
    assert place["symbol"]
    assert place["instruction"]
    assert f"at {place['symbol']}" in found["why"][0]


def test_every_ending_that_a_recovery_may_have_is_good_for_a_workload_too(tmp_path: Path) -> None:
    recovery = image(tmp_path, HALT, name="recover.bin")
    power_off = b"\x66\xba\x04\x06\x66\xb8\x00\x34\x66\xef"  # mov dx, 0x604; mov ax, 0x3400; out dx, ax
    for end in (HALT, b"\xb0\x00\xe6\xf4", power_off):
        assert crash(image(tmp_path, STORE_1, end, HALT), "--recover", recovery).status == 0


def test_nothing_stored_is_not_ok(tmp_path: Path) -> None:
    ended = crash(image(tmp_path, HALT))
    assert ended.status == 12
    lines = ended.out.splitlines()
    assert lines[0] == "nothing to judge: no store reached an NVDIMM"
    assert "look whether it finds the NVDIMM" in lines[1]


def test_a_second_run_on_the_same_file_only_recovers_and_says_so(tmp_path: Path) -> None:
    pool = f"file={tmp_path}/pool.img,size=2M"
    assert emu("run", "commit-noflush", "--nvdimm", pool).status == 0
    ended = emu("crash", "commit-noflush", "--nvdimm", pool)
    assert ended.status == 12
    assert "not blank" in ended.out.splitlines()[1]


def test_not_everything_tried_is_not_ok(tmp_path: Path) -> None:
    ended = crash("commit-fixed", "--max-executions", "2")
    assert ended.status == 10
    assert ended.out.startswith("no failure found, but not every crash state was tried")
    cut = crash("commit-fixed", "--max-events", "12", "--json")
    assert (cut.status, cut.document["verdict"], cut.document["workload"]["ok"]) == (10, "incomplete", True)
    assert crash("commit-noflush", "--max-executions", "8").status == 3


def test_a_recovery_that_waits_for_ever_is_a_failure_with_a_bound(tmp_path: Path) -> None:
    recovery = image(tmp_path, READ_0, b"\x48\x85\xc0\x75\x01", HALT, IDLE, name="recover.bin")  # waits where x is 1
    found = crash(image(tmp_path, STORE_1, HALT), "--recover", recovery, "--timeout", "1", "--json")
    assert found.status == 3
    assert found.document["failures"][0]["verdict"]["reason"] == "timeout"


def test_counts_of_thousands_of_digits_are_readable_and_valid_json(tmp_path: Path) -> None:
    # mov ecx, 0x4000; mov eax, 1; cmp [rdi], 0; jne +3; rep stosq; hlt
    workload = image(tmp_path, b"\xb9\x00\x40\x00\x00\xb8\x01\x00\x00\x00\x48\x83\x3f\x00\x75\x03\xf3\x48\xab", HALT)
    config = machine(workload, tmp_path / "none.img")
    with investigate(Question(config, config)) as answer:
        found = documents.check(json.loads(json.dumps(document(answer, Symbols()), allow_nan=False)))
        page = report_html(document(answer, Symbols()), answer, Symbols())
    assert (found["status"], found["eager"], found["eager_log10"]) == (0, None, 4932.075)
    assert any("eager 10^4932 /" in line for line in report_lines(found))  # 2^16384 sets of persisted units
    assert "10^4932" in page
    small = crash("commit-fixed", "--json").document
    assert (small["eager"], round(10 ** small["eager_log10"])) == (21, 21)


def test_the_domain_is_that_of_the_machine(tmp_path: Path) -> None:
    said = ["-machine", "q35,nvdimm=on,nvdimm-persistence=cpu"]
    assert crash("commit-noflush", *said).status == 0
    assert crash("commit-noflush", *said, "--domain", "adr").status == 3
    assert crash("commit-noflush", "-machine", "q35,nvdimm=on,nvdimm-persistence=mem-ctrl").status == 3
    assert crash("commit-noflush", *said, "--json").document["model"]["domain"] == "eadr"


def test_a_kept_executor_does_not_judge_by_an_image_that_was_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "_WORTH_SENDING", 1)
    workload = machine(image(tmp_path, STORE_1, DURABLE, HALT), tmp_path / "none.img")
    recovery = machine(image(tmp_path, READ_0, HALT, name="recover.bin"), tmp_path / "none.img")
    with ThreadPoolExecutor(1) as executor:
        with investigate(Question(workload, recovery), executor=executor) as good:
            assert not good.failed
        image(tmp_path, READ_0, EXIT_7, name="recover.bin")
        with investigate(Question(workload, recovery), executor=executor) as bad:
            assert bad.failed


def test_the_page_shows_the_bytes_that_the_file_held(tmp_path: Path) -> None:
    pool = tmp_path / "pool.img"
    pool.write_bytes(b"\xab" * 8 + bytes(2 * MIB - 8))
    workload = machine(image(tmp_path, STORE_1, READ_0, HALT), pool)
    with investigate(Question(workload, workload, observe=((0, 8),))) as answer:
        page = report_html(document(answer, Symbols()), answer, Symbols())
    states = page.partition('<h2 id="the-crash-states">')[2].partition("<h2")[0]
    assert states.count(">ab</b>") == 8
    assert ">00</b>" not in states.partition("<tbody>")[2].replace('<b class="want">00</b>', "")
    with pytest.raises(ValueError, match="closed"):
        answer.initial(BASE)


@contextmanager
def started(*words: object) -> Iterator[subprocess.Popen[str]]:
    """``emu crash`` in a session of its own, which is gone afterwards."""
    command = [*EMU, "crash", *map(str, words)]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def in_session(session: int) -> list[int]:
    """The processes of a session that still run."""
    found = []
    for folder in Path("/proc").iterdir():
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except (OSError, ValueError):
            continue
        if folder.name.isdecimal() and int(fields[3]) == session and fields[0] not in "ZX":
            found.append(int(folder.name))
    return found


def wait_for(condition: Callable[[], bool], what: str, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def slow(tmp_path: Path) -> list[str | Path]:
    """A workload with 2^40 crash states, and a recovery that tells them apart and takes its time over each."""
    stores = b"".join(b"\xc6\x87" + struct.pack("<I", 64 * line) + b"\x01" for line in range(40))
    count = b"\xb9\x00\x10\x00\x00\xff\xc9\x75\xfc"  # mov ecx, 4096; dec ecx; jnz
    reads = b"".join(count + b"\x0f\xb6\x87" + struct.pack("<I", 64 * line) for line in range(40))
    recovery = image(tmp_path, reads, HALT, name="recover.bin")
    return [image(tmp_path, stores, HALT), "--recover", recovery, "--recovery-blocks", "1000000000",
            "--nvdimm", f"file={tmp_path}/none.img,size=2M"]  # fmt: skip


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_no_worker_outlives_emu(tmp_path: Path, number: signal.Signals) -> None:
    with started(*slow(tmp_path), "--jobs", "3") as process:
        # emu, its resource tracker and three workers.
        wait_for(lambda: len(in_session(process.pid)) >= 5, "the workers did not start")
        os.kill(process.pid, number)
        wait_for(lambda: not in_session(process.pid), f"still there: {in_session(process.pid)}")
        out, _ = process.communicate(timeout=60)  # nobody holds the pipe
    assert process.returncode == (-number if number == signal.SIGKILL else 130)
    assert out.startswith("interrupted" if number == signal.SIGINT else "")


def test_no_worker_outlives_emu_that_is_killed_while_they_start(tmp_path: Path) -> None:
    for delay in (0.0, 0.02, 0.1, 0.3):
        with started(*slow(tmp_path), "--jobs", "2") as process:
            wait_for(lambda: len(in_session(process.pid)) >= 2, "no worker started")
            time.sleep(delay)
            process.kill()
            wait_for(lambda: not in_session(process.pid), f"still there after {delay} s")


def mappings(process: subprocess.Popen[str], file: Path) -> int:
    """How often ``process`` has mapped ``file``."""
    try:
        return Path(f"/proc/{process.pid}/maps").read_text().count(str(file))
    except OSError:
        return 0


def test_ctrl_c_shows_what_was_found(tmp_path: Path) -> None:
    pool = tmp_path / "none.img"
    pool.write_bytes(bytes(2 * MIB))
    for options in ([], ["--jobs", "2"]):
        with started(*slow(tmp_path), "--json", *options) as process:
            # The initial content and the machine that recovers: the workload is over.
            wait_for(lambda: mappings(process, pool) >= 2, "the exploration did not begin")
            process.send_signal(signal.SIGINT)
            out, errors = process.communicate(timeout=60)
        found = documents.check(json.loads(out))
        assert (process.returncode, found["status"], found["verdict"]) == (130, 130, "interrupted"), errors
        assert found["complete"] is False
        assert found["incomplete_because"] == ["interrupted"]
        assert any(outcome["verdict"] is None for outcome in found["outcomes"])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_who_is_told_to_end_leaves_nothing_behind(tmp_path: Path, number: signal.Signals) -> None:
    work = """\
import os, tempfile
from emu.cli import signals
from emu.cli.crash import _interruptible
signals.take_over()
def work(interruption):
    with tempfile.TemporaryDirectory():
        print("ready", flush=True)
        interruption._asked.wait()
try:
    with signals.interruptible():
        _interruptible(work)
except KeyboardInterrupt:
    os._exit(130)  # as entry() does
"""
    surroundings = os.environ | {"TMPDIR": str(tmp_path)}
    with subprocess.Popen([EMU[0], "-c", work], env=surroundings, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == b"ready\n"
            assert len(list(tmp_path.iterdir())) == 1
            process.send_signal(number)
            assert process.wait(60) == 130
        finally:
            process.kill()
    assert not list(tmp_path.iterdir())


def test_a_second_ctrl_c_ends_at_once() -> None:
    deaf = """\
import time
from emu.cli.crash import _interruptible

def work(interruption):
    print("go", flush=True)
    while not interruption.asked:
        time.sleep(0.01)
    time.sleep(1)  # two signals in one moment are one key
    print("asked", flush=True)
    time.sleep(600)

_interruptible(work)
"""
    command = [EMU[0], "-c", deaf]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "go\n"
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == "asked\n", "the first one only asks"
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 130
    finally:
        process.kill()
        process.communicate()


def test_ctrl_c_while_the_workload_is_recorded(tmp_path: Path) -> None:
    pool = tmp_path / "pool.img"
    pool.write_bytes(bytes(2 * MIB))
    with started(image(tmp_path, STORE_1, IDLE), "--nvdimm", f"file={pool}", "--json") as process:
        wait_for(lambda: mappings(process, pool) >= 1, "the workload did not begin")
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=60)
    found = documents.check(json.loads(out))
    assert (process.returncode, found["verdict"], found["complete"]) == (130, "interrupted", False)
    assert (found["workload"]["reason"], found["workload"]["ok"]) == ("interrupted", True)


STEPS = ("unkept", "violations", "find_waste", "count_distinct", "capture")


@pytest.mark.parametrize(
    ("step", "how"), [("build", "interrupted"), *((step, how) for step in STEPS for how in ("interrupted", "late"))]
)
def test_each_step_ends_when_it_is_interrupted_or_late(
    tmp_path: Path, step: str, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was judged by then is told, and that it is not all."""
    # mov edx, 64; operation 1 begins; again: inc qword [rdi]; add rdi, 64; dec edx; jnz again; operation 1 is done
    begin, done = (b"\x66\xba" + struct.pack("<H", port) + b"\xb8\1\0\0\0\xef" for port in (0xE10, 0xE14))
    stores = begin + b"\xba\x40\0\0\0" + b"\x48\xff\x07\x48\x83\xc7\x40\xff\xca\x75\xf5" + done
    recovery = machine(image(tmp_path, READ_0, HALT, name="recover.bin"), tmp_path / "none.img")
    question = Question(
        machine(image(tmp_path, stores, HALT), tmp_path / "none.img"),
        recovery,
        limits=Limits(deadline=Deadline.after(1000)),
        durable_when_done=True,
        checks=frozenset({investigation.ROBUST}),
        warnings=True,
    )
    interruption, real = Interruption(), getattr(investigation, step)

    def begin_late(*words: object, **options: object) -> object:
        if how == "interrupted":
            interruption.ask()
        else:
            monkeypatch.setattr(Deadline, "left", 0.0)
        return real(*words, **options)

    monkeypatch.setattr(investigation, step, begin_late)
    monkeypatch.setattr(investigation, "_GRACE_S", 0)
    with investigate(question, interruption=interruption) as answer:
        found = documents.check(json.loads(json.dumps(document(answer, Symbols()))))
        assert report_html(document(answer, Symbols()), answer, Symbols())
    if step in ("count_distinct", "capture"):  # there is nothing that they could have found to fail
        assert (found["complete"], found["verdict"]) == (True, "interrupted" if how == "interrupted" else "failed")
        assert found["failures"]
        return
    why = "interrupted" if how == "interrupted" else "the time limit of 1000 s was reached"
    assert found["incomplete_because"] == [why]
    assert found["distinct"] is None
    assert (answer.timeline.points[-1].event < len(answer.workload.events)) == (step == "build")


def test_what_failed_before_the_interruption_is_shown_and_explained(tmp_path: Path) -> None:
    found = guest.find("commit-noflush")
    assert found is not None
    question = Question(machine(found.path, tmp_path / "none.img"), machine(found.path, tmp_path / "none.img"))
    for executions in range(1, 9):
        interruption = Interruption()

        def ask(
            done: int, _left: int, _share: float, *, at: int = executions, asked: Interruption = interruption
        ) -> None:
            if done == at:
                asked.ask()

        with investigate(question, progress=ask, interruption=interruption) as answer:
            result = document(answer, Symbols())
        assert (result["status"], result["executed"]) == (130, executions)
        assert result["incomplete_because"] == ["interrupted"]
        failing = any(outcome["verdict"] == "failed" for outcome in result["outcomes"])
        assert [failure["kind"] for failure in result["failures"]] == ["missing flush"] * failing
    assert failing


def test_every_bundled_guest_ends_well_as_a_workload() -> None:
    for found in guest.images():
        if found.group == "crash":
            assert crash(found.name, "--max-executions", "1", "--json").document["workload"]["ok"] is True
