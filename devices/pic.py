"""The two 8259A interrupt controllers of a PC (Intel 8259A data sheet) and their edge/level registers (ELCR).

The board's wiring is fixed: the slave's output is the master's input 2, and each chip's trigger mode comes from ELCR
line by line, so LTIM of ICW1 is ignored, as chip sets do. An edge stays latched when its line drops again before it is
acknowledged.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from emu.acpi.dsdt import isa_device
from emu.devices.contract import Line, Output, Window
from emu.errors import StateError
from emu.state import Apply, Fields, SavedState, Value

CASCADE = 2
SPURIOUS = 7
# Lines 0, 1, 2, 8 and 13 are the chip set's own and always edge-triggered.
_ELCR_BITS = (0xF8, 0xDE)
# What PC firmware leaves behind: vectors 8 and 70h, everything masked but the cascade.
_BASES, _MASKS = (0x08, 0x70), (0xFB, 0xFF)

_ICW1, _ICW1_SINGLE, _ICW1_ICW4 = 0x10, 0x02, 0x01
_ICW4_AUTO_EOI, _ICW4_NESTED = 0x02, 0x10
_OCW3, _OCW3_POLL, _OCW3_READ, _OCW3_ISR, _OCW3_MASK_MODE, _OCW3_MASK = 0x08, 0x04, 0x02, 0x01, 0x40, 0x20
_REGISTERS = ("irr", "imr", "isr", "lines", "elcr", "base", "lowest")
_HIGHEST = {"lowest": 7}
_FLAGS = ("read_isr", "poll", "auto_eoi", "rotate_on_auto_eoi", "special_mask", "fully_nested", "wants_icw4", "single")


class Chip:
    """One 8259A; ``number`` 0 is the master. A line is 0 to 7, ``lowest`` the line of lowest priority."""

    def __init__(self, number: int) -> None:
        self._number = number
        # The master's request from the slave follows the slave's output, which drops at every acknowledge.
        self._cascade = 1 << CASCADE if number == 0 else 0
        self.reset()

    def reset(self) -> None:
        self.irr = self.isr = self.lines = self.elcr = 0
        self.imr = _MASKS[self._number]
        self.base = _BASES[self._number]
        self.lowest = 7
        self.init_step = 0
        self.read_isr = self.poll = self.auto_eoi = self.rotate_on_auto_eoi = False
        self.special_mask = self.fully_nested = self.wants_icw4 = self.single = False

    def set_line(self, line: int, level: bool) -> None:
        bit = 1 << line
        if (self.elcr | self._cascade) & bit:
            self.irr = self.irr | bit if level else self.irr & ~bit
        elif level and not self.lines & bit:
            self.irr |= bit
        self.lines = self.lines | bit if level else self.lines & ~bit

    def _first(self, mask: int) -> int:
        """The priority (0 is highest) of the first line in ``mask``, 8 when there is none."""
        if not mask:
            return 8
        start = (self.lowest + 1) & 7
        turned = (mask | mask << 8) >> start & 0xFF
        return (turned & -turned).bit_length() - 1

    def requested(self) -> int | None:
        """The line that the chip would deliver now: requested, not masked, above everything in service."""
        waiting = self._first(self.irr & ~self.imr)
        serving = self.isr
        if self.special_mask:
            serving &= ~self.imr
        if self.fully_nested:
            serving &= ~self._cascade
        return (self.lowest + 1 + waiting) & 7 if waiting < self._first(serving) else None

    def acknowledge(self, line: int) -> None:
        bit = 1 << line
        if not (self.elcr | self._cascade) & bit:
            self.irr &= ~bit
        if not self.auto_eoi:
            self.isr |= bit
        elif self.rotate_on_auto_eoi:
            self.lowest = line

    def read(self, offset: int) -> int:
        if self.poll:
            self.poll = False
            line = self.requested()
            if line is None:
                return 0
            self.acknowledge(line)
            return 0x80 | line
        if offset:
            return self.imr
        return self.isr if self.read_isr else self.irr

    def write(self, offset: int, value: int) -> None:
        if offset:
            self._write_data(value)
        elif value & _ICW1:
            self._start(value)
        elif value & _OCW3:
            if value & _OCW3_POLL:
                self.poll = True
            if value & _OCW3_READ:
                self.read_isr = bool(value & _OCW3_ISR)
            if value & _OCW3_MASK_MODE:
                self.special_mask = bool(value & _OCW3_MASK)
        else:
            self._end_of_interrupt(value >> 5, value & 7)

    def _start(self, value: int) -> None:
        self.irr &= (self.elcr | self._cascade) & self.lines
        self.imr = self.isr = 0
        self.lowest = 7
        self.read_isr = self.poll = self.auto_eoi = self.rotate_on_auto_eoi = False
        self.special_mask = self.fully_nested = False
        self.wants_icw4 = bool(value & _ICW1_ICW4)
        self.single = bool(value & _ICW1_SINGLE)
        self.init_step = 2

    def _write_data(self, value: int) -> None:
        if self.init_step == 0:
            self.imr = value
        elif self.init_step == 2:
            self.base = value & 0xF8
            self.init_step = 3 if not self.single else 4 if self.wants_icw4 else 0
        elif self.init_step == 3:
            self.init_step = 4 if self.wants_icw4 else 0
        else:
            self.auto_eoi = bool(value & _ICW4_AUTO_EOI)
            self.fully_nested = bool(value & _ICW4_NESTED)
            self.init_step = 0

    def _end_of_interrupt(self, command: int, line: int) -> None:
        match command:
            case 0 | 4:
                self.rotate_on_auto_eoi = command == 4
            case 1 | 5:
                serving = self.isr & ~self.imr if self.special_mask else self.isr
                priority = self._first(serving)
                if priority < 8:
                    line = (self.lowest + 1 + priority) & 7
                    self.isr &= ~(1 << line)
                    if command == 5:
                        self.lowest = line
            case 3 | 7:
                self.isr &= ~(1 << line)
                if command == 7:
                    self.lowest = line
            case 6:
                self.lowest = line
            case _:
                pass  # no operation

    def set_elcr(self, value: int) -> None:
        self.elcr = value & _ELCR_BITS[self._number]
        # A line that became level-triggered requests exactly while it is high.
        self.irr = self.irr & ~self.elcr | self.lines & self.elcr


def dsdt_device(ports: Sequence[range], irq: int) -> bytes:
    """The pair in the DSDT: the ports of its three windows, and the line that the cascade takes."""
    return isa_device("PIC0", "PNP0000", ports, irq)


class PicPair:
    """Master and slave, with windows for the master, the slave and ELCR. ``output`` is the processor's INTR pin.

    The processor asks ``pending()`` and takes an interrupt with ``acknowledge()``, which gives its vector. When the
    request went away in between, that is the vector of line 7 of the chip asked (IRQ 7 or 15) with nothing in service:
    a spurious interrupt.
    """

    def __init__(self, output: Line) -> None:
        self._output = Output(output)
        self._chips = (Chip(0), Chip(1))
        self.windows = (
            Window(1, partial(self._read, 0), partial(self._write, 0)),
            Window(1, partial(self._read, 1), partial(self._write, 1)),
            Window(1, self._read_elcr, self._write_elcr),
        )

    def reset(self) -> None:
        """Requests are gone; the levels on the lines are the devices' own, and they are reset as well."""
        for chip in self._chips:
            chip.reset()
        self._update()

    # The board's and the processor's side

    def line(self, irq: int) -> Line:
        """The input for IRQ ``irq`` (0 to 15, not 2: that is the cascade)."""
        if not 0 <= irq < 16 or irq == CASCADE:
            raise ValueError(f"no interrupt line {irq}")
        chip, number = self._chips[irq // 8], irq % 8

        def set_level(level: bool) -> None:
            chip.set_line(number, level)
            self._update()

        return set_level

    def pending(self) -> bool:
        """Whether INTR is high."""
        return self._output.level

    def acknowledge(self) -> int:
        """The processor's interrupt acknowledge cycle: the vector to deliver."""
        master, slave = self._chips
        line = master.requested()
        if line is None:
            return master.base | SPURIOUS
        if line == CASCADE:
            behind = slave.requested()
            if behind is not None:
                slave.acknowledge(behind)
            vector = slave.base | (SPURIOUS if behind is None else behind)
        else:
            vector = master.base | line
        master.acknowledge(line)
        self._update()
        return vector

    def _wants_processor(self) -> bool:
        master, slave = self._chips
        master.set_line(CASCADE, slave.requested() is not None)
        return master.requested() is not None

    def _update(self) -> None:
        self._output.set(self._wants_processor())

    # The guest's side

    def _read(self, number: int, offset: int, size: int) -> int:
        value = self._chips[number].read(offset)
        self._update()
        return value

    def _write(self, number: int, offset: int, size: int, value: int) -> None:
        self._chips[number].write(offset, value & 0xFF)
        self._update()

    def _read_elcr(self, offset: int, size: int) -> int:
        return self._chips[offset].elcr

    def _write_elcr(self, offset: int, size: int, value: int) -> None:
        self._chips[offset].set_elcr(value)
        self._update()

    # State

    def save(self) -> SavedState:
        fields: dict[str, Value] = {"init_step": [chip.init_step for chip in self._chips]}
        for name in (*_REGISTERS, *_FLAGS):
            fields[name] = [int(getattr(chip, name)) for chip in self._chips]
        return SavedState("pic", 1, fields)

    def parse(self, state: SavedState) -> Apply:
        take = Fields(state, kind="pic", version=1)
        steps = take.integers("init_step", 2, high=4)
        registers = {name: take.integers(name, 2, high=_HIGHEST.get(name, 0xFF)) for name in _REGISTERS}
        flags = {name: take.integers(name, 2, high=1) for name in _FLAGS}
        take.finish()
        if 1 in steps or any(value & ~bits for value, bits in zip(registers["elcr"], _ELCR_BITS, strict=True)):
            raise StateError("saved state of 'pic': a register holds what it cannot hold")
        if any(base & 7 for base in registers["base"]):
            raise StateError("saved state of 'pic': a vector base is not a multiple of 8")

        def apply() -> None:
            for number, chip in enumerate(self._chips):
                chip.init_step = steps[number]
                for name in _REGISTERS:
                    setattr(chip, name, registers[name][number])
                for name in _FLAGS:
                    setattr(chip, name, bool(flags[name][number]))
            self._output.force(self._wants_processor())

        return apply

    def inspect(self) -> dict[str, object]:
        chips = {
            name: {field: getattr(chip, field) for field in (*_REGISTERS, *_FLAGS)}
            for name, chip in zip(("master", "slave"), self._chips, strict=True)
        }
        return {**chips, "interrupt": self._output.level}
