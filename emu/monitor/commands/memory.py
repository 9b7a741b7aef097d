"""Commands about memory: NVDIMMs, backends, what is persistent, and guest memory into a file."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from emu.config import BackendKind
from emu.errors import EmuError, HostError
from emu.host.files import Kind, Target
from emu.memory.properties import PROPERTIES, as_json
from emu.monitor.commands.command import Command
from emu.monitor.control import Control, NvdimmView
from emu.monitor.errors import QmpError
from emu.monitor.kinds import QMP
from emu.monitor.schema import (
    BOOL,
    INT,
    NOTHING,
    ON_OFF_AUTO,
    STR,
    STR_OR_NULL,
    Array,
    Enum,
    Member,
    Struct,
    optional,
    required,
)

# The properties in QEMU's Memdev.
_OF_MEMDEV = {
    name: PROPERTIES[BackendKind.RAM][name]
    for name in ("merge", "dump", "prealloc", "share", "reserve", "host-nodes", "policy")
}


def nvdimm_information(nvdimm: NvdimmView) -> dict[str, Any]:
    """One NVDIMM as query-memory-devices shows it; ``size`` is without the label area."""
    named = {} if nvdimm.id is None else {"id": nvdimm.id}
    return named | {
        "memdev": f"/objects/{nvdimm.memdev}",
        "addr": nvdimm.addr,
        "size": nvdimm.size,
        "slot": nvdimm.slot,
        "node": nvdimm.node,
        "hotplugged": nvdimm.hotplugged,
        "hotpluggable": True,
    }


def _query_memory_devices(control: Control, arguments: dict[str, Any]) -> Any:
    return [{"type": "nvdimm", "data": nvdimm_information(nvdimm)} for nvdimm in control.machine.nvdimms()]


def query_memdev(control: Control) -> list[dict[str, Any]]:
    """The backends as query-memdev shows them."""
    answer = []
    for backend in control.machine.backends():
        properties = as_json(backend.config)
        answer.append({name: properties[name] for name in ("id", *_OF_MEMDEV)} | {"size": backend.size})
    return answer


def _query_memdev(control: Control, arguments: dict[str, Any]) -> Any:
    return query_memdev(control)


def _query_persistence(control: Control, arguments: dict[str, Any]) -> Any:
    return [dict(item) for item in control.machine.persistence()]


def _save(control: Control, arguments: dict[str, Any], *, virtual: bool) -> Any:
    address, size, filename = arguments["val"], arguments["size"], arguments["filename"]
    if arguments.get("cpu-index", 0) != 0:
        raise QmpError("Parameter 'cpu-index' expects a CPU number")
    if not filename or "\0" in filename:
        raise QmpError("Parameter 'filename' expects a path")
    address &= (1 << 64) - 1  # QMP's integers are signed, addresses are not
    target = _target(control, filename)
    try:
        control.machine.with_memory(address, size, lambda pieces: _write(target, pieces), virtual=virtual)
    except EmuError as error:
        raise QmpError(f"Invalid addr {address:#018x}/size {size} specified; {error.what}") from None
    return {}


def _target(control: Control, filename: str) -> Target:
    """The regular file ``filename``, to be made or replaced. Nothing else: the guest stands still meanwhile, and must
    not wait for whoever reads a FIFO."""
    try:
        target = control.machine.claims().writes(filename, "the dump")
    except EmuError as error:
        # QEMU names the file once.
        why = os.strerror(error.errno) if isinstance(error, HostError) and error.errno else error.what
        raise QmpError(f"Could not open '{filename}': {why}") from None
    if target.kind not in (Kind.NEW, Kind.REGULAR):
        raise QmpError(f"Could not open '{filename}': it is not a regular file")
    return target


def _write(target: Target, pieces: Iterator[bytes]) -> None:
    try:
        with target.begin(mode=0o600) as writing:
            for piece in pieces:
                writing.write(piece)
    except HostError as error:
        raise QmpError(f"An IO error has occurred: {error.what}") from None


def _memsave(control: Control, arguments: dict[str, Any]) -> Any:
    return _save(control, arguments, virtual=True)


def _pmemsave(control: Control, arguments: dict[str, Any]) -> Any:
    return _save(control, arguments, virtual=False)


_DIMM = Struct(
    "PCDIMMDeviceInfo",
    (
        optional("id", STR),
        required("addr", INT),
        required("size", INT),
        required("slot", INT),
        required("node", INT),
        required("memdev", STR),
        required("hotplugged", BOOL),
        required("hotpluggable", BOOL),
    ),
)
_WRAPPED_DIMM = Struct("PCDIMMDeviceInfoWrapper", (required("data", _DIMM),))
_MEMORY_DEVICE = Struct(
    "MemoryDeviceInfo",
    (required("type", Enum("MemoryDeviceInfoKind", ("nvdimm",))),),
    tag="type",
    variants=(("nvdimm", _WRAPPED_DIMM),),
)
_MEMDEV = Struct(
    "Memdev",
    (
        optional("id", STR),
        required("size", INT),
        *(Member(name, QMP[row.kind], optional=name == "reserve") for name, row in _OF_MEMDEV.items()),
    ),
)
_SYNC = Struct(
    "EmuSync",
    (required("requested", ON_OFF_AUTO), required("effective", BOOL), required("why", STR)),
)
_SURVIVES = Struct(
    "EmuSurvives",
    (required("guest_crash", BOOL), required("emulator_kill", BOOL), required("host_power_loss", BOOL)),
)
_PERSISTENCE = Struct(
    "EmuPersistence",
    (
        required("id", STR_OR_NULL),
        required("file", STR_OR_NULL),
        required("size", INT),
        required("label_size", INT),
        required("gpa", INT),
        required("slot", INT),
        required("unarmed", BOOL),
        required("sync", _SYNC),
        required("granularity", Enum("EmuGranularity", ("cache-line", "page", "none"))),
        required("survives", _SURVIVES),
    ),
)
_SAVE = (required("val", INT), required("size", INT), required("filename", STR))

COMMANDS = {
    "query-memory-devices": Command(_query_memory_devices, NOTHING, Array(_MEMORY_DEVICE)),
    "query-memdev": Command(_query_memdev, NOTHING, Array(_MEMDEV)),
    "x-emu-query-persistence": Command(_query_persistence, NOTHING, Array(_PERSISTENCE)),
    "memsave": Command(_memsave, Struct("memsave-arg", (*_SAVE, optional("cpu-index", INT)))),
    "pmemsave": Command(_pmemsave, Struct("pmemsave-arg", _SAVE)),
}
