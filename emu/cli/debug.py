"""Debug a crash: gdb in the recovery at a crash state, or in the workload before the store that was lost."""

from __future__ import annotations

import argparse
import contextlib

from emu.cli import characters, debugger, output, signals
from emu.cli import options as machine_options
from emu.cli.run import drive
from emu.errors import UsageError

EPILOG = """\
examples:
  emu debug guest.elf --nvdimm file=failures/failure-01-nvdimm0.img
      the recovery on a memory that 'emu crash --export failures' wrote
  emu debug guest.elf --nvdimm file=pmem.img,size=2M --power-fail-at 10
      the recovery after a power failure before event 10
  emu debug guest.elf --nvdimm file=pmem.img,size=2M --event 6
      the workload, just before event 6: the store that the report calls lost
  gdb guest.elf -ex 'target remote localhost:1234'

The files are never changed. In gdb: 'monitor help'; reverse-stepi, reverse-continue.

exit status: as of 'emu run'.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("image", metavar="IMAGE", help="the workload: path of an image, or a bundled guest's name")
    parser.add_argument("-gdb", "--gdb", default=debugger.QEMU_SPEC, metavar=":PORT|unix:PATH",
                        help="where gdb is to connect (default :1234)")  # fmt: skip
    parser.add_argument("--recover", metavar="IMAGE", help="what runs after the power failure (default: IMAGE again)")
    parser.add_argument("--power-fail-at", metavar="EVENT|random:SEED", help="the power failed before this event")
    parser.add_argument("--power-fail-state", metavar="none|all|random:SEED|N",
                        help="which of the possible memories it left (default none)")  # fmt: skip
    parser.add_argument("--event", metavar="EVENT", help="debug the workload instead, from just before this event")
    parser.add_argument("--timeout", type=float, metavar="SECONDS", help="end the run after this much real time")
    parser.add_argument("--quiet", action="store_true", help="leave out the line that says where gdb connects")
    machine_options.add_arguments(parser)


def run(options: argparse.Namespace) -> int:
    from emu import board
    from emu.config import RunOptions
    from emu.gdb.gate import Gate
    from emu.gdb.scene import put_memory, stand_before
    from emu.gdb.server import address
    from emu.persistence.lab.powerfail import memory_after, parse_power_cut
    from emu.persistence.lab.private import private
    from emu.units import counted, parse_number

    where = address(options.gdb)
    workload = machine_options.machine_config(options, machine_options.resolve_image(options.image))
    if not workload.nvdimms:
        raise UsageError("there is no NVDIMM whose crash could be debugged", "give one: --nvdimm file=PATH,size=64M")
    event = None if options.event is None else parse_number(options.event, what="--event")
    if event is not None and (options.power_fail_at is not None or options.recover is not None):
        raise UsageError("--event debugs the workload, the other options the recovery", "give one of them")
    if options.power_fail_at is None and options.power_fail_state is not None:
        raise UsageError("--power-fail-state says what a power cut leaves, and there is none", "say --power-fail-at")
    memory = None
    if options.power_fail_at is not None:
        cut = parse_power_cut(options.power_fail_at, options.power_fail_state or "none")
        memory = memory_after(workload, cut, timeout=options.timeout)
        if not memory.failed:
            made = len(memory.workload.events)
            raise UsageError(
                f"the run ended after {counted(made, 'event')}", f"give --power-fail-at a number up to {made}"
            )
    image = workload.image if options.recover is None else machine_options.resolve_image(options.recover)
    config = private(workload).replace(image=image)
    with contextlib.ExitStack() as stack:
        written = stack.enter_context(contextlib.ExitStack())
        sink = characters.make_sink(written, "stdio", "-serial", None, standard=None)
        gate = Gate()
        machine = stack.enter_context(
            board.build(config, gate.around(board.Outputs(serial=sink)), RunOptions(start_paused=True))
        )
        if isinstance(sink, characters.Writer):
            sink.ended = lambda: machine.exit is not None
        if memory is not None:
            put_memory(machine, memory)
        machine.boot()
        server = debugger.serve(stack, machine, where, gate)
        if event is not None:
            stand_before(server, machine, event)
        server.start()
        if not options.quiet:
            output.note(debugger.invitation(str(server.address), image))
        stack.callback(signals.put_away)
        ended, failure = drive(machine, options.timeout)
    if failure is not None:
        raise failure
    if ended.detail:
        output.note(f"emu: {ended.reason}: {ended.detail}")
    return ended.status
