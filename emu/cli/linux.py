"""``emu run linux``: the words of its options, and a run whose output is the command's."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from emu.cli import characters, debugger, output, signals
from emu.cli import options as machine_options
from emu.cli.services import offer
from emu.config import Clock, RunOptions
from emu.errors import EmuError, Status, UsageError
from emu.linux.conversation import Conversation, Log
from emu.linux.initramfs import Input
from emu.linux.namespaces import FileSystem
from emu.linux.prepare import NAME, Request, prepare
from emu.linux.protocol import Role

if TYPE_CHECKING:
    from emu.api.capture import Capture
    from emu.config import MachineConfig
    from emu.machine import Exit, Machine

_LAST_LINES = 80
"""An oops of Linux 6.1 takes about 60."""


def run(
    options: argparse.Namespace,
    drive: Callable[[Machine, float | None], tuple[Exit, EmuError | None]],
    announce: Callable[[Machine], None],
) -> int:
    """Run ``--exec``'s command, or a shell; its exit status as emu's. ``drive`` and ``announce`` are those of
    ``emu run``."""
    from emu import board

    _refuse(options)
    at_terminal = (
        options.exec is None
        and options.initrd is None
        and not options.json
        and sys.stdin is not None
        and sys.stdin.isatty()
    )
    config = machine_options.machine_config(options, None)
    if at_terminal and "clock" not in "".join(options.machine):
        config = replace(config, clock=Clock.REAL)  # with virtual time a shell that waits is a busy one
    commands = {} if options.exec is None else {Role.EXEC: options.exec}
    stdin = Input.TERMINAL if at_terminal else Input.NONE if _is_nothing(0) else Input.FRAMED
    file_system = options.fs and FileSystem(options.fs)
    request = Request(options.kernel, file_system, options.add, commands, stdin, options.memory is None)
    began = time.monotonic()
    with contextlib.ExitStack() as stack:
        with contextlib.ExitStack() as scratch:
            run = _Run(options, request, config, stack)
            prepared = prepare(request, config, scratch)
            run.plays(prepared.role)
            outputs, gate = debugger.gate(options, run.outputs)
            how = RunOptions(
                no_reboot=True, start_paused=options.start_paused, accept_incomplete=options.accept_incomplete
            )
            machine = stack.enter_context(board.build(prepared.config, outputs, how))
            machine.boot()
            prepared.format(machine)
        if not options.quiet and not options.json:
            announce(machine)
        machine.output_files = run.files
        offer(stack, machine, qmp=options.qmp, quiet=options.quiet or options.json)
        debugger.offer(stack, machine, options, gate, quiet=options.quiet or options.json)
        run.take_input(stack, machine, stdin)
        stack.callback(signals.put_away)
        ended, failure = drive(machine, options.timeout)
        nvdimms = [dimm.describe() for dimm in machine.nvdimms]
    run.conclude(ended, nvdimms, time.monotonic() - began)
    if failure is not None:
        raise failure
    return run.status(ended)


def is_asked(options: argparse.Namespace) -> bool:
    """Whether the image is the word ``linux``: an existing path wins over it."""
    return options.image == NAME and not os.path.exists(NAME)  # noqa: PTH110 - as for any image


def _refuse(options: argparse.Namespace) -> None:
    """UsageError for options of ``emu run`` that mean nothing here."""
    for given, option, remedy in (
        (
            options.initrd and (options.exec or options.add or options.fs),
            "-initrd with --exec, --add or --fs",
            "an initial RAM disk that emu has made has its command; with one of your own give the kernel as IMAGE",
        ),
        (options.incoming, "-incoming", "a Linux guest is started here, or its machine migrated as any other"),
        (options.power_fail_at, "--power-fail-at", "'emu crash linux' cuts the power at every point"),
        (options.debugcon != "none", "-debugcon", "the debug console carries the command's output"),
        (
            characters.is_line(options.serial),
            f"-serial {str(options.serial)[:64]}",
            "COM1 has the kernel's messages, and the command's input is the standard input: use file:PATH",
        ),
    ):
        if given:
            raise UsageError(f"{option} does not go with the image '{NAME}'", remedy)


def _is_nothing(descriptor: int) -> bool:
    """Whether nothing can come from ``descriptor``: closed, or /dev/null."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(os.devnull))  # noqa: PTH116 - a device
    except OSError:
        return True


class _Run:
    """Where the bytes of one run go, and what is said about it."""

    def __init__(
        self, options: argparse.Namespace, request: Request, config: MachineConfig, stack: contextlib.ExitStack
    ) -> None:
        from emu import board
        from emu.host.claims import claims_of

        self._json = options.json
        self._log = Log()
        self._captures: dict[str, Capture] = {}
        self._writers: list[characters.Writer] = []
        self.files: list[str] = []
        claims = claims_of(config)
        request.claim(claims)
        if request.input is Input.FRAMED:
            claims.reads_descriptor(0, "the standard input")
        claims.writes_standard_streams()
        standard = self._standard(1, "stdout", stack)
        self._errors = self._standard(2, "stderr", stack)
        kernel: Callable[[bytes], None] = self._log
        if options.serial not in (None, "none"):
            place = characters.make_sink(stack, options.serial, "-serial", claims, standard=None)
            if options.serial.startswith(characters.FILE):
                self.files.append(options.serial.removeprefix(characters.FILE))
            kernel = _both(self._log, place)
            if isinstance(place, characters.Writer):
                self._writers.append(place)
        self.wanted = threading.Event()
        self._talk = Conversation(kernel, standard, self.wanted.set)
        self.outputs = board.Outputs(
            serial=self._talk.write_serial, debugcon=standard, errors=self._errors, init=self._talk
        )

    def plays(self, role: Role) -> None:
        """What init is to do when it asks."""
        self._talk.plays = role

    def _standard(self, descriptor: int, name: str, stack: contextlib.ExitStack) -> Callable[[bytes], None]:
        if self._json:
            from emu.api.capture import Capture

            return self._captures.setdefault(name, Capture())
        writer = characters.Writer(descriptor, f"the standard {'output' if descriptor == 1 else 'error'}", stack)
        self._writers.append(writer)
        return writer

    def take_input(self, stack: contextlib.ExitStack, machine: Machine, stdin: Input) -> None:
        """Connect the standard input to the command."""
        for writer in self._writers:
            writer.ended = lambda: machine.exit is not None
        if stdin is Input.TERMINAL:
            from emu.cli.standard_input import type_standard_input

            output.note("emu: a shell in Linux; 'exit' or Ctrl-D leaves it, Ctrl-A x ends the run at once")
            type_standard_input(stack, machine, escapes=True, interrupts=False)
        elif stdin is Input.FRAMED:
            from emu.cli.framed_input import FramedInput

            feeder = FramedInput(machine, self.wanted)
            feeder.start()
            stack.callback(feeder.stop)

    def conclude(self, ended: Exit, nvdimms: list[dict[str, object]], duration: float) -> None:
        """Say how it ended: the document, or of a run that failed the kernel's last words."""
        if self._json:
            document = {
                "schema": "emu.run/1",
                "exit": {"reason": ended.reason, "status": self.status(ended), "code": ended.code},
                "nvdimms": nvdimms,
                "serial": self._log.text,
                **{name: capture.text for name, capture in self._captures.items()},
                "duration_s": round(duration, 6),
            }
            output.document(document)
        elif self._talk.ended is None and ended.reason != "interrupted":
            for line in self._log.last_lines(_LAST_LINES):
                output.note(f"     {line}")
        if self._talk.failure is not None:
            stage, number = self._talk.failure
            output.note(f"emu: the guest did not come to its command ({stage.name.lower()}: {os.strerror(number)})")
        if ended.detail:
            output.note(f"emu: {ended.reason}: {ended.detail}")
        elif self._lost(ended):
            output.note(f"emu: {ended.reason}: the machine ended before the command did")

    def status(self, ended: Exit) -> int:
        """emu's exit status: the command's where it had one."""
        return Status.GUEST_CRASHED if self._lost(ended) else ended.status

    def _lost(self, ended: Exit) -> bool:
        """Whether the machine was turned off or reset under the command, which is no success of it."""
        return self._talk.ended is None and self._talk.failure is None and ended.status == Status.OK


def _both(first: Callable[[bytes], None], second: Callable[[bytes], None]) -> Callable[[bytes], None]:
    def sink(data: bytes) -> None:
        first(data)
        second(data)

    return sink
