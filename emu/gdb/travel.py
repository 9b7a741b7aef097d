"""Going back in time: the run is kept as moments, and is executed again from the last one before where it is to be.

A guest is deterministic between inputs: time is counted in code, so that the same blocks come with the same interrupts,
and an instruction has its place in the run (``emu.cpu.debugging``). What comes from outside (typed bytes, the
debugger's own stores) begins a new past. A moment is the CPU, the devices, and the pages that were stored to since the
first one. Output of what is executed again is not shown again.
"""

from __future__ import annotations

import enum
from bisect import bisect_right
from typing import NamedTuple, Protocol

from emu.config import Clock
from emu.cpu import Stop, StopKind
from emu.cpu.debugging import BLOCK, Standing
from emu.cpu.snapshot import Snapshot
from emu.devices.uart16550 import Uart16550
from emu.errors import UsageError
from emu.gdb.target import Target
from emu.memory import Region
from emu.persistence.lab.undo import Undo
from emu.state import SavedState
from emu.units import MIB, PAGE

_FIRST_INTERVAL = 1_000_000 * BLOCK
"""Places between two moments; later a part of those that have begun, so that there are not too many moments."""
_PART = 16
_POSTPONED = 100_000 * BLOCK
_NEAR = 20_000 * BLOCK
"""Where the guest is taken back to, a moment is kept this far before: the next step back is short then."""
_MOST_MEMORY = 512 * MIB
_REP_STRING = frozenset(b"\xa4\xa5\xaa\xab\x6c\x6d")
_LONGEST = 15


class Kept(Protocol):
    """What a keeper has of one moment."""

    @property
    def valid(self) -> bool:
        """Whether it can still be restored."""

    def restore(self) -> None:
        """Make it as it was; any number of times."""


class Keeper(Protocol):
    """Something else that is part of a moment."""

    def save(self) -> Kept: ...


class _Moment(NamedTuple):
    standing: Standing
    cpu: Snapshot
    devices: dict[str, SavedState]
    pages: list[dict[int, bytes]]
    rest: Kept | None
    fresh: int


class _Doing(enum.Enum):
    FORWARD = "forward"
    LOOK_BACK = "look back"
    """Running through the past to see where it would have stopped last."""
    STEP_BACK = "step back"
    """Running through the past to see which instruction is the last one."""
    SEEK = "seek"
    """Running to a place in the past."""


class Travel:
    """The past of ``target``'s machine, from when it is made; its memory is watched until ``close``.

    ``keeper`` has a part in each moment. All in the machine's thread, while the guest stands still.
    """

    def __init__(self, target: Target, keeper: Keeper | None = None) -> None:
        self._target = target
        self._machine = target.machine
        self._debugging = target.debugging
        self._keeper = keeper
        self._moments: list[_Moment] = []
        self._goal: int | None = None
        self._doing = _Doing.FORWARD
        self._end = 0
        self._segment = 0
        self._found: Stop | None = None
        self._stale = False
        self._seen = 0
        self.at_beginning = False
        self.met = (0, 0)
        self._undo: Undo | None = None
        self._machine.on_debug_stop = self._stopped
        target.on_change = self.forget
        self._machine.memory.listen(self)
        com1 = self._machine.devices.get("com1")
        if isinstance(com1, Uart16550):
            com1.on_input = self.forget

    def close(self) -> None:
        """Nobody follows the guest any more, and there are no breakpoints or watches. Before the machine's CPU and
        memory go away; ``begin`` may come again.
        """
        self._end_past()
        self._set_stop()

    def _end_past(self) -> None:
        """There is no past any more."""
        self._doing, self._goal = _Doing.FORWARD, None
        self._look_at_all()
        self._drop()
        if self._undo is not None:
            self._undo.close()
            self._undo = None

    def _look_at_all(self) -> None:
        """Breakpoints and watches stop the guest again."""
        self._debugging.pass_by(False)
        self._debugging.look_at_each(None)

    def region_added(self, region: Region) -> None:
        """Memory was plugged, so its content is no part of the moments so far."""
        self._stale = bool(self._moments)

    def region_removed(self, region: Region) -> None:
        """As above."""
        self._stale = bool(self._moments)

    def written(self, gpa: int, data: bytes) -> None:
        """The debugger or the monitor stored to memory: a new past begins."""
        self.forget()

    # -- the past ---------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """The past begins here, with memory as it is."""
        self._end_past()
        self._undo = Undo(self._machine)
        self._stale = False
        self._seen = self._debugging.place
        self._keep()

    def forget(self) -> None:
        """Something came from outside: what was before cannot be executed again."""
        self._stale = True

    def hurry(self) -> None:
        """While the guest runs: keep a moment soon, since what the keeper holds grows large."""
        if self._doing is _Doing.FORWARD:
            self._debugging.stop_at(self._debugging.place_announced + 1)

    @property
    def followed(self) -> bool:
        """Whether there is a past."""
        return self._undo is not None

    @property
    def seen(self) -> bool:
        """Whether what the guest does now was done before, and shown."""
        return self._doing is not _Doing.FORWARD or self._debugging.place_announced < self._seen

    def _drop(self, first: int = 0) -> None:
        for moment in self._moments[first:]:
            moment.cpu.close()
        del self._moments[first:]

    def _refresh(self) -> None:
        """Begin a new past if the old one is of no use."""
        if self._stale:
            self.begin()

    def _keep(self) -> None:
        assert self._undo is not None
        before = self._moments[-1].pages if self._moments else [{} for _ in self._machine.backends]
        pages, fresh = [], 0
        for known, backend in zip(before, self._machine.backends, strict=True):
            view = backend.mapping.view
            kept = {}
            for first, count in [] if backend.mapping.readonly else self._undo.stored(backend):
                for page in range(first, first + count):
                    content = bytes(view[page * PAGE : (page + 1) * PAGE])
                    if known.get(page) == content:
                        content = known[page]
                    else:
                        fresh += len(content)
                    kept[page] = content
            pages.append(kept)
        devices = {name: device.save() for name, device in self._machine.devices.items()}
        rest = self._keeper.save() if self._keeper is not None else None
        moment = _Moment(self._debugging.standing, Snapshot(self._machine.cpu), devices, pages, rest, fresh)
        self._moments.append(moment)
        while self._moments[0].rest is not None and not self._moments[0].rest.valid:
            self._moments.pop(0).cpu.close()
        while len(self._moments) > 2 and sum(moment.fresh for moment in self._moments) > _MOST_MEMORY:
            middle = self._moments.pop(len(self._moments) // 2)
            middle.cpu.close()

    def _restore(self, moment: _Moment) -> None:
        assert self._undo is not None
        self._undo.undo()
        for pages, backend in zip(moment.pages, self._machine.backends, strict=True):
            view = backend.mapping.view
            for page, content in pages.items():
                view[page * PAGE : page * PAGE + len(content)] = content
        self._machine.debug_stop = None  # it is another place
        self._machine.rewind(moment.devices)
        moment.cpu.rewind()
        self._machine.cpu.invalidate(0, 1)
        self._debugging.standing = moment.standing
        if moment.rest is not None:
            moment.rest.restore()

    def _index(self, place: int) -> int:
        """The last moment at or before this place."""
        return bisect_right([moment.standing.place for moment in self._moments], place) - 1

    # -- where to -----------------------------------------------------------------------------------------------------

    def go(self, places: int | None) -> None:
        """Forward, until so many places lie behind or, with None, until something stops the guest. One place on is one
        instruction on.
        """
        self._refresh()
        self.at_beginning = False
        self._doing = _Doing.FORWARD
        self._look_at_all()
        now = self._debugging.place
        self._drop(self._index(now) + 1)
        self._goal = None if places is None else now + places
        self._set_stop()
        self._machine.resume()

    def go_back(self, *, step: bool) -> bool:
        """Back by one instruction, or to where the guest would have stopped before; False where there is no past.

        The machine stops there as for any other stop. UsageError when this machine cannot go back.
        """
        if self._machine.config.clock is Clock.REAL:
            raise UsageError("the guest's time is the host's, which does not come back", "use the virtual clock")
        self._refresh()
        now = self._debugging.place
        self._seen = max(self._seen, now)
        self.at_beginning = now <= self._moments[0].standing.place
        if self.at_beginning:
            return False
        if step:
            self._step_back(now)
        else:
            self._look_back(self._index(now - 1), now)
        self._machine.resume()
        return True

    def go_to(self, place: int) -> None:
        """To this place in the past, or the first instruction behind it."""
        self._seen = max(self._seen, self._debugging.place)
        self._seek(place, None)
        self._machine.resume()

    def _set_stop(self) -> None:
        """Going forward: where to stop next, if nothing else stops the guest."""
        now = self._debugging.place
        stops = [] if self._goal is None else [self._goal]
        if self._moments:
            stops.append(max(self._due, now + BLOCK))
        if self._seen > now:  # from there on, what the guest says is news
            stops.append(self._seen)
        self._debugging.stop_at(min(stops, default=None))

    @property
    def _due(self) -> int:
        """Where the next moment is to be kept: at a block's begin, where whole blocks stop as well."""
        last = self._moments[-1].standing.place
        return (last + max(_FIRST_INTERVAL, last // _PART)) // BLOCK * BLOCK

    def _look_back(self, segment: int, end: int) -> None:
        self._doing, self._segment, self._end = _Doing.LOOK_BACK, segment, end
        self._restore(self._moments[segment])
        self._debugging.pass_by(True)
        self._debugging.stop_at(end)

    def _step_back(self, now: int) -> None:
        """The block of the instruction before this place, and from there on, is executed instruction by instruction."""
        block = (now - 1) // BLOCK * BLOCK
        self._doing, self._end = _Doing.STEP_BACK, now
        self._restore(self._moments[self._index(now - 1)])
        self._debugging.pass_by(True)
        self._debugging.look_at_each(block)
        self._debugging.stop_at(now)

    def _seek(self, place: int, found: Stop | None) -> None:
        """Run to ``place``, to stop there as ``found`` says."""
        self._doing, self._end, self._found = _Doing.SEEK, place, found
        moment = self._moments[self._index(place)]
        self._restore(moment)
        self._debugging.pass_by(True)
        self._debugging.look_at_each(None)
        near = (place - _NEAR) // BLOCK * BLOCK
        self._debugging.stop_at(near if near > moment.standing.place + _NEAR else place)

    # -- what to do at a stop -----------------------------------------------------------------------------------------

    def _stopped(self, stop: Stop) -> Stop | None:
        if self._doing is _Doing.LOOK_BACK and stop.kind is StopKind.STEP:
            return self._looked_back(stop)
        if self._doing is _Doing.STEP_BACK and stop.kind is StopKind.STEP:
            return self._stepped_back(stop)
        if self._doing is _Doing.SEEK and stop.kind is StopKind.STEP:
            return self._sought(stop)
        if self._doing is not _Doing.FORWARD:  # it dies here, as it did before
            self._look_at_all()
            return stop
        self.met = self._debugging.watch_met
        if stop.kind is not StopKind.STEP or (self._goal is not None and self._debugging.place >= self._goal):
            if self.followed and not self._stale and self._debugging.place >= self._due and not self.between_turns():
                self._keep()
            return stop
        if self.between_turns():
            self._debugging.stop_at(self._debugging.place + _POSTPONED)
        elif not self.followed:
            if self._keeper is not None:
                self._keeper.save()
            self._set_stop()
        else:
            if self._stale:
                self.begin()
            elif self._debugging.place >= self._due:
                self._keep()
            self._set_stop()
        self._debugging.go_on(stop)
        return None

    def between_turns(self) -> bool:
        """Whether a string instruction may be between two of its turns, which the log of stores takes for one."""
        cpu = self._machine.cpu
        try:
            code = cpu.read_linear(cpu.rip, _LONGEST)
        except UsageError:
            return False
        return any(prefix in code[:4] for prefix in (0xF2, 0xF3)) and not _REP_STRING.isdisjoint(code[:5])

    def _stepped_back(self, stop: Stop) -> Stop | None:
        before, first = self._debugging.place_before, self._moments[0].standing.place
        self.at_beginning = before < first
        return self._seek_at(stop, max(before, first))

    def _looked_back(self, stop: Stop) -> Stop | None:
        passed = self._debugging.passed
        if passed is not None:
            place, kind = passed
            self.met = self._debugging.watch_met
            return self._seek_at(stop, place, stop._replace(kind=kind))
        if self._segment > 0:
            self._look_back(self._segment - 1, self._moments[self._segment].standing.place)
            return None
        self.at_beginning = True
        return self._seek_at(stop, self._moments[0].standing.place)

    def _seek_at(self, stop: Stop, place: int, found: Stop | None = None) -> Stop | None:
        """Seek ``place``; what is to be said at once where the guest, at ``stop``, is there already."""
        self._seek(place, found)
        return self._sought(stop) if self._debugging.place == place else None

    def _sought(self, stop: Stop) -> Stop | None:
        if self._debugging.place < self._end:
            index = self._index(self._debugging.place)
            self._drop(index + 1)
            if not self.between_turns():
                self._keep()
            self._debugging.stop_at(self._end)
            self._debugging.go_on(stop)
            return None
        self._look_at_all()
        self._doing = _Doing.FORWARD
        here = self._machine.cpu.rip
        found, self._found = self._found, None
        return (found or stop)._replace(rip=here, watched=self.met[0])
