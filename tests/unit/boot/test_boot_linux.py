"""Linux kernels by their boot protocol, and initial RAM disks for every kind of image that takes one."""

from __future__ import annotations

import bz2
import gzip
import lzma
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emu.boot import Kind, LoadPlan, LoadSegment, Module, linux, load, unpacked
from emu.entry import Long64, Protected32
from emu.errors import UsageError
from tests.unit.boot.boot_images import HIGHEST, MAP, RSDP, bzimage, elf, flat_multiboot

CODE = b"\xfa\xf4"
DISK = bytes(range(256)) * 17
PVH = elf([(0x100000, CODE, 2)], note=0x100000)


def plan(image: bytes, **changes: Any) -> LoadPlan:
    arguments: dict[str, Any] = {
        "name": "vmlinuz",
        "cmdline": "console=ttyS0",
        "memory_map": MAP,
        "rsdp_address": RSDP,
        "highest_address": HIGHEST,
        "modules": (Module(DISK),),
    }
    return load(image, **arguments | changes)


def at(made: LoadPlan, gpa: int, length: int) -> bytes:
    """What the plan puts at ``gpa``."""
    (segment,) = (segment for segment in made.segments if segment.gpa <= gpa and gpa + length <= segment.end)
    return bytes(segment.data).ljust(segment.size, b"\0")[gpa - segment.gpa :][:length]


def params(made: LoadPlan) -> bytes:
    assert isinstance(made.entry, Long64)
    return at(made, made.entry.rsi, 4096)


def test_bzimage_is_entered_as_the_protocol_says() -> None:
    made = plan(bzimage(CODE))
    entry = made.entry
    assert made.kind is Kind.LINUX
    assert isinstance(entry, Long64)
    assert entry.rip == 0x1000200
    assert at(made, entry.rip, 2) == CODE
    assert entry.code == 0x10
    descriptors = struct.unpack("<4Q", at(made, *entry.gdt))
    assert descriptors[2] >> 53 & 1  # __BOOT_CS, 64 bits
    assert descriptors[3] >> 43 & 1 == 0  # __BOOT_DS, data
    (kernel,) = (segment for segment in made.segments if segment.gpa == 0x1000000)
    assert kernel.size == 0x100000  # what it needs, not what the file has


def test_first_four_gigabytes_are_mapped_at_their_own_addresses() -> None:
    made = plan(bzimage())
    assert isinstance(made.entry, Long64)
    (root,) = struct.unpack("<Q", at(made, made.entry.cr3, 8))
    giants = struct.unpack("<5Q", at(made, root & ~0xFFF, 40))
    assert [giant & ~0xFFF for giant in giants] == [n << 30 for n in range(4)] + [0]
    assert all(giant & 0x83 == 0x83 for giant in giants[:4])


def test_boot_parameters() -> None:
    page = params(made := plan(bzimage()))
    assert page[0x202:0x206] == b"HdrS"
    assert page[0x210] == 0xFF
    assert struct.unpack_from("<Q", page, 0x70) == (RSDP,)
    (text,) = struct.unpack_from("<I", page, 0x228)
    assert at(made, text, 14) == b"console=ttyS0\0"
    ranges = [struct.unpack_from("<QQI", page, 0x2D0 + 20 * n) for n in range(page[0x1E8])]
    assert ranges == [(item.base, item.size, item.kind) for item in sorted(MAP)]


def test_initial_ram_disk_lies_as_high_as_the_kernel_allows() -> None:
    made = plan(bzimage(initrd_max=0x17FFFFF))
    image, size = struct.unpack_from("<II", params(made), 0x218)
    assert at(made, image, size) == DISK
    assert image == 0x1800000 - 0x2000
    assert struct.unpack_from("<I", params(plan(bzimage())), 0x218) == (0x2000000 - 0x2000,)


def test_without_initial_ram_disk_the_parameters_name_none() -> None:
    assert struct.unpack_from("<II", params(plan(bzimage(), modules=())), 0x218) == (0, 0)


def test_pvh_kernel_finds_the_disk_as_its_module() -> None:
    made = plan(PVH)
    assert isinstance(made.entry, Protected32)
    _magic, _version, _flags, count, modules = struct.unpack("<4IQ", at(made, made.entry.ebx, 24))
    assert count == 1
    place, size = struct.unpack("<2Q", at(made, modules, 16))
    assert at(made, place, size) == DISK


def test_multiboot_modules_with_their_texts() -> None:
    made = plan(flat_multiboot(CODE), modules=(Module(DISK, "a.img one"), Module(b"", "b"), Module(b"c", "c.img")))
    assert isinstance(made.entry, Protected32)
    info = at(made, made.entry.ebx, 116)
    assert struct.unpack_from("<I", info)[0] & 8
    count, table = struct.unpack_from("<II", info, 20)
    entries = [struct.unpack("<4I", at(made, table + 16 * n, 16)) for n in range(count)]
    assert [end - start for start, end, _, _ in entries] == [len(DISK), 0, 1]
    assert all(start % 4096 == 0 for start, _, _, _ in entries)
    assert [at(made, text, 2) for _, _, text, _ in entries] == [b"a.", b"b\0", b"c."]
    assert at(made, entries[0][0], len(DISK)) == DISK


def test_flat_image_takes_no_disk() -> None:
    with pytest.raises(UsageError, match="takes no initial RAM disk"):
        plan(CODE)


@pytest.mark.parametrize("image", [bzimage(), PVH, flat_multiboot(CODE)])
def test_disk_that_does_not_fit_is_refused(image: bytes) -> None:
    with pytest.raises(UsageError, match="do not fit in RAM") as caught:
        plan(image, modules=(Module(bytes(0x2000000)),))
    assert "-m" in caught.value.remedy


@pytest.mark.parametrize(
    "compress", [gzip.compress, lzma.compress, bz2.compress, None], ids=["gzip", "xz", "bzip2", "lzma"]
)
def test_kernel_inside_is_unpacked_where_python_can(compress: Any) -> None:
    packed = lzma.compress(PVH, lzma.FORMAT_ALONE) if compress is None else compress(PVH)
    assert unpacked(bzimage(payload=packed + b"\0\1\0\0"), name="k") == PVH  # the size follows, as in a real one


@pytest.mark.parametrize(
    "payload",
    [b"\x28\xb5\x2f\xfd rest", gzip.compress(b"no ELF"), b"", gzip.compress(elf([(0x100000, CODE, 2)]))],
    ids=["zstd", "no ELF", "nothing", "no PVH note"],
)
def test_other_kernels_are_left_to_unpack_themselves(payload: bytes) -> None:
    image = bzimage(payload=payload)
    assert unpacked(image, name="k") is image


def test_damaged_payload_is_refused() -> None:
    packed = bytearray(lzma.compress(PVH * 50))
    packed[40] ^= 0xFF
    with pytest.raises(UsageError, match="inside is damaged"):
        unpacked(bzimage(payload=bytes(packed)), name="k")


def test_release() -> None:
    assert linux.version(bzimage()) == "6.1.0-test"
    assert linux.version(bzimage(release=b"")) is None
    assert linux.version(b"short") is None


@pytest.mark.parametrize(
    ("image", "says"),
    [
        (bzimage()[:0x260], "cut short"),
        (bzimage(protocol=0x20B), r"protocol 2\.11, emu needs 2\.12"),
        (bzimage(flags=0), "32-bit"),
        (bzimage()[:0xA80], "puts the kernel"),
        (bzimage()[:-16], "the kernel needs"),
        (bzimage(setup_sectors=64)[:0x8000], "puts the kernel"),
        (bzimage(memory=16), "less than it has"),
        (bzimage(load=0x3000000), "not in RAM"),
        (bzimage(load=0xA0000), "video memory"),
    ],
)
def test_what_cannot_boot_is_refused_with_the_reason(image: bytes, says: str) -> None:
    with pytest.raises(UsageError, match="(?s)vmlinuz.*(" + says + ")") as caught:
        plan(image)
    assert caught.value.remedy


def test_command_line_longer_than_the_kernel_takes() -> None:
    with pytest.raises(UsageError, match="2048 bytes, this kernel takes 2047"):
        plan(bzimage(), cmdline="x" * 2048)


@given(st.data())
def test_hostile_kernels_are_refused_or_lie_in_ram(data: st.DataObject) -> None:
    image = bytearray(bzimage(CODE, payload=gzip.compress(PVH)))
    for _ in range(data.draw(st.integers(1, 6))):
        width = data.draw(st.sampled_from([1, 2, 4, 8]))
        place = data.draw(
            st.sampled_from([0x1F1, 0x1F4, 0x201, 0x206, 0x20E, 0x22C, 0x236, 0x238, 0x248, 0x24C, 0x258, 0x260])
            | st.integers(0x1F0, len(image) - 8)
        )
        value = data.draw(st.sampled_from([0, 1, 2**31, 2**32 - 1, 2**63, 2**64 - 1]) | st.integers(0, 2**64 - 1))
        image[place : place + width] = (value & (1 << 8 * width) - 1).to_bytes(width, "little")
    cut = bytes(image[: data.draw(st.integers(0, len(image)) | st.just(len(image)))])
    linux.version(cut)
    try:
        made = plan(unpacked(cut, name="vmlinuz"), modules=())
    except UsageError:
        return
    inside: list[LoadSegment] = list(made.segments)
    assert all(any(r.base <= s.gpa and s.end <= r.end for r in MAP) for s in inside)
    assert all(len(s.data) <= s.size for s in inside)
