"""The debugger's door: each stop exact, the past as it was, nothing said twice, and only what is durable kept."""

from __future__ import annotations

from .mutant import Mutant

_EXCEPTIONS = "emu/cpu/engine/exceptions.h"
_DEBUGGER = "emu/cpu/engine/debugger.h"
_TRAVEL = "emu/gdb/travel.py"
_STOPS = "tests/unit/cpu/test_cpu_debugging.py"
_BACK = "tests/unit/gdb/test_gdb_travel.py"
_POWER = "tests/unit/gdb/test_gdb_power.py"

MUTANTS = (
    Mutant(
        "watched-by-a-fault",
        "an instruction that faults has not met what is watched",
        _EXCEPTIONS,
        "    if (vector != VECTOR_DB)\n        e->reason",
        "    if (vector == VECTOR_UD)\n        e->reason",
        (f"{_STOPS}::test_a_store_that_faults_behind_a_watched_load_is_reported_once_when_it_is_done",),
    ),
    Mutant(
        "begun-twice",
        "an instruction that changes its own code is reported once",
        _DEBUGGER,
        "    leave_block(e, linear_rip(e));\n    e->restarted = true;\n",
        "    leave_block(e, linear_rip(e));\n",
        (f"{_STOPS}::test_an_instruction_that_overwrites_itself_begins_once",),
    ),
    Mutant(
        "interrupt-before-the-instruction",
        "an interrupt that comes at a stop waits until the block there has been executed",
        "emu/cpu/debugging.py",
        "        self._engine.hold(stop.rip == self._cpu.rip and stop.kind in (StopKind.BREAKPOINT, StopKind.STEP))\n",
        "        self._engine.hold(False)\n",
        (f"{_STOPS}::test_an_interrupt_that_comes_at_a_stop_waits_for_the_block_as_without_a_debugger",),
        hangs=True,
    ),
    Mutant(
        "pushes-unseen",
        "what the processor pushes for an exception is watched too",
        "emu/cpu/delivery.py",
        "            self.on_push(address, len(frame))\n",
        "            self.on_push(address, 0)\n",
        (f"{_STOPS}::test_what_an_exception_pushes_is_watched_too",),
    ),
    Mutant(
        "said-twice",
        "what is executed again is not said again",
        _TRAVEL,
        "self._debugging.place_announced < self._seen\n",
        "self._debugging.place_announced < self._seen - BLOCK\n",
        (f"{_BACK}::test_output_comes_once",),
    ),
    Mutant(
        "pages-of-another-moment",
        "memory is what it was at each place in the past",
        _TRAVEL,
        "                    if known.get(page) == content:\n",
        "                    if page in known:\n",
        (f"{_BACK}::test_breakpoints_are_met_again_in_reverse",),
    ),
    Mutant(
        "past-of-another-run",
        "what the debugger changes begins a new past",
        _TRAVEL,
        '        """The debugger or the monitor stored to memory: a new past begins."""\n        self.forget()\n',
        '        """The debugger or the monitor stored to memory: a new past begins."""\n',
        (f"{_BACK}::test_what_the_debugger_changes_begins_a_new_past",),
    ),
    Mutant(
        "durable-in-the-future",
        "what is durable goes back in time too",
        _TRAVEL,
        "            moment.rest.restore()\n",
        "            pass\n",
        (f"{_POWER}::test_durability_goes_back_in_time_too",),
    ),
    Mutant(
        "first-power-on",
        "a second power cut falls back to what the first one left",
        "emu/gdb/power.py",
        "            part.power_on()\n        if self.travel",
        "            part.view[0]\n        if self.travel",
        (f"{_POWER}::test_a_second_cut_falls_back_to_what_the_first_one_left",),
    ),
    Mutant(
        "block-of-old-code",
        "how long a block is that was debugged before is asked anew when its code has changed",
        _DEBUGGER,
        "        now.sum != known->sum || now.mode",
        "        now.mode",
        (f"{_STOPS}::test_a_block_whose_code_has_changed_is_as_long_as_it_is_now",),
    ),
    Mutant(
        "jump-into-a-block",
        "a jump into the middle of the block that it ends begins a block",
        _DEBUGGER,
        "(again ? address != e->block_start : address == e->last_block + e->length)",
        "address != e->block_start",
        (f"{_STOPS}::test_random_programs_run_alike_without_a_debugger_and_with_one_whole_and_step_by_step",),
    ),
)
