"""Runs a guest twice and holds two logs of its stores against each other: its translated code's, and the hooks'."""

from __future__ import annotations

from pathlib import Path
from random import Random

from random_stores import BASE, SIZE, TABLES, Programs, scattered

from emu.config import BackendConfig, BackendKind, MachineConfig, NvdimmConfig
from emu.persistence.lab.workload import Workload, record
from emu.persistence.model.events import Event, Store
from emu.units import MIB

_STATUS_FLAGS = 0x8D5


def configured(image: Path, content: Path | None = None, cmdline: str = "") -> MachineConfig:
    """A small machine with one NVDIMM, which holds ``content`` or zeros."""
    backend = BackendConfig(id="m", kind=BackendKind.RAM, size=SIZE)
    if content is not None:
        backend = BackendConfig(id="m", path=str(content), size=content.stat().st_size)
    return MachineConfig(
        image=str(image), cmdline=cmdline, slots=1, nvdimms=(NvdimmConfig(backend=backend),), ram_size=16 * MIB
    )


def compare(config: MachineConfig, event_limit: int = 1 << 18) -> Workload:
    """Both runs must end alike and leave the same events; the one that translated code logged."""
    ours = record(config, timeout=30, event_limit=event_limit)
    theirs = record(config, timeout=30, event_limit=event_limit, by_hooks=True)
    assert ours.ended == theirs.ended
    assert ours.output == theirs.output
    assert ours.doubts == theirs.doubts
    assert _comparable(ours, theirs) == _comparable(theirs, ours)
    assert _last_marks(ours) == _last_marks(theirs)
    return ours


def compare_random(seed: int, folder: Path, *, paged: bool) -> Workload:
    """``compare`` a random program, ``paged``: under page tables in the NVDIMM that scatter its pages."""
    image, content = folder / "guest.bin", folder / "content.img"
    image.write_bytes(Programs(seed).program(60, cr3=BASE + TABLES if paged else None))
    if paged:
        content.write_bytes(scattered(Random(seed)))
    workload = compare(configured(image, content if paged else None))
    assert workload.ended.reason == "halt"
    return workload


def _comparable(workload: Workload, other: Workload) -> list[Event]:
    """The events without marks in page tables, whose places among loads the hooks do not know. In a program with PUSHF
    without the status flags of what differs: a hook can leave others than the plain run has, where instructions leave
    them undefined, and the program may store them again.
    """
    events, others = (
        [event for event in log.events if not isinstance(event, Store) or event.address < BASE + TABLES]
        for log in (workload, other)
    )
    if not any(text.startswith("pushf") for text in workload.instructions.values()):
        return events
    return [
        event if at < len(others) and event == others[at] else _without_status_flags(event)
        for at, event in enumerate(events)
    ]


def _without_status_flags(event: Event) -> Event:
    if not isinstance(event, Store):
        return event
    data = int.from_bytes(event.data, "little") & ~_STATUS_FLAGS
    return event._replace(data=data.to_bytes(len(event.data), "little"))


def _last_marks(workload: Workload) -> dict[int, bytes]:
    stores = (event for event in workload.events if isinstance(event, Store) and event.address >= BASE + TABLES)
    return {store.address: store.data for store in stores}
