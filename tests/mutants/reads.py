"""What recovery reads: by which instruction, walk or delivery, and of which run."""

from __future__ import annotations

from .mutant import Mutant

_ACCESSES = "emu/cpu/engine/_accesses.csrc.c"
_WATCHED = "emu/cpu/engine/watched.h"
_READS = "tests/unit/persistence/test_persistence_reads.py"
_DELIVERY = f"{_READS}::test_what_the_delivery_of_an_exception_reads_is_asked_for_and_what_it_stores_is_known"
_CODE = f"{_READS}::test_what_is_fetched_as_code_is_asked_for"

MUTANTS = (
    Mutant(
        "unseen-walks",
        "what a page walk reads is asked for",
        _ACCESSES,
        "            w->walked(w->owner, physical, bytes);",
        "            (void)bytes;",
        (f"{_READS}::test_what_page_walks_read_is_asked_for",),
    ),
    Mutant(
        "mapped-anew",
        "a page that is mapped anew leaves no translation to where it was",
        _WATCHED,
        "    if (p->page != empty.page && (!same || p->physical != wanted.physical))\n",
        "    if (p->page != empty.page && !same)\n",
        (f"{_READS}::test_a_page_that_is_mapped_anew_is_read_where_it_is",),
    ),
    Mutant(
        "whole-loads",
        "an unaligned load is no more than its own bytes",
        _ACCESSES,
        "        if (!(access & MEM_WRITE))\n            whole_load(w, &first, &end, caller);\n",
        "",
        (f"{_READS}::test_both_pages_of_a_load_are_asked_for",),
    ),
    Mutant(
        "unseen-gates",
        "what the delivery of an exception reads is asked for",
        "emu/cpu/memory.py",
        "            self.on_read(gpa, size)\n",
        "            pass\n",
        (_DELIVERY,),
    ),
    Mutant(
        "pushed-in-doubt",
        "what an exception pushes is known",
        "emu/cpu/engine/trace.py",
        "        lib.emu_trace_accessed(self._t, address, len(data), True)\n",
        "",
        (_DELIVERY,),
    ),
    Mutant(
        "code-of-another-run",
        "changed code is that of the run that changed it",
        "emu/cpu/engine/changed_code.h",
        "    s->code_changed = 1;\n",
        "",
        (f"{_READS}::test_code_that_recovery_changes_is_this_runs",),
    ),
    Mutant(
        "unseen-code",
        "what is fetched as code is asked for",
        _WATCHED,
        "    on_watched_access(owner, linear, size, false, 0);\n",
        "    (void)owner, (void)linear, (void)size;\n",
        (_CODE,),
    ),
    Mutant(
        "watched-until-the-first",
        "after the first read, too, the pages that have unknown bytes are watched",
        _WATCHED,
        "is_tracked(t, page) && (!t->first_access || has_unknown(t, page))",
        "is_tracked(t, page) && !t->first_access",
        (f"{_READS}::test_both_pages_of_a_load_are_asked_for",),
    ),
    Mutant(
        "stored-in-doubt",
        "what a run stored is known, whoever reads it",
        "emu/cpu/engine/unknown_bytes.h",
        "        if (stores)\n            learn(t, unit, bytes);\n",
        "        if (stores)\n            continue;\n",
        (f"{_READS}::test_what_the_delivery_of_an_exception_reads_is_asked_for_and_what_it_stores_is_known",),
    ),
    Mutant(
        "known-of-another-run",
        "what one run has read is unknown to the next",
        "emu/cpu/engine/unknown_bytes.h",
        "        t->unknown[at] = t->initial[at];\n        t->given[at] = 0;\n",
        "        t->given[at] = 0;\n",
        (f"{_READS}::test_both_pages_of_a_load_are_asked_for",),
    ),
)
