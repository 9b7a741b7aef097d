"""``--gdb``: a debugger may have the machine."""

from __future__ import annotations

from emu.cli import output
from emu.errors import UsageError
from emu.hints import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse
    import contextlib

    from emu.board import Outputs
    from emu.cli.plain import PlainWords
    from emu.gdb.gate import Gate
    from emu.gdb.server import Server
    from emu.host.sockets import SocketAddress
    from emu.machine import Machine

QEMU_SPEC = "tcp::1234"


def add_arguments(parser: argparse.ArgumentParser | PlainWords) -> None:
    parser.add_argument("-gdb", "--gdb", metavar=":PORT|unix:PATH", help="let gdb debug the guest ('target remote')")
    parser.add_argument("-s", dest="gdb_as_qemu", action="store_true", help="short for --gdb :1234")


def asked(options: argparse.Namespace) -> str | None:
    """Where gdb is to connect, or None."""
    if options.gdb is not None:
        return str(options.gdb)
    return QEMU_SPEC if options.gdb_as_qemu else None


def gate(options: argparse.Namespace, outputs: Outputs) -> tuple[Outputs, Gate | None]:
    """What the machine is to be built with; without a debugger ``outputs`` themselves."""
    if asked(options) is None:
        return outputs, None
    from emu.gdb.gate import Gate

    made = Gate()
    return made.around(outputs), made


def offer(
    stack: contextlib.ExitStack, machine: Machine, options: argparse.Namespace, gate: Gate | None, *, quiet: bool
) -> None:
    """Listen for gdb, if that was asked for, until ``stack`` closes; before the machine runs."""
    where = asked(options)
    if where is None or gate is None:
        return
    if machine.options.incoming is not None:
        raise UsageError("--gdb debugs a guest from its start", "leave --incoming away")
    from emu.gdb.server import address

    server = serve(stack, machine, address(where), gate)
    server.start()
    if not quiet:
        output.note(invitation(str(server.address), machine.config.image))


def serve(stack: contextlib.ExitStack, machine: Machine, where: SocketAddress, gate: Gate) -> Server:
    """A server for gdb at ``where``, until ``stack`` closes; it does not listen yet."""
    from emu.gdb.server import Server

    server = Server(machine, where)
    stack.callback(server.finish)
    gate.seen = lambda: server.travel.seen
    return server


def invitation(address: str, image: str | None) -> str:
    """Where gdb connects: the words to type."""
    place = address.removeprefix("unix:").replace("tcp:127.0.0.1:", "localhost:").removeprefix("tcp:")
    return f"emu: debug it: gdb {image or ''} -ex 'target remote {place}'"
