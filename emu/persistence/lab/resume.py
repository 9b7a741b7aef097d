"""Recoveries that an exploration ran, kept in a file, so that the next one need not run them again.

An exploration that is given them asks for the same runs in the same order and gets those that are kept from here: its
result is that of one that was never interrupted. A file says what it was made with, and serves nothing else. Workers
get what is kept when they begin, and bring home what they have run since.
"""

from __future__ import annotations

import base64
import hashlib
import json
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from emu.errors import HostError, UsageError
from emu.persistence.lab.chunks import READ_SIZE, Chunks
from emu.persistence.lab.explore import Answer, Recovery, Run, Settled, Spin, Verdict
from emu.persistence.lab.tree import Node, Reads, Tree
from emu.persistence.model.crashstate import Read
from emu.persistence.model.events import (
    Event,
    Fence,
    FenceKind,
    Flush,
    FlushKind,
    LabelWrite,
    Store,
    WriteBack,
    WriteBackKind,
)

_SCHEMA = "emu.crash-resume/1"
_LARGEST = 1 << 30


class KeptRuns:
    """The runs of one exploration. ``name`` is the file that they are kept in; empty where it does not exist yet.
    ``content`` is what it holds, where that was read already.

    UsageError when that is damaged, HostError when it cannot be read.
    """

    def __init__(self, name: str, content: bytes | None = None) -> None:
        self._name = name
        self._made_with: dict[str, str] = {}
        self._sets: dict[str, _Runs] = {}
        self._tracked, self._key = frozenset[int](), ""
        if content is None:
            content = _read(name)
        if content is not None:
            try:
                self._load(content)
            except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError, zlib.error):
                raise UsageError(f"{name}: damaged, or not written by --resume", "remove it to begin anew") from None

    def serve(self, made_with: Mapping[str, str]) -> None:
        """Be about the exploration that is made with these things (name and digest); UsageError when it is another."""
        for what, digest in made_with.items() if self._made_with else ():
            if self._made_with.get(what) != digest:
                raise UsageError(
                    f"{self._name}: made by another exploration: the {what} was different",
                    "give what it was made with, or remove it to begin anew",
                )
        self._made_with = dict(made_with)

    def recovery(self, recovery: Recovery, on_run: Callable[[Run], None] = lambda run: None) -> Recovery:
        """``recovery``, which is only asked for runs that are not kept. These are kept from then on; ``on_run`` is told
        of each.
        """
        return _Remembering(self, recovery, on_run)

    def find(self, tracked: frozenset[int], answer: Answer) -> Run | None:
        """The run from a memory, asked about as that run did, with these units tracked; None if it is not kept."""
        return self._of(tracked).find(answer)

    def add(self, tracked: frozenset[int], runs: Iterable[Run]) -> None:
        """Keep runs in which these units were tracked."""
        kept = self._of(tracked)
        for run in runs:
            kept.add(run)

    def _of(self, tracked: frozenset[int]) -> _Runs:
        if not self._key or tracked != self._tracked:
            self._tracked, self._key = tracked, _digest(",".join(map(str, sorted(tracked))).encode())
        return self._sets.setdefault(self._key, _Runs())

    def content(self) -> bytes:
        """What the file is to hold."""
        chunks = Chunks()
        sets = {key: [_run_to_json(run, chunks) for run in runs] for key, runs in self._sets.items()}
        kept = {
            "made_with": self._made_with,
            "sets": sets,
            "chunks": [base64.b64encode(chunk).decode() for chunk in chunks],
        }
        data = zlib.compress(json.dumps(kept).encode())
        return f"{_SCHEMA} {_digest(data)}\n".encode() + data

    def _load(self, content: bytes) -> None:
        head, _, data = content.partition(b"\n")
        if head != f"{_SCHEMA} {_digest(data)}".encode():
            raise ValueError
        unpacked = zlib.decompressobj().decompress(data, _LARGEST)
        kept = json.loads(unpacked)
        chunks = [base64.b64decode(chunk, validate=True) for chunk in kept["chunks"]]
        self._made_with = {str(what): str(digest) for what, digest in kept["made_with"].items()}
        for key, runs in kept["sets"].items():
            self._sets[key] = found = _Runs()
            for run in runs:
                found.add(_run_from_json(run, chunks))


def _read(name: str) -> bytes | None:
    path = Path(name)
    try:
        if path.exists() and not path.is_file():
            raise UsageError(f"--resume {name}: not a regular file", "give the name of a file")
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise HostError(f"{name}: cannot be read: {error.strerror}", "give another file") from None


def digest_of_file(name: str | None) -> str:
    """Of the bytes of an image; HostError when it cannot be read."""
    content = None if name is None else _read(name)
    return "" if content is None else _digest(content)


def _digest(data: bytes | memoryview) -> str:
    return hashlib.sha256(data).hexdigest()


def digest(parts: Iterable[object]) -> str:
    """Of memory, or of the text of anything else."""
    whole = hashlib.sha256()
    for part in parts:
        whole.update(part if isinstance(part, memoryview) else repr(part).encode())
    return whole.hexdigest()


def _run_to_json(run: Run, chunks: Chunks) -> dict[str, Any]:
    """A whole run, from its beginning; parts of its reads go to ``chunks``, each once."""
    verdict = asdict(run.verdict)
    if run.verdict.spin is not None:
        verdict["spin"]["reads"] = [[address, data.hex()] for address, data in run.verdict.spin.reads]
    return {
        "reads": list(chunks.add(Reads.of(run.reads).data)),
        "verdict": verdict,
        "trace": [[reads, *_to_json(event)] for reads, event in run.trace],
    }


def _run_from_json(kept: Mapping[str, Any], chunks: Sequence[bytes]) -> Run:
    """ValueError, KeyError or TypeError for what ``_run_to_json`` does not write."""
    data = b"".join(chunks[number] for number in kept["reads"])
    if len(data) % READ_SIZE:
        raise ValueError
    verdict = dict(kept["verdict"])
    spin = verdict.pop("spin")
    if spin is not None:
        spin = Spin(spin["pc"], spin["instruction"], tuple((at, bytes.fromhex(data)) for at, data in spin["reads"]))
    trace = tuple((number, _from_json(kind, fields)) for number, kind, fields in kept["trace"])
    return Run(Reads(data), Verdict(**verdict, spin=spin), trace)


_EVENTS: dict[str, type[Event]] = {kind.__name__: kind for kind in (Store, Flush, Fence, WriteBack, LabelWrite)}
_KINDS = {"Flush": FlushKind, "Fence": FenceKind, "WriteBack": WriteBackKind}


def _to_json(event: Event) -> tuple[str, dict[str, Any]]:
    fields = {name: value.hex() if isinstance(value, bytes) else value for name, value in event._asdict().items()}
    return type(event).__name__, fields


def _from_json(kind: str, fields: Mapping[str, Any]) -> Event:
    values = dict(fields)
    if "data" in values:
        values["data"] = bytes.fromhex(values["data"])
    if "kind" in values:
        values["kind"] = _KINDS[kind](values["kind"])
    return _EVENTS[kind](**values)


class _Runs:
    """Runs with the same tracked units, found by the memory that they start from."""

    def __init__(self) -> None:
        self._tree = Tree()
        self._runs: dict[Node, Run] = {}  # by where they end; the tree has what they have read

    def __iter__(self) -> Iterator[Run]:
        return (replace(run, reads=leaf.reads) for leaf, run in self._runs.items())

    def add(self, run: Run) -> None:
        self._runs[self._tree.add(run.reads, run.verdict)] = replace(run, reads=())

    def find(self, answer: Answer) -> Run | None:
        """The run from a memory, asked about as that run did, if it is kept."""
        node = self._tree.root
        while True:
            for piece in node.pieces():
                if any(answer(unit, mask) != value for unit, mask, value in piece):
                    return None
            if node.read is None:
                return None if node.is_open else replace(self._runs[node], reads=node.reads)
            value = answer(*node.read)
            if value not in node.children:
                return None
            node = node.children[value]


class _Remembering:
    """A recovery that remembers what it did before."""

    def __init__(self, kept: KeptRuns, recovery: Recovery, on_run: Callable[[Run], None]) -> None:
        self._kept = kept
        self._recovery = recovery
        self._on_run = on_run

    def run(
        self, tracked: frozenset[int], answer: Answer, settled: Settled | None = None, given: Sequence[Read] = ()
    ) -> Run:
        run = self._kept.find(tracked, answer)
        if run is None:
            # What was asked on the way is what this run asks first, too.
            run = self._recovery.run(tracked, answer, settled, given)
            self._kept.add(tracked, [run])
            self._on_run(run)
        return run
