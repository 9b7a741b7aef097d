"""What every device promises: reset, save, restore and inspect, under whatever a guest writes."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emu.board import map as at
from emu.devices.bus import PortBus
from emu.devices.contract import ExitRequest
from emu.devices.debugcon import DebugConsole
from emu.devices.debugexit import DebugExit
from emu.devices.initport import InitPorts
from emu.devices.kbdreset import KeyboardReset
from emu.devices.pic import PicPair
from emu.devices.pit import Pit
from emu.devices.power import Power
from emu.devices.pvpanic import PanicPort
from emu.devices.rtc import Rtc, memory_bytes
from emu.devices.uart16550 import Uart16550
from emu.errors import StateError
from emu.state import SavedState
from emu.units import MIB


@dataclass
class World:
    """What a device can see and touch, recorded. ``device`` sits on ``bus`` at its usual ports."""

    now: int = 0
    line: list[bool] = field(default_factory=list)
    output: list[bytes] = field(default_factory=list)
    ended: list[ExitRequest] = field(default_factory=list)
    resets: int = 0
    bus: PortBus = field(default_factory=PortBus)

    def time(self) -> int:
        return self.now

    def count_reset(self) -> None:
        self.resets += 1


def _single(first: int, length: int, make: Callable[[World], Any]) -> Callable[[World], Any]:
    def build(world: World) -> Any:
        device = make(world)
        world.bus.add(first, length, device)
        return device

    return build


def _windowed(places: tuple[range, ...], make: Callable[[World], Any]) -> Callable[[World], Any]:
    def build(world: World) -> Any:
        device = make(world)
        world.bus.attach(device, places)
        return device

    return build


def _pic(world: World) -> PicPair:
    pic = PicPair(world.line.append)
    pic.line(4)(True)
    pic.line(9)(True)
    return pic


class Nobody:
    """Listens to init and says nothing."""

    def said(self, message: int, argument: int) -> None:
        assert 0 <= message <= 0xFF
        assert 0 <= argument < 1 << 24

    def role(self) -> int:
        return ord("x")


DEVICES: dict[str, tuple[Callable[[World], Any], tuple[int, ...]]] = {
    "uart16550": (_single(0x3F8, 8, lambda w: Uart16550(w.line.append, w.output.append)), (0x3F8,) * 2),
    "debugcon": (_single(0xE9, 1, lambda w: DebugConsole(w.output.append)), (0xE9,)),
    "debugexit": (_single(0xF4, 4, lambda w: DebugExit(w.ended.append)), (0xF4,)),
    "initport": (_windowed(at.INIT, lambda w: InitPorts(w.output.append, Nobody())), (0xEA, 0xEC)),
    "pvpanic": (_single(0x505, 1, lambda w: PanicPort(w.ended.append)), (0x505,)),
    "kbdreset": (_windowed(at.KEYBOARD, lambda w: KeyboardReset(w.count_reset)), (0x60, 0x64)),
    "pic": (_windowed(at.PIC, _pic), (0x20, 0xA0, 0x4D0)),
    "pit": (_windowed(at.PIT, lambda w: Pit(line=w.line.append, now=w.time)), (0x40, 0x42, 0x61)),
    "rtc": (
        _single(
            0x70,
            2,
            lambda w: Rtc(line=w.line.append, now=w.time, epoch=1_700_000_000, cmos=memory_bytes(128 * MIB, 0)),
        ),
        (0x70, 0x71),
    ),
    "power": (
        _windowed(at.POWER, lambda w: Power(sci=w.line.append, end=w.ended.append, reset=w.count_reset, now=w.time)),
        (0x600, 0x604, 0x608, 0x620, 0xCF8),
    ),
}

ACCESS = st.tuples(
    st.integers(0, 4),
    st.integers(-1, 16),
    st.sampled_from((1, 2, 4)),
    st.one_of(st.none(), st.integers(0, 0xFF), st.integers(0, (1 << 32) - 1)),
    st.one_of(st.just(0), st.integers(0, 10**6), st.integers(0, 10**12)),
)
PROGRAM = st.lists(ACCESS, max_size=40)
JUNK = st.one_of(
    st.integers(-(1 << 70), 1 << 70),
    st.booleans(),
    st.text(max_size=3),
    st.binary(max_size=300),
    st.lists(st.integers(-2, 1 << 65), max_size=4),
)


def play(world: World, device: Any, ports: tuple[int, ...], program: list[Any]) -> list[int | None]:
    """Run accesses as a guest would, time passing in between; what was read."""
    seen: list[int | None] = []
    for which, offset, size, value, wait in program:
        world.now += wait
        port = max(ports[which % len(ports)] + offset, 0)
        if value is None:
            seen.append(world.bus.read(port, size))
        else:
            world.bus.write(port, size, value)
        if isinstance(device, PicPair) and device.pending():
            seen.append(device.acknowledge())
        if hasattr(device, "next_event"):
            seen.append(device.next_event())
    return seen


every_device = pytest.mark.parametrize("name", DEVICES)


@every_device
@given(program=PROGRAM)
@settings(max_examples=150, deadline=None)
def test_any_access_is_answered_and_state_survives_a_round_trip(name: str, program: list[Any]) -> None:
    build, ports = DEVICES[name]
    world = World()
    device = build(world)
    for value in play(world, device, ports, program):
        assert value is None or value >= 0
    json.dumps(device.inspect())

    saved = device.save()
    twin_world = World(now=world.now)
    twin = build(twin_world)
    twin.parse(saved)()
    assert twin.save() == saved
    assert twin.inspect() == device.inspect()
    assert play(world, device, ports, program) == play(twin_world, twin, ports, program)
    assert twin.save() == device.save()


@every_device
@given(program=PROGRAM)
@settings(max_examples=60, deadline=None)
def test_reset_gives_the_power_on_state(name: str, program: list[Any]) -> None:
    build, ports = DEVICES[name]
    world = World()
    device = build(world)
    play(world, device, ports, program)
    device.reset()
    once = device.save()
    device.reset()
    assert device.save() == once
    assert not world.line or not world.line[-1]
    if name not in ("rtc", "pic"):  # a clock runs on its battery; the test holds two of the PIC's lines up
        assert once == build(World(now=world.now)).save()


@every_device
@given(program=PROGRAM, data=st.data())
@settings(max_examples=150, deadline=None)
def test_junk_is_refused_and_changes_nothing(name: str, program: list[Any], data: st.DataObject) -> None:
    build, ports = DEVICES[name]
    world = World()
    device = build(world)
    play(world, device, ports, program)
    before = device.save()
    fields = dict(before.fields)
    change = data.draw(st.sampled_from(("kind", "version", "extra", "missing", "value")))
    kind, version = before.kind, before.version
    if change == "kind":
        kind = "something-else"
    elif change == "version":
        version += 1
    elif change == "extra" or not fields:
        fields["left_over"] = 0
    else:
        field_name = data.draw(st.sampled_from(sorted(fields)))
        if change == "missing":
            del fields[field_name]
        else:
            fields[field_name] = data.draw(JUNK)
    junk = SavedState(kind, version, fields)
    lines = len(world.line)
    try:
        apply = device.parse(junk)
    except StateError:
        assert device.save() == before
        assert len(world.line) == lines
    else:
        assert device.save() == before, "parse changes nothing; it is apply that does"
        assert len(world.line) == lines
        apply()
        # A value in range is a state like any other: it is held, and the device goes on working.
        assert change == "value"
        play(world, device, ports, program)
        json.dumps(device.inspect())


@every_device
def test_timed_devices_do_all_that_is_due_and_only_once(name: str) -> None:
    build, _ = DEVICES[name]
    world = World()
    device = build(world)
    if not hasattr(device, "next_event"):
        assert not hasattr(device, "catch_up")
        return
    assert device.next_event() is None, "nothing may be due before the guest asks for it"
    world.now = 10**12
    device.catch_up(world.now)
    once = device.save()
    device.catch_up(world.now)
    assert device.save() == once
