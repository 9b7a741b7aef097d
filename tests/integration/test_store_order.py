"""A store that cannot be kept is the last: nothing that the guest stored after it is in any of its files."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.run_emu import emu

MIB = 1 << 20
GPA = 0x1_0000_0000
# mov rbx, 4 GiB; mov rax, 0x1122334455667788; [rbx + 2 MiB] = rax; clwb; sfence; qword [rbx] = 1; clwb; sfence;
# mov dx, 0x3f8; mov al, 'C'; out dx, al; mov al, 0; out 0xf4, al; hlt
COMMIT = bytes.fromhex(
    "48bb000000000100000048b8887766554433221148898300002000660faeb3000020000faef8"
    "48c70301000000660fae330faef866baf803b043eeb000e6f4f4"
)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A tmpfs of 1 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1M", "none", folder], capture_output=True).returncode:
        pytest.skip("only root may mount a file system; run the tests as root")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def fill(folder: Path) -> None:
    with (folder / "fill").open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            return


def sparse(path: Path) -> Path:
    """4 MiB of which only the first page has storage."""
    path.write_bytes(bytes(4096))
    os.truncate(path, 4 * MIB)
    return path


def run(tmp_path: Path, *files: Path) -> tuple[int, str, str]:
    image = tmp_path / "commit.bin"
    image.write_bytes(COMMIT)
    nvdimms = [word for file in files for word in ("--nvdimm", f"file={file}")]
    result = emu("run", image, "--quiet", *nvdimms)
    return result.status, result.out, "\n".join(result.errors)


def test_with_room_both_stores_are_kept(tmp_path: Path, small_disk: Path) -> None:
    pool = sparse(small_disk / "pool.img")
    assert run(tmp_path, pool) == (1, "C", "")
    content = pool.read_bytes()
    assert content[:8] == (1).to_bytes(8, "little")
    assert content[2 * MIB : 2 * MIB + 8] == 0x1122334455667788.to_bytes(8, "little")


def test_a_commit_does_not_outlive_the_data_that_a_full_disk_lost(tmp_path: Path, small_disk: Path) -> None:
    pool = sparse(small_disk / "pool.img")
    fill(small_disk)
    status, out, errors = run(tmp_path, pool)
    assert (status, out) == (4, "")
    assert f"{pool}: " in errors
    assert f"offset 0x200000, guest address {GPA + 2 * MIB:#x}" in errors
    assert "could not be kept" in errors
    (small_disk / "fill").unlink()
    assert pool.read_bytes() == bytes(4 * MIB)


def test_what_was_stored_before_is_kept(tmp_path: Path, small_disk: Path) -> None:
    pool = sparse(small_disk / "pool.img")
    fill(small_disk)
    image = tmp_path / "guest.bin"
    # mov rbx, 4 GiB; byte [rbx + 1] = 7; byte [rbx + 8191] = 8; byte [rbx + 2] = 9; hlt
    image.write_bytes(bytes.fromhex("48bb0000000001000000c6430107c683ff1f000008c6430209f4"))
    assert emu("run", image, "--quiet", "--nvdimm", f"file={pool}").status == 4
    (small_disk / "fill").unlink()
    assert pool.read_bytes()[:4] == bytes([0, 7, 0, 0])


def test_another_nvdimm_of_the_machine_does_not_get_the_commit_either(tmp_path: Path, small_disk: Path) -> None:
    full, other = sparse(small_disk / "pool.img"), sparse(tmp_path / "other.img")
    fill(small_disk)
    image = tmp_path / "guest.bin"
    # mov rbx, 4 GiB; byte [rbx + 2 MiB] = 7; byte [rbx + 1 GiB] = 8; hlt
    image.write_bytes(bytes.fromhex("48bb0000000001000000c6830000200007c6830000004008f4"))
    words = (
        "--nvdimm",
        f"file={full}",
        "--nvdimm",
        f"file={other},addr={GPA + (1 << 30)}",
        "-m",
        "128M,slots=2,maxmem=8G",
    )
    result = emu("run", image, "--quiet", *words)
    assert result.status == 4
    assert str(full) in result.errors[0]
    assert other.read_bytes() == bytes(4 * MIB)


def test_a_label_area_that_a_full_disk_cannot_hold_is_an_error(small_disk: Path) -> None:
    pool = sparse(small_disk / "pool.img")
    fill(small_disk)
    result = emu("label", "init", pool, "--label-size", "128K")
    assert result.status == 4
    assert "lost its storage at offset 0x3e0000" in result.errors[0]
    (small_disk / "fill").unlink()
    assert pool.read_bytes() == bytes(4 * MIB)
