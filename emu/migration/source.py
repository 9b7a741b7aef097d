"""The source of a migration: sends the machine, and stays its owner until the hand-over.

    SETUP -> ROUNDS -> SWITCHOVER -> DURABLE -> HANDOVER -> DONE
      any phase before HANDOVER fails or is cancelled: the guest goes on here, nothing is lost
      HANDOVER without an answer: OutcomeUnknown, the guest stays stopped here

The point of no return is the first byte of COMMIT that the kernel took. docs/reference/migration-protocol.md has the
diagram and the table of faults.
"""

from __future__ import annotations

import contextlib
import enum
import struct
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NoReturn

from emu.errors import EmuError, HostError
from emu.migration import codec, compression
from emu.migration.agreement import agree, lock_of
from emu.migration.channel import Channel, Interrupt, Pacer, SocketChannel, cancelled
from emu.migration.doubts import Doubts
from emu.migration.errors import ConnectionLost, DestinationFailed, MigrationError, OutcomeUnknown, Refused, StreamError
from emu.migration.guest import Block, Guest, Tracker
from emu.migration.lanes import Offer, SendingLanes
from emu.migration.pages import PageSender, split_holes
from emu.migration.parameters import Capabilities, Parameters
from emu.migration.policy import Terms
from emu.migration.progress import Progress, Status
from emu.migration.report import decode_report
from emu.migration.strangers import Strangers
from emu.migration.stream import Frame, FrameType, Run
from emu.migration.throttle import Throttle
from emu.units import MIB, PAGE
from emu.words import printable

_PERSIST_STEP = 64 * MIB
# Well below the smallest stall timeout, one second.
_KEEPALIVE_S = 0.25
# How long the other side may take to hear that the migration is off, and how many last frames of it are looked through.
_GOODBYE_S = 1.0
_LAST_WORDS = 16
_AFTER_PROGRESS = (FrameType.ROUND_DURABLE, FrameType.DURABLE)


class Phase(enum.Enum):
    SETUP = enum.auto()
    ROUNDS = enum.auto()
    SWITCHOVER = enum.auto()
    DURABLE = enum.auto()
    HANDOVER = enum.auto()
    DONE = enum.auto()


class Source:
    """One migration from this side. ``run`` blocks until it is over; ``parameters`` may change while it runs."""

    def __init__(
        self,
        guest: Guest,
        channel: Channel,
        *,
        capabilities: Capabilities,
        parameters: Callable[[], Parameters],
        progress: Progress,
        interrupt: Interrupt,
        dial: Callable[[], SocketChannel] | None = None,
    ) -> None:
        """``dial`` opens another connection to the same destination: for the capability multifd."""
        self.phase = Phase.SETUP
        self._guest = guest
        self._channel = channel
        self._capabilities = capabilities
        self._parameters = parameters
        self._progress = progress
        self._interrupt = interrupt
        self._blocks = list(guest.blocks())
        self._copied = [not self._ignored(block) for block in self._blocks]
        self._trackers: dict[int, Tracker] = {}
        self._doubts = Doubts(self._blocks)
        self._strangers: Strangers | None = None
        self._switch = threading.Event()
        self._was_running = False
        self._pacer = Pacer(interrupt)
        self._sender = PageSender(channel, progress, self._pacer, lambda: self._limit, self._await_copy)
        self._dial = dial
        self._lanes: SendingLanes | None = None
        self._by_reference: frozenset[str] = frozenset()
        self._limit = parameters().max_bandwidth
        self._released = False
        self._synced_at = self._stopped_at = 0.0
        self._pending: Mapping[int, Sequence[Run]] = {}

    def _ignored(self, block: Block) -> bool:
        return self._capabilities.x_ignore_shared and block.persistent and block.share and block.path is not None

    def switch_over(self) -> None:
        """Go on after ``pause-before-switchover``; from any thread."""
        self._switch.set()

    def run(self) -> None:
        """Migrate. Returns when the destination has taken over (or the snapshot is durable).

        Raises Refused, Cancelled or another MigrationError when the guest stays here and goes on, and OutcomeUnknown
        when nobody knows who owns it and it stays stopped.
        """
        try:
            self._setup()
            self._rounds()
            self._switchover()
            self._hand_over()
        except OutcomeUnknown:
            raise
        except ConnectionLost as error:
            self._keep(error)
            self._hear_last_words()
            raise
        except BaseException as error:
            self._keep(error)
            raise
        finally:
            self._stop_tracking()
            if self._lanes is not None:
                self._lanes.close()

    # -- phases -----------------------------------------------------------------------------------------------------

    def _setup(self) -> None:
        self._progress.enter(Status.SETUP)
        self._progress.total = sum(block.size for block in self._of(True))
        self._progress.remaining = self._progress.total
        terms = Terms(
            ignore_shared=self._capabilities.x_ignore_shared,
            allow_weaker_persistence=self._capabilities.allow_weaker_persistence,
            snapshot=not self._channel.live,
        )
        facts = self._guest.facts()
        parameters = self._parameters()
        offer = None
        if self._capabilities.multifd and self._dial is not None:
            offer = Offer(parameters.multifd_channels, parameters.multifd_compression)
        self._by_reference = agree(self._channel, facts, terms, self._of(True), self._of(False), self._expect, offer)
        if offer is not None and self._dial is not None:
            level = parameters.compression_level
            self._lanes = SendingLanes(
                offer, self._dial, lambda lane: self._lane_sender(lane, offer.compression, level)
            )
            self._expect(FrameType.READY)

    def _lane_sender(self, lane: SocketChannel, method: str, level: int) -> PageSender:
        packer = compression.packer(method, level)
        return PageSender(lane, self._progress, self._pacer, lambda: self._limit, packer=packer, lane=True)

    def _of(self, copied: bool) -> list[Block]:
        """The blocks that are copied, or those that are not."""
        return [block for block, is_copied in zip(self._blocks, self._copied, strict=True) if is_copied is copied]

    def _rounds(self) -> None:
        self.phase = Phase.ROUNDS
        self._progress.enter(Status.ACTIVE)
        self._strangers = Strangers(self._of(True))
        # Also while it stands still: the user may let it run before the switch-over.
        for number, block in enumerate(self._blocks):
            if self._copied[number] and block.writable:
                tracker = self._guest.tracker(block)
                tracker.start()
                self._trackers[number] = tracker
        self._synced_at = time.monotonic()
        pending: Mapping[int, Sequence[Run]] = self._first_round()
        throttle = Throttle(self._guest, self._progress)
        slow_rounds = 0
        try:
            while True:
                began, sent = time.monotonic(), self._send_round(pending)
                # Speed means speed to durability: the destination answers a round when it could survive losing power.
                speed = sent / max(time.monotonic() - began, 1e-6)
                pending = self._collect()
                dirty = sum(run.count for runs in pending.values() for run in runs) * PAGE
                self._progress.remaining = dirty
                expected = dirty / speed * 1000 if dirty else 0.0
                self._progress.expected_downtime_ms = round(expected)
                if expected <= self._parameters().downtime_limit:
                    break
                slow_rounds = slow_rounds + 1 if dirty > sent / 2 else 0
                if slow_rounds >= 2 and self._capabilities.auto_converge:
                    throttle.tighten(self._parameters())
                    slow_rounds = 0
            self._pending = pending
        finally:
            throttle.stop()
        self._settle_shared()

    def _first_round(self) -> Mapping[int, Sequence[Run]]:
        """Say which pages are holes of sparse files (nobody needs to read them), and return all the others."""
        pending = {}
        for number, block in enumerate(self._blocks):
            if self._copied[number]:
                pending[number], holes = split_holes(block)
                self._sender.send_zeros(number, holes)
        return pending

    def _send_round(self, pending: Mapping[int, Sequence[Run]]) -> int:
        """Send the pages of one round and wait until they are durable there; the bytes it stood for."""
        self._limit = self._parameters().max_bandwidth
        self._progress.begin_round()
        for number, runs in pending.items():
            self._look_for_refusal()
            self._send_pages(number, runs)
        self._sync(self._progress.rounds)
        self._channel.send(FrameType.ROUND_END, struct.pack("<I", self._progress.rounds))
        if self._channel.live:
            answer = self._expect(FrameType.ROUND_DURABLE)
            if answer.meta != struct.pack("<I", self._progress.rounds):
                raise StreamError("migration stream: the destination answered another round")
        return sum(run.count for runs in pending.values() for run in runs) * PAGE

    def _send_pages(self, number: int, runs: Sequence[Run]) -> None:
        block = self._blocks[number]
        if block.name in self._by_reference:
            self._doubts.add(number, self._sender.send_references(number, block, runs))
        elif self._lanes is not None:
            self._lanes.send(number, block, runs, self._stay_alive)
        else:
            self._sender.send(number, block, runs)
        self._check_storage(block)

    def _sync(self, number: int) -> None:
        if self._lanes is not None:
            self._lanes.sync(number, self._stay_alive)

    def _stay_alive(self) -> None:
        """Only the lanes have been busy for a while."""
        self._channel.send(FrameType.KEEPALIVE)
        self._look_for_refusal()

    def _collect(self) -> Mapping[int, Sequence[Run]]:
        now = time.monotonic()
        found = {
            number: [Run(first, count) for first, count in runs]
            for number, tracker in self._trackers.items()
            if (runs := tracker.collect())
        }
        self._doubts.settle(found)
        self._check_files()
        pages = sum(run.count for runs in found.values() for run in runs)
        elapsed = now - self._synced_at
        self._progress.dirty_pages_per_s = round(pages / elapsed) if elapsed > 0 else 0
        self._synced_at = now
        return found

    def _switchover(self) -> None:
        self.phase = Phase.SWITCHOVER
        self._was_running = self._guest.running
        self._stopped_at = time.monotonic()
        self._guest.stop()
        if self._capabilities.pause_before_switchover:
            self._progress.enter(Status.PRE_SWITCHOVER)
            while not self._switch.is_set():
                self._interrupt.wait(_KEEPALIVE_S)
                self._stay_alive()
        self._progress.enter(Status.DEVICE)
        self._limit = 0
        last = dict(self._pending)
        for number, runs in self._collect().items():
            last[number] = [*last.get(number, ()), *runs]
        for number, runs in last.items():
            self._send_pages(number, _merge(runs))
        self._sync(self._progress.rounds + 1)
        self._doubts.settle({})  # the guest stands still
        self._settle_shared()
        states = codec.encode_states(self._guest.save(), running=self._was_running)
        self._channel.send(FrameType.STATE, b"", [states])
        self._channel.send(FrameType.FINISH, struct.pack("<QQ", *self._sent_pages()))
        self.phase = Phase.DURABLE
        if self._channel.live:
            parameters = self._parameters()
            # The guest stands still: the answer was expected within the limit, and gets the time of a stall on top.
            patience = parameters.downtime_limit / 1000 + parameters.x_emu_stall_timeout
            answer = self._expect(FrameType.DURABLE, until=time.monotonic() + patience)
            sent = {block.name for block in self._of(True) if block.persistent}
            self._progress.persistence = decode_report(answer.data, sent)
        self._check_files()
        self._interrupt.check()

    def _sent_pages(self) -> tuple[int, int]:
        """How many pages with and without content were sent."""
        senders = [self._sender, *(self._lanes.senders if self._lanes else ())]
        return sum(sender.normal for sender in senders), sum(sender.zeros for sender in senders)

    def _settle_shared(self) -> None:
        """Make the blocks that are not copied durable here: the destination takes the file as it is.

        Durable when it returns: every byte of every shared NVDIMM file, by the mapping's strongest means.
        """
        for block in self._of(False):
            if not block.writable:
                continue
            for offset in range(0, block.size, _PERSIST_STEP):
                block.storage.persist(offset, min(_PERSIST_STEP, block.size - offset))
                self._channel.send(FrameType.KEEPALIVE)
            self._check_storage(block)

    def _hand_over(self) -> None:
        if self._interrupt.disarm():
            raise cancelled()
        if not self._channel.live:
            self._channel.finish()
            self._guest.rest()  # before anybody learns of it, and lets it run again
            self._complete()
            return
        self._guest.protect_files()
        self._release_locks()
        before = self._channel.sent
        try:
            self._channel.send(FrameType.COMMIT)
        except MigrationError:
            if self._channel.sent == before:
                raise
            self._unknown()
        self.phase = Phase.HANDOVER
        try:
            # One answer, and nothing before it: signs of life would only keep the guest waiting.
            self._expect(FrameType.RUNNING, until=time.monotonic() + self._parameters().x_emu_stall_timeout)
        except (Refused, DestinationFailed):
            self.phase = Phase.SWITCHOVER
            raise
        except EmuError as error:
            self._unknown(error)
        self._guest.handed_over(block.name for block in self._of(True))
        self._complete()

    def _complete(self) -> None:
        self.phase = Phase.DONE
        self._progress.downtime_ms = round((time.monotonic() - self._stopped_at) * 1000)
        self._progress.enter(Status.COMPLETED)

    def _unknown(self, error: EmuError | None = None) -> None:
        self.phase = Phase.HANDOVER
        raise OutcomeUnknown(
            f"the hand-over was sent but not answered ({error.what if error else 'the connection broke'}):"
            " the destination may own the machine now",
            "look at the destination: while its NVDIMM file is marked incomplete it never ran, and 'cont' with"
            " x-emu-force is safe here; otherwise quit here",
        ) from error

    # -- helpers ----------------------------------------------------------------------------------------------------

    def _keep(self, error: BaseException) -> None:
        """The migration failed before the point of no return: tell the other side, and go on here."""
        self._interrupt.disarm()
        self._stop_tracking()
        self._take_locks()
        if self._stopped_at:
            self._guest.go_on()
        if self._channel.live:
            with contextlib.suppress(EmuError):
                text = error.what if isinstance(error, EmuError) else "internal error of the source"
                self._channel.send(FrameType.ABORT, b"", [text.encode(errors="replace")[:2048]], patience=_GOODBYE_S)

    def _hear_last_words(self) -> None:
        """The connection broke: what the destination said before it went is the better explanation."""
        with contextlib.suppress(ConnectionLost, StreamError):
            for _ in range(_LAST_WORDS if self._channel.live else 0):
                frame = self._channel.receive(patience=0)
                if frame.kind in (FrameType.REFUSE, FrameType.FAILED):
                    self._judge(frame)

    def _release_locks(self) -> None:
        self._released = True
        for block in self._of(False):
            lock_of(block).release()

    def _take_locks(self) -> None:
        if self._released:
            for block in self._of(False):
                lock_of(block).take()
            self._released = False

    def _stop_tracking(self) -> None:
        for tracker in self._trackers.values():
            tracker.stop()
        self._trackers.clear()
        if self._strangers is not None:
            self._strangers.close()
            self._strangers = None

    def _check_storage(self, block: Block) -> None:
        lost = block.storage.lost()
        if lost is not None:
            raise HostError(
                f"{block.path or block.name}: the file was cut short at offset {lost:#x}", "restore its size"
            )

    def _check_files(self) -> None:
        assert self._strangers is not None
        self._strangers.check()

    def _await_copy(self) -> Frame:
        return self._expect(FrameType.COPIED)

    def _look_for_refusal(self) -> None:
        if self._channel.live and self._channel.readable():
            self._expect(None)

    def _expect(self, kind: FrameType | None, *, until: float | None = None) -> Frame:
        """The next frame, which must be ``kind`` (None: only a refusal may come now), at the latest ``until``.

        Signs of life may come before it while the destination makes pages durable.
        """
        while True:
            frame = self._channel.receive(until=until)
            if frame.kind is kind:
                return frame
            if frame.kind is not FrameType.PROGRESS or kind not in _AFTER_PROGRESS:
                self._judge(frame)

    def _judge(self, frame: Frame) -> NoReturn:
        """Raise what an unexpected frame means."""
        if frame.kind is FrameType.REFUSE:
            raise Refused(_reasons(frame))
        if frame.kind is FrameType.FAILED:
            raise DestinationFailed(
                f"the destination failed: {printable(frame.data.decode(errors='replace'))}", "the guest stays here"
            )
        raise StreamError(f"migration stream: the destination sent {frame.kind.name} out of turn")


def _reasons(frame: Frame) -> list[str]:
    reasons = codec.decode_json(frame.data, "refusal").get("reasons")
    if not isinstance(reasons, list) or not all(isinstance(reason, str) for reason in reasons) or not reasons:
        raise StreamError("migration stream: the refusal gives no reasons")
    return [printable(reason) for reason in reasons[: codec.MAX_REASONS]]


def _merge(runs: Sequence[Run]) -> list[Run]:
    """Runs that may overlap, as ascending disjoint runs."""
    merged: list[Run] = []
    for run in sorted(runs, key=lambda run: run.first):
        if merged and run.first <= merged[-1].first + merged[-1].count:
            end = max(merged[-1].first + merged[-1].count, run.first + run.count)
            merged[-1] = Run(merged[-1].first, end - merged[-1].first)
        else:
            merged.append(run)
    return merged
