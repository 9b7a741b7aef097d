"""What an NVDIMM is for Linux, and making one ready: refused before a byte is written, or written whole."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from emu.config import BackendConfig, NvdimmConfig, OnOffAuto
from emu.devices.nvdimm import infoblock
from emu.devices.nvdimm.labels import BytesLabels, LabelArea
from emu.devices.nvdimm.namespace import Mode, mode_of
from emu.errors import HostError, UsageError
from emu.linux.namespaces import NO_UUID, FileSystem, Planner, Step
from emu.memory import open_backend
from emu.units import KIB, MIB

GPA = 1 << 32
needs_ext4 = pytest.mark.skipif(
    shutil.which("mkfs.ext4") is None, reason="mkfs.ext4 is missing: apt-get install e2fsprogs"
)
needs_xfs = pytest.mark.skipif(shutil.which("mkfs.xfs") is None, reason="mkfs.xfs is missing: apt-get install xfsprogs")


@pytest.fixture
def scratch() -> Iterator[contextlib.ExitStack]:
    with contextlib.ExitStack() as stack:
        yield stack


def nvdimm(path: Path, size: int | None = 32 * MIB, *, label_size: int = 0, readonly: bool = False) -> NvdimmConfig:
    backend = BackendConfig(id="m", path=str(path), size=size, share=True, sync=OnOffAuto.OFF, readonly=readonly)
    return NvdimmConfig(backend=backend, label_size=label_size)


def make(config: NvdimmConfig, step: Step) -> bytes:
    with open_backend(config.backend) as backend:
        step.carry_out(backend.mapping, config.label_size, GPA, 0)
    return Path(config.backend.path or "").read_bytes()


def info_of(content: bytes, base: int = 0, parent: uuid.UUID = NO_UUID) -> infoblock.InfoBlock:
    block = infoblock.read(content[base + infoblock.OFFSET :][: infoblock.SIZE], parent)
    assert block is not None
    return block


@needs_ext4
def test_blank_nvdimm_becomes_ext4_that_fsck_accepts(tmp_path: Path, scratch: contextlib.ExitStack) -> None:
    config = nvdimm(tmp_path / "p")
    step = Planner(None, scratch).examine(config)
    assert not (tmp_path / "p").exists()
    content = make(config, step)
    block = info_of(content)
    assert (block.use, block.data_offset, block.pages) == (Mode.FSDAX, 2 * MIB, 30 * MIB // 4096)
    (tmp_path / "fs").write_bytes(content[block.data_offset :])
    subprocess.run(["e2fsck", "-fn", tmp_path / "fs"], check=True, capture_output=True)
    assert b"\xff\xff" not in content[: infoblock.OFFSET]  # nothing in front of the info block
    again = Planner(None, scratch).examine(config)
    assert (again.use, again.writes) == (FileSystem.EXT4, False)


@needs_xfs
def test_blank_nvdimm_becomes_xfs(tmp_path: Path, scratch: contextlib.ExitStack) -> None:
    config = nvdimm(tmp_path / "p", 302 * MIB)
    step = Planner(FileSystem.XFS, scratch).examine(config)
    with open_backend(config.backend) as backend:
        step.carry_out(backend.mapping, 0, GPA, 0)
        assert bytes(backend.mapping.view[2 * MIB : 2 * MIB + 4]) == b"XFSB"
    assert Planner(None, scratch).examine(config).use is FileSystem.XFS


def test_device_dax_needs_no_tool(
    tmp_path: Path, scratch: contextlib.ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    config = nvdimm(tmp_path / "p")
    step = Planner(FileSystem.DEVDAX, scratch).examine(config)
    assert info_of(make(config, step)).use is Mode.DEVDAX
    again = Planner(FileSystem.DEVDAX, scratch).examine(config)
    assert (again.use, again.writes) == (FileSystem.DEVDAX, False)


def test_label_area_gets_a_label_of_the_namespace(tmp_path: Path, scratch: contextlib.ExitStack) -> None:
    config = nvdimm(tmp_path / "p", 64 * MIB, label_size=128 * KIB)
    step = Planner(FileSystem.DEVDAX, scratch).examine(config)
    content = make(config, step)
    (label,) = LabelArea(BytesLabels(bytearray(content[-128 * KIB :]))).labels()
    assert (label.dpa, label.raw_size, mode_of(label)) == (0, 48 * MIB, Mode.DEVDAX)
    block = info_of(content, parent=label.uuid)
    assert block.pages == (48 - 2) * MIB // 4096
    assert not Planner(FileSystem.DEVDAX, scratch).examine(config).writes


@needs_ext4
def test_equal_identities_make_equal_bytes(tmp_path: Path, scratch: contextlib.ExitStack) -> None:
    made = []
    for name in ("a", "b"):
        numbers = iter(range(1, 9))
        config = nvdimm(tmp_path / name)
        step = Planner(FileSystem.EXT4, scratch, lambda numbers=numbers: uuid.UUID(int=next(numbers))).examine(config)  # type: ignore[misc]
        made.append(make(config, step))
    assert made[0] == made[1]


def test_none_leaves_everything_alone(tmp_path: Path, scratch: contextlib.ExitStack) -> None:
    (tmp_path / "p").write_bytes(b"data" * MIB)
    assert Planner(FileSystem.NONE, scratch).examine(nvdimm(tmp_path / "p", None)) == Step(FileSystem.NONE)


@needs_ext4
def test_other_file_system_than_asked_for(tmp_path: Path, scratch: contextlib.ExitStack) -> None:
    config = nvdimm(tmp_path / "p")
    make(config, Planner(None, scratch).examine(config))
    for wanted in (FileSystem.XFS, FileSystem.DEVDAX):
        with pytest.raises(UsageError, match=r"p holds ext4 already, not " + wanted):
            Planner(wanted, scratch).examine(config)


@needs_ext4
def test_file_system_on_a_raw_namespace_is_told_apart(tmp_path: Path, scratch: contextlib.ExitStack) -> None:
    path = tmp_path / "p"
    path.write_bytes(bytes(16 * MIB))
    subprocess.run(["mkfs.ext4", "-qF", path], check=True)
    before = path.read_bytes()
    with pytest.raises(UsageError, match="ext4 lies directly on a raw namespace"):
        Planner(None, scratch).examine(nvdimm(path, None))
    assert path.read_bytes() == before


@pytest.mark.parametrize("place", [0, infoblock.OFFSET, 17 * MIB + 5, 32 * MIB - 1])
def test_unknown_data_anywhere_is_never_overwritten(tmp_path: Path, scratch: contextlib.ExitStack, place: int) -> None:
    path = tmp_path / "p"
    with path.open("wb") as file:
        file.truncate(32 * MIB)
        file.seek(place)
        file.write(b"x")
    with pytest.raises(UsageError, match="holds data, and no file system that emu knows"):
        Planner(FileSystem.DEVDAX, scratch).examine(nvdimm(path, None))


@pytest.mark.parametrize(
    ("wanted", "size", "least"),
    [(None, 8 * MIB, "10 MiB"), (FileSystem.XFS, 256 * MIB, "302 MiB"), (FileSystem.DEVDAX, 2 * MIB, "4 MiB")],
)
def test_too_small(
    tmp_path: Path, scratch: contextlib.ExitStack, wanted: FileSystem | None, size: int, least: str
) -> None:
    with pytest.raises(UsageError, match="too small") as caught:
        Planner(wanted, scratch).examine(nvdimm(tmp_path / "p", size))
    assert least in caught.value.remedy
    assert not (tmp_path / "p").exists()


def test_without_mkfs_its_package_is_named(
    tmp_path: Path, scratch: contextlib.ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("emu.linux.namespaces._MKFS_FOLDERS", ())
    with pytest.raises(HostError, match=r"mkfs\.ext4, which makes the file system, is not on this host") as caught:
        Planner(None, scratch).examine(nvdimm(tmp_path / "p"))
    assert "e2fsprogs" in caught.value.remedy
    assert not (tmp_path / "p").exists()


def test_failing_mkfs_says_why(tmp_path: Path, scratch: contextlib.ExitStack, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "bin/mkfs.ext4"
    tool.parent.mkdir()
    tool.write_text("#!/bin/sh\necho no such luck >&2\nexit 1\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tool.parent}:/bin")
    with pytest.raises(HostError, match="no such luck"):
        Planner(None, scratch).examine(nvdimm(tmp_path / "p"))


def test_misplaced_namespace_is_refused_and_nothing_written(tmp_path: Path, scratch: contextlib.ExitStack) -> None:
    config = nvdimm(tmp_path / "p")
    step = Planner(FileSystem.DEVDAX, scratch).examine(config)
    with open_backend(config.backend) as backend, pytest.raises(UsageError, match="multiples of 2 MiB"):
        step.carry_out(backend.mapping, 0, GPA + 4096, 0)
    assert not any((tmp_path / "p").read_bytes())


def test_blank_and_readonly(tmp_path: Path, scratch: contextlib.ExitStack) -> None:
    (tmp_path / "p").write_bytes(bytes(32 * MIB))
    with pytest.raises(UsageError, match="blank and readonly"):
        Planner(FileSystem.DEVDAX, scratch).examine(nvdimm(tmp_path / "p", None, readonly=True))


def test_damaged_info_block_is_none() -> None:
    raw = bytearray(infoblock.make(Mode.FSDAX, GPA, 32 * MIB, uuid.UUID(int=1), NO_UUID).pack())
    assert infoblock.read(bytes(raw), NO_UUID) is not None
    assert infoblock.read(bytes(raw), uuid.UUID(int=7)) is None
    raw[100] ^= 1
    assert infoblock.read(bytes(raw), NO_UUID) is None
