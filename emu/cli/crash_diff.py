"""Compare two documents of ``emu crash --json``: which causes are new, which are gone, which both have.

A cause is the same when it has the same kind and its stores are made by the same source text in the same functions.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

from emu.cli import output

EPILOG = """\
examples:
  emu crash ./guest.elf --nvdimm file=p.img,size=2M --json > before.json
  emu crash ./guest.elf --nvdimm file=p.img,size=2M --json > after.json      after a change
  emu crash diff before.json after.json

exit status: 0 no cause is new; 3 some are; 2 usage; 4 a file cannot be read.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("old", metavar="A", help="the document of the run before")
    parser.add_argument("new", metavar="B", help="the document of the run after")
    parser.add_argument("--json", action="store_true", help="print one JSON document (schema emu.crash-diff/1)")


def run(options: argparse.Namespace) -> int:
    from emu.host.claims import Claims
    from emu.persistence.report import ignored
    from emu.persistence.report.terminal import failure_lines, wrapped

    claims = Claims()
    for name in (options.old, options.new):
        claims.reads(name, "the document")
    claims.writes_standard_streams()
    result = ignored.compare(ignored.load_document(options.old), ignored.load_document(options.new))
    if options.json:
        output.document(result)
        return int(result["status"])
    output.say(f"A: {options.old}: {_headline(result['old'])}")
    output.say(f"B: {options.new}: {_headline(result['new'])}")
    if result["old"]["model"] != result["new"]["model"]:
        output.say("note: the two were judged under different models")
    for name, title in (("added", "new in B"), ("removed", "gone in B"), ("same", "in both")):
        output.say(f"{title}: {len(result[name])}")
        if name != "same":
            for number, failure in enumerate(result[name], 1):
                for line in failure_lines(number, failure):
                    print(*wrapped(f"  {line}", output.columns(sys.stdout)), sep="\n")
    return int(result["status"])


def _headline(side: dict[str, Any]) -> str:
    return f"{side['verdict']}: {side['headline']}, complete {'yes' if side['complete'] else 'no'}"
