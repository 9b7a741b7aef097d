"""The CPU: stops that lose nothing, and virtual time."""

from __future__ import annotations

from .mutant import Mutant

_EXCEPTIONS = "emu/cpu/engine/exceptions.h"
_LEAVING = "emu/cpu/engine/leaving.h"
_STOPS = "tests/unit/cpu/test_cpu_stops.py"
_CLOCK = "tests/unit/cpu/test_cpu_clock.py"

MUTANTS = (
    Mutant(
        "system-call-behind-a-stop",
        "a SYSCALL in the block that a stop was asked for in is carried out",
        _EXCEPTIONS,
        "    e->reason |= EMU_SYSCALL;\n",
        "    if (!e->attention.leaving)\n        e->reason |= EMU_SYSCALL;\n",
        (f"{_STOPS}::test_a_system_call_behind_a_stop_request_is_carried_out",),
    ),
    Mutant(
        "request-while-entering",
        "a stop asked for while the engine is entered is not lost",
        _LEAVING,
        "    if (atomic_load(&current->leave))\n        current->cpu_exit(cpu);\n",
        "",
        (f"{_STOPS}::test_a_request_that_comes_while_the_engine_is_entered_is_not_lost",),
    ),
    Mutant(
        "block-charged-twice",
        "a block that is announced again after a stop costs no time a second time",
        "emu/cpu/engine/announcements.h",
        "    } else if (!again && e->counting)\n",
        "    } else if (e->counting)\n",
        (f"{_CLOCK}::test_stop_requests_do_not_change_time",),
    ),
    Mutant(
        "clock-goes-back",
        "virtual time never goes back",
        "emu/cpu/cpu.py",
        "self._engine.set_time(max(now, self._engine.now()))",
        "self._engine.set_time(now)",
        (f"{_CLOCK}::test_advance_never_goes_back",),
    ),
)
