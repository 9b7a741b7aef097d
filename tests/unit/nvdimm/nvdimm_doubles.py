"""Doubles for the tests of the NVDIMM: a mapping in a bytearray, guest memory, a label area that can lose its power."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

from emu.config import BackendConfig, MachineConfig, NvdimmConfig
from emu.devices.nvdimm.device import NvdimmDevice
from emu.devices.nvdimm.labels import BytesLabels
from emu.errors import GuestError, HostError
from emu.units import GIB, KIB, MIB

LABEL_SIZE = 128 * KIB


@dataclass
class FakeSurvives:
    host_power_loss: bool = False


@dataclass
class FakeDurability:
    survives: FakeSurvives


class FakeBacking:
    """A mapping of ``size`` bytes that counts what was made durable."""

    def __init__(
        self, size: int, *, alignment: int = 4096, readonly: bool = False, survives_power_loss: bool = False
    ) -> None:
        self.content = bytearray(size)
        self.size = size
        self.alignment = alignment
        self.readonly = readonly
        self.view = memoryview(self.content)
        self.durability = FakeDurability(FakeSurvives(survives_power_loss))
        self.persisted: list[tuple[int, int]] = []
        self.broken = False

    def persist(self, offset: int, length: int) -> None:
        if self.broken:
            raise HostError("medium failed")
        self.persisted.append((offset, length))


class FakeMemory:
    """Guest RAM from 0; ``readonly`` refuses writes."""

    def __init__(self, size: int, *, readonly: bool = False) -> None:
        self.content = bytearray(size)
        self.readonly = readonly
        self.writes: list[tuple[int, int]] = []

    def read(self, gpa: int, length: int) -> bytes:
        if gpa < 0 or gpa + length > len(self.content):
            raise GuestError("no memory there")
        return bytes(self.content[gpa : gpa + length])

    def write(self, gpa: int, data: bytes) -> None:
        if self.readonly or gpa < 0 or gpa + len(data) > len(self.content):
            raise GuestError("no memory there")
        self.content[gpa : gpa + len(data)] = data
        self.writes.append((gpa, len(data)))


class PowerCut(Exception):
    """The power failed in the middle of a write."""


class TornLabels(BytesLabels):
    """A label area whose power fails after ``budget`` bytes have been written, wherever that is in a write."""

    def __init__(self, content: bytes, budget: int) -> None:
        super().__init__(bytearray(content))
        self.budget = budget

    def write(self, offset: int, data: bytes) -> None:
        super().write(offset, data[: self.budget])
        if len(data) > self.budget:
            raise PowerCut
        self.budget -= len(data)


class ShuffledLabels(BytesLabels):
    """A label area whose power fails in write number ``cut``, of which any eight-byte words have arrived."""

    def __init__(self, content: bytes, cut: int, chance: random.Random) -> None:
        super().__init__(bytearray(content))
        self._left = cut
        self._chance = chance

    def write(self, offset: int, data: bytes) -> None:
        if self._left:
            self._left -= 1
            super().write(offset, data)
            return
        for word in range(0, len(data), 8):
            if self._chance.random() < 0.5:
                super().write(offset + word, data[word : word + 8])
        raise PowerCut


BACKEND = BackendConfig(id="m1", path="f", size=16 * MIB, share=True)
MACHINE = MachineConfig(ram_size=128 * MIB, slots=4, max_memory=4 * GIB)


def dimm_config(**changes: object) -> NvdimmConfig:
    """An NVDIMM with labels; ``changes`` are fields of its config."""
    return replace(NvdimmConfig(backend=BACKEND, label_size=LABEL_SIZE), **changes)  # type: ignore[arg-type]  # as given


def device(backing: FakeBacking | None = None, *, slot: int = 0, **changes: object) -> NvdimmDevice:
    return NvdimmDevice(dimm_config(**changes), backing or FakeBacking(MIB), gpa=4 * GIB, slot=slot)
