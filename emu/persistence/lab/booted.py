"""A Linux machine that has booted, kept in a file: who starts there need not boot, in this process or another one.

A kernel's boot is most of what a short program costs. So it is done once; what it left in RAM is a file that machines
map privately, and share as long as they do not change it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from emu import board
from emu.config import MachineConfig, RunOptions
from emu.errors import HostError
from emu.machine import Machine
from emu.state import SavedState
from emu.units import MIB

_PIECE = 1 * MIB
_RAM = "pc.ram"


class Booted(NamedTuple):
    """The state of CPU and devices, and the path of a file with what RAM holds; it lives as long as its folder."""

    states: Mapping[str, SavedState]
    ram: str

    def machine(self, config: MachineConfig, outputs: board.Outputs, options: RunOptions) -> Machine:
        """A machine that stands there, with the NVDIMMs of ``config``, which are not part of it."""
        machine = board.build(config, outputs, options, ram=self.ram)
        try:
            machine.restore(self.states)
        except BaseException:
            machine.close()
            raise
        return machine


def keep(machine: Machine, folder: Path) -> Booted:
    """Keep where ``machine`` stands, between two slices. HostError where there is no room in ``folder``."""
    path = folder / "ram"
    (ram,) = (backend for backend in machine.backends if backend.config.id == _RAM)
    write_content(ram.mapping.view, path)
    return Booted(machine.save(), str(path))


def write_content(view: memoryview, path: Path) -> None:
    """Write ``view`` to a new file that has room for what is not zero only. HostError where it has none."""
    zeros = bytes(_PIECE)
    try:
        with path.open("wb") as file:
            file.truncate(len(view))
            for at in range(0, len(view), _PIECE):
                piece = view[at : at + _PIECE]
                if piece != zeros[: len(piece)]:
                    file.seek(at)
                    file.write(piece)
    except OSError as error:
        raise HostError(
            f"cannot keep what the guest's memory holds: {error.strerror} ({path.parent})",
            "make room there, or name another folder in TMPDIR",
        ) from None
