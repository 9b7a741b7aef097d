"""What the monitor needs of a machine and of a migration. All methods may be called from the monitor's thread.

``emu.monitor.machine_control`` makes a MachineControl of a real Machine; the migration room's MigrationControl is a
MigrationService; tests make both of plain values. Whatever they refuse is an EmuError, and then nothing has changed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol
from uuid import UUID

from emu.config import BackendConfig, NvdimmConfig
from emu.host.claims import Claims


@dataclass(frozen=True, slots=True)
class BackendView:
    """A memory backend: its configuration as it is now, its size in bytes, and whether a device uses it."""

    config: BackendConfig
    size: int
    busy: bool


@dataclass(frozen=True, slots=True)
class NvdimmView:
    """A plugged NVDIMM. ``size`` is what the guest sees, in bytes; ``memdev`` the id of its backend."""

    id: str | None
    addr: int
    size: int
    slot: int
    node: int
    memdev: str
    label_size: int
    uuid: UUID
    unarmed: bool
    hotplugged: bool


class MachineControl(Protocol):
    """A running machine, as the monitor sees it."""

    def status(self) -> str:
        """QEMU's run state: "running", "paused", "prelaunch", "inmigrate", "postmigrate", ..."""

    def stop(self) -> None:
        """Stop the guest; returns when it stands still."""

    def cont(self) -> None:
        """Let the guest run."""

    def reset(self) -> None: ...

    def press_power_button(self) -> None:
        """Ask the guest to shut down (ACPI power button)."""

    def quit(self) -> None:
        """End the machine; returns when it has said so, or does not for a while."""

    def thread_id(self) -> int:
        """The kernel's id of the thread that runs the guest, 0 when none does."""

    def properties(self) -> Mapping[str, Any]:
        """What the machine itself is, by QEMU's names ("ram-size", "nvdimm", "nvdimm-persistence")."""

    def devices(self) -> Mapping[str, Mapping[str, object]]:
        """Every device but the NVDIMMs with what it shows of itself."""

    def claims(self) -> Claims:
        """The files of the machine: none of them may become an output of anything else."""

    def backends(self) -> Sequence[BackendView]:
        """Every memory backend, in the order in which they were made."""

    def nvdimms(self) -> Sequence[NvdimmView]:
        """Every NVDIMM, by address."""

    def persistence(self) -> Sequence[Mapping[str, Any]]:
        """What each NVDIMM truly guarantees: the items of ``nvdimms`` in emu.run/1."""

    def set_backend_property(self, backend_id: str, name: str, value: Any) -> None:
        """Change a property of a backend, or refuse in QEMU's words because it is frozen."""

    def add_backend(self, config: BackendConfig) -> None: ...

    def remove_backend(self, backend_id: str) -> None:
        """Give up a backend that no device uses."""

    def plug(self, config: NvdimmConfig) -> None:
        """Plug an NVDIMM on the existing backend ``config.backend`` while the guest runs, and tell the guest."""

    def with_memory(self, address: int, size: int, use: Callable[[Iterator[bytes]], None], *, virtual: bool) -> None:
        """Call ``use`` with guest memory in pieces while the guest stands still.

        An EmuError instead unless all of the memory exists. ``virtual`` addresses are those of the guest's current
        address space. What ``use`` raises comes through.
        """


class MigrationService(Protocol):
    """Migration, outgoing and incoming; capabilities and parameters under QEMU's names."""

    def start(self, uri: str) -> None:
        """Begin an outgoing migration; does not wait for it."""

    def incoming(self, uri: str) -> None:
        """Listen for an incoming migration (``-incoming defer``); does not wait for it."""

    def cancel(self) -> None: ...

    def continue_(self) -> None:
        """Go on after the pause before the switch-over."""

    def query(self) -> dict[str, Any]:
        """query-migrate's answer."""

    def capabilities(self) -> list[dict[str, Any]]:
        """query-migrate-capabilities' answer: [{"capability": name, "state": bool}, ...]."""

    def set_capabilities(self, states: Mapping[str, bool]) -> None:
        """All or none of them."""

    def parameters(self) -> dict[str, Any]:
        """query-migrate-parameters' answer."""

    def set_parameters(self, values: Mapping[str, Any]) -> None:
        """All or none of them."""

    def take_back(self, *, force: bool) -> None:
        """Called before a stopped machine is told to run: an EmuError when it may live elsewhere now.

        ``force`` says that the user has made sure that it does not; it never brings back what was surely handed over.
        """


@dataclass(frozen=True, slots=True)
class Control:
    """Everything that commands act on. ``migration`` is None where the machine cannot migrate."""

    machine: MachineControl
    migration: MigrationService | None = None
