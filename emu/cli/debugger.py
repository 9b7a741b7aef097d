"""``--gdb``: a debugger may have the machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from emu.cli import output
from emu.errors import UsageError

if TYPE_CHECKING:
    import argparse
    import contextlib

    from emu.cli.plain import PlainWords
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


def offer(stack: contextlib.ExitStack, machine: Machine, options: argparse.Namespace, *, quiet: bool) -> None:
    """Listen for gdb, if that was asked for, until ``stack`` closes; before the machine runs."""
    where = asked(options)
    if where is None:
        return
    if machine.config.incoming is not None:
        raise UsageError("--gdb debugs a guest from its start", "leave --incoming away")
    from emu.gdb.server import Server, address

    server = Server(machine, address(where))
    stack.callback(server.finish)
    if not quiet:
        waits = ", and waits for it" if machine.paused else ""
        output.note(f"emu: gdb can connect{waits}: target remote {gdb_words(str(server.address))}")


def gdb_words(address: str) -> str:
    """As gdb's 'target remote' takes it."""
    return address.removeprefix("unix:").replace("tcp:127.0.0.1:", "localhost:").removeprefix("tcp:")
