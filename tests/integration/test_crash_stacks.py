"""Stores that causes name come with the calls that led to them, from another run of the same workload."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from emu.persistence.lab.stacks import Capture
from emu.persistence.report.stacks import unwind
from emu.persistence.report.symbols import Symbols
from tests.integration.run_emu import emu

# `put` stores and flushes where it is told to; what `careless` stores is lost, and `last` says that it is there.
PROGRAM = """
#include <libpmem.h>
#include <stdint.h>
#include <string.h>
#include <stdio.h>
struct pool { struct { char text[64]; } entry[2]; uint64_t last; };
static struct pool *pool;
__attribute__((noinline)) static void put(int n, const char *text, int keep) {
    memcpy(pool->entry[n].text, text, 16);
    if (keep)
        pmem_persist(pool->entry[n].text, 16);
}
__attribute__((noinline)) static void careful(void) { put(0, "zero zero zero z", 1); }
static inline __attribute__((always_inline)) void finish(void) { pool->last = 1; }
__attribute__((noinline)) static void careless(void) {
    put(1, "one one one one ", 0);
    finish();
    pmem_persist(&pool->last, 8);
}
int main(int argc, char **argv) {
    size_t size;
    pool = pmem_map_file("pool", 4096, PMEM_FILE_CREATE, 0600, &size, NULL);
    if (argc > 1)
        return pool->last && !pool->entry[1].text[0];
    careful();
    careless();
    return 0;
}
"""
LINE = {text: number for number, text in enumerate(PROGRAM.splitlines(), 1)}


def line_of(part: str) -> str:
    (found,) = [number for text, number in LINE.items() if part in text]
    return f"prog.c:{found}"


@pytest.fixture(params=["-O0", "-O2", "-O2 -fomit-frame-pointer"])
def image(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    (tmp_path / "prog.c").write_text(PROGRAM)
    made = emu("cc", "-g", *request.param.split(), tmp_path / "prog.c", "-o", tmp_path / "prog.elf")
    assert made.status == 0, made.errors
    return tmp_path / "prog.elf"


def crash(image: Path, *words: str | Path) -> Callable[[], dict[str, Any]]:
    done = emu("crash", image, "--recover-append", "check", "--nvdimm", "size=2M", "--json", *words)
    assert done.status == 3, done.errors
    return lambda: done.document


def test_each_named_store_has_its_callers_and_those_inlined(image: Path, tmp_path: Path) -> None:
    sarif, junit = tmp_path / "causes.sarif", tmp_path / "causes.xml"
    (failure,) = crash(image, "--sarif", sarif, "--junit", junit)()["failures"]
    (lost,) = failure["lost"]
    own = [(frame["function"], frame["source"]) for frame in lost["stack"] if not frame["library"]]
    assert own == [
        ("put", line_of("memcpy(")), ("careless", line_of("put(1")), ("main", line_of("careless();")),
    ]  # fmt: skip
    assert [frame["function"] for frame in lost["stack"] if frame["library"]][-2:] == ["guest_start", "long_mode"]
    stored = [(frame["function"], frame["inlined"]) for frame in failure["persisted"]["stack"]]
    assert stored[:3] == [("finish", True), ("careless", False), ("main", False)]
    assert failure["persisted"]["stack"][1]["source"] == line_of("finish();")
    (found,) = [result for result in json.loads(sarif.read_text())["runs"][0]["results"] if result["level"] == "error"]
    region = found["locations"][0]["physicalLocation"]["region"]["startLine"]
    assert f"prog.c:{region}" == line_of("memcpy(")
    assert len(found["stacks"]) == 2
    case = ET.parse(junit).getroot().findall(".//testcase")[1]
    assert f"prog.c:{case.get('line')}" == line_of("memcpy(")
    failed = case.find("failure")
    assert failed is not None
    assert f"put ({line_of('memcpy(')}) < careless ({line_of('put(1')}) < main" in (failed.text or "")


# `fill` stores six words, which are flushed twice and not fenced before the mark; one of them would be enough.
MANY = """
#include <libpmem.h>
#include <stdint.h>
struct pool { struct { uint64_t word[8]; } line[6]; uint64_t mark; };
static struct pool *pool;
__attribute__((noinline)) static void put(int n) { pool->line[n].word[0] = 1; }
__attribute__((noinline)) static void fill(void) {
    for (int n = 0; n < 6; n++)
        put(n);
}
__attribute__((noinline)) static void clean(void) {
    for (int n = 0; n < 6; n++)
        pmem_flush(&pool->line[n], 8);
}
int main(int argc, char **argv) {
    size_t size;
    pool = pmem_map_file("pool", 4096, PMEM_FILE_CREATE, 0600, &size, NULL);
    if (argc > 1) {
        uint64_t sum = 0;
        for (int n = 0; n < 6; n++)
            sum += pool->line[n].word[0];
        return pool->mark && !sum;
    }
    fill();
    clean();
    clean();
    pool->mark = 1;
    return 0;
}
"""


def test_all_that_is_named_has_a_stack(tmp_path: Path) -> None:
    (tmp_path / "many.c").write_text(MANY)
    made = emu("cc", "-g", "-O1", tmp_path / "many.c", "-o", tmp_path / "many.elf")
    assert made.status == 0, made.errors
    found = crash(tmp_path / "many.elf", "--warnings")()
    (failure,) = found["failures"]
    named = [*failure["lost"], *failure["forced"], *failure["also_lost"], failure["persisted"]]
    assert len(named) == 7, "six words, and the mark"
    callers = [[frame["function"] for frame in item["stack"] if not frame["library"]] for item in named]
    assert callers == [["put", "fill", "main"]] * 6 + [["main"]]
    (again,) = [item for item in found["warnings"] if item["kind"] == "redundant flush"]
    assert [frame["function"] for frame in again["stack"] if not frame["library"]] == ["clean", "main"]
    suppressed = tmp_path / "known"
    suppressed.write_text("kind=missing *,function=fill\nkind=redundant flush,function=clean\n")
    quiet = emu("crash", tmp_path / "many.elf", "--recover-append", "check", "--nvdimm", "size=2M", "--json",
                "--warnings", "--suppress", suppressed)  # fmt: skip
    assert quiet.status == 0
    assert [rule["matched"] for rule in quiet.document["ignored"]["rules"]] == [1, 1]


def test_without_names_there_is_no_stack(tmp_path: Path) -> None:
    """Two stores that nothing orders; recovery writes their difference to the exit port."""
    base = b"\x48\xbf" + (4 << 30).to_bytes(8, "little")
    work, check = tmp_path / "work.bin", tmp_path / "check.bin"
    work.write_bytes(base + b"\x48\xc7\x07\x01\x00\x00\x00\x48\xc7\x47\x40\x01\x00\x00\x00\xf4")
    check.write_bytes(base + b"\x8a\x47\x40\x2a\x07\xe6\xf4\xf4")
    done = emu("crash", work, "--recover", check, "--nvdimm", "size=2M", "--json")
    stacks = [store["stack"] for failure in done.document["failures"] for store in failure["lost"]]
    assert stacks
    assert not any(stacks)


@pytest.mark.parametrize("content", [b"", b"\x7fELF", b"\x7fELF\x02\x01\x01" + bytes(57), b"\x7fELF" + b"\xff" * 4000])
def test_an_image_that_cannot_be_read_gives_no_stack(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "broken.elf"
    path.write_bytes(content)
    seen = Capture(0x1000, {"rsp": 0x8000, "rbp": 0x8000}, bytes(64))
    assert unwind(str(path), {3: seen}, Symbols()) in ({}, {3: []})
