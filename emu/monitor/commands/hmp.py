"""A few words of QEMU's human monitor, for people at a qmp-shell: ``human-monitor-command``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from emu.monitor.commands.command import Command
from emu.monitor.commands.memory import nvdimm_information, query_memdev
from emu.monitor.control import Control
from emu.monitor.protocol import VERSION
from emu.monitor.schema import INT, STR, Struct, optional, required
from emu.units import human_size


def _status(control: Control) -> list[str]:
    state = control.machine.status()
    return [f"VM status: {state if state in ('running', 'paused') else f'paused ({state})'}"]


def _memory_devices(control: Control) -> list[str]:
    lines = []
    for nvdimm in control.machine.nvdimms():
        shown = nvdimm_information(nvdimm)
        lines.append(f'Memory device [nvdimm]: "{shown.get("id", "")}"')
        lines.append(f"  addr: {shown['addr']:#x}")
        lines += [f"  {name}: {shown[name]}" for name in ("slot", "node", "size", "memdev")]
        lines += [f"  {name}: {str(shown[name]).lower()}" for name in ("hotplugged", "hotpluggable")]
    return lines


def _memdev(control: Control) -> list[str]:
    lines = []
    for shown in query_memdev(control):
        lines += [f"memory backend: {shown['id']}", f"  size:  {shown['size']}"]
        lines += [f"  {name}: {str(shown[name]).lower()}" for name in ("merge", "dump", "prealloc", "share", "reserve")]
        lines += [f"  policy: {shown['policy']}", f"  host nodes: {' '.join(map(str, shown['host-nodes']))}"]
    return lines


def _persistence(control: Control) -> list[str]:
    lines = []
    for item in control.machine.persistence():
        kept = [name.replace("_", " ") for name, survives in item["survives"].items() if survives]
        name = item["id"] or f"nvdimm in slot {item['slot']}"
        lines.append(f"{name}: {human_size(item['size'])}")
        lines.append(f"  MAP_SYNC: {'on' if item['sync']['effective'] else 'off'} ({item['sync']['why']})")
        lines.append(f"  survives: {', '.join(kept) or 'nothing'}")
    return lines


def _migration(control: Control) -> list[str]:
    if control.migration is None:
        return []
    answer = control.migration.query()
    lines = [f"{name}: {answer[name]}" for name in answer if not isinstance(answer[name], (dict, list))]
    return lines + [f"{name} ram: {value}" for name, value in answer.get("ram", {}).items()]


def _version(control: Control) -> list[str]:
    return [f"{'.'.join(str(part) for part in VERSION['qemu'].values())} ({VERSION['package']})"]


_INFO: dict[str, Callable[[Control], list[str]]] = {
    "status": _status,
    "memory-devices": _memory_devices,
    "memdev": _memdev,
    "migrate": _migration,
    "persistence": _persistence,
    "version": _version,
}


def _run(control: Control, arguments: dict[str, Any]) -> Any:
    words = arguments["command-line"].split()
    if words[:1] == ["info"] and len(words) == 2 and words[1] in _INFO:
        lines = _INFO[words[1]](control)
    elif words in (["help"], ["info"], ["help", "info"]):
        lines = [f"info {name}" for name in sorted(_INFO)]
    else:
        lines = [f"unknown command: '{' '.join(words)[:64]}'"]
    return "".join(f"{line}\r\n" for line in lines)


_ARGUMENTS = Struct("human-monitor-command-arg", (required("command-line", STR), optional("cpu-index", INT)))

COMMANDS = {"human-monitor-command": Command(_run, _ARGUMENTS, STR)}
