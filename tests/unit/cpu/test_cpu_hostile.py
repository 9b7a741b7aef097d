"""Guests that do anything at all: the host survives, and so does what the guest computes."""

from __future__ import annotations

import struct
import threading
from random import Random

import pytest

from emu.cpu import StopKind
from tests.fuzzing import times
from tests.unit.cpu.cpu_harness import HANDLERS, HLT, LTR, TSS, Guest

# Privileged, system, x87, SSE and string instructions, and returns without a call.
PIECES = """
0f22c0 0f22d8 0f22e0 0f20c0 0f20d8 0f30 0f32 0f01d0 0f01d1 0f05 0f07 0f34 0f35 48cf cf cb 48cb
ea000010000800 0f00d8 0f00d0 0f011c2500600000 0f01142510600000 8ed8 8ed0 8ec0 8ee0 fb fa f4 cd80 cc f1 9d
9c 0fa2 0f31 0f01f9 0fae00 0fae08 0fae10 0fae20 0fae28 0fc708 f00fc708 0f0138 0f06 dd00 df28 d9fe f348ab
f3a4 6c 6e ed ef 0f08 0f09 0f77 660f3880 0f01c8 0f01c9 f30fae0f f3480faee0 0f23f8 0f21c0 c20800 c9
c8000000 0f00e8 0f03c0 63c0 ff18 ff28 48ff28 0f0105 0f01f0 0f01e0 e6f4 9b dbe3 dfe0 0fae38 660fae38
660fae30 c5fc77 0f1f00 f30fb8c0 67e0fe e2fe
"""
CONSTANTS = (
    0, 1, 0x10, 0x80000011, 0x60000011, 0x20, 0x6F0, 0xFFFFFFFF, 0xC0000080, 0xC0000082, 0xC0000101, 0x174, 0x1B, 0x277,
    0x200, 0x38D, 0x4000, 0x5000, 0x8000, 0x100000, 0x170000, 0x2000000, 0xFFFFF000,
)  # fmt: skip
HANDLERS_OF_ALL_KINDS = (b"\x48\xcf", b"\xcf", b"\x48\xff\x04\x24\x48\xcf", b"\x48\x83\xc4\x08\x48\xcf", HLT)


def program(random: Random) -> bytes:
    code = b""
    while len(code) < 200:
        choice = random.random()
        if choice < 0.45:
            code += bytes.fromhex(random.choice(PIECES.split()))
        elif choice < 0.75:
            code += bytes([0xB8 + random.randrange(8)]) + struct.pack("<I", random.choice(CONSTANTS))
        else:
            code += random.randbytes(random.randrange(1, 5))
    return code


@pytest.mark.fuzz
@pytest.mark.parametrize("seed", range(times(30)))
def test_random_programs_do_no_harm_and_can_be_moved(guest: Guest, seed: int) -> None:
    random = Random(seed)
    for vector in range(256):
        kind = random.choice((0x8E, 0xEE, 0x8F, 0))
        guest.gate64(vector, HANDLERS + 8 * vector, kind, random.choice((0, 0, 0, 1)))
        guest.put(HANDLERS + 8 * vector, random.choice(HANDLERS_OF_ALL_KINDS))
    (guest.long if seed % 3 else guest.protected)(program(random))
    guest.cpu.on_port_read = lambda port, size: random.getrandbits(32)
    guest.cpu.set_deadline(50_000)
    for _ in range(40):
        stop = guest.cpu.run()
        if stop.kind is not StopKind.HALT or not guest.cpu.interrupts_enabled:
            break
        guest.cpu.raise_interrupt(random.randrange(256))
    state = guest.cpu.save()
    other = Guest()
    other.cpu.parse(state)()
    assert other.cpu.save() == state
    other.close()


def test_stops_at_any_moment_do_not_change_what_the_guest_computes(guest: Guest) -> None:
    # Stores and loads in the middle of blocks: 2,000,000 turns of a sum over a small ring.
    code = (
        b"\x31\xc0\x31\xdb\xb9\x80\x84\x1e\x00\xbe\x00\x00\x12\x00"
        b"\x89\xda\x83\xe2\x3f\x03\x04\x96\xff\xc0\x89\x04\x96\x48\xff\xc3\x03\x04\x96\xff\xc9\x75\xeb"
    ) + HLT
    guest.long(code)
    assert guest.cpu.run().kind is StopKind.HALT
    expected = guest.cpu.registers(), guest.memory[0x120000:0x120100]

    other = Guest()
    other.long(code)
    done = threading.Event()

    def disturb() -> None:
        while not done.is_set():
            other.cpu.request_stop()

    thread = threading.Thread(target=disturb)
    thread.start()
    stops = 0
    try:
        while (stop := other.cpu.run()).kind is StopKind.REQUESTED:
            stops += 1
            if stops == 3000:
                done.set()
    finally:
        done.set()
        thread.join()
    assert stop.kind is StopKind.HALT
    assert (other.cpu.registers(), other.memory[0x120000:0x120100]) == expected
    assert stops > 0
    other.close()


def test_endless_faults_without_any_code_meet_the_deadline(guest: Guest) -> None:
    # The handler of page faults is not there, and each fault starts again on the same stack.
    guest.put(TSS + 0x24, struct.pack("<Q", 0x160000))
    guest.gate64(14, 0x70000000, ist=1)
    guest.long(LTR + b"\xb8\x00\x00\x00\x70\xff\xe0")
    guest.cpu.set_deadline(10_000)
    assert guest.cpu.run().kind is StopKind.TIMER
    assert guest.cpu.now() < 10_100


def test_guest_that_overwrites_its_own_page_tables(guest: Guest) -> None:
    clear = b"\xbf\x00\x80\x00\x00\xb9\x00\x06\x00\x00\x31\xc0\xf3\x48\xab\x0f\x20\xd8\x0f\x22\xd8"
    stop = guest.run_long(clear + HLT)
    assert stop.kind is StopKind.TRIPLE_FAULT
    assert "#PF page fault" in stop.detail
