"""Records what a running guest does to its NVDIMMs as the events of the persistence model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from devices.contract import ExitRequest
from emu.cpu.sites import SiteKind, find_sites
from emu.errors import Status, UsageError
from emu.host import trace
from emu.host.trace import Entry, Tracer
from emu.machine import Machine
from emu.persistence.events import Event, Fence, FenceKind, Flush, FlushKind, Store

TRACE_FULL, TRACE_BUDGET = "trace-full", "instruction-budget"
"""Reasons of an ``Exit`` made here: the log is full; the guest ran longer than it was allowed to."""

OnStop = Callable[[int], None]

_FLUSHES = dict(enumerate(FlushKind))
_FENCES = dict(enumerate(FenceKind))
# Plain numbers: an IntFlag costs a microsecond for each use, and this is used for each store.
_NON_TEMPORAL, _LOCKED = int(SiteKind.NON_TEMPORAL), int(SiteKind.LOCKED)
_MASKS = [(1 << 8 * size) - 1 for size in range(17)]


def spans(machine: Machine) -> list[tuple[int, int]]:
    """First and last guest-physical address of each NVDIMM; UsageError if there is none."""
    found = [(dimm.device.gpa, dimm.device.gpa + dimm.device.size - 1) for dimm in machine.nvdimms]
    if not found:
        raise UsageError("the machine has no NVDIMM", "give one: --nvdimm file=PATH,size=64M")
    return found


def open_tracer(machine: Machine, *, log_limit: int = 1 << 22) -> Tracer:
    """A tracer for the machine's CPU that ends the run when the log is full or the budget of blocks is used up."""
    functions = {name: machine.cpu.uc_function(f"uc_{name}") for name in trace.FUNCTIONS}
    tracer = Tracer(machine.cpu.engine, functions, log_limit=log_limit)

    def look_at_code(address: int, size: int) -> None:
        code = machine.cpu.read_linear(address, size)
        tracer.set_sites(address, size, find_sites(code, address, machine.cpu.mode))

    def stop(why: int) -> None:
        if why == trace.FULL:
            detail = f"the guest made more than {tracer.log_limit} stores, flushes and fences"
            machine.end(ExitRequest(TRACE_FULL, Status.TIMEOUT, None, detail))
        elif why == trace.BUDGET:
            detail = f"the guest was still running after {tracer.blocks} basic blocks"
            machine.end(ExitRequest(TRACE_BUDGET, Status.TIMEOUT, None, detail))

    tracer.on_new_block = look_at_code
    tracer.on_stop = stop
    tracer.on_failure = machine.cpu.request_stop
    for region in machine.memory.regions:
        tracer.add_region(region.gpa, region.size, region.host_address)
    ranges = spans(machine)
    base = min(first for first, _ in ranges)
    tracer.cover(base, max(last for _, last in ranges) + 1 - base)
    return tracer


def numbered_events(entries: Iterable[Entry]) -> Iterator[tuple[int, Event]]:
    """The log as events, each with the position of its first entry: the pieces of one instruction's store are joined,
    a compare-and-swap that failed has no store.
    """
    failed = -1
    first, pieces = 0, list[Entry]()
    for number, entry in enumerate(entries):
        if pieces and (entry.kind != trace.STORE or entry.instance != pieces[0].instance):
            yield from ((first, store) for store in _join(pieces))
            pieces = []
        if entry.kind == trace.FLUSH:
            yield number, Flush(entry.address, _FLUSHES[entry.detail], entry.pc)
        elif entry.kind == trace.FENCE:
            if entry.value:
                failed = entry.instance
            yield number, Fence(_FENCES[entry.detail], bool(entry.value), entry.pc)
        elif entry.instance != failed:
            first = first if pieces else number
            pieces.append(entry)
    if pieces:
        yield from ((first, store) for store in _join(pieces))


def events(entries: Iterable[Entry]) -> Iterator[Event]:
    """The log as events of the model."""
    return (event for _, event in numbered_events(entries))


def _join(pieces: list[Entry]) -> Iterator[Store]:
    """One store for each run of adjacent pieces."""
    first = pieces[0]
    nt, locked = bool(first.site & _NON_TEMPORAL), bool(first.site & _LOCKED)
    if len(pieces) == 1:
        yield Store(
            first.address, (first.value & _MASKS[first.size]).to_bytes(first.size, "little"), nt, locked, first.pc
        )
        return
    if pieces[-1].address < first.address:
        pieces = pieces[::-1]  # a string instruction that counts down
    start, data = pieces[0].address, bytearray()
    for piece in pieces:
        if piece.address != start + len(data):
            yield Store(start, bytes(data), nt, locked, first.pc)
            start, data = piece.address, bytearray()
        data += (piece.value & _MASKS[piece.size]).to_bytes(piece.size, "little")
    yield Store(start, bytes(data), nt, locked, first.pc)
