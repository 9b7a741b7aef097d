"""What the guest says, on its way out: once only, though a debugger has it executed again."""

from __future__ import annotations

from collections.abc import Callable

from emu.board import Outputs
from emu.devices.contract import Sink
from emu.devices.initport import InitHost


class Gate:
    """Lets out what the guest says, but not a second time when a debugger has it executed again."""

    def __init__(self) -> None:
        self.seen: Callable[[], bool] = lambda: False

    def around(self, outputs: Outputs) -> Outputs:
        """``outputs`` behind the gate."""
        init = None if outputs.init is None else _GatedInit(self, outputs.init)
        serial, debugcon, errors = map(self._sink, (outputs.serial, outputs.debugcon, outputs.errors))
        return outputs._replace(serial=serial, debugcon=debugcon, errors=errors, init=init)

    def _sink(self, sink: Sink) -> Sink:
        def gated(data: bytes) -> None:
            if not self.seen():
                sink(data)

        return gated


class _GatedInit:
    """An ``InitHost`` behind a gate."""

    def __init__(self, gate: Gate, host: InitHost) -> None:
        self._gate = gate
        self._host = host

    def said(self, message: int, argument: int) -> None:
        if not self._gate.seen():
            self._host.said(message, argument)

    def role(self) -> int:
        return self._host.role()
