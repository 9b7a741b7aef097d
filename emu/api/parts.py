"""What a machine is asked for: its NVDIMMs, their labels, its ACPI tables."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar

from emu.api.show import card, table
from emu.errors import UsageError
from emu.units import counted, human_size

if TYPE_CHECKING:
    from emu.devices.nvdimm.namespace import Label
    from emu.machine import Machine as Engine
    from emu.parts import PluggedNvdimm

T = TypeVar("T")
_CRASHES = {"guest_crash": "guest crash", "emulator_kill": "kill of emu", "host_power_loss": "host power loss"}


class Look(Protocol):
    """Calls a function between two basic blocks of the guest, as long as the machine is open."""

    def __call__(self, function: Callable[[Engine], T], /) -> T: ...


class Dimm:
    """An NVDIMM in its slot. ``facts`` is its item of ``nvdimms`` in emu.run/1: what its mapping truly guarantees."""

    COLUMNS: ClassVar = ("NVDIMM", "slot", "address", "size", "file", "mapped", "survives")

    def __init__(self, look: Look, plugged: PluggedNvdimm) -> None:
        self._look = look
        self._plugged = plugged
        self.facts: dict[str, Any] = plugged.describe()
        self.slot: int = self.facts["slot"]
        self.id: str = self.facts["id"] or f"nvdimm{self.slot}"
        self.address: int = self.facts["gpa"]
        self.size: int = self.facts["size"]
        self.label_size: int = self.facts["label_size"]

    def read(self, offset: int, length: int) -> bytes:
        """``length`` bytes from ``offset`` of what the guest sees; UsageError when they are not inside."""
        self._check(offset, length)
        return self._look(lambda engine: engine.memory.read(self.address + offset, length))

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        """Store ``data`` at ``offset``: all of it, or UsageError and nothing.

        Durable when: it returns, by the strongest means that the mapping has, against what ``facts["survives"]`` names.
        """
        self._check(offset, len(data))

        def store(engine: Engine) -> None:
            engine.memory.write(self.address + offset, data)
            self._plugged.backend.mapping.persist(offset, len(data))

        self._look(store)

    @property
    def labels(self) -> Labels | None:
        """What the label storage area holds now; None when there is none."""
        storage = self._plugged.device.labels
        if storage is None:
            return None
        return Labels(self._look(lambda _: storage.read(0, storage.size)))

    def _check(self, offset: int, length: int) -> None:
        if not 0 <= offset <= offset + length <= self.size:
            raise UsageError(
                f"{counted(length, 'byte')} at offset {offset:#x}: not inside of {self.id}", f"it has {self.size} bytes"
            )

    def row(self) -> tuple[object, ...]:
        """The cells below ``COLUMNS``."""
        survives = [words for key, words in _CRASHES.items() if self.facts["survives"][key]]
        file = self.facts["file"] or "anonymous memory"
        return (self.id, self.slot, f"{self.address:#x}", human_size(self.size), file, self.facts["sync"]["why"],
                ", ".join(survives) or "nothing")  # fmt: skip

    def __repr__(self) -> str:
        return f"<emu NVDIMM {self.id}: {human_size(self.size)} at {self.address:#x} on {self.facts['file']}>"

    def _repr_html_(self) -> str:
        return card(self.id, zip(self.COLUMNS[1:], self.row()[1:], strict=True))


@dataclass(frozen=True, slots=True)
class Table:
    """An ACPI table as it is in the guest's memory; ``str()`` describes it, field by field."""

    name: str
    data: bytes

    def __bytes__(self) -> bytes:
        return self.data

    def __str__(self) -> str:
        from emu.acpi.parse import describe

        return describe(self.data)

    def __repr__(self) -> str:
        return f"<emu ACPI table {self.name}: {len(self.data)} bytes>"

    def _repr_html_(self) -> str:
        from emu.acpi.parse import decode

        decoded = decode(self.data)
        rows = [
            (structure.title, value.name, value.text) for structure in decoded.structures for value in structure.values
        ]
        facts = [("PROBLEM", problem) for problem in decoded.problems]
        return card(f"{self.name}, {len(self.data)} bytes", facts, table(("structure", "field", "value"), rows))


class Labels:
    """A copy of a label storage area, read: ``valid``, ``problems`` (words), and the ``labels`` of its namespaces."""

    def __init__(self, content: bytes) -> None:
        from emu.devices.nvdimm.labels import BytesLabels, LabelArea, check

        storage = BytesLabels(bytearray(content))
        report = check(storage)
        self.content = content
        self.valid: bool = report.valid
        self.problems: tuple[str, ...] = (*report.errors, *report.warnings)
        self.labels: tuple[Label, ...] = LabelArea(storage).labels() if report.valid else ()

    def __repr__(self) -> str:
        what = counted(len(self.labels), "label") if self.valid else "not valid"
        return f"<emu label area of {human_size(len(self.content))}: {what}>"

    def _repr_html_(self) -> str:
        from emu.devices.nvdimm.namespace import name_of

        rows = [
            (label.slot, name_of(label), label.uuid, f"{label.dpa:#x}", human_size(label.raw_size))
            for label in self.labels
        ]
        facts = [("valid", "yes" if self.valid else "no"), *(("problem", problem) for problem in self.problems)]
        more = [table(("slot", "name", "UUID", "offset", "size"), rows)] if rows else []
        return card(f"label area of {human_size(len(self.content))}", facts, *more)
