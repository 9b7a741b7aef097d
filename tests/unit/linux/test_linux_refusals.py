"""What cannot run is refused before anything is written: one message that says what, where and what to do."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from emu.config import BackendConfig, MachineConfig, NvdimmConfig, OnOffAuto
from emu.errors import EmuError, HostError, UsageError
from emu.linux import kernel, namespaces
from emu.linux.namespaces import FileSystem, Planner
from emu.linux.prepare import Prepared, Request, own_words, prepare
from emu.linux.protocol import Role
from emu.memory import open_backend
from emu.units import KIB, MIB

X86_64, AARCH64 = 62, 183
EXECUTABLE, RELOCATABLE = 2, 1


def elf(machine: int = X86_64, kind: int = EXECUTABLE, *, order: str = "little", length: int = 0x78) -> bytes:
    """A static ELF program of one segment, ``length`` bytes of the file."""

    def number(value: int, size: int) -> bytes:
        return value.to_bytes(size, "big" if order == "big" else "little")

    head = b"\x7fELF\x02" + (b"\x02" if order == "big" else b"\x01") + b"\x01" + bytes(9)
    head += number(kind, 2) + number(machine, 2) + number(1, 4) + number(0x400078, 8) + number(64, 8) + bytes(8)
    head += bytes(4) + number(64, 2) + number(56, 2) + number(1, 2) + bytes(6)
    segment = number(1, 4) + number(5, 4) + number(0, 8) + number(0x400000, 8) * 2 + number(length, 8) * 2
    return head + segment + number(0x1000, 8)


@pytest.fixture(autouse=True)
def _place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder to stand in, with a file that passes for a kernel without modules."""
    monkeypatch.chdir(tmp_path)
    head = bytearray(0x600)
    head[0x202:0x206] = b"HdrS"
    Path("kernel").write_bytes(head)
    monkeypatch.setenv(kernel.VARIABLE, str(tmp_path / "kernel"))
    executable("program", elf())


def executable(name: str, data: bytes) -> None:
    Path(name).write_bytes(data)
    Path(name).chmod(0o755)


def nvdimm(path: str = "p.img", size: int | None = 64 * MIB, **more: Any) -> NvdimmConfig:
    return NvdimmConfig(backend=BackendConfig(id="m", path=path, size=size, share=True, sync=OnOffAuto.OFF, **more))


def prepared(
    execute: str = "./program",
    *added: str,
    named: str | None = None,
    use: FileSystem | None = None,
    dimm: NvdimmConfig | None = None,
    commands: Mapping[Role, str] | None = None,
    cmdline: str = "",
) -> Prepared:
    dimms = (dimm or nvdimm(),)
    config = MachineConfig(ram_size=256 * MIB, slots=1, max_memory=1024 * MIB, nvdimms=dimms, cmdline=cmdline)
    with contextlib.ExitStack() as scratch:
        return prepare(Request(named, use, added, commands or {Role.EXEC: execute}), config, scratch)


def refusal(make: Callable[[], object], kind: type[EmuError] = UsageError) -> str:
    """What is said of it, and what to do; no file has come or changed."""
    before = {path: path.lstat().st_mtime_ns for path in Path().rglob("*")}
    with pytest.raises(kind) as caught:
        make()
    assert {path: path.lstat().st_mtime_ns for path in Path().rglob("*")} == before
    assert caught.value.remedy
    return caught.value.what


def test_what_can_run_is_not_refused() -> None:
    Path("notes").write_text("text")
    made = prepared("./program 1", "notes", "notes", "notes:/a/../b", "notes:/etc/passwd", use=FileSystem.EXT4)
    assert made.steps[0].writes
    assert not Path("p.img").exists()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "file is not a Linux kernel"),
        (b"#!/bin/sh\n", "file is not a Linux kernel"),
        (elf(), "file is not a Linux kernel"),
        (elf(AARCH64), "another architecture: AArch64"),
        (elf(22, order="big"), "another architecture: S/390"),
        (b"MZ".ljust(56, b"\0") + b"ARM\x64" + bytes(4), "another architecture: AArch64"),
        (b"MZ".ljust(56, b"\0") + b"RSC\x05" + bytes(4), "another architecture: RISC-V"),
    ],
)
def test_kernels(content: bytes, says: str) -> None:
    Path("file").write_bytes(content)
    assert says in refusal(lambda: prepared(named="file"))


def test_kernel_names() -> None:
    Path("folder").mkdir()
    os.mkfifo("pipe")  # which nobody writes to
    assert refusal(lambda: prepared(named="pipe")) == "pipe is not a Linux kernel, but a FIFO"
    assert refusal(lambda: prepared(named="")) == "--kernel: the name is empty"
    assert refusal(lambda: prepared(named="folder")) == "folder: cannot read the kernel: Is a directory"
    assert refusal(lambda: prepared(named="absent")) == "absent: cannot read the kernel: No such file or directory"


def modules_folder(*, dep: str | None) -> Path:
    """A kernel unpacked with its modules, of which ``dep`` is the table."""
    head = bytearray(0x600)
    head[0x202:0x206] = b"HdrS"
    head[0x20E:0x210] = (0x300).to_bytes(2, "little")
    head[0x500:0x508] = b"6.0-test"
    Path("unpacked/boot").mkdir(parents=True)
    Path("unpacked/boot/vmlinuz").write_bytes(head)
    folder = Path("unpacked/lib/modules/6.0-test")
    (folder / "kernel").mkdir(parents=True)
    if dep is not None:
        (folder / "modules.dep").write_bytes(dep.encode("utf-8", "surrogateescape"))
    return folder


@pytest.mark.parametrize(
    ("dep", "module", "kind", "says"),
    [
        (None, None, HostError, "has modules, and no modules.dep"),
        ("", None, UsageError, "the kernel 6.0-test has no module nfit"),
        ("\udcff\udcfe:\n::: :\n\0", None, UsageError, "the kernel 6.0-test has no module nfit"),
        ("kernel/nfit.ko:\n", None, UsageError, "kernel/nfit.ko: cannot read the kernel module"),
        ("kernel/nfit.ko:\n", b"", UsageError, "kernel/nfit.ko: the kernel module is damaged"),
        ("kernel/nfit.ko:\n", b"rubbish", UsageError, "kernel/nfit.ko: the kernel module is damaged"),
    ],
)
def test_modules(dep: str | None, module: bytes | None, kind: type[EmuError], says: str) -> None:
    folder = modules_folder(dep=dep)
    if module is not None:
        (folder / "kernel/nfit.ko").write_bytes(module)
    if dep and dep.startswith("kernel"):
        (folder / "modules.builtin").write_text("kernel/nd_pmem.ko\nkernel/ext4.ko\n")
    assert says in refusal(lambda: prepared(named="unpacked/boot/vmlinuz"), kind)


@pytest.mark.parametrize("role", [Role.EXEC, Role.SETUP, Role.RECOVERY])
@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "the command is empty"),
        (" \t", "the command is empty"),
        ("./program 'abc", "No closing quotation in './program 'abc'"),
        ('echo "abc | cat', "No closing quotation in 'echo \"abc | cat'"),
        ("./program a\0b", "a zero byte"),
    ],
)
def test_command_lines(role: Role, text: str, says: str) -> None:
    option = {Role.EXEC: "--exec", Role.SETUP: "--setup", Role.RECOVERY: "--recover"}[role]
    message = refusal(lambda: prepared(commands={Role.EXEC: "./program", role: text}))
    assert message.startswith(f"{option}: ")
    assert says in message


def test_commands_of_more_words_than_init_takes() -> None:
    assert prepared("./program" + 1023 * " x").config.initrd
    assert "has 1025 words, and 1024 go" in refusal(lambda: prepared("./program" + 1024 * " x"))
    assert "go" in refusal(lambda: prepared("./program " + "x" * 256 * KIB))


SCRIPT = b"#!/bin/sh\n"


@pytest.mark.parametrize(
    ("content", "mode", "says"),
    [
        (None, 0, "there is no program ./file"),
        (SCRIPT, 0o644, "./file is not executable"),
        (elf(), 0o644, "./file is not executable"),
        (b"echo hello\n", 0o755, "file is no program"),
        (b"", 0o755, "file is no program"),
        (b"#!\necho hello\n", 0o755, "file: its '#!' names no interpreter"),
        (b"#!  ", 0o755, "file: its '#!' names no interpreter"),
        (b"#!/no/such/sh\n", 0o755, "file needs its interpreter: cannot read /no/such/sh"),
        (b"#!/usr\n", 0o755, "file needs its interpreter: /usr is not a regular file"),
        (b"#!/etc/passwd\n", 0o755, "file needs its interpreter: /etc/passwd is no program"),
        (b"#!/usr/bin/env no-such-program\n", 0o755, "no program 'no-such-program' in PATH"),
        (elf(AARCH64), 0o755, "file is a program for another architecture: AArch64"),
        (elf(kind=RELOCATABLE), 0o755, "an ELF file of type 1, which is not linked"),
        (elf(length=0x79), 0o755, "file: the ELF file is damaged or cut short"),
        (elf()[:0x70], 0o755, "file: the ELF file is damaged"),
        (elf()[:64], 0o755, "file: the ELF file is damaged"),
        (elf()[:20], 0o755, "cut-short ELF file"),
        (elf()[:54] + bytes(2) + elf()[56:], 0o755, "file: the ELF file is damaged"),
        (elf()[:56] + b"\xff\xff" + elf()[58:], 0o755, "file: the ELF file is damaged"),
        (elf()[:32] + b"\xff" * 8 + elf()[40:], 0o755, "file: the ELF file is damaged"),
    ],
)
def test_programs(content: bytes | None, mode: int, says: str) -> None:
    if content is not None:
        Path("file").write_bytes(content)
        Path("file").chmod(mode)
    assert says in refusal(lambda: prepared("./file one"))
    assert says in refusal(lambda: prepared("./file one | cat"))
    assert says in refusal(lambda: prepared(commands={Role.EXEC: "./program", Role.RECOVERY: "./file"}))


@pytest.mark.parametrize("count", [0, 5])
def test_scripts_that_run_scripts_without_an_end(count: int) -> None:
    """Linux follows five; the sixth, and a circle, are refused."""
    here = Path.cwd()
    for n in range(count):
        executable(f"file{n}", f"#!{here}/file{n + 1}\n".encode())
    executable(f"file{count}", f"#!{here}/file0\n".encode())
    assert "its '#!' leads from script to script" in refusal(lambda: prepared("./file0"))
    executable(f"file{count}", f"#!{here}/program\n".encode())
    if count == 5:
        assert "its '#!' leads from script to script" in refusal(lambda: prepared("./file0"))
    assert prepared("./file1" if count else "./file0").config.initrd


def test_programs_that_are_run_by_others_are_examined_as_well() -> None:
    executable("arm", elf(AARCH64))
    for line in ("env ./arm x", "timeout 5 ./arm", "sh -c ./arm", "cat x | xargs ./arm"):
        assert "another architecture: AArch64" in refusal(partial(prepared, line))


def test_files_that_are_only_read_need_not_be_programs() -> None:
    executable("data", b"not a program")
    executable("arm", elf(AARCH64))
    made = prepared("cat ./data ./arm").config.initrd
    assert isinstance(made, bytes)
    assert b"not a program" in made
    assert elf(AARCH64) in made


def test_program_that_is_a_folder_or_not_in_path() -> None:
    Path("folder").mkdir()
    assert refusal(lambda: prepared("./folder")) == "there is no program ./folder"
    assert refusal(lambda: prepared("no-such-program -x")) == "there is no program 'no-such-program' in PATH"


@pytest.mark.skipif(
    shutil.which("aarch64-linux-gnu-gcc") is None,
    reason="needs a cross compiler: apt-get install gcc-aarch64-linux-gnu libc6-dev-arm64-cross",
)
def test_program_of_another_compiler() -> None:
    subprocess.run(
        ["aarch64-linux-gnu-gcc", "-o", "real", "-x", "c", "-"], input=b"int main(void) { return 0; }", check=True
    )
    assert "real is a program for another architecture: AArch64" in refusal(lambda: prepared("./real"))


@pytest.mark.parametrize(
    ("added", "says"),
    [
        (("",), "there is no file in it"),
        ((":/x",), "there is no file in it"),
        (("/no/file",), "cannot read /no/file"),
        (("/dev/zero",), "/dev/zero is not a regular file"),
        (("one:here",), "'here' is not an absolute path of the guest"),
        (("one:../here",), "'../here' is not an absolute path of the guest"),
        (("one:/",), "'/' is not an absolute path of the guest"),
        (("one:/a/..",), "'/a/..' is not an absolute path of the guest"),
        (("one:/x", "two:/x"), "/x would be two different files of the guest"),
        (("one:/x", "two:/a/../x"), "/x would be two different files of the guest"),
        (("one:/init",), "/init would be two different files of the guest"),
        (("one:/emu/plan",), "/emu/plan would be two different files of the guest"),
        (("one:/tmp",), "/tmp is a directory of the guest already"),
        (("one:/x", "two:/x/y"), "/x is a file of the guest already"),
        (("one:/pmem/x",), "/pmem/x would not be seen"),
        (("one:/proc/x",), "/proc/x would not be seen"),
        (("one:/dev/shm/x",), "/dev/shm/x would not be seen"),
        (("link:/x",), "cannot read"),
        (("one\0:/x",), "is not a file name"),
    ],
)
def test_added_files(added: tuple[str, ...], says: str) -> None:
    Path("one").write_text("1")
    Path("two").write_text("2")
    Path("link").symlink_to("nowhere")
    assert says in refusal(lambda: prepared("./program", *added))


def test_files_for_others_in_an_added_folder_are_taken_as_they_are() -> None:
    """A folder is data, until something in it is executed: Python's library has a script for /usr/local/bin/python."""
    Path("folder").mkdir()
    executable("folder/script", b"#!/no/such/interpreter\n")
    executable("folder/arm", elf(AARCH64))
    Path("folder/link").symlink_to("nowhere")
    made = prepared("./program", "folder")
    assert isinstance(made.config.initrd, bytes)
    for name in (b"folder/script\0", b"folder/arm\0", b"folder/link\0"):
        assert name in made.config.initrd


def test_command_line_of_the_kernel() -> None:
    assert "Linux takes 2047" in refusal(lambda: prepared(cmdline="a" * 2000))


def filled(name: str, size: int, *pieces: tuple[int, bytes]) -> str:
    with Path(name).open("wb") as file:
        file.truncate(size)
        for at, data in pieces:
            file.seek(at)
            file.write(data)
    return name


@pytest.mark.parametrize(
    ("pieces", "says"),
    [
        ([(510, b"\x55\xaa")], "f.img holds a partition table or boot sector"),
        ([(510, b"\x55\xaa"), (512, b"EFI PART")], "f.img holds a GPT partition table"),
        ([(0, b"LUKS\xba\xbe")], "f.img holds an encrypted volume (LUKS)"),
        ([(0x10040, b"_BHRfS_M")], "f.img holds btrfs"),
        ([(1080, b"\x53\xef")], "f.img: ext4 lies directly on a raw namespace"),
        ([(0, b"XFSB")], "f.img: xfs lies directly on a raw namespace"),
        ([(40 * MIB, b"x")], "f.img holds data, and no file system that emu knows"),
    ],
)
def test_data_of_others(pieces: list[tuple[int, bytes]], says: str) -> None:
    path = filled("f.img", 64 * MIB, *pieces)
    assert says in refusal(lambda: prepared(dimm=nvdimm(path)))


@pytest.mark.parametrize(
    ("use", "size", "says"),
    [
        (None, 4 * KIB, "p.img: 4 KiB are too small for ext4"),
        (FileSystem.EXT4, 9 * MIB, "p.img: 9 MiB are too small for ext4"),
        (FileSystem.XFS, 300 * MIB, "p.img: 300 MiB are too small for xfs"),
        (FileSystem.DEVDAX, 3 * MIB, "p.img: 3 MiB are too small for devdax"),
        (None, None, "p.img is new and no size was given"),
    ],
)
def test_sizes(use: FileSystem | None, size: int | None, says: str) -> None:
    assert says in refusal(lambda: prepared(use=use, dimm=nvdimm(size=size)))


BLOCK = 2 * MIB
"""Where the file system begins."""


@pytest.fixture(scope="module", params=["ext4", "xfs"])
def formatted(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An NVDIMM with a file system that the host's mkfs made."""
    kind = str(request.param)
    if shutil.which(f"mkfs.{kind}", path=f"{os.environ['PATH']}:/usr/sbin:/sbin") is None:
        pytest.skip(f"mkfs.{kind} is missing: apt-get install e2fsprogs xfsprogs")
    path = tmp_path_factory.mktemp(kind) / kind
    config = nvdimm(str(path), 304 * MIB if kind == "xfs" else 32 * MIB)
    with contextlib.ExitStack() as scratch:
        step = Planner(FileSystem(kind), scratch).examine(config)
        step.carry_out(scratch.enter_context(open_backend(config.backend)).mapping, 0, 1 << 32, 0)
    return path


def changed(original: Path, at: int, data: bytes) -> NvdimmConfig:
    shutil.copyfile(original, "f.img")
    with Path("f.img").open("r+b") as file:
        file.seek(at)
        file.write(data)
    return nvdimm("f.img", None)


def test_damaged_superblocks(formatted: Path) -> None:
    kind = formatted.name
    assert prepared(dimm=changed(formatted, 0, b"")).config.initrd
    start, size = (1024, 1024) if kind == "ext4" else (0, 512)
    for place in (4, 8, 0x80, size - 1):
        at = BLOCK + start + place
        before = formatted.read_bytes()[at]
        dimm = changed(formatted, at, bytes([before ^ 0x10]))
        message = refusal(partial(prepared, dimm=dimm))
        assert message == f"f.img: the superblock of its {kind} is damaged: the checksum is wrong"


def test_file_systems_that_were_cut_short(formatted: Path) -> None:
    shutil.copyfile(formatted, "f.img")
    os.truncate("f.img", formatted.stat().st_size - 4 * MIB)
    message = refusal(lambda: prepared(dimm=nvdimm("f.img", None)))
    assert re.fullmatch(rf"f.img: its {formatted.name} has \d+ MiB, and there is room for \d+ MiB", message)


def test_damaged_info_block(formatted: Path) -> None:
    dimm = changed(formatted, 0x1000 + 100, b"\1")
    assert "f.img: its info block is damaged" in refusal(lambda: prepared(dimm=dimm))


def test_blocks_that_are_too_small_for_dax(formatted: Path) -> None:
    options = ["-b", "1024"] if formatted.name == "ext4" else ["-b", "size=1024"]
    tool = shutil.which(f"mkfs.{formatted.name}", path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    assert tool
    Path("other").touch()
    os.truncate("other", formatted.stat().st_size - BLOCK)
    subprocess.run([tool, "-q", *options, "other"], check=True, capture_output=True)
    dimm = changed(formatted, BLOCK, Path("other").read_bytes())
    assert "has blocks of 1024 bytes, and DAX needs 4096" in refusal(lambda: prepared(dimm=dimm))


def test_blank_and_readonly() -> None:
    path = filled("f.img", 64 * MIB)
    assert refusal(lambda: prepared(dimm=nvdimm(path, readonly=True))) == "f.img is blank and readonly"


def test_without_mkfs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(namespaces, "_MKFS_FOLDERS", ())
    assert "mkfs.ext4" in refusal(prepared, HostError)


def test_an_initial_ram_disk_of_a_machine_before_is_taken_as_it_is() -> None:
    """What `emu crash linux --export` writes; what the NVDIMMs hold is left alone."""
    both = prepared(commands={Role.EXEC: "./program one", Role.RECOVERY: "./program two"}, cmdline="a=b").config
    assert isinstance(both.initrd, bytes)
    Path("recovers").write_bytes(both.initrd)
    alone = prepared().config.initrd
    assert isinstance(alone, bytes)
    Path("runs").write_bytes(alone)
    Path("program").unlink()

    def again(disk: str) -> Prepared:
        config = MachineConfig(initrd=disk, nvdimms=(nvdimm("odd.img"),), cmdline=own_words(both.cmdline))
        return prepare(Request(default_memory=True), config, contextlib.ExitStack())

    made = again("recovers")
    assert (made.config.initrd, made.config.cmdline, made.role) == (both.initrd, both.cmdline, Role.RECOVERY)
    assert (made.steps, made.config.ram_size) == ((), 256 * MIB)
    assert again("runs").role is Role.EXEC
    Path("other").write_bytes(b"070701" + 200 * b"0")
    for name, says in (
        ("kernel", "is not an initial RAM disk that emu made"),
        ("other", "is not an initial RAM disk that emu made"),
        ("absent", "cannot read the initial RAM disk: No such file"),
    ):
        assert says in refusal(lambda name=name: again(name))  # type: ignore[misc]
