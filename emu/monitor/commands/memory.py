"""Commands about memory: NVDIMMs, backends, what is persistent, and guest memory into a file."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from emu.config import Policy
from emu.errors import EmuError
from emu.memory.properties import as_json
from emu.monitor.commands.command import Command
from emu.monitor.control import Control, NvdimmView
from emu.monitor.errors import QmpError
from emu.monitor.schema import (
    BOOL,
    INT,
    NOTHING,
    ON_OFF_AUTO,
    STR,
    STR_OR_NULL,
    UINT16,
    Array,
    Enum,
    Struct,
    optional,
    required,
)


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
        shown = ("id", "merge", "dump", "prealloc", "share", "reserve", "host-nodes", "policy")
        answer.append({name: properties[name] for name in shown} | {"size": backend.size})
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
    backing = {backend.config.path for backend in control.machine.backends() if backend.config.path is not None}
    try:
        control.machine.with_memory(
            address, size, lambda pieces: _write_file(filename, pieces, never=backing), virtual=virtual
        )
    except EmuError as error:
        raise QmpError(f"Invalid addr {address:#018x}/size {size} specified; {error.what}") from None
    return {}


def _write_file(filename: str, pieces: Iterator[bytes], *, never: set[str]) -> None:
    """Put the pieces into the regular file ``filename``, which is made or replaced; never into one of ``never``."""
    # Nothing is truncated before it is known to be a file that may be; a FIFO or a device must not block or be opened.
    flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK
    try:
        descriptor = os.open(filename, flags, 0o600)
    except OSError as error:
        what = "it is not a regular file" if error.errno == errno.ENXIO else error.strerror
        raise QmpError(f"Could not open '{filename}': {what}") from None
    try:
        with os.fdopen(descriptor, "wb") as file:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode):
                raise QmpError(f"Could not open '{filename}': it is not a regular file")
            if any(_is_same(found, path) for path in never):
                raise QmpError(f"Could not open '{filename}': it backs memory of this machine")
            file.truncate(0)
            for piece in pieces:
                file.write(piece)
    except OSError as error:
        raise QmpError(f"An IO error has occurred: '{filename}' is incomplete: {error.strerror}") from None


def _is_same(found: os.stat_result, path: str) -> bool:
    try:
        return os.path.samestat(found, Path(path).stat())
    except OSError:
        return False


def _memsave(control: Control, arguments: dict[str, Any]) -> Any:
    return _save(control, arguments, virtual=True)


def _pmemsave(control: Control, arguments: dict[str, Any]) -> Any:
    return _save(control, arguments, virtual=False)


POLICY = Enum("HostMemPolicy", tuple(Policy))
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
        required("merge", BOOL),
        required("dump", BOOL),
        required("prealloc", BOOL),
        required("share", BOOL),
        optional("reserve", BOOL),
        required("host-nodes", Array(UINT16)),
        required("policy", POLICY),
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
