"""The 16550A UART (National Semiconductor PC16550D data sheet), as COM1 of a PC.

Transmission takes no time: a byte written to THR is at the sink when the write returns, so THRE and TEMT always read 1.
There is no line that could fail, so parity and framing errors do not happen, and a character timeout needs no clock:
bytes below the FIFO's trigger level raise the timeout interrupt at once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from emu.acpi import aml
from emu.acpi.dsdt import resources
from emu.devices.contract import Line, Output, Sink, take_bits
from emu.state import Apply, Fields, SavedState

FIFO_SIZE = 16
BACKLOG = 1 << 16

IER_RX, IER_THRE, IER_LINE, IER_MODEM = 0x01, 0x02, 0x04, 0x08
IIR_NONE, IIR_MODEM, IIR_THRE, IIR_RX, IIR_LINE, IIR_TIMEOUT = 0x01, 0x00, 0x02, 0x04, 0x06, 0x0C
IIR_FIFO = 0xC0
FCR_ENABLE, FCR_CLEAR_RX, FCR_CLEAR_TX, FCR_STORED = 0x01, 0x02, 0x04, 0xC9
LCR_DLAB = 0x80
MCR_DTR, MCR_RTS, MCR_OUT1, MCR_OUT2, MCR_LOOP = 0x01, 0x02, 0x04, 0x08, 0x10
LSR_DATA, LSR_OVERRUN, LSR_EMPTY = 0x01, 0x02, 0x60
MSR_CTS, MSR_DSR, MSR_RING, MSR_CARRIER = 0x10, 0x20, 0x40, 0x80
MSR_ALL_THERE = MSR_CTS | MSR_DSR | MSR_CARRIER

_TRIGGER = (1, 4, 8, 14)
_DIVISOR_9600 = 12


def dsdt_device(ports: range, irq: int) -> bytes:
    """COM1 in the DSDT."""
    return aml.device(
        "COM1",
        aml.name("_HID", aml.eisa_id("PNP0501")),
        aml.name("_UID", 1),
        aml.name("_STA", 0x0F),
        resources((ports,), irq),
    )


class Uart16550:
    """A window of eight byte registers. ``line`` is the interrupt (IRQ 4 for COM1), ``sink`` takes what is sent."""

    width = 1

    def __init__(self, line: Line, sink: Sink) -> None:
        self._output = Output(line)
        self._sink = sink
        self._fetch: Callable[[], bytes] | None = None
        self._supply: Callable[[], bytes] | None = None
        self._power_on()

    def _power_on(self) -> None:
        self._ier = self._lcr = self._fcr = self._scratch = 0
        # OUT2 gates the interrupt on a PC's board. Firmware leaves it on, so a guest that never writes MCR gets its
        # interrupts here as it does under QEMU.
        self._mcr = MCR_OUT2
        self._divisor = _DIVISOR_9600
        self._overrun = False
        self._thre_pending = False
        self._modem = MSR_ALL_THERE
        self._delta = 0
        self._fifo: deque[int] = deque()
        self._waiting: deque[int] = deque()
        self._listening = False

    def reset(self) -> None:
        self._power_on()
        self._output.set(False)

    # The host's side

    def receive(self, data: bytes) -> int:
        """Take bytes that arrive on the line; returns how many, fewer than given when 64 KiB wait to be read.

        They wait outside the FIFO until there is room in it, as if the other side heeded flow control, and until the
        guest first looks for input: what was typed ahead is not lost to a driver that begins by clearing the FIFO.
        """
        taken = data[: BACKLOG - len(self._waiting)]
        self._waiting.extend(taken)
        self._fill()
        self._update()
        return len(taken)

    def announce(self, fetch: Callable[[], bytes]) -> None:
        """The other side has bytes to send, and keeps them until the guest reads: ``fetch`` then hands some over.

        It is called once, when everything before has been read and the guest reads on, or waits for an interrupt. Until
        then the line status already says that there is data. A guest that never reads takes nothing.
        """
        self._fetch = fetch
        if self._ier & IER_RX:
            self._pull()
        self._update()

    def supply(self, source: Callable[[], bytes]) -> None:
        """Ask ``source`` whenever the guest looks whether there is input, and none waits: it gives some, or nothing.

        Unlike ``announce``, what there is need not be known before the guest looks, nor is it taken as said that there
        is any.
        """
        self._supply = source

    def _look(self) -> None:
        if self._supply is not None and not (self._fifo or self._waiting or self._mcr & MCR_LOOP):
            self._waiting.extend(self._supply())
            self._fill()

    def _pull(self) -> None:
        if self._fetch is None or self._fifo or self._waiting or self._mcr & MCR_LOOP:
            return
        fetch, self._fetch = self._fetch, None
        self._waiting.extend(fetch())
        self._fill()

    def _fill(self) -> None:
        if self._mcr & MCR_LOOP or not self._listening:
            return
        while self._waiting and len(self._fifo) < self._depth:
            self._fifo.append(self._waiting.popleft())

    def _listen(self) -> None:
        if not self._listening:
            self._listening = True
            self._fill()

    @property
    def _depth(self) -> int:
        return FIFO_SIZE if self._fcr & FCR_ENABLE else 1

    # Interrupts, highest priority first (data sheet, table IV)

    def _source(self) -> int:
        if self._ier & IER_LINE and self._overrun:
            return IIR_LINE
        if self._ier & IER_RX and self._fifo:
            reached = not self._fcr & FCR_ENABLE or len(self._fifo) >= _TRIGGER[self._fcr >> 6]
            return IIR_RX if reached else IIR_TIMEOUT
        if self._ier & IER_THRE and self._thre_pending:
            return IIR_THRE
        if self._ier & IER_MODEM and self._delta:
            return IIR_MODEM
        return IIR_NONE

    def _wants_interrupt(self) -> bool:
        return self._source() != IIR_NONE and bool(self._mcr & MCR_OUT2)

    def _update(self) -> None:
        self._output.set(self._wants_interrupt())

    # The guest's side

    def read(self, offset: int, size: int) -> int:
        value = self._read(offset & 7)
        self._update()
        return value

    def _read(self, offset: int) -> int:
        if self._lcr & LCR_DLAB and offset < 2:
            return self._divisor >> (8 * offset) & 0xFF
        if offset in (0, 2, 5):
            self._listen()
            self._look()
        match offset:
            case 0:
                self._pull()
                value = self._fifo.popleft() if self._fifo else 0
                self._fill()
                if self._ier & IER_RX:
                    self._pull()
                    self._look()
                return value
            case 1:
                return self._ier
            case 2:
                source = self._source()
                if source == IIR_THRE:
                    self._thre_pending = False
                return source | (IIR_FIFO if self._fcr & FCR_ENABLE else 0)
            case 3:
                return self._lcr
            case 4:
                return self._mcr
            case 5:
                there = self._fifo or (self._fetch is not None and not self._mcr & MCR_LOOP)
                value = LSR_EMPTY | (LSR_DATA if there else 0) | (LSR_OVERRUN if self._overrun else 0)
                self._overrun = False
                return value
            case 6:
                value = self._modem | self._delta
                self._delta = 0
                return value
            case _:
                return self._scratch

    def write(self, offset: int, size: int, value: int) -> None:
        self._write(offset & 7, value & 0xFF)
        self._update()

    def _write(self, offset: int, value: int) -> None:
        if self._lcr & LCR_DLAB and offset < 2:
            shift = 8 * offset
            self._divisor = self._divisor & ~(0xFF << shift) | value << shift
            return
        match offset:
            case 0:
                self._transmit(value)
            case 1:
                if (self._ier ^ value) & IER_THRE:
                    # THR is always empty, so enabling its interrupt raises it at once.
                    self._thre_pending = bool(value & IER_THRE)
                self._ier = value & 0x0F
                if value & IER_RX:
                    self._listen()
                    self._pull()
                    self._look()
            case 2:
                self._control_fifo(value)
            case 3:
                self._lcr = value
            case 4:
                self._control_modem(value & 0x1F)
            case 7:
                self._scratch = value
            case _:
                pass  # LSR and MSR are read-only; the factory test mode behind their writes is not modelled

    def _transmit(self, value: int) -> None:
        # The register is full for no time at all, but the line shows it: an edge-triggered input needs a new edge.
        self._thre_pending = False
        self._update()
        self._thre_pending = True
        if not self._mcr & MCR_LOOP:
            self._sink(bytes((value,)))
        elif len(self._fifo) < self._depth:
            self._fifo.append(value)
        else:
            self._overrun = True
            if self._depth == 1:
                self._fifo[0] = value  # without a FIFO the new byte replaces the unread one

    def _control_fifo(self, value: int) -> None:
        switched = (self._fcr ^ value) & FCR_ENABLE
        if switched or value & FCR_CLEAR_RX:
            self._fifo.clear()
        if switched or value & FCR_CLEAR_TX:
            self._thre_pending = True  # emptying the transmitter's FIFO is an event, though it was empty before
        self._fcr = value & FCR_STORED if value & FCR_ENABLE else 0
        self._fill()

    def _control_modem(self, value: int) -> None:
        self._mcr = value
        before = self._modem
        if value & MCR_LOOP:
            self._modem = (
                (MSR_DSR if value & MCR_DTR else 0)
                | (MSR_CTS if value & MCR_RTS else 0)
                | (MSR_RING if value & MCR_OUT1 else 0)
                | (MSR_CARRIER if value & MCR_OUT2 else 0)
            )
        else:
            self._modem = MSR_ALL_THERE
            self._fill()
        changed = before ^ self._modem
        # The ring indicator reports only its trailing edge.
        self._delta |= (changed & ~MSR_RING | changed & before & MSR_RING) >> 4

    # State

    def save(self) -> SavedState:
        return SavedState(
            "uart16550",
            1,
            {
                "ier": self._ier,
                "fcr": self._fcr,
                "lcr": self._lcr,
                "mcr": self._mcr,
                "scratch": self._scratch,
                "divisor": self._divisor,
                "overrun": self._overrun,
                "thre_pending": self._thre_pending,
                "modem": self._modem,
                "delta": self._delta,
                "fifo": bytes(self._fifo),
                "waiting": bytes(self._waiting),
                "listening": self._listening,
            },
        )

    def parse(self, state: SavedState) -> Apply:
        take = Fields(state, kind="uart16550", version=1)
        ier = take.integer("ier", high=0x0F)
        fcr = take_bits(take, "fcr", FCR_STORED)
        lcr = take.integer("lcr", high=0xFF)
        mcr = take.integer("mcr", high=0x1F)
        scratch = take.integer("scratch", high=0xFF)
        divisor = take.integer("divisor", high=0xFFFF)
        overrun = take.boolean("overrun")
        thre_pending = take.boolean("thre_pending")
        modem = take_bits(take, "modem", 0xF0)
        delta = take.integer("delta", high=0x0F)
        fifo = take.octets("fifo", at_most=FIFO_SIZE)
        waiting = take.octets("waiting", at_most=BACKLOG)
        listening = take.boolean("listening")
        take.finish()

        def apply() -> None:
            self._listening = listening
            self._ier, self._fcr, self._lcr, self._mcr = ier, fcr, lcr, mcr
            self._scratch, self._divisor = scratch, divisor
            self._overrun, self._thre_pending = overrun, thre_pending
            self._modem, self._delta = modem, delta
            self._fifo, self._waiting = deque(fifo), deque(waiting)
            self._output.force(self._wants_interrupt())

        return apply

    def inspect(self) -> dict[str, object]:
        return {
            "ier": self._ier,
            "iir": self._source() | (IIR_FIFO if self._fcr & FCR_ENABLE else 0),
            "lcr": self._lcr,
            "mcr": self._mcr,
            "lsr": LSR_EMPTY | (LSR_DATA if self._fifo else 0) | (LSR_OVERRUN if self._overrun else 0),
            "msr": self._modem | self._delta,
            "scratch": self._scratch,
            "divisor": self._divisor,
            "received": len(self._fifo) + len(self._waiting),
            "interrupt": self._output.level,
        }
