"""Show or dump the ACPI tables that the guest of a machine sees."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from emu.cli import options as machine_options
from emu.errors import HostError, UsageError

EPILOG = """\
examples:
  emu acpi show --nvdimm file=pmem.img,size=64M
  emu acpi dump --table NFIT -o nfit.bin --nvdimm file=pmem.img && iasl -d nfit.bin
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="show|dump", required=True)
    formatter = parser.formatter_class
    show = actions.add_parser(
        "show", help="describe every table, or one", allow_abbrev=False, formatter_class=formatter
    )
    dump = actions.add_parser(
        "dump", help="write one table as it is in memory", allow_abbrev=False, formatter_class=formatter
    )
    show.add_argument("--table", metavar="NAME", help="only this table, such as NFIT")
    dump.add_argument("--table", metavar="NAME", required=True, help="which table, such as NFIT")
    dump.add_argument("-o", "--output", metavar="FILE", help="where to write it; standard output when left out")
    for sub in (show, dump):
        machine_options.add_arguments(sub)
        sub.add_argument("--traceback", action="store_true", help=argparse.SUPPRESS)


def run(options: argparse.Namespace) -> int:
    from emu import board
    from emu.acpi.parse import describe

    config = machine_options.machine_config(options, None)
    with board.build(config, board.Outputs()) as machine:
        tables = dict(machine.tables)
    if options.table is not None and options.table not in tables:
        raise UsageError(f"this machine has no table '{options.table[:16]}'", f"it has {', '.join(tables)}")
    if options.action == "show":
        names = [options.table] if options.table else list(tables)
        print("\n\n".join(describe(tables[name]) for name in names))
        return 0
    if options.output is None:
        sys.stdout.buffer.write(tables[options.table])
        return 0
    try:
        Path(options.output).write_bytes(tables[options.table])
    except OSError as error:
        raise HostError(f"{options.output}: {error.strerror}", "give a path that can be written") from None
    return 0
