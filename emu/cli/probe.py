"""Say what a file, directory or device can promise as an NVDIMM on this host. Nothing is changed."""

from __future__ import annotations

import argparse

from emu.cli import output

EPILOG = """\
examples:
  emu probe .                         what a new file here could promise
  emu probe . --json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", metavar="PATH", help="a file, a directory (files there) or a device DAX")
    parser.add_argument("--json", action="store_true", help="print one JSON document (schema emu.probe/1)")


def run(options: argparse.Namespace) -> int:
    from emu.host.claims import Claims
    from emu.host.probe import probe_path

    claims = Claims()
    claims.reads(options.path, "what is probed,")
    claims.writes_standard_streams()
    document = {"schema": "emu.probe/1", **probe_path(options.path).to_json()}
    if options.json:
        output.document(document)
        return 0
    for key, value in document.items():
        if key != "schema":
            text = ", ".join(value) or "none" if isinstance(value, list) else value
            text = {True: "yes", False: "no"}.get(text, text) if isinstance(text, bool) else text
            output.row(f"{key.replace('_', ' ') + ':':<22}{text}")
    return 0
