"""Read, check and write the namespace label area at the end of an NVDIMM's backing file, in ndctl's words.

A dump of `ndctl read-labels` is a label area by itself and is taken too: its size is the label size.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import stat
import sys
import uuid
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from emu.cli import output
from emu.cli.label_file import LabelFile, open_labels
from emu.errors import HostError, Status, UsageError
from emu.units import MIB, PAGE, align_down, align_up, counted, human_size, parse_number, parse_size

if TYPE_CHECKING:
    from emu.devices.nvdimm.device import LabelStorage
    from emu.devices.nvdimm.namespace import Label, Mode
    from emu.host.claims import Claims
    from emu.host.files import Target

EPILOG = """\
examples:
  emu run hello --nvdimm file=pmem.img,size=64M,label-size=128K          makes the file
  emu label init pmem.img --label-size 128K -V 1.2
  emu label create-namespace pmem.img --label-size 128K -m fsdax -n data \\
      -u 3f2504e0-4f89-41d3-9a0c-0305e82c3301
  emu label read pmem.img --label-size 128K --json
  emu label read pmem.img --label-size 128K -o labels.bin
  emu label check labels.bin
  emu label write pmem.img --label-size 128K -i labels.bin
  emu label destroy-namespace pmem.img 3f2504e0-4f89-41d3-9a0c-0305e82c3301

create-namespace writes the label; what the mode needs inside of the namespace (a file system, ndctl's info block) is
the guest's to write. The label area of a running machine belongs to its guest: end the machine first.
"""

_SCHEMA = "emu.label/1"
# Linux aligns namespaces to this (a region's "align"), unless the NVDIMM is smaller; and only raw ones may be smaller.
_NAMESPACE_ALIGNMENT = 16 * MIB
_CHUNK = 1 << 20
_SHOWN = 20
_ATOMIC = "This is atomic: whatever ends the command, the area is the old one or the new one."
_NOT_ATOMIC = """\
This is not atomic: where the command is killed or the power fails meanwhile, the area is the old one, the new one, or
not valid (then do it again), but never a mixture that counts as valid."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)

    def action(name: str, summary: str, more: str = "") -> argparse.ArgumentParser:
        sub = actions.add_parser(
            name,
            help=summary,
            description=f"{summary}. {more}" if more else summary,
            allow_abbrev=False,
            formatter_class=parser.formatter_class,
        )
        sub.add_argument("file", metavar="FILE", help="backing file, device DAX, or a dump of a label area")
        sub.add_argument(
            "--label-size",
            metavar="N",
            help="bytes of the label area at the end of FILE; default: of the area found, or 128K",
        )
        sub.add_argument("-j", "--json", action="store_true", help=f"print one JSON document (schema {_SCHEMA})")
        sub.add_argument("--traceback", action="store_true", help=argparse.SUPPRESS)
        return sub

    def span(sub: argparse.ArgumentParser) -> None:
        sub.add_argument("-s", "--size", default="0", metavar="N", help="only N bytes (0: all)")
        sub.add_argument("-O", "--offset", default="0", metavar="N", help="begin at this offset in the area")

    init = action("init", "write empty index blocks", _ATOMIC)
    init.add_argument("-f", "--force", action="store_true", help="destroy the labels of a valid area")
    init.add_argument("-V", "--label-version", choices=("1.1", "1.2"), default="1.1", help="default 1.1, as ndctl")
    read = action("read", "dump the area as it is, or its labels with -j or -u")
    read.add_argument("-I", "--index", action="store_true", help="only the index blocks")
    read.add_argument("-o", "--output", metavar="FILE", help="where the dump goes (default: standard output)")
    read.add_argument("-u", "--human", action="store_true", help="the JSON document with numbers for people")
    span(read)
    check = action("check", "say whether the area is valid, and why not")
    check.add_argument("-v", "--verbose", action="store_true", help="name every doubtful label")
    write = action("write", "write a dump into the area", _NOT_ATOMIC)
    write.add_argument("-i", "--input", metavar="FILE", help="where the dump comes from (default: standard input)")
    span(write)
    span(action("zero", "fill the area with zeros", _NOT_ATOMIC))
    create = action("create-namespace", "add a namespace label", _ATOMIC)
    create.add_argument("-m", "--mode", choices=("raw", "fsdax", "devdax", "sector"),
                        help="default fsdax; raw with labels of version 1.1, which cannot say it")  # fmt: skip
    create.add_argument("-s", "--size", metavar="N", help="bytes; default: the largest free range")
    create.add_argument("-n", "--name", default="", metavar="NAME", help="name of the namespace")
    create.add_argument("-u", "--uuid", metavar="UUID", help="default: a random one")
    create.add_argument("-l", "--sector-size", metavar="N", help="for -m sector: 512 or 4096 (default)")
    create.add_argument("--slot", default="0", metavar="N",
                        help="slot of the NVDIMM in its machine (default 0): labels are tied to it")  # fmt: skip
    destroy = action("destroy-namespace", "free the labels of a namespace", _ATOMIC)
    destroy.add_argument("uuid", metavar="UUID", help="which namespace")


def run(options: argparse.Namespace) -> int:
    actions = {
        "init": _init, "read": _read, "check": _check, "write": _write, "zero": _zero,
        "create-namespace": _create, "destroy-namespace": _destroy,
    }  # fmt: skip
    # Not argparse's business: its complaint about a value would be a page of usage.
    for name in ("label_size", "size", "offset", "sector_size"):
        text = getattr(options, name, None)
        if text is not None:
            setattr(options, name, parse_size(text, what="--" + name.replace("_", "-")))
    if options.action == "create-namespace":
        options.slot = parse_number(options.slot, what="--slot", high=255)
    if getattr(options, "uuid", None) is not None:
        options.uuid = _uuid(options.uuid)
    if options.action != "read":  # which claims its output, too
        _claims(options)
    return actions[options.action](options)


def _uuid(text: str) -> uuid.UUID:
    try:
        return uuid.UUID(text)
    except ValueError:
        raise UsageError(f"'{text[:64]}' is not a UUID", "write it as 8-4-4-4-12 hexadecimal digits") from None


def _open(options: argparse.Namespace, *, write: bool) -> contextlib.AbstractContextManager[LabelFile]:
    force = getattr(options, "force", False)
    return open_labels(options.file, options.label_size, write=write, force=force)


def _span(options: argparse.Namespace, area: int) -> tuple[int, int]:
    """(offset, length) that -O and -s name."""
    length = options.size or max(area - options.offset, 0)
    if options.offset + length > area:
        raise UsageError(
            f"bytes {options.offset} to {options.offset + length} are outside the label area of {area} bytes",
            "give smaller -O and -s",
        )
    return options.offset, length


def _init(options: argparse.Namespace) -> int:
    from emu.devices.nvdimm.index import Version
    from emu.devices.nvdimm.labels import initialise

    with _open(options, write=True) as (storage, _, _):
        area = initialise(storage, Version(options.label_version), force=options.force)
        slots = area.where.slots
    _done(
        options,
        f"initialized the label area of {options.file}: version {options.label_version}, {slots} slots",
        {"version": options.label_version, "nslot": slots},
    )
    return Status.OK


def _read(options: argparse.Namespace) -> int:
    if options.index and (options.size or options.offset):
        raise UsageError("-I and -s or -O exclude each other", "give one of them")
    claims = _claims(options)
    target = None if options.output is None else claims.writes(options.output, "-o")
    with _open(options, write=False) as (storage, _, _):
        if options.json or options.human:
            document = _describe(options.file, storage, human=options.human, labels=not options.index)
            text = json.dumps(document, indent=2) + "\n"
            with _output(target, binary=False) as write:
                write(text.encode())
            return Status.OK
        offset, length = (0, _index_length(storage)) if options.index else _span(options, storage.size)
        with _output(target, binary=True) as write:
            for start in range(offset, offset + length, _CHUNK):
                write(storage.read(start, min(_CHUNK, offset + length - start)))
    return Status.OK


def _index_length(storage: LabelStorage) -> int:
    from emu.devices.nvdimm.index import LabelError, Version, geometry
    from emu.devices.nvdimm.labels import LabelArea

    try:
        return LabelArea(storage).where.label_offset
    except LabelError:
        return geometry(Version.V1_1, storage.size).label_offset


@contextlib.contextmanager
def _output(target: Target | None, *, binary: bool) -> Iterator[Any]:
    if target is None:
        if binary and sys.stdout.isatty():
            raise UsageError("a dump is no text for a terminal", "give -o FILE, or -j or -u to see the labels")
        yield sys.stdout.buffer.write
        return
    with target.begin(mode=0o600) as writing:  # as the NVDIMM's own file
        yield writing.write


def _claims(options: argparse.Namespace) -> Claims:
    """FILE, and for ``write``, which changes it, where the dump comes from; and the standard streams."""
    from emu.host.claims import Claims

    claims = Claims()
    if options.action != "write":
        claims.reads(options.file, "the backing file", memory=True)
    else:
        if options.input is not None:
            claims.reads(options.input, "-i")
        else:
            claims.reads_descriptor(0, "the standard input")
        claims.changes(options.file, "the backing file")
    claims.writes_standard_streams()
    return claims


def _check(options: argparse.Namespace) -> int:
    from emu.devices.nvdimm.index import LabelError
    from emu.devices.nvdimm.labels import LabelArea, check

    with _open(options, write=False) as file:
        storage = file.storage
        report = check(storage)
        labels = len(LabelArea(storage).labels()) if report.valid else 0
    if options.json:
        version = report.version.value if report.version else None
        _print(options, {"valid": report.valid, "version": version, "labels": labels,
                         "errors": list(report.errors), "warnings": list(report.warnings)})  # fmt: skip
        return Status.OK if report.valid else Status.USAGE
    if report.version is None:
        raise LabelError(f"{options.file}: {'; '.join(report.errors)}", file.advice())
    doubtful = f", {len(report.warnings)} doubtful" if report.warnings else ""
    output.say(
        f"{options.file}: valid label area, version {report.version.value}, {counted(labels, 'label')}{doubtful}"
    )
    shown = report.warnings if options.verbose else report.warnings[:_SHOWN]
    for warning in shown:
        output.say(f"  {warning}")
    if len(shown) < len(report.warnings):
        output.say(f"  and {len(report.warnings) - len(shown)} more; -v shows all")
    return Status.OK


def _write(options: argparse.Namespace) -> int:
    from emu.devices.nvdimm.labels import check, replace_content

    with _open(options, write=True) as (storage, _, _):
        offset, length = _span(options, storage.size)
        data = _input(options.input, length + 1)
        if len(data) > length and not options.size:
            raise UsageError(
                f"{options.input or 'standard input'} holds more than {counted(length, 'byte')}, which is what fits",
                "give its size with --label-size, or take a part of it with -s",
            )
        data = data[:length]
        if not data:
            raise UsageError(f"{options.input or 'standard input'} is empty", "give a dump of a label area")
        whole = bytearray(storage.read(0, storage.size))
        whole[offset : offset + len(data)] = data
        replace_content(storage, bytes(whole))
        valid = check(storage).valid
    _done(
        options,
        f"wrote {counted(len(data), 'byte')} to the label area of {options.file}, "
        f"which is {'' if valid else 'not '}valid now",
        {"written": len(data), "valid": valid},
    )
    return Status.OK


def _input(path: str | None, most: int) -> bytes:
    if path is None:
        return sys.stdin.buffer.read(most)
    from emu.host.inputs import read_whole

    try:
        data = read_whole(path, most - 1)
        status = os.stat(path)  # noqa: PTH116 - any bytes a path may hold
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise HostError(f"{path}: {why}", "give a dump in a file, or through a pipe") from None
    if stat.S_ISREG(status.st_mode) and len(data) != min(status.st_size, most):  # what /proc and /sys show as files
        raise UsageError(f"{path} is no ordinary file", "give a dump of a label area")
    return data


def _zero(options: argparse.Namespace) -> int:
    from emu.devices.nvdimm.labels import zero

    with _open(options, write=True) as (storage, _, _):
        offset, length = _span(options, storage.size)
        zero(storage, offset, length)
    _done(options, f"zeroed {counted(length, 'byte')} of the label area of {options.file}", {"zeroed": length})
    return Status.OK


def _create(options: argparse.Namespace) -> int:
    from emu.devices.nvdimm.index import Version
    from emu.devices.nvdimm.labels import LabelArea, initialise, is_blank
    from emu.devices.nvdimm.namespace import Mode, Namespace, mode_of, name_of

    with _open(options, write=True) as (storage, before, _):
        pmem = align_down(before, PAGE)
        if pmem == 0:
            raise UsageError(f"{options.file}: there is no NVDIMM before the label area", "give a whole backing file")
        area = None if is_blank(storage) else LabelArea(storage)
        mode = Mode(options.mode or (Mode.RAW if area and area.version is Version.V1_1 else Mode.FSDAX))
        sector = options.sector_size or (4096 if mode is Mode.SECTOR else 0)
        if sector not in (0, 512, 4096):
            raise UsageError(f"sector size {sector} is not usual", "give -l 512 or -l 4096")
        dpa, size = _place([(0, pmem)] if area is None else area.free_extents(pmem), pmem, options.size, mode)
        if area is None:  # as Linux does with the first namespace of an NVDIMM that never had labels
            area = initialise(storage, Version.V1_2, linux=True)
        namespace = Namespace(options.uuid or uuid.uuid4(), dpa, size, options.name, mode, sector)
        label = area.create(namespace, options.slot)
    described = {
        "mode": mode_of(label) or Mode.RAW, "size": label.raw_size, "uuid": str(label.uuid), "name": name_of(label),
        "sector_size": label.lba_size or 512, "dpa": label.dpa, "slot": label.slot,
    }  # fmt: skip
    _done(
        options,
        f"created namespace {label.uuid}: {described['mode']}, {human_size(size)} at {dpa:#x}, slot {label.slot}",
        {"namespaces": [described]},
    )
    return Status.OK


def _place(free: list[tuple[int, int]], pmem: int, size: int | None, mode: Mode) -> tuple[int, int]:
    """Where in the ``free`` ranges (start, end) of an NVDIMM of ``pmem`` bytes a namespace of ``size`` bytes (None: as
    large as it gets) fits, and its size. UsageError for what ndctl 76 refuses."""
    from emu.devices.nvdimm.namespace import Mode

    unit = _NAMESPACE_ALIGNMENT if pmem >= _NAMESPACE_ALIGNMENT else PAGE
    extents = [(align_up(start, unit), end) for start, end in free]
    if size is not None:
        if size == 0 or size % unit:
            raise UsageError(
                f"a namespace of {size} bytes is misaligned: align setting is {unit:#x}, size {size:#x}",
                f"give a multiple of {human_size(unit)}, such as {human_size(align_up(max(size, 1), unit))}",
            )
        place = next((start for start, end in extents if end - start >= size), None)
    else:
        start, end = max(extents, key=lambda item: item[1] - item[0], default=(0, 0))
        size = align_down(max(end - start, 0), unit)
        place = start if size else None
    if place is None:
        largest = max((end - start for start, end in extents), default=0)
        raise UsageError(
            f"no room for the namespace: the largest free range of the {human_size(pmem)} has {max(largest, 0)} bytes",
            "destroy a namespace, or give a smaller -s",
        )
    if size < _NAMESPACE_ALIGNMENT and mode is not Mode.RAW:
        raise UsageError(
            f"a namespace of {human_size(size)} is too small: '{mode}' needs {human_size(_NAMESPACE_ALIGNMENT)}",
            "give a larger NVDIMM or size, or -m raw",
        )
    return place, size


def _destroy(options: argparse.Namespace) -> int:
    from emu.devices.nvdimm.labels import LabelArea

    with _open(options, write=True) as (storage, _, _):
        LabelArea(storage).delete(options.uuid)
    _done(options, f"destroyed namespace {options.uuid}", {"destroyed": [str(options.uuid)]})
    return Status.OK


def _print(options: argparse.Namespace, facts: dict[str, Any]) -> None:
    output.document({"schema": _SCHEMA, "action": options.action, "dev": options.file, **facts})


def _done(options: argparse.Namespace, text: str, facts: dict[str, Any]) -> None:
    if options.json:
        _print(options, facts)
    else:
        output.say(text)


def _describe(name: str, storage: LabelStorage, *, human: bool, labels: bool) -> dict[str, Any]:
    """What ``ndctl read-labels -j`` prints, in a document of ours; an area that is not valid has no index, no label."""
    from emu.devices.nvdimm.index import LabelError
    from emu.devices.nvdimm.labels import LabelArea

    index: list[dict[str, Any]] = []
    found: list[dict[str, Any]] = []
    try:
        area = LabelArea(storage)
    except LabelError:
        valid = False
    else:
        valid = True
        for block in area.blocks:
            if block is not None:
                head = block.header
                index.append({
                    "signature": "NAMESPACE_INDEX", "major": head.major, "minor": head.minor,
                    "labelsize": area.version.label_size, "seq": head.sequence, "nslot": head.slots,
                })  # fmt: skip
        if labels:
            found = [_describe_label(label, human=human) for label in area.labels()]
    dimm = {"dev": name, "index": index, **({"label": found} if labels else {})}
    return {"schema": _SCHEMA, "action": "read", "valid": valid, "dimms": [dimm]}


def _describe_label(label: Label, *, human: bool) -> dict[str, Any]:
    from emu.devices.nvdimm.label_layouts import LabelV12
    from emu.devices.nvdimm.namespace import name_of

    def hexadecimal(value: int) -> int | str:
        return f"{value:#x}" if human else value

    described: dict[str, Any] = {
        "uuid": str(label.uuid), "name": name_of(label), "slot": label.slot, "position": label.position,
        "nlabel": label.labels, "flags": hexadecimal(label.flags), "isetcookie": hexadecimal(label.set_cookie),
        "lbasize": label.lba_size, "dpa": hexadecimal(label.dpa),
        "rawsize": human_size(label.raw_size) if human else label.raw_size,
    }  # fmt: skip
    if isinstance(label, LabelV12):
        described["type_guid"] = str(label.type_guid)
        described["abstraction_guid"] = str(label.abstraction_guid)
    return described
