"""A Machine as the monitor sees it: the MachineControl of a real one.

Whatever touches the machine runs in the machine's own thread, between two slices of guest execution (``Machine.call``).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from emu.config import BackendConfig, NvdimmConfig
from emu.devices.contract import ExitRequest
from emu.devices.power import Power
from emu.errors import EmuError, Status, UsageError
from emu.host.claims import Claims, claim_memory
from emu.machine import Machine, RunState
from emu.memory import open_backend
from emu.memory.incomplete import check_not_incomplete
from emu.monitor.control import BackendView, NvdimmView
from emu.monitor.events import EventQueue
from emu.parts import PluggedNvdimm
from emu.units import GIB, MIB, PAGE

_PIECE = MIB
# Each page of virtual memory is looked up in the guest's page tables, and the guest stands still meanwhile.
_MOST_VIRTUAL = GIB
# How long a command waits for the machine to carry it out, so that its event comes before its answer, as in QEMU. A
# machine that takes longer (its output blocks) is told of and answered for anyhow.
_EVENT_S = 2.0
_OUR_RESET = "host-qmp-system-reset"
_PANICS = ("panic", "triple-fault", "exception")
# QEMU's ShutdownCause for the reasons of emu's Exit; whatever else ends a machine is the host's doing.
_CAUSES = {
    "power-off": "guest-shutdown",
    "exit-port": "guest-shutdown",
    "halt": "guest-shutdown",
    **dict.fromkeys(_PANICS, "guest-panic"),
    "quit": "host-qmp-quit",
    "migrated": "host-qmp-quit",
    "interrupted": "host-signal",
    "timeout": "host-signal",
}


class MachineAdapter:
    """The MachineControl of ``machine``; it also puts the machine's events into ``events``."""

    def __init__(self, machine: Machine, events: EventQueue) -> None:
        self._machine = machine
        self._events = events
        self._ended = threading.Event()
        self._reset_done = threading.Event()
        machine.observers.append(self)

    # -- events -----------------------------------------------------------------------------------------------------

    def machine_event(self, name: str, data: Mapping[str, Any]) -> None:
        """Called by the machine, in its thread: its events under QEMU's names and causes."""
        if name == "RESET":
            self._emit_caused("RESET", data["cause"])
            if data["cause"] == _OUR_RESET:
                self._events.fence()
                self._reset_done.set()
        elif name == "SHUTDOWN":
            reason = str(data.get("reason", ""))
            if reason in _PANICS:
                ended = self._machine.exit
                detail = {"x-emu-detail": ended.detail} if ended is not None and ended.detail else {}
                self._events.emit("GUEST_PANICKED", {"action": "poweroff"} | detail)
            self._emit_caused("SHUTDOWN", data["cause"] or _CAUSES.get(reason, "host-error"))
            self._ended.set()
            self._reset_done.set()
        else:
            self._events.emit(name, data)

    def _emit_caused(self, name: str, cause: str) -> None:
        self._events.emit(name, {"guest": cause.startswith("guest"), "reason": cause})

    # -- life -------------------------------------------------------------------------------------------------------

    def status(self) -> str:
        return str(self._machine.state)

    def stop(self) -> None:
        def stop() -> None:
            if not self._machine.paused:
                # A client may be faster than the machine's thread: then it stops what has not booted yet.
                early = self._machine.state is RunState.PRELAUNCH
                self._machine.pause(RunState.PRELAUNCH if early else RunState.PAUSED)

        self._machine.call(stop)

    def cont(self) -> None:
        def cont() -> None:
            if self._machine.state is RunState.PRELAUNCH:
                self._machine.boot()  # for the same reason
            self._machine.resume()
            self._events.fence()

        self._machine.call(cont)

    def reset(self) -> None:
        if not self._machine.firmware.bootable:
            raise UsageError("this machine has no image to boot again", "it came from a migration; start it anew")

        self._reset_done.clear()
        self._machine.reset(_OUR_RESET)
        self._reset_done.wait(_EVENT_S)

    def press_power_button(self) -> None:
        def press() -> None:
            power = self._machine.devices.get("power")
            if not isinstance(power, Power):
                raise EmuError("this machine has no power button")
            self._events.emit("POWERDOWN")
            power.press_power_button()
            self._events.fence()

        self._machine.call(press)

    def quit(self) -> None:
        self._machine.end(ExitRequest("quit", Status.OK))
        self._ended.wait(_EVENT_S)

    def thread_id(self) -> int:
        return self._machine.call(threading.get_native_id)

    # -- views ------------------------------------------------------------------------------------------------------

    def properties(self) -> Mapping[str, Any]:
        config = self._machine.config
        return {
            "ram-size": config.ram_size,
            "nvdimm": config.nvdimm_enabled,
            "nvdimm-persistence": str(config.persistence or ""),
            "slots": config.slots,
            "clock": str(config.clock),
            "image": config.image or "",
        }

    def devices(self) -> Mapping[str, Mapping[str, object]]:
        machine = self._machine

        def inspect() -> dict[str, Mapping[str, object]]:
            plugged = {id(nvdimm.device) for nvdimm in machine.nvdimms}
            return {name: device.inspect() for name, device in machine.devices.items() if id(device) not in plugged}

        return machine.call(inspect)

    def backends(self) -> Sequence[BackendView]:
        used = [BackendView(backend.config, backend.mapping.size, True) for backend in self._machine.backends]
        return used + [BackendView(spare.config, spare.mapping.size, False) for spare in self._machine.spares.values()]

    def nvdimms(self) -> Sequence[NvdimmView]:
        return [_view(nvdimm) for nvdimm in sorted(self._machine.nvdimms, key=lambda item: item.device.gpa)]

    def persistence(self) -> Sequence[Mapping[str, Any]]:
        return [nvdimm.describe() for nvdimm in self._machine.nvdimms]

    # -- changes ----------------------------------------------------------------------------------------------------

    def set_backend_property(self, backend_id: str, name: str, value: Any) -> None:
        backend = self._machine.spares.get(backend_id) or next(
            item for item in self._machine.backends if item.config.id == backend_id
        )
        self._machine.call(lambda: backend.set_property(name, value))

    def add_backend(self, config: BackendConfig) -> None:
        if config.path is not None:
            check_not_incomplete(config.path)
            claim_memory(self.claims(), config, "memory")
        self._machine.spares[config.id] = open_backend(config)

    def claims(self) -> Claims:
        return self._machine.claims()

    def remove_backend(self, backend_id: str) -> None:
        self._machine.spares.pop(backend_id).close()

    def plug(self, config: NvdimmConfig) -> None:
        backend = self._machine.spares[config.backend.id]

        def plug() -> None:
            self._machine.slots.plug_backend(replace(config, backend=backend.config), backend, hot=True)

        self._machine.call(plug)
        del self._machine.spares[config.backend.id]

    # -- memory -----------------------------------------------------------------------------------------------------

    def with_memory(self, address: int, size: int, use: Callable[[Iterator[bytes]], None], *, virtual: bool) -> None:
        def read() -> None:
            runs = self._virtual_runs(address, size) if virtual else [(address, size)]
            for start, length in runs:
                self._check_exists(start, length)
            memory = self._machine.memory
            use(
                memory.read(at, min(_PIECE, start + length - at))
                for start, length in runs
                for at in range(start, start + length, _PIECE)
            )

        if size < 0:
            raise EmuError("the size is negative")
        self._machine.call(read)

    def _check_exists(self, start: int, length: int) -> None:
        at = start
        while at < start + length:
            region = self._machine.memory.find(at)
            if region is None:
                raise EmuError(f"there is no memory at physical address {at:#x}")
            at = region.end

    def _virtual_runs(self, address: int, size: int) -> list[tuple[int, int]]:
        """The physical (start, length) runs behind a range of virtual addresses."""
        if size > _MOST_VIRTUAL:
            raise EmuError(f"more than {_MOST_VIRTUAL} bytes of virtual memory at once")
        runs: list[tuple[int, int]] = []
        at, end = address, address + size
        while at < end:
            length = min(PAGE - at % PAGE, end - at)
            physical = self._machine.cpu.translate(at)
            if physical is None:
                raise EmuError(f"virtual address {at:#x} is not mapped")
            if runs and sum(runs[-1]) == physical:
                runs[-1] = (runs[-1][0], runs[-1][1] + length)
            else:
                runs.append((physical, length))
            at += length
        return runs


def _view(nvdimm: PluggedNvdimm) -> NvdimmView:
    device = nvdimm.device
    return NvdimmView(
        id=device.config.id,
        addr=device.gpa,
        size=device.size,
        slot=device.slot,
        node=device.config.node,
        memdev=nvdimm.backend.config.id,
        label_size=device.config.label_size,
        uuid=device.uuid,
        unarmed=device.unarmed,
        hotplugged=nvdimm.hotplugged,
    )
