"""Boot a guest on a machine with NVDIMMs and say what survives."""

from __future__ import annotations

import contextlib
import os
import stat
import time
from functools import partial

from emu.api.threads import in_thread
from emu.cli import characters, debugger, output, signals
from emu.cli import options as machine_options
from emu.cli.services import offer
from emu.cli.signals import signal
from emu.config import MachineConfig, RunOptions
from emu.devices.contract import ExitRequest
from emu.errors import EmuError, Status, UsageError
from emu.hints import TYPE_CHECKING, Any
from emu.units import counted, human_size

if TYPE_CHECKING:
    import argparse

    from emu.api.capture import Capture
    from emu.cli.plain import PlainWords
    from emu.host.claims import Claims
    from emu.machine import Exit, Machine
    from emu.persistence.lab.powerfail import Cut, PowerCut

EPILOG = """\
examples:
  emu run hello --nvdimm file=pmem.img,size=64M            a bundled guest
  emu run ./guest.bin --nvdimm file=pmem.img,sync=auto     your own image: Multiboot, PVH ELF or flat 64-bit
  emu run hello --nvdimm help                              every key of --nvdimm
  emu run -machine q35,nvdimm=on -m 256M,slots=2,maxmem=2G \\
      -object memory-backend-file,id=m1,share=on,mem-path=nv.img,size=64M \\
      -device nvdimm,memdev=m1,label-size=128K -kernel guest.elf

The standard input is what COM1 receives, taken only when the guest reads. At a terminal Ctrl-C ends the run, and so
does Ctrl-A x; Ctrl-A h lists such keys. With '-serial stdio', Ctrl-A goes to the guest as well, as under QEMU.

exit status: 0 power-off or halt; odd: the guest's debug-exit value * 2 + 1; 2 usage; 4 the host cannot do it;
6 the guest crashed; 8 a bug in emu; 124 timeout; 130 interrupted.
"""


def add_arguments(parser: argparse.ArgumentParser | PlainWords) -> None:
    parser.add_argument("image", nargs="?", metavar="IMAGE", help="path of an image, or the name of a bundled guest")
    parser.add_argument("--json", action="store_true", help="print one JSON document (schema emu.run/1) at the end")
    parser.add_argument("--timeout", type=_seconds, metavar="SECONDS", help="end the run after this much real time")
    parser.add_argument("--quiet", action="store_true", help="leave out the lines about what the NVDIMMs guarantee")
    parser.add_argument("--verbose", action="store_true",
                        help="say more about the NVDIMMs: where they are, and why they promise that")  # fmt: skip
    parser.add_argument("-serial", "--serial", default=None, metavar="stdio|none|file:PATH|pty|unix:PATH,server=on",
                        help="where COM1 goes, and for stdio, pty and unix comes from (default stdio)")  # fmt: skip
    parser.add_argument("-debugcon", "--debugcon", default="none", metavar="stdio|none|file:PATH",
                        help="where the debug console (port 0xE9) goes")  # fmt: skip
    parser.add_argument("-qmp", "--qmp", action="append", default=[], metavar="unix:PATH,server=on,wait=off",
                        help="offer QMP on a socket")  # fmt: skip
    parser.add_argument(
        "-incoming", "--incoming", metavar="URI", help="wait for a migration: unix:, tcp:, fd: or file:"
    )
    parser.add_argument("-S", dest="start_paused", action="store_true", help="do not start the guest until 'cont'")
    debugger.add_arguments(parser)
    parser.add_argument("-no-reboot", "--no-reboot", action="store_true", help="end at the first reset")
    parser.add_argument(
        "--power-fail-at",
        metavar="EVENT|random:SEED",
        help="cut the power before this store, flush, fence or label write",
    )
    parser.add_argument("--power-fail-state", metavar="none|all|random:SEED|N",
                        help="which of the possible memories the power cut leaves (default none)")  # fmt: skip
    parser.add_argument("--accept-incomplete", action="store_true",
                        help="use an NVDIMM file that an unfinished migration marked incomplete")  # fmt: skip
    linux = parser.add_argument_group("Linux guest ('emu run linux')")
    linux.add_argument(
        "--exec", metavar="COMMAND", help="run this command in Linux and end with its status (default: a shell)"
    )
    linux.add_argument("--fs", choices=("ext4", "xfs", "devdax", "none"),
                       help="what a blank NVDIMM becomes: /pmem (default ext4) or /dev/dax0.0")  # fmt: skip
    linux.add_argument("--add", action="append", default=[], metavar="FILE[:PATH]",
                       help="put a file or folder of the host into the guest; repeatable")  # fmt: skip
    machine_options.add_arguments(parser)


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value <= 1e9:
        from argparse import ArgumentTypeError

        raise ArgumentTypeError(f"'{text[:32]}' is not a positive number of seconds")
    return value


def run(options: argparse.Namespace) -> int:
    if options.image == "linux":
        from emu.cli import linux

        if linux.is_asked(options):
            return linux.run(options, drive, partial(_announce, verbose=options.verbose))
    if options.exec is not None or options.add or options.fs is not None:
        raise UsageError("--exec, --add and --fs are for a Linux guest", "write emu run linux ...")
    from emu import board

    config, how = configuration(options), run_options(options)
    targets = ("stdio" if options.serial is None else options.serial, options.debugcon)
    into = [target.removeprefix(characters.FILE) for target in targets if target.startswith(characters.FILE)]
    typed = options.serial is None or options.serial in characters.STANDARD_STREAMS
    claims = _claims(config, how, into, options.defaults, typed=typed)
    cut = _power_cut(options, config, how)
    began = time.monotonic()
    serial = _capture() if options.json else None
    failure: EmuError | None = None
    power: Cut | None = None
    with contextlib.ExitStack() as stack:
        written = stack.enter_context(contextlib.ExitStack())  # outlives the machine
        outputs = board.Outputs(
            serial=characters.make_sink(written, targets[0], "-serial", claims, standard=serial),
            debugcon=characters.make_sink(written, targets[1], "-debugcon", claims, standard=None),
        )
        writers = [sink for sink in (outputs.serial, outputs.debugcon) if isinstance(sink, characters.Writer)]
        line = outputs.serial
        outputs, gate = debugger.gate(options, outputs)
        paths = [dimm.backend.path for dimm in config.nvdimms if cut is not None and dimm.backend.path]
        made = [path for path in paths if not os.path.exists(path)]
        machine = stack.enter_context(board.build(config, outputs, how))
        machine.output_files = into
        for writer in writers:
            writer.ended = lambda: machine.exit is not None or (cut is not None and _is_over(began, options.timeout))
        if how.incoming is None:
            machine.boot()  # now, so that an image that is refused leaves nothing behind
        if not options.quiet and not options.json:
            _announce(machine, verbose=options.verbose)
        if cut is not None:
            from emu.persistence.lab.powerfail import run_with_power_cut

            nvdimms = [dimm.describe() for dimm in machine.nvdimms]
            machine.close()
            _accept_marked(config, how)
            try:
                power = run_with_power_cut(config, cut, outputs, timeout=options.timeout)
            except UsageError:
                for path in made:
                    with contextlib.suppress(FileNotFoundError):
                        os.unlink(path)
                raise
            ended = power.ended
        else:
            offer(stack, machine, qmp=options.qmp, quiet=options.quiet or options.json)
            debugger.offer(stack, machine, options, gate, quiet=options.quiet or options.json)
            _accept_marked(config, how)
            for writer in writers if how.incoming is None else ():
                writer.open()
            if characters.is_line(options.serial):
                from emu.cli.serial_line import SerialLine

                assert isinstance(line, SerialLine)
                line.attach(stack, machine)
            elif typed:
                from emu.cli.standard_input import type_standard_input

                type_standard_input(stack, machine, escapes=options.serial != "stdio")
            stack.callback(signals.put_away)
            ended, failure = drive(machine, options.timeout)
            nvdimms = [dimm.describe() for dimm in machine.nvdimms]
        for writer in writers if ended.reason != "migration-failed" else ():
            writer.open()  # a guest that printed nothing
    if serial is not None:
        document = {
            "schema": "emu.run/1",
            "exit": {"reason": ended.reason, "status": ended.status, "code": ended.code},
            "nvdimms": nvdimms,
            "serial": serial.text,
            "duration_s": round(time.monotonic() - began, 6),
        }
        if power is not None:
            document["power_failure"] = _power_failure(options, power, nvdimms)
        output.document(document)
        if serial.cut:
            output.note(f"emu: 'serial' holds the first {human_size(serial.LIMIT)} only")
    if failure is not None:
        raise failure
    if ended.detail:
        output.note(f"emu: {ended.reason}: {ended.detail}")
    if power is not None and not power.failed and ended.status != Status.TIMEOUT:
        raise UsageError(
            f"power did not fail: the run ended ({ended.reason}) after {counted(power.event, 'event')} "
            "(stores, flushes, fences), and the files hold all that it stored",
            f"give --power-fail-at a number up to {power.event}",
        )
    return ended.status


def _capture() -> Capture:
    from emu.api.capture import Capture  # a plain run keeps nothing

    return Capture()


def _claims(config: MachineConfig, how: RunOptions, into: list[str], defaults: str, *, typed: bool) -> Claims | None:
    """The files of this run; None when nothing but the NVDIMMs is written that could be one of its inputs.

    ``into`` are the files that the guest's output goes to, ``defaults`` is the one that options came from, if any.
    ``typed``: COM1 receives the standard input.
    """
    streams = (0, 1, 2) if typed else (1, 2)
    if not into and not any(stat.S_ISREG(os.fstat(stream).st_mode) for stream in streams):
        return None
    from emu.host.claims import claims_of

    claims = claims_of(config, how)
    if typed:
        claims.reads_descriptor(0, "the standard input")
    if defaults:
        claims.reads(defaults, "the defaults in")
    claims.writes_standard_streams()
    return claims


def _accept_marked(config: MachineConfig, how: RunOptions) -> None:
    """Forget the marks of unfinished migrations, if that was asked for; a start that failed has not come here."""
    if how.accept_incomplete and how.incoming is None:
        from emu.memory import incomplete

        for dimm in config.nvdimms:
            if dimm.backend.path is not None:
                incomplete.clear(dimm.backend.path)


def _power_cut(options: argparse.Namespace, config: MachineConfig, how: RunOptions) -> PowerCut | None:
    """When the power is to fail, if it is."""
    if options.power_fail_at is None:
        if options.power_fail_state is not None:
            raise UsageError(
                "--power-fail-state says what a power cut leaves, and there is none", "say when: --power-fail-at EVENT"
            )
        return None
    from emu.persistence.lab.powerfail import parse_power_cut

    if not config.nvdimms:
        raise UsageError("there is no NVDIMM to lose anything", "give one: --nvdimm file=PATH,size=64M")
    attended = options.qmp or debugger.asked(options) or how.incoming is not None or how.start_paused
    if attended or _asks_for_input(options):
        raise UsageError(
            "--power-fail-at needs a guest that runs on its own",
            "leave -qmp, --gdb, --incoming, -S and -serial stdio, pty and unix:PATH away",
        )
    return parse_power_cut(options.power_fail_at, options.power_fail_state or "none")


def _power_failure(options: argparse.Namespace, power: Cut, nvdimms: list[dict[str, Any]]) -> dict[str, Any]:
    """Which event and which memory were asked for, and which were drawn."""
    contents = [
        {"nvdimm": number, "offset": unit - dimm["gpa"], "data": value.to_bytes(8, "little").hex()}
        for unit, value in power.contents.items()
        for number, dimm in enumerate(nvdimms)
        if dimm["gpa"] <= unit < dimm["gpa"] + dimm["size"]
    ]
    return {
        "asked": {"event": options.power_fail_at, "state": options.power_fail_state or "none"},
        "failed": power.failed,
        "event": power.event if power.failed else None,
        "events": power.event,
        "state": power.number,
        "contents": contents,
    }


def _asks_for_input(options: argparse.Namespace) -> bool:
    if options.serial is None:
        return bool(options.nographic)
    return options.serial in characters.STANDARD_STREAMS or characters.is_line(options.serial)


def configuration(options: argparse.Namespace) -> MachineConfig:
    """The machine that the command line describes, image path resolved."""
    image = options.kernel or options.image
    if options.kernel and options.image:
        raise UsageError("two images given: IMAGE and -kernel", "give one of them")
    if image is None and options.incoming is None:
        raise UsageError("no image given", "write emu run IMAGE; 'emu guests' lists the bundled ones")
    return machine_options.machine_config(options, machine_options.resolve_image(image) if image else None)


def run_options(options: argparse.Namespace) -> RunOptions:
    """How the command line wants the machine run."""
    return RunOptions(
        no_reboot=options.no_reboot,
        start_paused=options.start_paused,
        incoming=options.incoming,
        accept_incomplete=options.accept_incomplete,
    )


def _is_over(began: float, timeout: float | None) -> bool:
    """For a guest that runs on another machine than ours: the one whose power is cut."""
    return timeout is not None and time.monotonic() - began > timeout


def drive(machine: Machine, timeout: float | None) -> tuple[Exit, EmuError | None]:
    """How the run ended, and the error that ended it: it is to be raised when what the guest left has been said.
    EmuError where there was no end.
    """
    try:
        return _drive(machine, timeout), None
    except EmuError as error:
        if machine.exit is None:
            raise
        return machine.exit, error


def _drive(machine: Machine, timeout: float | None) -> Exit:
    """Run the machine in a thread of its own, so that this one can take the signals that end it."""

    def interrupted(number: int, _frame: object) -> None:
        machine.end(ExitRequest("interrupted", Status.INTERRUPTED, None, signals.name(number)))

    before = {
        number: signal.signal(number, interrupted)
        for number in signals.ENDING
        if signal.getsignal(number) != signal.SIG_IGN  # nohup, or a shell's background job
    }
    try:
        return in_thread(lambda: machine.run(timeout), name="cpu")
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


_CRASHES = {"guest_crash": "guest crash", "emulator_kill": "kill -9", "host_power_loss": "host power loss"}
_LINE = 99


def _announce(machine: Machine, *, verbose: bool) -> None:
    """One line for each NVDIMM on stderr, shorter than 100 characters: which crashes its bytes survive. With
    ``verbose`` also where it is, and what its mapping is like."""
    for dimm in machine.nvdimms:
        facts = dimm.describe()
        name = facts["id"] or f"nvdimm{facts['slot']}"
        kept = [words for key, words in _CRASHES.items() if facts["survives"][key]]
        lost = [words for words in _CRASHES.values() if words not in kept]
        promise = f"survives {_listed(kept, 'and')}" if kept else "keeps no guest store: survives nothing"
        if kept and lost:
            promise += f", NOT {_listed(lost, 'or')}"
        place = facts["file"] or "anonymous memory"
        rest = f": {human_size(facts['size'])} on ", f" {promise}"
        if not verbose:
            room = _LINE - len("emu: ") - sum(map(len, rest))
            name = _shortened(name, max(room - len(place), room // 2))
            place = _shortened(place, room - len(name))
        output.note(f"emu: {name}{place.join(rest)}")
        if verbose:
            output.note(f"     at {facts['gpa']:#x}; {facts['sync']['why']}")


def _shortened(name: str, room: int) -> str:
    """``name``, or as much of its end, which tells most, as there is room for."""
    return name if len(name) <= room else f"...{name[3 - room :]}"


def _listed(words: list[str], last: str) -> str:
    return f" {last} ".join(filter(None, (", ".join(words[:-1]), words[-1])))
