"""Hypothesis drives a guest of the user, cuts its power, and finds the shortest use that breaks it."""

from __future__ import annotations

import shutil
from functools import cache
from pathlib import Path

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from emu.testing import CrashResult, NotRecovered, cc, crash
from emu.testing.strategies import Use, operations

pytestmark = pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc (on Debian: apt-get install gcc)")

# A new slot is written before it is marked; one that is in use is changed in place, in two steps.
TABLE = """\
#include <libpmem.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
struct slot { uint64_t used, pad[7], value, copy, more[6]; };
int main(int argc, char **argv)
{
    struct slot *table = pmem_map_file("/dev/pmem0", 0, 0, 0, 0, 0);
    for (int i = 0; i < 2; i++)
        if (table[i].used && table[i].value != ~table[i].copy)
            return 1;
    for (int i = 1; i + 1 < argc; i += 3) {
        struct slot *slot = &table[atoi(argv[i + 1])];
        slot->value = atoi(argv[i + 2]);
        pmem_persist(&slot->value, 8);
        slot->copy = ~slot->value;
        pmem_persist(&slot->copy, 8);
        slot->used = 1;
        pmem_persist(&slot->used, 8);
    }
    return 0;
}
"""


def test_the_shortest_use_that_breaks_a_guest_is_found(tmp_path: Path) -> None:
    (tmp_path / "table.c").write_text(TABLE)
    image = cc(tmp_path / "table.c", "-O1", output=tmp_path / "table.elf")
    broken: list[Use] = []

    @cache  # six uses there are, and Hypothesis comes back to each
    def judged(words: str) -> CrashResult:
        return crash(image, "--nvdimm", "size=2M", "--append", words, "--recover-append", "check", "--jobs", "1")

    @settings(deadline=None, max_examples=8, derandomize=True, database=None, phases=[Phase.generate, Phase.shrink])
    @given(operations({"set": (st.just(0), st.integers(0, 1))}, max_size=2))
    def any_use_recovers(use: Use) -> None:
        found = judged(use.words)
        if not found.recovers:
            broken.append(use)
        found.assert_recovers()

    with pytest.raises(NotRecovered, match=r"again: emu crash .*table\.elf"):
        any_use_recovers()
    assert broken[-1].operations == (("set", "0", "0"), ("set", "0", "1"))
