"""The stream's byte machine: round trips, every kind of damage, and hostile streams against a real destination."""

from __future__ import annotations

import json
import os
import random
import struct
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emu.errors import EmuError
from emu.host import kernel
from emu.host.pages import crc32c, sums_of
from emu.migration import codec
from emu.migration.channel import Interrupt
from emu.migration.destination import Destination
from emu.migration.errors import ConnectionLost, StreamError
from emu.migration.facts import BlockFacts, FileFacts, MachineFacts, NvdimmFacts, decode_facts
from emu.migration.parameters import Capabilities, Parameters
from emu.migration.progress import Progress
from emu.migration.report import entry
from emu.migration.source import Source
from emu.migration.stream import (
    FROM_DESTINATION,
    FROM_SOURCE,
    MAX_META,
    Decoder,
    Encoder,
    Frame,
    FrameType,
    PageRuns,
    Run,
    decode_runs,
    encode_runs,
)
from emu.state import SavedState
from emu.units import PAGE
from tests.fuzzing import times
from tests.unit.migration.migration_doubles import PMEM, RAM, FakeGuest, Memory, fill, make_guest


def feed(decoder: Decoder, data: bytes, pieces: Iterator[int] | None = None) -> list[Frame]:
    """Give ``data`` to ``decoder`` in pieces; the frames that came out."""
    frames, at = [], 0
    while at < len(data):
        room = decoder.buffers()[0]
        count = min(len(room), len(data) - at, next(pieces) if pieces else len(room))
        room[:count] = data[at : at + count]
        at += count
        frame = decoder.advance(count)
        if frame is not None:
            frames.append(frame)
    return frames


def stream(*frames: tuple[FrameType, bytes, bytes]) -> bytes:
    encoder = Encoder()
    return encoder.opening + b"".join(encoder.frame(kind, meta, [data]) + data for kind, meta, data in frames)


@given(st.lists(st.tuples(st.binary(max_size=300), st.binary(max_size=4000)), max_size=6), st.randoms())
def test_frames_come_out_as_they_went_in_however_the_bytes_are_cut(
    contents: list[tuple[bytes, bytes]], rng: random.Random
) -> None:
    data = stream(*((FrameType.STATE, meta, data) for meta, data in contents))
    decoder = Decoder(FROM_SOURCE)
    pieces = iter(lambda: rng.choice([1, 2, 7, 64, 5000]), 0)
    assert feed(decoder, data, pieces) == [Frame(FrameType.STATE, meta, data) for meta, data in contents]


@settings(max_examples=400)
@given(st.data())
def test_any_changed_byte_is_noticed(data: st.DataObject) -> None:
    whole = stream(
        (FrameType.STATE, b"meta", b"x" * 50), (FrameType.FINISH, b"12345678", b""), (FrameType.COMMIT, b"", b"")
    )
    at = data.draw(st.integers(0, len(whole) - 1))
    broken = bytearray(whole)
    broken[at] ^= data.draw(st.integers(1, 255))
    decoder = Decoder(FROM_SOURCE)
    with pytest.raises(StreamError):  # noqa: PT012 - a length made larger is noticed as a stream cut inside a frame
        if len(feed(decoder, bytes(broken))) < 3:
            raise StreamError("cut")


def frames_apart() -> tuple[bytes, list[bytes]]:
    encoder = Encoder()
    parts = [encoder.frame(FrameType.ROUND_END, bytes([n])) for n in range(5)]
    return encoder.opening, parts


@pytest.mark.parametrize("order", [[1, 0, 2], [0, 0], [0, 2], [0, 1, 2, 1], [4]])
def test_reordered_repeated_and_lost_frames_are_noticed(order: list[int]) -> None:
    opening, parts = frames_apart()
    with pytest.raises(StreamError, match="lost or repeated"):
        feed(Decoder(FROM_SOURCE), opening + b"".join(parts[n] for n in order))


def test_frames_of_another_stream_are_noticed_even_with_the_right_number() -> None:
    opening, parts = frames_apart()
    other = Encoder()
    other.frame(FrameType.ROUND_END, b"other")
    with pytest.raises(StreamError, match="corrupted or out of order"):
        feed(Decoder(FROM_SOURCE), opening + parts[0] + other.frame(FrameType.ROUND_END, b"\1"))


@pytest.mark.parametrize("version", [1, 4, 6])
def test_other_versions_and_other_protocols_are_named(version: int) -> None:
    head = b"emu-migr" + struct.pack("<HH", version, 0)
    with pytest.raises(StreamError, match=f"of version {version} "):
        feed(Decoder(FROM_SOURCE), head + struct.pack("<I", crc32c(head)))
    with pytest.raises(StreamError, match="not an emu migration stream"):
        feed(Decoder(FROM_SOURCE), b"GET / HTTP/1.1\r\n")


@pytest.mark.parametrize(
    ("kind", "meta", "length"),
    [(99, 0, 0), (0, 0, 0), (16, 0, 0), (6, MAX_META + 1, 0), (1, 0, 1 << 31), (7, 0, 1), (2, 0, 0)],
)
def test_lengths_and_types_are_judged_before_anything_is_allocated(kind: int, meta: int, length: int) -> None:
    encoder = Encoder()
    sealed = struct.pack("<HHIII", kind, meta, length, 0, 0)
    chain = crc32c(sealed, int.from_bytes(encoder.opening[-4:], "little"))
    decoder = Decoder(FROM_SOURCE)
    with pytest.raises(StreamError):
        feed(decoder, encoder.opening + sealed + struct.pack("<I", chain))
    assert sum(map(len, decoder.buffers())) <= 64


def test_page_runs_stay_inside_the_announced_blocks() -> None:
    good = PageRuns(1, (Run(0, 2), Run(2, 1), Run(9, 1)))
    assert decode_runs(encode_runs(good), [5, 10]) == good
    for runs in (
        PageRuns(2, (Run(0, 1),)),
        PageRuns(0, (Run(4, 2),)),
        PageRuns(0, (Run(1, 0),)),
        PageRuns(0, (Run(0xFFFFFFFF, 0xFFFFFFFF),)),
        PageRuns(0, (Run(3, 1), Run(2, 1))),
        PageRuns(0, ()),
    ):
        with pytest.raises(StreamError):
            decode_runs(encode_runs(runs), [5, 10])
    with pytest.raises(StreamError):
        decode_runs(b"\0", [5])


field_values = st.one_of(
    st.integers(-(1 << 64), 1 << 64), st.booleans(), st.text(max_size=20), st.binary(max_size=40),
    st.lists(st.integers(0, (1 << 64) - 1), max_size=5),
)  # fmt: skip


def test_256_nvdimms_and_the_board_are_not_too_many_components() -> None:
    states = {f"component {n}": SavedState("nvdimm", 1, {"n": n}) for n in range(256 + 20)}
    assert codec.decode_states(codec.encode_states(states, running=False)) == (states, False)


@given(
    st.dictionaries(
        st.text(max_size=8),
        st.builds(
            SavedState, st.text(max_size=8), st.integers(0, 9), st.dictionaries(st.text(max_size=8), field_values)
        ),
    )
)
def test_device_state_survives_the_journey(states: dict[str, SavedState]) -> None:
    decoded, running = codec.decode_states(codec.encode_states(states, running=True))
    assert running
    assert decoded == states


def test_a_component_that_is_named_twice_is_an_error() -> None:
    document = json.loads(codec.encode_states({"com1": SavedState("uart16550", 1, {})}, running=True))
    document["components"] *= 2
    with pytest.raises(StreamError, match="names a component twice"):
        codec.decode_states(json.dumps(document).encode())


KEYS = st.sampled_from(
    ["running", "components", "name", "kind", "version", "fields", "base64", "machine", "nvdimms", "blocks"]
)
shapes = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
)


@settings(max_examples=500)
@given(st.binary(max_size=200) | shapes.map(lambda shape: json.dumps(shape).encode()))
def test_documents_of_any_shape_are_values_or_stream_errors(data: bytes) -> None:
    for decode in (codec.decode_states, lambda raw: decode_facts(codec.decode_json(raw, "test"))):
        try:
            decode(data)
        except StreamError as error:
            assert "migration stream" in str(error)


FACTS = MachineFacts(
    ram_size=1 << 20,
    clock="virtual",
    persistence="none",
    blocks=(BlockFacts("pc.ram", 1 << 20),),
    nvdimms=(
        NvdimmFacts(
            id="nv1", block="m1", size=4096, label_size=0, uuid="", unarmed=False, slot=0, gpa=1 << 32, node=0,
            readonly=False, granularity="page", survives_guest_crash=True, survives_emulator_kill=True,
            survives_host_power_loss=False, share=True, file=FileFacts(1, (1 << 64) - 1, "boot"),
        ),
    ),
)  # fmt: skip


def sent(facts: MachineFacts) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(codec.encode_json(asdict(facts)))
    return document


def test_facts_survive_the_way() -> None:
    assert decode_facts(sent(FACTS)) == FACTS
    without = replace(FACTS, nvdimms=(replace(FACTS.nvdimms[0], file=None),))
    assert decode_facts(sent(without)) == without


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to each field of the document ``value``."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield (*at, key)
        yield from places(item, (*at, key))


@pytest.mark.parametrize("place", list(places(sent(FACTS))), ids=str)
def test_a_fact_of_another_type_is_refused_and_named(place: tuple[Any, ...]) -> None:
    name = next(part for part in reversed(place) if isinstance(part, str))
    values: list[object] = [None, -1, 1 << 64, 0.5, {}, [None], "x" * 5000]
    for wrong in values:
        document = sent(FACTS)
        holder = document
        for part in place[:-1]:
            holder = holder[part]
        if wrong is None and name == "file":
            continue  # an NVDIMM without a file
        holder[place[-1]] = wrong
        with pytest.raises(StreamError, match=name):
            decode_facts(document)


@pytest.mark.parametrize("place", [(), ("blocks", 0), ("nvdimms", 0), ("nvdimms", 0, "file")], ids=str)
def test_facts_have_exactly_their_fields(place: tuple[Any, ...]) -> None:
    for change in ("one more", "one less"):
        document = sent(FACTS)
        holder = document
        for part in place:
            holder = holder[part]
        if change == "one more":
            holder["colour"] = 1
        else:
            holder.popitem()
        with pytest.raises(StreamError, match="missing or unknown keys"):
            decode_facts(document)


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        (replace(FACTS, blocks=FACTS.blocks * 2), "the same name"),
        (replace(FACTS, blocks=(BlockFacts("pc.ram", 4095),)), "not a number of pages"),
        (replace(FACTS, blocks=(BlockFacts("pc.ram", 0),)), "not a number of pages"),
        (replace(FACTS, blocks=(BlockFacts("pc.ram", 1 << 44),)), "not a number of pages"),
        (replace(FACTS, blocks=tuple(BlockFacts(str(n), 4096) for n in range(265))), "not a list of at most 264"),
        (replace(FACTS, nvdimms=(replace(FACTS.nvdimms[0], granularity="line"),)), "unknown granularity 'line'"),
    ],
)
def test_facts_that_cannot_be(changed: MachineFacts, says: str) -> None:
    with pytest.raises(StreamError, match=says):
        decode_facts(sent(changed))


def test_facts_of_a_machine_with_every_slot_filled() -> None:
    names = ("pc.ram", *(f"n{n}-backend" for n in range(256)))
    full = replace(FACTS, blocks=tuple(BlockFacts(name, 4096) for name in names))
    assert decode_facts(sent(full)) == full


def test_deeply_nested_and_absurdly_long_json_is_an_error() -> None:
    for text in (b"[" * 100_000, b'{"a":' + b"9" * 10_000 + b"}", b'{"a":NaN}'):
        with pytest.raises(StreamError):
            codec.decode_json(text, "test")


# -- hostile streams against a real destination ------------------------------------------------------------------------


class Tape:
    """A channel that plays a recorded stream to a destination and notes its answers; its end is a lost connection."""

    live = True

    def __init__(self, data: bytes, decoder: Decoder, files: Sequence[int] = ()) -> None:
        self._data = memoryview(data)
        self._decoder = decoder
        self.sent = 0
        self.passes_files = False
        self.files: list[int] = list(files)
        self.answers: list[FrameType] = []

    def send(self, kind: FrameType, meta: bytes = b"", data: object = (), **_: object) -> None:
        self.answers.append(kind)

    def receive(self, **_: object) -> Frame:
        while True:
            if not self._data:
                raise ConnectionLost("end of tape")
            room = self._decoder.buffers()[0]
            count = min(len(room), len(self._data))
            room[:count] = self._data[:count]
            self._data = self._data[count:]
            frame = self._decoder.advance(count)
            if frame is not None:
                return frame

    def readable(self) -> bool:
        return False

    def finish(self) -> None: ...

    def close(self) -> None: ...


class Recorder:
    """A channel for a source that records what it sends, frame by frame, and gives the expected answers."""

    live = True

    def __init__(self, guest: FakeGuest) -> None:
        self.frames: list[tuple[FrameType, bytes, bytes]] = []
        self.sent = 0
        self.passes_files = guest.pmem is not None
        self.files: list[int] = []
        self._guest = guest
        self._to_copy: deque[bytes] = deque()

    def send(self, kind: FrameType, meta: bytes = b"", data: object = (), **_: object) -> None:
        body = b"".join(bytes(part) for part in data)  # type: ignore[attr-defined]
        self.frames.append((kind, meta, body))
        self.sent += len(meta) + len(body)
        if kind is FrameType.COPY:
            self._to_copy.append(meta)

    def receive(self, **_: object) -> Frame:
        kind, meta, _body = self.frames[-1]
        if self._to_copy:
            runs = decode_runs(self._to_copy.popleft(), [1 << 20, 1 << 20]).runs
            assert self._guest.pmem is not None
            view = self._guest.pmem.view
            sums = b"".join(sums_of(view[run.first * PAGE : (run.first + run.count) * PAGE]) for run in runs)
            return Frame(FrameType.COPIED, b"", sums)
        match kind:
            case FrameType.PREAMBLE:
                machine = asdict(self._guest.facts())
                for nvdimm in machine["nvdimms"]:
                    nvdimm["file"] = None
                answer = {"machine": machine, "allow_weaker_persistence": False, "proofs": {}}
                answer["by_reference"] = ["m1"] if self.passes_files else []
                return Frame(FrameType.ACCEPT, b"", codec.encode_json(answer))
            case FrameType.ROUND_END:
                return Frame(FrameType.ROUND_DURABLE, meta)
            case FrameType.FINISH:
                report = entry("m1", "page", 0, 0.0)
                said = {"nvdimms": [report] if self.passes_files else []}
                return Frame(FrameType.DURABLE, b"", codec.encode_json(said))
        return Frame(FrameType.RUNNING, b"")

    def readable(self) -> bool:
        return False

    def finish(self) -> None: ...

    def close(self) -> None: ...


def recording(path: Path | None = None) -> list[tuple[FrameType, bytes, bytes]]:
    """The frames of a good migration of a small guest, in small batches so that there are many.

    With ``path`` it has an NVDIMM of that file, whose pages the destination is to copy itself.
    """
    guest = make_guest(path)
    fill(guest)
    recorder, interrupt = Recorder(guest), Interrupt()
    Source(
        guest, recorder, capabilities=Capabilities(), parameters=lambda: Parameters(max_bandwidth=1 << 20),
        progress=Progress(), interrupt=interrupt,
    ).run()  # fmt: skip
    interrupt.close()
    guest.close()
    return recorder.frames


def guarded_guest() -> FakeGuest:
    """A guest whose RAM lies inside a larger mapping, between two pages of canaries."""
    memory = Memory(RAM + 2 * PAGE)
    memory.view[:PAGE] = memory.view[-PAGE:] = b"\xa5" * PAGE
    memory.view, memory.size = memory.view[PAGE:-PAGE], RAM
    return FakeGuest(memory, running=False)


def canaries_live(guest: FakeGuest) -> bool:
    around = kernel.memory_view(guest.ram.address, RAM + 2 * PAGE)
    return bytes(around[:PAGE]) == bytes(around[-PAGE:]) == b"\xa5" * PAGE


def play(data: bytes) -> tuple[bool, FakeGuest, list[FrameType]]:
    """Give a stream to a destination whose RAM has canaries on both sides; whether it took the machine over."""
    guest = guarded_guest()
    interrupt = Interrupt()
    side = Destination(guest, capabilities=Capabilities(), progress=Progress(), interrupt=interrupt)
    tape = Tape(data, Decoder(FROM_SOURCE, side.place))
    try:
        side.run(tape)
        return True, guest, tape.answers
    except EmuError:
        return False, guest, tape.answers
    finally:
        interrupt.close()


def test_the_recording_itself_is_taken() -> None:
    taken, guest, answers = play(stream(*recording()))
    assert taken
    assert guest.counter == 7
    assert answers[-1] is FrameType.DURABLE
    guest.close()


@pytest.mark.parametrize("late", [FrameType.STATE, FrameType.FINISH])
def test_a_source_may_not_keep_a_destination_waiting_that_has_all(late: FrameType) -> None:
    frames = recording()
    at = next(index for index, frame in enumerate(frames) if frame[0] is late) + 1
    taken, guest, _ = play(stream(*frames[:at], (FrameType.KEEPALIVE, b"", b""), *frames[at:]))
    assert not taken
    guest.close()


def mutate(frames: list[tuple[FrameType, bytes, bytes]], rng: random.Random) -> bytes:
    """One of: damaged bytes, and well-sealed streams whose frames say the wrong things."""
    frames = list(frames)
    way = rng.randrange(10)
    if way < 3:
        changed = bytearray(stream(*frames))
        for _ in range(rng.randint(1, 4)):
            changed[rng.randrange(len(changed))] = rng.randrange(256)
        return bytes(changed)
    if way == 3:
        whole = bytes(stream(*frames))
        at = rng.randrange(len(whole))
        return whole[:at] + rng.randbytes(rng.randrange(40)) + whole[at + rng.randrange(40) :]
    if way == 4:
        return bytes(stream(*frames))[: rng.randrange(20_000)]
    index = rng.randrange(len(frames))
    kind, meta, data = frames[index]
    if way == 5:
        frames[index] = (rng.choice(sorted(FROM_SOURCE)), meta, data)
    elif way == 6 and meta:
        changed = bytearray(meta)
        changed[rng.randrange(len(changed))] = rng.choice([0, 1, 127, 128, 255])
        frames[index] = (kind, bytes(changed), data)
    elif way == 7:
        del frames[index]
    elif way == 8:
        frames.insert(rng.randrange(len(frames)), frames[index])
    else:
        text = bytearray(data or b"{}")
        for _ in range(rng.randint(1, 3)):
            text[rng.randrange(len(text))] = rng.choice(b'09{}[]":,-x\x00\xff')
        frames[index] = (kind, meta, bytes(text))
    try:
        return stream(*frames)
    except StreamError:
        return stream(*frames[:index])


@pytest.mark.slow
@pytest.mark.fuzz
def test_mutated_streams_neither_crash_nor_escape() -> None:
    good = recording()
    rng = random.Random(2024)
    taken = 0
    count = times(3_000)
    for _ in range(count):
        accepted, guest, answers = play(mutate(good, rng))
        taken += accepted
        if accepted:
            assert FrameType.DURABLE in answers
        assert canaries_live(guest)
        guest.close()
    # Mutations that change nothing that matters (a page's bytes under a fresh checksum) are taken; damage never is.
    assert 0 < taken < count / 2


@pytest.mark.fuzz
def test_mutated_references_reach_no_further_than_the_block_and_its_file(tmp_path: Path) -> None:
    good = recording(tmp_path / "source.img")
    assert FrameType.COPY in {kind for kind, _, _ in good}
    rng = random.Random(2025)
    taken = 0
    count = times(300)
    for _ in range(count):
        guest = make_guest(tmp_path / "destination.img", running=False)
        interrupt = Interrupt()
        side = Destination(guest, capabilities=Capabilities(), progress=Progress(), interrupt=interrupt)
        # Not always the file that the frames speak of: shorter ones, and what is no regular file.
        passed = os.open(rng.choice(["/dev/zero", *[str(tmp_path / "source.img")] * 8]), os.O_RDONLY)
        tape = Tape(mutate(good, rng), Decoder(FROM_SOURCE, side.place), [passed])
        try:
            side.run(tape)
            taken += 1
            assert bytes((tmp_path / "source.img").read_bytes()) == bytes(guest.pmem.view)  # type: ignore[union-attr]
        except EmuError:
            assert FrameType.RUNNING not in tape.answers
        assert (tmp_path / "destination.img").stat().st_size == PMEM
        interrupt.close()
        os.close(passed)
        guest.close()
    assert taken < count / 2


@pytest.mark.parametrize("cut", range(60))
def test_a_stream_cut_anywhere_is_never_taken(cut: int) -> None:
    data = stream(*recording())
    taken, guest, _ = play(data[: len(data) * cut // 60])
    assert not taken
    guest.close()


def test_from_the_destination_only_answers_are_understood() -> None:
    with pytest.raises(StreamError, match="not allowed"):
        feed(Decoder(FROM_DESTINATION), stream((FrameType.COMMIT, b"", b"")))


class Liar(Recorder):
    """A destination that answers the preamble or the end with a document of its own."""

    def __init__(self, guest: FakeGuest, kind: FrameType, document: bytes) -> None:
        super().__init__(guest)
        self._lie = Frame(kind, b"", document)

    def receive(self, **_: object) -> Frame:
        asked = self.frames[-1][0]
        lies_to = {FrameType.ACCEPT: FrameType.PREAMBLE, FrameType.DURABLE: FrameType.FINISH}
        if lies_to.get(self._lie.kind, FrameType.PREAMBLE) is asked:
            return self._lie
        return super().receive()


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from([FrameType.ACCEPT, FrameType.DURABLE, FrameType.REFUSE, FrameType.FAILED, FrameType.RUNNING]),
    shapes.map(lambda shape: json.dumps(shape).encode())
    | st.dictionaries(
        st.sampled_from(["machine", "allow_weaker_persistence", "proofs", "by_reference", "nvdimms", "reasons"]), shapes
    ).map(lambda shape: json.dumps(shape).encode()),
)
def test_a_lying_destination_never_gets_the_machine(kind: FrameType, document: bytes) -> None:
    guest, interrupt = make_guest(), Interrupt()
    source = Source(
        guest, Liar(guest, kind, document), capabilities=Capabilities(), parameters=Parameters, progress=Progress(),
        interrupt=interrupt,
    )  # fmt: skip
    try:
        source.run()
    except EmuError:
        assert guest.running
    else:
        assert kind is FrameType.DURABLE
        assert isinstance(json.loads(document)["nvdimms"], list)
    interrupt.close()
    guest.close()
