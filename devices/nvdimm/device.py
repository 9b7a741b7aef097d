"""One NVDIMM: the bytes that the guest sees, the label storage area behind them, and what the NFIT says about both.

Of a backend of S bytes with a label area of L bytes the guest sees [0, P), P being S - L rounded down to the mapping's
alignment; the label area is [S - L, S) and is reached only through _DSM.
"""

from __future__ import annotations

from emu.config import NvdimmConfig, OnOffAuto
from emu.devices.nvdimm import nfit, options
from emu.devices.nvdimm.nfit import NfitEntry
from emu.errors import StateError
from emu.hints import TYPE_CHECKING, Protocol
from emu.state import Apply, Fields, SavedState, nothing

if TYPE_CHECKING:
    from uuid import UUID


class Survives(Protocol):
    """Which crashes the backend's bytes outlive."""

    @property
    def host_power_loss(self) -> bool: ...


class Durability(Protocol):
    """What the mapping guarantees."""

    @property
    def survives(self) -> Survives: ...


class Backing(Protocol):
    """The mapping an NVDIMM lives on (``emu.memory``'s Mapping): bytes, and the one way to make them durable."""

    @property
    def size(self) -> int: ...

    @property
    def alignment(self) -> int: ...

    @property
    def readonly(self) -> bool: ...

    @property
    def view(self) -> memoryview: ...

    @property
    def durability(self) -> Durability: ...

    def persist(self, offset: int, length: int) -> None: ...


class LabelStorage(Protocol):
    """A label storage area: ``size`` bytes that are read, and written in steps that each become durable as a whole.

    Callers stay inside [0, size). ``write`` returns when the data is durable, as far as the medium can promise; what a
    crash in the middle leaves is any part of the data. It raises an EmuError when the medium refuses.
    """

    @property
    def size(self) -> int: ...

    def read(self, offset: int, length: int) -> bytes: ...

    def write(self, offset: int, data: bytes) -> None: ...


class MappedLabels:
    """The label storage area at the end of a mapping."""

    def __init__(self, backing: Backing, size: int) -> None:
        self.size = size
        self._backing = backing
        self._start = backing.size - size

    def read(self, offset: int, length: int) -> bytes:
        start = self._start + offset
        return bytes(self._backing.view[start : start + length])

    def write(self, offset: int, data: bytes) -> None:
        """Durable when it returns, as far as the mapping's ``durability`` says."""
        if not data:
            return
        start = self._start + offset
        self._backing.view[start : start + len(data)] = data
        self._backing.persist(start, len(data))


class NvdimmDevice:
    """An NVDIMM in ``slot`` whose first byte is at the guest physical address ``gpa`` (both from ``placement``).

    ``size`` is what the guest sees, in bytes; ``labels`` is None without a label area. UsageError when config and
    mapping do not fit. The content, labels included, is the mapping's: the device itself has no mutable state.
    """

    def __init__(self, config: NvdimmConfig, backing: Backing, *, gpa: int, slot: int) -> None:
        options.check_label_size(config)
        options.check_unarmed(config)
        self.config = config
        self.gpa = gpa
        self.slot = slot
        self.size = options.pmem_size(config, backing.size, backing.alignment)
        self.drops_stores = config.backend.is_rom or backing.readonly
        self.unarmed = self._is_unarmed(backing)
        self.labels: LabelStorage | None = MappedLabels(backing, config.label_size) if config.label_size else None

    def _is_unarmed(self, backing: Backing) -> bool:
        """``auto`` arms only what keeps its promise: flushed bytes are there again after the host lost power."""
        if self.config.unarmed is OnOffAuto.AUTO:
            return self.drops_stores or not backing.durability.survives.host_power_loss
        return self.config.unarmed is OnOffAuto.ON

    @property
    def handle(self) -> int:
        return nfit.handle(self.slot)

    @property
    def label_size(self) -> int:
        return self.config.label_size

    @property
    def uuid(self) -> UUID:
        from uuid import UUID  # asked for by a monitor, not at every start

        return UUID(self.config.uuid) if self.config.uuid else UUID(int=0)

    @property
    def nfit_entry(self) -> NfitEntry:
        return NfitEntry(self.config.id, self.slot, self.gpa, self.size, self.config.node, self.unarmed)

    def reset(self) -> None:
        """Nothing: what a non-volatile memory holds outlives a reset."""

    def save(self) -> SavedState:
        """The identity only, so that ``parse`` can tell whether it is the same NVDIMM; others move the content."""
        return SavedState("nvdimm", 1, self._identity())

    def parse(self, state: SavedState) -> Apply:
        """Check that ``state`` is this NVDIMM's; StateError names what differs."""
        take = Fields(state, kind="nvdimm", version=1)
        own = self._identity()
        theirs: dict[str, int | bool | str] = {
            name: take.boolean(name)
            if type(value) is bool
            else take.integer(name)
            if isinstance(value, int)
            else take.text(name, 64)
            for name, value in own.items()
        }
        take.finish()
        different = [
            f"{name} {theirs[name]} instead of {value}" for name, value in own.items() if theirs[name] != value
        ]
        if different:
            raise StateError(
                f"saved state is of another {options.label(self.config)}: {', '.join(different)}",
                "give both sides the same size, label-size, slot, addr, node, unarmed and uuid",
            )
        return nothing

    def inspect(self) -> dict[str, object]:
        return {**self._identity(), "handle": self.handle, "serial": nfit.serial_number(self.slot)}

    def _identity(self) -> dict[str, int | bool | str]:
        return {
            "slot": self.slot,
            "gpa": self.gpa,
            "size": self.size,
            "label_size": self.label_size,
            "node": self.config.node,
            "unarmed": self.unarmed,
            "read_only": self.drops_stores,
            "uuid": str(self.uuid),
        }
