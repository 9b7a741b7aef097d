"""Runs a guest twice and holds two logs of its stores against each other: its translated code's, and the hooks'."""

from __future__ import annotations

from pathlib import Path
from random import Random

from emu.config import BackendConfig, BackendKind, MachineConfig, NvdimmConfig
from emu.persistence.lab.workload import Workload, record
from emu.persistence.model.events import Event, Store
from emu.units import MIB
from tests.random_stores import BASE, SIZE, TABLES, Programs, scattered


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
    events, others = _comparable(ours), _comparable(theirs)
    assert len(events) == len(others)
    for event, other in zip(events, others, strict=True):
        # A hook can leave other flags than the plain run has, where instructions leave them undefined. The memory, by
        # which every recording is checked, says that the log of the translated code is right.
        if theirs.instructions.get(event.pc, "").removeprefix("lock ").startswith(("adc ", "sbb ")):
            assert isinstance(event, Store)
            assert isinstance(other, Store)
            event, other = event._replace(data=b""), other._replace(data=b"")
        assert event == other
    assert _last_marks(ours) == _last_marks(theirs)
    return ours


def compare_random(seed: int, folder: Path, *, paged: bool) -> Workload:
    """``compare`` a random program, ``paged``: under page tables in the NVDIMM that scatter its pages.

    It does not push its flags: a hook can leave others than the plain run has, where instructions leave them undefined.
    """
    image, content = folder / "guest.bin", folder / "content.img"
    image.write_bytes(Programs(seed, pushes_flags=False).program(60, cr3=BASE + TABLES if paged else None))
    if paged:
        content.write_bytes(scattered(Random(seed)))
    workload = compare(configured(image, content if paged else None))
    assert workload.ended.reason == "halt"
    return workload


def _comparable(workload: Workload) -> list[Event]:
    """The events without marks in page tables, whose places among loads the hooks do not know."""
    return [event for event in workload.events if not isinstance(event, Store) or event.address < BASE + TABLES]


def _last_marks(workload: Workload) -> dict[int, bytes]:
    stores = (event for event in workload.events if isinstance(event, Store) and event.address >= BASE + TABLES)
    return {store.address: store.data for store in stores}
