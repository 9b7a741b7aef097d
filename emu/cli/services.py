"""What a running machine offers besides running: QMP sockets, and migration in both directions."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from emu.cli import output
from emu.hints import TYPE_CHECKING

if TYPE_CHECKING:
    from emu.machine import Machine


def offer(stack: contextlib.ExitStack, machine: Machine, *, qmp: Sequence[str], quiet: bool) -> None:
    """Open the sockets ``qmp`` and begin to wait for the machine's incoming migration.

    ``stack`` ends both before the machine is closed.
    """
    incoming = machine.options.incoming
    if not qmp and incoming is None:
        return
    from emu.machine import RunState
    from emu.migration.controller import MigrationControl
    from emu.monitor.control import Control
    from emu.monitor.events import EventQueue
    from emu.monitor.machine_control import MachineAdapter
    from emu.monitor.server import start

    events = EventQueue()
    migration = MigrationControl(machine, events.emit)
    if incoming == "defer":
        machine.pause(RunState.INMIGRATE)
    elif incoming is not None:
        stack.callback(migration.finish)
        migration.incoming(incoming)
        if not quiet:
            output.note(f"emu: waiting for a migration at {migration.waits_at}")
    if qmp:
        control = Control(MachineAdapter(machine, events), migration)
        stack.callback(start(qmp, control, events).finish)
    # Last in, first out: what a migration says when it is ended here still reaches the monitor's clients.
    stack.callback(migration.finish)
