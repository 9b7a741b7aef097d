"""The first exchange, seen from the source: say what the machine is, hear what the destination is, and agree or not."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from emu.migration import codec
from emu.migration.channel import Channel
from emu.migration.errors import Refused, StreamError
from emu.migration.facts import MachineFacts, decode_facts
from emu.migration.guest import Block, FileLock
from emu.migration.policy import Terms, compare
from emu.migration.stream import Frame, FrameType

Answer = Callable[[FrameType], Frame]


def agree(
    channel: Channel,
    facts: MachineFacts,
    terms: Terms,
    copied: Sequence[Block],
    shared: Sequence[Block],
    answer: Answer,
) -> frozenset[str]:
    """Send the preamble and judge the answer; the names of the blocks that the destination copies from passed files.

    ``copied`` blocks will be sent, ``shared`` ones are files that both sides use. ``answer(kind)`` receives a frame.
    Refused when the machines or the files differ. A snapshot has nobody to answer.
    """
    proofs = {block.name: secrets.randbits(63) | 1 << 63 for block in shared}
    preamble = {
        "machine": facts.to_json(),
        "terms": asdict(terms),
        "not_copied": [block.name for block in shared],
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
    allowed = terms.allow_weaker_persistence or reply["allow_weaker_persistence"] is True
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
            if block.file is not None and channel.passes_files:
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
