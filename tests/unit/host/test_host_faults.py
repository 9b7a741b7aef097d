"""Dirty tracking that loses no store, and SIGBUS survived. What kills a process is tried in a process of its own."""

from __future__ import annotations

import ctypes
import os
import random
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from emu.errors import HostError
from emu.host import faults, kernel
from emu.host.faults import DirtyLog, Guard

PAGE = 4096


@pytest.fixture
def memory() -> Iterator[tuple[int, memoryview]]:
    size = 64 * PAGE
    address = kernel.map_memory(size, what="test memory")
    view = kernel.memory_view(address, size)
    yield address, view
    view.release()
    kernel.unmap_memory(address, size)


def pages(runs: Iterable[tuple[int, int]]) -> set[int]:
    return {page for first, count in runs for page in range(first, first + count)}


def run_python(code: str, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, timeout=60)


# -- dirty pages ----------------------------------------------------------------------------------------------


def test_what_was_stored_is_put_back_again_and_again(memory: tuple[int, memoryview]) -> None:
    address, view = memory
    rng = random.Random("undo")
    view[:] = rng.randbytes(len(view))
    before = bytes(view)
    copies = kernel.map_memory(len(view), what="copies", reserve=False)
    log = DirtyLog(address, len(view))
    log.start()
    log.keep(copies)
    assert log.peek() == []
    for number in range(300):
        # The first rounds store everywhere, then pages rest for long and are stored to again.
        stored = {rng.randrange(64) for _ in range(rng.randrange(5))} if number < 40 or number > 200 else {7}
        for page in stored:
            at = page * PAGE + rng.randrange(PAGE)
            view[at] = view[at] ^ 1
        assert stored <= pages(log.peek())
        if number == 200:
            assert pages(log.peek()) == {7}  # what was unchanged for long is no longer looked at
        log.undo()
        assert view == before
    log.stop()
    kernel.unmap_memory(copies, len(view))


def test_a_later_moment_comes_back_too(memory: tuple[int, memoryview]) -> None:
    """Any moment after any other; where it takes 8 bytes from before, these hold what is changed there meanwhile."""
    address, view = memory
    rng = random.Random("moments")
    view[:] = rng.randbytes(len(view))
    before = kernel.map_memory(len(view), what="copies", reserve=False)
    copied = kernel.memory_view(before, len(view))
    log = DirtyLog(address, len(view))
    log.start()
    log.keep(before)

    def store_somewhere() -> None:
        for _ in range(rng.randrange(30)):
            view[rng.randrange(len(view))] ^= 1

    moments: list[tuple[faults.Copies, bytes]] = [(log.save(), bytes(view))]
    for number in range(4):
        store_somewhere()
        moments.append((log.save(), bytes(view)))
        if number % 2:
            log.undo()
    for _ in range(400):
        store_somewhere()
        copies, then = rng.choice(moments)
        log.undo(copies)
        assert view == then
    view[5 * PAGE] ^= 1
    taking, then = log.save(), bytes(view)
    taking.take_from_before({5 * PAGE + 16: 0xFF00, 63 * PAGE: 0xFF})
    for value in (b"\x11" * 8, b"\x22" * 8):
        store_somewhere()
        copied[5 * PAGE + 16 : 5 * PAGE + 24] = value
        log.undo(taking)
        expected = bytearray(then)
        expected[5 * PAGE + 17] = value[1]
        assert view == expected
    for copies in [taking, *(copies for copies, _ in moments)]:
        copies.close()
    log.stop()
    copied.release()
    kernel.unmap_memory(before, len(view))


def test_stores_of_our_own_are_seen_as_runs(memory: tuple[int, memoryview]) -> None:
    address, view = memory
    view[:] = b"\1" * len(view)
    log = DirtyLog(address, len(view))
    log.start()
    assert log.collect() == []
    for page in (3, 4, 5, 9, 62, 63, 0):
        view[page * PAGE + page] = 7
    assert log.collect() == [(0, 1), (3, 3), (9, 1), (62, 2)]
    assert log.collect() == []
    view[9 * PAGE] = 8
    view[9 * PAGE + 1] = 8
    assert log.collect() == [(9, 1)]
    log.stop()
    view[:] = b"\2" * len(view)
    assert view[9 * PAGE] == 2


def test_a_store_across_a_page_border_dirties_both(memory: tuple[int, memoryview]) -> None:
    address, view = memory
    log = DirtyLog(address, len(view))
    log.start()
    ctypes.c_uint64.from_address(address + 2 * PAGE - 4).value = (1 << 64) - 1
    assert log.collect() == [(1, 2)]
    log.stop()


def test_a_whole_range_is_one_run_even_across_bitmap_words() -> None:
    size = 200 * PAGE
    address = kernel.map_memory(size, what="test memory")
    log = DirtyLog(address, size)
    log.start()
    ctypes.memset(address, 1, size)
    assert log.collect() == [(0, 200)]
    log.stop()
    kernel.unmap_memory(address, size)


def test_more_runs_than_one_call_returns() -> None:
    """Every second page of 40 MiB: 5120 runs."""
    count = 10240
    address = kernel.map_memory(count * PAGE, what="test memory")
    log = DirtyLog(address, count * PAGE)
    log.start()
    for page in range(0, count, 2):
        ctypes.memset(address + page * PAGE, 1, 1)
    assert log.collect() == [(page, 1) for page in range(0, count, 2)]
    assert log.collect() == []
    log.stop()
    kernel.unmap_memory(address, count * PAGE)


def test_more_holes_than_the_kernel_allows_mappings() -> None:
    """Every second page of 1 GiB would need 262,144 mappings; the kernel allows 65,530. No store may be lost."""
    count = 262144
    address = kernel.map_memory(count * PAGE, what="test memory", reserve=False)
    log = DirtyLog(address, count * PAGE)
    log.start()
    stored = set(range(0, count, 2))
    for page in stored:
        ctypes.memset(address + page * PAGE, 1, 1)
    found = pages(log.collect())
    assert stored <= found
    ctypes.memset(address + 12345 * PAGE, 2, 1)
    assert 12345 in pages(log.collect())
    log.stop()
    kernel.unmap_memory(address, count * PAGE)


def test_larger_tracking_pages_are_reported_in_pages_of_4096() -> None:
    big = 2 << 20
    address = kernel.map_memory(4 * big, what="test memory", align=big)
    log = DirtyLog(address, 3 * big + 5 * PAGE, big)
    log.start()
    ctypes.memset(address + big + 100, 1, 1)
    ctypes.memset(address + 3 * big, 1, 1)
    assert log.collect() == [(512, 512), (1536, 5)]
    log.stop()
    kernel.unmap_memory(address, 4 * big)


@pytest.mark.parametrize("shared_file", [False, True])
def test_no_store_is_lost_while_another_thread_collects(shared_file: bool, tmp_path: Path) -> None:
    """The model of a migration: a copy kept up to date from dirty pages alone ends equal to the memory."""
    count, fd = 256, -1
    if shared_file:
        (tmp_path / "f").touch()
        os.truncate(tmp_path / "f", count * PAGE)
        fd = kernel.open_file(tmp_path / "f", write=True)
    address = kernel.map_memory(count * PAGE, what="test memory", fd=fd, shared=shared_file)
    view = kernel.memory_view(address, count * PAGE)
    log = DirtyLog(address, count * PAGE)
    log.start()
    copy = bytearray(view)
    done = threading.Event()
    stores = 0

    def store(seed: int) -> None:
        nonlocal stores
        chance = random.Random(seed)
        while not done.is_set():
            at = chance.randrange(count) * PAGE + chance.randrange(PAGE - 64)
            ctypes.memset(address + at, chance.randrange(1, 256), chance.randrange(1, 64))  # releases the GIL
            stores += 1

    threads = [threading.Thread(target=store, args=(seed,)) for seed in (1, 2)]
    for thread in threads:
        thread.start()
    rounds = 0
    while rounds < 300 or stores < 3000:
        rounds += 1
        for page in pages(log.collect()):
            copy[page * PAGE : (page + 1) * PAGE] = view[page * PAGE : (page + 1) * PAGE]
    done.set()
    for thread in threads:
        thread.join()
    for page in pages(log.collect()):
        copy[page * PAGE : (page + 1) * PAGE] = view[page * PAGE : (page + 1) * PAGE]
    log.stop()
    assert copy == view
    view.release()
    kernel.unmap_memory(address, count * PAGE)
    if fd >= 0:
        os.close(fd)


def test_every_value_is_collected_after_it_was_stored() -> None:
    """A thread counts up in one page; each collect that reports the page must be followed by a read at least as new as
    the last count seen before, and in the end the last count must have been reported."""
    address = kernel.map_memory(PAGE, what="test memory")
    cell = ctypes.c_uint64.from_address(address)
    log = DirtyLog(address, PAGE)
    log.start()
    total, seen = 20000, 0

    def count() -> None:
        for value in range(1, total + 1):
            ctypes.memmove(address, value.to_bytes(8, "little"), 8)

    thread = threading.Thread(target=count)
    thread.start()
    while thread.is_alive():
        if log.collect():
            assert cell.value >= seen
            seen = cell.value
    if log.collect():
        seen = cell.value
    assert seen == total
    log.stop()
    kernel.unmap_memory(address, PAGE)


def test_starting_and_stopping_under_stores_never_kills() -> None:
    size = 32 * PAGE
    address = kernel.map_memory(size, what="test memory")
    done = threading.Event()

    def store() -> None:
        while not done.is_set():
            ctypes.memset(address, 1, size)

    threads = [threading.Thread(target=store) for _ in range(2)]
    for thread in threads:
        thread.start()
    log = DirtyLog(address, size)
    for _ in range(300):
        log.start()
        log.collect()
        log.stop()
    done.set()
    for thread in threads:
        thread.join()
    kernel.unmap_memory(address, size)


def test_stores_by_the_kernel_fail_and_store_nothing(memory: tuple[int, memoryview]) -> None:
    address, view = memory
    log = DirtyLog(address, len(view))
    left, right = socket.socketpair()
    log.start()
    left.send(b"words")
    with pytest.raises(OSError, match="Bad address"):
        right.recv_into(view[:5])
    assert log.collect() == []
    assert bytes(view[:5]) == bytes(5)
    log.stop()
    left.close()
    right.close()


def test_misuse_is_refused(memory: tuple[int, memoryview]) -> None:
    address, view = memory
    log, other = DirtyLog(address, len(view)), DirtyLog(address + PAGE, PAGE)
    with pytest.raises(HostError, match="not tracked"):
        log.collect()
    log.start()
    with pytest.raises(HostError, match="already"):
        log.start()
    with pytest.raises(HostError, match="cannot track"):
        other.start()
    log.stop()
    log.stop()
    other.start()
    other.stop()


def test_the_table_of_ranges_is_bounded_and_reused() -> None:
    size, count = 4 * PAGE, 1400
    address = kernel.map_memory(count * size, what="test memory")
    logs = [DirtyLog(address + n * size, size) for n in range(count)]
    started: list[DirtyLog] = []

    def start_all() -> None:
        for log in logs:
            log.start()
            started.append(log)

    with pytest.raises(HostError, match="cannot track"):
        start_all()
    assert len(started) >= 4 * 257 + 253  # two machines with all NVDIMMs, guarded and tracked, and a source's files
    for log in started:
        log.stop()
    for log in logs[-10:]:
        log.start()
    ctypes.memset(address + (count - 1) * size, 1, 1)
    assert logs[-1].collect() == [(0, 1)]
    for log in logs[-10:]:
        log.stop()
    kernel.unmap_memory(address, count * size)


# -- faults that are not ours ---------------------------------------------------------------------------------

FOREIGN = """
import ctypes, faulthandler, sys
from emu.host import kernel
from emu.host.faults import DirtyLog
order = sys.argv[1]
if order == "before": faulthandler.enable()
address = kernel.map_memory(4096, what="x")
log = DirtyLog(address, 4096); log.start(); log.stop()
if order == "after": faulthandler.enable()
if order == "twice":
    faulthandler.enable(); log.start(); log.stop()
log.start(); ctypes.memset(address, 1, 1); assert log.collect() == [(0, 1)]; log.stop()
print("tracked", flush=True)
ctypes.memset(int(sys.argv[2], 0) or address + 4096, 1, 1)
"""


@pytest.mark.parametrize("order", ["never", "before", "after", "twice"])
@pytest.mark.parametrize("target", ["0x10", "0"], ids=["unmapped", "guard page"])
def test_a_foreign_fault_still_ends_the_process_by_its_signal(order: str, target: str) -> None:
    result = run_python(FOREIGN, order, target)
    assert result.stdout == "tracked\n"
    assert result.returncode == -signal.SIGSEGV
    assert ("Fatal Python error" in result.stderr) == (order != "never")


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGBUS])
def test_the_signals_sent_by_kill_still_kill(number: signal.Signals) -> None:
    code = (
        "import os, sys; from emu.host import kernel; from emu.host.faults import Guard\n"
        "guard = Guard(kernel.map_memory(4096, what='x'), 4096); os.kill(os.getpid(), int(sys.argv[1]))"
    )
    assert run_python(code, str(int(number))).returncode == -number


def test_an_ignored_signal_sent_by_kill_stays_ignored() -> None:
    code = (
        "import os, signal; signal.signal(signal.SIGSEGV, signal.SIG_IGN)\n"
        "from emu.host import kernel; from emu.host.faults import Guard\n"
        "guard = Guard(kernel.map_memory(4096, what='x'), 4096); os.kill(os.getpid(), signal.SIGSEGV); print('alive')"
    )
    assert run_python(code).stdout == "alive\n"


# -- pages lost -----------------------------------------------------------------------------------------------

CUT = """
import ctypes, faulthandler, os, sys
from emu.host import faults, kernel
faulthandler.enable()
path, track = sys.argv[1], sys.argv[2] == "tracked"
size = 16 * 4096
fd = os.open(path, os.O_RDWR | os.O_CREAT); os.ftruncate(fd, size)
address = kernel.map_memory(size, what=path, fd=fd, shared=True)
view = kernel.memory_view(address, size)
view[:] = b"\\1" * size
guard = faults.Guard(address, size)
log = faults.DirtyLog(address, size)
if track: log.start()
called = []
stop = ctypes.CFUNCTYPE(None, ctypes.c_size_t)(called.append)
faults.set_stop(ctypes.cast(stop, ctypes.c_void_p).value, 77)
assert guard.lost() is None
os.ftruncate(fd, 4 * 4096)
print(view[0], view[9 * 4096 + 5], view[4 * 4096])
view[12 * 4096] = 3
print(view[12 * 4096], tuple(guard.lost()), called, log.collect() if track else None)
faults.set_stop(0, 0)
if track: log.stop()
guard.close(); guard.close()
print(guard.lost(), os.fstat(fd).st_size)
"""


@pytest.mark.parametrize("mode", ["plain", "tracked"])
def test_a_file_cut_short_becomes_a_flag_and_a_stop(mode: str, tmp_path: Path) -> None:
    result = run_python(CUT, str(tmp_path / "f"), mode)
    assert result.stderr == ""
    assert result.returncode == 0
    first, second, third = result.stdout.splitlines()
    assert first == "1 0 0"
    # Reads of pages 9 and 4, then a store to page 12: each is replaced once; what was met first is kept.
    dirty = "[(12, 1)]" if mode == "tracked" else "None"
    assert second == f"3 ({9 * PAGE + 5}, False, False) [77, 77, 77] {dirty}"
    assert third == f"None {4 * PAGE}"


def test_the_stop_function_belongs_to_the_faulting_thread(tmp_path: Path) -> None:
    code = """
import ctypes, os, sys, threading
from emu.host import faults, kernel
fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT); os.ftruncate(fd, 8192)
address = kernel.map_memory(8192, what="x", fd=fd, shared=True)
guard = faults.Guard(address, 8192)
called = []
stop = ctypes.CFUNCTYPE(None, ctypes.c_size_t)(called.append)
faults.set_stop(ctypes.cast(stop, ctypes.c_void_p).value, 1)
os.ftruncate(fd, 0)
thread = threading.Thread(target=ctypes.memset, args=(address, 1, 1)); thread.start(); thread.join()
print(called, guard.lost().offset)
ctypes.memset(address + 4096, 1, 1)
print(called)
"""
    result = run_python(code, str(tmp_path / "f"))
    assert result.stdout == "[] 0\n[1]\n", result.stderr


def test_sigbus_outside_of_every_guard_still_kills(tmp_path: Path) -> None:
    code = """
import ctypes, os, sys
from emu.host import faults, kernel
fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT); os.ftruncate(fd, 8192)
address = kernel.map_memory(8192, what="x", fd=fd, shared=True)
guard = faults.Guard(address, 4096)
os.ftruncate(fd, 0)
ctypes.memset(address, 1, 1); print(guard.lost().offset, flush=True)
ctypes.memset(address + 4096, 1, 1)
"""
    result = run_python(code, str(tmp_path / "f"))
    assert (result.stdout, result.returncode) == ("0\n", -signal.SIGBUS)


def test_a_forgotten_guard_gives_its_slot_back(memory: tuple[int, memoryview]) -> None:
    for _ in range(300):
        Guard(memory[0], PAGE)
    guard = Guard(memory[0], PAGE)
    assert guard.lost() is None
    guard.close()


def test_stop_can_be_cleared() -> None:
    faults.set_stop(1, 2)
    faults.set_stop(0, 0)


# -- program order ----------------------------------------------------------------------------------------------

ORDER = """
import ctypes, os, sys
from emu.host import faults, kernel
from emu.host.faults import DirtyLog, Guard
root, elsewhere, how = sys.argv[1:]
size = 64 * 4096

def mapped(path):
    fd = os.open(path, os.O_RDWR | os.O_CREAT); os.ftruncate(fd, size)
    os.pwrite(fd, b"first", 0); os.pwrite(fd, b"second", 4096)
    address = kernel.map_memory(size, what=path, fd=fd, shared=True)
    return fd, address, kernel.memory_view(address, size), Guard(address, size, fd=fd)

fd, address, view, guard = mapped(root + "/full")
mate_fd, _, mate, mate_guard = mapped(elsewhere + "/mate")
other_fd, _, other, other_guard = mapped(elsewhere + "/other")
group = faults.new_group(); guard.join(group); mate_guard.join(group); other_guard.join(faults.new_group())
log = DirtyLog(address, size)
if how == "tracked": log.start()
called = []
stop = ctypes.CFUNCTYPE(None, ctypes.c_size_t)(called.append)
faults.set_stop(ctypes.cast(stop, ctypes.c_void_p).value, 1)
assert not faults.stopped()
if how == "cut":
    os.ftruncate(fd, 8 * 4096)
else:
    with open(root + "/fill", "wb", buffering=0) as fill:
        try:
            while True: fill.write(bytes(4096))
        except OSError: pass

view[4] = 1                         # kept: its page is there
view[32 * 4096 + 8] = 2             # lost
view[4097] = 3                      # the commit
mate[5] = other[5] = 4
assert called and faults.stopped()
print(tuple(guard.lost()), guard.cut_off, mate_guard.lost(), mate_guard.cut_off, other_guard.cut_off)
print(bytes(view[:6]), bytes(view[4096:4102]), view[32 * 4096 + 8], mate[5])
print(os.pread(fd, 6, 0), os.pread(fd, 6, 4096), os.pread(mate_fd, 6, 0), os.pread(other_fd, 6, 0))
if how == "tracked":
    print(log.collect()); view[2 * 4096] = view[4096] = 5; print(log.collect()); log.stop()
    view[3 * 4096] = 6
    print(os.pread(fd, 1, 4096))
"""


@pytest.mark.parametrize("how", ["plain", "tracked", "cut"])
def test_no_store_after_a_lost_one_reaches_a_file_of_the_group(how: str, tmp_path: Path) -> None:
    """A full tmpfs, or a file that is cut short: the file keeps what was stored before, and nothing after."""
    root = tmp_path / "root"
    root.mkdir()
    result = on_tmpfs(root, ORDER, tmp_path, how)
    assert result.stderr == ""
    lost, memory, files, *tracked = result.stdout.splitlines()
    assert lost == f"({32 * PAGE + 8}, True, False) True None True False"
    # The memory goes on as if nothing had happened.
    assert memory == r"b'firs\x01\x00' b's\x03cond' 2 4"
    assert files == r"b'firs\x01\x00' b'second' b'first\x00' b'first\x04'"
    # Stores after the loss are still seen by the dirty log, and its end opens no way to the file.
    assert tracked == (["[(0, 2), (32, 1)]", "[(1, 2)]", "b's'"] if how == "tracked" else [])


def on_tmpfs(root: Path, code: str, *words: object) -> subprocess.CompletedProcess[str]:
    """Run Python ``code`` in a mount namespace of its own, with a tmpfs of 1 MiB at ``root``, its first argument."""
    mount = 'mount -t tmpfs -o size=1M none "$1"'
    space = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    try:
        allowed = subprocess.run([*space, mount, "sh", root], capture_output=True)
    except FileNotFoundError:
        pytest.skip("unshare is missing; install util-linux")
    if allowed.returncode:
        pytest.skip("this host does not allow user namespaces; run as root or set kernel.unprivileged_userns_clone=1")
    script = f'{mount} && exec "{sys.executable}" -c "$0" "$@"'
    return subprocess.run([*space, script, code, root, *map(str, words)], capture_output=True, text=True, timeout=60)


HUGE = """
import os, sys
from emu.host import faults, kernel
big = 2 << 20
fd = os.memfd_create("huge", os.MFD_HUGETLB); os.ftruncate(fd, 2 * big)
address = kernel.map_memory(2 * big, what="huge", align=big, page_size=big, fd=fd, shared=True, reserve=False)
guard = faults.Guard(address, 2 * big, big, fd=fd)
view = kernel.memory_view(address, 2 * big)
view[0] = 1
view[big + 3] = 2
print(tuple(guard.lost()))
view[1] = 3
again = kernel.map_memory(big, what="huge", align=big, page_size=big, fd=fd, shared=True)
print(bytes(kernel.memory_view(again, 2)))
"""


def test_huge_pages_that_run_out_keep_the_order_too() -> None:
    """Two huge pages are mapped without reservation, and the pool has one."""
    pool = Path("/sys/kernel/mm/hugepages/hugepages-2048kB")
    if not pool.exists() or int((pool / "free_hugepages").read_text()) != 1:
        pytest.skip("needs a pool of exactly one free huge page: echo 1 > /proc/sys/vm/nr_hugepages")
    result = run_python(HUGE)
    assert result.stdout.splitlines() == [f"({(2 << 20) + 3}, True, False)", r"b'\x01\x00'"], result.stderr
