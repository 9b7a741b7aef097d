"""What is on an NVDIMM, as Linux will see it, and making a namespace with a file system of one that is blank.

First every NVDIMM is looked at (``examine``) and what is missing is planned, refusals included; only a machine that is
ready to run is written to (``Step.carry_out``). File systems are made by the host's mkfs on a scratch file, and copied.
"""

from __future__ import annotations

import contextlib
import enum
import os
import stat
import subprocess
import tempfile
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from emu.config import BackendKind, NvdimmConfig, OnOffAuto
from emu.devices.nvdimm import infoblock
from emu.devices.nvdimm.device import LabelStorage, MappedLabels
from emu.devices.nvdimm.index import LabelError, Version
from emu.devices.nvdimm.labels import BytesLabels, LabelArea, initialise, is_blank
from emu.devices.nvdimm.namespace import Mode, Namespace, mode_of
from emu.errors import HostError, UsageError
from emu.linux import superblocks
from emu.linux.superblocks import Read
from emu.memory import open_backend
from emu.memory.mapping import Mapping
from emu.units import KIB, MIB, PAGE, align_down, human_size

NO_UUID = uuid.UUID(int=0)
_NAMESPACE_ALIGNMENT = 16 * MIB
"""What Linux aligns namespaces with labels to."""
_CHUNK = 4 * MIB
_EPOCH = "946684800"
"""2000-01-01, when emu's machines are turned on: a file system is no younger than its first mount."""
_MKFS_FOLDERS = ("/usr/local/sbin", "/usr/sbin", "/sbin")


class FileSystem(enum.StrEnum):
    """What ``--fs`` takes."""

    EXT4 = "ext4"
    XFS = "xfs"
    DEVDAX = "devdax"
    NONE = "none"


_SMALLEST = {FileSystem.EXT4: 8 * MIB, FileSystem.XFS: 300 * MIB, FileSystem.DEVDAX: infoblock.ALIGNMENT}
"""Of the data, behind the info block: ext4 with a journal, what mkfs.xfs makes, one page of device DAX."""
_OTHERS = (
    (512, b"EFI PART", "a GPT partition table"),
    (510, b"\x55\xaa", "a partition table or boot sector"),
    (0, b"LUKS\xba\xbe", "an encrypted volume (LUKS)"),
    (64 * KIB + 0x40, b"_BHRfS_M", "btrfs, which has no DAX"),
)
"""What else is often on a disk: where its magic number is, and what it is called."""
_PACKAGES = {FileSystem.EXT4: "e2fsprogs", FileSystem.XFS: "xfsprogs"}


class Step(NamedTuple):
    """What is to be done to one NVDIMM, and what the guest will find: ``use`` is NONE, DEVDAX or a file system.

    The namespace is ``size`` bytes from ``base`` of the NVDIMM; ``made`` says whether it, its info block or its file
    system are still to be written: ``content`` is a scratch file with the file system, then ``name`` its UUID.
    """

    use: FileSystem
    base: int = 0
    size: int = 0
    label: uuid.UUID = NO_UUID
    makes_label: bool = False
    makes_info: bool = False
    content: Path | None = None
    identity: uuid.UUID = NO_UUID

    @property
    def writes(self) -> bool:
        return self.makes_label or self.makes_info or self.content is not None

    def carry_out(self, mapping: Mapping, label_size: int, gpa: int, slot: int) -> None:
        """Write what is missing through the NVDIMM's ``mapping``.

        Durable when it returns. The label comes last but one and the info block last: before that Linux sees a raw
        namespace, or none.
        """
        start = gpa + self.base
        if start % infoblock.ALIGNMENT:
            raise UsageError(
                f"{mapping.name}: the namespace would begin at {start:#x}, and Linux needs multiples of 2 MiB",
                "give the NVDIMMs sizes that are multiples of 2M, or addr=",
            )
        if self.content is not None:
            _copy(self.content, mapping, self.base + infoblock.overhead(start))
        if self.makes_label:
            storage = MappedLabels(mapping, label_size)
            area = initialise(storage, Version.V1_2, linux=True) if is_blank(storage) else LabelArea(storage)
            area.create(Namespace(self.label, self.base, self.size, "", self._mode), slot)
        if self.makes_info:
            block = infoblock.make(self._mode, start, self.size, self.identity, self.label)
            at = self.base + infoblock.OFFSET
            mapping.view[at : at + infoblock.SIZE] = block.pack()
            mapping.persist(at, infoblock.SIZE)

    @property
    def _mode(self) -> Mode:
        return Mode.DEVDAX if self.use is FileSystem.DEVDAX else Mode.FSDAX


def _copy(content: Path, mapping: Mapping, at: int) -> None:
    with content.open("rb") as file:
        for start, end in _extents(file.fileno()):
            for place in range(start, end, _CHUNK):
                piece = os.pread(file.fileno(), min(_CHUNK, end - place), place)
                mapping.view[at + place : at + place + len(piece)] = piece
                mapping.persist(at + place, len(piece))


def _extents(descriptor: int) -> Iterator[tuple[int, int]]:
    """(start, end) of what a file holds between its holes."""
    end = 0
    while True:
        try:
            start = os.lseek(descriptor, end, os.SEEK_DATA)
        except OSError:  # ENXIO: nothing any more
            return
        end = os.lseek(descriptor, start, os.SEEK_HOLE)
        yield start, end


class Planner:
    """Plans for the NVDIMMs of one machine. ``wanted`` is ``--fs``, None for ext4 on blank ones and else what is there.

    ``identity`` makes UUIDs: random ones, or for runs that are to be repeated to the bit, others.
    """

    def __init__(
        self, wanted: FileSystem | None, scratch: contextlib.ExitStack, identity: Callable[[], uuid.UUID] = uuid.uuid4
    ) -> None:
        self._wanted = wanted
        self._scratch = scratch
        self._identity = identity

    def examine(self, config: NvdimmConfig) -> Step:
        """What the NVDIMM is, and what is to be done; nothing is written to its file.

        UsageError when it is too small, holds something else than what was asked for or is unknown, and nothing may be
        made on it; HostError when mkfs is missing or fails.
        """
        if self._wanted is FileSystem.NONE:
            return Step(FileSystem.NONE)
        name = config.backend.path or f"memory backend '{config.backend.id}'"
        with _opened(config) as (size, read, is_zero):
            label_size = config.label_size
            pmem = align_down(size - label_size, PAGE)
            labels: LabelStorage | None = None
            if label_size:
                labels = BytesLabels(bytearray(read(size - label_size, label_size)))
            step = self._namespace(name, pmem, labels, is_zero)
            if step is None:
                return Step(FileSystem.NONE)
            return self._content(name, step, read, is_zero, writable=not config.backend.readonly)

    def _namespace(
        self, name: str, pmem: int, labels: LabelStorage | None, is_zero: Callable[[int, int], bool]
    ) -> Step | None:
        use = self._wanted or FileSystem.EXT4
        if labels is None:
            return Step(use, 0, pmem)
        if is_blank(labels):
            size = align_down(pmem, _NAMESPACE_ALIGNMENT if pmem >= _NAMESPACE_ALIGNMENT else infoblock.ALIGNMENT)
            return Step(use, 0, size, self._identity(), makes_label=True)
        try:
            area = LabelArea(labels)
        except LabelError as error:
            raise UsageError(
                f"{name}: {error.what}", "'emu label check' says more; --fs none leaves it alone"
            ) from None
        first = min(area.labels(), key=lambda label: label.dpa, default=None)
        if first is None:
            size = align_down(pmem, _NAMESPACE_ALIGNMENT)
            return Step(use, 0, size, self._identity(), makes_label=True)
        mode = mode_of(first)
        if mode is Mode.SECTOR:
            raise UsageError(f"{name}: its namespace is for sectors (BTT), which has no DAX", "give --fs none")
        return Step(use, first.dpa, first.raw_size, first.uuid)

    def _content(
        self, name: str, step: Step, read: Read, is_zero: Callable[[int, int], bool], *, writable: bool
    ) -> Step:
        data_at = step.base + infoblock.overhead(0)
        block = None
        if not step.makes_label:
            block = infoblock.read(read(step.base + infoblock.OFFSET, infoblock.SIZE), step.label)
        if block is not None:
            if block.use is Mode.DEVDAX:
                self._agree(name, FileSystem.DEVDAX)
                return step._replace(use=FileSystem.DEVDAX)
            data_at = step.base + block.data_offset
            kind = superblocks.kind_of(read, data_at)
            if kind is not None:
                found = FileSystem(kind)
                self._agree(name, found)
                superblocks.check(kind, read, data_at, step.base + step.size - data_at, name)
                return step._replace(use=found)
        # An info block, of ours or of ndctl's, is no reason to keep off: what is behind it must be blank.
        if not is_zero(step.base if block is None else data_at, step.base + step.size):
            self._refuse_unknown(name, step, read)
        if not writable:
            raise UsageError(f"{name} is blank and readonly", "leave readonly away, or give --fs none")
        room = align_down(step.base + step.size - data_at, infoblock.ALIGNMENT)
        if room < _SMALLEST[step.use]:
            least = infoblock.ALIGNMENT + _SMALLEST[step.use]
            raise UsageError(
                f"{name}: {human_size(max(step.size, 0))} are too small for {step.use}",
                f"give the NVDIMM at least {human_size(least)}",
            )
        content = None if step.use is FileSystem.DEVDAX else self._make(step.use, room, name)
        if block is not None and step.use is FileSystem.DEVDAX:
            raise UsageError(f"{name}: its namespace is fsdax", "leave --fs away, or make it devdax with ndctl")
        return step._replace(makes_info=block is None, content=content, identity=self._identity())

    def _agree(self, name: str, found: FileSystem) -> None:
        if self._wanted not in (None, found):
            raise UsageError(
                f"{name} holds {found} already, not {self._wanted}",
                f"leave --fs away to use it as it is, or take another file for {self._wanted}",
            )

    def _refuse_unknown(self, name: str, step: Step, read: Read) -> None:
        raw = superblocks.kind_of(read, step.base)
        if raw is not None:
            raise UsageError(
                f"{name}: {raw} lies directly on a raw namespace, where Linux has no DAX",
                "take a blank file, or give --fs none and mount it yourself",
            )
        if infoblock.is_meant(read(step.base + infoblock.OFFSET, infoblock.SIZE)):
            raise UsageError(
                f"{name}: its info block is damaged, or does not belong to the namespace's label",
                "'emu label list' shows the label; --fs none leaves it alone",
            )
        other = next((what for at, magic, what in _OTHERS if read(step.base + at, len(magic)) == magic), None)
        raise UsageError(
            f"{name} holds {other}" if other else f"{name} holds data, and no file system that emu knows",
            "take a blank file, or give --fs none, which leaves it alone",
        )

    def _make(self, use: FileSystem, size: int, name: str) -> Path:
        """A scratch file with a new file system of ``size`` bytes."""
        tool = _mkfs(use)
        folder = Path(self._scratch.enter_context(tempfile.TemporaryDirectory(prefix="emu-")))
        path = folder / "file-system"
        with path.open("wb") as file:
            file.truncate(size)
        number = str(self._identity())
        if use is FileSystem.EXT4:
            options = ["-q", "-F", "-b", str(PAGE), "-U", number,
                       "-E", f"lazy_itable_init=0,lazy_journal_init=0,nodiscard,hash_seed={number}"]  # fmt: skip
        else:
            options = ["-q", "-f", "-K", "-m", f"reflink=0,uuid={number}"]
        surroundings = os.environ | {"E2FSPROGS_FAKE_TIME": _EPOCH, "SOURCE_DATE_EPOCH": _EPOCH, "LC_ALL": "C"}
        done = subprocess.run([tool, *options, str(path)], capture_output=True, env=surroundings, check=False)
        if done.returncode:
            words = done.stderr.decode(errors="replace").strip().splitlines()
            raise HostError(
                f"{tool} cannot make a file system of {human_size(size)} for {name}: {words[0] if words else 'failed'}",
                "give the NVDIMM another size, or another --fs",
            )
        return path


def _mkfs(use: FileSystem) -> str:
    tool = f"mkfs.{use}"
    for folder in (*os.environ.get("PATH", "").split(":"), *_MKFS_FOLDERS):
        if folder and os.access(Path(folder, tool), os.X_OK):
            return str(Path(folder, tool))
    remedy = f"install the package {_PACKAGES[use]}, or give --fs devdax or --fs none"
    raise HostError(f"{tool}, which makes the file system, is not on this host", remedy)


def _is_absent(path: str | None) -> bool:
    """Whether there is no file yet, or an empty one, which becomes as large as the NVDIMM."""
    try:
        status = os.stat(path or "")
    except (OSError, ValueError):
        return True  # opening it says what is wrong, if something is
    return stat.S_ISREG(status.st_mode) and status.st_size == 0


@contextlib.contextmanager
def _opened(config: NvdimmConfig) -> Iterator[tuple[int, Read, Callable[[int, int], bool]]]:
    """(size, how to read, whether a range is all zero) of the NVDIMM's backend as it is now; a missing one is zero."""
    backend = config.backend
    if backend.kind is BackendKind.RAM or _is_absent(backend.path):
        if backend.size is None:
            raise UsageError(f"{backend.path} is new and no size was given", "give one, such as size=64M")
        yield backend.size, lambda _at, length: bytes(length), lambda _start, _end: True
        return
    asked = replace(backend, share=True, sync=OnOffAuto.OFF, readonly=True, prealloc=False, discard_data=False)
    with open_backend(replace(asked, rom=OnOffAuto.AUTO)) as opened:
        view, descriptor = opened.mapping.view, opened.fd
        is_device = stat.S_ISCHR(os.fstat(descriptor).st_mode)

        def read(at: int, length: int) -> bytes:
            if is_device:  # which can only be mapped; but to read a file's hole through a mapping may fill it
                return bytes(view[at : at + length]).ljust(length, b"\0")
            return os.pread(descriptor, length, backend.offset + at).ljust(length, b"\0")

        def is_zero(start: int, end: int) -> bool:
            spans = [(start, end)]
            if not is_device:
                spans = [(s - backend.offset, e - backend.offset) for s, e in _extents(descriptor)]
            for span_start, span_end in spans:
                for at in range(max(span_start, start), min(span_end, end), _CHUNK):
                    piece = read(at, min(_CHUNK, end - at, span_end - at))
                    if piece.count(0) != len(piece):
                        return False
            return True

        yield opened.mapping.size, read, is_zero
