"""The namespace label area as a library: open, check, initialise, create and delete namespaces, zero, replace.

Every change is a sequence of ``LabelStorage`` writes, each durable before the next starts. Labels and index blocks that
count are never changed in place: a label goes to a free slot, then the index block that does not count is rewritten and
with that one write becomes the one that counts. Whatever part of a write a crash leaves, the area validates as before
or as after it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from uuid import UUID

from emu.devices.nvdimm.device import LabelStorage
from emu.devices.nvdimm.index import (
    Geometry,
    Index,
    LabelError,
    Version,
    choose,
    geometry,
    initial_index,
    next_index,
    pack_index,
    read_index,
)
from emu.devices.nvdimm.label_layouts import IndexHeader, LabelFlags
from emu.devices.nvdimm.namespace import Label, Namespace, make_label, read_label, set_cookie
from emu.units import PAGE, align_down, counted, human_size

_CHUNK = 1 << 20


class BytesLabels:
    """A label area in memory: what was read from a dump, or a test's."""

    def __init__(self, content: bytearray) -> None:
        self.content = content

    @property
    def size(self) -> int:
        return len(self.content)

    def read(self, offset: int, length: int) -> bytes:
        return bytes(self.content[offset : offset + length])

    def write(self, offset: int, data: bytes) -> None:
        self.content[offset : offset + len(data)] = data


@dataclass(frozen=True, slots=True)
class Report:
    """What is wrong with a label area: ``errors`` make it invalid, ``warnings`` concern single labels."""

    version: Version | None
    errors: tuple[str, ...]
    warnings: tuple[str, ...]

    @property
    def valid(self) -> bool:
        return self.version is not None


@dataclass(frozen=True, slots=True)
class _Probe:
    """The area read with one version's geometry: its valid index blocks, and why the others are not."""

    where: Geometry
    blocks: tuple[Index | None, Index | None]
    reasons: tuple[str, ...]


def _probe(storage: LabelStorage, version: Version) -> _Probe:
    where = geometry(version, storage.size)
    blocks: list[Index | None] = []
    reasons: list[str] = []
    for number in (0, 1):
        try:
            blocks.append(read_index(storage.read(number * where.index_size, where.index_size), number, where))
        except LabelError as error:
            blocks.append(None)
            reasons.append(error.what)
    return _Probe(where, (blocks[0], blocks[1]), tuple(reasons))


class LabelArea:
    """A valid label area on ``storage``. LabelError when neither index block is valid in any version.

    ``where`` is its geometry, ``index`` the block that counts, ``number`` which of the two that is, and ``flaws`` says
    what is wrong with the other.
    """

    def __init__(self, storage: LabelStorage) -> None:
        probes = [_probe(storage, version) for version in Version]
        self._storage = storage
        for probe in probes:
            number = choose(*probe.blocks)
            if number is not None:
                index = probe.blocks[number]
                assert index is not None
                self.where, self.number, self.index, self.flaws = probe.where, number, index, probe.reasons
                self.blocks = probe.blocks
                return
        raise LabelError(
            f"no valid namespace index: {'; '.join(_closest(probes).reasons)}",
            "initialise the label area, if nothing in it is worth keeping",
        )

    @property
    def version(self) -> Version:
        return self.where.version

    def labels(self) -> tuple[Label, ...]:
        """The labels in use that are valid, by slot."""
        return tuple(label for label in map(self._read, self.index.used_slots()) if not isinstance(label, LabelError))

    def label_flaws(self) -> tuple[str, ...]:
        """Why labels in use are not valid, or not to be trusted."""
        found: list[str] = []
        for slot in self.index.used_slots():
            label = self._read(slot)
            if isinstance(label, LabelError):
                found.append(label.what)
            elif label.flags & LabelFlags.UPDATING:
                found.append(f"slot {slot}: an update of namespace {label.uuid} did not finish")
        extents = sorted((label.dpa, label.dpa + label.raw_size, label.slot) for label in self.labels())
        for (_, end, slot), (start, _, other) in pairwise(extents):
            if start < end:
                found.append(f"slots {slot} and {other}: their namespaces overlap")
        return tuple(found)

    def _read(self, slot: int) -> Label | LabelError:
        try:
            return read_label(
                self._storage.read(self.where.slot_offset(slot), self.version.label_size), slot, self.where
            )
        except LabelError as error:
            return error

    def create(self, namespace: Namespace, dimm_slot: int) -> Label:
        """Add a namespace on an NVDIMM in ``dimm_slot``; the label as it now is. LabelError when it does not fit.

        Durable when it returns. As the specification asks, the label is first written with the flag UPDATING, then
        without it, to two different slots: a crash leaves no label, the flagged or the final one.
        """
        if namespace.size <= 0 or namespace.dpa < 0 or namespace.size % PAGE or namespace.dpa % PAGE:
            raise LabelError(
                f"a namespace of {namespace.size} bytes at {namespace.dpa:#x} is not made of pages",
                f"give a size that is a multiple of {PAGE}",
            )
        if self.index.free_slots() < 2:
            raise LabelError("no two label slots are free", "delete a namespace first")
        for label in self.labels():
            if namespace.dpa < label.dpa + label.raw_size and label.dpa < namespace.dpa + namespace.size:
                raise LabelError(f"the namespace would overlap that of slot {label.slot}", "give another place or size")
            if label.uuid == namespace.uuid:
                raise LabelError(f"uuid {namespace.uuid} is already used in slot {label.slot}", "give another uuid")
        cookie = set_cookie(self.version, dimm_slot)
        first = self._add(namespace, cookie, LabelFlags.UPDATING, ())
        return self._add(namespace, cookie, 0, (first.slot,))

    def delete(self, uuid: UUID) -> None:
        """Free the slots of the namespace ``uuid``; LabelError when there is none. Durable when it returns."""
        slots = [label.slot for label in self.labels() if label.uuid == uuid]
        if not slots:
            raise LabelError(f"no namespace {uuid}", "'emu label read' lists the namespaces")
        self._commit(self.index.free | sum(1 << slot for slot in slots))

    def _add(self, namespace: Namespace, cookie: int, flags: int, replaced: Iterable[int]) -> Label:
        slot = self.index.free_slot()
        assert slot is not None, "create made sure of it"
        label = make_label(self.version, namespace, slot, cookie, flags)
        self._storage.write(self.where.slot_offset(slot), label.pack())
        self._commit((self.index.free | sum(1 << old for old in replaced)) & ~(1 << slot))
        return label

    def _commit(self, free: int) -> None:
        index = next_index(self.index, self.number, self.where, free)
        number = 1 - self.number
        self._storage.write(number * self.where.index_size, pack_index(index, self.where))
        self.index, self.number = index, number
        self.blocks = (index, self.blocks[1]) if number == 0 else (self.blocks[0], index)

    def clear(self) -> None:
        """Free all slots. Durable when it returns."""
        self._commit((1 << self.where.slots) - 1)

    def free_extents(self, size: int) -> list[tuple[int, int]]:
        """(start, end) of what no label uses of an NVDIMM of ``size`` bytes, rounded inwards to pages."""
        free: list[tuple[int, int]] = []
        at = 0
        for start, end in sorted((label.dpa, label.dpa + label.raw_size) for label in self.labels()):
            free.append((at, start))
            at = max(at, end)
        free.append((at, size))
        rounded = [(-(-start // PAGE) * PAGE, align_down(min(end, size), PAGE)) for start, end in free]
        return [(start, end) for start, end in rounded if start < end]


def _closest(probes: Iterable[_Probe]) -> _Probe:
    """The probe whose reasons say most: one that found at least a signature."""
    return min(
        probes, key=lambda probe: sum("signature" in reason or "label size" in reason for reason in probe.reasons)
    )


def check(storage: LabelStorage) -> Report:
    """Everything that is wrong with the area; never raises for its content."""
    try:
        area = LabelArea(storage)
    except LabelError as error:
        return Report(None, (error.what,), ())
    return Report(area.version, (), (*area.flaws, *area.label_flaws()))


def initialise(storage: LabelStorage, version: Version, *, force: bool = False, linux: bool = False) -> LabelArea:
    """Write two index blocks that say "no labels"; LabelError when the area is valid already and ``force`` is not set.

    The bytes are those of ``ndctl init-labels``, or with ``linux`` those of the kernel's own first use. Slots are not
    touched. Durable when it returns, and a crash leaves the area as it was or empty, of the old version or the new one:
    an old block that counts stays until a new one does.
    """
    where = geometry(version, storage.size)
    order = (0, 1)
    try:
        area = LabelArea(storage)
    except LabelError:
        pass
    else:
        if not force:
            raise LabelError(
                f"the label area of {human_size(storage.size)} is already initialised (version {area.version.value},"
                f" {counted(len(area.labels()), 'label')})",
                "use --force to destroy all labels in it",
            )
        old, new = area.where.index_size, where.index_size
        stays = area.number
        if old != new:
            # Larger blocks lie on labels, which must not count then; and the first one must not lie on the old block
            # that counts.
            stays = int(new < old)
            area.clear()
            if area.number != stays:
                area.clear()
        order = (1 - stays, stays)
    for number in order:
        block = pack_index(initial_index(number, where, set_tail=not linux), where)
        storage.write(number * where.index_size, block)
    _forget_others(storage, where)
    return LabelArea(storage)


def is_blank(storage: LabelStorage) -> bool:
    """Whether nobody ever wrote index blocks here: their places are all zero in every version.

    LabelError when the area is too small for labels.
    """
    return not any(storage.read(0, _head(storage)))


def zero(storage: LabelStorage, offset: int, length: int) -> None:
    """Fill part of the area with zeros. Durable when it returns.

    Index blocks go first, the one that counts last of them: a crash leaves the labels as they were, or no labels.
    """
    if offset < _head(storage):
        _invalidate(storage)
    for start in range(offset, offset + length, _CHUNK):
        storage.write(start, bytes(min(_CHUNK, offset + length - start)))


def replace_content(storage: LabelStorage, data: bytes) -> None:
    """Make ``data`` (as long as the area) the area's content: a dump of ``ndctl read-labels``. Durable when it returns.

    Index blocks are cleared first and written last, the one that will count before the other: a crash leaves the old
    area, one that does not validate, or the new one, but never a mixture that does. (Unless ``data`` is one: index
    blocks of both versions in it are both written.)
    """
    if len(data) != storage.size:
        raise LabelError(
            f"a label area of {storage.size} bytes cannot take {len(data)}", "give all of the area's bytes"
        )
    head = _head(storage)
    try:
        area = LabelArea(BytesLabels(bytearray(data)))
    except LabelError:
        places = [(0, head)]
    else:
        size = area.where.index_size
        # Behind smaller blocks than those of the other version there are labels.
        places = [
            (2 * size, head),
            *((number * size, number * size + size) for number in (area.number, 1 - area.number)),
        ]
    _invalidate(storage)
    for start in range(head, len(data), _CHUNK):
        storage.write(start, data[start : start + _CHUNK])
    for start, end in places:
        storage.write(start, data[start:end])


def _head(storage: LabelStorage) -> int:
    """Where index blocks end, in whichever version has the larger ones."""
    return max(geometry(version, storage.size).label_offset for version in Version)


def _invalidate(storage: LabelStorage) -> None:
    """Clear the index blocks, the one that counts last, so that no older state comes back in between."""
    try:
        area = LabelArea(storage)
    except LabelError:
        storage.write(0, bytes(_head(storage)))
        return
    _forget_others(storage, area.where)
    for number in (1 - area.number, area.number):
        storage.write(number * area.where.index_size, bytes(area.where.index_size))


def _forget_others(storage: LabelStorage, where: Geometry) -> None:
    """Clear valid index blocks of versions other than that of ``where``: blocks of another size can survive between
    labels, and would count again some day. No label in use lies on one that is valid.
    """
    for probe in (_probe(storage, version) for version in Version if version is not where.version):
        for number, block in enumerate(probe.blocks):
            if block is not None:
                storage.write(number * probe.where.index_size, bytes(IndexHeader.SIZE))
