"""One debugger's conversation: its packets answered (gdb manual, appendix E). Bytes in, bytes out; no socket here."""

from __future__ import annotations

import re
from collections.abc import Callable

from emu.cpu import StopKind
from emu.errors import EmuError
from emu.gdb import packets
from emu.gdb.commands import Commands
from emu.gdb.packets import LONGEST, Signal, unescape
from emu.gdb.registers import REGISTERS, description
from emu.gdb.target import Point, PointKind, Target

OK, UNKNOWN, FAILED = b"OK", b"", b"E01"
_SIGINT, _SIGTRAP, _SIGSEGV = 2, 5, 11
_ALL = sum(register.size for register in REGISTERS)
_DESCRIPTION = description()
_MOST_ADDRESS = (1 << 64) - 1
_POINT = re.compile(rb"([0-4]),([0-9a-fA-F]{1,16}),([0-9a-fA-F]{1,8})(;.*)?\Z", re.DOTALL)
_SPAN = re.compile(rb"([0-9a-fA-F]{1,16}),([0-9a-fA-F]{1,8})")
_FEATURES = b"PacketSize=%x;qXfer:features:read+;QStartNoAckMode+;swbreak+;hwbreak+;vContSupported+" % LONGEST


class _Malformed(Exception):
    """The packet is not what its first letters promise."""


class Session:
    """A debugger that has connected. ``outgoing`` is what is to be sent; ``closed`` that nothing more is to come.

    While the guest runs, ``look`` is to be called when the machine may have stopped.
    """

    def __init__(self, target: Target, commands: Commands) -> None:
        self.outgoing = bytearray()
        self.closed = False
        self._target = target
        self._commands = commands
        self._reader = packets.Reader()
        self._acknowledges = True
        self._running = False
        self._interrupted = False
        self._last = b""
        self._handlers: dict[bytes, Callable[[bytes], bytes | None]] = {
            b"?": lambda rest: self._why(),
            b"g": lambda rest: self._target.call(self._read_all),
            b"G": self._write_all,
            b"p": self._read_one,
            b"P": self._write_one,
            b"m": self._read_memory,
            b"M": lambda rest: self._write_memory(rest, bytes.fromhex),
            b"X": lambda rest: self._write_memory(rest, bytes),
            b"Z": lambda rest: self._point(rest, self._target.add),
            b"z": lambda rest: self._point(rest, self._target.remove),
            b"c": lambda rest: self._resume(rest, step=False),
            b"s": lambda rest: self._resume(rest, step=True),
            b"C": lambda rest: self._resume(rest[2:].lstrip(b";"), step=False),
            b"S": lambda rest: self._resume(rest[2:].lstrip(b";"), step=True),
            b"H": lambda rest: OK,
            b"T": lambda rest: OK,
            b"D": lambda rest: self._detach(),
            b"k": lambda rest: self._kill(),
            b"q": self._query,
            b"Q": self._set,
            b"v": self._multi_letter,
        }
        self._target.call(self._begin)

    def _begin(self) -> None:
        self._target.boot()
        self._target.stop()

    # -- the stream -----------------------------------------------------------------------------------------------

    def receive(self, stream: bytes) -> None:
        """Take what the debugger sent."""
        for found in self._reader.feed(stream):
            if self.closed:
                return
            if isinstance(found, bytes):
                self._acknowledge(b"+")
                if not self._running:  # gdb sends nothing then but Ctrl-C
                    self._answer(found)
            elif found is Signal.INTERRUPT:
                self._interrupt()
            elif found is Signal.BROKEN:
                self._acknowledge(b"-")
            elif found is Signal.NAK:
                self.outgoing += self._last
            elif found is Signal.OVERLONG:
                self.closed = True

    def _acknowledge(self, sign: bytes) -> None:
        if self._acknowledges:
            self.outgoing += sign

    def _send(self, data: bytes) -> None:
        self._last = packets.encode(data)
        self.outgoing += self._last

    def _answer(self, packet: bytes) -> None:
        handler = self._handlers.get(packet[:1])
        try:
            reply = UNKNOWN if handler is None else handler(packet[1:])
        except (EmuError, _Malformed, ValueError):
            reply = FAILED
        if reply is not None:
            self._send(reply)

    def _interrupt(self) -> None:
        if self._running:
            self._interrupted = True
            self._target.call(self._target.stop)
            self.look()

    def look(self) -> None:
        """Tell the debugger when the guest has stopped, or has come to its end."""
        if not self._running:
            return
        machine = self._target.machine
        if machine.exit is not None:
            self._send(b"W%02x" % (machine.exit.status & 0xFF))
            self._running, self.closed = False, True
        elif machine.paused:
            self._running = False
            self._send(self._target.call(self._why))

    # -- why it stands still --------------------------------------------------------------------------------------

    def _why(self) -> bytes:
        stop = self._target.machine.debug_stop
        interrupted, self._interrupted = self._interrupted, False
        if stop is None:
            return b"T%02xthread:01;" % (_SIGINT if interrupted else _SIGTRAP)
        if stop.kind in (StopKind.TRIPLE_FAULT, StopKind.BAD_STATE):
            return b"T%02xthread:01;" % _SIGSEGV
        detail = b""
        if stop.kind is StopKind.WATCH:
            detail = self._watch_met()
        elif stop.kind is StopKind.BREAKPOINT:
            detail = self._breakpoint_met(stop.rip)
        return b"T%02x%sthread:01;" % (_SIGTRAP, detail)

    def _watch_met(self) -> bytes:
        address, access = self._target.debugging.watch_met
        point = self._target.watch_at(address, access)
        if point is None:
            return b""
        word = {PointKind.WRITE: b"watch", PointKind.READ: b"rwatch", PointKind.ACCESS: b"awatch"}[point.kind]
        return b"%s:%x;" % (word, address)

    def _breakpoint_met(self, rip: int) -> bytes:
        software = any(point[:2] == (PointKind.SOFTWARE, rip) for point in self._target.points)
        return b"swbreak:;" if software else b"hwbreak:;"

    # -- registers and memory -------------------------------------------------------------------------------------

    def _read_all(self) -> bytes:
        values = self._target.registers()
        return b"".join(values[register] for register in REGISTERS).hex().encode()

    def _write_all(self, rest: bytes) -> bytes:
        data = bytes.fromhex(rest.decode("ascii"))
        if len(data) != _ALL:
            raise _Malformed
        changes, at = [], 0
        values = self._target.call(self._target.registers)
        for register in REGISTERS:
            value = data[at : at + register.size]
            at += register.size
            if value != values[register]:
                changes.append((register, value))
        self._target.call(lambda: self._target.write_registers(changes))
        return OK

    def _read_one(self, rest: bytes) -> bytes:
        number = int(rest, 16)
        if not 0 <= number < len(REGISTERS):
            raise _Malformed
        return self._target.call(self._target.registers)[REGISTERS[number]].hex().encode()

    def _write_one(self, rest: bytes) -> bytes:
        name, equals, value = rest.partition(b"=")
        number, data = int(name, 16), bytes.fromhex(value.decode("ascii"))
        if not equals or not 0 <= number < len(REGISTERS) or len(data) != REGISTERS[number].size:
            raise _Malformed
        self._target.call(lambda: self._target.write_registers([(REGISTERS[number], data)]))
        return OK

    def _read_memory(self, rest: bytes) -> bytes:
        span = _SPAN.fullmatch(rest)
        if span is None:
            raise _Malformed
        address, size = int(span[1], 16), min(int(span[2], 16), LONGEST // 2)
        found = self._target.call(lambda: self._target.read(address, size))
        return found.hex().encode() if found or not size else FAILED

    def _write_memory(self, rest: bytes, decode: Callable[[str], bytes] | type[bytes]) -> bytes:
        where, colon, raw = rest.partition(b":")
        span = _SPAN.fullmatch(where)
        data = unescape(raw) if decode is bytes else bytes.fromhex(raw.decode("ascii"))
        if span is None or not colon or len(data) != int(span[2], 16):
            raise _Malformed
        address = int(span[1], 16)
        self._target.call(lambda: self._target.write(address, data))
        return OK

    # -- stops and running ----------------------------------------------------------------------------------------

    def _point(self, rest: bytes, change: Callable[[Point], None]) -> bytes:
        found = _POINT.match(rest)
        if found is None:
            raise _Malformed
        point = Point(PointKind(int(found[1])), int(found[2], 16), int(found[3], 16))
        if not point.size or point.address + point.size - 1 > _MOST_ADDRESS:
            raise _Malformed
        self._target.call(lambda: change(point))
        return OK

    def _resume(self, rest: bytes, *, step: bool) -> None:
        if rest:  # from another place
            rip = int(rest, 16)
            self._target.call(lambda: self._target.machine.cpu.set_register("rip", rip))
        self._running = True
        self._target.call(lambda: self._target.go(step=step))
        self.look()

    def _detach(self) -> bytes:
        self.closed = True
        self._target.call(self._target.clear)
        self._target.call(self._target.machine.resume)
        return OK

    def _kill(self) -> None:
        self.closed = True
        self._target.end()

    # -- queries --------------------------------------------------------------------------------------------------

    def _query(self, rest: bytes) -> bytes:
        name, colon, value = rest.partition(b":")
        if not colon:
            name, _, value = rest.partition(b",")
        match name:
            case b"Supported":
                return _FEATURES
            case b"Xfer" if value.startswith(b"features:read:"):
                return self._describe(value.removeprefix(b"features:read:"))
            case b"Attached":
                return b"1"
            case b"C":
                return b"QC01"
            case b"fThreadInfo":
                return b"m01"
            case b"sThreadInfo":
                return b"l"
            case b"Rcmd":
                return self._monitor(bytes.fromhex(value.decode("ascii")))
            case b"qemu.PhyMemMode":
                return b"1" if self._target.physical else b"0"
            case _:
                return UNKNOWN

    def _describe(self, what: bytes) -> bytes:
        name, _, where = what.partition(b":")
        span = _SPAN.fullmatch(where)
        if name != b"target.xml":
            return b"E00"
        if span is None:
            raise _Malformed
        first, size = int(span[1], 16), min(int(span[2], 16), LONGEST - 1)
        piece = _DESCRIPTION[first : first + size]
        return (b"m" if first + size < len(_DESCRIPTION) else b"l") + piece

    def _monitor(self, line: bytes) -> bytes:
        try:
            said = self._commands.execute(line.decode("utf-8", "replace"))
        except EmuError as error:
            said = f"{error}\n"
        for at in range(0, len(said), LONGEST // 4):  # as console output, which may be any number of packets
            self._send(b"O" + said[at : at + LONGEST // 4].encode()[: LONGEST // 2 - 1].hex().encode())
        return OK

    def _set(self, rest: bytes) -> bytes:
        if rest == b"StartNoAckMode":
            self._acknowledges = False
            return OK
        if rest in (b"qemu.PhyMemMode:0", b"qemu.PhyMemMode:1"):
            self._target.physical = rest.endswith(b"1")
            return OK
        return UNKNOWN

    def _multi_letter(self, rest: bytes) -> bytes | None:
        if rest == b"Cont?":
            return b"vCont;c;C;s;S"
        if rest.startswith(b"Cont;"):
            # There is one thread, so the first action is its.
            action = rest[5:6]
            if action not in (b"c", b"C", b"s", b"S"):
                raise _Malformed
            self._resume(b"", step=action in (b"s", b"S"))
            return None
        if rest.startswith(b"Kill"):
            self._kill()
            return OK
        return UNKNOWN
