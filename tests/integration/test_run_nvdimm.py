"""The NVDIMM options of ``emu run`` and what may go wrong with files and images: status, message, nothing lost."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from emu import board, guest
from emu.config import MachineConfig
from emu.errors import EmuError
from tests.integration.run_emu import EMU, PATIENCE_S, Result, emu, refused

MIB = 1 << 20
GIB = 1 << 30
HALT = b"\xf4"
SPIN = b"\xeb\xfe"
# rbx = [4 GiB]; [4 GiB] = 0x55; to the exit port: whether it still reads rbx
STORE = bytes.fromhex("48b80000000001000000488b1848c70055000000488b084839d90f94c00fb6c0e6f4f4")
DROPPED, STORED = 3, 1
# 64 times: read the time stamp counter, keep it in RAM from 0x200008 on, send its low byte to COM1; hlt
TIME = bytes.fromhex("66baf803b940000000520f314889c348891ccd000020005a88d8eee2ecf4")


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "guest.bin"
    path.write_bytes(HALT)
    return path


@pytest.fixture
def pmem(tmp_path: Path) -> Path:
    """A file of 2 MiB that is not all zeros."""
    path = tmp_path / "pmem.img"
    path.write_bytes(bytes(range(256)) * 8192)
    return path


def places(result: Result) -> list[tuple[int, int]]:
    return [(nvdimm["slot"], nvdimm["gpa"]) for nvdimm in result.document["nvdimms"]]


# sync and share


def can_map_sync(folder: Path) -> bool:
    (folder / "probe").write_bytes(bytes(MIB))
    return '"map_sync": true' in emu("probe", folder / "probe", "--json").out


def test_sync_on_where_there_is_no_dax(image: Path, pmem: Path) -> None:
    if can_map_sync(pmem.parent):
        pytest.skip("the test folder is on a DAX file system; run with --basetemp on another one")
    before = pmem.read_bytes()
    message = refused(4, image, "--nvdimm", f"file={pmem},sync=on")
    assert "MAP_SYNC (sync=on)" in message
    assert len(message.splitlines()) == 2
    assert "metadata" in message
    assert pmem.read_bytes() == before


def test_sync_on_leaves_no_new_file_behind(image: Path, tmp_path: Path) -> None:
    if can_map_sync(tmp_path):
        pytest.skip("the test folder is on a DAX file system; run with --basetemp on another one")
    refused(4, image, "--nvdimm", f"file={tmp_path}/new,size=1M,sync=on")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("sync", ["auto", "off"])
def test_sync_auto_and_off_run_and_say_what_they_are(image: Path, pmem: Path, sync: str) -> None:
    (nvdimm,) = emu("run", image, "--json", "--nvdimm", f"file={pmem},sync={sync}").document["nvdimms"]
    if sync == "off" or not can_map_sync(pmem.parent):
        assert (nvdimm["sync"]["effective"], nvdimm["survives"]["host_power_loss"]) == (False, False)
        assert "no MAP_SYNC" in nvdimm["sync"]["why"] or "without MAP_SYNC" in nvdimm["sync"]["why"]


def test_share_off_keeps_the_guests_stores_from_the_file(image: Path, pmem: Path) -> None:
    image.write_bytes(STORE)
    before = pmem.read_bytes()
    result = emu("run", image, "--nvdimm", f"file={pmem},share=off", "--verbose")
    assert result.status == STORED
    assert "NOT kill -9" in result.errors[0]
    assert any("share=off" in line for line in result.errors)
    assert pmem.read_bytes() == before
    assert "share" in refused(4, image, "--nvdimm", f"file={pmem},share=off,sync=on")


# readonly, rom, unarmed


def test_a_read_only_nvdimm_must_be_unarmed(image: Path, pmem: Path) -> None:
    assert "unarmed" in refused(2, image, "--nvdimm", f"file={pmem},readonly=on")


@pytest.mark.parametrize("unarmed", ["on", "auto"])
def test_a_read_only_nvdimm_drops_stores(image: Path, pmem: Path, unarmed: str) -> None:
    image.write_bytes(STORE)
    before = pmem.read_bytes()
    result = emu("run", image, "--json", "--nvdimm", f"file={pmem},readonly=on,unarmed={unarmed}")
    assert result.status == DROPPED
    assert result.document["nvdimms"][0]["unarmed"] is True
    assert pmem.read_bytes() == before


def test_readonly_with_rom_off_takes_stores_and_keeps_them_private(image: Path, pmem: Path) -> None:
    image.write_bytes(STORE)
    before = pmem.read_bytes()
    assert emu("run", image, "--nvdimm", f"file={pmem},readonly=on,rom=off,share=off").status == STORED
    assert pmem.read_bytes() == before


def test_unarmed_auto_disarms_what_a_power_loss_would_take(image: Path, pmem: Path) -> None:
    (nvdimm,) = emu("run", image, "--json", "--nvdimm", f"file={pmem},unarmed=auto").document["nvdimms"]
    assert nvdimm["unarmed"] is not nvdimm["survives"]["host_power_loss"]


def test_a_file_that_may_only_be_read(image: Path, pmem: Path) -> None:
    pmem.chmod(0o444)
    folder = pmem.parent
    under: tuple[str, ...] = ()
    if os.access(pmem, os.W_OK):  # root: nothing but a read-only mount stops it
        mount = f'mount --bind {folder} {folder} && mount -o remount,ro,bind {folder} && exec "$@"'
        under = ("unshare", "--mount", "sh", "-c", mount, "sh")
        if shutil.which("unshare") is None or subprocess.run([*under, "true"], capture_output=True).returncode:
            pytest.skip("root may write everything and cannot mount here; run the tests as an ordinary user")
    message = refused(4, image, "--nvdimm", f"file={pmem}", under=under)
    assert "Permission denied" in message or "Read-only file system" in message
    assert emu("run", image, "--nvdimm", f"file={pmem},readonly=on,unarmed=on", under=under).status == 0


# Sizes, labels, places


@pytest.mark.parametrize(
    ("options", "status"),
    [
        ("size=3M", 2),  # larger than the file
        ("size=0", 2),
        ("size=18446744073709551615", 2),
        ("size=99999999999999999999", 2),
        ("size=-1", 2),
        ("size=1X", 2),
        ("size=64K,label-size=64K", 2),
        ("label-size=4K", 2),
        ("label-size=2M", 2),
        ("label-size=3M", 2),
        ("align=3", 2),
        ("offset=1", 2),
        ("offset=4M", 2),
        ("addr=1", 2),
        ("addr=0", 0),
        ("addr=0x80000000", 2),
        ("addr=0xffffffffffffe000", 2),
        ("slot=256", 2),
        ("slot=-1", 2),
        ("node=3", 2),
        ("uuid=1234", 2),
        ("sync=maybe", 2),
        ("share=2", 2),
        ("no-such-key=1", 2),
        ("policy=bind", 2),
        ("host-nodes=900,policy=bind", 2),
    ],
)
def test_values_that_cannot_be(image: Path, pmem: Path, options: str, status: int) -> None:
    before = pmem.read_bytes()
    if status:
        refused(status, image, "--nvdimm", f"file={pmem},{options}")
    else:
        assert emu("run", image, "--nvdimm", f"file={pmem},{options}").status == 0
    assert pmem.read_bytes() == before


@pytest.mark.parametrize("size", [1, 4095, 4097, MIB + 1, 2 * MIB + 4097])
def test_files_of_odd_sizes_are_refused_or_used_without_a_change(image: Path, tmp_path: Path, size: int) -> None:
    odd = tmp_path / "odd"
    odd.write_bytes(b"\x5a" * size)
    result = emu("run", image, "--json", "--nvdimm", f"file={odd}")
    assert result.status in (0, 2)
    assert len(result.errors) == (2 if result.status else 0)
    assert odd.read_bytes() == b"\x5a" * size


def test_a_new_file_of_a_size_no_file_system_has(image: Path, tmp_path: Path) -> None:
    refused(4, image, "--nvdimm", f"file={tmp_path}/new,size=8E")
    assert not (tmp_path / "new").exists()


def test_256_nvdimms_are_all_there(tmp_path: Path) -> None:
    """As many as QEMU has slots for; their tables need RAM, which the guest is told not to use."""
    words = [f"--nvdimm=file={tmp_path / str(n)},size=64K" for n in range(256)]
    result = emu("run", "nfit", "--quiet", *words)
    assert result.status == 0, result
    assert result.out.count("\nmemory device 0x") == 256


def test_several_nvdimms_slots_and_addresses(image: Path, tmp_path: Path) -> None:
    def nvdimm(name: str, more: str = "") -> tuple[str, str]:
        return "--nvdimm", f"file={tmp_path}/{name},size=1M{more}"

    result = emu("run", image, "--json", *nvdimm("a", ",slot=2"), *nvdimm("b", ",addr=0x140000000"), *nvdimm("c"))
    assert places(result) == [(2, 4 * GIB), (0, 5 * GIB), (1, 4 * GIB + MIB)]
    assert "slot 2" in refused(2, image, *nvdimm("a", ",slot=2"), *nvdimm("b", ",slot=2"))
    refused(2, image, *nvdimm("a", ",addr=0x100000000"), *nvdimm("b", ",addr=0x100000000"))
    refused(2, image, *nvdimm("a", ",id=x"), *nvdimm("b", ",id=x"))
    refused(4, image, *nvdimm("a"), *nvdimm("a"))


def test_qemus_words_give_the_same_machine(image: Path, tmp_path: Path) -> None:
    image.write_bytes(STORE)
    short = emu("run", image, "--json", "--nvdimm", f"file={tmp_path}/a,size=2M,label-size=128K,id=n1,unarmed=on")
    long = emu(
        "run", "-machine", "q35,nvdimm=on", "-m", "128M,slots=1,maxmem=4G", "-nodefaults", "-display", "none",
        "-object", f"memory-backend-file,id=m1,share=on,mem-path={tmp_path}/b,size=2M",
        "-device", "nvdimm,memdev=m1,label-size=128K,id=n1,unarmed=on",
        "-device", "isa-debug-exit,iobase=0xf4,iosize=4",
        "-kernel", str(image), "--json", "-serial", "stdio", "-no-reboot",
    )  # fmt: skip
    assert short.status == long.status == STORED
    ours, theirs = short.document, long.document
    for document in (ours, theirs):
        del document["duration_s"], document["nvdimms"][0]["file"]
    assert ours == theirs
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


# Files that are no files, that are taken, that do not fit


def test_what_cannot_back_memory(image: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for name, status in (("fifo", 2), (".", 2), ("no/such/folder", 4), ("x" * 300, 2)):
        refused(status, image, "--nvdimm", f"file={tmp_path / name},size=1M")
    refused(2, image, "--nvdimm", f"file={tmp_path}/missing")
    assert not (tmp_path / "missing").exists()
    refused(2, image, "--nvdimm", "file=/dev/null,size=1M")


def test_a_file_in_use_is_refused_unless_both_share(image: Path, pmem: Path) -> None:
    image.write_bytes(SPIN)
    for more, others, status in (("", "", 4), ("", ",share-lock=on", 4), (",share-lock=on", ",share-lock=on", 0)):
        holder = subprocess.Popen([*EMU, "run", str(image), "--timeout", "50", "--nvdimm", f"file={pmem}{more}"],
                                  stderr=subprocess.PIPE, text=True)  # fmt: skip
        assert holder.stderr is not None
        assert holder.stderr.readline().startswith("emu: nvdimm0")  # said once the file is locked and mapped
        try:
            if status:
                assert "in use" in refused(status, image, "--nvdimm", f"file={pmem}{others}")
            else:
                assert emu("run", "nfit", "--nvdimm", f"file={pmem}{others}").status == 0
        finally:
            holder.kill()
            holder.communicate()
    assert emu("run", "nfit", "--nvdimm", f"file={pmem}").status == 0


def test_a_full_disk(image: Path, tmp_path: Path) -> None:
    under = ("unshare", "--mount", *(() if os.geteuid() == 0 else ("--user", "--map-root-user")))
    small = tmp_path / "small"
    small.mkdir()
    mount = f'mount -t tmpfs -o size=1M tmpfs {small} && exec "$@"'
    inside = (*under, "sh", "-c", mount, "sh")
    if shutil.which("unshare") is None or subprocess.run([*inside, "true"], capture_output=True).returncode:
        pytest.skip("cannot mount a small tmpfs in a name space of its own; needs util-linux and user name spaces")
    message = refused(4, image, "--nvdimm", f"file={small}/f,size=4M,prealloc=on", under=inside)
    assert "No space left on device" in message
    result = emu("run", "bench-copy", "--append", "2000", "--quiet", "--timeout", "30", "--nvdimm",
                 f"file={small}/f,size=4M", under=inside)  # fmt: skip
    if result.status == 4:
        assert len(result.errors) == 2
        assert "lost its storage" in result.errors[0]
    else:
        assert result.status == 0  # the loop copied less than the disk holds


def test_a_file_cut_short_under_the_guest_is_one_clear_error(tmp_path: Path) -> None:
    pmem = tmp_path / "pmem"
    process = subprocess.Popen([*EMU, "run", "count", "--json", "--timeout", "50", "--nvdimm", f"file={pmem},size=8M"],
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)  # fmt: skip
    end = time.monotonic() + PATIENCE_S
    while not (pmem.exists() and pmem.read_bytes()[4096:4104].strip(b"\0")):
        assert time.monotonic() < end
        time.sleep(0.02)
    os.truncate(pmem, 0)
    out, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 4
    assert errors.decode().splitlines()[0].startswith(f"emu: {pmem}: the backing file lost its storage at offset ")
    assert errors.count(b"\n") == 2
    assert b'"reason": "host-error"' in out


# Images


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ((), "no image"),
        (("no-such-guest",), "no image"),
        (("x" * 5000,), "no image"),
        (("/",), "cannot read the image"),
        (("hello", "-kernel", "hello"), "two images"),
        (("hello", "--timeout", "0"), "seconds"),
        (("hello", "-m", "0"), "-m"),
        (("hello", "-m", "1T"), "-m"),
        (("hello", "-m", "x"), "size"),
        (("hello", "-m", "1G,maxmem=512M"), "-m"),
        (("hello", "-smp", "2"), "one CPU"),
        (("hello", "-machine", "microvm"), "machine"),
        (("hello", "-device", "e1000"), "e1000"),
        (("hello", "-device", "isa-debug-exit,iobase=0x3f8"), "exit0"),
        (("hello", "-device", "isa-debug-exit,iobase=0xffff,iosize=4"), "exit0"),
        (("hello", "-device", "nvdimm,memdev=nobody"), "nobody"),
        (("hello", "-serial", "tcp:1"), "characters"),
        (("hello", "--no-such-option"), "--no-such-option"),
        (("hello", "--nvdimm", ""), "file"),
        (("hello", "--nvdimm", "file=a,"), ""),
    ],
)
def test_words_that_make_no_sense(words: tuple[str, ...], expected: str, tmp_path: Path) -> None:
    assert expected in refused(2, *words)


def test_images_that_are_none(tmp_path: Path) -> None:
    empty, large, fifo = tmp_path / "empty", tmp_path / "large", tmp_path / "fifo"
    empty.touch()
    with large.open("wb") as file:
        file.truncate(300 * MIB)
    os.mkfifo(fifo)
    assert "empty" in refused(2, empty)
    assert "larger than" in refused(2, large)
    assert "not a regular file" in refused(2, fifo)
    large.write_bytes(HALT * 2 * MIB)
    refused(2, large, "-m", "2M")


BUNDLED = {name: found.read() for name in ("hello", "first") if (found := guest.find(name))}


@st.composite
def hostile_images(draw: st.DrawFn) -> bytes:
    data = bytearray(BUNDLED[draw(st.sampled_from(sorted(BUNDLED)))])
    for _ in range(draw(st.integers(1, 8))):
        # Most of the structure is at the front: headers, notes, program headers.
        at = draw(st.integers(0, min(len(data) - 1, draw(st.sampled_from([0x60, 0x200, 1 << 20])))))
        data[at : at + 4] = draw(st.binary(min_size=1, max_size=8))
    return bytes(data[: draw(st.integers(0, len(data)))] if draw(st.booleans()) else data)


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=hostile_images())
def test_truncated_and_hostile_images_end_or_are_refused(tmp_path: Path, data: bytes) -> None:
    image = tmp_path / "hostile.bin"
    image.write_bytes(data)
    try:
        with board.build(MachineConfig(image=str(image), ram_size=16 * MIB), board.Outputs()) as machine:
            ended = machine.run(0.05)
    except EmuError as error:
        assert error.status == 2
        assert error.what
    else:
        assert ended.status in (0, 6, 124) or ended.status % 2


# Determinism


@pytest.mark.parametrize("name", ["timer", "count", "flat"])
def test_two_runs_give_the_same_text_memory_and_time(image: Path, name: str) -> None:
    image.write_bytes(TIME)
    found = guest.find(name)
    path = str(found.path if found else image)
    seen = []
    for _ in range(2):
        serial = bytearray()
        config = MachineConfig(image=path, cmdline="100 10", ram_size=4 * MIB)
        with board.build(config, board.Outputs(serial=serial.extend)) as machine:
            ended = machine.run(PATIENCE_S)
            seen.append((ended, bytes(serial), machine.memory.read(0, 4 * MIB), machine.cpu.now(), machine.save()))
    assert seen[0] == seen[1]
    assert seen[0][1] != b""
