"""Frozen descriptions of a machine: what is asked for, before any file is opened.

The words and defaults are QEMU's (``-object memory-backend-file``, ``-device nvdimm``, ``-machine``, ``-m``); ``sync``
is the option of the patch thread that gave QEMU's file backend its MAP_SYNC mapping.
"""

from __future__ import annotations

from emu.enumeration import Enum, StrEnum, auto
from emu.errors import UsageError
from emu.hints import Any, ClassVar, dataclass_transform
from emu.record import NamedTuple, Record
from emu.units import GIB, MIB, U32_MAX, U64_MAX


class OnOffAuto(StrEnum):
    ON = "on"
    OFF = "off"
    AUTO = "auto"


class BackendKind(StrEnum):
    FILE = "memory-backend-file"
    RAM = "memory-backend-ram"


class Policy(StrEnum):
    """NUMA memory policy of a backend; the numbers of mbind(2) belong to the host core."""

    DEFAULT = "default"
    PREFERRED = "preferred"
    BIND = "bind"
    INTERLEAVE = "interleave"


class PersistenceDomain(StrEnum):
    """What the platform flushes by itself when power fails (NFIT platform capabilities): ADR the memory controller's
    queue, eADR the CPU caches too. The value is QEMU's word for it, ``platform`` that of ``--domain`` and emu.crash/1.
    """

    EADR = "cpu"
    ADR = "mem-ctrl"

    @property
    def platform(self) -> str:
        """``adr`` or ``eadr``."""
        return self.name.lower()


class Clock(StrEnum):
    """``virtual`` time follows the instructions executed (deterministic), ``real`` the host's monotonic clock."""

    VIRTUAL = "virtual"
    REAL = "real"


class Kind(Enum):
    """What the value of a property is. Each door (option, QMP, QOM) knows once how it takes a value of each kind."""

    IDENTIFIER = auto()
    PATH = auto()
    UUID = auto()
    SIZE = auto()
    ADDRESS = auto()
    NUMBER = auto()
    SLOT = auto()
    NODE = auto()
    HOST_NODES = auto()
    FLAG = auto()
    FLAG_OR_AUTO = auto()  # a boolean in QEMU, to which emu adds "auto"
    ON_OFF_AUTO = auto()
    POLICY = auto()


class Property(NamedTuple):
    """One row for each property: options, QMP, QOM, checks and reference pages derive from it, so they cannot differ.

    It is what the config's field is declared by: ``field`` is that one's name and ``default`` its default, ``name``
    QEMU's name. ``low`` and ``high`` bound the numbers in a value. ``short`` is the default in ``--nvdimm`` where it is
    another. A ``shown`` property is one of the finished object (qom-get); a ``settable`` one can be changed while the
    memory exists (qom-set).
    """

    kind: Kind
    summary: str
    name: str = ""
    field: str = ""
    default: Any = None
    short: Any = None
    low: int = 0
    high: int = U64_MAX
    file_only: bool = False
    required: bool = False
    settable: bool = False
    shown: bool = True


def _row(kind: Kind, summary: str, *, default: Any, **more: Any) -> Any:
    """A field that is a property."""
    return Property(kind, summary, default=default, **more)


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(_row,))
class _Described(Record):
    """A record of properties."""

    ROWS: ClassVar[tuple[Property, ...]]

    def __init_subclass__(cls) -> None:
        rows: list[Property] = []
        for field, row in list(vars(cls).items()):
            if isinstance(row, Property):
                rows.append(row._replace(name=row.name or field.replace("_", "-"), field=field))
                setattr(cls, field, row.default)
        cls.ROWS = tuple(rows)
        super().__init_subclass__(kw_only=True)


MAX_NODES = 128
"""NUMA nodes, the host's and the guest's, are numbered below this, as in QEMU."""
MAX_SLOTS = 256
MAX_RAM = 64 * GIB


class BackendConfig(_Described):
    """One memory backend. Sizes in bytes; ``size`` None means the file's own size. ``align`` 0 means the page size.

    ``discard_shared`` is the explicit consent without which ``discard_data`` on a shared file is refused: QEMU zeroes
    the file there without asking. ``keep_blank``, which is no property: a file that is missing or empty stays so, and
    zeros that nobody else sees are mapped in its place.
    """

    id: str
    kind: BackendKind = BackendKind.FILE
    keep_blank: bool = False
    size: int | None = _row(
        Kind.SIZE,
        "bytes of the backend; without it --nvdimm takes the file's own size",
        low=1,
        required=True,
        default=None,
    )
    share: bool = _row(Kind.FLAG, "map shared (stores reach the file) or private", short=True, default=False)
    merge: bool | None = _row(Kind.FLAG, "let the host merge equal pages (KSM)", settable=True, default=None)
    dump: bool | None = _row(Kind.FLAG, "include the memory in host core dumps", settable=True, default=None)
    prealloc: bool = _row(Kind.FLAG, "allocate every block before the guest starts", settable=True, default=False)
    prealloc_threads: int = _row(
        Kind.NUMBER, "threads that allocate the blocks", low=1, high=U32_MAX, settable=True, default=1
    )
    reserve: bool = _row(Kind.FLAG, "reserve swap space for private memory", default=True)
    host_nodes: tuple[int, ...] = _row(
        Kind.HOST_NODES,
        "host NUMA nodes; a list: host-nodes.0=0,host-nodes.1=1",
        high=MAX_NODES - 1,
        settable=True,
        default=(),
    )
    policy: Policy = _row(Kind.POLICY, "host NUMA policy", settable=True, default=Policy.DEFAULT)
    path: str | None = _row(
        Kind.PATH,
        "backing file or /dev/daxX.Y; created when missing and size is given",
        name="mem-path",
        file_only=True,
        required=True,
        default=None,
    )
    sync: OnOffAuto = _row(
        Kind.ON_OFF_AUTO,
        "map with MAP_SYNC: consistent file-system metadata for every guest write",
        file_only=True,
        default=OnOffAuto.AUTO,
    )
    pmem: bool = _row(
        Kind.FLAG,
        "the file is on persistent memory (QEMU's word; the mapping decides what is true)",
        file_only=True,
        default=False,
    )
    align: int = _row(Kind.SIZE, "alignment of the mapping; a power of two, at least a page", file_only=True, default=0)
    offset: int = _row(
        Kind.SIZE, "where in the file the backend starts; a multiple of the page size", file_only=True, default=0
    )
    readonly: bool = _row(
        Kind.FLAG, "open the file read-only; needs unarmed=on unless rom=off", file_only=True, default=False
    )
    rom: OnOffAuto = _row(
        Kind.ON_OFF_AUTO, "drop guest stores; auto follows readonly", file_only=True, default=OnOffAuto.AUTO
    )
    discard_data: bool = _row(
        Kind.FLAG,
        "throw the content away at exit; on a shared file also say discard-shared=on",
        file_only=True,
        settable=True,
        default=False,
    )
    # The two consents are emu's own and no properties of the finished backend.
    discard_shared: bool = _row(
        Kind.FLAG, "consent that discard-data zeroes the shared file", file_only=True, shown=False, default=False
    )
    share_lock: bool = _row(
        Kind.FLAG,
        "allow another emu that says the same to use the file at the same time",
        file_only=True,
        shown=False,
        default=False,
    )

    @property
    def is_rom(self) -> bool:
        """Whether guest stores are dropped: ``rom=on``, or ``auto`` with ``readonly=on``."""
        return self.readonly if self.rom is OnOffAuto.AUTO else self.rom is OnOffAuto.ON

    @property
    def changes_file(self) -> bool:
        """Whether guest stores reach the file."""
        return self.path is not None and self.share and not self.readonly and not self.is_rom


class NvdimmConfig(_Described):
    """One NVDIMM on its backend. ``slot`` and ``addr`` None mean automatic placement; ``uuid`` None is all zero."""

    backend: BackendConfig
    id: str | None = _row(Kind.IDENTIFIER, "name of the device", shown=False, default=None)
    label_size: int = _row(Kind.SIZE, "label storage area at the end of the backend; at least 128K", default=0)
    unarmed: OnOffAuto = _row(
        Kind.FLAG_OR_AUTO,
        "tell the guest not to rely on persistence; auto arms what keeps its promise",
        default=OnOffAuto.OFF,
    )
    uuid: str | None = _row(Kind.UUID, "identity of the NVDIMM", default=None)
    slot: int | None = _row(Kind.SLOT, "slot number; default: first free", high=MAX_SLOTS - 1, default=None)
    addr: int | None = _row(Kind.ADDRESS, "guest physical address; default: first fit", default=None)
    node: int = _row(Kind.NODE, "guest NUMA node", high=U32_MAX, default=0)


BACKEND_PROPERTIES = BackendConfig.ROWS
NVDIMM_PROPERTIES = NvdimmConfig.ROWS


def backend_properties(kind: BackendKind) -> tuple[Property, ...]:
    """What a backend of this kind has."""
    return tuple(row for row in BACKEND_PROPERTIES if kind is BackendKind.FILE or not row.file_only)


def is_identifier(text: str) -> bool:
    """Whether QEMU takes ``text`` as an id."""
    letters = text.replace(".", "").replace("_", "").replace("-", "")
    return text[:1].isalpha() and text.isascii() and letters.isalnum() and len(text) <= 256


def is_uuid(text: str) -> bool:
    """Whether ``text`` is a UUID as RFC 4122 writes it, 8-4-4-4-12 hexadecimal digits."""
    parts = text.split("-")
    return list(map(len, parts)) == [8, 4, 4, 4, 12] and set("".join(parts)) <= set("0123456789abcdefABCDEF")


def module_texts(initrd: str) -> list[str]:
    """What QEMU's ``-initrd`` lists for a Multiboot image: "FILE TEXT,FILE TEXT" with ",," for a comma in one."""
    return [text.replace("\0", ",") for text in initrd.replace(",,", "\0").split(",")]


class MachineConfig(Record, kw_only=True):
    """A whole machine. ``image`` None means none yet (a machine that waits for an incoming migration).

    ``exit_ports`` lists the (first port, number of ports) of debug-exit devices. ``initrd`` is the initial RAM disk:
    its path, for Multiboot images the modules as QEMU's ``-initrd`` lists them, or the bytes themselves.
    """

    image: str | None = None
    initrd: str | bytes | None = None
    cmdline: str = ""
    ram_size: int = 128 * MIB
    slots: int = 0
    max_memory: int | None = None
    numa_nodes: int = 0
    nvdimm_enabled: bool = True
    persistence: PersistenceDomain | None = None
    nvdimms: tuple[NvdimmConfig, ...] = ()
    clock: Clock = Clock.VIRTUAL
    exit_ports: tuple[tuple[int, int], ...] = ((0xF4, 4),)

    def __post_init__(self) -> None:
        """UsageError when the sizes cannot be, whoever describes the machine."""
        if not MIB <= self.ram_size <= MAX_RAM:
            raise UsageError(f"{self.ram_size} bytes of RAM is out of range", "give 1M to 64G, as in -m 256M")
        if self.max_memory is not None and self.max_memory < self.ram_size:
            raise UsageError("maxmem is smaller than the RAM size", "raise maxmem= in -m, or leave it away")

    @property
    def domain(self) -> PersistenceDomain:
        """What the platform saves by itself: as ``persistence`` tells the guest, ADR where that says nothing."""
        return self.persistence or PersistenceDomain.ADR


class RunOptions(Record, kw_only=True):
    """How a machine is run, apart from what it is.

    ``no_reboot``: a reset ends the run. ``start_paused``: the guest stands still until it is resumed. ``incoming``: the
    address of the migration that the machine waits for instead of booting, or "defer" when a monitor will name it.
    ``accept_incomplete``: take a backing file that an unfinished migration marked; the mark is the caller's to clear,
    once the guest surely runs. ``patience``: how many events of devices a wait in HLT may last without an interrupt,
    None for ever; nobody interrupts a machine that is driven by ``step`` alone.
    """

    no_reboot: bool = False
    start_paused: bool = False
    incoming: str | None = None
    accept_incomplete: bool = False
    patience: int | None = None
