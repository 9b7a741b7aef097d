"""What a machine is made of, in the words of the command line.

Each argument is the option, or the key of ``--nvdimm``, of the same name, and goes through the same parser: so a wrong
one gives the same error, and a new one means the same.
"""

from __future__ import annotations

import argparse
import enum
import os
from collections.abc import Sequence
from typing import Literal, TypeAlias, TypeVar

from emu.cli import keyval, options
from emu.config import MachineConfig, PersistenceDomain
from emu.errors import UsageError

Path: TypeAlias = str | bytes | os.PathLike[str] | os.PathLike[bytes]
Size: TypeAlias = int | str
"""Bytes, or a text such as "64M" (powers of 1024)."""
OnOffAuto: TypeAlias = bool | Literal["on", "off", "auto"]
Choice = TypeVar("Choice", bound=enum.StrEnum)


class Nvdimm:
    """An NVDIMM on a file, as ``--nvdimm file=FILE,...`` describes it; no file is touched before a machine is built.

    The arguments are the keys of ``--nvdimm`` (docs/reference/options.md), with their defaults; None leaves one out.
    Sizes are bytes or texts such as "64M", addresses guest-physical. UsageError for a wrong one.
    """

    __slots__ = ("_words",)

    def __init__(
        self,
        file: Path,
        *,
        size: Size | None = None,
        share: bool | None = None,
        sync: OnOffAuto | None = None,
        pmem: bool | None = None,
        unarmed: OnOffAuto | None = None,
        label_size: Size | None = None,
        uuid: str | None = None,
        id: str | None = None,  # noqa: A002 - the key's name
        slot: int | None = None,
        addr: int | None = None,
        node: int | None = None,
        align: Size | None = None,
        offset: Size | None = None,
        readonly: bool | None = None,
        rom: OnOffAuto | None = None,
        prealloc: bool | None = None,
        prealloc_threads: int | None = None,
        reserve: bool | None = None,
        merge: bool | None = None,
        dump: bool | None = None,
        host_nodes: Sequence[int] | None = None,
        policy: Literal["default", "preferred", "bind", "interleave"] | None = None,
        discard_data: bool | None = None,
        discard_shared: bool | None = None,
        share_lock: bool | None = None,
    ) -> None:
        given: dict[str, object] = {
            "file": file, "size": size, "share": share, "sync": sync, "pmem": pmem, "unarmed": unarmed,
            "label-size": label_size, "uuid": uuid, "id": id, "slot": slot, "addr": addr, "node": node, "align": align,
            "offset": offset, "readonly": readonly, "rom": rom, "prealloc": prealloc,
            "prealloc-threads": prealloc_threads, "reserve": reserve, "merge": merge, "dump": dump, "policy": policy,
            "discard-data": discard_data, "discard-shared": discard_shared, "share-lock": share_lock,
        }  # fmt: skip
        given |= {f"host-nodes.{place}": node for place, node in enumerate(host_nodes or ())}
        self._words = {key: _word(f"--nvdimm: {key}", value) for key, value in given.items() if value is not None}
        configuration(None, (self,))

    @property
    def option(self) -> str:
        """The words that mean the same behind ``--nvdimm``."""
        return ",".join(f"{key}={value.replace(',', ',,')}" for key, value in self._words.items())

    def __repr__(self) -> str:
        return f"<emu.Nvdimm {self.option}>"

    def __eq__(self, other: object) -> bool:
        return self.option == other.option if isinstance(other, Nvdimm) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.option)


def configuration(
    image: Path | None,
    nvdimms: Sequence[Nvdimm],
    *,
    memory: Size | None = None,
    append: str | None = None,
    machine: dict[str, object] | None = None,
) -> MachineConfig:
    """The machine that ``emu run IMAGE`` with these options has; ``machine`` are keys of ``-machine``. UsageError."""
    if isinstance(nvdimms, Nvdimm) or not all(isinstance(dimm, Nvdimm) for dimm in nvdimms):
        raise UsageError("nvdimms is not a list of emu.Nvdimm", 'write nvdimms=[emu.Nvdimm("pmem.img", size="64M")]')
    # A bare number behind -m means MiB; here numbers are bytes.
    size = f"{memory}B" if isinstance(memory, int) else memory
    words = {key: _word(f"-machine: {key}", value) for key, value in (machine or {}).items() if value is not None}
    described = argparse.Namespace(
        machine=[f"{key}={value}" for key, value in words.items()],
        nvdimm=[dimm.option for dimm in nvdimms],
        memory=None if size is None else _word("-m", size),
        append=None if append is None else _word("--append", append),
        object=[],
        device=[],
        numa=[],
        smp=None,
        initrd=None,
    )
    return options.machine_config(described, None if image is None else image_path(image))


def image_path(image: Path) -> str:
    """The path of ``image``, a path or the name of a bundled guest; UsageError when it is neither."""
    return options.resolve_image(_word("the image", image))


def choice(kind: type[Choice], text: str, what: str) -> Choice:
    """The member of ``kind`` that ``text`` names; UsageError that names the option ``what``."""
    found: Choice = keyval.choice(kind)(_word(what, text), what)
    return found


def domain_named(text: str) -> PersistenceDomain:
    """The domain that ``--domain`` calls ``text``; UsageError when there is none."""
    known = {domain.platform: domain for domain in PersistenceDomain}
    if text not in known:
        raise UsageError(f"--domain: '{text[:64]}' is not accepted", f"--domain takes {', '.join(sorted(known))}")
    return known[text]


def check_seconds(value: float, what: str, most: float = 1e9) -> None:
    """UsageError unless ``value`` is a number of seconds above 0."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= most:
        raise UsageError(f"{what}: '{str(value)[:32]}' is not a positive number of seconds", "give a number above 0")


def _word(what: str, value: object) -> str:
    """``value`` as it is written on a command line."""
    match value:
        case bool():
            return "on" if value else "off"
        case int():
            return str(value)
        case str() | bytes() | os.PathLike():
            return os.fsdecode(value)
    raise UsageError(f"{what}: {value!r:.64} is neither a text nor a number", "see docs/reference/python.md")
