"""Structures written from their papers' descriptions, their published bugs, and how a crash report must blame each.

A bug is a macro: compiled with ``-DNAME`` the structure has it, without any it is repaired. The line that a report must
name carries the comment ``blamed: NAME`` in the source. Sources of bugs:

- Witcher n: number n in the list of correctness bugs of Fu and others, SOSP 2021.
- Agamotto: Neal and others, OSDI 2020. PMTest: Liu and others, ASPLOS 2019. XFDetector: Liu and others, ASPLOS 2020.
- kind: no bug that was published for this structure, but the kind that its paper's own argument forbids.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

from emu.guest.toolchain import find_compiler

FOLDER = Path(__file__).parent


class Bug(NamedTuple):
    """One bug: the macro that plants it, where it was published, and the names that a report may give its cause."""

    structure: str
    macro: str
    published: str
    kinds: tuple[str, ...]

    def blamed_in(self, failure: dict[str, Any]) -> str | None:
        """The ``file:line`` by which a cause of the report's ``failures`` blames the bug; None where it does not.

        A store that a shared header makes is its caller's: where all are of that kind, the function counts.
        """
        stores = [*failure["lost"], *([failure["persisted"]] if failure["persisted"] else [])]
        lines = self.blamed_lines()
        own = [store["source"] for store in stores if store["source"].startswith(f"{self.structure}.c:")]
        if own:
            marked = {f"{self.structure}.c:{line}" for line in lines}
            return next((place for place in own if place in marked), None)
        functions = {self.function_at(line) for line in lines}
        callers = ((store["source"], store["symbol"].partition("+")[0]) for store in stores)
        return next((f"{source} in {caller}" for source, caller in callers if caller in functions), None)

    def function_at(self, line: int) -> str:
        """The function that a source line is in."""
        above = (FOLDER / f"{self.structure}.c").read_text().splitlines()[:line]
        heads = (re.match(r"static .*?(\w+)\(.*\{$", text) for text in reversed(above))
        return next(head.group(1) for head in heads if head)

    def blamed_lines(self) -> frozenset[int]:
        """The numbers of the source lines that a report may name; at least one is marked."""
        text = (FOLDER / f"{self.structure}.c").read_text()
        marked = [
            number
            for number, line in enumerate(text.splitlines(), 1)
            if self.macro in line.partition("blamed: ")[2].split()
        ]
        assert marked, self
        return frozenset(marked)


FLUSH, FENCE = ("missing flush",), ("missing fence",)
ORDER, ATOMICITY = ("persistence ordering",), ("persistence atomicity",)

BUGS = (
    Bug("level", "INSERT_TOKEN", "Witcher 7, 8", FENCE),
    Bug("level", "UPDATE_TOKEN", "Witcher 9, 16", FENCE),
    Bug("level", "MOVE_TOKEN", "Witcher 10, 12 to 15", FENCE),
    Bug("level", "MOVE_TWICE", "Witcher 19 to 21", ATOMICITY),
    Bug("level", "UPDATE_TWO", "Witcher 22, 23", ATOMICITY),
    Bug("clht", "FLUSH_NEXT", "Witcher 30", FLUSH),
    Bug("clht", "TABLE_EARLY", "kind", FENCE),
    Bug("clht", "ROOT_NO_FLUSH", "kind", FLUSH),
    Bug("clht", "CHAIN_NO_FLUSH", "kind", FLUSH),
    Bug("clht", "KEY_FIRST", "kind", ORDER),
    Bug("cceh", "DEPTH_FIRST", "Witcher 24", ORDER),
    Bug("cceh", "LOCK_SLOT", "Witcher 25", ATOMICITY),
    Bug("cceh", "DIRECTORY", "kind", FLUSH),
    Bug("cceh", "SEGMENT", "kind", FLUSH),
    Bug("fastfair", "REMOVE_FLUSH", "Witcher 3", FLUSH),
    Bug("fastfair", "NO_RECOVERY", "Witcher 4", (*ATOMICITY, *ORDER)),
    Bug("fastfair", "SPLIT_ROOT", "Witcher 5", ATOMICITY),
    Bug("fastfair", "SPLIT_EARLY", "kind", FENCE),
    Bug("fastfair", "KEY_FIRST", "kind", ORDER),
    Bug("wal", "NO_FENCE", "kind", FENCE),
    Bug("wal", "HEAD_EARLY", "kind", FENCE),
    Bug("wal", "TORN", "kind", (*FLUSH, *ATOMICITY)),
    Bug("wal", "LAP", "kind", ORDER),
    Bug("lsm", "LENGTH_FIRST", "kind", FENCE),
    Bug("lsm", "LENGTH_LOST", "kind", FLUSH),
    Bug("lsm", "RUN_EARLY", "kind", FLUSH),
    Bug("lsm", "RESET_FIRST", "kind", ORDER),
    Bug("btree", "SPLIT_NOT_ADDED", "PMTest; Witcher 40", ORDER),
    Bug("btree", "INSERT_NOT_ADDED", "kind", FLUSH),
    Bug("btree", "ROOT_NOT_ADDED", "kind", FLUSH),
    Bug("ctree", "LINK_NOT_ADDED", "kind", FLUSH),
    Bug("ctree", "REMOVE_NOT_ADDED", "kind", FLUSH),
    Bug("ctree", "NEW_NOT_FLUSHED", "kind", FLUSH),
    Bug("rbtree", "ROTATE_NOT_ADDED", "Witcher 41 to 43", ATOMICITY),
    Bug("rbtree", "PARENT_NOT_ADDED", "Witcher 41 to 43", ATOMICITY),
    Bug("hashmap_tx", "COUNT_NOT_ADDED", "kind", ATOMICITY),
    Bug("hashmap_tx", "BUCKET_NOT_ADDED", "kind", ATOMICITY),
    Bug("hashmap_tx", "GROW_NOT_ADDED", "kind", ATOMICITY),
    Bug("hashmap_atomic", "NO_DIRTY", "XFDetector; Witcher 45, 46", ATOMICITY),
    Bug("hashmap_atomic", "CREATE_ORDER", "XFDetector; Witcher 45, 46", FLUSH),
    Bug("hashmap_atomic", "ENTRY_EARLY", "kind", FLUSH),
    Bug("hashmap_atomic", "MARK_CLEARED", "kind", FENCE),
)
STRUCTURES = tuple(dict.fromkeys(bug.structure for bug in BUGS))


def build(structure: str, into: Path, macro: str | None = None, level: str = "-O1") -> Path:
    """The guest of a structure, with the bug ``macro`` or without."""
    image = into / f"{structure}-{macro or 'repaired'}.elf"
    planted = [f"-D{macro}"] if macro else []
    words = [level, "-Wall", "-Wextra", "-Werror", *planted, str(FOLDER / f"{structure}.c"), "-o", str(image)]
    subprocess.run(find_compiler().build(words), check=True)
    return image
