"""The crash laboratory's eyes inside Unicorn, over ``_trace``.

A ``Tracer`` records what a guest does to its NVDIMM: every store, and the flushes and fences at the instructions that
it was told of. There are two ways to the same log. Translated code writes it itself (``store_log.h``), which costs the
guest little; it depends on Unicorn's insides, so it is tried before (``emu.cpu.store_log``). Or Unicorn's
memory hooks write it, with which every load and store of the guest is slow: where the first way is not open, and to
examine it.

And a tracer stops at reads of bytes that a power failure left in doubt, so that somebody can say what they hold: it
watches their pages (``watched.h``).

Unicorn's register numbers come with the instructions to watch (``emu.cpu.sites``).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple, Protocol

from emu.cpu.engine import _accesses, _translate, library, loader
from emu.cpu.engine._trace import ffi, lib
from emu.cpu.registers import GENERAL
from emu.errors import HostError

if TYPE_CHECKING:
    from emu.cpu.engine._trace import emu_trace, emu_trace_site
    from emu.native import Pointer

STORE, FLUSH, FENCE = lib.EMU_TRACE_STORE, lib.EMU_TRACE_FLUSH, lib.EMU_TRACE_FENCE
SPECIAL, DEVICE = lib.EMU_TRACE_SPECIAL, lib.EMU_TRACE_DEVICE
FULL, BUDGET, BLOCK = lib.EMU_TRACE_FULL, lib.EMU_TRACE_BUDGET, lib.EMU_TRACE_BLOCK
ACCESS = lib.EMU_TRACE_ACCESS

FIRST_MARK = 1 << 31
"""Instances from here on are of no instruction: the processor's own marks in page tables."""

# Unicorn's hook types (unicorn/unicorn.h).
_HOOK_CODE, _HOOK_BLOCK, _HOOK_MEM_WRITE = 4, 8, 1 << 11
# The callbacks, in the order of the table in C.
_ON_SITE, _ON_STORE, _ON_BLOCK = range(3)
_EVERYWHERE = (1, 0)
_SLOTS = {register: slot for slot, register in enumerate(GENERAL.values())}
"""Where the engine's state has a general register, by Unicorn's number."""


class Entry(NamedTuple):
    """One log entry. ``instance`` is equal for the pieces of one store; ``site`` has the bits of ``SiteLike.kind``.

    The ``value`` of a STORE is what it left in memory, in ``size`` bytes; that of a FENCE says whether its
    compare-and-swap failed; that of a DEVICE is its number among those of ``note_device``.
    """

    pc: int
    address: int
    value: int
    instance: int
    size: int
    kind: int
    site: int
    detail: int


Row = tuple[int, int, int, int, int, int, int, int]
"""An ``Entry`` without names."""

# emu_trace_entry, and how many of them lie in a row.
ENTRY = struct.Struct("=QQQIBBBB")
_CHUNK = lib.EMU_TRACE_CHUNK
_READ, _NUMBER = ffi.sizeof("emu_trace_read"), struct.Struct("=Q")
_PAGE = 4096
_NOWHERE = lib.EMU_TRACE_NOWHERE


class SiteLike(Protocol):
    """An instruction to watch, as ``emu.cpu.sites.Site`` describes it."""

    @property
    def pc(self) -> int: ...
    @property
    def kind(self) -> int: ...
    @property
    def size(self) -> int: ...
    @property
    def base(self) -> int: ...
    @property
    def index(self) -> int: ...
    @property
    def scale(self) -> int: ...
    @property
    def displacement(self) -> int: ...
    @property
    def segment(self) -> int: ...
    @property
    def address_mask(self) -> int: ...
    @property
    def linear_mask(self) -> int: ...
    @property
    def detail(self) -> int: ...


class PlacesLike(Protocol):
    """Host addresses of an engine's state, as ``emu.cpu.state.Places`` describes them."""

    @property
    def cpu(self) -> int: ...
    @property
    def state(self) -> int: ...
    @property
    def control(self) -> int: ...
    @property
    def hflags(self) -> int: ...
    @property
    def segment_bases(self) -> tuple[int, ...]: ...


class Tracer:
    """The C side of one engine: hooks, log and the table of unknown bytes. Callbacks run on the engine's thread.

    ``before_hooks()`` is called before hooks are added. ``on_new_block(address, size)`` sees code before it first
    executes; ``find_site(pc)`` is asked what matters about an instruction, if anything, when it is translated;
    ``on_unknown_read(unit, bytes)`` must put these bytes (bit 0 for the first) into memory; ``on_stop(why)`` gets FULL,
    BUDGET, BLOCK or ACCESS; ``next_page(pc, address)`` says where the store by the instruction at ``pc``, whose first
    byte is at guest-physical ``address``, goes on in the next page; None where that is not known. What they raise is
    kept for ``take_failure`` after ``on_failure`` was called, which should stop the engine.
    """

    def __init__(self, engine: int, places: PlacesLike, *, log_limit: int = 1 << 22) -> None:
        loader.bind(ffi, lib.emu_trace_bind, library.load())
        self._t: emu_trace = ffi.new("emu_trace *")
        self._owner = ffi.new_handle(self)
        self._t.owner = self._owner
        if lib.emu_trace_open(self._t, ffi.cast("void *", engine)):
            raise HostError("not enough memory to trace the guest", "close other programs")
        self._t.limit = log_limit
        self._places = places
        state = (ffi.cast("void *", address) for address in (places.state, places.control, places.hflags))
        lib.emu_trace_set_state(self._t, *state)
        for number, base in enumerate(places.segment_bases):
            lib.emu_trace_set_segment(self._t, number, ffi.cast("void *", base))
        self._described: dict[SiteLike, emu_trace_site] = {}
        self._sites: dict[int, tuple[emu_trace_site, int]] = {}
        self._failure: BaseException | None = None
        self.before_hooks: Callable[[], None] = lambda: None
        self.on_new_block: Callable[[int, int], None] = lambda address, size: None
        self.find_site: Callable[[int], SiteLike | None] = lambda pc: None
        self.on_unknown_read: Callable[[int, int], None] = lambda unit, bytes_of_unit: None
        self.on_stop: Callable[[int], None] = lambda why: None
        self._on_new_page: Callable[[int], None] = lambda pc: None
        self.next_page: Callable[[int, int], int | None] = lambda pc, address: address + _PAGE & -_PAGE
        self.on_failure: Callable[[], None] = lambda: None

    def close(self) -> None:
        """Free the log. The engine must be closed first: it still holds the hooks."""
        lib.emu_trace_close(self._t)

    def _hook(
        self, which: int, kind: int, span: tuple[int, int] = _EVERYWHERE, site: emu_trace_site | None = None
    ) -> int:
        handle = ffi.new("uintptr_t *")
        if lib.emu_trace_hook(self._t, handle, which, kind, site or ffi.NULL, *span):
            raise HostError("Unicorn cannot add a hook", "see that unicorn 2.1 is installed whole")
        return int(handle[0])

    def add_region(self, gpa: int, size: int, host: int, *, logged: bool) -> None:
        """Tell where guest memory lies in this process; code can only be looked at there. Stores to those that are
        ``logged`` are.
        """
        if lib.emu_trace_add_region(self._t, gpa, size, ffi.cast("void *", host), logged):
            raise HostError("the guest's memory is in too many pieces to trace", "use fewer NVDIMMs")

    def cover(self, base: int, size: int) -> None:
        """The guest-physical range that holds all NVDIMMs; at most once."""
        if lib.emu_trace_track(self._t, base, size):
            raise HostError("not enough address space to trace the NVDIMM", "use a smaller one")

    def set_initial(self, gpa: int, host: int) -> None:
        """Where in this process the initial content of the logged region at ``gpa`` is kept, whole."""
        lib.emu_trace_set_initial(self._t, gpa, ffi.cast("void *", host))

    def learn_code_generator(self) -> bool:
        """Look up how translated code is made, once for the process; the engine must be the one opened last. Whether
        it is made as it is known here, without which ``record`` uses hooks.
        """
        generator = ffi.cast("void **", _between(_translate.__file__, "emu_last_generator"))[0]
        return bool(lib.emu_trace_learn_generator(self._t, generator))

    def record(self, *, by_hooks: bool) -> bool:
        """Log stores to logged regions, flushes and fences, and say whether translated code does so. Before running.

        With ``by_hooks`` hooks do, and also where another tracer of this process has its log written by code.
        """
        if not by_hooks:
            cpu, state = ffi.cast("void *", self._places.cpu), ffi.cast("void *", self._places.state)
            observed = ffi.cast("void *", _between(_translate.__file__, "emu_observed"))
            if not lib.emu_trace_start_log(self._t, cpu, state, observed):
                return True
        self.before_hooks()
        self._hook(_ON_STORE, _HOOK_MEM_WRITE)
        self._hook(_ON_BLOCK, _HOOK_BLOCK)
        return False

    def watch_pages(self) -> None:
        """Report reads of unknown bytes, by instructions and by page walks: only pages that have such bytes are slow.
        And the first access to the range (``first_access``). Memory that is put back must be made known to the CPU.
        Before running; HostError when too many tracers of this process do so.
        """
        cpu, state = ffi.cast("void *", self._places.cpu), ffi.cast("void *", self._places.state)
        watched = ffi.cast("void *", _between(_accesses.__file__, "emu_watched"))
        if lib.emu_trace_watch(self._t, cpu, state, watched):
            raise HostError("too many recoveries are watched in one process", "run some in processes of their own")

    @property
    def executes(self) -> bool:
        """Whether code in logged memory was translated since ``restore_unknown``: so it is executed."""
        return bool(lib.emu_trace_executes(self._t))

    @property
    def counter(self) -> tuple[int, int, int, int]:
        """For ``Cpu.count_blocks``, which must count where no hook does."""
        count, limit = ffi.addressof(self._t, "blocks"), ffi.addressof(self._t, "next_look")
        places = (count, limit, ffi.addressof(lib, "emu_trace_at_block"), self._t)
        first, second, third, fourth = (int(ffi.cast("uintptr_t", place)) for place in places)
        return first, second, third, fourth

    # Code

    def see_pages(self, on_new_page: Callable[[int], None]) -> None:
        """``on_new_page(pc)`` is called when code of a program (in the lower half of addresses) is about to be
        translated, for each basic block in each of its pages; where translated code writes the log.
        """
        self._on_new_page = on_new_page
        self._t.sees_pages = 1

    def set_sites(self, address: int, size: int, sites: Iterable[SiteLike]) -> None:
        """From ``on_new_block``: these, and no others, are the instructions to watch in this block."""
        wanted = {site.pc: site for site in sites}
        changed = False
        for pc in range(address, address + size):
            known, site = self._sites.get(pc), wanted.get(pc)
            fresh = None if site is None else self._describe(site)
            if known is not None and (fresh is None or bytes(ffi.buffer(known[0])) != bytes(ffi.buffer(fresh))):
                lib.emu_trace_unhook(self._t, known[1])
                del self._sites[pc]
                known, changed = None, True
            if fresh is not None and known is None:
                self._sites[pc] = (fresh, self._hook(_ON_SITE, _HOOK_CODE, (pc, pc), fresh))
                changed = True
        if changed and lib.emu_trace_translate_again(self._t, address, size):
            raise HostError("Unicorn cannot drop translated code", "see that unicorn 2.1 is installed whole")

    def describe_at(self, pc: int) -> emu_trace_site | None:
        """What ``find_site`` says of the instruction at ``pc``, for C; it lives as long as the tracer."""
        site = self.find_site(pc)
        if site is None:
            return None
        if site not in self._described:
            self._described[site] = self._describe(site)
        return self._described[site]

    def _describe(self, site: SiteLike) -> emu_trace_site:
        described: emu_trace_site = ffi.new("emu_trace_site *")
        described.trace = self._t
        for name in ("pc", "size", "base", "index", "scale", "segment", "address_mask", "linear_mask", "detail"):
            setattr(described, name, getattr(site, name))
        described.base_slot, described.index_slot = _SLOTS.get(site.base, -1), _SLOTS.get(site.index, -1)
        described.site = int(site.kind)
        displacement = site.displacement
        described.displacement = displacement - (1 << 64) if displacement >> 63 else displacement
        return described

    # The log

    @property
    def count(self) -> int:
        """Entries in the log."""
        lib.emu_trace_finish(self._t)
        return self._t.count

    def entries(self) -> Iterator[Entry]:
        """The log so far; HostError when memory ran out and it has a gap."""
        return map(Entry._make, self.rows())

    def rows(self) -> Iterator[Row]:
        """As ``entries``, in half the time."""
        self._check_memory()
        count, size = self.count, ffi.sizeof("emu_trace_entry")
        for first in range(0, count, _CHUNK):
            number = min(_CHUNK, count - first)
            yield from ENTRY.iter_unpack(ffi.buffer(lib.emu_trace_at(self._t, first), number * size))

    def log(self) -> bytes:
        """All entries, ``ENTRY`` each."""
        self._check_memory()
        return b"".join(
            bytes(ffi.buffer(lib.emu_trace_at(self._t, first), min(_CHUNK, self.count - first) * ENTRY.size))
            for first in range(0, self.count, _CHUNK)
        )

    def _check_memory(self) -> None:
        if self._t.starved:
            raise HostError("not enough memory for the log of the guest's stores and reads", "close other programs")

    def note_store(self, address: int, data: bytes, pc: int) -> None:
        """``data`` was just stored at guest-physical ``address`` by no instruction, at ``pc``: log it as one store."""
        lib.emu_trace_accessed(self._t, address, len(data), True)
        at = 0
        while at < len(data):
            piece = data[at : at + 8 - (address + at) % 8]  # none crosses a page
            value = int.from_bytes(piece, "little")
            lib.emu_trace_note(self._t, STORE, pc, address + at, value, len(piece), at == 0)
            at += len(piece)

    def note_device(self, number: int, pc: int) -> None:
        """A device did something that the caller knows by ``number``, while the instruction at ``pc`` executed."""
        lib.emu_trace_note(self._t, DEVICE, pc, 0, number, 0, True)

    def note_physical_read(self, address: int, size: int) -> None:
        """Guest memory is about to be read at guest-physical ``address`` by no instruction."""
        lib.emu_trace_accessed(self._t, address, size, False)

    def note_access(self) -> None:
        """A device read or wrote what belongs to a watched range: see ``first_access``."""
        lib.emu_trace_note_access(self._t)

    def retract(self, pc: int) -> None:
        """The instruction at ``pc`` raised a fault: what it was about to do does not count."""
        lib.emu_trace_retract(self._t, pc)

    @property
    def retract_function(self) -> tuple[int, int]:
        """Addresses of a C function and its first argument that do what ``retract`` does."""
        function = ffi.cast("uintptr_t", ffi.addressof(lib, "emu_trace_retract"))
        return int(function), int(ffi.cast("uintptr_t", self._t))

    def clear(self) -> None:
        """Empty the log."""
        lib.emu_trace_clear(self._t)

    @property
    def log_limit(self) -> int:
        """Entries after which ``on_stop(FULL)`` is called, at the next basic block; it may raise the limit. What the
        guest does until it has stopped is logged nevertheless.
        """
        return self._t.limit

    @log_limit.setter
    def log_limit(self, entries: int) -> None:
        self._t.limit = entries

    # Basic blocks

    @property
    def blocks(self) -> int:
        """Basic blocks executed."""
        return self._t.blocks

    @blocks.setter
    def blocks(self, value: int) -> None:
        self._t.blocks = value

    def set_budget(self, blocks: int) -> None:
        """``on_stop(BUDGET)`` at this many blocks, and at each one after it."""
        lib.emu_trace_set_budget(self._t, blocks)

    def await_block(self, until: int) -> None:
        """The budget is used up and the guest stands before a block: ``on_stop(BUDGET)`` only when it comes back there
        with the same general registers, or has executed ``until`` blocks.
        """
        lib.emu_trace_await(self._t, until)

    def stop_at_block(self, block: int) -> None:
        """``on_stop(BLOCK)`` when this block begins; 0 for never."""
        lib.emu_trace_set_stop_block(self._t, block)

    @property
    def first_access(self) -> int:
        """The block that first loaded from or stored to the range, by page walks too; 0 for none yet."""
        return self._t.first_access

    # Unknown bytes

    def set_unknown(self, units: Iterable[int]) -> None:
        """Let exactly these 8-byte units be unknown, whole, and to be asked for."""
        wanted = list(units)
        if lib.emu_trace_set_unknown(self._t, ffi.new("uint64_t[]", wanted), len(wanted)):
            raise HostError("not enough memory to trace the NVDIMM", "close other programs")

    def restore_unknown(self) -> None:
        """A run begins, in which nothing was read or stored to yet: forget all ``reads`` and what was given."""
        lib.emu_trace_restore_unknown(self._t)

    def known(self) -> bytes:
        """The units that were read or stored to in this run, each with the bytes that are unknown for all that (bit 0
        for the first), 8 bytes each; for ``know``.
        """
        units = ffi.new("emu_trace_unit[]", lib.emu_trace_known(self._t, ffi.NULL))
        lib.emu_trace_known(self._t, units)
        return bytes(ffi.buffer(units))

    def know(self, known: bytes) -> None:
        """After ``restore_unknown``: the run goes on from where an earlier one was."""
        units = ffi.cast("emu_trace_unit *", ffi.from_buffer(known))
        if lib.emu_trace_know(self._t, units, len(known) // ffi.sizeof("emu_trace_unit")):
            raise HostError("not enough memory to trace the NVDIMM", "close other programs")

    def ask(self, unit: int, ask: bool) -> None:
        """Whether ``on_unknown_read`` is called for bytes of an unknown unit; if not, what is in memory counts."""
        lib.emu_trace_ask(self._t, unit, ask)

    def give(self, unit: int, bytes_of_unit: int) -> None:
        """Until ``restore_unknown`` do not ask for these bytes of a unit: they are in memory."""
        lib.emu_trace_give(self._t, unit, bytes_of_unit)

    def note_read(self, unit: int, mask: int, value: int) -> None:
        """Bytes that were unknown have been read by no instruction."""
        lib.emu_trace_note_read(self._t, unit, mask, value)

    def reads(self) -> bytes:
        """Every read of unknown bytes since ``restore_unknown``: unit, mask and value, 8 bytes each."""
        self._check_memory()
        return bytes(ffi.buffer(self._t.reads, self._t.read_count * _READ)) if self._t.read_count else b""

    def pauses(self, since: int, distance: int) -> list[tuple[int, int]]:
        """Those of ``reads`` with at least so many blocks before them, since the last one or block ``since``, and which
        are the first of their block: the place in ``reads``, and the block's number.
        """
        numbers, blocks = (ffi.new("uint64_t[]", self._t.read_count) for _ in range(2))
        count = lib.emu_trace_pauses(self._t, since, distance, numbers, blocks)
        return [(int(numbers[n]) * _READ, int(blocks[n])) for n in range(count)]

    def read_entries(self) -> list[int]:
        """For each of ``reads`` the number of log entries made before it."""
        entries = ffi.buffer(self._t.read_entries, 8 * self._t.read_count) if self._t.read_count else b""
        return [number for (number,) in _NUMBER.iter_unpack(bytes(entries))]

    # Failures

    def fail(self, failure: BaseException) -> None:
        if self._failure is None:
            self._failure = failure
        self.on_failure()

    def take_failure(self) -> BaseException | None:
        """What a callback raised, once."""
        failure, self._failure = self._failure, None
        return failure


def _between(module: str, name: str) -> int:
    """The host address of a variable of one of the modules that stand before Unicorn's functions."""
    return loader.Library(module).symbol(name)


def _guarded(owner: Pointer, call: Callable[[Tracer], None]) -> None:
    tracer: Tracer = ffi.from_handle(owner)
    try:
        call(tracer)
    except BaseException as failure:
        tracer.fail(failure)


@ffi.def_extern()
def emu_trace_new_block(owner: Pointer, address: int, size: int) -> None:
    _guarded(owner, lambda tracer: tracer.on_new_block(address, size))


@ffi.def_extern()
def emu_trace_new_instruction(owner: Pointer, pc: int) -> emu_trace_site:
    tracer: Tracer = ffi.from_handle(owner)
    site: emu_trace_site = ffi.NULL
    try:
        site = tracer.describe_at(pc) or site
    except BaseException as failure:
        tracer.fail(failure)
    return site


@ffi.def_extern()
def emu_trace_new_page(owner: Pointer, pc: int) -> None:
    _guarded(owner, lambda tracer: tracer._on_new_page(pc))


@ffi.def_extern()
def emu_trace_unknown_read(owner: Pointer, unit: int, bytes_of_unit: int) -> None:
    _guarded(owner, lambda tracer: tracer.on_unknown_read(unit, bytes_of_unit))


@ffi.def_extern()
def emu_trace_next_page(owner: Pointer, pc: int, address: int) -> int:
    tracer: Tracer = ffi.from_handle(owner)
    try:
        found = tracer.next_page(pc, address)
    except BaseException as failure:
        tracer.fail(failure)
        found = None
    return _NOWHERE if found is None else found


@ffi.def_extern()
def emu_trace_stop(owner: Pointer, why: int) -> None:
    _guarded(owner, lambda tracer: tracer.on_stop(why))
