"""Which kernel and which modules, from folders like those of distributions."""

from __future__ import annotations

import gzip
import lzma
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from emu.errors import HostError, UsageError
from emu.linux import kernel
from emu.linux.kernel import Kernel, Modules
from tests import linux_kernel

RELEASE = "6.1.0-test"


def bzimage(release: str) -> bytes:
    head = bytearray(0x600)
    head[0x202:0x206] = b"HdrS"
    head[0x20E:0x210] = (0x300).to_bytes(2, "little")
    head[0x500 : 0x500 + len(release)] = release.encode()
    return bytes(head)


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv(kernel.VARIABLE, raising=False)
    monkeypatch.setattr(kernel, "_PLACES", (f"{tmp_path}/boot/vmlinuz-*", f"{tmp_path}/lib/modules/*/vmlinuz"))
    (tmp_path / "boot").mkdir()
    return tmp_path


def modules_of(folder: Path, **files: str) -> Modules:
    folder.mkdir(parents=True)
    for name, text in files.items():
        (folder / f"modules.{name}").write_text(text)
    return Modules(Kernel("k", RELEASE, folder))


def test_newest_kernel_by_number_not_by_letters(places: Path) -> None:
    for release in ("6.1.0-9", "6.1.0-10", "5.19.0-99"):
        (places / f"boot/vmlinuz-{release}").write_bytes(bzimage(release))
    (places / "boot/vmlinuz-0-rescue-abc").write_bytes(bzimage("9.9"))
    assert kernel.find(None).release == "6.1.0-10"


def test_kernel_in_the_folder_of_its_modules(places: Path) -> None:
    folder = places / "lib/modules/6.9.1"
    folder.mkdir(parents=True)
    (folder / "vmlinuz").write_bytes(bzimage("6.9.1"))
    (folder / "modules.dep").write_text("")
    assert kernel.find(None) == Kernel(str(folder / "vmlinuz"), "6.9.1", folder)


def test_named_kernel_and_variable(places: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (places / "mine").write_bytes(bzimage("1.2.3"))
    monkeypatch.setenv(kernel.VARIABLE, str(places / "mine"))
    assert kernel.find(None).release == "1.2.3"
    (places / "other").write_bytes(b"\x7fELF...Linux version 4.5.6 (someone)")
    assert kernel.find(str(places / "other")) == Kernel(str(places / "other"), "4.5.6", None)


def test_no_kernel_says_which_package_brings_one(places: Path) -> None:
    with pytest.raises(HostError, match="no Linux kernel on this host") as caught:
        kernel.find(None)
    assert "linux-image-amd64" in caught.value.remedy
    assert kernel.VARIABLE in caught.value.remedy


def test_unreadable_kernel(places: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (places / "boot/vmlinuz-6.1").write_bytes(bzimage("6.1"))
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(HostError, match="cannot be read by this user") as caught:
        kernel.find(None)
    assert "chmod" in caught.value.remedy


@pytest.mark.parametrize(
    ("content", "says"),
    [(b"text", "is not a Linux kernel"), (b"\x7fELF", "is not a Linux kernel"), (None, "cannot read the kernel")],
)
def test_what_is_no_kernel(places: Path, content: bytes | None, says: str) -> None:
    path = places / "file"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError, match=says):
        kernel.find(str(path))


def test_modules_come_behind_what_they_need(tmp_path: Path) -> None:
    modules = modules_of(
        tmp_path / "m",
        dep="fs/ext4.ko: fs/jbd2.ko fs/mb-cache.ko lib/crc16.ko\nfs/jbd2.ko: lib/crc16.ko\nfs/mb-cache.ko:\n"
        "lib/crc16.ko:\nc/crc32c-intel.ko:\nc/crc32c_generic.ko:\n",
        builtin="kernel/nfit.ko\n",
        softdep="softdep ext4 pre: crypto-crc32c\nsoftdep jbd2 pre: nothing-like-it\n",
        alias="alias crypto-crc32c crc32c_intel\nalias crypto-crc32c crc32c_generic\n",
    )
    order = modules.order(["nfit", "ext4", "ext4"])
    assert order == ["c/crc32c_generic.ko", "lib/crc16.ko", "fs/mb-cache.ko", "fs/jbd2.ko", "fs/ext4.ko"]


def test_circle_of_modules_ends(tmp_path: Path) -> None:
    modules = modules_of(tmp_path / "m", dep="a.ko: b.ko\nb.ko: a.ko\n", softdep="softdep a pre: a\n")
    assert sorted(modules.order(["a"])) == ["a.ko", "b.ko"]


def test_kernel_without_a_module(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"the kernel {RELEASE} has no module ext4"):
        modules_of(tmp_path / "m", dep="a.ko:\n").order(["ext4"])


def test_kernel_without_modules_has_all_built_in() -> None:
    assert Modules(Kernel("k", RELEASE, None)).order(["ext4", "nfit"]) == []


def test_packed_modules_are_unpacked() -> None:
    assert kernel.decompress(lzma.compress(b"module"), "a.ko.xz") == b"module"
    assert kernel.decompress(gzip.compress(b"module"), "a.ko.gz") == b"module"
    assert kernel.decompress(b"module", "a.ko") == b"module"
    for name in ("a.ko.xz", "a.ko.gz"):
        with pytest.raises(UsageError, match="damaged"):
            kernel.decompress(b"rubbish", name)


@pytest.mark.skipif(shutil.which("zstd") is None, reason="zstd is not installed: apt-get install zstd")
def test_modules_packed_with_zstd() -> None:
    packed = subprocess.run(["zstd", "-c"], input=b"module", capture_output=True, check=True).stdout
    assert kernel.decompress(packed, "a.ko.zst") == b"module"
    with pytest.raises(UsageError, match="damaged"):
        kernel.decompress(b"rubbish", "a.ko.zst")


def test_without_zstd_its_package_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(HostError, match="zstd, which is not installed"):
        kernel.decompress(b"x", "a.ko.zst")


def test_names_are_those_of_lsmod() -> None:
    assert kernel.name_of("kernel/fs/mb-cache.ko.xz") == "mb_cache"


def test_tests_skip_where_there_is_no_kernel_and_say_why(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(kernel.VARIABLE, raising=False)
    monkeypatch.setattr(kernel, "_PLACES", (f"{tmp_path}/vmlinuz-*",))
    assert "there is no Linux kernel on this host" in linux_kernel.why_none()
    monkeypatch.setenv(kernel.VARIABLE, str(tmp_path / "missing"))
    with pytest.raises(UsageError, match="cannot read the kernel"):
        linux_kernel.why_none()
