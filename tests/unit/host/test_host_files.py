"""Writing the files that users name: whole or not at all, into what is no file, never in place of something else."""

from __future__ import annotations

import errno
import os
import pty
import resource
import shutil
import signal
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from emu.errors import FileInUse, HostError
from emu.host import files, kernel
from emu.host.files import Kind, examine

AS_ROOT = os.geteuid() == 0


def entries(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def refused(name: str | Path, match: str) -> HostError:
    with pytest.raises(HostError, match=match) as caught:
        examine(str(name))
    assert caught.value.remedy
    return caught.value


# -- regular files ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("durable", [False, True])
def test_a_new_file_is_made_with_the_umask(durable: bool, tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        target = examine(str(tmp_path / "new"))
        assert entries(tmp_path) == []
        target.write(b"one", b"two", durable=durable)
    finally:
        os.umask(before)
    assert entries(tmp_path) == ["new"]
    assert (tmp_path / "new").read_bytes() == b"onetwo"
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o640


def test_an_old_file_keeps_its_content_until_the_new_one_is_complete_and_then_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old content")
    path.chmod(0o604)
    writing = examine(str(path)).begin()
    writing.write(b"new")
    assert path.read_bytes() == b"old content"
    writing.finish()
    writing.abandon()
    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o604
    assert entries(tmp_path) == ["file"]


@pytest.mark.skipif(not AS_ROOT, reason="only root may give files away; run the tests as root")
def test_an_old_file_keeps_its_owner(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch()
    os.chown(path, 4711, 4712)
    examine(str(path)).write(b"new")
    assert (path.stat().st_uid, path.stat().st_gid, path.read_bytes()) == (4711, 4712, b"new")


@pytest.mark.parametrize("old", [None, b"old"])
def test_a_failure_in_the_middle_leaves_what_was_there(old: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "file"
    if old is not None:
        path.write_bytes(old)

    def interrupted() -> None:
        with examine(str(path)).begin() as writing:
            writing.write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert entries(tmp_path) == ([] if old is None else ["file"])
    assert old is None or path.read_bytes() == old


@pytest.mark.parametrize("unnamed", [True, False])
def test_without_files_that_have_no_name_a_temporary_one_does(
    unnamed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a file system that has no O_TMPFILE."""
    if not unnamed:
        monkeypatch.setattr(os, "O_TMPFILE", os.O_DIRECTORY)
    with examine(str(tmp_path / "file")).begin() as writing:
        writing.write(b"new")
        assert [name.startswith(".emu-") for name in entries(tmp_path)] == ([] if unnamed else [True])
    assert entries(tmp_path) == ["file"]
    assert (tmp_path / "file").read_bytes() == b"new"


KILLED = """
import os, signal, sys
from emu.host.files import examine
examine(sys.argv[1]).begin().write(b"half")
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_kill_in_the_middle_leaves_what_was_there(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"old")
    done = subprocess.run([sys.executable, "-c", KILLED, tmp_path / "file"], timeout=60)
    assert done.returncode == -signal.SIGKILL
    assert (tmp_path / "file").read_bytes() == b"old"
    assert entries(tmp_path) == ["file"]


def test_a_full_disk_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    limits, before = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(HostError, match="File too large"):
            examine(str(path)).write(bytes(8192))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    assert path.read_bytes() == b"old"
    assert entries(tmp_path) == ["file"]


def test_symbolic_links_stay_and_lead_to_the_new_content(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "file").write_bytes(b"old")
    (tmp_path / "link").symlink_to("other")
    (tmp_path / "other").symlink_to(tmp_path / "real" / "file")
    (tmp_path / "dangling").symlink_to("real/new")
    examine(str(tmp_path / "link")).write(b"one")
    examine(str(tmp_path / "dangling")).write(b"two")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "dangling").is_symlink()
    assert (tmp_path / "real" / "file").read_bytes() == b"one"
    assert (tmp_path / "real" / "new").read_bytes() == b"two"


def test_holes_are_left_out_and_the_length_is_kept(tmp_path: Path) -> None:
    with examine(str(tmp_path / "file")).begin() as writing:
        writing.skip(1 << 20)
        writing.write(b"x")
        writing.skip(4095)
    status = (tmp_path / "file").stat()
    assert (status.st_size, status.st_blocks * 512 < 1 << 19) == ((1 << 20) + 4096, True)
    assert (tmp_path / "file").read_bytes() == bytes(1 << 20) + b"x" + bytes(4095)


def test_what_took_the_name_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "file"
    target = examine(str(path))
    os.mkfifo(path)
    with pytest.raises(HostError, match="became something else"):
        target.write(b"x")
    with pytest.raises(HostError, match=r"something else|No such device"):
        target.stream()
    assert entries(tmp_path) == ["file"]
    assert stat.S_ISFIFO(path.stat().st_mode)


def test_a_stream_empties_the_file_only_when_it_is_opened(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"the log of yesterday")
    inode = path.stat().st_ino
    target = examine(str(path))
    assert path.read_bytes() == b"the log of yesterday"
    descriptor = target.stream()
    os.write(descriptor, b"today")
    assert path.read_bytes() == b"today"
    assert path.stat().st_ino == inode
    os.close(descriptor)


# -- locked files ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [kernel.Lock.READ, kernel.Lock.WRITE])
def test_a_locked_file_is_neither_emptied_nor_replaced(kind: kernel.Lock, tmp_path: Path) -> None:
    """As a running machine locks its NVDIMMs; also when the lock came after the first look."""
    path = tmp_path / "pmem.img"
    path.write_bytes(b"precious")
    target = examine(str(path))
    descriptor = kernel.open_file(path, write=True)
    assert kernel.lock(descriptor, kind, what="file", length=1 << 62)
    assert isinstance(refused(path, "in use"), FileInUse)
    for write in (target.stream, lambda: target.write(b"x")):
        with pytest.raises(FileInUse, match="in use"):
            write()
    assert path.read_bytes() == b"precious"
    assert entries(tmp_path) == ["pmem.img"]
    os.close(descriptor)
    target.write(b"x")


# -- what is no regular file -----------------------------------------------------------------------------------------


def test_a_fifo_is_written_into(tmp_path: Path) -> None:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    target = examine(str(path))
    assert target.kind is Kind.STREAM
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append(path.read_bytes()))
    reader.start()
    target.write(b"one", bytes(100_000), b"two")
    reader.join()
    assert got == [b"one" + bytes(100_000) + b"two"]
    assert stat.S_ISFIFO(path.stat().st_mode)


def test_a_reader_that_does_not_come_or_does_not_read_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "READER_S", 0.1)
    monkeypatch.setattr(files, "STALL_S", 0.1)
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(HostError, match="fifo") as caught:
        examine(str(tmp_path / "fifo")).write(b"x")
    assert caught.value.remedy == "nobody reads from it: start its reader first"
    reader = os.open(tmp_path / "fifo", os.O_RDONLY | os.O_NONBLOCK)
    leader, follower = pty.openpty()
    try:
        for name in (str(tmp_path / "fifo"), os.ttyname(follower)):
            with pytest.raises(HostError) as caught:
                examine(name).write(bytes(1 << 20))
            assert caught.value.errno == errno.ETIMEDOUT
            assert caught.value.remedy == "nobody reads from it"
    finally:
        for descriptor in (reader, leader, follower):
            os.close(descriptor)


def test_a_fifo_without_a_reader_is_an_error_for_those_who_may_not_wait(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(HostError, match="fifo") as caught:
        examine(str(tmp_path / "fifo")).begin(wait=False)
    assert "reader" in caught.value.remedy


@pytest.fixture
def null(tmp_path: Path) -> Path:
    """A null device of our own; never the system's."""
    path = tmp_path / "null"
    try:
        os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 3))
        path.read_bytes()
    except OSError:
        pytest.skip("only root may make device nodes, where the file system takes them; run the tests as root")
    return path


def test_a_device_is_written_into_and_stays_one(null: Path) -> None:
    target = examine(str(null))
    target.write(b"x", durable=True)
    os.close(target.stream())
    (null.parent / "link").symlink_to(null)
    examine(str(null.parent / "link")).write(b"x")
    assert stat.S_ISCHR(null.stat().st_mode)
    assert entries(null.parent) == ["link", "null"]


@pytest.mark.parametrize("name", ["/dev/fd/{}", "/proc/self/fd/{}", "/proc/thread-self/fd/{}", "link"])
def test_an_open_descriptor_is_gone_on_with(name: str, tmp_path: Path) -> None:
    """``-o /dev/stdout >> log`` must neither empty the log nor put another file in its place."""
    path = tmp_path / "log"
    path.write_bytes(b"before ")
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND)
    (tmp_path / "link").symlink_to(f"/dev/fd/{descriptor}")
    target = examine(name.format(descriptor) if name != "link" else str(tmp_path / "link"))
    assert target.kind is Kind.DESCRIPTOR
    target.write(b"one ")
    stream = target.stream()
    os.write(stream, b"two")
    os.close(stream)
    assert path.read_bytes() == b"before one two"
    assert os.fstat(descriptor).st_ino == path.stat().st_ino
    os.close(descriptor)


def test_a_descriptor_of_another_process_is_what_is_open_there(tmp_path: Path) -> None:
    path = tmp_path / "gone"
    reading, writing = os.pipe()
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT)
    path.unlink()  # /proc names it "gone (deleted)"
    other = subprocess.Popen(["sleep", "60"], pass_fds=(writing, descriptor))
    try:
        examine(f"/proc/{other.pid}/fd/{writing}").write(b"into the pipe")
        assert os.read(reading, 100) == b"into the pipe"
        refused(f"/proc/{other.pid}/fd/{descriptor}", "no file can be kept on proc")
    finally:
        other.kill()
        other.wait()
        for number in (reading, writing, descriptor):
            os.close(number)
    assert entries(tmp_path) == []


def test_a_closed_or_read_only_descriptor_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    descriptor = os.open(tmp_path / "file", os.O_RDONLY)
    with pytest.raises(HostError, match="Bad file descriptor"):
        examine(f"/dev/fd/{descriptor}").write(b"x")
    os.close(descriptor)
    refused(f"/dev/fd/{descriptor}", "Bad file descriptor")


# -- what is refused -------------------------------------------------------------------------------------------------


@pytest.fixture
def odd(tmp_path: Path) -> Iterator[Path]:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(tmp_path / "socket"))
        (tmp_path / "loop").symlink_to("loop")
        (tmp_path / "file").touch()
        yield tmp_path


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("", "is not a file name"),
        ("a\0b", "is not a file name"),
        (".", "Is a directory"),
        ("new/", "Is a directory"),
        ("..", "Is a directory"),
        ("socket", "Is a socket"),
        ("loop", "Too many levels"),
        ("no/such", "No such file or directory"),
        ("file/x", "Not a directory"),
        ("n" * 300, "File name too long"),
    ],
)
def test_names_that_cannot_be_written(odd: Path, name: str, match: str) -> None:
    before = entries(odd)
    refused(name if name in ("", "a\0b") else f"{odd}/{name}", match)
    assert entries(odd) == before


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("/dev/emu-test-0.9", "there is no such device"),
        ("/dev/../dev/emu-test-0.9", "there is no such device"),
        ("/proc/emu-test", "no file can be kept on proc"),
        ("/sys/kernel/emu-test", "no file can be kept on sysfs"),
    ],
)
def test_no_file_is_made_among_devices_or_in_the_kernels_file_systems(name: str, why: str) -> None:
    assert name in refused(name, why).what


DEV = """
import sys
from emu.errors import HostError
from emu.host.files import examine
for name in sys.argv[1:]:
    try:
        print(examine(name).kind.name)
    except HostError as error:
        print(error.what)
"""


def test_a_dev_that_is_a_tmpfs_holds_no_files_but_what_is_mounted_in_it_does() -> None:
    """As in a container; in a mount namespace of our own."""
    space = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    mounts = "mount -t tmpfs none /dev && mkdir /dev/sub /dev/shm /dev/mounted && mount -t tmpfs none /dev/mounted"
    if shutil.which("unshare") is None or subprocess.run([*space, mounts], capture_output=True).returncode:
        pytest.skip("needs unshare and user namespaces; run as root or set kernel.unprivileged_userns_clone=1")
    names = ("/dev/dax0.0", "/dev/sub/x", "/dev/mounted/x", "/dev/shm/x")
    script = f'{mounts} && exec "{sys.executable}" -c "$0" "$@"'
    done = subprocess.run([*space, script, DEV, *names], capture_output=True, text=True, timeout=60)
    device, sub, *places = done.stdout.splitlines()
    assert device.startswith("/dev/dax0.0: there is no such device")
    assert sub.startswith("/dev/sub/x: there is no such device")
    assert places == ["NEW", "NEW"]


@pytest.mark.parametrize("name", ["/proc/self/mem", "/proc/self/comm"])
def test_files_of_the_kernel_are_not_replaced(name: str) -> None:
    refused(name, "no file can be kept on proc")


@pytest.mark.skipif(AS_ROOT, reason="root may write everything; run the tests as a normal user")
@pytest.mark.parametrize("what", ["file", "folder"])
def test_without_permission_nothing_is_tried(what: str, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "file").touch()
    (folder / "file" if what == "file" else folder).chmod(0o555)
    refused(folder / "file", r"Permission denied|no file can be made")
    folder.chmod(0o755)


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    name = os.fsdecode(os.fsencode(tmp_path) + b"/\xff")
    examine(name).write(b"x")
    assert [os.fsencode(entry.name) for entry in tmp_path.iterdir()] == [b"\xff"]
    assert files.resolve(name).path == name
