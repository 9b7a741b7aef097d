"""No output may be an input or another output, by whatever name."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from emu.errors import HostError, UsageError
from emu.host.claims import Claims


def other_names(folder: Path, name: str) -> list[str]:
    """Names of the file ``name`` in ``folder``: links, detours."""
    path = folder / name
    (folder / "symbolic").symlink_to(name)
    (folder / "twice").symlink_to("symbolic")
    (folder / "sub").mkdir()
    names = [
        str(path),
        f"{folder}/sub/../{name}",
        f"{folder}//./{name}",
        str(folder / "symbolic"),
        str(folder / "twice"),
    ]
    if path.exists():
        (folder / "hard").hardlink_to(path)
        names.append(str(folder / "hard"))
    return names


def refused(claim: Callable[[], object], *words: str) -> None:
    with pytest.raises(UsageError) as caught:
        claim()
    for word in words:
        assert word in caught.value.what
    assert "\n" not in caught.value.what


@pytest.mark.parametrize("exists", [True, False])
def test_an_output_is_not_an_input_by_any_name(exists: bool, tmp_path: Path) -> None:
    path = tmp_path / "pool.img"
    if exists:
        path.write_bytes(b"precious")
    for name in other_names(tmp_path, "pool.img"):
        claims = Claims()
        claims.reads(str(path), "the image")
        refused(partial(claims.writes, name, "--html"), "--html", name, "the image", str(path))
        # In the other order, and for what is changed in place.
        claims = Claims()
        claims.changes(name, "the file")
        refused(partial(claims.reads, str(path), "-i"), "-i", "the file")
        # Another output.
        claims = Claims()
        claims.writes(str(path), "-o")
        refused(partial(claims.writes, name, "--html"), "-o", "--html")
    assert path.exists() == exists
    assert not exists or path.read_bytes() == b"precious"


def test_different_files_are_no_conflict(tmp_path: Path) -> None:
    (tmp_path / "in").touch()
    claims = Claims()
    claims.reads(str(tmp_path / "in"), "the image")
    claims.reads(str(tmp_path / "in"), "the image of recovery")
    claims.writes(str(tmp_path / "out"), "-o").write(b"x")
    claims.writes(str(tmp_path / "sub"), "--html")


def test_names_by_descriptor_are_the_open_file(tmp_path: Path) -> None:
    path = tmp_path / "pool.img"
    path.touch()
    descriptor = os.open(path, os.O_RDWR)
    for name in (f"/proc/self/fd/{descriptor}", f"/dev/fd/{descriptor}", f"/proc/{os.getpid()}/fd/{descriptor}"):
        claims = Claims()
        claims.reads(str(path), "the NVDIMM's file", memory=True)
        refused(partial(claims.writes, name, "-o"), "-o", name)
        claims = Claims()
        claims.reads(name, "the NVDIMM's file", memory=True)
        refused(partial(claims.writes, str(path), "-o"), "-o", str(path))
    claims = Claims()
    claims.reads(str(path), "the image")
    refused(lambda: claims.writes_descriptor(descriptor, "the standard output"), "the standard output is the same file")
    claims = Claims()
    claims.reads_descriptor(descriptor, "the standard input")
    refused(lambda: claims.changes(str(path), "the file"), "the standard input")
    os.close(descriptor)
    Claims().reads_descriptor(descriptor, "the standard input")


def test_several_outputs_through_one_open_file_go_on_one_behind_the_other(tmp_path: Path) -> None:
    """``emu run ... -serial file:/dev/stdout > log 2>&1``"""
    descriptor = os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT)
    copy = os.dup(descriptor)
    claims = Claims()
    claims.writes_descriptor(descriptor, "the standard output")
    claims.writes_descriptor(copy, "the standard error")
    claims.writes(f"/dev/fd/{copy}", "-serial")
    refused(lambda: claims.writes(str(tmp_path / "log"), "-debugcon"), "-debugcon")
    os.close(descriptor)
    os.close(copy)


def test_what_keeps_no_bytes_may_be_several_things(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    claims = Claims()
    claims.reads(str(tmp_path / "fifo"), "-i")
    claims.writes(str(tmp_path / "fifo"), "-o")
    claims.writes(str(tmp_path / "fifo"), "--html")


def test_two_nodes_of_one_device_are_one(tmp_path: Path) -> None:
    for name in ("one", "two"):
        try:
            os.mknod(tmp_path / name, stat.S_IFCHR | 0o666, os.makedev(1, 3))
        except OSError:
            pytest.skip("only root may make device nodes; run the tests as root")
    claims = Claims()
    claims.reads(str(tmp_path / "one"), "the NVDIMM's file", memory=True)
    refused(lambda: claims.writes(str(tmp_path / "two"), "-o"), "-o", "the NVDIMM's file")


# -- families ----------------------------------------------------------------------------------------------------------

NAMES = r"failure-\d+-.*\.img"


@pytest.mark.parametrize("how", ["itself", "hard link", "symbolic link"])
def test_a_member_of_a_family_is_no_input(how: str, tmp_path: Path) -> None:
    pool, out = tmp_path / "pool.img", tmp_path / "out"
    pool.touch()
    out.mkdir()
    member = out / "failure-01-nvdimm0.img"
    match how:
        case "itself":
            pool = member
            pool.touch()
        case "hard link":
            member.hardlink_to(pool)
        case _:
            member.symlink_to(pool)
    claims = Claims()
    claims.reads(str(pool), "the NVDIMM's file", memory=True)
    refused(lambda: claims.writes_family(str(out), NAMES, "--export"), "--export", str(out), "the NVDIMM's file")


def test_a_member_that_does_not_exist_yet_is_no_other_output(tmp_path: Path) -> None:
    member = tmp_path / "out" / "failure-02-x.img"
    claims = Claims()
    claims.writes_family(str(tmp_path / "out"), NAMES, "--export")
    refused(lambda: claims.changes(str(member), "--html"), "--export", "--html")
    claims.changes(str(tmp_path / "out" / "report.html"), "--html")
    refused(lambda: claims.changes(str(tmp_path / "out"), "--html"), "--export", "--html")
    claims = Claims()
    claims.changes(str(member), "--html")
    refused(lambda: claims.writes_family(str(tmp_path / "out"), NAMES, "--export"), "--export", "--html")
    assert list(tmp_path.iterdir()) == []


def test_a_family_needs_a_folder_that_can_be_made_and_members_that_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "failure-01-d.img").mkdir()
    for folder, why in (("file", "Not a directory"), ("file/x", "Not a directory"), ("out", "Is a directory")):
        with pytest.raises(HostError, match=why):
            Claims().writes_family(str(tmp_path / folder), NAMES, "--export")
    Claims().writes_family(str(tmp_path / "deep" / "down"), NAMES, "--export")
    assert not (tmp_path / "deep").exists()
