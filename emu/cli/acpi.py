"""Show or dump the ACPI tables that the guest of a machine sees. No guest runs, and no NVDIMM file is made."""

from __future__ import annotations

import argparse
import sys

from emu.cli import options as machine_options
from emu.errors import UsageError

EPILOG = """\
examples:
  emu acpi show --nvdimm file=pmem.img,size=64M
  emu acpi dump --table NFIT -o nfit.bin --nvdimm file=pmem.img,size=64M
  iasl -d nfit.bin
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
    from emu.host.claims import claims_of

    config = machine_options.machine_config(options, None)
    claims = claims_of(config, runs=False)
    claims.writes_standard_streams()
    to_file = options.action == "dump" and options.output is not None
    output = claims.writes(options.output, "-o") if to_file else None
    with board.build(config, board.Outputs()) as machine:
        tables = dict(machine.tables)
    if options.table is not None and options.table not in tables:
        raise UsageError(f"this machine has no table '{options.table[:16]}'", f"it has {', '.join(tables)}")
    if options.action == "show":
        names = [options.table] if options.table else list(tables)
        print("\n\n".join(describe(tables[name]) for name in names))
        return 0
    if output is None:
        sys.stdout.buffer.write(tables[options.table])
    else:
        output.write(tables[options.table])
    return 0
