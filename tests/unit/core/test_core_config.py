"""What follows from a description of a machine alone."""

from dataclasses import replace
from typing import Any

import pytest

from emu.config import BackendConfig, MachineConfig, OnOffAuto
from emu.errors import UsageError
from emu.units import GIB, MIB


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"ram_size": MIB - 1}, "1048575 bytes of RAM is out of range"),
        ({"ram_size": 64 * GIB + 1}, "out of range"),
        ({"ram_size": 2 * GIB, "max_memory": GIB}, "maxmem is smaller than the RAM size"),
    ],
)
def test_sizes_that_cannot_be_are_refused_whoever_asks(wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says) as caught:
        MachineConfig(**wrong)
    assert caught.value.remedy
    with pytest.raises(UsageError, match=says):
        replace(MachineConfig(), **wrong)


def test_the_widest_sizes() -> None:
    assert MachineConfig(ram_size=MIB, max_memory=MIB).max_memory == MIB
    assert MachineConfig(ram_size=64 * GIB).ram_size == 64 * GIB


def test_rom_follows_readonly_unless_said() -> None:
    assert BackendConfig(id="a", readonly=True).is_rom
    assert not BackendConfig(id="a", readonly=True, rom=OnOffAuto.OFF).is_rom
    assert not BackendConfig(id="a").is_rom
