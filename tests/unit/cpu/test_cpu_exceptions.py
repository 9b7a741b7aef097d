"""Exceptions and software interrupts through the guest's own IDT."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import pytest

from emu.cpu import StopKind
from tests.unit.cpu.cpu_harness import (
    CODE,
    CODE32,
    HANDLERS,
    HLT,
    IDT,
    KERNEL_CODE,
    KERNEL_DATA,
    LTR,
    STACK,
    TSS,
    USER_CODE,
    USER_DATA,
    USER_STACK,
    Guest,
)


@pytest.fixture(params=[True, False], ids=["in C", "in Python"])
def guest(request: pytest.FixtureRequest) -> Iterator[Guest]:
    """Every rule holds whoever delivers."""
    machine = Guest(native_delivery=request.param)
    yield machine
    machine.close()


START = CODE + 8  # behind LIDT
NOT_THERE = 0x70000000


def test_five_divide_errors_in_a_row_all_arrive_as_vector_0(guest: Guest) -> None:
    guest.gate64(0, HANDLERS)
    guest.put(HANDLERS, b"\xff\xc3\x48\x83\x04\x24\x02\x48\xcf")  # inc ebx; add qword [rsp], 2; iretq
    stop = guest.run_long(b"\x31\xdb\x31\xc9" + b"\xf7\xf1" * 5 + HLT)
    assert stop.kind is StopKind.HALT
    assert guest.cpu.registers()["rbx"] == 5
    assert guest.cpu.last_exception is not None
    assert guest.cpu.last_exception.vector == 0


def test_page_fault_frame_has_error_code_address_and_the_faulting_rip(guest: Guest) -> None:
    guest.gate64(14, HANDLERS)
    guest.put(HANDLERS, HLT)
    guest.run_long(b"\x48\x89\x04\x25" + struct.pack("<I", NOT_THERE))
    registers = guest.cpu.registers()
    assert registers["cr2"] == NOT_THERE
    assert registers["rsp"] == STACK - 48
    error, rip, cs, flags, rsp, ss = guest.quads(registers["rsp"], 6)
    assert (error, rip, cs, rsp, ss) == (2, START, KERNEL_CODE, STACK, KERNEL_DATA)
    assert flags & 2
    assert str(guest.cpu.last_exception) == (
        f"#PF page fault at RIP {START:#x}, error code 0x2, address {NOT_THERE:#x}"
    )


def test_only_faults_push_rf_and_it_is_gone_behind_the_return(guest: Guest) -> None:
    """Intel SDM volume 3, section 18.3.1.1; the flags of each frame are sent to a port."""
    send = b"\x8b\x44\x24%c\xe7\x80"  # mov eax, [rsp + %c]; out 80h, eax
    handlers = {3: send % 16 + b"\x48\xcf", 6: send % 16 + b"\x48\x83\x04\x24\x02\x48\xcf"}  # 6: add qword [rsp], 2
    handlers[14] = send % 24 + b"\x48\x83\xc4\x08\x48\x83\x04\x24\x08\x48\xcf"  # add rsp, 8; add qword [rsp], 8
    for vector, code in handlers.items():
        guest.gate64(vector, HANDLERS + 0x40 * vector)
        guest.put(HANDLERS + 0x40 * vector, code)
    load = b"\x48\x8b\x04\x25" + struct.pack("<I", NOT_THERE)
    guest.run_long(b"\x0f\x0b\xcc" + load + b"\xcd\x03\x0f\x0b\x0f\x0b\xcc" + HLT)
    assert [value >> 16 & 1 for _, value in guest.out] == [1, 0, 1, 0, 1, 1, 0]


@pytest.mark.parametrize(
    ("code", "register", "vector"),
    [
        ("50", "rsp", 12),  # push rax
        ("c3", "rsp", 12),  # ret
        ("c9", "rbp", 12),  # leave
        ("488b4500", "rbp", 12),  # mov rax, [rbp]
        ("648b4500", "rbp", 13),  # mov eax, fs:[rbp]
        ("488b0429", "rbp", 13),  # mov rax, [rcx+rbp]
        ("ff31", "rcx", 13),  # push [rcx]
    ],
)
def test_the_stack_beyond_canonical_addresses_is_a_stack_fault(
    guest: Guest, code: str, register: str, vector: int
) -> None:
    """Intel SDM volume 3, section 6.15, interrupt 12; on a stack of its own, since RSP may be wrong."""
    for number in (12, 13):
        guest.gate64(number, HANDLERS + 0x40 * number, ist=1)
        guest.put(HANDLERS + 0x40 * number, HLT)
    guest.put(TSS + 0x24, struct.pack("<Q", USER_STACK))
    guest.long(LTR + bytes.fromhex(code))
    guest.cpu.set_register(register, 1 << 62)
    guest.cpu.run()
    last = guest.cpu.last_exception
    assert last is not None
    assert (last.vector, last.error_code, last.rip) == (vector, 0, START + len(LTR))
    assert guest.cpu.registers()["rip"] == HANDLERS + 0x40 * vector + 1


def test_protected_mode_faults_push_rf(guest: Guest) -> None:
    for vector, code in ((6, b"\x83\x04\x24\x02\xcf"), (3, b"\x8b\x44\x24\x08\xe7\x80" + HLT)):  # 6: add dword [esp], 2
        guest.gate32(vector, HANDLERS + 0x40 * vector)
        guest.put(HANDLERS + 0x40 * vector, (b"\x8b\x44\x24\x08\xe7\x80" if vector == 6 else b"") + code)
    guest.run_protected(b"\x0f\x0b\xcc" + HLT)
    assert [value >> 16 & 1 for _, value in guest.out] == [1, 0]


def test_stack_is_aligned_to_16_before_the_frame(guest: Guest) -> None:
    guest.gate64(3, HANDLERS)
    guest.put(HANDLERS, HLT)
    guest.run_long(b"\x48\x83\xec\x08\xcc")  # sub rsp, 8; int3
    assert guest.cpu.registers()["rsp"] == STACK - 16 - 40
    assert guest.quads(STACK - 16 - 40, 4)[3] == STACK - 8


@pytest.mark.parametrize(
    ("code", "vector", "length"),
    [(b"\xcd\x21", 0x21, 2), (b"\xcc", 3, 1), (b"\xcd\x0e", 14, 2), (b"\x0f\x0b", 6, 0), (b"\xf7\xf1", 0, 0)],
    ids=["int 21h", "int3", "int 14 has no error code", "ud2", "div"],
)
def test_return_address_is_behind_an_interrupt_instruction_and_at_a_faulting_one(
    guest: Guest, code: bytes, vector: int, length: int
) -> None:
    guest.gate64(vector, HANDLERS)
    guest.put(HANDLERS, HLT)
    guest.run_long(b"\x31\xc9" + code)
    rsp = guest.cpu.registers()["rsp"]
    assert rsp == STACK - 40
    assert guest.quads(rsp, 1) == [START + 2 + length]


@pytest.mark.parametrize(("kind", "enabled"), [(0x8E, 0), (0x8F, 0x200)], ids=["interrupt gate", "trap gate"])
def test_interrupt_gate_clears_if_and_trap_gate_keeps_it(guest: Guest, kind: int, enabled: int) -> None:
    guest.gate64(0x30, HANDLERS, kind)
    guest.put(HANDLERS, HLT)
    guest.run_long(b"\xfb\xcd\x30")
    assert guest.cpu.registers()["rflags"] & 0x200 == enabled
    assert guest.quads(STACK - 40, 3)[2] & 0x200


def test_int1_is_a_trap_that_asks_no_gate(guest: Guest) -> None:
    """Intel SDM volume 2, INT n/INTO/INT3/INT1: #DB behind it, from any privilege, and RF stays clear."""
    guest.gate64(1, HANDLERS)
    guest.put(HANDLERS, b"\x8b\x44\x24\x10\xe7\x80\x8b\x04\x24\xe7\x81" + HLT)  # the flags and RIP of the frame
    guest.run_long(b"\xf1\x90" + HLT)
    assert [(port, value & (0x10000 if port == 0x80 else ~0)) for port, value in guest.out] == [
        (0x80, 0), (0x81, START + 1)
    ]  # fmt: skip


def test_general_protection_fault_carries_the_selector(guest: Guest) -> None:
    guest.gate64(13, HANDLERS)
    guest.put(HANDLERS, HLT)
    guest.run_long(b"\x66\xb8\x34\x12\x8e\xd8")  # mov ax, 1234h; mov ds, ax
    assert guest.quads(STACK - 48, 1) == [0x1234]


def test_missing_gate_becomes_a_general_protection_fault_that_names_it(guest: Guest) -> None:
    guest.gate64(13, HANDLERS)
    guest.put(HANDLERS, HLT)
    guest.run_long(b"\xcd\x40")
    assert guest.quads(STACK - 48, 2) == [0x40 << 3 | 2, START]


def test_absent_gate_becomes_segment_not_present(guest: Guest) -> None:
    guest.gate64(0x41, HANDLERS, 0x0E)
    guest.gate64(11, HANDLERS)
    guest.put(HANDLERS, HLT)
    guest.run_long(b"\xcd\x41")
    assert guest.quads(STACK - 48, 1) == [0x41 << 3 | 2]


def test_page_fault_without_handler_is_a_double_fault_with_error_code_0(guest: Guest) -> None:
    guest.gate64(8, HANDLERS)
    guest.put(HANDLERS, HLT)
    stop = guest.run_long(b"\xa0" + struct.pack("<Q", NOT_THERE))
    assert stop.kind is StopKind.HALT
    assert guest.quads(STACK - 48, 2) == [0, START]


def test_divide_error_without_handler_is_a_double_fault(guest: Guest) -> None:
    guest.gate64(8, HANDLERS)
    guest.put(HANDLERS, HLT)
    guest.run_long(b"\x31\xc9\xf7\xf1")
    assert guest.quads(STACK - 48, 2) == [0, START + 2]


def test_invalid_opcode_without_handler_is_served_as_general_protection(guest: Guest) -> None:
    guest.gate64(13, HANDLERS)
    guest.put(HANDLERS, HLT)
    guest.run_long(b"\x0f\x0b")
    assert guest.quads(STACK - 48, 2) == [6 << 3 | 3, START]


def test_nothing_to_deliver_to_is_a_triple_fault_that_says_why(guest: Guest) -> None:
    stop = guest.run_long(b"\x31\xc9\xf7\xf1")
    assert stop.kind is StopKind.TRIPLE_FAULT
    assert "#DE divide error" in stop.detail
    assert stop.exception is not None
    assert stop.exception.rip == START + 2
    assert guest.cpu.run() == stop


def test_stack_that_is_not_there_ends_in_a_double_fault_on_its_own_stack(guest: Guest) -> None:
    guest.put(TSS + 0x24, struct.pack("<Q", 0x160000))
    guest.gate64(8, HANDLERS, ist=1)
    guest.gate64(14, HANDLERS + 0x100)
    guest.gate64(3, HANDLERS + 0x100)
    guest.put(HANDLERS, HLT)
    stop = guest.run_long(LTR + b"\xbc" + struct.pack("<I", NOT_THERE) + b"\xff\x34\x24")  # push qword [rsp]
    assert stop.kind is StopKind.HALT
    assert guest.cpu.registers()["rsp"] == 0x160000 - 48
    assert guest.quads(0x160000 - 48, 1) == [0]


def test_interrupt_stack_table_switches_the_stack(guest: Guest) -> None:
    guest.put(TSS + 0x24 + 8, struct.pack("<Q", 0x160008))
    guest.gate64(3, HANDLERS, ist=2)
    guest.put(HANDLERS, HLT)
    guest.run_long(LTR + b"\xcc")
    assert guest.cpu.registers()["rsp"] == 0x160000 - 40
    assert guest.quads(0x160000 - 40, 4)[3] == STACK


def enter_user(code: bytes) -> bytes:
    """Kernel code that drops to ring 3 with IF set and runs ``code`` at HANDLERS + 0x800."""
    frame = [USER_DATA, USER_STACK, 0x202, USER_CODE, HANDLERS + 0x800]
    return LTR + b"".join(b"\x68" + struct.pack("<I", value) for value in frame) + b"\x48\xcf"


def test_interrupt_from_ring_3_switches_to_the_ring_0_stack_and_back(guest: Guest) -> None:
    guest.gate64(0x80, HANDLERS, 0xEE)
    guest.gate64(13, HANDLERS + 0x100)
    guest.put(HANDLERS, b"\x8c\xc9\x89\xe3\x48\xcf")  # mov ecx, cs; mov ebx, esp; iretq
    guest.put(HANDLERS + 0x800, b"\xcd\x80\x8c\xca\xf4")  # int 80h; mov edx, cs; hlt
    guest.put(HANDLERS + 0x100, HLT)
    guest.run_long(enter_user(b""))
    registers = guest.cpu.registers()
    assert registers["rbx"] == STACK - 40
    assert registers["rcx"] == KERNEL_CODE
    assert registers["rdx"] == USER_CODE
    # HLT in ring 3 is a general protection fault: its frame is on the ring 0 stack.
    error, rip, cs, _flags, rsp, ss = guest.quads(STACK - 48, 6)
    assert (error, rip, cs, rsp, ss) == (0, HANDLERS + 0x804, USER_CODE, USER_STACK, USER_DATA)
    assert registers["ss"] == 0
    assert registers["cs"] == KERNEL_CODE


def test_ring_3_may_not_call_a_kernel_gate(guest: Guest) -> None:
    guest.gate64(0x80, HANDLERS, 0x8E)
    guest.gate64(13, HANDLERS)
    guest.put(HANDLERS, HLT)
    guest.put(HANDLERS + 0x800, b"\xcd\x80")
    guest.run_long(enter_user(b""))
    assert guest.quads(STACK - 48, 2) == [0x80 << 3 | 2, HANDLERS + 0x800]


def test_page_fault_in_ring_3_has_the_user_bit(guest: Guest) -> None:
    guest.gate64(14, HANDLERS)
    guest.put(HANDLERS, HLT)
    guest.put(HANDLERS + 0x800, b"\x8a\x04\x25" + struct.pack("<I", NOT_THERE))
    guest.run_long(enter_user(b""))
    assert guest.quads(STACK - 48, 1) == [4]


def test_syscall_and_sysret(guest: Guest) -> None:
    wrmsr = b"\xb9%b\xb8%b\xba%b\x0f\x30"

    def set_msr(number: int, value: int) -> bytes:
        return wrmsr % tuple(struct.pack("<I", word) for word in (number, value & 0xFFFFFFFF, value >> 32))

    guest.gate64(13, HANDLERS + 0x100)
    guest.put(HANDLERS + 0x100, HLT)
    guest.put(HANDLERS, b"\x8c\xcb\x89\xce\x48\x0f\x07")  # mov ebx, cs; mov esi, ecx; sysretq
    guest.put(HANDLERS + 0x800, b"\x0f\x05\x8c\xca\xf4")  # syscall; mov edx, cs; hlt
    star = (KERNEL_DATA + 3 + 0x0) << 48 | KERNEL_CODE << 32
    setup = (
        set_msr(0xC0000080, 0xD01) + set_msr(0xC0000081, star) + set_msr(0xC0000082, HANDLERS)
        + set_msr(0xC0000084, 0x200)
    )  # fmt: skip
    guest.run_long(setup + enter_user(b""))
    registers = guest.cpu.registers()
    assert registers["rbx"] == KERNEL_CODE
    assert registers["rsi"] == HANDLERS + 0x802
    assert registers["rdx"] == KERNEL_DATA + 3 + 16
    assert registers["r11"] & 0x200


def test_syscall_without_sce_is_an_invalid_opcode(guest: Guest) -> None:
    guest.gate64(6, HANDLERS)
    guest.put(HANDLERS, HLT)
    guest.run_long(b"\x0f\x05")
    assert guest.quads(STACK - 40, 1) == [START]


def test_single_step_traps_after_each_instruction(guest: Guest) -> None:
    guest.gate64(1, HANDLERS)
    guest.put(HANDLERS, b"\xff\xc3\x48\xcf")  # inc ebx; iretq
    # pushfq; or dword [rsp], 100h; popfq; nop; nop; pushfq; and dword [rsp], ~100h; popfq; hlt
    code = b"\x31\xdb\x9c\x81\x0c\x24\x00\x01\x00\x00\x9d\x90\x90\x9c\x81\x24\x24\xff\xfe\xff\xff\x9d\xf4"
    assert guest.run_long(code).kind is StopKind.HALT
    assert guest.cpu.registers()["rbx"] >= 4


def test_protected_mode_exceptions_use_32_bit_frames(guest: Guest) -> None:
    guest.put(IDT, bytes(4096))
    guest.gate32(13, HANDLERS)
    guest.put(HANDLERS, HLT)
    jump = b"\xea" + struct.pack("<IH", CODE + 14 + 7, CODE32)
    stop = guest.run_protected(jump + b"\x66\xb8\x34\x12\x8e\xd8")
    assert stop.kind is StopKind.HALT
    assert struct.unpack("<4I", guest.memory[STACK - 16 : STACK])[:3] == (0x1234, CODE + 14 + 7 + 4, CODE32)
    assert guest.cpu.mode == 32


def test_protected_mode_iret_returns(guest: Guest) -> None:
    guest.gate32(0, HANDLERS)
    guest.put(HANDLERS, b"\x43\x83\x04\x24\x02\xcf")  # inc ebx; add dword [esp], 2; iret
    jump = b"\xea" + struct.pack("<IH", CODE + 14 + 7, CODE32)
    guest.run_protected(jump + b"\x31\xdb\x31\xc9" + b"\xf7\xf1" * 3 + HLT)
    assert guest.cpu.registers()["rbx"] == 3


def test_protected_mode_ring_3_takes_its_stack_from_the_tss(guest: Guest) -> None:
    # A 32-bit TSS: ESP0 at 4, SS0 at 8; user code segment 32 bits wide at selector 20h.
    guest.put(0x4000 + 0x20, struct.pack("<Q", 0x00CFFB000000FFFF))
    guest.put(TSS + 4, struct.pack("<II", STACK - 0x1000, KERNEL_DATA))
    guest.gate32(0x80, HANDLERS, 0xEE)
    guest.put(HANDLERS, HLT)
    guest.put(HANDLERS + 0x800, b"\xcd\x80")
    pushes = b"".join(b"\x68" + struct.pack("<I", v) for v in (USER_DATA, USER_STACK, 2, 0x23, HANDLERS + 0x800))
    jump = b"\xea" + struct.pack("<IH", CODE + 14 + 7, CODE32)
    guest.run_protected(jump + LTR + pushes + b"\xcf")
    frame = struct.unpack("<5I", guest.memory[STACK - 0x1000 - 20 : STACK - 0x1000])
    assert (frame[0], frame[1], frame[3], frame[4]) == (HANDLERS + 0x802, 0x23, USER_STACK, USER_DATA)
    assert guest.cpu.registers()["ss"] == KERNEL_DATA
