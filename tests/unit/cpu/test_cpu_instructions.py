"""Every instruction with a meaning for persistence is in one class, and in the table of the documentation."""

from __future__ import annotations

import re
from pathlib import Path

import capstone
from capstone import x86

from emu.cpu import instructions as known

TABLE = Path(__file__).parents[3] / "docs/explanation/persistence-model.md"
CLASSES = [
    frozenset(names)
    for names in (
        known.LINE_FLUSHES, known.WRITE_BACKS, known.FENCES, known.NON_TEMPORAL, known.LOCKED, known.DISCARDS,
        known.HINTS, known.UNORDERED, known.UNDEFINED,
    )
]  # fmt: skip
ALL = frozenset().union(*CLASSES)
# Names in which something about caches, ordering, streaming stores or serialisation shows.
SUSPECT = re.compile(
    r"fence|flush|inv|^cl|wb|movnt|maskmov|movdir|demote|commit|zero|serial|cpuid|iret|^rsm|wrmsr|^l[gil]dt|^ltr|^in"
    r"|^out|hlt|wait|pause|^x(begin|end|abort|acq|rel|chg)|enq|prefetch|^int|^sys|^enc|wruss|wrss|mon|skinit|stgi|ptwrite"
    r"|^lock"
)
# They match by accident: flags, vectors, counters, and virtual machines, which the CPU does not have.
UNCONCERNED = frozenset(
    (
        *("clac", "clc", "cld", "cli", "clts", "gf2p8affineinvqb", "vgf2p8affineinvqb", "inc", "incsspd", "incsspq"),
        *("insertps", "insertq", "vinsertf128", "kshiftlb", "montmul", "packsswb", "packuswb", "vpacksswb"),
        *("vpackuswb", "vpmovswb", "vpmovuswb", "vpmovwb", "vzeroall", "vzeroupper"),
    )
)
NOT_IN_CAPSTONE = {"pcommit", "serialize", "enqcmd", "enqcmds"}


def capstone_names() -> set[str]:
    decoder = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
    return {decoder.insn_name(number) for number in range(1, x86.X86_INS_ENDING)}


def test_each_instruction_is_in_one_class() -> None:
    assert len(ALL) == sum(map(len, CLASSES))


def test_no_instruction_of_capstone_is_forgotten() -> None:
    names = capstone_names()
    assert len(names) > 1500
    suspects = {name for name in names if SUSPECT.search(name)}
    assert suspects - UNCONCERNED - ALL == set()
    assert ALL - names == NOT_IN_CAPSTONE
    assert not UNCONCERNED & ALL


def test_the_table_of_the_documentation_names_all() -> None:
    section = TABLE.read_text(encoding="utf-8").partition("## Every instruction")[2].partition("\n## ")[0]
    rows = [line.split(" | ") for line in section.splitlines() if line.startswith("| `")]
    named = [name for row in rows for name in re.findall(r"`(\w+)`", row[0])]
    assert len(named) == len(set(named))
    assert set(named) == ALL


def test_group_15() -> None:
    assert known.group_15(b"\x0f\xae\xf9\x90", 64) == ("sfence", 3)
    assert known.group_15(b"\x48\x0f\xae\xf7", 64) == ("mfence", 4)
    assert known.group_15(b"\x48\x0f\xae\xf7", 32) is None  # DEC EAX comes first
    assert known.group_15(b"\x66\x0f\xae\xf8", 64) == ("", 4)  # PCOMMIT
    assert known.group_15(b"\x0f\xae\x3f", 64) is None  # CLFLUSH has a memory operand
    assert known.group_15(b"\x0f\xae", 64) is None
