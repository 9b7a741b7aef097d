"""The monitor: events say who did it, and come in the order of what happened."""

from __future__ import annotations

from .mutant import Mutant

_RUN = "tests/integration/test_qmp_run.py"

MUTANTS = (
    Mutant(
        "reset-without-its-cause",
        "a RESET event says who asked for it",
        "emu/monitor/machine_control.py",
        '            self._emit_caused("RESET", data["cause"])\n',
        '            self._emit_caused("RESET", "guest-reset")\n',
        (f"{_RUN}::test_reset_boots_again_and_keeps_the_nvdimm",),
    ),
    Mutant(
        "quit-answered-first",
        "the answer to 'quit' comes behind its SHUTDOWN event",
        "emu/monitor/machine_control.py",
        '        self._machine.end(ExitRequest("quit", Status.OK))\n        self._ended.wait(_EVENT_S)\n',
        '        self._machine.end(ExitRequest("quit", Status.OK))\n',
        (f"{_RUN}::test_quit_ends_the_process_and_removes_the_socket",),
    ),
    Mutant(
        "no-fence-among-events",
        "what a command caused is told before its answer, what came of it behind",
        "emu/monitor/events.py",
        "            count = len(self._waiting) if self._fence is None else min(self._fence, len(self._waiting))\n",
        "            count = len(self._waiting)\n",
        ("tests/unit/monitor/test_monitor_server.py::test_a_fence_parts_what_a_command_caused_from_what_came_of_it",),
    ),
)
