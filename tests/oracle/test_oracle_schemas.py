"""jsonschema judges the published schemas, and what every command prints with --json."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import emu
from tests import documents
from tests.oracle.requirements import missing

if not documents.INSTALLED:
    missing("jsonschema", "pip install jsonschema")

PROGRAM = Path(sys.executable).with_name("emu")
LABELS = ["--label-size", "128K", "--json"]


def said(*words: object, status: int = 0) -> dict[str, Any]:
    done = subprocess.run(
        [PROGRAM, *map(str, words)], capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL
    )
    assert done.returncode == status, done.stderr
    read: dict[str, Any] = json.loads(done.stdout)
    return read


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    path = tmp_path / "pool.img"
    path.write_bytes(bytes(64 << 20))
    return path


def objects(schema: object) -> Iterator[dict[str, Any]]:
    """Every part of a schema that describes an object."""
    if isinstance(schema, list):
        for item in schema:
            yield from objects(item)
    elif isinstance(schema, dict):
        if schema.get("type") == "object" or "properties" in schema:
            yield schema
        for item in schema.values():
            yield from objects(item)


@pytest.mark.parametrize("name", documents.names())
def test_schema_is_one_and_takes_no_key_that_it_does_not_name(name: str) -> None:
    from jsonschema import Draft202012Validator

    schema = documents.schema(name)
    Draft202012Validator.check_schema(schema)
    assert schema["title"] == name
    found = list(objects(schema))
    assert found
    assert all(
        part["additionalProperties"] is False and set(part["required"]) <= part["properties"].keys() for part in found
    )


def test_every_document_has_a_schema() -> None:
    folder = Path(emu.__file__).parent
    written = {
        word.strip("\"',.:;()`")
        for path in folder.rglob("*.py")
        for word in path.read_text("utf-8").split()
        if '"emu.' in word and "/" in word
    }
    written.remove("emu.crash-resume/1")  # a file of emu's own, packed and with a checksum; no document for others
    assert {f"emu.{kind}/1" for kind in ("run", "probe", "crash", "label", "migrate", "guests")} <= written
    assert written <= set(documents.names())


def test_run(pool: Path, tmp_path: Path) -> None:
    assert documents.problems(said("run", "hello", "--nvdimm", f"file={pool}", "--json")) == []
    cut = ["--power-fail-at", "3", "--power-fail-state", "random:1", "--json"]
    document = said("run", "commit-noflush", "--nvdimm", f"file={tmp_path}/empty.img,size=2M", *cut)
    assert document["power_failure"]["failed"] is True
    assert documents.problems(document) == []


def test_probe_and_guests(tmp_path: Path) -> None:
    assert documents.problems(said("probe", tmp_path, "--json")) == []
    assert documents.problems(said("guests", "--json")) == []


def test_migrate(tmp_path: Path) -> None:
    """``emu migrate --json`` prints what ``emu.migrate`` returns."""
    size = emu.Nvdimm(tmp_path / "a.img", size="2M"), emu.Nvdimm(tmp_path / "b.img", size="2M")
    with emu.Machine("count", nvdimms=size[:1]) as source:
        source.run(timeout=0.3)
        with emu.Machine(incoming=f"unix:{tmp_path}/m", nvdimms=size[1:]):
            document = emu.migrate(source, f"unix:{tmp_path}/m")
    assert document["persistence"]
    assert documents.problems(document) == []


def test_every_label_action(pool: Path, tmp_path: Path) -> None:
    dump = tmp_path / "labels.bin"
    seen = [said("label", "init", pool, *LABELS, "-V", "1.2")]
    created = said("label", "create-namespace", pool, *LABELS, "-n", "data")
    seen += [
        created,
        said("label", "read", pool, *LABELS),
        said("label", "read", pool, *LABELS, "--human"),
        said("label", "read", pool, *LABELS, "--index"),
        said("label", "check", pool, *LABELS),
        said("label", "destroy-namespace", pool, created["namespaces"][0]["uuid"], *LABELS),
    ]
    subprocess.run([PROGRAM, "label", "read", pool, "--label-size", "128K", "-o", dump], check=True)
    seen += [
        said("label", "write", pool, *LABELS, "-i", dump),
        said("label", "zero", pool, *LABELS),
        said("label", "check", pool, *LABELS, status=2),
    ]
    assert {document["action"] for document in seen} == {
        "init", "create-namespace", "read", "check", "destroy-namespace", "write", "zero",
    }  # fmt: skip
    assert [documents.problems(document) for document in seen] == [[]] * len(seen)


@pytest.mark.parametrize(
    ("guest", "status"),
    [("commit-noflush", 3), ("commit-fixed", 0), ("torn-broken", 3), ("mapsync-broken", 3), ("labels", 12)],
)
def test_crash(guest: str, status: int, pool: Path, tmp_path: Path) -> None:
    words = ["--nvdimm", f"file={pool}", "--media", "dax", "--observe", "0:16", "--warnings", "--export", tmp_path]
    document = said("crash", guest, *words, "--json", status=status)
    assert documents.problems(document) == []


def test_a_key_too_many_or_too_few_is_a_problem(tmp_path: Path) -> None:
    document = said("crash", "commit-noflush", "--nvdimm", f"file={tmp_path}/p,size=2M", "--json", status=3)
    assert documents.problems(document) == []
    for path in ((), ("model",), ("failures", 0), ("failures", 0, "verdict"), ("timeline",), ("workload",)):
        changed = copy.deepcopy(document)
        part: Any = changed
        for step in path:
            part = part[step]
        part["surprise"] = 1
        assert documents.problems(changed)
        del part["surprise"]
        del part[next(key for key in part if key != "schema")]
        assert documents.problems(changed)
