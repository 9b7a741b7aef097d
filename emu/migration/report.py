"""The destination's report: which NVDIMM bytes it made durable, by what means, and how long that took."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from emu.migration import codec
from emu.migration.errors import StreamError
from emu.units import U64_MAX

MEANS = {"cache-line": "cache-line flush", "page": "msync", "none": "none"}
"""What makes bytes durable on a mapping of each granularity."""

_KEYS = {"block", "means", "granularity", "bytes", "seconds"}
_LONGEST_S = 1e9


def entry(block: str, granularity: str, count: int, seconds: float) -> dict[str, Any]:
    """What became of one block: ``count`` bytes made durable in ``seconds``."""
    return {
        "block": block,
        "means": MEANS[granularity],
        "granularity": granularity,
        "bytes": count,
        "seconds": round(seconds, 6),
    }


def decode_report(data: bytes, sent: Collection[str]) -> list[dict[str, Any]]:
    """The entries of a DURABLE frame; StreamError unless each is of a block in ``sent`` and has fields of their types.

    What they say remains the destination's word.
    """
    document = codec.decode_json(data, "report of the destination")
    entries = document.get("nvdimms")
    if document.keys() != {"nvdimms"} or not isinstance(entries, list) or not all(_is_entry(item) for item in entries):
        raise StreamError("migration stream: the report of the destination is malformed")
    names = [item["block"] for item in entries]
    if len(set(names)) != len(names) or not set(names) <= set(sent):
        raise StreamError("migration stream: the report of the destination names blocks that were not sent")
    return entries


def _is_entry(raw: Any) -> bool:
    return (
        isinstance(raw, dict)
        and raw.keys() == _KEYS
        and isinstance(raw["block"], str)
        and isinstance(raw["granularity"], str)
        and raw["means"] == MEANS.get(raw["granularity"])
        and type(raw["bytes"]) is int
        and 0 <= raw["bytes"] <= U64_MAX
        and type(raw["seconds"]) in (int, float)
        and 0 <= raw["seconds"] <= _LONGEST_S
    )
