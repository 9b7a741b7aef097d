"""The crash laboratory: the log of stores, the model, verdicts, causes, and what its page shows."""

from __future__ import annotations

from .mutant import Mutant

_TRACE = "emu/cpu/engine/_trace.csrc.c"
_LOG = "emu/cpu/engine/store_log.h"
_DECODED = "emu/cpu/engine/log_decoded.h"
_SITES = "emu/cpu/engine/site_hook.h"
_MODEL = "emu/persistence/model/timeline.py"
_CONCLUSION = "emu/persistence/report/conclusion.py"
_EXPLAINED = "tests/integration/test_crash_explained.py"
_LABELS = "tests/integration/test_crash_labels.py"
_VERDICT = "tests/integration/test_crash_verdict.py"
_CAUSES = "tests/unit/persistence/test_persistence_causes.py"
_INSTRUCTION = "tests/integration/test_crash_trace.py::test_instruction"
_STORE_LOG = "tests/integration/test_store_log.py"
_DURABLE = "tests/integration/test_crash_instructions.py::test_what_makes_a_value_durable"
_ORACLE = "tests/unit/persistence/test_persistence_oracle.py"
_PLUGIN = "tests/unit/testing/test_testing_plugin.py"
_KNOWN_PORTS = "tests/unit/persistence/test_persistence_known_ports.py"
_DEADLINE = "tests/unit/persistence/test_persistence_deadline.py"
_INTERRUPTION = "emu/persistence/lab/interruption.py"
_WAKES = "tests/unit/persistence/test_persistence_report.py::test_the_memory_it_wakes_up_with_holds_what_the_crash_left"

MUTANTS = (
    Mutant(
        "unexplained-memory",
        "a store that the log lacks ends in status 8, not in a verdict",
        "emu/persistence/lab/explained.py",
        "            if found != expected:\n",
        "            if not events and found != expected:\n",
        (f"{_EXPLAINED}::test_a_wrong_log_gives_no_verdict",),
    ),
    Mutant(
        "movbe-not-swapped",
        "the log holds what a store left in memory, not what its callback said",
        _TRACE,
        "    log_piece(t, pc, address, first);\n",
        "    log_piece(t, pc, address, first);\n"
        "    while (t->open_count)\n"
        "        t->open[--t->open_count].entry->value = (uint64_t)value & (~0ull >> (64 - 8 * first));\n",
        (f"{_STORE_LOG}::test_code_writes_the_log_here",),
    ),
    Mutant(
        "cmpxchg16b-high-half",
        "a CMPXCHG16B that fails in its high half alone is one that failed",
        _SITES,
        "    return (found[1] ^ expected[1]) & mask;\n",
        "    return false;\n",
        (_INSTRUCTION,),
    ),
    Mutant(
        "rep-twice",
        "a REP instruction that is executed twice makes two stores",
        _SITES,
        "        if (t->rep_pc != s->pc || left + 1 != t->rep_count || t->rep_instance != t->instance)\n",
        "        if (t->rep_pc != s->pc)\n",
        (f"{_STORE_LOG}::test_rep_twice",),
    ),
    Mutant(
        "log-of-ram",
        "a linear page that is not the NVDIMM any more is not logged",
        _LOG,
        "        fresh = (window){closed(at), 0};\n",
        "        return;\n",
        (f"{_STORE_LOG}::test_a_page_that_changes_its_place",),
    ),
    Mutant(
        "log-forgets-a-page",
        "every linear page of the NVDIMM that the TLB knows is logged",
        _LOG,
        "        generator.forget_address(log->observer.cpu, w->page);\n",
        "        ;\n",
        (f"{_STORE_LOG}::test_pages_that_share_a_window",),
    ),
    Mutant(
        "log-joins-halves",
        "the second halves of two stores that begin outside the NVDIMM are two stores",
        _DECODED,
        "               !(log->last_pc == o->pc && log->last_piece < o->piece)) {\n",
        "               !o->piece) {\n",
        (f"{_STORE_LOG}::test_a_store_that_comes_from_below",),
    ),
    Mutant(
        "label-write-no-event",
        "a label write is an event of the trace",
        "emu/persistence/lab/recorder.py",
        "        self.tracer.note_device(len(self._label_writes), pc)\n",
        "",
        (f"{_LABELS}::test_a_label_write_is_an_event",),
    ),
    Mutant(
        "label-write-not-durable",
        "a label write is durable when the device answers",
        _MODEL,
        "            self._write_at_once(event)\n",
        "            pass\n",
        (f"{_LABELS}::test_recoveries_see_the_label_of_their_crash_point",),
    ),
    Mutant(
        "label-write-without-a-crash-point",
        "the power may fail just before a label write",
        _MODEL,
        "        if isinstance(event, LabelWrite | Told):\n            return True\n",
        "        if isinstance(event, LabelWrite | Told):\n            return False\n",
        (f"{_ORACLE}::test_crashing_only_before_commits_and_at_the_end_loses_no_memory[mem-ctrl-line]",),
    ),
    Mutant(
        "wbinvd-is-nothing",
        "WBINVD makes durable what was stored before",
        _MODEL,
        "                self._write_back()\n",
        "                pass\n",
        (f"{_DURABLE}[48c70007000000-0f09-False]",),
    ),
    Mutant(
        "nothing-to-judge-is-ok",
        "a run that stored nothing ends with status 12",
        _CONCLUSION,
        "    Conclusion.NOTHING_TO_JUDGE: Status.NOTHING_TO_JUDGE,\n",
        "    Conclusion.NOTHING_TO_JUDGE: Status.OK,\n",
        (f"{_VERDICT}::test_nothing_stored_is_not_ok",),
    ),
    Mutant(
        "incomplete-is-ok",
        "an exploration that is not complete ends with status 10",
        _CONCLUSION,
        "    Conclusion.INCOMPLETE: Status.CRASH_STATES_UNTRIED,\n",
        "    Conclusion.INCOMPLETE: Status.OK,\n",
        (f"{_VERDICT}::test_not_everything_tried_is_not_ok",),
    ),
    Mutant(
        "failed-workload-is-ok",
        "a workload that failed itself ends with status 14",
        _CONCLUSION,
        "    Conclusion.WORKLOAD_FAILED: Status.WORKLOAD_FAILED,\n",
        "    Conclusion.WORKLOAD_FAILED: Status.OK,\n",
        (f"{_VERDICT}::test_a_workload_that_failed_before_it_stored_anything_failed_nonetheless",),
    ),
    Mutant(
        "recovers-though-incomplete",
        "the pytest plugin's `recovers` is true for a complete exploration only",
        "emu/testing/results.py",
        'return self.status == 0 and self.document["verdict"] == "ok" and self.document["complete"] is True',
        'return self.document["verdict"] in ("ok", "incomplete")',
        (f"{_PLUGIN}::test_recovers_is_true_only_for_a_complete_passing_exploration_of_something",),
    ),
    Mutant(
        "flush-missed-under-eadr",
        "under eADR no flush is missed, and none is talked of",
        "emu/persistence/model/repairs.py",
        "        if self._rules.domain is PersistenceDomain.EADR or not self._rules.flushes_count:\n",
        "        if not self._rules.flushes_count:\n",
        (f"{_CAUSES}::test_under_eadr_no_flush_is_talked_of",),
    ),
    Mutant(
        "repair-not-checked",
        "a cause is named only when its repair was seen to make the failure impossible",
        "emu/persistence/lab/naming.py",
        "            return None\n        # Of the same instructions",
        "            pass\n        # Of the same instructions",
        (f"{_CAUSES}::test_name_and_blame",),
    ),
    Mutant(
        "fence-after-the-crash",
        "of a non-temporal store whose fence the crash came before, it is said that the fence is too late",
        "emu/persistence/lab/naming.py",
        "            fenced = any(isinstance(event, Fence | WriteBack) for event in self._events[number + 1 :])\n",
        "            fenced = False\n",
        (f"{_CAUSES}::test_a_fence_that_comes_too_late_is_told_from_one_that_never_comes",),
    ),
    Mutant(
        "stale-image",
        "a kept executor does not judge by an image that was replaced",
        "emu/persistence/lab/jobs.py",
        "field(default_factory=lambda: os.urandom(16).hex())",
        'field(default_factory=lambda: "the only one")',
        (f"{_VERDICT}::test_a_kept_executor_does_not_judge_by_an_image_that_was_replaced",),
    ),
    Mutant(
        "page-shows-nothing-lost",
        "the page shows the bytes that recovery found",
        "emu/persistence/report/page_causes.py",
        "        got = failure.contents.get(unit, want)\n",
        "        got = want\n",
        (_WAKES,),
    ),
    Mutant(
        "page-shows-the-initial-bytes",
        "the page shows the bytes that would be there if all stores had persisted",
        "emu/persistence/report/page_causes.py",
        "        want = whole.get(unit, page.initial(unit))\n",
        "        want = page.initial(unit)\n",
        (_WAKES,),
    ),
    Mutant(
        "page-forgets-the-initial-bytes",
        "the page shows the bytes of a unit that no store has touched as the file had them",
        "emu/persistence/model/image.py",
        "            content = (FULL, self.initial(unit))\n",
        "            content = (FULL, 0)\n",
        (_WAKES,),
    ),
    Mutant(
        "lost-store-leaves-zeros",
        "where a store was lost, recovery finds what was there before",
        "emu/persistence/model/crashstate.py",
        "    return value if mask == FULL else initial(unit) & ~mask | value\n",
        "    return value\n",
        (f"{_ORACLE}::test_same_memories_as_the_operational_machine[mem-ctrl-line-0]",),
    ),
    Mutant(
        "devices-not-told",
        "a run that does something new tells the devices first what it did before",
        "emu/cpu/known_ports.py",
        "        for _, port, size, writes, value in reversed(path):\n",
        "        for _, port, size, writes, value in ():\n",
        (f"{_KNOWN_PORTS}::test_a_run_whose_accesses_are_known_is_the_run_of_a_new_machine[goes another way]",),
    ),
    Mutant(
        "clock-taken-for-known",
        "what a device answers after a look at the clock is asked again in every run",
        "emu/cpu/known_ports.py",
        "        if not can_be_known or engine.clock_started or (ends and not self._has_ended()):\n",
        "        if not can_be_known or (ends and not self._has_ended()):\n",
        (f"{_KNOWN_PORTS}::test_a_run_whose_accesses_are_known_is_the_run_of_a_new_machine[looks at the clock]",),
    ),
    Mutant(
        "time-for-nothing-after",
        "what must be over early leaves time for what comes after",
        "emu/persistence/lab/deadline.py",
        "self.at - min(share * self.seconds, most)",
        "self.at",
        (f"{_DEADLINE}::test_an_earlier_one_leaves_a_share_and_at_most_so_many_seconds",),
    ),
    Mutant(
        "deadline-unheard",
        "a part of an investigation is interrupted at its deadline",
        _INTERRUPTION,
        "            timer.start()\n",
        "            timer = None\n",
        (f"{_DEADLINE}::test_a_part_is_interrupted_at_its_deadline_and_the_whole_is_not",),
    ),
    Mutant(
        "late-part-unasked",
        "what begins behind Ctrl-C is interrupted at once",
        _INTERRUPTION,
        "            if self.asked:\n                part.ask(self.why)\n",
        "",
        (f"{_DEADLINE}::test_a_part_is_interrupted_with_the_whole_before_and_after_it_began",),
    ),
)
