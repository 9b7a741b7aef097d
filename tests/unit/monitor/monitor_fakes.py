"""A machine and a migration made of plain values, for tests of the monitor."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any
from uuid import UUID

from emu.config import BackendConfig, BackendKind, NvdimmConfig, OnOffAuto
from emu.errors import EmuError, UsageError
from emu.host.claims import Claims
from emu.memory.properties import FROZEN, check_value
from emu.monitor.commands import execute
from emu.monitor.control import BackendView, Control, NvdimmView
from emu.monitor.errors import QmpError
from emu.monitor.events import EventQueue
from emu.monitor.protocol import Request
from emu.units import GIB, MIB

RAM = BackendConfig(id="pc.ram", kind=BackendKind.RAM, size=MIB)
FILE = BackendConfig(id="m1", path="/nowhere/pmem.img", size=64 * MIB, share=True)
NV1 = NvdimmView("nv1", 4 * GIB, 64 * MIB - 128 * 1024, 0, 0, "m1", 128 * 1024, UUID(int=0), False, False)


class FakeMachine:
    """A MachineControl: guest memory is one MiB from 0, virtual addresses are 0x1000 higher."""

    def __init__(self, events: EventQueue | None = None) -> None:
        self.events = events or EventQueue()
        self.state = "running"
        self.views = [BackendView(RAM, MIB, True), BackendView(FILE, 64 * MIB, True)]
        self.dimms = [NV1]
        self.memory = bytearray(range(256)) * 4096
        self.calls: list[object] = []
        self.quit_seen = threading.Event()

    def status(self) -> str:
        return self.state

    def stop(self) -> None:
        if self.state == "running":
            self.state = "paused"
            self.events.emit("STOP")

    def cont(self) -> None:
        self.state = "running"
        self.events.emit("RESUME")

    def reset(self) -> None:
        self.events.emit("RESET", {"guest": False, "reason": "host-qmp-system-reset"})

    def press_power_button(self) -> None:
        self.events.emit("POWERDOWN")

    def quit(self) -> None:
        self.events.emit("SHUTDOWN", {"guest": False, "reason": "host-qmp-quit"})
        self.quit_seen.set()

    def thread_id(self) -> int:
        return 4711

    def properties(self) -> dict[str, Any]:
        return {"ram-size": MIB, "nvdimm": True}

    def devices(self) -> dict[str, dict[str, object]]:
        return {"com1": {"divisor": 1, "fifo": b"\x01\x02", "levels": (1, 2)}}

    def claims(self) -> Claims:
        claims = Claims()
        for view in self.views:
            if view.config.path is not None:
                claims.reads(view.config.path, "memory", memory=True)
        return claims

    def backends(self) -> list[BackendView]:
        return self.views

    def nvdimms(self) -> list[NvdimmView]:
        return self.dimms

    def persistence(self) -> list[dict[str, Any]]:
        return [
            {"id": "nv1", "file": FILE.path, "size": NV1.size, "label_size": NV1.label_size, "gpa": NV1.addr,
             "slot": 0, "unarmed": False, "sync": {"requested": "auto", "effective": False, "why": "no DAX"},
             "granularity": "page",
             "survives": {"guest_crash": True, "emulator_kill": True, "host_power_loss": False}},
            {"id": None, "file": None, "size": 1, "label_size": 0, "gpa": 0, "slot": 1,
             "unarmed": True, "sync": {"requested": "off", "effective": False, "why": "RAM"}, "granularity": "none",
             "survives": {"guest_crash": True, "emulator_kill": False, "host_power_loss": False}},
        ]  # fmt: skip

    def set_backend_property(self, backend_id: str, name: str, value: Any) -> None:
        index = next(n for n, view in enumerate(self.views) if view.config.id == backend_id)
        config = self.views[index].config
        if name in FROZEN[config.kind]:
            raise UsageError(f"cannot change property '{name}' of {config.kind} '{config.id}'", "it is fixed")
        field, checked = check_value(config.kind, name, value)
        self.views[index] = replace(self.views[index], config=replace(config, **{field: checked}))

    def add_backend(self, config: BackendConfig) -> None:
        assert config.size is not None
        if config.size > 1 << 40:
            raise EmuError("no space", "take less")
        self.views.append(BackendView(config, config.size, False))

    def remove_backend(self, backend_id: str) -> None:
        self.views = [view for view in self.views if view.config.id != backend_id]

    def plug(self, config: NvdimmConfig) -> None:
        assert config.backend.size is not None
        if config.slot is not None and config.slot > 3:
            raise UsageError(f"invalid slot number {config.slot}")
        self.views = [replace(v, busy=True) if v.config.id == config.backend.id else v for v in self.views]
        uuid = UUID(config.uuid or "00000000-0000-0000-0000-000000000000")
        self.dimms = [
            *self.dimms,
            NvdimmView(config.id, 5 * GIB, config.backend.size - config.label_size, 1, config.node, config.backend.id,
                       config.label_size, uuid, config.unarmed is OnOffAuto.ON, True),
        ]  # fmt: skip

    def with_memory(self, address: int, size: int, use: Callable[[Iterator[bytes]], None], *, virtual: bool) -> None:
        start = address - 0x1000 if virtual else address
        if size < 0 or start < 0 or start + size > len(self.memory):
            raise EmuError("there is no memory")
        use(bytes(self.memory[at : min(at + 100, start + size)]) for at in range(start, start + size, 100))


class FakeMigration:
    """A MigrationService that does nothing and remembers everything."""

    def __init__(self) -> None:
        self.answer: dict[str, object] = {}
        self.calls: list[object] = []
        self.flags = {"events": False, "x-ignore-shared": False}
        self.numbers = {"max-bandwidth": 0, "downtime-limit": 300}
        self.lost = False

    def start(self, uri: str) -> None:
        if uri == "unix:/nowhere":
            raise EmuError("cannot connect to unix:/nowhere: no such file", "start the destination first")
        self.calls.append(("start", uri))
        self.answer = {"status": "active"}

    def incoming(self, uri: str) -> None:
        self.calls.append(("incoming", uri))

    def cancel(self) -> None:
        self.calls.append("cancel")
        self.answer = {"status": "cancelled"}

    def continue_(self) -> None:
        self.calls.append("continue")

    def query(self) -> dict[str, Any]:
        return dict(self.answer)

    def capabilities(self) -> list[dict[str, Any]]:
        return [{"capability": name, "state": state} for name, state in self.flags.items()]

    def set_capabilities(self, states: Mapping[str, bool]) -> None:
        if states.keys() - self.flags.keys():
            raise UsageError("there is no such capability")
        self.flags |= states

    def parameters(self) -> dict[str, Any]:
        return dict(self.numbers)

    def set_parameters(self, values: Mapping[str, Any]) -> None:
        self.numbers |= values

    def take_back(self, *, force: bool) -> None:
        self.calls.append(("take_back", force))
        if self.lost and not force:
            raise EmuError("the machine may run at the destination", "look there")


class Shell:
    """Executes commands on fakes without sockets, and gives (class, description) of refusals."""

    def __init__(self, *, migration: bool = True) -> None:
        self.events = EventQueue()
        self.machine = FakeMachine(self.events)
        self.migration = FakeMigration()
        self.control = Control(self.machine, self.migration if migration else None)

    def run(self, command: str, arguments: dict[str, Any] | None = None, /, **more: Any) -> Any:
        words = {name.replace("_", "-"): value for name, value in more.items()}
        return execute(self.control, Request(command, (arguments or {}) | words))

    def refusal(self, command: str, arguments: dict[str, Any] | None = None, /, **more: Any) -> tuple[str, str]:
        try:
            answer = self.run(command, arguments, **more)
        except QmpError as error:
            return error.error_class, error.description
        raise AssertionError(f"{command} was accepted: {answer}")
