"""The options that describe a machine, shared by every verb that builds one: words -> MachineConfig.

Both spellings end in the same place: emu's short ``--nvdimm file=...`` and QEMU's ``-object``/``-device``/``-machine``.
"""

from __future__ import annotations

import argparse
import os
import re
from dataclasses import replace
from typing import Any

from emu.cli import keyval
from emu.cli.keyval import Key, choice, number, on_off, on_off_auto, size, words
from emu.config import (
    BackendConfig,
    BackendKind,
    Clock,
    MachineConfig,
    NvdimmConfig,
    OnOffAuto,
    PersistenceDomain,
    Policy,
)
from emu.errors import UsageError
from emu.units import GIB, MIB, PAGE, align_up

_DEFAULT_RAM = 128 * MIB
_MAX_SLOTS = 256
_MAX_RAM = 64 * GIB

_COMMON_BACKEND = {
    "size": Key(size, "SIZE", "bytes of the backend; default: the file's own size"),
    "share": Key(on_off, "on|off", "map shared (stores reach the file) or private"),
    "merge": Key(on_off, "on|off", "let the host merge equal pages (KSM)"),
    "dump": Key(on_off, "on|off", "include the memory in host core dumps"),
    "prealloc": Key(on_off, "on|off", "allocate every block before the guest starts"),
    "prealloc-threads": Key(number(1, 1024), "N", "threads that allocate the blocks"),
    "reserve": Key(on_off, "on|off", "reserve swap space for private memory"),
    "host-nodes": Key(number(0, 1023), "N", "host NUMA nodes; a list: host-nodes.0=0,host-nodes.1=1", listed=True),
    "policy": Key(choice(Policy), "default|preferred|bind|interleave", "host NUMA policy"),
}
_FILE_BACKEND = {
    "sync": Key(
        choice(OnOffAuto), "auto|on|off", "map with MAP_SYNC: consistent file-system metadata for every guest write"
    ),
    "pmem": Key(on_off, "on|off", "the file is on persistent memory (QEMU's word; the mapping decides what is true)"),
    "align": Key(size, "SIZE", "alignment of the mapping; a power of two, at least a page"),
    "offset": Key(size, "SIZE", "where in the file the backend starts; a multiple of the page size"),
    "readonly": Key(on_off, "on|off", "open the file read-only; needs unarmed=on unless rom=off"),
    "rom": Key(choice(OnOffAuto), "auto|on|off", "drop guest stores; auto follows readonly"),
    "discard-data": Key(
        on_off, "on|off", "throw the content away at exit; on a shared file also say discard-shared=on"
    ),
    "discard-shared": Key(on_off, "on|off", "consent that discard-data zeroes the shared file"),
    "share-lock": Key(on_off, "on|off", "allow another emu that says the same to use the file at the same time"),
}
_DEVICE = {
    "id": Key(words, "ID", "name of the device"),
    "label-size": Key(size, "SIZE", "label storage area at the end of the backend; at least 128K"),
    "unarmed": Key(
        on_off_auto, "off|on|auto", "tell the guest not to rely on persistence; auto arms what keeps its promise"
    ),
    "uuid": Key(words, "UUID", "identity of the NVDIMM"),
    "slot": Key(number(0, _MAX_SLOTS - 1), "N", "slot number; default: first free"),
    "addr": Key(size, "ADDRESS", "guest physical address; default: first fit"),
    "node": Key(number(0, 1023), "N", "guest NUMA node"),
}
NVDIMM_KEYS: dict[str, Key] = {
    "file": Key(words, "PATH", "backing file or /dev/daxX.Y; created when missing and size is given"),
    "mem-path": Key(words, "PATH", "same as file"),
    **_COMMON_BACKEND,
    **_FILE_BACKEND,
    **_DEVICE,
}
OBJECT_KEYS: dict[str, Key] = {
    "qom-type": Key(choice(BackendKind), "memory-backend-file|memory-backend-ram", "kind of backend"),
    "id": Key(words, "ID", "name that -device memdev= uses"),
    "mem-path": Key(words, "PATH", "backing file"),
    **_COMMON_BACKEND,
    **_FILE_BACKEND,
}
DEVICE_KEYS: dict[str, Key] = {
    "driver": Key(words, "nvdimm|isa-debug-exit|isa-debugcon", "device type"),
    "memdev": Key(words, "ID", "the -object that backs the NVDIMM"),
    "iobase": Key(number(0, 0xFFFF), "PORT", "first port of isa-debug-exit"),
    "iosize": Key(number(1, 4), "N", "number of ports of isa-debug-exit"),
    "chardev": Key(words, "ID", "accepted for isa-debugcon"),
    **_DEVICE,
}
MACHINE_KEYS: dict[str, Key] = {
    "type": Key(words, "q35|pc", "accepted for QEMU command lines; emu has one board"),
    "nvdimm": Key(on_off, "on|off", "allow NVDIMMs"),
    "nvdimm-persistence": Key(choice(PersistenceDomain), "cpu|mem-ctrl", "what the platform flushes when power fails"),
    "accel": Key(words, "tcg", "accepted for QEMU command lines"),
    "clock": Key(choice(Clock), "virtual|real", "deterministic time, or the host's"),
}
MEMORY_KEYS: dict[str, Key] = {
    "size": Key(size, "SIZE", "RAM; a bare number is MiB, as in QEMU"),
    "slots": Key(number(0, _MAX_SLOTS), "N", "slots for NVDIMMs"),
    "maxmem": Key(size, "SIZE", "RAM plus everything in slots"),
}
NUMA_KEYS: dict[str, Key] = {
    "type": Key(words, "node", "only 'node'"),
    "nodeid": Key(number(0, 127), "N", "number of the node"),
}

_BACKEND_FIELDS = {
    "size": "size", "share": "share", "merge": "merge", "dump": "dump", "prealloc": "prealloc",
    "prealloc-threads": "prealloc_threads", "reserve": "reserve", "host-nodes": "host_nodes", "policy": "policy",
    "sync": "sync", "pmem": "pmem", "align": "align", "offset": "offset", "readonly": "readonly", "rom": "rom",
    "discard-data": "discard_data", "discard-shared": "discard_shared", "share-lock": "share_lock", "mem-path": "path",
}  # fmt: skip
_DEVICE_FIELDS = {
    "id": "id", "label-size": "label_size", "unarmed": "unarmed", "uuid": "uuid", "slot": "slot", "addr": "addr",
    "node": "node",
}  # fmt: skip
_FILE_ONLY = frozenset({*_FILE_BACKEND, "mem-path"})
_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")

DRIVER_KEYS: dict[str, dict[str, Key]] = {
    "nvdimm": {"memdev": DEVICE_KEYS["memdev"], **_DEVICE},
    "isa-debug-exit": {name: DEVICE_KEYS[name] for name in ("iobase", "iosize")},
    "isa-debugcon": {name: DEVICE_KEYS[name] for name in ("iobase", "chardev")},
}
# Options without keys, and what ``help`` says of their values.
PLAIN_WORDS = {
    "cpu": "MODEL: any; there is one CPU model, with CLFLUSHOPT and CLWB",
    "accel": "NAME: any; there is one way to run, as QEMU's tcg",
    "smp": "1: there is one CPU",
    "display": "none: there is no display",
    "nic": "none: there is no network",
    "serial": "stdio|none|file:PATH",
    "debugcon": "stdio|none|file:PATH",
}

HELP_TABLES: dict[str, dict[str, Key]] = {
    "--nvdimm": NVDIMM_KEYS,
    "-object": OBJECT_KEYS,
    "-device": DEVICE_KEYS,
    "-machine": MACHINE_KEYS,
    "-m": MEMORY_KEYS,
    "-numa": NUMA_KEYS,
}


def backend_keys(kind: BackendKind) -> dict[str, Key]:
    """What ``-object`` of this kind takes."""
    return {
        name: key
        for name, key in OBJECT_KEYS.items()
        if name != "qom-type" and (kind is BackendKind.FILE or name not in _FILE_ONLY)
    }


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Every option that describes the machine. QEMU's spellings are accepted with one dash or two."""
    ours = parser.add_argument_group("machine")
    ours.add_argument("--nvdimm", action="append", default=[], metavar="file=PATH[,...]",
                      help="an NVDIMM on a file; repeatable; '--nvdimm help' lists the keys")  # fmt: skip
    ours.add_argument("-m", "--memory", metavar="SIZE[,slots=N,maxmem=SIZE]", help="RAM (default 128M)")
    ours.add_argument("--append", "-append", metavar="TEXT", help="command line for the guest")
    qemu = parser.add_argument_group("QEMU's spellings (a pasted command line works)")
    qemu.add_argument("-machine", "--machine", "-M", action="append", default=[], metavar="q35,nvdimm=on[,...]")
    qemu.add_argument("-object", "--object", action="append", default=[], metavar="memory-backend-file,...")
    qemu.add_argument("-device", "--device", action="append", default=[], metavar="nvdimm,memdev=ID,...")
    qemu.add_argument("-numa", "--numa", action="append", default=[], metavar="node[,nodeid=N]")
    qemu.add_argument("-kernel", "--kernel", metavar="IMAGE", help="same as the IMAGE argument")
    qemu.add_argument("-smp", "--smp", metavar="1", help="accepted; emu has one CPU")
    qemu.add_argument("-cpu", "--cpu", metavar="MODEL", help="accepted; emu has one CPU model")
    qemu.add_argument("-accel", "--accel", metavar="tcg", help="accepted; there is one way to run")
    qemu.add_argument("-nodefaults", "--nodefaults", action="store_true", help="accepted; there are no extra devices")
    qemu.add_argument("-display", "--display", metavar="none", help="accepted; there is no display")
    qemu.add_argument("-nographic", "--nographic", action="store_true", help="accepted; there is no display")
    qemu.add_argument("-nic", "--nic", metavar="none", help="accepted; there is no network")


def machine_config(options: argparse.Namespace, image: str | None) -> MachineConfig:
    """The MachineConfig that the parsed ``options`` describe; UsageError for anything that does not fit together."""
    machine = _merge(options.machine, MACHINE_KEYS, "-machine", "type")
    if "type" in machine and not re.fullmatch(r"(pc|q35|none)(-.*)?", machine["type"]):
        raise UsageError(f"-machine: unsupported machine type '{machine['type'][:64]}'", "use q35")
    if options.smp is not None and not re.fullmatch(r"(cpus=)?1(,.*)?", options.smp):
        raise UsageError(f"-smp {options.smp[:64]}: emu has one CPU", "leave -smp away, or write -smp 1")
    memory = _memory(options.memory)
    backends = _backends(options.object)
    nvdimms = [_short_nvdimm(text, place) for place, text in enumerate(options.nvdimm)]
    exit_ports: list[tuple[int, int]] = []
    used: set[str] = set()
    for text in options.device:
        device = keyval.parse(text, DEVICE_KEYS, option="-device", implied="driver", short=True)
        driver = device.pop("driver", None)
        if driver == "nvdimm":
            nvdimms.append(_long_nvdimm(device, backends, used))
        elif driver == "isa-debug-exit":
            exit_ports.append((device.get("iobase", 0x501), device.get("iosize", 2)))
        elif driver != "isa-debugcon":
            raise UsageError(f"-device: '{driver}' is not a device of this machine", "'-device help' lists the devices")
    slots, maximum = memory.get("slots"), memory.get("maxmem")
    ram = memory.get("size", _DEFAULT_RAM)
    if options.nvdimm and slots is None:
        slots = max(len(nvdimms), *(dimm.slot + 1 for dimm in nvdimms if dimm.slot is not None), 1)
    nodes = len(options.numa)
    for text in options.numa:
        if keyval.parse(text, NUMA_KEYS, option="-numa", implied="type").get("type") != "node":
            raise UsageError(f"-numa {text[:64]}: only 'node' is known", "write -numa node")
    return MachineConfig(
        image=image,
        cmdline=options.append or "",
        ram_size=ram,
        slots=slots or 0,
        max_memory=maximum,
        numa_nodes=nodes,
        nvdimm_enabled=machine.get("nvdimm", bool(options.nvdimm)),
        persistence=machine.get("nvdimm-persistence"),
        nvdimms=tuple(nvdimms),
        clock=machine.get("clock", Clock.VIRTUAL),
        exit_ports=tuple(exit_ports) or ((0xF4, 4),),
    )


def resolve_image(name: str) -> str:
    """The path of an image: an existing path wins over the name of a bundled guest."""
    if os.path.exists(name):  # noqa: PTH110 - Path.exists raises for names that no file can have
        return name
    from emu import guest

    found = guest.find(name)
    if found is None:
        raise UsageError(f"no image '{name}'", "give the path of an image, or a name that 'emu guests' lists")
    return str(found.path)


def _merge(texts: list[str], keys: dict[str, Key], option: str, implied: str) -> dict[str, Any]:
    merged: dict[str, Any] = {}
    for text in texts:
        merged.update(keyval.parse(text, keys, option=option, implied=implied))
    return merged


def _memory(text: str | None) -> dict[str, Any]:
    if text is None:
        return {}
    raw = keyval.split(text, option="-m", implied="size")
    if raw.get("size", "").isdigit():
        raw["size"] += "M"  # a bare number after -m is MiB, as QEMU's users expect
    quoted = ",".join(f"{key}={value.replace(',', ',,')}" for key, value in raw.items())
    memory = keyval.parse(quoted, MEMORY_KEYS, option="-m", implied="size")
    ram = memory.get("size", _DEFAULT_RAM)
    if not MIB <= ram <= _MAX_RAM:
        raise UsageError(f"-m: {ram} bytes of RAM is out of range", "give 1M to 64G")
    memory["size"] = align_up(ram, PAGE)
    if memory.get("slots") and "maxmem" not in memory:
        raise UsageError("-m: slots specified but no maxmem", "add maxmem=SIZE (RAM plus everything in slots)")
    if "maxmem" in memory and memory["maxmem"] < ram:
        raise UsageError("-m: maxmem is smaller than the RAM size", "give maxmem at least the RAM size")
    return memory


def _check_uuid(values: dict[str, Any], option: str) -> None:
    if "uuid" in values and not _UUID.fullmatch(values["uuid"]):
        raise UsageError(
            f"{option}: uuid '{values['uuid'][:64]}' is not a UUID", "write it as 8-4-4-4-12 hexadecimal digits"
        )


def _short_nvdimm(text: str, place: int) -> NvdimmConfig:
    values = keyval.parse(text, NVDIMM_KEYS, option="--nvdimm", implied="file", short=True)
    _check_uuid(values, "--nvdimm")
    if "file" in values:
        values["mem-path"] = values.pop("file")
    path = values.get("mem-path", "")
    if not path:
        raise UsageError(
            "--nvdimm: no file given", "write --nvdimm file=PATH[,size=SIZE]; '--nvdimm help' lists the keys"
        )
    name = values.get("id") or f"nvdimm{place}"
    backend = BackendConfig(id=f"{name}-backend" if values.get("id") else f"mem{place}", share=True)
    backend = replace(backend, **_fields(values, _BACKEND_FIELDS))
    return NvdimmConfig(backend=backend, **_fields(values, _DEVICE_FIELDS))


def _backends(texts: list[str]) -> dict[str, BackendConfig]:
    found: dict[str, BackendConfig] = {}
    for text in texts:
        values = keyval.parse(text, OBJECT_KEYS, option="-object", implied="qom-type", short=True)
        kind, name = values.pop("qom-type", None), values.pop("id", None)
        if kind is None:
            raise UsageError(
                "-object: no backend type given", "write -object memory-backend-file,id=...,mem-path=...,size=..."
            )
        if not name:
            raise UsageError("-object: parameter 'id' is missing", "add id=NAME")
        if name in found:
            raise UsageError(f"-object: duplicate id '{name[:64]}'", "give each -object its own id")
        if "size" not in values:
            raise UsageError(f"-object: parameter 'size' of '{name[:64]}' is missing", "add size=SIZE")
        if kind is BackendKind.RAM and (wrong := sorted(_FILE_ONLY & values.keys())):
            raise UsageError(f"-object: invalid parameter '{wrong[0]}'", "memory-backend-ram has no file")
        if kind is BackendKind.FILE and not values.get("mem-path"):
            raise UsageError("-object: parameter 'mem-path' is missing", "add mem-path=PATH")
        found[name] = BackendConfig(id=name, kind=kind, **_fields(values, _BACKEND_FIELDS))
    return found


def _long_nvdimm(values: dict[str, Any], backends: dict[str, BackendConfig], used: set[str]) -> NvdimmConfig:
    _check_uuid(values, "-device nvdimm")
    name = values.get("memdev")
    if not name:
        raise UsageError(
            "-device nvdimm: 'memdev' property must be set", "add memdev=ID of an -object memory-backend-file"
        )
    if name not in backends:
        raise UsageError(
            f"-device nvdimm: no memory backend '{name[:64]}'", "define it with -object memory-backend-file,id=..."
        )
    if name in used:
        raise UsageError(f"-device nvdimm: cannot use busy memdev: {name[:64]}", "give each NVDIMM its own -object")
    used.add(name)
    return NvdimmConfig(backend=backends[name], **_fields(values, _DEVICE_FIELDS))


def _fields(values: dict[str, Any], names: dict[str, str]) -> dict[str, Any]:
    return {names[key]: value for key, value in values.items() if key in names}
