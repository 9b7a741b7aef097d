"""The label area of a file that a user named: found, opened, and never confused with one of another size."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from emu.errors import HostError, UsageError
from emu.units import KIB, PAGE, counted, human_size

if TYPE_CHECKING:
    from emu.devices.nvdimm.device import LabelStorage
    from emu.devices.nvdimm.label_search import Found

DEFAULT_LABEL_SIZE = 128 * KIB
_LARGEST_DUMP = 64 << 20

Read = Callable[[int, int], bytes]


class LabelFile(NamedTuple):
    """``storage`` is the label area; ``before`` counts the bytes of the file before it; ``found`` are the valid areas
    of the file, this one among them when it is valid."""

    storage: LabelStorage
    before: int
    found: list[Found]

    def advice(self) -> str:
        """What to do about the area when it is not valid."""
        sizes = [area.size for area in self.found if area.at_end]
        if sizes:
            return f"a valid label area of another size is there: give --label-size {sizes[0]}"
        return "is --label-size right? If there are no labels to keep, 'emu label init' makes an empty label area"


@contextlib.contextmanager
def open_labels(path: str, asked: int | None, *, write: bool, force: bool = False) -> Iterator[LabelFile]:
    """The label area of ``asked`` bytes at the end of ``path``, locked and mapped; with None the one that is there, or
    128 KiB. To ``write``, an area of another size must not be there, unless with ``force``.

    Durable when: each write of the storage is durable when it returns, by the strongest means the mapping has.
    """
    from emu.config import BackendConfig, OnOffAuto
    from emu.devices.nvdimm.device import MappedLabels
    from emu.memory import open_backend
    from emu.memory.incomplete import check_not_incomplete

    try:
        status = os.stat(path)  # noqa: PTH116 - any bytes a path may hold
    except FileNotFoundError:
        remedy = "name an existing file; 'truncate -s 64M FILE' makes one"
        raise HostError(f"{path}: no such file", remedy) from None
    except ValueError:
        raise UsageError(f"{path!r} is not a file name", "give the path of a backing file or of a dump") from None
    except OSError:
        pass  # opening it says what is wrong
    else:
        if not write and stat.S_ISREG(status.st_mode) and status.st_size % PAGE and status.st_size <= _LARGEST_DUMP:
            yield _dump(path, asked)
            return
    if write:
        check_not_incomplete(path)
    sync = OnOffAuto.AUTO if write else OnOffAuto.OFF
    config = BackendConfig(id="labels", path=path, share=True, sync=sync, readonly=not write)
    with open_backend(config) as backend:
        size, view = backend.mapping.size, backend.mapping.view
        is_device = stat.S_ISCHR(os.fstat(backend.fd).st_mode)

        def read(offset: int, length: int) -> bytes:
            # A device DAX can only be mapped; but to read a file's hole through a mapping may fill it.
            return bytes(view[offset : offset + length]) if is_device else os.pread(backend.fd, length, offset)

        label_size, found = _settle_size(path, read, size, asked)
        if write and not force:
            _spare_others(path, found, size, label_size)
        yield LabelFile(MappedLabels(backend.mapping, label_size), size - label_size, found)


def _dump(path: str, asked: int | None) -> LabelFile:
    """A file that is no NVDIMM's, since it does not consist of pages: read as it is."""
    from emu.devices.nvdimm.labels import BytesLabels

    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise HostError(f"{path}: {error.strerror}", "give a file that can be read", errno=error.errno or 0) from None
    label_size, found = _settle_size(
        path, lambda offset, length: content[offset : offset + length], len(content), asked
    )
    before = len(content) - label_size
    return LabelFile(BytesLabels(bytearray(content[before:])), before, found)


def _settle_size(path: str, read: Read, size: int, asked: int | None) -> tuple[int, list[Found]]:
    """(label size, valid areas of the file)."""
    from emu.devices.nvdimm.label_search import find_areas

    found = find_areas(read, size)
    if asked is None:
        sizes = sorted({area.size for area in found if area.at_end})
        if len(sizes) > 1:
            raise UsageError(
                f"{path} holds valid label areas of {' and '.join(map(str, sizes))} bytes",
                "say with --label-size which one counts: what the NVDIMM has as its label-size",
            )
        asked = sizes[0] if sizes else DEFAULT_LABEL_SIZE
    if not 0 < asked <= size:
        raise UsageError(
            f"{path}: a label area of {counted(asked, 'byte')} does not fit in {counted(size, 'byte')}",
            "give the NVDIMM's label-size with --label-size",
        )
    return asked, found


def _spare_others(path: str, found: list[Found], size: int, label_size: int) -> None:
    """UsageError when what is to be written would hit an area that begins elsewhere than the one it is meant for."""
    if any(area.at_end and area.size == label_size for area in found):
        return
    for area in found:
        if area.start + area.size > size - label_size:
            raise UsageError(
                f"{path} holds a valid label area of {human_size(area.size)} at {area.start:#x} already",
                f"give its size: --label-size {area.size}; 'emu label init --force' destroys it",
            )
