"""Which machine the power fails on: platform domain, order of persists and what the memory is mapped from."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from emu.config import PersistenceDomain
from emu.persistence.model.blocks import Blocks
from emu.persistence.model.events import UNIT, page_of
from emu.units import CACHE_LINE, PAGE


class Order(enum.StrEnum):
    """Stores that persist in program order: those to one cache line (hardware), or only those to one 8-byte unit
    (Px86).
    """

    LINE = "line"
    LOCATION = "location"


class Media(enum.StrEnum):
    """What backs the guest's NVDIMM on its host; see the explanation of the persistence model."""

    DAX_SYNC = "dax-sync"
    DAX = "dax"
    PAGE_CACHE = "page-cache"


class FailedCas(enum.StrEnum):
    """What a locked compare-and-swap that fails is worth: a full barrier (hardware) or a plain load (formal models)."""

    BARRIER = "barrier"
    LOAD = "load"


@dataclass(frozen=True, slots=True)
class Rules:
    """The rules in force. Stores that share a *component* are ordered with each other; components that share a *cell*
    are lost or kept together by the medium. Both are named by the address they start at (0 for all of memory).

    Stores by code at ``trusted_from`` and above (a kernel's) count as durable at once, and so does what waits in their
    cache lines: power fails between them only where a program's own stores are at stake.

    ``blocks`` are block writes that are not looked at exactly; of one trace, and with the default domain, order and
    media.
    """

    domain: PersistenceDomain = PersistenceDomain.ADR
    order: Order = Order.LINE
    media: Media = Media.DAX_SYNC
    failed_cas: FailedCas = FailedCas.BARRIER
    trusted_from: int | None = None
    blocks: Blocks | None = None
    component_mask: int = field(init=False, repr=False, compare=False)
    """The bits of a unit's address that name its component, unless it is a block's."""

    def __post_init__(self) -> None:
        mask = -CACHE_LINE if self.order is Order.LINE else -UNIT
        if self.media is Media.PAGE_CACHE:
            mask = -PAGE
        elif self.domain is PersistenceDomain.EADR:
            mask = 0
        # It is asked for with every read of a crash state.
        object.__setattr__(self, "component_mask", mask)

    def piece(self, event: int) -> int | None:
        """The event that stands for all that persists together with this store of a block write; None for another."""
        return None if self.blocks is None else self.blocks.pieces.get(event)

    def is_block(self, unit: int) -> bool:
        """Whether only block writes store to the unit's page."""
        return self.blocks is not None and page_of(unit) in self.blocks.pages

    def trusts(self, pc: int) -> bool:
        return self.trusted_from is not None and pc >= self.trusted_from

    @property
    def stores_are_alike(self) -> bool:
        """Whether it is all one which instruction, of which code, has made a store."""
        return self.blocks is None and self.trusted_from is None

    def component(self, unit: int) -> int:
        return unit & self.component_mask if self.blocks is None or not self.is_block(unit) else page_of(unit)

    def cell(self, unit: int) -> int:
        if self.media is Media.DAX_SYNC or self.domain is PersistenceDomain.EADR:
            return self.component(unit)
        return page_of(unit)

    @property
    def lost_together(self) -> str:
        """What a cell is, in a word."""
        if self.media is Media.PAGE_CACHE:
            return "page"
        if self.domain is PersistenceDomain.EADR:
            return "memory"
        if self.media is Media.DAX:
            return "page"
        return "cache line" if self.order is Order.LINE else "8-byte unit"

    @property
    def flushes_count(self) -> bool:
        """Whether flushes and fences make anything durable; in a page cache only the host's write-back does."""
        return self.media is not Media.PAGE_CACHE

    @property
    def flushes_needed(self) -> bool:
        """Whether a store waits for a flush of its line; under eADR a fence is enough."""
        return self.domain is PersistenceDomain.ADR

    @property
    def pages_can_be_lost(self) -> bool:
        return self.media is Media.DAX
