"""List the bundled guests; each runs by its name: emu run NAME."""

from __future__ import annotations

import argparse

from emu.cli import output
from emu.errors import UsageError

EPILOG = """\
examples:
  emu guests
  emu guests --source commit-noflush
  emu run hello --nvdimm file=pmem.img,size=64M
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print one JSON document (schema emu.guests/1)")
    parser.add_argument("--source", metavar="NAME", help="print the source of one guest")


def run(options: argparse.Namespace) -> int:
    from emu import guest

    if options.source is not None:
        image = guest.find(options.source)
        if image is None:
            raise UsageError(f"there is no bundled guest {options.source!r}", "'emu guests' lists them")
        print(image.source.read_text(encoding="utf-8"), end="")
        return 0
    images = guest.images()
    if options.json:
        rows = [
            {"name": image.name, "kind": image.kind, "group": image.group, "summary": image.summary} for image in images
        ]
        output.document({"schema": "emu.guests/1", "guests": rows})
        return 0
    width = max(len(image.name) for image in images)
    group = None
    for image in images:
        if image.group != group:
            group = image.group
            output.say(f"{group}:")
        output.row(f"  {image.name:<{width}}  {image.summary}")
    return 0
