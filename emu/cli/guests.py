"""List the bundled guests; each runs by its name: emu run NAME."""

from __future__ import annotations

import argparse

from emu.cli import output

EPILOG = """\
examples:
  emu guests
  emu run hello --nvdimm file=pmem.img,size=64M
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print one JSON document (schema emu.guests/1)")


def run(options: argparse.Namespace) -> int:
    from emu import guest

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
        output.say(f"  {image.name:<{width}}  {image.summary}")
    return 0
