"""The truth table, row by row."""

from __future__ import annotations

from typing import Any

import pytest

from emu.config import OnOffAuto
from emu.memory.durability import MappingFacts, Survives, judge

NOTHING_BUT_GUEST = Survives(True, False, False)
NO_POWER = Survives(True, True, False)
ALL = Survives(True, True, True)
NONE = Survives(False, False, False)


@pytest.mark.parametrize(
    ("facts", "effective", "granularity", "survives", "word"),
    [
        ({"file_system": None, "shared": False}, False, "none", NOTHING_BUT_GUEST, "anonymous"),
        ({"file_system": None, "shared": True}, False, "none", NOTHING_BUT_GUEST, "anonymous"),
        ({"shared": False}, False, "none", NOTHING_BUT_GUEST, "share=off"),
        ({"shared": False, "dax": True}, False, "none", NOTHING_BUT_GUEST, "share=off"),
        ({"readonly": True}, False, "none", NONE, "read-only"),
        ({"readonly": True, "synced": True, "dax": True}, True, "none", NONE, "read-only"),
        ({}, False, "page", NO_POWER, "page cache"),
        ({"file_system": "tmpfs", "memory_file_system": True}, False, "page", NO_POWER, "in the host's RAM"),
        ({"dax": True}, False, "page", NO_POWER, "metadata of fresh blocks may be lost"),
        ({"dax": True, "synced": True}, True, "cache-line", ALL, "consistent file-system metadata for"),
        ({"dax": True, "synced": True, "cpu_flush": False}, True, "page", ALL, "MAP_SYNC"),
        ({"device_dax": True, "persistent_device": True, "synced": True}, True, "cache-line", ALL, "kernel promises"),
        ({"device_dax": True, "persistent_device": True}, False, "cache-line", ALL, "without MAP_SYNC"),
        ({"device_dax": True, "synced": True}, True, "cache-line", NO_POWER, "volatile"),
    ],
)  # fmt: skip
def test_truth_table(facts: dict[str, Any], effective: bool, granularity: str, survives: Survives, word: str) -> None:
    given = {"file_system": "ext4", "shared": True, "readonly": False, "no_sync": "sync=off", **facts}
    result = judge(OnOffAuto.AUTO, MappingFacts(**given))
    assert result.requested is OnOffAuto.AUTO
    assert (result.effective, result.granularity, result.survives) == (effective, granularity, survives)
    assert word in result.why
    assert "\n" not in result.why


def test_nothing_claims_power_loss_without_map_sync_or_a_persistent_device() -> None:
    """Exhaustive over the facts: 2 to the 8 combinations."""
    names = (
        "shared",
        "readonly",
        "synced",
        "memory_file_system",
        "dax",
        "device_dax",
        "persistent_device",
        "cpu_flush",
    )
    for bits in range(1 << len(names)):
        facts = MappingFacts(
            file_system="x", no_sync="y", **{name: bool(bits >> n & 1) for n, name in enumerate(names)}
        )
        result = judge(OnOffAuto.AUTO, facts)
        if result.survives.host_power_loss:
            assert facts.shared
            assert not facts.readonly
            assert facts.persistent_device if facts.device_dax else facts.synced
        if not facts.shared or facts.readonly:
            assert result.granularity == "none"
