"""I/O permission, debug registers, control registers, random numbers: what ``engine.system`` adds to Unicorn."""

from __future__ import annotations

import struct
import subprocess
import sys

import pytest

from emu.cpu import StopKind
from emu.cpu.snapshot import Snapshot
from tests.unit.cpu.cpu_harness import (
    CODE,
    GDT,
    HANDLERS,
    HLT,
    LIDT64,
    LTR,
    RAM,
    STACK,
    TASK,
    TSS,
    USER_CODE,
    USER_DATA,
    USER_STACK,
)
from tests.unit.cpu.cpu_harness import Guest as Machine
from tests.unit.cpu.dirty_state import load

START = CODE + len(LIDT64)
DATA, OTHER = 0x150000, 0x151000
USER_START = HANDLERS + 0x800
# Log ports of the handlers.
AT, STATUS, CODE_OF_GP, VECTOR = 0x81, 0x82, 0x83, 0x84
DE, OSFXSR = 8, 0x6A0
CF, ZF = 1, 0x40

Event = tuple[int, int]


def debug_register(number: int, value: int) -> bytes:
    return load(0, value) + bytes([0x0F, 0x23, 0xC0 | number << 3])


def handlers(guest: Machine, *, resume: bytes = b"") -> None:
    """#DB logs RIP and DR6, clears DR6, goes on after ``resume``; #GP logs its code, #UD 6, both RIP, and they halt."""
    # push rax; mov rax, [rsp+8]; out AT, eax; mov rax, dr6; out STATUS, eax; xor eax, eax; mov dr6, rax; pop rax; iretq
    log = b"\x50\x48\x8b\x44\x24\x08\xe7\x81\x0f\x21\xf0\xe7\x82\x31\xc0\x0f\x23\xf0"
    for vector, code in (
        (1, log + resume + b"\x58\x48\xcf"),
        (13, b"\x58\xe7\x83\x58\xe7\x81" + HLT),
        (6, b"\xb8\x06\x00\x00\x00\xe7\x84\x58\xe7\x81" + HLT),
    ):
        guest.gate64(vector, HANDLERS + 0x100 * vector)
        guest.put(HANDLERS + 0x100 * vector, code)


def ran(guest: Machine, code: bytes) -> list[Event]:
    """What was logged until HLT."""
    assert guest.run_long(code + HLT).kind is StopKind.HALT
    return guest.out


def traps(guest: Machine, setup: bytes, code: bytes) -> list[tuple[int, int]]:
    """(RIP, counted from the start of ``code``, and the low bits of DR6) of each #DB."""
    log = ran(guest, setup + code)
    places = [value - START - len(setup) for port, value in log if port == AT]
    return list(zip(places, [value & 0xE00F for port, value in log if port == STATUS], strict=True))


# Debug registers (Intel SDM volume 3, chapter 18)


@pytest.mark.parametrize(
    ("dr7", "code", "expected"),
    [
        # mov eax, [rbx]; mov [rbx], eax; mov [rbx+4], eax; mov [rbx+3], al; four bytes, stores
        (0xD0001, b"\x8b\x03\x89\x03\x89\x43\x04\x88\x43\x03", [(4, 1), (10, 1)]),
        # the same accesses, loads and stores; enabled globally
        (0xF0002, b"\x8b\x03\x89\x03\x89\x43\x04\x88\x43\x03", [(2, 1), (4, 1), (10, 1)]),
        # one byte: mov rax, [rbx-7]; mov rax, [rbx-8]
        (0x30001, b"\x48\x8b\x43\xf9\x48\x8b\x43\xf8", [(4, 1)]),
        # eight bytes: the low bits of the address do not count
        (0xB0001, b"\x8a\x43\x07\x8a\x43\x08", [(3, 1)]),
        # in helper functions: fxsave [rbx]; lock cmpxchg16b [rbx]
        (0xD0001, b"\x0f\xae\x03\xf0\x48\x0f\xc7\x0b", [(3, 1), (8, 1)]),
        # stores that are not aligned: mov word [rbx+5], 0; mov dword [rbx+3], 0; mov qword [rbx-7], 0; push [rbx+9]
        (0xD0001, b"\x66\xc7\x43\x05\0\0\xc7\x43\x03\0\0\0\0\x48\xc7\x43\xf9\0\0\0\0\xff\x73\x09", [(13, 1), (21, 1)]),
        # read, changed and written back: add word [rbx+3], ax
        (0xD0001, b"\x66\x01\x43\x03", [(4, 1)]),
        # disabled
        (0xF0000, b"\x8b\x03\x89\x03", []),
    ],
)
def test_data_breakpoint_traps_behind_the_access(
    guest: Machine, dr7: int, code: bytes, expected: list[tuple[int, int]]
) -> None:
    handlers(guest)
    setup = load(3, DATA) + debug_register(0, DATA) + debug_register(7, dr7)
    assert traps(guest, setup, code + b"\x90") == expected


def test_data_breakpoint_on_the_stack_and_beside_single_stepping(guest: Machine) -> None:
    handlers(guest)
    setup = debug_register(2, STACK - 8) + debug_register(7, 0x9000010)
    # pushfq; pop rax: the flags that are stored show no trap flag
    assert traps(guest, setup, b"\x9c\x58\xe7\x90\xe8\x00\x00\x00\x00") == [(1, 4), (9, 4)]
    assert not dict(guest.out)[0x90] & 0x100
    guest.out.clear()
    # pushfq; or [rsp], TF; popfq; nop; mov [rsp-8], eax: single steps begin at NOP; both causes for the store
    code = b"\x9c\x81\x0c\x24\x00\x01\x00\x00\x9d\x90\x89\x44\x24\xf8"
    assert traps(guest, setup, code) == [(1, 4), (8, 4), (10, 0x4000), (14, 0x4004)]


def test_data_breakpoint_stops_each_turn_of_a_string_instruction(guest: Machine) -> None:
    handlers(guest)
    setup = load(3, DATA) + debug_register(0, DATA + 8) + debug_register(1, DATA + 16) + debug_register(7, 0xDD0005)
    setup += load(6, OTHER) + load(7, DATA) + b"\xb9\x06\x00\x00\x00"
    assert traps(guest, setup, b"\xf3\xa5\x90") == [(0, 1), (0, 2)]  # rep movsd
    assert guest.cpu.registers()["rcx"] == 0


def test_data_breakpoint_follows_its_register_and_survives_a_move(guest: Machine) -> None:
    handlers(guest)
    setup = load(3, DATA) + debug_register(0, DATA) + debug_register(7, 0xD0001) + HLT
    guest.run_long(setup + b"\x89\x03\x90" + debug_register(0, OTHER) + b"\x89\x03\x89\x83\x00\x10\x00\x00\x90" + HLT)
    other = Machine()
    other.memory[:] = guest.memory[:]
    other.cpu.parse(guest.cpu.save())()
    other.cpu.set_register("rip", START + len(setup))
    assert other.cpu.run().kind is StopKind.HALT
    assert [value - START - len(setup) for port, value in other.out if port == AT] == [2, 24]
    other.close()


def test_no_trap_for_an_access_that_faults(guest: Machine) -> None:
    """The store of MOVS faults behind its watched load: #PF, and no #DB in its handler."""
    handlers(guest)
    guest.gate64(14, HANDLERS + 0x700)
    guest.put(HANDLERS + 0x700, b"\x58\xe7\x85\x90\x90" + HLT)
    setup = load(6, DATA) + load(7, 0x40000000) + debug_register(0, DATA) + debug_register(7, 0xF0001)
    assert ran(guest, setup + b"\xa5") == [(0x85, 2)]


def test_limits_of_data_breakpoints_that_the_documentation_names(guest: Machine) -> None:
    """docs/reference/cpu.md: unaligned loads meet the rest of their words, frames meet nothing."""
    handlers(guest)
    setup = load(3, DATA) + debug_register(0, DATA) + debug_register(7, 0x30001)
    assert traps(guest, setup, b"\x8b\x43\x01\x8b\x43\x05") == [(3, 1)]  # mov eax, [rbx+1]; mov eax, [rbx+5]
    guest.out.clear()
    guest.gate64(6, HANDLERS)
    guest.put(HANDLERS, b"\xe7\x85" + HLT)  # out 85h, eax
    frame = debug_register(0, STACK - 8) + debug_register(7, 0x90001)
    assert ran(guest, frame + load(0, 5) + b"\x0f\x0b") == [(0x85, 5)]


def test_instruction_breakpoint_is_a_fault_and_obeys_rf(guest: Machine) -> None:
    handlers(guest, resume=b"\x81\x4c\x24\x18\x00\x00\x01\x00")  # or dword [rsp+18h], RF
    setup = debug_register(0, 0) + debug_register(7, 1)
    at = START + len(setup) + 1
    setup = debug_register(0, at) + debug_register(7, 1)
    assert traps(guest, setup, b"\x90\x40\x90\x90") == [(1, 1)]


def test_instruction_breakpoint_survives_added_memory_and_goes_at_reset(guest: Machine) -> None:
    handlers(guest, resume=b"\x81\x4c\x24\x18\x00\x00\x01\x00")
    setup = debug_register(0, 0) + debug_register(7, 1) + HLT
    at = START + len(setup) + 1
    code = debug_register(0, at) + debug_register(7, 1) + HLT + b"\x90\x90\x90" + HLT
    guest.run_long(code)
    guest.map(RAM, 0x1000, guest.address)
    guest.cpu.set_register("rip", START + len(setup))
    guest.cpu.run()
    assert [value for port, value in guest.out if port == AT] == [at]
    guest.out.clear()
    guest.long(b"\x90" * 40 + HLT)
    guest.cpu.invalidate(CODE, 0x100)
    guest.cpu.run()
    assert guest.out == []


def test_snapshot_takes_its_breakpoints_along(guest: Machine) -> None:
    handlers(guest, resume=b"\x81\x4c\x24\x18\x00\x00\x01\x00")
    setup = debug_register(0, 0) + debug_register(7, 1) + HLT
    at = START + len(setup)
    guest.run_long(debug_register(0, at) + debug_register(7, 1) + HLT + b"\x90" + debug_register(7, 0) + HLT)
    snapshot = Snapshot(guest.cpu)
    for _ in range(3):
        snapshot.rewind()
        guest.cpu.set_register("rip", at)
        assert guest.cpu.run().kind is StopKind.HALT
    assert [value for port, value in guest.out if port == AT] == [at] * 3
    snapshot.close()


def test_port_breakpoint_needs_cr4_de(guest: Machine) -> None:
    handlers(guest)
    setup = load(0, OSFXSR | DE) + b"\x0f\x22\xe0" + debug_register(0, 0x70) + debug_register(7, 0x20001)
    # out 70h, al; in al, 70h; out 71h, al
    assert traps(guest, setup, b"\xe6\x70\xe4\x70\xe6\x71") == [(2, 1), (4, 1)]


def test_general_detect(guest: Machine) -> None:
    handlers(guest)
    setup = debug_register(7, 0x2400)
    assert traps(guest, setup, b"\x90\x0f\x21\xc0") == [(1, 0x2000)]  # mov rax, dr0


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (b"\x0f\x21\xe0\xe7\x90", [(0x90, 0xFFFF0FF0)]),  # mov rax, dr4 is DR6
        (load(0, OSFXSR | DE) + b"\x0f\x22\xe0\x0f\x21\xe0", [(VECTOR, 6), (AT, START + 13)]),
        (load(0, 1 << 32) + b"\x0f\x23\xf8", [(CODE_OF_GP, 0), (AT, START + 10)]),  # mov dr7, rax
        (load(0, 0xFFFFFFFF) + b"\x0f\x23\xf0\x0f\x21\xf0\xe7\x90", [(0x90, 0xFFFFEFFF)]),
        (load(0, 0xD800) + b"\x0f\x23\xf8\x0f\x21\xf8\xe7\x90", [(0x90, 0x400)]),
    ],
)
def test_debug_register_forms(guest: Machine, code: bytes, expected: list[Event]) -> None:
    handlers(guest)
    assert ran(guest, code) == expected


# Control registers (Intel SDM volume 2, MOV to control registers)


@pytest.mark.parametrize(
    "code",
    [
        load(0, OSFXSR | 1 << 11) + b"\x0f\x22\xe0",  # UMIP, which is not offered
        load(0, OSFXSR | 1 << 17) + b"\x0f\x22\xe0",  # PCIDE
        load(0, OSFXSR | 1 << 13) + b"\x0f\x22\xe0",  # VMXE
        load(0, OSFXSR | 1 << 32) + b"\x0f\x22\xe0",
        load(0, OSFXSR & ~0x20) + b"\x0f\x22\xe0",  # long mode without PAE
        load(0, 0x80000010) + b"\x0f\x22\xc0",  # paging without protection
        load(0, 0xA0000033) + b"\x0f\x22\xc0",  # NW without CD
        load(0, 0x33) + b"\x0f\x22\xc0",  # 64-bit code without paging
        load(0, 16) + b"\x44\x0f\x22\xc0",  # CR8
    ],
)
def test_reserved_bits_are_refused(guest: Machine, code: bytes) -> None:
    handlers(guest)
    assert ran(guest, code) == [(CODE_OF_GP, 0), (AT, START + 10)]


def test_cr8_reads_what_was_written(guest: Machine) -> None:
    assert ran(guest, load(0, 7) + b"\x44\x0f\x22\xc0\x31\xc0\x44\x0f\x20\xc0\xe7\x90") == [(0x90, 7)]


def test_xcr0_takes_only_state_that_is_offered(guest: Machine) -> None:
    handlers(guest)
    enable = load(0, OSFXSR | 1 << 18) + b"\x0f\x22\xe0\x31\xc9\x31\xd2"
    setup = enable + b"\xb8\x03\x02\x00\x00\x0f\x01\xd1\x0f\x01\xd0\xe7\x90\xb8\x07\x00\x00\x00"
    assert ran(guest, setup + b"\x0f\x01\xd1") == [(0x90, 0x203), (CODE_OF_GP, 0), (AT, START + len(setup))]


# I/O permission (Intel SDM volume 1, section 19.5)

_REFUSED = [(CODE_OF_GP, 0), (AT, USER_START + 9)]
_MAP = 0x68


def at_ring_3(
    guest: Machine, code: bytes, *, iopl: int = 0, map_base: int = _MAP, task_limit: int = 0xFF
) -> list[Event]:
    """The log of ``code`` with DX = 3F8h and ECX = 1; it ends with INT 80h."""
    handlers(guest)
    guest.gate64(0x80, HANDLERS + 0x80, 0xEE)
    guest.put(HANDLERS + 0x80, HLT)
    guest.put(GDT + TASK, struct.pack("<HHI", task_limit, TSS, 0x8900))
    guest.put(TSS + 0x66, struct.pack("<H", map_base))
    guest.put(USER_START, b"\xb9\x01\x00\x00\x00\x66\xba\xf8\x03" + code + b"\xcd\x80")
    frame = [USER_DATA, USER_STACK, 0x202 | iopl << 12, USER_CODE, USER_START]
    guest.run_long(LTR + b"".join(b"\x68" + struct.pack("<I", value) for value in frame) + b"\x48\xcf")
    return guest.out


def permit(guest: Machine, *ports: int) -> None:
    guest.put(TSS + _MAP, b"\xff" * 0x98)
    for port in ports:
        at = TSS + _MAP + port // 8
        guest.put(at, bytes([guest.memory[at] & ~(1 << port % 8)]))


_IO = {
    "in al, 70h": b"\xe4\x70", "in eax, 70h": b"\xe5\x70", "out 70h, al": b"\xe6\x70", "out 70h, ax": b"\x66\xe7\x70",
    "in al, dx": b"\xec", "in ax, dx": b"\x66\xed", "out dx, eax": b"\xef", "insb": b"\x6c", "outsd": b"\x6f",
    "rep outsb": b"\xf3\x6e", "rep insw": b"\xf3\x66\x6d", "cli": b"\xfa", "sti": b"\xfb",
}  # fmt: skip


@pytest.mark.parametrize("name", _IO)
def test_ring_3_is_refused(guest: Machine, name: str) -> None:
    assert at_ring_3(guest, _IO[name], map_base=0x100) == _REFUSED


def test_ring_3_may_with_iopl_3(guest: Machine) -> None:
    assert [port for port, _ in at_ring_3(guest, b"\xe6\x70\xfa\xfb\xe4\x71\xe6\x72", iopl=3)] == [0x70, 0x72]


@pytest.mark.parametrize(
    ("ports", "code", "may"),
    [
        ((0x70,), b"\xe6\x70", True),
        ((0x70,), b"\x66\xe7\x70", False),  # a word needs both bits
        ((0x70, 0x71), b"\x66\xe7\x70", True),
        ((0x77, 0x78), b"\x66\xe7\x77", True),  # in two bytes of the map
        ((0x77,), b"\x66\xe7\x77", False),
        ((0x70, 0x71, 0x72, 0x73), b"\xe7\x70", True),
        ((0x70, 0x71, 0x73), b"\xe7\x70", False),
        ((0x3F8,), b"\xee", True),
    ],
)
def test_the_map_decides(guest: Machine, ports: tuple[int, ...], code: bytes, may: bool) -> None:
    permit(guest, *ports)
    log = at_ring_3(guest, code)
    assert (log != _REFUSED) == may
    assert not may or [port for port, _ in log] == [ports[0]]


def test_the_map_ends_with_the_task_segment(guest: Machine) -> None:
    permit(guest, 0x70)
    # The processor reads two bytes of the map, and both must lie within the segment's limit.
    assert at_ring_3(guest, b"\xe6\x70", task_limit=_MAP + 0x70 // 8) == _REFUSED


# Random numbers


def test_rdrand_and_rdseed_repeat(guest: Machine) -> None:
    # rdrand rax, its flags; rdseed rcx; rdrand edx; rdrand si
    code = b"\x31\xf6\x48\x0f\xc7\xf0\x9c\x5b\x48\x0f\xc7\xf9\x0f\xc7\xf2\x66\x0f\xc7\xf6"
    guest.run_long(code + HLT)
    first = guest.cpu.registers()
    assert (first["rax"], first["rcx"]) == (0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4)  # splitmix64, from 0
    assert (first["rdx"], first["rsi"]) == (0x06C45D188009454F & 0xFFFFFFFF, 0xF88BB8A8724C81EC & 0xFFFF)
    assert first["rbx"] & 0x8D5 == CF
    guest.run_long(code + HLT)
    assert guest.cpu.registers() == first


def test_random_numbers_go_on_in_a_saved_cpu_and_back_with_a_snapshot(guest: Machine) -> None:
    guest.run_long(b"\x48\x0f\xc7\xf0" + HLT + b"\x48\x0f\xc7\xf1" + HLT)
    other = Machine()
    other.memory[:] = guest.memory[:]
    other.cpu.parse(guest.cpu.save())()
    snapshot = Snapshot(guest.cpu)
    numbers = []
    for machine in (guest, guest, other):
        if machine is guest:
            snapshot.rewind()
        machine.cpu.set_register("rip", START + 5)
        machine.cpu.run()
        numbers.append(machine.cpu.registers()["rcx"])
    assert numbers == [0x6E789E6AA1B965F4] * 3
    snapshot.close()
    other.close()


# The library that was loaded before


def test_unicorn_that_was_imported_first_does_no_harm() -> None:
    program = """
import unicorn
other = unicorn.Uc(unicorn.UC_ARCH_X86, unicorn.UC_MODE_64)
from emu.cpu import Cpu
import mmap, ctypes
from types import SimpleNamespace
from emu.entry import Protected32
from emu.memory import GuestMemory, Region
memory = mmap.mmap(-1, 4096)
memory[:5] = bytes.fromhex("0fc7f0f4f4")
regions = GuestMemory()
address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
regions.add(Region(0, 4096, SimpleNamespace(address=address, size=4096, view=memory, readonly=False)))
cpu = Cpu(regions)
cpu.enter(Protected32(0, 0, 0))
cpu.run()
print(hex(cpu.registers()["rax"]))
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (result.stdout, result.stderr) == ("0x7b1dcdaf\n", "")


@pytest.mark.parametrize(
    "ours",
    ["[:1] + loader._INTERPOSED[2:]", "[1:]", "[::-1]", "[1:2] + loader._INTERPOSED[:1] + loader._INTERPOSED[2:]"],
    ids=["without-system", "without-accesses", "in-another-order", "accesses-behind-system"],
)
def test_unless_our_functions_come_first_the_cpu_refuses_to_run(ours: str) -> None:
    program = f"""
from emu.cpu.engine import loader
loader._INTERPOSED = loader._INTERPOSED{ours}
from emu.cpu import Cpu
from emu.errors import HostError
from emu.memory import GuestMemory
try:
    Cpu(GuestMemory())
except HostError as error:
    print(error)
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert "does not let emu stand before its functions" in result.stdout
    assert result.stderr == ""
