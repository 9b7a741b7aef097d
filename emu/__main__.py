"""``python -m emu``: the ``emu`` command where its script is not installed."""

from emu.cli.start import entry

entry()
