"""What an entry of the log means: the log as events of the persistence model, one by one or in columns."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice, pairwise
from operator import eq

from emu.cpu.engine import trace
from emu.cpu.engine.trace import Entry, Row
from emu.cpu.sites import SiteKind
from emu.persistence.model import columns as column
from emu.persistence.model.columns import Events
from emu.persistence.model.events import (
    Event,
    Fence,
    FenceKind,
    Flush,
    FlushKind,
    LabelWrite,
    Store,
    WriteBack,
    WriteBackKind,
    new_tuple,
)

_FLUSHES = dict(enumerate(FlushKind))
_FENCES = dict(enumerate(FenceKind))
_WRITE_BACKS = dict(enumerate(WriteBackKind))
# Plain numbers: an IntFlag costs a microsecond for each use, and this is used for each store.
_NON_TEMPORAL, _LOCKED = int(SiteKind.NON_TEMPORAL), int(SiteKind.LOCKED)


def numbered_events(rows: Iterable[Row], label_writes: Sequence[LabelWrite] = ()) -> Iterator[tuple[int, Event]]:
    """The log as events, each with the position of its first entry: the pieces of one instruction's store are joined,
    behind what the walk to its pages marks in page tables; a compare-and-swap that failed has no store.
    """
    failed, open_instance = -1, -1
    first, pieces = 0, list[Row]()
    for number, row in enumerate(rows):
        pc, address, value, instance, _, kind, _, detail = row
        if kind == trace.STORE:
            if instance == open_instance:
                pieces.append(row)
            elif instance >= trace.FIRST_MARK:
                yield number, _store(row)
            elif instance != failed:
                if len(pieces) == 1:
                    yield first, _store(pieces[0])
                elif pieces:
                    yield from ((first, store) for store in _join(pieces))
                first, open_instance, pieces = number, instance, [row]
            continue
        if pieces:
            yield from ((first, store) for store in _join(pieces))
            open_instance, pieces = -1, []
        match kind:
            case trace.FLUSH:
                yield number, Flush(address, _FLUSHES[detail], pc)
            case trace.FENCE:
                if value:
                    failed = instance
                yield number, Fence(_FENCES[detail], bool(value), pc)
            case trace.DEVICE:
                yield number, label_writes[value]
            case trace.SPECIAL if detail in _WRITE_BACKS:
                yield number, WriteBack(_WRITE_BACKS[detail], pc)
    if pieces:
        yield from ((first, store) for store in _join(pieces))


def _store(piece: Row) -> Store:
    """That of an instruction with a single piece."""
    pc, address, value, _, size, _, site, _ = piece
    return new_tuple(
        Store, (address, value.to_bytes(size, "little"), site & _NON_TEMPORAL != 0, site & _LOCKED != 0, pc)
    )


def _join(rows: list[Row]) -> Iterator[Store]:
    """One store for each run of adjacent bytes; bytes that the instruction stored twice hold what came last."""
    if len(rows) == 1:
        yield _store(rows[0])
        return
    pieces = [Entry._make(row) for row in rows]
    first = pieces[0]
    nt, locked = bool(first.site & _NON_TEMPORAL), bool(first.site & _LOCKED)
    ordered = sorted(pieces, key=lambda piece: piece.address)
    if any(left.address + left.size > right.address for left, right in pairwise(ordered)):
        ordered = _last_of_each_byte(pieces)
    start, data = ordered[0].address, bytearray()
    for piece in ordered:
        if piece.address != start + len(data):
            yield Store(start, bytes(data), nt, locked, first.pc)
            start, data = piece.address, bytearray()
        data += piece.value.to_bytes(piece.size, "little")
    yield Store(start, bytes(data), nt, locked, first.pc)


def _last_of_each_byte(pieces: list[Entry]) -> list[Entry]:
    last = {
        piece.address + at: piece._replace(address=piece.address + at, value=byte, size=1)
        for piece in pieces
        for at, byte in enumerate(piece.value.to_bytes(piece.size, "little"))
    }
    return [last[address] for address in sorted(last)]


# For each byte of an entry's kind: 255 for the one of the name; 1 for those that are no event by themselves.
_IS_STORE, _IS_FLUSH, _IS_FENCE = (
    bytes(255 * (kind == wanted) for kind in range(256)) for wanted in (trace.STORE, trace.FLUSH, trace.FENCE)
)
_IS_ANOTHER = bytes(kind not in (trace.STORE, trace.FLUSH, trace.FENCE) for kind in range(256))
# For each byte of an entry's site or detail: the kind in the column.
_STORES = bytes(
    column.STORE + column.NON_TEMPORAL * (site & _NON_TEMPORAL != 0) + column.LOCKED * (site & _LOCKED != 0)
    for site in range(256)
)
_FLUSH_KINDS, _FENCE_KINDS = (
    bytes(min(first + detail, 255) for detail in range(256)) for first in (column.FLUSH, column.FENCE)
)


def columns(log: bytes, label_writes: Sequence[LabelWrite] = ()) -> tuple[Events, array[int]]:
    """As ``numbered_events``, of the bytes of a log: the events in columns, and the positions of their first entries.

    Most entries are an event each, and what they have in common is done for all at once. The others (``_involved``)
    are looked at one by one.
    """
    count = len(log) // trace.ENTRY.size
    words, kinds = memoryview(log).cast("Q"), log[29::32]
    is_store, is_flush, is_fence = (_number(kinds.translate(which)) for which in (_IS_STORE, _IS_FLUSH, _IS_FENCE))
    details = log[31::32]
    coded = (
        is_store & _number(log[30::32].translate(_STORES))
        | is_flush & _number(details.translate(_FLUSH_KINDS))
        | is_fence & _number(details.translate(_FENCE_KINDS))
    ).to_bytes(count, "little")
    sizes = log[28::32]
    pcs, addresses, values = (array("Q", words[first::4].tobytes()) for first in range(3))
    involved = _involved(array("I", memoryview(log).cast("I")[6::8].tobytes()), kinds, is_fence, values)
    written, entries = column.Writer(), array("Q")
    done = 0
    while done < count:
        begin = involved.find(1, done)
        begin = count if begin < 0 else begin
        plain = slice(done, begin)
        written.extend(coded[plain], sizes[plain], addresses[plain], values[plain], pcs[plain])
        entries.extend(range(done, begin))
        done = involved.find(0, begin)
        done = count if done < 0 else done
        rows = trace.ENTRY.iter_unpack(memoryview(log)[begin * trace.ENTRY.size : done * trace.ENTRY.size])
        for entry, event in numbered_events(rows, label_writes):
            written.append(event)
            entries.append(begin + entry)
    return written.events(), entries


def _involved(instances: array[int], kinds: bytes, is_fence: int, values: array[int]) -> bytes:
    """1 for each entry that need not be an event by itself, or is no store, flush or fence: pieces of one store, what
    stands between them, compare-and-swaps that failed.
    """
    another = _number(kinds.translate(_IS_ANOTHER))
    goes_on = _number(bytes(map(eq, instances, islice(instances, 1, None))))
    mark = _number(bytes(map(trace.FIRST_MARK.__le__, instances)))
    failed = is_fence & _number(bytes(map(bool, values)))
    found = another | goes_on | goes_on << 8 | mark | mark << 8 | mark >> 8 | failed
    return found.to_bytes(len(kinds) + 1, "little")[: len(kinds)]


def _number(column: bytes) -> int:
    """A column as a number, so that all of it takes part in one operation."""
    return int.from_bytes(column, "little")
