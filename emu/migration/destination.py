"""The destination of a migration: fills its memory, makes it durable, and runs only after the hand-over.

    SETUP -> PAGES -> STATE -> FINISHED -> OWNER
      any phase before OWNER fails: it never ran, never will, and its NVDIMM files stay marked as incomplete

A destination becomes the owner when it has received COMMIT and its marks are durably gone; only then the guest runs.
"""

from __future__ import annotations

import contextlib
import enum
import os
import socket
import stat
import struct
from collections.abc import Sequence
from dataclasses import asdict

from emu.errors import EmuError, UsageError
from emu.memory import incomplete
from emu.migration import codec, compression
from emu.migration.agreement import decode_preamble
from emu.migration.channel import Channel, Interrupt, SocketChannel, cancelled
from emu.migration.errors import ConnectionLost, MigrationError, Refused, StreamError
from emu.migration.facts import MachineFacts
from emu.migration.guest import Block, Guest
from emu.migration.landing import Lander, Ledger
from emu.migration.lanes import Offer, ReceivingLanes
from emu.migration.pagecache import Populator
from emu.migration.parameters import Capabilities
from emu.migration.passed import PassedFile
from emu.migration.persister import Persister
from emu.migration.policy import Terms, compare
from emu.migration.progress import Progress, Status
from emu.migration.reception import Door
from emu.migration.stream import MAX_COPY, Frame, FrameType, PageRuns, Run
from emu.units import PAGE
from emu.words import printable

_OWN_FILE = "give the destination a file of its own, or set x-ignore-shared if both are to use this one"


class Phase(enum.Enum):
    SETUP = enum.auto()
    PAGES = enum.auto()
    STATE = enum.auto()
    FINISHED = enum.auto()
    OWNER = enum.auto()


_ALLOWED = {
    Phase.PAGES: {FrameType.PAGES, FrameType.ZEROS, FrameType.COPY, FrameType.ROUND_END, FrameType.STATE},
    Phase.STATE: {FrameType.FINISH},
    Phase.FINISHED: {FrameType.COMMIT},
}


class Destination:
    """One migration from this side. Make it before the channel: ``place`` belongs to the channel's decoder."""

    def __init__(self, guest: Guest, *, capabilities: Capabilities, progress: Progress, interrupt: Interrupt) -> None:
        self.phase = Phase.SETUP
        self._guest = guest
        self._capabilities = capabilities
        self._progress = progress
        self._interrupt = interrupt
        self._here: dict[str, Block] = {block.name: block for block in guest.blocks()}
        self._ledger = Ledger(progress)
        self._lander = Lander(self._ledger)
        self._lanes: ReceivingLanes | None = None
        self._marked: list[str] = []
        self._references: dict[str, PassedFile] = {}
        self._rounds = 0
        self._runs_on = False
        self._persister: Persister | None = None
        self._populator = Populator(list(self._here.values()))

    def place(self, meta: bytes, length: int) -> list[memoryview]:
        """Where the data of a PAGES frame goes, for the channel's decoder (see ``Lander``)."""
        return self._lander.place(meta, length)

    # -- the migration -----------------------------------------------------------------------------------------------

    def run(self, channel: Channel, preamble: Frame | None = None, door: Door | None = None) -> bool:
        """Take the machine over; True when its guest is to run, False when it was stopped at the source.

        ``preamble`` is the first frame, where that has been received already, and ``door`` where the source's other
        connections arrive. When this raises, the guest never ran here.
        """
        try:
            self._setup(channel, preamble, door)
            while self.phase is not Phase.OWNER:
                self._take(channel, self._receive(channel))
        except EmuError as error:
            self._give_up(channel, error)
            raise
        finally:
            self._end_threads()
        self._progress.enter(Status.COMPLETED)
        return self._runs_on

    def _receive(self, channel: Channel) -> Frame:
        try:
            return channel.receive()
        except ConnectionLost:
            if self._lanes is not None and self._lanes.error is not None:
                raise self._lanes.error from None
            raise

    def close(self) -> None:
        """End the threads that work on the memory, and let go of the source's files; harmless when that was done.

        Letting go takes some time, which the guest need not wait for.
        """
        self._end_threads()
        for file in self._references.values():
            file.close()

    def _end_threads(self) -> None:
        if self._lanes is not None:
            self._lanes.close()
        self._populator.stop()
        if self._persister is not None:
            self._persister.close()

    def taken_over(self, channel: Channel) -> None:
        """Tell the source that the machine lives here now. That the source hears it is not needed any more."""
        with contextlib.suppress(EmuError):
            channel.send(FrameType.RUNNING)

    def _give_up(self, channel: Channel, error: EmuError) -> None:
        self._interrupt.disarm()
        with contextlib.suppress(EmuError):
            if isinstance(error, Refused):
                reasons = [reason[:2048] for reason in error.reasons[: codec.MAX_REASONS]]
                channel.send(FrameType.REFUSE, b"", [codec.encode_json({"reasons": reasons})])
            else:
                channel.send(FrameType.FAILED, b"", [error.what.encode(errors="replace")[:2048]])

    def _setup(self, channel: Channel, preamble: Frame | None, door: Door | None) -> None:
        self._progress.enter(Status.SETUP)
        frame = channel.receive() if preamble is None else preamble
        self._populator.stop()
        if frame.kind is not FrameType.PREAMBLE:
            raise StreamError(f"migration stream: it begins with {frame.kind.name}")
        said = decode_preamble(frame.data, live=channel.live)
        if door is not None and said.lanes is None:
            door.close()
        self._check_lanes(said.lanes, door)
        source, terms = said.machine, said.terms
        allowed = terms.allow_weaker_persistence or self._capabilities.allow_weaker_persistence
        facts = self._guest.facts()
        self._compare(source, facts, Terms(terms.ignore_shared, allowed, terms.snapshot))
        self._announce(source, terms, said.not_copied)
        proofs = self._prove_files()
        for block in self._ledger.of(True):
            if block.persistent and block.share and block.path is not None:
                incomplete.mark(block.path, "a migration into it has not completed")
                self._marked.append(block.path)
        self._persister = self._ledger.persister = Persister(self._ledger.of(True))
        self._take_references(channel, said.offered)
        answer = {
            "machine": asdict(facts),
            "allow_weaker_persistence": allowed,
            "proofs": proofs,
            "by_reference": sorted(self._references),
        }
        channel.send(FrameType.ACCEPT, b"", [codec.encode_json(answer)])
        if said.lanes is not None and door is not None:
            self._gather_lanes(channel, said.lanes, door)
        self.phase = Phase.PAGES
        self._lander.open = True
        self._progress.enter(Status.ACTIVE)

    def _check_lanes(self, offer: Offer | None, door: Door | None) -> None:
        if offer is None:
            return
        if door is None:
            raise Refused(["this destination has one connection only: switch multifd off"])
        try:
            compression.require(offer.compression)
        except UsageError as error:
            raise Refused([str(error)]) from None

    def _gather_lanes(self, channel: Channel, offer: Offer, door: Door) -> None:
        assert isinstance(channel, SocketChannel)
        with contextlib.closing(door):
            lanes = door.lanes(offer, channel, lambda: Lander(self._ledger, compression.packer(offer.compression, 1)))
        # Only reading: the source is to hear why.
        self._lanes = ReceivingLanes(lanes, lambda: channel.hang_up(socket.SHUT_RD))
        channel.send(FrameType.READY)

    def _take_references(self, channel: Channel, offered: Sequence[tuple[str, int]]) -> None:
        """Choose the blocks that can be copied from the open files that came with the preamble."""
        if len(channel.files) != len(offered):
            return
        for (name, start), descriptor in zip(offered, channel.files, strict=True):
            block = self._here.get(name)
            if block is None or block.file is None or start % PAGE or not 0 <= start <= 1 << 62:
                continue
            status = os.fstat(descriptor)
            if stat.S_ISREG(status.st_mode) and status.st_size >= start + block.size:
                self._references[block.name] = PassedFile(descriptor, start, block.size)

    def _compare(self, source: MachineFacts, facts: MachineFacts, terms: Terms) -> None:
        mismatches = compare(source, facts, terms)
        if mismatches:
            raise Refused([str(mismatch) for mismatch in mismatches])

    def _announce(self, source: MachineFacts, terms: Terms, absent: Sequence[str]) -> None:
        """Fix the order of blocks, and which of them will be copied."""
        if {block.name for block in source.blocks} != self._here.keys():
            raise StreamError("migration stream: the announced blocks are not this machine's")
        for announced in source.blocks:
            block = self._here[announced.name]
            if block.size != announced.size:
                raise StreamError(f"migration stream: block '{block.name}' is announced with another size")
            copied = block.name not in absent
            if not copied and not (terms.ignore_shared and block.persistent and block.share and block.path is not None):
                raise StreamError(f"migration stream: block '{block.name}' must be copied")
            self._ledger.announce(block, copied=copied)
        self._progress.total = sum(block.size for block in self._ledger.of(True))
        self._progress.remaining = self._progress.total

    def _prove_files(self) -> dict[str, int]:
        """The secrets read from the locks of the files that are not copied; Refused when a file is not right."""
        proofs = {}
        for block, copied in zip(self._ledger.blocks, self._ledger.copied, strict=True):
            if block.lock is None:
                continue
            if copied and not block.lock.held:
                why = "is in use by another emulator, and copying into it would destroy what that one stores"
                raise Refused([f"{block.path} {why}; {_OWN_FILE}"])
            if not copied:
                secret = block.lock.look()
                if secret is None:
                    raise Refused([f"{block.path} at the destination is not the file that the source has locked"])
                proofs[block.name] = secret
        return proofs

    def _take(self, channel: Channel, frame: Frame) -> None:
        if frame.kind is FrameType.KEEPALIVE and self.phase is Phase.PAGES:
            return
        if frame.kind is FrameType.ABORT:
            raise ConnectionLost(
                f"the source gave up: {printable(frame.data.decode(errors='replace'))}",
                "the guest goes on at the source",
            )
        if frame.kind not in _ALLOWED[self.phase]:
            raise StreamError(f"migration stream: {frame.kind.name} is out of turn")
        match frame.kind:
            case FrameType.PAGES | FrameType.ZEROS:
                self._lander.take(frame)
            case FrameType.COPY:
                channel.send(FrameType.COPIED, b"", [self._copy_pages(self._ledger.runs(frame.meta))])
            case FrameType.ROUND_END:
                self._end_round(channel, frame)
            case FrameType.STATE:
                self._await_lanes(channel)
                self._lander.open = False
                states, self._runs_on = codec.decode_states(frame.data)
                # Before the answer: state that cannot be taken must be found while the source still owns the machine.
                self._guest.restore(states)
                self.phase = Phase.STATE
                self._progress.enter(Status.DEVICE)
            case FrameType.FINISH:
                self._finish(channel, frame)
            case _:
                self._become_owner(channel)

    def _copy_pages(self, runs: PageRuns) -> bytes:
        """Copy pages from the source's file; the sums of what arrived."""
        block = self._ledger.blocks[runs.block]
        reference = self._references.get(block.name)
        if reference is None or block.file is None:
            raise StreamError(f"migration stream: no file was passed for block '{block.name}'")
        if runs.pages > MAX_COPY:
            raise StreamError(f"migration stream: {runs.pages} pages to copy at once, {MAX_COPY} are allowed")
        sums = []
        for run in runs.runs:
            copied = block.file.copy_from(reference, run.first * PAGE, run.count)
            self._ledger.clear(block, [Run(run.first + first, count) for first, count in copied.zero])
            sums.append(copied.sums)
        self._ledger.landed(runs, zeros=False)
        return b"".join(sums)

    def _end_round(self, channel: Channel, frame: Frame) -> None:
        self._rounds += 1
        if frame.meta != struct.pack("<I", self._rounds):
            raise StreamError(f"migration stream: the end of another round than {self._rounds}")
        self._await_lanes(channel)
        self._drain(channel)
        if self._lanes is not None:
            self._lanes.next_round()
        channel.send(FrameType.ROUND_DURABLE, frame.meta)

    def _await_lanes(self, channel: Channel) -> None:
        if self._lanes is not None:
            self._lanes.wait(lambda: channel.send(FrameType.PROGRESS))

    def _finish(self, channel: Channel, frame: Frame) -> None:
        if frame.meta != struct.pack("<QQ", self._ledger.normal, self._ledger.zeros):
            raise StreamError("migration stream: it ends with other page counts than were received")
        self._ledger.check_coverage()
        self._drain(channel)
        assert self._persister is not None
        self._progress.persistence = self._persister.report()
        self.phase = Phase.FINISHED
        if channel.live:
            channel.send(FrameType.DURABLE, b"", [codec.encode_json({"nvdimms": self._progress.persistence})])
        else:
            channel.finish()
            self._become_owner(channel)

    def _drain(self, channel: Channel) -> None:
        assert self._persister is not None
        self._persister.drain(lambda: channel.send(FrameType.PROGRESS))
        for block in self._ledger.blocks:
            lost = block.storage.lost()
            if lost is not None:
                raise MigrationError(
                    f"{block.path or block.name}: no room for the page at offset {lost:#x}",
                    "make room and migrate again",
                )

    def _become_owner(self, channel: Channel) -> None:
        """The source has let go: take the locks it released, remove the marks, and own the machine."""
        if self._interrupt.disarm():
            raise cancelled()
        taken: list[Block] = []
        cleared: list[str] = []
        try:
            for block in self._ledger.of(False):
                if block.lock is not None:
                    block.lock.take()
                    taken.append(block)
            for path in self._marked:
                incomplete.clear(path)
                cleared.append(path)
        except EmuError:
            # Not the owner after all. The source hears so and goes on; put everything back to what it was.
            for path in cleared:
                with contextlib.suppress(EmuError):
                    incomplete.mark(path, "a migration into it failed at the hand-over")
            for block in taken:
                assert block.lock is not None
                block.lock.release()
            raise
        self.phase = Phase.OWNER
