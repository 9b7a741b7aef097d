"""Recoveries that an exploration ran, kept in a file, so that the next one need not run them again.

An exploration that is given them asks for the same runs in the same order and gets those that are kept from here: its
result is that of one that was never interrupted. A file says what it was made with, and serves nothing else.
"""

from __future__ import annotations

import base64
import hashlib
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from emu.errors import HostError, UsageError
from emu.persistence.lab.explore import Answer, Recovery, Run, Settled, Spin, Verdict
from emu.persistence.lab.tree import Reads, Tree
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

    UsageError when that is damaged, HostError when it cannot be read.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._made_with: dict[str, str] = {}
        self._sets: dict[str, _Runs] = {}
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

    def recovery(self, recovery: Recovery) -> Recovery:
        """``recovery``, which is only asked for runs that are not kept; these are kept from then on."""
        return _Remembering(self, recovery)

    def of(self, tracked: frozenset[int]) -> _Runs:
        """The runs in which these units were tracked."""
        return self._sets.setdefault(_digest(",".join(map(str, sorted(tracked))).encode()), _Runs())

    def content(self) -> bytes:
        """What the file is to hold."""
        chunks: dict[bytes, int] = {}
        sets = {key: [run.to_json(chunks) for run in runs.runs] for key, runs in self._sets.items()}
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
                found.add(_Kept.from_json(run, chunks))


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


def digest(*parts: object) -> str:
    """Of memory, or of the text of anything else."""
    whole = hashlib.sha256()
    for part in parts:
        whole.update(part if isinstance(part, memoryview) else repr(part).encode())
    return whole.hexdigest()


@dataclass(frozen=True, slots=True)
class _Kept:
    """A whole run, from its beginning."""

    reads: Reads
    run: Run

    def to_json(self, chunks: dict[bytes, int]) -> dict[str, Any]:
        """For JSON; parts of the reads go to ``chunks``, each once."""
        verdict = asdict(self.run.verdict)
        spin = self.run.verdict.spin
        if spin is not None:
            verdict["spin"]["reads"] = [[address, data.hex()] for address, data in spin.reads]
        return {
            "reads": [chunks.setdefault(chunk, len(chunks)) for chunk in self.reads.pieces()],
            "verdict": verdict,
            "trace": [[reads, *_to_json(event)] for reads, event in self.run.trace],
            "caveat": self.run.caveat,
        }

    @classmethod
    def from_json(cls, kept: Mapping[str, Any], chunks: Sequence[bytes]) -> _Kept:
        """ValueError, KeyError or TypeError for what ``to_json`` does not write."""
        data = b"".join(chunks[number] for number in kept["reads"])
        if len(data) % 24:
            raise ValueError
        reads, verdict = Reads(data), dict(kept["verdict"])
        spin = verdict.pop("spin")
        if spin is not None:
            spin = Spin(spin["pc"], spin["instruction"], tuple((at, bytes.fromhex(data)) for at, data in spin["reads"]))
        trace = tuple((number, _from_json(kind, fields)) for number, kind, fields in kept["trace"])
        return cls(reads, Run(reads, Verdict(**verdict, spin=spin), trace, str(kept["caveat"])))


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
        self.runs: list[_Kept] = []
        self._tree = Tree()
        self._by_verdict: dict[int, _Kept] = {}

    def add(self, kept: _Kept) -> None:
        # Every run gets a verdict of its own, by which the tree's leaf tells whose it is.
        kept = replace(kept, run=replace(kept.run, verdict=replace(kept.run.verdict)))
        self.runs.append(kept)
        self._by_verdict[id(kept.run.verdict)] = kept
        self._tree.add(kept.reads, kept.run.verdict)

    def find(self, answer: Answer) -> Run | None:
        """The run from a memory, asked about as that run did, if it is kept."""
        node = self._tree.root
        while True:
            for chunk in node.chunks:
                if any(answer(unit, mask) != value for unit, mask, value in Reads(chunk.data)):
                    return None
            if node.read is None:
                return None if node.verdict is None else self._by_verdict[id(node.verdict)].run
            value = answer(*node.read)
            if value not in node.children:
                return None
            node = node.children[value]


class _Remembering:
    """A recovery that remembers what it did before."""

    def __init__(self, kept: KeptRuns, recovery: Recovery) -> None:
        self._kept = kept
        self._recovery = recovery

    def run(
        self, tracked: frozenset[int], answer: Answer, settled: Settled | None = None, given: Sequence[Read] = ()
    ) -> Run:
        runs = self._kept.of(tracked)
        run = runs.find(answer)
        if run is None:
            # What was asked on the way is what this run asks first, too.
            run = self._recovery.run(tracked, answer, settled, given)
            runs.add(_Kept(Reads.of(run.reads), run))
        return run
