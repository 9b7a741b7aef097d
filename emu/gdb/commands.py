"""What ``monitor COMMAND`` can say and do."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from emu.errors import UsageError
from emu.gdb.target import Target
from emu.units import human_size
from emu.words import printable


class Command(NamedTuple):
    """``run(words)`` gives what is said to the user."""

    usage: str
    summary: str
    run: Callable[[list[str]], str]


class Commands:
    """The commands for one machine."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._commands: dict[str, Command] = {}
        self.add("help", Command("help", "say what there is", lambda words: self._help()))
        self.add("nvdimm", Command("nvdimm", "the NVDIMMs: where they are and what survives", self._nvdimm))
        self.add("reset", Command("reset", "press the reset button", self._reset))

    def add(self, name: str, command: Command) -> None:
        self._commands[name] = command

    def execute(self, line: str) -> str:
        """What ``line`` says, with a line end; UsageError for no command."""
        words = line.split()
        command = self._commands.get(words[0]) if words else self._commands["help"]
        if command is None:
            raise UsageError(f"there is no command '{printable(words[0], 32)}'", "try 'monitor help'")
        return command.run(words[1:]).rstrip("\n") + "\n"

    def _help(self) -> str:
        wide = max(len(command.usage) for command in self._commands.values())
        return "\n".join(f"monitor {command.usage:{wide}}  {command.summary}" for command in self._commands.values())

    def _reset(self, words: list[str]) -> str:
        self._target.reset()
        return f"the guest stands at its first instruction again; {STALE}"

    def _nvdimm(self, words: list[str]) -> str:
        return "\n".join(self._target.call(self._describe)) or "this machine has no NVDIMM"

    def _describe(self) -> list[str]:
        lines = []
        for dimm in self._target.machine.nvdimms:
            facts, slot = dimm.describe(), dimm.device.slot
            first, last = facts["gpa"], facts["gpa"] + facts["size"] - 1
            survives = [words for key, words in SURVIVES.items() if facts["survives"][key]] or ["nothing"]
            lines.append(
                f"{facts['id'] or f'nvdimm{slot}'}: {human_size(facts['size'])} at physical "
                f"{first:#x} to {last:#x}, {facts['file'] or 'memory of the host, no file'}"
            )
            lines.append(f"  sync={'on' if facts['sync']['effective'] else 'off'}: {facts['sync']['why']}")
            lines.append(f"  survives {', '.join(survives)}")
        return lines


STALE = "'maintenance flush register-cache' shows it to gdb"

SURVIVES = {
    "guest_crash": "a guest crash",
    "emulator_kill": "kill -9 of emu",
    "host_power_loss": "a host power loss",
}
