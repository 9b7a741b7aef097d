"""Writes possible memories to files, so that one command boots what a power failure left."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from emu.config import BackendKind, MachineConfig, NvdimmConfig, OnOffAuto
from emu.errors import HostError
from emu.host.files import examine
from emu.linux.prepare import NAME, own_words
from emu.memory.backend import RAM_ALIGNMENT
from emu.persistence.lab.input import END
from emu.persistence.lab.investigation import Answer
from emu.persistence.lab.told import pieces
from emu.units import KIB, PAGE

_KERNEL, _DISK = "vmlinuz", "initrd.img"
FILES = rf"failure-\d+-.*\.img|failure-\d+-printed\.txt|{re.escape(_KERNEL)}|{re.escape(_DISK)}"
"""Pattern of the names that ``export`` gives."""


def export(answer: Answer, folder: str) -> dict[int, dict[str, Any]]:
    """One file for each failure and NVDIMM in ``folder``; by the failure's number: the files and the command.

    What recovery may read of what the workload had printed is a file, too. For a Linux machine so are its kernel and
    the initial RAM disk with the programs, so that the folder is all that the command needs. HostError when the folder
    cannot be written.
    """
    written: dict[int, dict[str, Any]] = {}
    question = answer.question
    if not answer.failures:
        return written
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        machine = question.recovery if question.linux is None else _write_linux(question.recovery, Path(folder))
        for number, failure in enumerate(answer.failures):
            files = []
            for index, dimm in enumerate(answer.workload.dimms):
                path = Path(folder, f"failure-{number + 1:02}-{dimm.id}.img")
                base = answer.initial.view(index)
                inside = {
                    offset + unit - start: value
                    for start, offset, size in dimm.parts(index, len(base))
                    for unit, value in failure.contents.items()
                    if 0 <= unit - start < size
                }
                write_memory(path, base, inside)
                files.append(str(path))
            line = shlex.join(command(machine, files, is_linux=question.linux is not None))
            if question.feed_printed:
                path = Path(folder, f"failure-{number + 1:02}-printed.txt")
                printed = b"".join(pieces(answer.workload.events[: failure.event]))
                examine(str(path)).write(printed if question.linux is not None else printed + END)
                line += f" < {shlex.quote(str(path))}"
                files.append(str(path))
            if question.linux is not None:
                files += [str(machine.image), str(machine.initrd)]
            written[number] = {"files": files, "command": line}
    except OSError as error:
        raise HostError(f"{folder}: cannot write the memories: {error.strerror}", "choose another folder") from None
    return written


def _write_linux(config: MachineConfig, folder: Path) -> MachineConfig:
    """Write kernel and initial RAM disk of a Linux machine; the machine with these files."""
    kernel, disk = folder / _KERNEL, folder / _DISK
    assert config.image is not None, "the laboratory has found it"
    assert isinstance(config.initrd, bytes), "the laboratory has built it"
    examine(str(kernel)).write(Path(config.image).read_bytes())
    examine(str(disk)).write(config.initrd)
    return replace(config, image=str(kernel), initrd=str(disk), cmdline=own_words(config.cmdline))


def command(config: MachineConfig, files: Sequence[str], *, is_linux: bool = False) -> list[str]:
    """The words that boot the machine of ``config`` on copies of its NVDIMMs' backends: all that its guest can see, and
    nothing of how the backends were mapped on the host. ``is_linux``: a machine of ``emu.linux``.
    """
    plain = MachineConfig()
    image = config.image or ""
    words = ["emu", "run", *([NAME, "--kernel", image] if is_linux else [image])]
    if config.persistence is not None:
        words += ["-machine", f"nvdimm-persistence={config.persistence}"]
    # Both sizes are in pages; a bare number after -m would be MiB.
    memory = f"{config.ram_size // KIB}K"
    if config.max_memory is not None:
        memory += f",slots={config.slots},maxmem={config.max_memory}"
    if memory != f"{plain.ram_size // KIB}K":
        words += ["-m", memory]
    words += ["-numa", "node"] * config.numa_nodes
    if config.exit_ports != plain.exit_ports:
        for first, count in config.exit_ports:
            words += ["-device", f"isa-debug-exit,iobase={first:#x},iosize={count}"]
    for dimm, file in zip(config.nvdimms, files, strict=True):
        words += ["--nvdimm", ",".join(f"{key}={value}" for key, value in _keys(dimm, file))]
    if isinstance(config.initrd, str):
        words += ["-initrd", config.initrd]
    if config.cmdline:
        words += ["-append", config.cmdline]
    return words


def _keys(dimm: NvdimmConfig, file: str) -> Iterator[tuple[str, str | int]]:
    """The keys of ``--nvdimm`` that differ from their defaults."""
    backend = dimm.backend
    yield "file", file.replace(",", ",,")
    if dimm.id:
        yield "id", dimm.id.replace(",", ",,")
    if dimm.label_size:
        yield "label-size", dimm.label_size
    if dimm.unarmed is not OnOffAuto.OFF:
        yield "unarmed", dimm.unarmed
    if dimm.uuid is not None:
        yield "uuid", dimm.uuid
    if dimm.slot is not None:
        yield "slot", dimm.slot
    if dimm.addr is not None:
        yield "addr", f"{dimm.addr:#x}"
    if dimm.node:
        yield "node", dimm.node
    # It decides where the NVDIMM is placed, and how much of it the guest sees.
    align = backend.align
    if backend.kind is BackendKind.RAM and ((backend.size or 0) - dimm.label_size) % RAM_ALIGNMENT:
        align = align or RAM_ALIGNMENT
    if align > PAGE:
        yield "align", align
    if backend.readonly:
        yield "readonly", "on"
    if backend.rom is not OnOffAuto.AUTO:
        yield "rom", backend.rom


def write_memory(path: Path, base: memoryview, units: Mapping[int, int]) -> None:
    """A file like ``base`` with ``units`` (offset to 8-byte value) put in; pages of zeros become holes of a new file.

    Durable when: the operating system writes the file back; it is a copy for examination, not a pool to rely on.
    """
    by_page: dict[int, list[int]] = {}
    for offset in units:
        by_page.setdefault(offset // PAGE, []).append(offset)
    with examine(str(path)).begin(mode=0o600) as writing:  # as the NVDIMM's own file
        for at in range(0, len(base), PAGE):
            page = bytearray(base[at : at + PAGE])
            for offset in by_page.get(at // PAGE, ()):
                page[offset - at : offset - at + 8] = units[offset].to_bytes(8, "little")
            if any(page):
                writing.write(page)
            else:
                writing.skip(len(page))
