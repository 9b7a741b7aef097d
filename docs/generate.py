"""Writes the pages that follow from the code: python docs/generate.py. A test fails when a page is behind."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from emu.cli.manual import page
from emu.cli.options import HELP_TABLES
from emu.cli.parser import HelpFormatter, build_parser
from emu.cli.surface import commands
from emu.cli.verbs import VERBS
from emu.cpu.features import FEATURES

PAGES = Path(__file__).parent
_INTRO = """\
# Options

This page is written by `python docs/generate.py` from the tables that the parser itself uses.

Options of the form `key=value,...` follow QEMU's grammar: `,,` is one comma, the last of equal keys wins, sizes are
bytes or numbers with K, M, G, T (powers of 1024), and a list is written `key.0=...,key.1=...`.
The same can be written as JSON: `'{"file": "pmem.img", "size": "64M"}'`.

`on|off` is also taken as `yes|no`, `true|false` and `y|n`, in lower case; and, but for `-machine`, `-m` and `-numa`, in
QEMU's older spelling without a value: `readonly`, `noreadonly`. `auto|on|off` takes these three words only, except
`unarmed`, which is a boolean in QEMU.

`help` or `?` anywhere, alone or as a value, lists the keys and runs nothing; `-object help` and `-device help` also
list the kinds, and `-device nvdimm,help` the keys of one. So a file of that name is written `file=./help`.

In `--nvdimm`, `share` defaults to on; in `-object`, to off, as in QEMU. `--nvdimm FILE` is short for
`--nvdimm file=FILE`.
"""


def options_page() -> str:
    """docs/reference/options.md."""
    parts = [_INTRO]
    for option, keys in HELP_TABLES.items():
        parts.append(f"## `{option}`\n")
        parts.append("| key | value | default | meaning |\n|---|---|---|---|")
        for name, key in keys.items():
            default = f"`{key.default}`" if key.default else ""
            parts.append(f"| `{name}` | `{key.shape.replace('|', chr(92) + '|')}` | {default} | {key.summary} |")
        parts.append("")
    return "\n".join(parts)


def commands_page() -> str:
    """docs/reference/commands.md."""
    parts = ["# Commands\n\nThis page is written by `python docs/generate.py` from the parser.\n"]
    for verb in VERBS:
        parser = build_parser(verb)
        (commands,) = (a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
        sub = commands.choices[verb]
        sub.formatter_class = lambda prog: HelpFormatter(prog, width=110)
        parts.append(f"## emu {verb}\n\n```text\n{sub.format_help().rstrip()}\n```\n")
    return "\n".join(parts)


def manual_page() -> str:
    """docs/man/emu.1, which wheels install."""
    return page(commands())


def cpu_features_page() -> str:
    """docs/reference/cpu-features.md."""
    parts = ["# CPU features\n\nThis page is written by `python docs/generate.py` from the table `emu.cpu.features`.\n"]
    for offered, title in ((True, "Offered"), (False, "Hidden")):
        parts.append(f"## {title}\n\n| feature | CPUID | {'what there is' if offered else 'why'} |\n|---|---|---|")
        for feature in FEATURES:
            if feature.offered is offered:
                place = f"EAX={feature.leaf:X}h, ECX={feature.subleaf}: {feature.register.upper()} bit {feature.bit}"
                parts.append(f"| {feature.name} | {place} | {feature.note} |")
        parts.append("")
    return "\n".join(parts)


def documents_page() -> str:
    """docs/reference/documents.md."""
    from schemas import documents_page  # beside this file

    return documents_page()


def architecture_page() -> str:
    """docs/architecture.md with its drawing of the imports as they are."""
    from imports import drawing  # beside this file

    before, begin, rest = (PAGES / "architecture.md").read_text("utf-8").partition("<!-- imports -->\n")
    _, end, after = rest.partition("<!-- /imports -->\n")
    return f"{before}{begin}{drawing()}\n{end}{after}"


def main() -> None:
    (PAGES / "architecture.md").write_text(architecture_page())
    (PAGES / "reference" / "options.md").write_text(options_page())
    (PAGES / "reference" / "commands.md").write_text(commands_page())
    (PAGES / "man").mkdir(exist_ok=True)
    (PAGES / "man" / "emu.1").write_text(manual_page())
    (PAGES / "reference" / "cpu-features.md").write_text(cpu_features_page())
    (PAGES / "reference" / "documents.md").write_text(documents_page())


if __name__ == "__main__":
    sys.exit(main())
