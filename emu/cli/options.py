"""The options that describe a machine, shared by every verb that builds one: words -> MachineConfig.

Both spellings end in the same place: emu's short ``--nvdimm file=...`` and QEMU's ``-object``/``-device``/``-machine``.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from emu.cli import keyval
from emu.cli.keyval import Key, choice, number, on_off, on_off_auto, size, uuid, words
from emu.config import (
    BACKEND_PROPERTIES,
    MAX_NODES,
    MAX_SLOTS,
    NVDIMM_PROPERTIES,
    BackendConfig,
    BackendKind,
    Clock,
    Kind,
    MachineConfig,
    NvdimmConfig,
    OnOffAuto,
    PersistenceDomain,
    Policy,
    Property,
    backend_properties,
)
from emu.errors import UsageError
from emu.hints import TYPE_CHECKING, Any
from emu.units import PAGE, align_up

if TYPE_CHECKING:
    import argparse

    from emu.cli.plain import PlainWords

# How an option takes a value of each kind, and what the value looks like to a user.
_KINDS: dict[Kind, tuple[Callable[[str, str], Any], str]] = {
    Kind.IDENTIFIER: (words, "ID"),
    Kind.PATH: (words, "PATH"),
    Kind.UUID: (uuid, "UUID"),
    Kind.SIZE: (size, "SIZE"),
    Kind.ADDRESS: (size, "ADDRESS"),
    Kind.FLAG: (on_off, "on|off"),
    Kind.FLAG_OR_AUTO: (on_off_auto, "off|on|auto"),
    Kind.ON_OFF_AUTO: (choice(OnOffAuto), "auto|on|off"),
    Kind.POLICY: (choice(Policy), "|".join(Policy)),
}
_NUMBERS = frozenset({Kind.NUMBER, Kind.SLOT, Kind.NODE, Kind.HOST_NODES})


def _key(row: Property) -> Key:
    parser, shape = (number(row.low, row.high), "N") if row.kind in _NUMBERS else _KINDS[row.kind]
    return Key(parser, shape, row.summary, listed=row.kind is Kind.HOST_NODES, default=_written(row.default))


def _written(value: Any) -> str:
    """A default as one would give it, nothing where it is not one value."""
    if isinstance(value, bool):
        return "on" if value else "off"
    return "" if value in (None, ()) else str(value)


def _short_default(row: Property) -> Any:
    return row.default if row.short is None else row.short


_BACKEND = {row.name: _key(row) for row in BACKEND_PROPERTIES}
_DEVICE = {row.name: _key(row) for row in NVDIMM_PROPERTIES}
NVDIMM_KEYS: dict[str, Key] = {
    "file": _BACKEND["mem-path"],
    "mem-path": _BACKEND["mem-path"]._replace(summary="same as file"),
    **{
        row.name: _BACKEND[row.name]._replace(default=_written(_short_default(row)))
        for row in BACKEND_PROPERTIES
        if row.name != "mem-path"
    },
    **_DEVICE,
}
OBJECT_KEYS: dict[str, Key] = {
    "qom-type": Key(choice(BackendKind), "memory-backend-file|memory-backend-ram", "kind of backend"),
    "id": Key(words, "ID", "name that -device memdev= uses"),
    **_BACKEND,
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
    "slots": Key(number(0, MAX_SLOTS), "N", "slots for NVDIMMs"),
    "maxmem": Key(size, "SIZE", "RAM plus everything in slots"),
}
# The keys of -machine and -m that describe the machine, by the config's fields, which have the defaults.
_MACHINE_FIELDS = {
    "nvdimm": "nvdimm_enabled", "nvdimm-persistence": "persistence", "clock": "clock",
    "size": "ram_size", "slots": "slots", "maxmem": "max_memory",
}  # fmt: skip
NUMA_KEYS: dict[str, Key] = {
    "type": Key(words, "node", "only 'node'"),
    "nodeid": Key(number(0, MAX_NODES - 1), "N", "number of the node"),
}

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
    "serial": "stdio|none|file:PATH|pty|unix:PATH[,server=on][,wait=off]",
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
    return {"id": OBJECT_KEYS["id"], **{row.name: _BACKEND[row.name] for row in backend_properties(kind)}}


def add_arguments(parser: argparse.ArgumentParser | PlainWords) -> None:
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
    qemu.add_argument("-initrd", "--initrd", metavar="FILE",
                      help="initial RAM disk; for Multiboot images modules: 'FILE TEXT,FILE TEXT'")  # fmt: skip
    qemu.add_argument("-smp", "--smp", metavar="1", help="accepted; emu has one CPU")
    qemu.add_argument("-cpu", "--cpu", metavar="MODEL", help="accepted; emu has one CPU model")
    qemu.add_argument("-accel", "--accel", metavar="tcg", help="accepted; there is one way to run")
    qemu.add_argument("-nodefaults", "--nodefaults", action="store_true", help="accepted; there are no extra devices")
    qemu.add_argument("-display", "--display", metavar="none", help="accepted; there is no display")
    qemu.add_argument("-nographic", "--nographic", action="store_true", help="accepted; there is no display")
    qemu.add_argument("-nic", "--nic", metavar="none", help="accepted; there is no network")


def machine_config(options: argparse.Namespace, image: str | None, *, files_needed: bool = True) -> MachineConfig:
    """The MachineConfig that the parsed ``options`` describe; UsageError for anything that does not fit together.

    Without ``files_needed``, an NVDIMM of which only the size is given lies in memory.
    """
    machine = _merge(options.machine, MACHINE_KEYS, "-machine", "type")
    if "type" in machine and machine["type"].partition("-")[0] not in ("pc", "q35", "none"):
        raise UsageError(f"-machine: unsupported machine type '{machine['type'][:64]}'", "use q35")
    if options.smp is not None and options.smp.removeprefix("cpus=").partition(",")[0] != "1":
        raise UsageError(f"-smp {options.smp[:64]}: emu has one CPU", "leave -smp away, or write -smp 1")
    machine.setdefault("nvdimm", bool(options.nvdimm))
    memory = _memory(options.memory)
    backends = _backends(options.object)
    nvdimms = [_short_nvdimm(text, place, files_needed) for place, text in enumerate(options.nvdimm)]
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
    if options.nvdimm and "slots" not in memory:
        memory["slots"] = max(len(nvdimms), *(dimm.slot + 1 for dimm in nvdimms if dimm.slot is not None), 1)
    for text in options.numa:
        if keyval.parse(text, NUMA_KEYS, option="-numa", implied="type").get("type") != "node":
            raise UsageError(f"-numa {text[:64]}: only 'node' is known", "write -numa node")
    given = {_MACHINE_FIELDS[key]: value for key, value in (machine | memory).items() if key in _MACHINE_FIELDS}
    if exit_ports:
        given["exit_ports"] = tuple(exit_ports)
    return MachineConfig(
        image=image,
        initrd=options.initrd,
        cmdline=options.append or "",
        numa_nodes=len(options.numa),
        nvdimms=tuple(nvdimms),
        **given,
    )


def resolve_image(name: str) -> str:
    """The path of an image: an existing path wins over the name of a bundled guest."""
    if os.path.exists(name):  # noqa: PTH110 - Path.exists raises for names that no file can have
        return name
    from emu import guest

    found = guest.find(name)
    if found is None:
        raise UsageError(f"no image '{name}'", "give the path of an image, or a name that 'emu guests' lists")
    return found.place


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
    if "size" in memory:
        memory["size"] = align_up(memory["size"], PAGE)
    if memory.get("slots") and "maxmem" not in memory:
        raise UsageError("-m: slots specified but no maxmem", "add maxmem=SIZE (RAM plus everything in slots)")
    return memory


def _short_nvdimm(text: str, place: int, file_needed: bool) -> NvdimmConfig:
    values = keyval.parse(text, NVDIMM_KEYS, option="--nvdimm", implied="file", short=True)
    if "file" in values:
        values["mem-path"] = values.pop("file")
    kind = BackendKind.FILE
    if "mem-path" not in values and "size" in values and not file_needed:
        kind = BackendKind.RAM
    elif not values.get("mem-path"):
        raise UsageError(
            "--nvdimm: no file given", "write --nvdimm file=PATH[,size=SIZE]; '--nvdimm help' lists the keys"
        )
    rows = backend_properties(kind)
    if wrong := sorted(values.keys() & {row.name for row in BACKEND_PROPERTIES} - {row.name for row in rows}):
        raise UsageError(f"--nvdimm: {wrong[0]} is about a file, and none is given", "add file=PATH")
    name = values.get("id") or f"nvdimm{place}"
    defaults = {row.name: _short_default(row) for row in rows}
    backend = BackendConfig(
        id=f"{name}-backend" if values.get("id") else f"mem{place}", kind=kind, **_fields(rows, defaults | values)
    )
    return NvdimmConfig(backend=backend, **_fields(NVDIMM_PROPERTIES, values))


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
        rows = backend_properties(kind)
        if wrong := sorted(values.keys() - {row.name for row in rows}):
            raise UsageError(f"-object: invalid parameter '{wrong[0]}'", f"{kind} has no file")
        for row in rows:
            if row.required and values.get(row.name, "") == "":
                raise UsageError(
                    f"-object {name[:64]}: parameter '{row.name}' is missing",
                    f"add {row.name}={_BACKEND[row.name].shape}",
                )
        found[name] = BackendConfig(id=name, kind=kind, **_fields(rows, values))
    return found


def _long_nvdimm(values: dict[str, Any], backends: dict[str, BackendConfig], used: set[str]) -> NvdimmConfig:
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
    return NvdimmConfig(backend=backends[name], **_fields(NVDIMM_PROPERTIES, values))


def _fields(rows: tuple[Property, ...], values: dict[str, Any]) -> dict[str, Any]:
    """The config's fields that ``values`` give."""
    return {row.field: values[row.name] for row in rows if row.name in values}
