"""Regions of guest memory as the processor sees them: RAM, ROM, a device's registers, and one that is taken away."""

from __future__ import annotations

import ctypes
import mmap
import struct

import pytest

from emu.cpu import StopKind
from emu.errors import EmuError
from emu.memory import Region
from tests.unit.cpu.cpu_harness import HLT, Guest, host_region

RAM_END = 0x400000


class Device:
    """Remembers accesses; a read gives what ``value`` says."""

    def __init__(self) -> None:
        self.log: list[tuple[str, int, int, int]] = []
        self.value = 0x1122334455667788
        self.failure: Exception | None = None

    def read(self, offset: int, size: int) -> int:
        if self.failure is not None:
            raise self.failure
        self.log.append(("read", offset, size, 0))
        return self.value

    def write(self, offset: int, size: int, value: int) -> None:
        self.log.append(("write", offset, size, value))


def run(guest: Guest) -> StopKind:
    while (stop := guest.cpu.run()).kind is StopKind.REQUESTED:
        pass
    return stop.kind


@pytest.fixture
def small() -> Guest:
    """A guest whose page tables reach further than its RAM: the device's place is free."""
    guest = Guest()
    guest.put(0xA000 + 16, struct.pack("<Q", 0x400087))  # the third 2 MiB page
    return guest


def into(address: int) -> bytes:
    return b"\xbb" + struct.pack("<I", address)  # mov ebx, address


def test_a_devices_registers_are_read_and_written_by_size(small: Guest) -> None:
    device = Device()
    small.regions.add(Region(RAM_END, 0x1000, None, kind="mmio", registers=device, name="device"))
    accesses = b"\x8a\x43\x01" + b"\x66\x8b\x43\x02" + b"\x8b\x43\x04" + b"\x48\x8b\x43\x08"  # 1, 2, 4, 8 bytes
    accesses += b"\x88\x43\x10" + b"\x89\x43\x14" + b"\x48\x89\x43\x18"
    small.long(into(RAM_END) + accesses + HLT)
    assert run(small) is StopKind.HALT
    assert [(what, offset, size) for what, offset, size, _ in device.log] == [
        ("read", 1, 1), ("read", 2, 2), ("read", 4, 4), ("read", 8, 4), ("read", 12, 4),
        ("write", 0x10, 1), ("write", 0x14, 4), ("write", 0x18, 4), ("write", 0x1C, 4),
    ]  # fmt: skip
    assert small.cpu.registers()["rax"] == 0x5566778855667788
    assert [value for *_, value in device.log[-2:]] == [0x55667788, 0x55667788]
    small.close()


def test_what_a_device_raises_comes_out_of_run(small: Guest) -> None:
    device = Device()
    device.failure = EmuError("the device is broken")
    small.regions.add(Region(RAM_END, 0x1000, None, kind="mmio", registers=device, name="device"))
    small.long(into(RAM_END) + b"\x8b\x03" + HLT)
    with pytest.raises(EmuError, match="the device is broken"):
        run(small)
    small.close()


def test_a_rom_drops_stores(small: Guest) -> None:
    memory = mmap.mmap(-1, 0x1000)
    memory[:4] = b"abcd"
    anchor = ctypes.c_char.from_buffer(memory)
    region = host_region(RAM_END, 0x1000, ctypes.addressof(anchor))
    small.regions.add(region._replace(kind="rom"))
    small.long(into(RAM_END) + b"\x8b\x03" + b"\xc7\x03\x00\x00\x00\x00" + b"\x8b\x0b" + HLT)
    assert run(small) is StopKind.HALT
    registers = small.cpu.registers()
    assert (registers["rax"], registers["rcx"]) == (0x64636261, 0x64636261)
    small.close()
    del anchor


def test_memory_that_is_removed_is_a_hole(small: Guest) -> None:
    memory = mmap.mmap(-1, 0x1000)
    memory[:4] = b"abcd"
    anchor = ctypes.c_char.from_buffer(memory)
    region = host_region(RAM_END, 0x1000, ctypes.addressof(anchor))
    small.regions.add(region)
    load = into(RAM_END) + b"\x8b\x03" + b"\xc6\x03\x7a" + HLT
    small.long(load)
    assert run(small) is StopKind.HALT
    assert small.cpu.registers()["rax"] == 0x64636261
    assert memory[:1] == b"z"
    memory[:1] = b"a"
    small.regions.remove(region)
    del anchor
    small.long(load)
    assert run(small) is StopKind.HALT
    assert small.cpu.registers()["rax"] == 0
    assert memory[:1] == b"a"
    memory.close()  # nobody maps it any more
    small.close()


def test_memory_is_not_removed_under_native_hooks(small: Guest) -> None:
    (ram,) = small.regions.regions
    small.cpu._native_hooks.add(1)
    with pytest.raises(EmuError, match="native hooks"):
        small.regions.remove(ram)
    assert small.regions.regions == (ram,)
    small.cpu._native_hooks.clear()
    small.close()
