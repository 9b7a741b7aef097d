"""What follows from a description of a machine alone."""

from emu.config import BackendConfig, OnOffAuto


def test_rom_follows_readonly_unless_said() -> None:
    assert BackendConfig(id="a", readonly=True).is_rom
    assert not BackendConfig(id="a", readonly=True, rom=OnOffAuto.OFF).is_rom
    assert not BackendConfig(id="a").is_rom
