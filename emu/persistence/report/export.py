"""Writes possible memories to files, so that one command boots what a power failure left."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from emu.config import MachineConfig
from emu.errors import HostError
from emu.host.files import examine
from emu.persistence.lab.investigation import Answer
from emu.units import MIB, PAGE

FILES = r"failure-\d+-.*\.img"
"""Pattern of the names that ``export`` gives."""


def export(answer: Answer, folder: str) -> dict[int, dict[str, Any]]:
    """One file for each failure and NVDIMM in ``folder``; by the failure's number: the files and the command.

    HostError when the folder cannot be written.
    """
    written: dict[int, dict[str, Any]] = {}
    question = answer.question
    if not answer.failures:
        return written
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        for number, failure in enumerate(answer.failures):
            files, options = [], []
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
                label = question.recovery.nvdimms[index].label_size
                options += ["--nvdimm", f"file={path}" + (f",label-size={label}" if label else "")]
            image = question.recovery.image or ""
            ram = question.recovery.ram_size
            memory = [] if ram == MachineConfig().ram_size else ["-m", f"{ram // MIB}M"]
            command = ["emu", "run", image, *memory, *options]
            if question.recovery.cmdline:
                command += ["-append", question.recovery.cmdline]
            written[number] = {"files": files, "command": shlex.join(command)}
    except OSError as error:
        raise HostError(f"{folder}: cannot write the memories: {error.strerror}", "choose another folder") from None
    return written


def write_memory(path: Path, base: memoryview, units: Mapping[int, int]) -> None:
    """A file like ``base`` with ``units`` (offset to 8-byte value) put in; pages of zeros become holes of a new file.

    Durable when: the operating system writes the file back; it is a copy for examination, not a pool to rely on.
    """
    by_page: dict[int, list[int]] = {}
    for offset in units:
        by_page.setdefault(offset // PAGE, []).append(offset)
    with examine(str(path)).begin() as writing:
        for at in range(0, len(base), PAGE):
            page = bytearray(base[at : at + PAGE])
            for offset in by_page.get(at // PAGE, ()):
                page[offset - at : offset - at + 8] = units[offset].to_bytes(8, "little")
            if any(page):
                writing.write(page)
            else:
                writing.skip(len(page))
