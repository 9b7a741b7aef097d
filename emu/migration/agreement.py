"""The first exchange: the source says what its machine is, hears what the destination is, and they agree or not."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from emu.migration import codec
from emu.migration.channel import MOST_FILES, Channel
from emu.migration.errors import Refused, StreamError
from emu.migration.facts import MachineFacts, decode_facts
from emu.migration.guest import Block, FileLock
from emu.migration.lanes import Offer
from emu.migration.policy import Terms, compare
from emu.migration.stream import Frame, FrameType

Answer = Callable[[FrameType], Frame]


@dataclass(frozen=True, slots=True)
class Preamble:
    """What a source says first. ``not_copied`` names blocks of shared files, ``offered`` the blocks whose files come
    with the preamble, each with the offset in bytes at which the block begins, ``lanes`` the connections for pages that
    it will open."""

    machine: MachineFacts
    terms: Terms
    not_copied: tuple[str, ...]
    offered: tuple[tuple[str, int], ...]
    lanes: Offer | None


def decode_preamble(data: bytes, *, live: bool) -> Preamble:
    """The preamble in ``data`` of a live source or of a snapshot; StreamError unless every part of it is in order."""
    raw = codec.decode_json(data, "preamble")
    if raw.keys() != {"machine", "terms", "not_copied", "by_reference", "lanes"}:
        raise StreamError("migration stream: the preamble has missing or unknown keys")
    absent, terms = raw["not_copied"], codec.decode_record(Terms, raw["terms"], "terms")
    if (
        not isinstance(absent, list)
        or len(absent) > codec.MAX_BLOCKS
        or not all(isinstance(name, str) for name in absent)
    ):
        raise StreamError("migration stream: the preamble names no list of blocks")
    if terms.snapshot is live:
        raise StreamError("migration stream: a snapshot can be read from a file only, and a live one from a socket")
    lanes = Offer.decode(raw["lanes"])
    return Preamble(decode_facts(raw["machine"]), terms, tuple(absent), _decode_offers(raw["by_reference"]), lanes)


def _decode_offers(raw: Any) -> tuple[tuple[str, int], ...]:
    if not isinstance(raw, list) or len(raw) > codec.MAX_BLOCKS:
        raise StreamError("migration stream: the preamble's list of files is malformed")
    found = []
    for item in raw:
        match item:
            case {"block": str(block), "offset": int(offset)} if len(item) == 2 and type(offset) is int:
                found.append((block, offset))
            case _:
                raise StreamError("migration stream: the preamble's list of files is malformed")
    return tuple(found)


def agree(
    channel: Channel,
    facts: MachineFacts,
    terms: Terms,
    copied: Sequence[Block],
    shared: Sequence[Block],
    answer: Answer,
    lanes: Offer | None = None,
) -> frozenset[str]:
    """Send the preamble and judge the answer; the names of the blocks that the destination copies from passed files.

    ``copied`` blocks will be sent, ``shared`` ones are files that both sides use. ``answer(kind)`` receives a frame.
    Refused when the machines or the files differ. A snapshot has nobody to answer.
    """
    proofs = {block.name: secrets.randbits(63) | 1 << 63 for block in shared}
    preamble = {
        "machine": asdict(facts),
        "terms": asdict(terms),
        "not_copied": [block.name for block in shared],
        "lanes": None if lanes is None else lanes.encode(),
    }
    try:
        for block in shared:
            lock_of(block).show(proofs[block.name])
        offered = _send(channel, preamble, copied)
        if not channel.live:
            return frozenset()
        reply = codec.decode_json(answer(FrameType.ACCEPT).data, "answer of the destination")
    finally:
        for block in shared:
            lock_of(block).hide()
    if reply.keys() != {"machine", "allow_weaker_persistence", "proofs", "by_reference"}:
        raise StreamError("migration stream: the answer of the destination has missing or unknown keys")
    if type(reply["allow_weaker_persistence"]) is not bool:
        raise StreamError("migration stream: the terms of the destination are malformed")
    allowed = terms.allow_weaker_persistence or reply["allow_weaker_persistence"]
    there = decode_facts(reply["machine"])
    mismatches = compare(facts, there, Terms(terms.ignore_shared, allowed, terms.snapshot))
    if mismatches:
        raise Refused([str(mismatch) for mismatch in mismatches])
    if reply["proofs"] != proofs:
        raise Refused(["the destination did not open the same file: x-ignore-shared copies nothing, so it must"])
    wanted = reply["by_reference"]
    if not isinstance(wanted, list) or not all(isinstance(name, str) and name in offered for name in wanted):
        raise StreamError("migration stream: the destination wants files that were not offered")
    return frozenset(wanted)


def _send(channel: Channel, preamble: dict[str, Any], copied: Sequence[Block]) -> set[str]:
    """Send the preamble, and with it open files, read-only, that a destination on this host can copy from."""
    offered: list[dict[str, Any]] = []
    files: list[int] = []
    with contextlib.ExitStack() as stack:
        for block in copied:
            if block.file is not None and channel.passes_files and len(files) < MOST_FILES:
                offered.append({"block": block.name, "offset": block.file.offset})
                files.append(block.file.open_readonly())
                stack.callback(os.close, files[-1])
        document = codec.encode_json(preamble | {"by_reference": offered})
        channel.send(FrameType.PREAMBLE, b"", [document], files=files)
    return {item["block"] for item in offered}


def lock_of(block: Block) -> FileLock:
    """The lock of a shared block's file; Refused where there is none."""
    if block.lock is None:
        raise Refused([f"{block.path or block.name} cannot be locked, so x-ignore-shared cannot hand it over"])
    return block.lock
