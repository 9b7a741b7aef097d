"""List the bundled guests; each runs by its name: emu run NAME."""

from __future__ import annotations

import argparse
import json

EPILOG = """\
examples:
  emu guests
  emu run hello --nvdimm file=pmem.img,size=64M
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print one JSON document (schema emu.guests/1)")


def run(options: argparse.Namespace) -> int:
    import guest

    images = guest.images()
    if options.json:
        rows = [
            {"name": image.name, "kind": image.kind, "group": image.group, "summary": image.summary} for image in images
        ]
        print(json.dumps({"schema": "emu.guests/1", "guests": rows}, indent=2))
        return 0
    width = max(len(image.name) for image in images)
    group = None
    for image in images:
        if image.group != group:
            group = image.group
            print(f"{group}:")
        print(f"  {image.name:<{width}}  {image.summary}")
    return 0
