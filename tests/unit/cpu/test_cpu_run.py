"""Boot states, ports, memory and stops."""

from __future__ import annotations

import ctypes
import mmap
import struct
import threading

import pytest

from emu.cpu import Cpu, StopKind
from emu.cpu import registers as r
from emu.cpu.engine import hooks, layout, library
from emu.entry import Long64, Protected32
from emu.errors import EmuError, HostError, UsageError
from emu.memory import GuestMemory
from tests.unit.cpu.cpu_harness import CODE, CODE32, HANDLERS, HLT, IDT, KERNEL_CODE, RAM, STACK, TABLES, Guest

HOLE = 0x2000000
LIBC = ctypes.CDLL(None)


# Boot states


def test_protected_entry_is_what_multiboot_promises(guest: Guest) -> None:
    guest.put(CODE, HLT)
    guest.cpu.enter(Protected32(CODE, 0x2BADB002, 0x9500))
    registers = guest.cpu.registers()
    assert (registers["rax"], registers["rbx"], registers["rip"]) == (0x2BADB002, 0x9500, CODE)
    assert registers["cr0"] & 0x80000001 == 1
    assert not registers["rflags"] & 0x20200
    for name in ("cs", "ds", "es", "ss"):
        assert (guest.cpu.segment(name).base, guest.cpu.segment(name).limit) == (0, 0xFFFFFFFF)
    assert guest.cpu.mode == 32
    assert guest.cpu.run().kind is StopKind.HALT


def test_long_entry(guest: Guest) -> None:
    guest.put(CODE, HLT)
    guest.cpu.enter(Long64(CODE, STACK, 0x1234, TABLES))
    registers = guest.cpu.registers()
    assert (registers["rsp"], registers["rdi"], registers["cr3"]) == (STACK, 0x1234, TABLES)
    assert registers["efer"] == r.EFER_LME | r.EFER_LMA | r.EFER_NXE
    assert registers["cr0"] & registers["cr0"] & 0x80010001 == 0x80010001
    assert guest.cpu.mode == 64
    assert guest.cpu.run().kind is StopKind.HALT


def test_long_entry_of_linux_has_its_selectors_and_rsi(guest: Guest) -> None:
    guest.put(CODE, HLT)
    guest.cpu.enter(Long64(CODE, STACK, 0, TABLES, rsi=0x9000, code=0x10))
    assert guest.cpu.registers()["rsi"] == 0x9000
    assert [guest.cpu.segment(name).selector for name in ("cs", "ds", "es", "ss")] == [0x10, 0x18, 0x18, 0x18]
    assert guest.cpu.run().kind is StopKind.HALT


LONG_SWITCH = (
    b"\x0f\x20\xe0\x83\xc8\x20\x0f\x22\xe0"  # cr4 |= PAE
    b"\xb8" + struct.pack("<I", TABLES) + b"\x0f\x22\xd8"  # cr3
    + b"\xb9\x80\x00\x00\xc0\x0f\x32\x0d\x00\x09\x00\x00\x0f\x30"  # EFER |= LME | NXE
    + b"\x0f\x20\xc0\x0d\x01\x00\x00\x80\x0f\x22\xc0"  # cr0 |= PG | PE
)  # fmt: skip


def test_32_bit_guest_switches_itself_to_64_bit(guest: Guest) -> None:
    head = 14 + len(LONG_SWITCH) + 7
    jump = b"\xea" + struct.pack("<IH", CODE + head, KERNEL_CODE)
    stop = guest.run_protected(LONG_SWITCH + jump + b"\x49\xb8\x88\x77\x66\x55\x44\x33\x22\x11" + HLT)
    assert stop.kind is StopKind.HALT
    assert guest.cpu.registers()["r8"] == 0x1122334455667788
    assert guest.cpu.mode == 64


def test_enter_again_is_a_reset(guest: Guest) -> None:
    guest.run_long(b"\x49\xb8" + b"\xff" * 8 + b"\x0f\x28\xc1\xd9\xe8" + HLT)
    guest.put(CODE, b"\x89\xc8" + HLT)
    guest.cpu.enter(Protected32(CODE, 1, 2))
    assert guest.cpu.run().kind is StopKind.HALT
    registers = guest.cpu.registers()
    assert (registers["r8"], registers["rsp"], registers["efer"], registers["cr3"]) == (0, 0, 0, 0)
    assert registers["rax"] == 0


def test_unknown_model_is_refused() -> None:
    with pytest.raises(UsageError, match="no CPU model '486'"):
        Cpu(GuestMemory(), "486")


@pytest.mark.parametrize("code", ["0fae38", "660fae38", "660fae30", "0faef8", "0fc308", "660fe708", "0fa2"])
def test_model_has_the_persistency_instructions(guest: Guest, code: str) -> None:
    assert guest.run_long(b"\xb8" + struct.pack("<I", STACK) + bytes.fromhex(code) + HLT).kind is StopKind.HALT


# Ports


def test_ports_of_all_widths(guest: Guest) -> None:
    sizes: list[tuple[str, int, int]] = []
    guest.cpu.on_port_write = lambda port, size, value: sizes.append(("out", size, value))

    def read(port: int, size: int) -> int:
        sizes.append(("in", size, port))
        return 0x1_8765_4321

    guest.cpu.on_port_read = read
    guest.run_long(b"\xe4\x10\xe6\x11\x66\xe5\x12\x66\xe7\x13\xe5\x14\xe7\x15" + HLT)
    assert sizes == [
        ("in", 1, 0x10), ("out", 1, 0x21), ("in", 2, 0x12), ("out", 2, 0x4321), ("in", 4, 0x14), ("out", 4, 0x87654321),
    ]  # fmt: skip


def test_string_output(guest: Guest) -> None:
    guest.put(0x29000, b"hello")
    guest.run_long(b"\xbe\x00\x90\x02\x00\xb9\x05\x00\x00\x00\xba\xe9\x00\x00\x00\xf3\x6e" + HLT)
    assert bytes(value for _, value in guest.out) == b"hello"


@pytest.mark.parametrize("failure", [ValueError("device"), KeyboardInterrupt()])
def test_what_a_port_raises_comes_out_of_run_and_the_guest_can_go_on(guest: Guest, failure: BaseException) -> None:
    def write(port: int, size: int, value: int) -> None:
        if value == 1:
            raise failure
        guest.out.append((port, value))

    guest.cpu.on_port_write = write
    guest.long(b"\xb0\x01\xe6\x10\xeb\x00\xb0\x02\xe6\x10" + HLT)
    with pytest.raises(type(failure)):
        guest.cpu.run()
    assert guest.cpu.run().kind is StopKind.HALT
    assert guest.out == [(0x10, 2)]


def test_fault_in_the_block_of_a_failing_port_access_is_not_lost(guest: Guest) -> None:
    guest.gate64(6, HANDLERS)
    guest.put(HANDLERS, HLT)

    def write(port: int, size: int, value: int) -> None:
        raise ValueError

    guest.cpu.on_port_write = write
    guest.long(b"\xe6\x10\x0f\x0b")
    with pytest.raises(ValueError, match=r"^$"):
        guest.cpu.run()
    assert guest.cpu.run().kind is StopKind.HALT
    assert guest.cpu.last_exception is not None
    assert guest.cpu.last_exception.vector == 6


# Memory


def map_at(guest: Guest, gpa: int) -> None:
    """Let linear ``gpa`` (2 MiB page) reach physical ``gpa``."""
    guest.put(TABLES + 0x2000 + (gpa >> 21) * 8, struct.pack("<Q", gpa | 0x87))


def test_holes_read_as_zero_and_drop_writes(guest: Guest) -> None:
    map_at(guest, HOLE)
    at = struct.pack("<I", HOLE)
    stop = guest.run_long(b"\x48\xc7\xc0\xff\xff\xff\xff\x48\x89\x04\x25" + at + b"\x48\x8b\x04\x25" + at + HLT)
    assert stop.kind is StopKind.HALT
    assert guest.cpu.registers()["rax"] == 0


@pytest.mark.parametrize(
    "code", ["f0ff0425%s", "f0480fc70c25%s", "f30f6f0c25%s", "480fae0425%s", "48870425%s"], ids=lambda code: code
)
def test_odd_accesses_to_holes_do_no_harm(guest: Guest, code: str) -> None:
    map_at(guest, HOLE)
    assert guest.run_long(bytes.fromhex(code % struct.pack("<I", HOLE).hex()) + HLT).kind is StopKind.HALT


def test_code_in_a_hole_is_a_bad_state_that_names_the_address(guest: Guest) -> None:
    map_at(guest, HOLE)
    stop = guest.run_long(b"\xb8" + struct.pack("<I", HOLE) + b"\xff\xe0")
    assert stop.kind is StopKind.BAD_STATE
    assert f"{HOLE:#x}" in stop.detail
    assert guest.cpu.run() == stop


def test_page_tables_in_a_hole_are_a_triple_fault(guest: Guest) -> None:
    assert guest.run_long(b"\xb8" + struct.pack("<I", HOLE) + b"\x0f\x22\xd8").kind is StopKind.TRIPLE_FAULT


@pytest.mark.parametrize(
    "code", ["48c70425%s78563412", "f0ff0425%s", "48870425%s", "f30f7f0425%s", "480fae0425%s", "f0480fc70c25%s"]
)
def test_stores_to_read_only_memory_are_dropped(guest: Guest, code: str) -> None:
    rom = mmap.mmap(-1, mmap.PAGESIZE)
    anchor = ctypes.c_char.from_buffer(rom)
    rom[:4] = b"\x11\x22\x33\x44"
    address = ctypes.c_void_p(ctypes.addressof(anchor))
    # As a file mapped for reading only: a store that gets through kills the process.
    assert LIBC.mprotect(address, ctypes.c_size_t(len(rom)), mmap.PROT_READ) == 0
    guest.map(HOLE, len(rom), ctypes.addressof(anchor), readonly=True)
    map_at(guest, HOLE)
    stop = guest.run_long(
        bytes.fromhex(code % struct.pack("<I", HOLE).hex()) + b"\x8b\x1c\x25" + struct.pack("<I", HOLE) + HLT
    )
    assert stop.kind is StopKind.HALT
    assert guest.cpu.registers()["rbx"] == 0x44332211
    guest.cpu.close()
    del anchor


def test_memory_added_later_is_seen(guest: Guest) -> None:
    map_at(guest, HOLE)
    load = b"\x8b\x04\x25" + struct.pack("<I", HOLE)
    guest.run_long(load + HLT)
    more = mmap.mmap(-1, mmap.PAGESIZE)
    anchor = ctypes.c_char.from_buffer(more)
    more[:4] = b"\x11\x22\x33\x44"
    guest.map(HOLE, len(more), ctypes.addressof(anchor))
    guest.run_long(load + HLT)
    assert guest.cpu.registers()["rax"] == 0x44332211
    guest.cpu.close()
    del anchor


@pytest.mark.parametrize("has_run", [False, True])
@pytest.mark.parametrize(("gpa", "size"), [(RAM - 4096, 8192), (0x1001000, 0), (0x1000800, 4096), (1 << 52, 4096)])
def test_impossible_memory_is_refused(guest: Guest, gpa: int, size: int, has_run: bool) -> None:
    if has_run:
        guest.run_long(HLT)
    regions = guest.regions.regions
    with pytest.raises(EmuError, match=r"overlaps|does not fit|whole pages"):
        guest.map(gpa, size, guest.address)
    assert guest.regions.regions == regions
    assert guest.run_long(HLT).kind is StopKind.HALT


def test_code_changed_by_the_host_between_runs(guest: Guest) -> None:
    guest.run_long(b"\xb8\x01\x00\x00\x00" + HLT)
    guest.put(CODE + 9, b"\x07")
    guest.cpu.invalidate(CODE, 16)
    guest.cpu.set_register("rip", CODE)
    guest.cpu.run()
    assert guest.cpu.registers()["rax"] == 7


def test_code_changed_by_a_callback(guest: Guest) -> None:
    def write(port: int, size: int, value: int) -> None:
        guest.out.append((port, value))
        if len(guest.out) == 2:
            guest.put(CODE + 9, b"\x07")
            guest.cpu.invalidate(CODE + 9, 1)
        if len(guest.out) == 4:
            guest.cpu.request_stop()

    guest.cpu.on_port_write = write
    assert guest.run_long(b"\xb8\x01\x00\x00\x00\xe6\x80\xeb\xf7").kind is StopKind.REQUESTED
    assert [value for _, value in guest.out] == [1, 1, 7, 7]


def test_self_modifying_guest(guest: Guest) -> None:
    target = CODE + 8 + 11 + 1
    code = b"\xc6\x04\x25" + struct.pack("<I", target) + b"\x07" + b"\x90" * 3 + b"\xb8\x01\x00\x00\x00" + HLT
    guest.run_long(code)
    assert guest.cpu.registers()["rax"] == 7


# Stops


def test_halt_says_whether_interrupts_are_enabled_and_stays(guest: Guest) -> None:
    stop = guest.run_long(b"\xfb\x90\xf4")
    assert (stop.kind, stop.interrupts_enabled) == (StopKind.HALT, True)
    assert guest.cpu.run() == stop
    assert guest.cpu.halted
    assert guest.run_long(HLT).interrupts_enabled is False


def test_stop_request_before_run_is_kept(guest: Guest) -> None:
    guest.long(b"\xeb\xfe")
    guest.cpu.request_stop()
    assert guest.cpu.run().kind is StopKind.REQUESTED


def test_stop_requests_from_another_thread_are_never_lost(guest: Guest) -> None:
    guest.long(b"\xeb\xfe")
    for _ in range(200):
        thread = threading.Thread(target=guest.cpu.request_stop)
        thread.start()
        assert guest.cpu.run().kind is StopKind.REQUESTED
        thread.join()


def test_stop_request_from_a_callback(guest: Guest) -> None:
    guest.cpu.on_port_write = lambda port, size, value: guest.cpu.request_stop()
    stop = guest.run_long(b"\xe6\x10\xeb\x00\xff\xc3" + HLT)
    assert stop.kind is StopKind.REQUESTED
    assert guest.cpu.registers()["rbx"] == 0
    assert guest.cpu.run().kind is StopKind.HALT
    assert guest.cpu.registers()["rbx"] == 1


def test_stop_request_and_hlt_in_one_block_are_both_seen(guest: Guest) -> None:
    guest.cpu.on_port_write = lambda port, size, value: guest.cpu.request_stop()
    assert guest.run_long(b"\xe6\x10" + HLT).kind is StopKind.REQUESTED
    assert guest.cpu.halted
    assert guest.cpu.run().kind is StopKind.HALT


def test_stop_behind_a_byte_that_looks_like_hlt_is_no_halt(guest: Guest) -> None:
    guest.cpu.on_port_write = lambda port, size, value: guest.cpu.request_stop()
    # out; jmp over an F4h byte: the stop is at the address behind it
    guest.run_long(b"\xe6\x10\xeb\x01\xf4\xff\xc3" + HLT)
    assert not guest.cpu.halted
    assert guest.cpu.run().kind is StopKind.HALT
    assert guest.cpu.registers()["rbx"] == 1


# Looking


def test_linear_addresses_follow_the_guest_page_tables(guest: Guest) -> None:
    guest.put(TABLES + 0x2000 + 8 * 8, struct.pack("<Q", 0x87))
    guest.run_long(HLT)
    assert guest.cpu.translate(0x1000000 + CODE) == CODE
    assert guest.cpu.translate(0x70000000) is None
    assert guest.cpu.read_linear(0x1000000 + CODE + 8, 1) == HLT
    with pytest.raises(UsageError, match="0x70000000"):
        guest.cpu.read_linear(0x70000000, 8)


def test_looking_leaves_no_trace_in_the_page_tables(guest: Guest) -> None:
    guest.run_long(HLT)
    guest.put(TABLES + 0x2000 + 8, struct.pack("<Q", 0x200087))
    guest.cpu.read_linear(0x200000, 8)
    assert guest.quads(TABLES + 0x2000 + 8, 1) == [0x200087]


def test_set_register_checks_names_and_values(guest: Guest) -> None:
    guest.cpu.set_register("r15", 5)
    assert guest.cpu.registers()["r15"] == 5
    with pytest.raises(UsageError):
        guest.cpu.set_register("cr3", 0)
    with pytest.raises(UsageError):
        guest.cpu.set_register("rax", 1 << 64)


def test_native_hooks_can_be_added_and_removed(guest: Guest) -> None:
    seen: list[int] = []
    kind = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_uint64, ctypes.c_uint32, ctypes.c_void_p)
    callback = kind(lambda uc, address, size, user: seen.append(address))
    guest.run_long(b"\x90\x90" + HLT)
    address = ctypes.cast(callback, ctypes.c_void_p).value
    assert address is not None
    handle = guest.cpu.add_native_hook(4, address, 0, CODE + 9, CODE + 9)
    guest.run_long(b"\x90\x90" + HLT)
    assert seen == [CODE + 9]
    guest.cpu.remove_hook(handle)
    guest.run_long(b"\x90\x90" + HLT)
    assert seen == [CODE + 9]
    assert guest.cpu.engine != 0


# The library


def test_register_and_instruction_numbers_are_unicorns() -> None:
    const = pytest.importorskip("unicorn.x86_const")
    for name, number in r.GENERAL.items():
        assert getattr(const, f"UC_X86_REG_{name.upper()}") == number
    for name, number in r.SEGMENTS.items():
        assert getattr(const, f"UC_X86_REG_{name.upper()}") == number
    for name in ("RIP", "RFLAGS", "CR0", "CR2", "CR3", "CR4", "DR0", "FS_BASE", "GS_BASE", "IDTR", "GDTR", "LDTR", "TR",
                 "MSR", "MXCSR", "FPSW", "FPCW", "FPTAG", "FP0", "XMM0"):  # fmt: skip
        assert getattr(const, f"UC_X86_REG_{name}") == getattr(r, name)
    assert const.UC_CPU_X86_ICELAKE_SERVER == r.ICELAKE_SERVER


def test_missing_function_is_a_clear_error() -> None:
    with pytest.raises(HostError, match="uc_no_such_thing"):
        library.function("uc_no_such_thing")


def test_unknown_layout_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    layout.layout.cache_clear()
    monkeypatch.setattr(hooks, "peek", lambda address, size: b"")
    try:
        with pytest.raises(HostError, match="does not know"):
            Cpu(GuestMemory())
    finally:
        layout.layout.cache_clear()


def test_protected_mode_code_selector_survives_an_exception(guest: Guest) -> None:
    guest.put(IDT, bytes(2048))
    guest.gate32(3, HANDLERS)
    guest.put(HANDLERS, b"\xcf")
    jump = b"\xea" + struct.pack("<IH", CODE + 14 + 7, CODE32)
    assert guest.run_protected(jump + b"\xcc" + HLT).kind is StopKind.HALT
    assert guest.cpu.registers()["cs"] == CODE32
