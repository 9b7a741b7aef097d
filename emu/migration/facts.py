"""What two machines must agree on before the first page moves, as plain values that travel in the preamble.

The preamble is *amended at the destination*: the destination answers with its own facts, whose files and mappings may
be others. Which differences are fatal is decided in ``emu.migration.policy``.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

from emu.migration.errors import StreamError
from emu.units import PAGE, U64_MAX

MAX_BLOCKS = 64
_TEXT = 4096
_GRANULARITIES = ("cache-line", "page", "none")


@dataclass(frozen=True, slots=True)
class BlockFacts:
    """One block of memory that migrates whole: a backend with data, gap and label area. ``size`` in bytes."""

    name: str
    size: int


@dataclass(frozen=True, slots=True)
class FileFacts:
    """Which file a mapping is of, as fstat(2) and the running kernel tell: a hint, never the proof."""

    device: int
    inode: int
    boot_id: str


@dataclass(frozen=True, slots=True)
class NvdimmFacts:
    """One NVDIMM. ``id`` names it in messages, ``block`` is its backend's name. Sizes and ``gpa`` in bytes.

    ``granularity`` and the three ``survives_*`` say what its mapping guarantees; ``file`` is None without one.
    """

    id: str
    block: str
    size: int
    label_size: int
    uuid: str
    unarmed: bool
    slot: int
    gpa: int
    node: int
    readonly: bool
    granularity: str
    survives_guest_crash: bool
    survives_emulator_kill: bool
    survives_host_power_loss: bool
    share: bool
    file: FileFacts | None


@dataclass(frozen=True, slots=True)
class MachineFacts:
    """One machine. ``persistence`` is the platform's domain (``cpu``, ``mem-ctrl`` or none)."""

    ram_size: int
    clock: str
    persistence: str
    blocks: tuple[BlockFacts, ...]
    nvdimms: tuple[NvdimmFacts, ...]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def decode_facts(raw: Any) -> MachineFacts:
    """The facts of the other side; StreamError unless every field is there, of its type and in its range."""
    values = _object(raw, MachineFacts, "machine")
    blocks = tuple(_block(item) for item in _list(values["blocks"], "blocks"))
    names = [block.name for block in blocks]
    if len(set(names)) != len(names):
        raise StreamError("migration stream: two blocks of memory have the same name")
    return MachineFacts(
        ram_size=_integer(values, "ram_size"),
        clock=_text(values, "clock"),
        persistence=_text(values, "persistence"),
        blocks=blocks,
        nvdimms=tuple(_nvdimm(item) for item in _list(values["nvdimms"], "nvdimms")),
    )


def _block(raw: Any) -> BlockFacts:
    values = _object(raw, BlockFacts, "block")
    block = BlockFacts(_text(values, "name"), _integer(values, "size"))
    if block.size == 0 or block.size % PAGE or block.size // PAGE > 0xFFFFFFFF:
        raise StreamError(f"migration stream: block '{block.name}' of {block.size} bytes is not a number of pages")
    return block


def _nvdimm(raw: Any) -> NvdimmFacts:
    values = _object(raw, NvdimmFacts, "nvdimm")
    texts = {name: _text(values, name) for name in ("id", "block", "uuid", "granularity")}
    numbers = {name: _integer(values, name) for name in ("size", "label_size", "slot", "gpa", "node")}
    flags = {
        name: _flag(values, name)
        for name in (
            "unarmed",
            "readonly",
            "share",
            "survives_guest_crash",
            "survives_emulator_kill",
            "survives_host_power_loss",
        )
    }
    if texts["granularity"] not in _GRANULARITIES:
        raise StreamError(f"migration stream: unknown granularity '{texts['granularity'][:40]}'")
    return NvdimmFacts(**texts, **numbers, **flags, file=_file(values["file"]))  # type: ignore[arg-type]  # three homogeneous dictionaries


def _file(raw: Any) -> FileFacts | None:
    if raw is None:
        return None
    values = _object(raw, FileFacts, "file")
    return FileFacts(_integer(values, "device"), _integer(values, "inode"), _text(values, "boot_id"))


def _object(raw: Any, kind: Any, what: str) -> dict[str, Any]:
    if not isinstance(raw, dict) or raw.keys() != {item.name for item in fields(kind)}:
        raise StreamError(f"migration stream: the description of the {what} has missing or unknown keys")
    return raw


def _list(raw: Any, what: str) -> list[Any]:
    if not isinstance(raw, list) or len(raw) > MAX_BLOCKS:
        raise StreamError(f"migration stream: {what} is not a list of at most {MAX_BLOCKS}")
    return raw


def _integer(values: dict[str, Any], name: str) -> int:
    value = values[name]
    if type(value) is not int or not 0 <= value <= U64_MAX:
        raise StreamError(f"migration stream: {name} is not a 64-bit number")
    return value


def _text(values: dict[str, Any], name: str) -> str:
    value = values[name]
    if not isinstance(value, str) or len(value) > _TEXT:
        raise StreamError(f"migration stream: {name} is not a text")
    return value


def _flag(values: dict[str, Any], name: str) -> bool:
    value = values[name]
    if type(value) is not bool:
        raise StreamError(f"migration stream: {name} is not true or false")
    return value
