"""Which differences between two machines forbid a migration. Pure: facts in, reasons out.

QEMU compares names and sizes of memory blocks and lets label-size, address, slot, uuid and unarmed differ silently; the
guest then finds its labels or its data at another place. Here each of them is compared before the first page moves.
The table is in docs/reference/migration-protocol.md.
"""

from __future__ import annotations

from dataclasses import dataclass

from emu.migration.facts import MachineFacts, NvdimmFacts
from emu.units import human_size


@dataclass(frozen=True, slots=True)
class Terms:
    """What both sides agreed to: capabilities of the migration that change what is compared.

    ``ignore_shared`` leaves blocks of shared files out of the copy (QEMU's x-ignore-shared);
    ``allow_weaker_persistence`` accepts a destination whose mapping promises less than the source's; ``snapshot`` means
    there is no live source.
    """

    ignore_shared: bool = False
    allow_weaker_persistence: bool = False
    snapshot: bool = False


@dataclass(frozen=True, slots=True)
class Mismatch:
    """One reason to refuse: ``where`` (an NVDIMM's id or 'machine'), what differs, both values, and the way out."""

    where: str
    what: str
    source: str
    destination: str
    remedy: str

    def __str__(self) -> str:
        values = f"is {self.source} at the source and {self.destination} at the destination"
        return f"{self.where}: {self.what} {values}; {self.remedy}"


_STRENGTH = {"none": 0, "page": 1, "cache-line": 2}


def compare(source: MachineFacts, destination: MachineFacts, terms: Terms) -> list[Mismatch]:
    """Every reason not to migrate from ``source`` to ``destination`` under ``terms``; empty when there is none."""
    found = _compare_machines(source, destination)
    there = {nvdimm.id: nvdimm for nvdimm in destination.nvdimms}
    for nvdimm in source.nvdimms:
        other = there.pop(nvdimm.id, None)
        if other is None:
            found.append(_missing(nvdimm, "present", "missing"))
        else:
            found += _compare_nvdimms(nvdimm, other, terms)
    found += [_missing(nvdimm, "missing", "present") for nvdimm in there.values()]
    return found


def _missing(nvdimm: NvdimmFacts, source: str, destination: str) -> Mismatch:
    return Mismatch(
        f"NVDIMM {nvdimm.id}", "the device", source, destination, "start both sides with the same NVDIMMs and ids"
    )


def _compare_machines(source: MachineFacts, destination: MachineFacts) -> list[Mismatch]:
    found = []

    def check(what: str, here: str, there: str, remedy: str) -> None:
        if here != there:
            found.append(Mismatch("machine", what, here, there, remedy))

    check("RAM", human_size(source.ram_size), human_size(destination.ram_size), "give both sides the same -m")
    check("the clock", source.clock, destination.clock, "give both sides the same --clock")
    check(
        "the persistence domain",
        source.persistence,
        destination.persistence,
        "give both sides the same -machine nvdimm-persistence=",
    )
    backends = {nvdimm.block for nvdimm in source.nvdimms + destination.nvdimms}
    here = {block.name: block.size for block in source.blocks if block.name not in backends}
    there = {block.name: block.size for block in destination.blocks if block.name not in backends}
    for name in sorted(here.keys() | there.keys()):
        check(
            f"memory block '{name}'",
            _size(here.get(name)),
            _size(there.get(name)),
            "start both sides with the same options",
        )
    return found


def _size(size: int | None) -> str:
    return "missing" if size is None else human_size(size)


def _compare_nvdimms(source: NvdimmFacts, destination: NvdimmFacts, terms: Terms) -> list[Mismatch]:
    found = []
    handed_over = terms.ignore_shared and source.share and destination.share
    where = f"NVDIMM {source.id}"

    def check(what: str, here: object, there: object, remedy: str) -> None:
        if here != there:
            found.append(Mismatch(where, what, str(here), str(there), remedy))

    def same(option: str) -> str:
        return f"give both sides the same {option}"

    check("the backend's id", source.block, destination.block, same("id of the memory backend"))
    check("size", human_size(source.size), human_size(destination.size), same("size="))
    check("label-size", human_size(source.label_size), human_size(destination.label_size), same("label-size="))
    check("uuid", source.uuid, destination.uuid, same("uuid="))
    check(
        "unarmed", _on(source.unarmed), _on(destination.unarmed), same("unarmed= (auto may differ from host to host)")
    )
    check("slot", source.slot, destination.slot, same("slot="))
    check("the address", f"{source.gpa:#x}", f"{destination.gpa:#x}", same("addr= and -m"))
    check("the NUMA node", source.node, destination.node, same("node="))
    if destination.readonly != source.readonly:
        check("readonly", _on(source.readonly), _on(destination.readonly), "give the destination a file it may write")
    elif destination.readonly and not handed_over:
        found.append(
            Mismatch(
                where, "readonly", "on", "on", "a read-only destination cannot take pages: give it a writable file"
            )
        )
    if not terms.allow_weaker_persistence:
        found += _weaker(where, source, destination)
    if source.file is not None and source.file == destination.file and not terms.snapshot and not handed_over:
        remedy = "give the destination a file of its own, or set x-ignore-shared if both are to use this one"
        found.append(Mismatch(where, "the backing file", "in use", "the very same file", remedy))
    if terms.ignore_shared and source.share != destination.share:
        check("share", _on(source.share), _on(destination.share), "x-ignore-shared needs share=on on both sides")
    return found


def _weaker(where: str, source: NvdimmFacts, destination: NvdimmFacts) -> list[Mismatch]:
    """What the destination's mapping promises less than the source's."""
    remedy = "use a file whose mapping promises as much, or consent with the capability allow-weaker-persistence"
    found = []
    if _STRENGTH[destination.granularity] < _STRENGTH[source.granularity]:
        found.append(Mismatch(where, "flush granularity", source.granularity, destination.granularity, remedy))
    for what, here, there in (
        ("survival of a guest crash", source.survives_guest_crash, destination.survives_guest_crash),
        ("survival of a killed emulator", source.survives_emulator_kill, destination.survives_emulator_kill),
        ("survival of a host power loss", source.survives_host_power_loss, destination.survives_host_power_loss),
    ):
        if here and not there:
            found.append(Mismatch(where, what, "promised", "not promised", remedy))
    return found


def _on(flag: bool) -> str:
    return "on" if flag else "off"
