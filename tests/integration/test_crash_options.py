"""Every option of ``emu crash`` with every other one: each pair stands in some run, which does what both ask for."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from tests.integration.run_emu import Result, emu

# The second operation changes `value`, which a crash shows without the `valid` that belongs to it.
PROGRAM = """
#include <libpmem.h>
#include <operation.h>
#include <stdint.h>
#include <stdio.h>
struct pool { uint64_t key, rest[7], value, more[7], valid; };
static volatile struct pool *pool;
int main(int argc, char **argv) {
    size_t size;
    char line[80];
    pool = pmem_map_file("pool", 4096, PMEM_FILE_CREATE, 0600, &size, NULL);
    if (argc > 1) {
        while (argv[1][0] == 'f' && fgets(line, sizeof line, stdin))
            continue;
        printf("%lu %lu\\n", pool->valid, pool->valid ? pool->value : 0);
        return argv[1][0] != 'l' && pool->valid && pool->value != pool->valid;
    }
    printf("begin\\n");
    for (uint64_t n = 1; n <= 2; n++) {
        emu_begin(n);
        pool->value = n;
        pmem_flush((void *)&pool->value, 8);
        pool->valid = n;
        pmem_persist((void *)&pool->valid, 8);
        emu_done(n);
        printf("ok %lu\\n", n);
    }
    return 0;
}
"""
# By what they are about; a run has one choice of each.
CHOICES: dict[str, list[tuple[str, ...]]] = {
    "states": [(), ("--check", "states")],
    "robust": [(), ("--check", "robust")],
    "input": [("--recover-append", "check"), ("--recover-append", "fed", "--feed-printed")],
    "type": [(), ("--type", "0=struct pool")],
    "warnings": [(), ("--warnings",)],
    "promise": [(), ("--durable-when-done",)],
    "matrix": [(), ("--matrix",)],
    "suppress": [(), ("--suppress", "rules")],
    "baseline": [(), ("--baseline", "base.json")],
    "sarif": [(), ("--sarif", "out.sarif")],
    "junit": [(), ("--junit", "out.xml")],
    "html": [(), ("--html", "out.html")],
    "jobs": [(), ("--jobs", "2")],
    "depth": [(), ("--depth", "2")],
    "from": [(), ("--from", "begin:1")],
    "to": [(), ("--to", "done:2")],
    "resume": [(), ("--resume", "out.resume")],
    "domain": [(), ("--domain", "eadr")],
    "media": [(), ("--media", "dax"), ("--media", "page-cache")],
    "order": [(), ("--order", "location")],
    "first": [(), ("--first-failure",)],
    "observe": [(), ("--observe", "64:8")],
    "second": [(), ("--nvdimm", "size=2M")],
    "export": [(), ("--export", "out")],
    "shape": [("--json",), (), ("--timeline",)],
}
Choice = tuple[str, tuple[str, ...]]
REFUSED: list[tuple[tuple[Choice, Choice], str]] = [
    (
        (("promise", ("--durable-when-done",)), ("media", ("--media", "page-cache"))),
        "--durable-when-done: in a page cache",
    ),
]


def rows() -> Iterator[dict[str, tuple[str, ...]]]:
    """Runs that have each pair of choices that is not refused, made greedily."""
    rng = random.Random(11)
    refused = [set(pair) for pair, _ in REFUSED]
    open_pairs = {
        ((a, one), (b, other))
        for a, b in itertools.combinations(CHOICES, 2)
        for one in CHOICES[a]
        for other in CHOICES[b]
        if {(a, one), (b, other)} not in refused
    }
    while open_pairs:
        # One that is open, and what fits with it, whatever else.
        begin = dict(min(open_pairs))
        tried = []
        for _ in range(30):
            row = {name: begin.get(name, rng.choice(options)) for name, options in CHOICES.items()}
            if not any(pair <= set(row.items()) for pair in refused):
                tried.append(row)
        best = max(tried, key=lambda row: len(open_pairs & pairs(row)))
        open_pairs -= pairs(best)
        yield best


def pairs(row: dict[str, tuple[str, ...]]) -> set[tuple[Choice, Choice]]:
    return set(itertools.combinations(row.items(), 2))


ROWS = list(rows())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With the program, a document of one of its runs, and suppressions."""
    made = tmp_path_factory.mktemp("options")
    (made / "prog.c").write_text(PROGRAM)
    assert emu("cc", "-g", "-O1", made / "prog.c", "-o", made / "prog.elf").status == 0
    base = emu("crash", made / "prog.elf", "--recover-append", "check", "--nvdimm", "size=2M", "--json")
    assert base.status == 3, base.errors
    (made / "base.json").write_text(base.out)
    (made / "rules").write_text("kind=redundant *,function=nobody\n")
    return made


FILES = ("base.json", "rules", "out", "out.sarif", "out.xml", "out.html", "out.resume")


def run(folder: Path, tmp_path: Path, row: dict[str, tuple[str, ...]]) -> Result:
    places = {name: str((tmp_path if name.startswith("out") else folder) / name) for name in FILES}
    words = [places.get(word, word) for option in row.values() for word in option]
    return emu("crash", folder / "prog.elf", "--nvdimm", "size=2M", *words)


@pytest.mark.parametrize("number", range(len(ROWS)))
def test_options_go_together(number: int, folder: Path, tmp_path: Path) -> None:
    row = ROWS[number]
    done = run(folder, tmp_path, row)
    assert done.errors == ()
    if row["baseline"]:  # other rules and checks may find what the old run did not look for
        assert done.status in (0, 3, 10)
    else:
        assert done.status == 3
    if row["shape"] == ("--json",):
        found = done.document
        assert found["status"] == done.status
        assert (found["matrix"] is not None) == bool(row["matrix"])
        assert (found["ignored"] is not None) == bool(row["suppress"] or row["baseline"])
        assert len(found["nvdimms"]) == 1 + bool(row["second"])
        assert len(found["checks"]) == bool(row["states"]) + bool(row["robust"])
        if row["type"] and not row["second"]:  # then the pool is in the other one
            fields = {store["field"] for cause in found["failures"] for store in cause["lost"]}
            assert fields <= {"pool.value", "pool.valid"}
    if row["sarif"]:
        assert json.loads((tmp_path / "out.sarif").read_text())["version"] == "2.1.0"
    if row["junit"]:
        assert ET.parse(tmp_path / "out.xml").getroot().findall(".//testcase")
    if row["html"]:
        assert (tmp_path / "out.html").read_text().startswith("<!DOCTYPE html>")
    if row["resume"]:
        again = run(folder, tmp_path, row)
        assert (again.status, again.errors) == (done.status, ())
    written = {"out.sarif": "sarif", "out.xml": "junit", "out.html": "html", "out.resume": "resume"}
    assert {path.name for path in tmp_path.glob("out.*")} == {file for file, name in written.items() if row[name]}


@pytest.mark.parametrize(("pair", "why"), REFUSED)
def test_what_does_not_go_together_is_refused_in_a_sentence(
    pair: tuple[Choice, Choice], why: str, folder: Path, tmp_path: Path
) -> None:
    done = run(folder, tmp_path, {"input": CHOICES["input"][0], **dict(pair)})
    assert (done.status, done.out) == (2, "")
    assert done.errors[0].startswith(f"emu: {why}")
    assert len(done.errors) <= 2
    assert not list(tmp_path.glob("out*"))


def test_a_part_that_ends_inside_of_an_operation_is_judged_by_the_states_of_the_whole_run(folder: Path) -> None:
    """What was stored up to there is neither the state before the operation nor the one after it."""
    words = (
        "crash",
        folder / "prog.elf",
        "--recover-append",
        "look",
        "--nvdimm",
        "size=2M",
        "--check",
        "states",
        "--json",
    )
    whole = emu(*words).document
    (second,) = (one for one in whole["operations"] if one["id"] == 2)
    cut = emu(*words, "--from", "begin:2", "--to", str(second["begin"] + 3)).document
    assert [one["verdict"] for one in (whole, cut)] == ["failed", "failed"]
    shown = cut["failures"][0]["state"]
    assert (shown["shown"], shown["before"], shown["after"]) == ("1 2\n", "1 1\n", "2 2\n")
