"""The _DSM port: a guest writes the address of a page there, the device answers the call that the page holds.

The page's layout, the functions and their statuses are QEMU's (docs/specs/acpi_nvdimm) and Intel's NVDIMM DSM interface
version 1.0. One thing differs on purpose: a label transfer of zero bytes, on which QEMU 7.2 to 10.2 aborts, succeeds.
"""

from __future__ import annotations

from emu.config import PersistenceDomain
from emu.devices.nvdimm import nfit
from emu.devices.nvdimm.device import NvdimmDevice
from emu.devices.nvdimm.dsm_layouts import DSM_PAGE, DsmInput, DsmLabelSize, DsmStatus, DsmTransfer
from emu.devices.nvdimm.ssdt import INTERNAL_HANDLE, ROOT_HANDLE
from emu.errors import EmuError, StateError
from emu.hints import Protocol
from emu.state import Apply, Fields, SavedState

REVISION = 1
READ_FIT = 1
LABEL_SIZE = 4
GET_LABEL_DATA = 5
SET_LABEL_DATA = 6

_LENGTH = 4
_STATUS = 4
_ARGUMENTS = DsmInput.SIZE
_INTERNAL_FUNCTIONS = 1 << 0 | 1 << READ_FIT
_LABEL_FUNCTIONS = 1 << 0 | 1 << LABEL_SIZE | 1 << GET_LABEL_DATA | 1 << SET_LABEL_DATA
_MAX_FIT_READ = DSM_PAGE - _LENGTH - _STATUS
MAX_TRANSFER = min(DSM_PAGE - _LENGTH - _STATUS, DSM_PAGE - _ARGUMENTS - DsmTransfer.SIZE)


class PageMemory(Protocol):
    """Guest physical memory. Both raise an EmuError where there is none (or, for ``write``, none to write)."""

    def read(self, gpa: int, length: int) -> bytes: ...

    def write(self, gpa: int, data: bytes) -> None: ...


def _word(value: int) -> bytes:
    return value.to_bytes(4, "little")


class DsmPort:
    """The 32-bit register of _DSM and the NVDIMMs behind it.

    Only four-byte writes mean something; reads give 0. A page that does not lie wholly in guest memory is ignored, and
    so is one that cannot be written: the guest then finds its own input where it expected an answer.
    """

    width = 4

    def __init__(self, memory: PageMemory, persistence: PersistenceDomain | None = None) -> None:
        self._memory = memory
        self._persistence = persistence
        self._dimms: dict[int, NvdimmDevice] = {}
        self._fit = b""
        self._fit_changed = False

    @property
    def dimms(self) -> tuple[NvdimmDevice, ...]:
        """The plugged NVDIMMs in plug order."""
        return tuple(self._dimms.values())

    @property
    def fit(self) -> bytes:
        """What ``_FIT`` returns: the NFIT's structures."""
        return self._fit

    def plug(self, dimm: NvdimmDevice) -> None:
        """Add ``dimm``; a guest that is reading the FIT is told to start again. ValueError when its slot is taken."""
        if dimm.handle in self._dimms:
            raise ValueError(f"slot {dimm.slot} is taken")
        self._dimms[dimm.handle] = dimm
        self._fit = nfit.fit([item.nfit_entry for item in self.dimms], self._persistence)
        self._fit_changed = True

    def read(self, offset: int, size: int) -> int:
        return 0

    def write(self, offset: int, size: int, value: int) -> None:
        if offset or size != self.width:
            return
        try:
            page = self._memory.read(value, DSM_PAGE)
        except EmuError:
            return
        payload = self.answer(page)
        try:
            self._memory.write(value, _word(_LENGTH + len(payload)) + payload)
        except EmuError:
            return

    def answer(self, page: bytes) -> bytes:
        """The answer to the call in ``page`` (4096 bytes), without its leading length; at most 4092 bytes."""
        call = DsmInput.unpack_from(page)
        arguments = page[_ARGUMENTS:DSM_PAGE]
        if call.revision != REVISION:
            return _word(DsmStatus.NOT_SUPPORTED)
        if call.handle == INTERNAL_HANDLE:
            return self._internal(call.function, arguments)
        if call.handle == ROOT_HANDLE:
            return _word(0) if call.function == 0 else _word(DsmStatus.NOT_SUPPORTED)
        return self._dimm(self._dimms.get(call.handle), call.function, arguments)

    def _internal(self, function: int, arguments: bytes) -> bytes:
        if function == 0:
            return _word(_INTERNAL_FUNCTIONS)
        if function != READ_FIT:
            return _word(DsmStatus.NOT_SUPPORTED)
        offset = int.from_bytes(arguments[:4], "little")
        if offset > len(self._fit):
            return _word(DsmStatus.INVALID)
        if offset == 0:
            self._fit_changed = False
        elif self._fit_changed:
            return _word(DsmStatus.FIT_CHANGED)
        return _word(DsmStatus.SUCCESS) + self._fit[offset : offset + _MAX_FIT_READ]

    def _dimm(self, dimm: NvdimmDevice | None, function: int, arguments: bytes) -> bytes:
        if function == 0:
            return _word(_LABEL_FUNCTIONS if dimm is not None and dimm.labels is not None else 0)
        if dimm is None:
            return _word(DsmStatus.NO_DEVICE)
        if dimm.labels is None or function not in (LABEL_SIZE, GET_LABEL_DATA, SET_LABEL_DATA):
            return _word(DsmStatus.NOT_SUPPORTED)
        if function == LABEL_SIZE:
            return DsmLabelSize(status=DsmStatus.SUCCESS, label_size=dimm.label_size, max_transfer=MAX_TRANSFER).pack()
        transfer = DsmTransfer.unpack_from(arguments)
        if transfer.offset + transfer.length > dimm.label_size or transfer.length > MAX_TRANSFER:
            return _word(DsmStatus.INVALID)
        if function == GET_LABEL_DATA:
            return _word(DsmStatus.SUCCESS) + dimm.labels.read(transfer.offset, transfer.length)
        if dimm.drops_stores:
            return _word(DsmStatus.NOT_SUPPORTED)
        data = arguments[DsmTransfer.SIZE : DsmTransfer.SIZE + transfer.length]
        try:
            dimm.labels.write(transfer.offset, data)
        except EmuError:
            return _word(DsmStatus.HARDWARE_ERROR)
        return _word(DsmStatus.SUCCESS)

    def reset(self) -> None:
        """Nothing: which NVDIMMs are plugged, and whether the guest has seen it, outlives a reset as in QEMU."""

    def save(self) -> SavedState:
        return SavedState("nvdimm-dsm", 1, {"fit_changed": self._fit_changed, "slots": self._slots()})

    def parse(self, state: SavedState) -> Apply:
        take = Fields(state, kind="nvdimm-dsm", version=1)
        changed = take.boolean("fit_changed")
        slots = take.integers("slots", len(self._dimms))
        take.finish()
        if list(slots) != self._slots():
            raise StateError(
                f"saved state has NVDIMMs in the slots {list(slots)}, this machine has them in {self._slots()}",
                "give both sides the same NVDIMMs",
            )

        def apply() -> None:
            self._fit_changed = changed

        return apply

    def inspect(self) -> dict[str, object]:
        return {
            "slots": self._slots(),
            "fit_size": len(self._fit),
            "fit_changed": self._fit_changed,
        }

    def _slots(self) -> list[int]:
        return sorted(dimm.slot for dimm in self.dimms)
