"""How a configuration becomes a machine.

The physical map is that of QEMU's q35 with little RAM: RAM from 0 (split at 2 GiB when it reaches 0xB000_0000, the rest
from 4 GiB), the ACPI tables in 0xE0000-0xFFFFF (with many slots also at the end of low RAM), the device window with the
NVDIMMs at the next GiB above.
"""

from __future__ import annotations

import os
import time

from emu import boot
from emu.board import map as at
from emu.board.firmware import PcFirmware, read_image, read_modules
from emu.board.panic import PanicWatch
from emu.board.slots import Slots
from emu.config import BackendConfig, BackendKind, Clock, MachineConfig, RunOptions
from emu.cpu import Cpu
from emu.devices.contract import Reset, Sink
from emu.devices.debugcon import DebugConsole
from emu.devices.debugexit import DebugExit
from emu.devices.initport import InitHost, InitPorts
from emu.devices.kbdreset import KeyboardReset
from emu.devices.nvdimm.dsm import DsmPort
from emu.devices.nvdimm.placement import FOUR_GIB, split_ram
from emu.devices.operations import OnMark, OperationMarks
from emu.devices.pit import Pit
from emu.devices.power import Power
from emu.devices.pvpanic import PanicPort
from emu.devices.rtc import Rtc, memory_bytes
from emu.devices.uart16550 import Uart16550
from emu.errors import UsageError
from emu.machine import Machine, Requests
from emu.memory import GuestMemory, Region, open_backend
from emu.parts import Parts
from emu.record import NamedTuple

# 2000-01-01 00:00:00 UTC
_VIRTUAL_EPOCH = 946_684_800


def _nowhere(_data: bytes) -> None:
    """Drops what it gets."""


def _unheard(_kind: str, _operation: int) -> None:
    """Drops a mark."""


class Outputs(NamedTuple):
    """Where the character devices' bytes go, and who hears of the guest's operation marks.

    ``init`` is who listens to the init of a Linux guest, whose standard output then goes to ``debugcon``, its standard
    error to ``errors``. Other guests have no such ports.
    """

    serial: Sink = _nowhere
    debugcon: Sink = _nowhere
    errors: Sink = _nowhere
    init: InitHost | None = None
    on_mark: OnMark = _unheard


_DEFAULT = RunOptions()


def build(
    config: MachineConfig, outputs: Outputs, options: RunOptions = _DEFAULT, *, ram: str | None = None
) -> Machine:
    """The machine that ``config`` describes, ready to run; every resource it opened is closed when anything fails.

    The file ``ram`` has what a private mapping of it is to hold as RAM: of a machine that does not boot, but takes the
    state of one that has. UsageError or HostError say what does not fit or cannot be had.
    """
    _check_files(config, options)
    image = None if config.image is None else read_image(config.image)
    modules = read_modules(config.initrd, image) if ram is None else ()
    if config.image is not None and image is not None and ram is None:
        image = boot.unpacked(image, name=config.image)
    memory = GuestMemory()
    parts = Parts(Cpu(memory, real_time=config.clock is Clock.REAL), memory)
    try:
        requests = Requests(parts.cpu.request_stop)
        _add_ram(parts, config, ram)
        reset: Reset = requests.reset
        if image is not None and boot.carries_linux(image):
            watch = PanicWatch(outputs.serial, requests.end, requests.reset)
            outputs, reset = outputs._replace(serial=watch), watch.reset
        power = _add_devices(parts, config, outputs, requests, reset)
        if outputs.init is not None:
            parts.add_windowed("init", InitPorts(outputs.errors, outputs.init), at.INIT)
        dsm = DsmPort(parts.memory, config.persistence)
        parts.add_device("dsm", dsm, at.DSM)
        for number, (first, length) in enumerate(config.exit_ports):
            _add_exit_port(parts, f"exit{number}", DebugExit(requests.end), range(first, first + length))
        slots = Slots(config, options, parts, power, dsm)
        for dimm in config.nvdimms:
            slots.plug(dimm)
        firmware = PcFirmware(config, image, parts.memory, dsm, modules, once=options.no_reboot)
        return Machine(config, options, parts, requests, firmware, slots)
    except BaseException:
        parts.close(discard=True)
        raise


def _check_files(config: MachineConfig, options: RunOptions) -> None:
    """UsageError when the guest would store to a file that its machine is made of.

    Files are told apart by Claims. A plain run, whose files are different ones at a first glance, does not import it.
    """
    names = [config.image or "", *(dimm.backend.path or "" for dimm in config.nvdimms if dimm.backend.changes_file)]
    found = [(status.st_dev, status.st_ino, status.st_rdev) for status in map(_status, names) if status is not None]
    devices = any(device for _, _, device in found)
    if devices or len(found) > len(set(found)) or config.initrd is not None or options.incoming is not None:
        from emu.host.claims import claims_of

        claims_of(config, options)


def _status(name: str) -> os.stat_result | None:
    try:
        return os.stat(name)  # noqa: PTH116 - any bytes a path may hold, and no pathlib in a plain run
    except (OSError, ValueError):
        return None


def _add_ram(parts: Parts, config: MachineConfig, content: str | None) -> None:
    # Not reserved: a guest may have more RAM than the host as long as it does not touch it all.
    kind = BackendKind.RAM if content is None else BackendKind.FILE
    ram = open_backend(BackendConfig(id="pc.ram", kind=kind, path=content, size=config.ram_size, reserve=False))
    parts.add_backend(ram)
    below, above = split_ram(config.ram_size)
    for gpa, length, offset, name in ((0, below, 0, "ram-below-4g"), (FOUR_GIB, above, below, "ram-above-4g")):
        if length:
            parts.memory.add(Region(gpa=gpa, size=length, mapping=ram.mapping, offset=offset, kind="ram", name=name))


def _add_devices(parts: Parts, config: MachineConfig, outputs: Outputs, requests: Requests, reset: Reset) -> Power:
    """Put the devices that every machine has at their places; the ACPI hardware is returned."""
    now, line = parts.cpu.now, parts.pic.line
    cmos = memory_bytes(*split_ram(config.ram_size))
    pit = Pit(line=line(at.PIT_IRQ), now=now)
    rtc = Rtc(line=line(at.RTC_IRQ), now=now, epoch=_epoch(config), cmos=cmos)
    power = Power(sci=line(at.SCI_IRQ), end=requests.end, reset=reset, now=now)
    parts.add_windowed("pic", parts.pic, at.PIC)
    parts.add_windowed("pit", pit, at.PIT)
    parts.add_windowed("power", power, at.POWER)
    parts.add_windowed("keyboard-reset", KeyboardReset(reset), at.KEYBOARD)
    parts.add_device("com1", Uart16550(line(at.COM1_IRQ), outputs.serial), at.COM1)
    parts.add_device("rtc", rtc, at.RTC)
    parts.add_device("debugcon", DebugConsole(outputs.debugcon), at.DEBUG_CONSOLE)
    parts.add_device("panic", PanicPort(requests.end), at.PANIC)
    parts.bus.add(at.OPERATIONS.start, len(at.OPERATIONS), OperationMarks(outputs.on_mark))
    parts.add_timed(pit, at.PIT)
    parts.add_timed(rtc, (at.RTC,))
    parts.add_timed(power, at.POWER)
    return power


def _add_exit_port(parts: Parts, name: str, device: DebugExit, ports: range) -> None:
    try:
        parts.add_device(name, device, ports)
    except ValueError:
        raise UsageError(
            f"{name}: ports {ports.start:#x} to {ports.stop - 1:#x} belong to another device or do not exist",
            "choose other ports with iobase= and iosize=",
        ) from None


def _epoch(config: MachineConfig) -> int:
    """Seconds since 1970 at power-on: with virtual time always the same, so that two runs are the same."""
    return int(time.time()) if config.clock is Clock.REAL else _VIRTUAL_EPOCH
