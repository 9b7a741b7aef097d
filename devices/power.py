"""ACPI fixed hardware (ACPI 6.4 section 4.8) and the reset control register of a PC's chip set.

    PM1 event    status (16 bit) and enable (16 bit)          GPE0   status (8 bytes) and enable (8 bytes)
    PM1 control  (16 bit)                                     PCI    configuration address and data; its second byte
    PM timer     (24 bit, 3.579545 MHz)                              is the reset control register

The machine is in ACPI mode from the start: there is no firmware that would answer an SMI, so the FADT's SMI_CMD is 0,
which says that there is no legacy mode to leave, and SCI_EN reads 1 always (ACPI 6.4 section 4.8.2.5).
"""

from __future__ import annotations

from emu.acpi.hardware import GPE0_LENGTH, S5_TYPE
from emu.devices.contract import End, ExitRequest, Line, Now, Output, Reset, Window, take_bits
from emu.devices.pcihost import PciHost
from emu.state import Apply, Fields, SavedState

_PCI_ADDRESS, _RESET_CONTROL, _PCI_DATA = 0, 1, 4  # offsets in the PCI configuration window

TIMER_HZ = 3_579_545
TIMER_BITS = 24

TIMER_STS, GLOBAL_STS, POWER_BUTTON_STS, SLEEP_BUTTON_STS, RTC_STS, WAKE_STS = (1 << n for n in (0, 5, 8, 9, 10, 15))
PM1_STATUS_BITS = TIMER_STS | GLOBAL_STS | POWER_BUTTON_STS | SLEEP_BUTTON_STS | RTC_STS | WAKE_STS
PM1_ENABLE_BITS = TIMER_STS | GLOBAL_STS | POWER_BUTTON_STS | SLEEP_BUTTON_STS | RTC_STS
SCI_EN = 0x0001
SLEEP_ENABLE = 0x2000
# SCI_EN, BM_RLD, and SLP_TYP can be read back; GBL_RLS and SLP_EN are write-only.
_CONTROL_BITS = 0x1C03
_RESET_CPU = 0x04
_RESET_STORED = 0x0A
_HALF = 1 << (TIMER_BITS - 1)
_SECOND = 1_000_000_000


class Power:
    """Windows for PM1 event, PM1 control, PM timer, GPE0 and PCI configuration. ``sci`` is level-triggered.

    Sleeping with SLP_TYP 0 is S5: ``end`` is asked for a power-off with status 0. No other sleep state exists, and
    asking for one does nothing. A write to reset control with bit 2 set calls ``reset``.
    """

    def __init__(self, *, sci: Line, end: End, reset: Reset, now: Now) -> None:
        self._sci = Output(sci)
        self._end = end
        self._reset_machine = reset
        self._now = now
        self.windows = (
            Window(2, self._read_event, self._write_event),
            Window(2, self._read_control, self._write_control),
            Window(4, self._read_timer, _ignore),
            Window(1, self._read_gpe, self._write_gpe),
            # Only a byte access is the reset register: the address that it lies in is written in 32 bits.
            Window(4, self._read_pci, self._write_pci),
        )
        self._power_on()

    def _power_on(self) -> None:
        self._status = self._enable = 0
        self._control = SCI_EN
        self._gpe = bytearray(GPE0_LENGTH)
        self._reset_control = 0
        self._pci = PciHost()
        self._flip = self._next_flip(self._now())

    def reset(self) -> None:
        """The timer runs on: it counts from power-on."""
        self._power_on()
        self._update()

    # Events from outside

    def press_power_button(self) -> None:
        """What ``system_powerdown`` does: the guest gets an SCI if it enabled the button, and shuts down by itself."""
        self._status |= POWER_BUTTON_STS
        self._update()

    def raise_gpe(self, bit: int) -> None:
        """Set general-purpose event ``bit`` (0 to 63); its handler in AML is ``\\_GPE._Exx``."""
        if not 0 <= bit < 4 * GPE0_LENGTH:
            raise ValueError(f"no general-purpose event {bit}")
        self._gpe[bit // 8] |= 1 << (bit % 8)
        self._update()

    def _wants_sci(self) -> bool:
        half = GPE0_LENGTH // 2
        events = any(status & enable for status, enable in zip(self._gpe[:half], self._gpe[half:], strict=True))
        return events or bool(self._status & self._enable)

    def _update(self) -> None:
        self._sci.set(self._wants_sci())

    # Time: the timer's status bit is set whenever its highest bit changes

    def _ticks(self) -> int:
        return self._now() * TIMER_HZ // _SECOND

    @staticmethod
    def _next_flip(now: int) -> int:
        return (now * TIMER_HZ // _SECOND // _HALF + 1) * _HALF

    def next_event(self) -> int | None:
        if not self._enable & TIMER_STS or self._status & TIMER_STS:
            return None
        return -(-self._flip * _SECOND // TIMER_HZ)

    def catch_up(self, now: int) -> None:
        if now * TIMER_HZ // _SECOND >= self._flip:
            self._status |= TIMER_STS
            self._flip = self._next_flip(now)
            self._update()

    # Registers

    def _read_event(self, offset: int, size: int) -> int:
        self.catch_up(self._now())
        return (self._enable << 16 | self._status) >> (8 * offset)

    def _write_event(self, offset: int, size: int, value: int) -> None:
        self.catch_up(self._now())
        mask = ((1 << (8 * size)) - 1) << (8 * offset)
        moved = value << (8 * offset) & mask
        self._status &= ~moved
        enable = (self._enable << 16) & ~mask | moved
        self._enable = enable >> 16 & PM1_ENABLE_BITS
        self._update()

    def _read_control(self, offset: int, size: int) -> int:
        return self._control >> (8 * offset)

    def _write_control(self, offset: int, size: int, value: int) -> None:
        mask = ((1 << (8 * size)) - 1) << (8 * offset)
        moved = value << (8 * offset) & mask
        self._control = (self._control & ~mask | moved) & _CONTROL_BITS | SCI_EN
        if moved & SLEEP_ENABLE and (self._control >> 10) & 7 == S5_TYPE:
            self._end(ExitRequest("power-off", 0))

    def _read_timer(self, offset: int, size: int) -> int:
        return (self._ticks() & ((1 << TIMER_BITS) - 1)) >> (8 * offset)

    def _read_gpe(self, offset: int, size: int) -> int:
        return self._gpe[offset]

    def _write_gpe(self, offset: int, size: int, value: int) -> None:
        if offset < GPE0_LENGTH // 2:
            self._gpe[offset] &= ~value & 0xFF
        else:
            self._gpe[offset] = value & 0xFF
        self._update()

    def _read_pci(self, offset: int, size: int) -> int:
        if offset == _RESET_CONTROL and size == 1:
            return self._reset_control
        if offset >= _PCI_DATA:
            return self._pci.read(offset - _PCI_DATA, size)
        return self._pci.address if size == 4 else 0xFFFF_FFFF

    def _write_pci(self, offset: int, size: int, value: int) -> None:
        if offset == _PCI_ADDRESS and size == 4:
            self._pci.select(value)
        if offset != _RESET_CONTROL or size != 1:
            return
        self._reset_control = value & _RESET_STORED
        if value & _RESET_CPU:
            self._reset_machine()

    # State

    def save(self) -> SavedState:
        return SavedState(
            "power",
            2,
            {
                "pm1_status": self._status,
                "pm1_enable": self._enable,
                "pm1_control": self._control,
                "gpe0": bytes(self._gpe),
                "reset_control": self._reset_control,
                "pci_address": self._pci.address,
                "timer_flip": self._flip,
            },
        )

    def parse(self, state: SavedState) -> Apply:
        take = Fields(state, kind="power", version=2)
        status = take_bits(take, "pm1_status", PM1_STATUS_BITS)
        enable = take_bits(take, "pm1_enable", PM1_ENABLE_BITS)
        control = take_bits(take, "pm1_control", _CONTROL_BITS)
        gpe = take.octets("gpe0", exactly=GPE0_LENGTH)
        reset_control = take_bits(take, "reset_control", _RESET_STORED)
        pci_address = take_bits(take, "pci_address", PciHost.WRITABLE)
        flip = take.integer("timer_flip", high=1 << 51)
        take.finish()

        def apply() -> None:
            self._status, self._enable, self._control = status, enable, control | SCI_EN
            self._gpe = bytearray(gpe)
            self._reset_control = reset_control
            self._pci.select(pci_address)
            self._flip = flip
            self._sci.force(self._wants_sci())

        return apply

    def inspect(self) -> dict[str, object]:
        half = GPE0_LENGTH // 2
        return {
            "pm1_status": self._status,
            "pm1_enable": self._enable,
            "pm1_control": self._control,
            "pci_address": self._pci.address,
            "gpe0_status": self._gpe[:half].hex(),
            "gpe0_enable": self._gpe[half:].hex(),
            "timer": self._ticks() & ((1 << TIMER_BITS) - 1),
            "sci": self._sci.level,
        }


def _ignore(offset: int, size: int, value: int) -> None:
    """A write to a read-only window."""
