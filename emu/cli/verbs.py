"""What ``emu`` can be asked to do.

Each verb is a module with ``add_arguments(parser)`` and ``run(options) -> int``, imported only when asked for, so that
start-up pays for one verb.
"""

from __future__ import annotations

from emu.record import NamedTuple


class Verb(NamedTuple):
    """One command; ``module`` is imported only when it is asked for."""

    module: str
    summary: str


VERBS = {
    "run": Verb("emu.cli.run", "boot a guest on a machine with NVDIMMs"),
    "crash": Verb("emu.cli.crash", "cut the power at every point and show what the machine could wake up with"),
    "crash diff": Verb("emu.cli.crash_diff", "compare what two runs of 'emu crash' found"),
    "probe": Verb("emu.cli.probe", "say what a file or directory can promise as an NVDIMM"),
    "label": Verb("emu.cli.label", "read, check and write namespace label areas"),
    "acpi": Verb("emu.cli.acpi", "show or dump the ACPI tables of a machine"),
    "migrate": Verb("emu.cli.migrate", "move a running machine to another emu, or to a file"),
    "demo": Verb("emu.cli.demo", "watch it work"),
    "guests": Verb("emu.cli.guests", "list the bundled guests"),
    "cc": Verb("emu.cli.cc", "compile C, C++ or assembly to a guest"),
    "help": Verb("emu.cli.help", "explain a verb, as VERB --help does"),
    "new": Verb("emu.cli.new", "begin a project: a program on persistent memory and its crash test"),
}
