"""The ``emu`` command as a process of its own: settles signals and streams before anything heavy is imported."""

from __future__ import annotations

import atexit
import gc
import os
import sys

from emu.cli import signals

# What start-up makes all stays: looking for garbage among it took 5 to 10 % of the time.
GARBAGE_THRESHOLD = 100_000


def entry() -> None:
    """Run the command line's command and exit with its status."""
    signals.take_over()
    gc.set_threshold(GARBAGE_THRESHOLD)
    from emu.cli import output

    output.take_over_standard_streams()
    from emu.cli.main import main

    status = main()
    if status != signals.INTERRUPTED:
        # KeyboardInterrupt that has passed exec() or eval(), as imports use them, would make Python end by SIGINT.
        _say_goodbye()
    os._exit(status)


def _say_goodbye() -> None:
    """Do what Python does when it ends, all but taking everything apart: that took a tenth of a short run's time."""
    if "threading" in sys.modules:
        sys.modules["threading"]._shutdown()  # waits for threads
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
