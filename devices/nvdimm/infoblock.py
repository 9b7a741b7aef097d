"""The info block that makes a namespace fsdax or devdax: where its data begin, in Linux's nd_pfn_sb of version 1.4.

It lies 4 KiB behind the start of the namespace. Whether the block and the namespace belong together is said by
``parent_uuid``: the UUID in the namespace's label, all zero without labels. (Facts: what Linux 6.1 writes when
``ndctl create-namespace`` asks for it; compared byte by byte in tests/oracle/test_oracle_linux.py.)
"""

from __future__ import annotations

from uuid import UUID

from emu.devices.nvdimm.fletcher import fletcher64
from emu.devices.nvdimm.namespace import Mode
from emu.structure import Structure, octets, rfc4122, structure, u16, u32, u64
from emu.units import KIB, MIB, PAGE, align_up

OFFSET = 4 * KIB
SIZE = 4 * KIB
ALIGNMENT = 2 * MIB
"""Of the data, so that huge pages fit; and of a namespace's end, since Linux maps memory in such pieces."""
_HEAD = 8 * KIB
"""What Linux keeps free before the data: two pages, the info block in the second one."""
_SIGNATURES = {Mode.FSDAX: b"NVDIMM_PFN_INFO\0", Mode.DEVDAX: b"NVDIMM_DAX_INFO\0"}
_MAP_IN_RAM = 1
_STRUCT_PAGE = 64


@structure
class InfoBlock(Structure):
    """``mode`` 1: the page descriptors are in RAM. ``data_offset``, ``start_pad`` and ``end_trunc`` in bytes."""

    signature: bytes = octets(0, 16)
    uuid: UUID = rfc4122(16)
    parent_uuid: UUID = rfc4122(32)
    flags: int = u32(48, default=0)
    major: int = u16(52, default=1)
    minor: int = u16(54, default=4)
    data_offset: int = u64(56)
    pages: int = u64(64)
    mode: int = u32(72)
    start_pad: int = u32(76, default=0)
    end_trunc: int = u32(80, default=0)
    alignment: int = u32(84, default=ALIGNMENT)
    page_size: int = u32(88, default=PAGE)
    page_struct_size: int = u16(92, default=_STRUCT_PAGE)
    padding: bytes = octets(94, 3994, default=bytes(3994))
    checksum: int = u64(4088, default=0)

    @property
    def use(self) -> Mode:
        """FSDAX or DEVDAX."""
        return next(mode for mode, signature in _SIGNATURES.items() if signature == self.signature)


def make(mode: Mode, start: int, size: int, uuid: UUID, parent: UUID) -> InfoBlock:
    """The info block of a namespace of ``size`` bytes at guest-physical ``start``: FSDAX or DEVDAX, page map in RAM.

    ``size`` is above ``overhead(start)``.
    """
    data = overhead(start)
    cut = (start + size) % ALIGNMENT
    block = InfoBlock(
        signature=_SIGNATURES[mode],
        uuid=uuid,
        parent_uuid=parent,
        data_offset=data,
        pages=(size - data - cut) // PAGE,
        mode=_MAP_IN_RAM,
        end_trunc=cut,
    )
    return _with_checksum(block)


def overhead(start: int) -> int:
    """Bytes before the data of a namespace at guest-physical ``start``."""
    return align_up(start + _HEAD, ALIGNMENT) - start


def read(raw: bytes, parent: UUID) -> InfoBlock | None:
    """The valid info block in ``raw`` (``SIZE`` bytes) of the namespace with the label ``parent``, None without one."""
    if not is_meant(raw) or len(raw) != SIZE:
        return None
    block = InfoBlock.unpack_from(raw)
    return block if block == _with_checksum(block) and block.parent_uuid == parent else None


def is_meant(raw: bytes) -> bool:
    """Whether ``raw`` begins as an info block does, valid or not."""
    return raw[:16] in _SIGNATURES.values()


def _with_checksum(block: InfoBlock) -> InfoBlock:
    raw = block.pack()
    return block.replace(checksum=fletcher64(raw[:-8] + bytes(8)))
